"""Network: every wire of a fleet, and who can reach whom."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from rshell.identity.credentials import Credentials
from rshell.link.protocol import LinkProtocol
from rshell.testing.clocks import ProcessClock
from rshell.testing.gateways import SimulatedGateway
from rshell.testing.wires import Wire

__all__ = ["Network", "seed_heartbeat"]


def seed_heartbeat(link: LinkProtocol, uniform: Callable[[float, float], float]) -> None:
    """Let a link's heartbeat draw its jitter from ``uniform``; before WELCOME."""
    link._heartbeat._uniform = uniform


class Network:
    """Makes wires, and delivers what is on them.

    Args:
        clock: The fleet's.
        rng: Decides how deliveries are split, if they are.

    Attributes:
        wires: Those that are not over, oldest first; their names are the dialler's, and
            ``DEVICE/keeper`` for those between agent and keeper.
        frozen: Names of diallers of whom nothing arrives and who reach nobody.
        past: Digest of the wires that are over.
        made: Called with each new wire before its first byte.
        fragmented: Deliver in pieces of random size.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.wires: list[Wire] = []
        self.frozen: set[str] = set()
        self.delays: dict[str, float] = {}
        self.made: Callable[[Wire], None] | None = None
        self.fragmented = False
        self.gateway: SimulatedGateway | None = None
        self.count = 0
        self.past = hashlib.sha256()
        self._rng = rng
        self._unanswered: dict[str, list[Callable[[], None]]] = {}

    def wire(
        self, name: str, dialler: ProcessClock, listener: ProcessClock, host: str = "192.0.2.1"
    ) -> Wire:
        """Make a wire between two processes."""
        self.count += 1
        wire = Wire(name, self.clock.seconds, dialler, listener, host, 20_000 + self.count % 40_000)
        wire.delay_seconds = self.delays.get(name, 0.0)
        if self.fragmented:
            # Each wire its own: the order in which wires are looked at shall not matter.
            rng = random.Random(self._rng.random())
            wire.fragment(lambda: int(2 ** rng.uniform(0, 14)))
        self.wires.append(wire)
        if self.made is not None:
            self.made(wire)
        return wire

    def dial(
        self, name: str, process: ProcessClock, link: Any, credentials: Credentials, host: str
    ) -> Deferred[Any]:
        """Connect a link to the gateway; the Deferred fires with it when TCP is up."""
        connected: Deferred[Any] = Deferred()

        def connect() -> None:
            if connected.called or process.dead:
                return
            gateway = self.gateway
            if name in self.frozen:
                self._unanswered.setdefault(name, []).append(connect)
            elif gateway is None or not gateway.alive:
                connected.errback(Refused())
            else:
                self._join(name, process, link, credentials, host, gateway, connected)

        process.callLater(self.delays.get(name, 0.0), connect)
        return connected

    def _join(
        self,
        name: str,
        process: ProcessClock,
        link: Any,
        credentials: Credentials,
        host: str,
        gateway: SimulatedGateway,
        connected: Deferred[Any],
    ) -> None:
        wire = self.wire(name, process, gateway.process, host)
        address = f"{host}:{wire.listener.getPeer().port}"
        theirs = gateway.protocol_for(credentials, address)
        wire.join(link, theirs)
        connected.callback(link)
        theirs.handshake_completed()
        link.handshake_completed()

    def refused(self, reason: str) -> Deferred[Any]:
        """Return a failed connection."""
        return fail(Refused(string=reason))

    def freeze(self, name: str) -> None:
        """Let nothing of a dialler arrive, and nothing reach it."""
        self.frozen.add(name)
        for wire in self.of(name):
            wire.freeze()

    def thaw(self, name: str) -> None:
        """Let everything arrive that can still."""
        self.frozen.discard(name)
        for wire in self.of(name):
            wire.thaw()
        for connect in self._unanswered.pop(name, []):
            connect()

    def of(self, name: str) -> list[Wire]:
        """Return a dialler's wires."""
        return [wire for wire in self.wires if wire.name == name]

    def hang_up(self, process: ProcessClock) -> None:
        """A process has died: its kernel closes what it had open."""
        for wire in list(self.wires):
            if process in (wire.dialler.process, wire.listener.process):
                if wire.frozen:
                    for end in (wire.dialler, wire.listener):
                        if end.process is process:
                            end.abortConnection()
                else:
                    wire.cut()

    def step(self) -> bool:
        """Deliver one piece on each wire; return whether anything moved."""
        moved = False
        for wire in list(self.wires):
            moved = wire.step() or moved
        if any(wire.over for wire in self.wires):
            for wire in self.wires:
                if wire.over:
                    self.past.update(wire.digest.encode())
            self.wires = [wire for wire in self.wires if not wire.over]
        return moved

    def next_arrival(self) -> float | None:
        """Return when the next byte arrives anywhere; None if none is under way."""
        times = [wire.next_arrival() for wire in self.wires]
        return min((when for when in times if when is not None), default=None)
