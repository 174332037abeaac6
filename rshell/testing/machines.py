"""MachineReactor: what an agent's process asks of a reactor, on a simulated device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import ProcessDone, UserError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rshell.testing.clocks import ProcessClock

__all__ = ["MachineReactor"]


class _Connector:
    """One attempt to reach the keeper's socket."""

    def __init__(self, reactor: MachineReactor, path: str, factory: Any) -> None:
        self._path = path
        self._factory = factory
        factory.doStart()
        factory.startedConnecting(self)
        self._call = reactor.callLater(0, self._connect)
        self._reactor = reactor

    def getDestination(self) -> UNIXAddress:
        return UNIXAddress(self._path)

    def stopConnecting(self) -> None:
        if self._call.active():
            self._call.cancel()
            self._factory.clientConnectionFailed(self, Failure(UserError()))

    def _connect(self) -> None:
        protocol: Any = None
        if self._reactor.keeper_listens():
            protocol = self._factory.buildProtocol(self.getDestination())
        if protocol is None:
            self._factory.clientConnectionFailed(self, Failure(Refused()))
        else:
            self._reactor.join_keeper(protocol)


class MachineReactor(ProcessClock):
    """Time, the unix socket of the keeper, and starting a keeper: nothing else is there.

    Args:
        clock: The fleet's.
        keeper_listens: Whether a keeper runs.
        join_keeper: Connects a protocol to it.
        start_keeper: Starts one.
    """

    def __init__(
        self,
        clock: Clock,
        keeper_listens: Callable[[], bool],
        join_keeper: Callable[[Any], None],
        start_keeper: Callable[[], None],
    ) -> None:
        super().__init__(clock)
        self.keeper_listens = keeper_listens
        self.join_keeper = join_keeper
        self._start_keeper = start_keeper
        self._children: list[Any] = []

    def connectUNIX(
        self, address: str, factory: Any, timeout: float = 30, checkPID: int = 0
    ) -> _Connector:
        """Connect to the keeper, whatever the path."""
        return _Connector(self, address, factory)

    def spawnProcess(self, processProtocol: Any, executable: str, *args: Any, **more: Any) -> None:
        """Start a keeper, whatever the command."""
        self._start_keeper()
        self._children.append(processProtocol)

    def keeper_ended(self) -> None:
        """Tell who started it that the keeper has ended."""
        children, self._children = self._children, []
        for child in children:
            if not self.dead:
                child.processExited(Failure(ProcessDone(0)))
