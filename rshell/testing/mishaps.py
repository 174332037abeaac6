"""What can happen to the network of a simulated fleet: connections cut, silent, slow, in pieces.

What it is not: what happens to machines and processes, which is `SimulatedFleet`'s own.
"""

from __future__ import annotations

from rshell.testing.agents import SimulatedDevice
from rshell.testing.network import Network
from rshell.testing.operators import SimulatedOperator
from rshell.testing.wires import Direction, Wire

__all__ = ["NetworkMishaps"]


class NetworkMishaps:
    """The part of a simulated fleet that breaks its connections.

    Attributes:
        network: The wires.
        devices: By name.
        operators: By name.
    """

    network: Network
    devices: dict[str, SimulatedDevice]
    operators: dict[str, SimulatedOperator]

    def wire(self, who: str | Wire) -> Wire:
        """Return the newest wire of a dialler: ``pump-1``, ``ann``, or ``pump-1/keeper``."""
        if isinstance(who, Wire):
            return who
        wires = self.network.of(who)
        assert wires, f"{who} has no connection"
        return wires[-1]

    def cut(
        self,
        who: str | Wire,
        after_bytes: int | None = None,
        direction: Direction = "up",
    ) -> None:
        """Cut a connection now, or once so many more bytes have arrived in a direction.

        Args:
            who: A dialler, all of whose connections are cut; or one wire.
            after_bytes: None is now; else only the dialler's newest wire is concerned.
            direction: ``up`` is from the dialler to the gateway (or from agent to keeper).
        """
        if after_bytes is not None or isinstance(who, Wire):
            self.wire(who).cut(after_bytes, direction)
        else:
            for wire in self.network.of(who):
                wire.cut()

    def freeze(self, who: str | Wire) -> None:
        """Half-open: bytes vanish, no side is told; a dialler that is named reaches nobody."""
        if isinstance(who, Wire):
            who.freeze()
        else:
            self.network.freeze(who)

    def thaw(self, who: str | Wire) -> None:
        """End a `freeze`: what can still arrive does."""
        if isinstance(who, Wire):
            who.thaw()
        else:
            self.network.thaw(who)

    def delay(self, seconds: float, who: str | None = None) -> None:
        """Make every byte take so long, each way, from now on; of one dialler or of all."""
        for name in [who] if who else [*self.devices, *self.operators]:
            self.network.delays[name] = seconds
            for wire in self.network.of(name):
                wire.delay_seconds = seconds

    def fragment(self, wanted: bool = True) -> None:
        """Deliver on new connections in pieces of random size."""
        self.network.fragmented = wanted
