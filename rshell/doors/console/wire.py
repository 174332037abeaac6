"""Wire: a link's connection within this process; what it carries needs no TLS.

The console acts through `rshell.client` as everybody does, and so through the one gate; only the
way there is shorter.  What it is not: a way past that gate.  Who is at the other end is said by
`rshell.doors.link.LinkDoor.vouch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.receivers import StreamAddress

__all__ = ["WireEnd", "join_by_wire"]

#: What may be under way in one direction before its writer is paused: a few records.
CAPACITY_BYTES = 64 * 1024


@implementer(ITransport, IPushProducer)
class WireEnd:
    """One end of a wire, as a transport.

    Args:
        later: Calls something in the next turn: no protocol is called from within its own.
        name: For logs.
    """

    bufferSize = 0

    def __init__(self, later: Callable[[Callable[[], None]], None], name: str) -> None:
        self.protocol: Protocol | None = None
        self.far: WireEnd | None = None
        self._later = later
        self._name = name
        self._out: deque[bytes] = deque()
        self._size = 0
        self._producer: Any = None
        self._full = self._scheduled = self._reading_stopped = False
        self._hung_up = False

    # -- ITransport ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not data or self._hung_up:
            return
        self._out.append(bytes(data))
        self._size += len(data)
        if self._size > CAPACITY_BYTES and not self._full:
            self._full = True
            if self._producer is not None:
                self._producer.pauseProducing()
        self._move_later()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._hung_up = True
        self._move_later()

    def abortConnection(self) -> None:
        self._hung_up = True
        self._out.clear()
        self._size = 0
        self._move_later()
        self._lose(ConnectionAborted())

    def getPeer(self) -> Any:
        return StreamAddress(self._name)

    def getHost(self) -> Any:
        return StreamAddress(self._name)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume ``producer`` as the wire fills and empties."""
        self._producer = producer
        if self._full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._producer = None

    # -- IPushProducer ---------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._reading_stopped = True

    def resumeProducing(self) -> None:
        self._reading_stopped = False
        if self.far is not None:
            self.far._move_later()

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- moving ----------------------------------------------------------------------------------

    def _move_later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._later(self._move)

    def _move(self) -> None:
        """Deliver what was written by now; what that makes the other end write, comes later."""
        self._scheduled = False
        far = self.far
        if far is None:
            return
        if self._out and not far._reading_stopped:
            data = b"".join(self._out)
            self._out.clear()
            self._size = 0
            if far.protocol is not None:
                far.protocol.dataReceived(data)
            if self._full and not self._out:
                self._full = False
                if self._producer is not None:
                    self._producer.resumeProducing()
        if self._hung_up and not self._out:
            far._lose(ConnectionDone())
            self._lose(ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        self._hung_up = True
        protocol, self.protocol = self.protocol, None
        self._producer = None
        if protocol is not None:
            protocol.connectionLost(Failure(reason))


def join_by_wire(
    dialler: Protocol, listener: Protocol, later: Callable[[Callable[[], None]], None], name: str
) -> None:
    """Connect two protocols.

    Args:
        dialler: Asked for it.
        listener: Answers.
        later: Calls something in the next turn.
        name: For logs.
    """
    near, far = WireEnd(later, name), WireEnd(later, name)
    near.far, far.far = far, near
    near.protocol, far.protocol = dialler, listener
    listener.makeConnection(far)
    dialler.makeConnection(near)
