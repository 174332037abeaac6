"""Wires: connections in memory that can be cut, frozen and delayed to the byte.

Nothing moves until `Wire.step` is called, which the fleet does.  What it is not: TLS; who is at the
other end is told to both sides by whoever made the wire.

::

    dialler  --up-->   WireEnd "up" ... "down" WireEnd   <--down--  listener
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any, Literal

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.testing.clocks import ProcessClock

__all__ = ["Direction", "Wire", "WireEnd"]

Direction = Literal["up", "down"]

#: What two kernels and the path between them hold before a writer must wait.
CAPACITY_BYTES = 64 * 1024


@implementer(ITransport, IPushProducer)
class WireEnd:
    """One end, as the transport of the protocol that uses it.

    Attributes:
        protocol: Who uses this end; None once it was told that the connection is over.
        sent: Bytes written here so far.
        delivered: Bytes of them that arrived.
        hung_up: Whether this side has closed or aborted, or its process died.
    """

    bufferSize = 0

    def __init__(self, wire: Wire, process: ProcessClock, address: IPv4Address) -> None:
        self.protocol: Any = None
        self.process = process
        self.sent = 0
        self.delivered = 0
        self.hung_up = False
        self.aborted = False
        self.reading = True
        self._wire = wire
        self._address = address
        self._out: deque[tuple[float, bytes]] = deque()
        self._waiting = 0
        self._producer: Any = None
        self._full = False

    # -- ITransport ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if data and not (self.hung_up or self.aborted or self.process.dead):
            self.sent += len(data)
            self._waiting += len(data)
            self._out.append((self._wire.arrival_time(self), bytes(data)))
            if self._waiting > CAPACITY_BYTES and not self._full:
                self._full = True
                if self._producer is not None:
                    self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.hung_up = True

    def abortConnection(self) -> None:
        self.hung_up = self.aborted = True
        self.drop()

    def getPeer(self) -> Any:
        return self._address

    def getHost(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 7411)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume ``producer`` as the wire fills and empties."""
        self._producer = producer
        if self._full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- the wire's side -------------------------------------------------------------------------

    @property
    def under_way(self) -> int:
        """Bytes written and not yet delivered."""
        return self._waiting

    def drop(self) -> None:
        """Lose what is under way."""
        self._out.clear()
        self._waiting = 0

    def next_arrival(self) -> float | None:
        """Return when the next byte arrives, in fleet seconds; None if nothing is under way."""
        return self._out[0][0] if self._out else None

    def take(self, now: float, most: int) -> bytes:
        """Return what arrives now, at most so many bytes; the rest stays under way."""
        if most <= 0 or not self._out or self._out[0][0] > now:
            return b""
        when, data = self._out.popleft()
        if len(data) > most:
            self._out.appendleft((when, data[most:]))
            data = data[:most]
        self._waiting -= len(data)
        self.delivered += len(data)
        return data

    def drained(self) -> None:
        """Let the producer go on, if the wire has room again."""
        if self._full and self._waiting <= CAPACITY_BYTES // 2:
            self._full = False
            if self._producer is not None:
                self._producer.resumeProducing()

    def end(self, reason: Exception) -> None:
        """Tell the protocol that the connection is over, once; a dead process hears nothing."""
        self.hung_up = True
        self.drop()
        protocol, self.protocol = self.protocol, None
        self._producer = None
        if protocol is not None and not self.process.dead:
            protocol.connectionLost(Failure(reason))


class Wire:
    """One connection.

    Args:
        name: For the trace.
        now: Fleet seconds.
        dialler: The process that dialled.
        listener: The other one.
        host: The dialler's address, as the listener sees it.
        port: Its port.

    Attributes:
        frozen: Nothing arrives and nobody is told: a half-open connection.
        delay_seconds: How long each byte is under way.
        extra_delay: What comes on top in one direction.
        was_cut: Whether it ended by `cut`.
        over: Whether both sides know that it has ended.
    """

    def __init__(
        self,
        name: str,
        now: Any,
        dialler: ProcessClock,
        listener: ProcessClock,
        host: str = "192.0.2.1",
        port: int = 40_000,
    ) -> None:
        self.name = name
        self.frozen = False
        self.over = False
        self.was_cut = False
        self.delay_seconds = 0.0
        self.extra_delay: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._now = now
        self._cuts: dict[Direction, int] = {}
        self._largest: Any = None
        self._trace = hashlib.sha256()
        self.dialler = WireEnd(self, dialler, IPv4Address("TCP", "127.0.0.1", 7411))
        self.listener = WireEnd(self, listener, IPv4Address("TCP", host, port))

    def join(self, dialler: Any, listener: Any) -> None:
        """Give both ends their protocols; they are connected from now on."""
        self.dialler.protocol, self.listener.protocol = dialler, listener
        listener.makeConnection(self.listener)
        dialler.makeConnection(self.dialler)

    def arrival_time(self, source: WireEnd) -> float:
        """Return when a byte that is written now arrives."""
        extra = self.extra_delay["up" if source is self.dialler else "down"]
        return float(self._now() + self.delay_seconds + extra)

    def fragment(self, largest: Any) -> None:
        """Deliver in pieces of at most ``largest()`` bytes."""
        self._largest = largest

    @property
    def digest(self) -> str:
        """Changes with every delivery: its time, direction and size."""
        return self._trace.hexdigest()

    def moved(self, direction: Direction) -> int:
        """Return how many bytes have arrived in a direction so far."""
        return self._source(direction).delivered

    def _source(self, direction: Direction) -> WireEnd:
        return self.dialler if direction == "up" else self.listener

    # -- what may happen to it -------------------------------------------------------------------

    def cut(self, after_bytes: int | None = None, direction: Direction = "up") -> None:
        """End the connection for both, now or once so many more bytes have arrived."""
        if after_bytes:
            self._cuts[direction] = after_bytes
        elif not self.over:
            self._note("cut")
            self.was_cut = True
            for end in (self.dialler, self.listener):
                end.end(ConnectionAborted() if end.aborted else ConnectionLost())
            self.over = True

    def spare(self) -> None:
        """Forget cuts that were planned."""
        self._cuts.clear()

    def freeze(self) -> None:
        """From now on nothing arrives, and neither side is told."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on; what was written meanwhile arrives, unless a side has hung up."""
        self.frozen = False

    def _note(self, what: str) -> None:
        self._trace.update(f"{self._now():.6f} {what}\n".encode())

    # -- delivery --------------------------------------------------------------------------------

    def next_arrival(self) -> float | None:
        """Return when the next byte arrives; None if none is under way or it never will."""
        waiting = self.dialler._out or self.listener._out
        if not waiting or self.over or self.frozen:
            return None
        now = self._now()
        times = [end.next_arrival() for end in (self.dialler, self.listener)]
        # What has arrived and is not taken waits for its reader, not for time to pass.
        return min((when for when in times if when is not None and when > now), default=None)

    def step(self) -> bool:
        """Deliver one piece each way, or the end; return whether anything happened."""
        if self.over:
            return False
        if self.frozen:
            return self._hang_up_alone()
        up, down = self.dialler, self.listener
        if not (up._out or down._out or up.hung_up or down.hung_up):
            return False  # as nearly always
        moved = bool(up._out) and self._deliver("up", up, down)
        if down._out and not self.over:
            moved = self._deliver("down", down, up) or moved
        return moved or self._hang_up()

    def _deliver(self, direction: Direction, source: WireEnd, target: WireEnd) -> bool:
        if not target.reading or target.process.asleep:
            return False
        most = CAPACITY_BYTES if self._largest is None else self._largest()
        left = self._cuts.get(direction)
        data = source.take(self._now(), most if left is None else min(most, left))
        if not data:
            return False
        self._note(f"{direction} {len(data)}")
        if target.protocol is not None and not target.aborted and not target.process.dead:
            target.protocol.dataReceived(data)
        if left is not None:
            self._cuts[direction] = left - len(data)
            if left == len(data):
                self.cut()
                return True
        if not source.process.dead:
            source.drained()
        return True

    def _hang_up(self) -> bool:
        """Pass a close on: both hear of it, and of a clean one after all bytes."""
        ends = (self.dialler, self.listener)
        aborted = any(end.aborted for end in ends)
        closing = any(end.hung_up and not end.under_way for end in ends)
        if not (aborted or closing):
            return False
        if any(end.process.asleep for end in ends):
            return False
        self._note("closed")
        for end in ends:
            if aborted:
                end.end(ConnectionAborted() if end.aborted else ConnectionLost())
            else:
                end.end(ConnectionDone())
        self.over = True
        return True

    def _hang_up_alone(self) -> bool:
        """On a frozen wire a side that hangs up is done with it; the other hears nothing."""
        moved = False
        for end in (self.dialler, self.listener):
            if end.hung_up and end.protocol is not None:
                end.end(ConnectionAborted() if end.aborted else ConnectionDone())
                moved = True
        if all(end.protocol is None for end in (self.dialler, self.listener)):
            self.over = True
        return moved
