"""In-memory connections for `LinkProtocol`: nothing moves until a test says so.

What it is not: TLS.  Whoever joins the two ends says by hand who the peer is.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["MemoryTransport", "Wire"]


@implementer(ITransport)
class MemoryTransport:
    """One end of a `Wire`.

    Attributes:
        sent: every write, in order, also those that were delivered.
        waiting: writes that were not delivered yet.
        protocol: who uses this end; None once it was told that the connection is lost.
    """

    bufferSize = 0

    def __init__(self, host: str, port: int) -> None:
        self.address = IPv4Address("TCP", host, port)
        self.sent: list[bytes] = []
        self.waiting: deque[bytes] = deque()
        self.protocol: Any = None
        self.producer: Any = None
        self.disconnecting = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        if not (self.disconnecting or self.aborted):
            self.sent.append(data)
            self.waiting.append(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None, "one producer at a time"
        assert streaming, "a link pushes"
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True
        self.waiting.clear()

    def getPeer(self) -> Any:
        return self.address

    def getHost(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 7411)


class Wire:
    """Two transports, joined; ``held`` stops delivery both ways.

    Args:
        dialler: who dialled.
        gateway: the other side.
        host: the dialler's address.
    """

    def __init__(self, dialler: Protocol, gateway: Protocol, host: str, port: int) -> None:
        self.dialler = MemoryTransport("127.0.0.1", 7411)
        self.gateway = MemoryTransport(host, port)
        self.dialler.protocol, self.gateway.protocol = dialler, gateway
        self.held = False
        self.over = False

    def step(self) -> bool:
        """Deliver one write each way, or the end; say whether anything moved."""
        if self.held or self.over:
            return False
        moved = False
        for here, there in ((self.dialler, self.gateway), (self.gateway, self.dialler)):
            if here.waiting:
                data = here.waiting.popleft()
                moved = True
                if not there.aborted and there.protocol is not None:
                    there.protocol.dataReceived(data)
        return moved or self._end()

    def _end(self) -> bool:
        ends = (self.dialler, self.gateway)
        if not any(end.aborted or end.disconnecting for end in ends):
            return False
        self.cut(clean=not any(end.aborted for end in ends))
        return True

    def cut(self, *, clean: bool = False) -> None:
        """End the connection: both sides hear so, what was under way is gone."""
        if self.over:
            return
        self.over = True
        for end in (self.dialler, self.gateway):
            protocol, end.protocol = end.protocol, None
            end.waiting.clear()
            kind = ConnectionAborted if end.aborted else ConnectionDone if clean else ConnectionLost
            protocol.connectionLost(Failure(kind()))
