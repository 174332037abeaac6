"""One forwarded connection at the operator's end: a local socket and the session it goes over.

Bytes, back-pressure and the end of each direction pass both ways.  While the link is away both
ends stay open and wait; what comes over it afterwards goes on at the same byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.access.printable import printable
from rshell.client.errors import RshellError
from rshell.client.outcomes import Outcome
from rshell.client.session import Session, SessionReceiver
from rshell.handlers.forward import CONNECTED
from rshell.link.core.errors import ErrorCode

__all__ = ["BROKEN_HERE", "ForwardConnection", "ForwardOwner"]

#: The code of a connection that its local end broke: that is no fault of the forward.
BROKEN_HERE = "broken-here"
#: The device's link is full of streams: a connection waits for room, asking anew after each of
#: these, so many times.
RETRY_SECONDS = 1.0
RETRIES = 30
_FULL = frozenset({ErrorCode.STREAMS.value, ErrorCode.OVERLOAD.value})


class ForwardOwner(Protocol):
    """Who has the connection."""

    reactor: Any

    def arrived(self, connection: ForwardConnection) -> None:
        """The local end is connected; `ForwardConnection.start` lets it begin, now or later."""

    def open_session(self, connection: ForwardConnection) -> Session:
        """Open a session for it, with the connection as its receiver."""

    def over(self, connection: ForwardConnection) -> None:
        """Both ends are gone; said once."""


@implementer(IPushProducer)
class _Pace:
    """Pauses one end for the other; how a connection ends is said elsewhere."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume

    def pauseProducing(self) -> None:
        self._pause()

    def resumeProducing(self) -> None:
        self._resume()

    def stopProducing(self) -> None:
        """The end hears of it otherwise."""


@implementer(IHalfCloseableProtocol)
class ForwardConnection(TwistedProtocol, SessionReceiver):
    """A connection.

    Args:
        owner: Opens its sessions.
        number: Counts the owner's connections from 1.

    Attributes:
        peer: Who connected, for people; "" for a unix socket.
        target: The address that the device connected to, once it has.
        received: Bytes that came from the device.
        sent: Bytes that came from the local end.
        outcome: How it ended; None while it goes on.
    """

    def __init__(self, owner: ForwardOwner, number: int, peer: str = "") -> None:
        self.number = number
        self.peer = peer
        self.target = ""
        self.received = 0
        self.sent = 0
        self.outcome: Outcome | None = None
        self._owner = owner
        self._session: Session | None = None
        #: What the local end sent before the device accepted: sent anew if it had no room.
        self._early: list[bytes] | None = []
        self._input_ended = False
        self._local_gone = False
        self._output_ended_once = False
        self._aborted = False
        self._tries = 0
        self._retry: Any = None
        self._told = False

    # -- from the owner --------------------------------------------------------------------------

    def start(self) -> None:
        """Open the session, and let bytes flow."""
        if self._local_gone:
            self._end(_broken_here())
            return
        try:
            session = self._session = self._owner.open_session(self)
        except RshellError as error:
            self._end(Outcome(status="refused", code=error.code, message=error.message))
            return
        session.output_ended = self._output_ended
        transport: Any = self.transport
        for data in self._early or ():
            session.write(data)
        if self._input_ended:
            session.write_eof()
        else:
            pace = _Pace(transport.pauseProducing, transport.resumeProducing)
            transport.resumeProducing()
            session.registerProducer(pace, True)
        if self._tries == 0:
            transport.registerProducer(_Pace(self._pause, self._resume), True)
        session.outcome.addCallback(self._session_over)

    def abort(self) -> None:
        """Break both ends."""
        self._aborted = True
        if self._session is not None:
            self._session.abort()
        elif self.outcome is None:
            self._end(_broken_here())
        if not self._local_gone:
            transport: Any = self.transport
            transport.abortConnection()

    def _pause(self) -> None:
        if self._session is not None:
            self._session.pause()

    def _resume(self) -> None:
        if self._session is not None:
            self._session.resume()

    # -- the local end ---------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        self._owner.arrived(self)

    def dataReceived(self, data: bytes) -> None:
        self.sent += len(data)
        if self._early is not None:
            self._early.append(data)  # a producer is paused at 64 KiB
        if self._session is not None:
            self._session.write(data)

    def readConnectionLost(self) -> None:
        self._input_ended = True
        if self._session is not None:
            self._session.unregisterProducer()
            self._session.write_eof()

    def writeConnectionLost(self) -> None:
        """We ended it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._local_gone = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
            self._end(_broken_here())
        elif self._session is not None and self.outcome is None:
            self._session.abort()
        self._check_over()

    # -- the device's end ------------------------------------------------------------------------

    def session_opened(self) -> None:
        self._early = None

    def output_received(self, data: bytes, stderr: bool) -> None:
        self.received += len(data)
        if not self._local_gone:
            transport: Any = self.transport
            transport.write(data)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        if kind == CONNECTED:
            self.target = printable(str(body.get("host") or body.get("path") or ""), 120)

    def _output_ended(self) -> None:
        if not self._local_gone and not self._output_ended_once:
            self._output_ended_once = True
            transport: Any = self.transport
            transport.unregisterProducer()
            transport.loseWriteConnection()

    def _session_over(self, outcome: Outcome) -> None:
        self._session = None
        waits = self._early is not None and outcome.code in _FULL
        if waits and self._tries < RETRIES and not self._local_gone:
            self._tries += 1
            transport: Any = self.transport
            transport.pauseProducing()
            self._retry = self._owner.reactor.callLater(RETRY_SECONDS, self.start)
        else:
            self._end(_broken_here() if self._local_gone or self._aborted else outcome)

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if not self._local_gone:
            transport: Any = self.transport
            if outcome.status == "ok":
                self._output_ended()
                transport.loseConnection()  # once all is written
            else:
                transport.abortConnection()
        self._check_over()

    def _check_over(self) -> None:
        if self._local_gone and self.outcome is not None and not self._told:
            self._told = True
            self._owner.over(self)


def _broken_here() -> Outcome:
    return Outcome(status="error", code=BROKEN_HERE, message="its local end broke the connection")
