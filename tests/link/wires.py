"""Two ends of TLS in memory, and a socket that takes what a test lets it take."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.tls_factory import TlsWireFactory
from rshell.link.tls_wire import TlsWire
from tests.identity.dev_fleet import client_tls, gateway_tls

__all__ = ["FakeSocket", "Inside", "MemoryTcp", "Producer", "WirePair"]


@implementer(IHandshakeListener)
class Inside(Protocol):
    """What speaks inside: it records."""

    def __init__(self) -> None:
        self.got = b""
        self.calls = 0
        self.shaken = 0
        self.lost: list[Failure] = []
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_handshake: Callable[[], None] = lambda: None

    def handshakeCompleted(self) -> None:
        self.shaken += 1
        self.on_handshake()

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        self.calls += 1
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class Producer:
    """Records what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_resume: Callable[[], None] = lambda: None

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        self.on_resume()

    def stopProducing(self) -> None:
        self.told.append("stop")


class FakeSocket(socket.socket):
    """A socket that is connected to nothing: it takes what it has room for.

    Attributes:
        taken: What was sent.
        room: Bytes that it takes before it would block.
        sends: Calls that sent something.
        broken: Whether the peer is gone.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.taken = b""
        self.room = 1 << 30
        self.sends = 0
        self.broken = False

    def send(self, data: Any, flags: int = 0) -> int:
        return self._take(bytes(data))

    def sendmsg(self, buffers: Any, *more: Any) -> int:
        return self._take(b"".join(buffers))

    def _take(self, data: bytes) -> int:
        if self.broken:
            raise ConnectionResetError
        took = data[: self.room]
        if data and not took:
            raise BlockingIOError
        self.room -= len(took)
        self.taken += took
        self.sends += 1
        return len(took)


class MemoryTcp:
    """TCP in memory, as far as a `TlsWire` looks; with a `FakeSocket` as Twisted's has one.

    Attributes:
        sock: The socket; None leaves all to `write`.
        queue: What waits in the transport.
        closing: ``lost``, ``aborted``, or "".
        asked: Whether it was asked to say when the kernel wants more.
        bufferSize: How much is read at once; nobody here does.
    """

    bufferSize = 0

    def __init__(self, sock: FakeSocket | None = None) -> None:
        self.sock = sock
        self.queue = b""
        self.closing = ""
        self.asked = False
        self.reading = True
        self.producer: Any = None
        self.disconnecting = False
        if sock is not None:
            self.startWriting = self._start_writing

    def getHandle(self) -> Any:
        return self.sock

    def getPeer(self) -> str:
        return "peer"

    def getHost(self) -> str:
        return "host"

    def write(self, data: bytes) -> None:
        self.queue += data
        self.asked = True

    def _start_writing(self) -> None:
        self.asked = True

    def ready(self) -> None:
        """The kernel says that it may be written to, as `FileDescriptor.doWrite` hears it."""
        if self.sock is None or not self.asked:
            return
        if self.queue:
            try:
                took = self.sock.send(self.queue)
            except BlockingIOError:
                took = 0
            self.queue = self.queue[took:]
        if not self.queue:
            self.asked = False
            if self.producer is not None:
                self.producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.closing = self.closing or "lost"
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.closing = "aborted"
        self.disconnecting = True
        self.queue = b""

    def take(self) -> bytes:
        """Return what reached the wire since the last call."""
        sent, self.queue = self.queue, b""
        if self.sock is not None:
            sent, self.sock.taken = self.sock.taken + sent, b""
        return sent


class WirePair:
    """A client's and a server's wire, joined; nothing moves but by `carry`.

    Args:
        sockets: Whether both have sockets of their own.
    """

    def __init__(self, *, sockets: bool = False) -> None:
        self.inside = (Inside(), Inside())
        self.tcp = tuple(MemoryTcp(FakeSocket() if sockets else None) for _ in range(2))
        creators: tuple[Any, Any] = (client_tls(), gateway_tls())
        self.factories: list[TlsWireFactory] = []
        self.wires: list[TlsWire] = []
        for side, creator in enumerate(creators):
            inner = Factory.forProtocol(lambda side=side: self.inside[side])
            self.factories.append(TlsWireFactory(creator, client=side == 0, inner=inner))
            wire = self.factories[-1].buildProtocol(None)
            assert wire is not None
            self.wires.append(wire)
        for wire, tcp in zip(self.wires, self.tcp, strict=True):
            wire.makeConnection(tcp)

    def carry(self, cut: Callable[[bytes], list[bytes]] = lambda data: [data]) -> None:
        """Carry bytes both ways until nothing moves; ``cut`` says in which pieces."""
        moved = True
        while moved:
            moved = False
            for side in (0, 1):
                data = self.tcp[side].take()
                for piece in cut(data) if data else ():
                    moved = True
                    if self.tcp[1 - side].closing != "aborted":
                        self.wires[1 - side].dataReceived(piece)

    def close(self) -> None:
        """Let TCP end as each side asked it to."""
        for wire, tcp in zip(self.wires, self.tcp, strict=True):
            aborted = tcp.closing == "aborted"
            wire.connectionLost(Failure(ConnectionAborted() if aborted else ConnectionDone()))

    def free(self) -> None:
        """Close the sockets."""
        for tcp in self.tcp:
            if tcp.sock is not None:
                tcp.sock.close()
