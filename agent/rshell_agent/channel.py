"""HandlerChannel: a handler's end of its stream, accepted at its first use.

Until the handler uses the channel, nothing has been answered: it may still refuse by raising.
Then the channel is either a `StreamChannel` that ends with this process, or spliced to the keeper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.interfaces import IHandlerChannel
from rshell.link.channel import StreamAddress, StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Open, Opened
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol

__all__ = ["ChannelHost", "HandlerChannel", "StreamOver"]

#: Events that arrive before the handler asks for them.
_EARLY_EVENTS = 64


class StreamOver(Exception):
    """The stream ended (or was never accepted) under the handler; let it pass.

    Attributes:
        code: As in REFUSED or RESET.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message or code)
        self.code = code


class ChannelHost(Protocol):
    """What a channel asks of the agent."""

    def admit(self, request: Open) -> tuple[str, str] | None:
        """Judge a stream that this process shall serve itself; (code, message) refuses it."""

    def splice(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        process: ProcessRequest,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
    ) -> None:
        """Hand a stream to the keeper; it answers the OPEN and calls ``ended`` once."""


class _Stream(StreamChannel):
    """A device's end hears of a RESET at once, also while it does not read (rule O6)."""

    def stream_reset(self, code: str, message: str) -> None:
        self._close(code, message)

    def link_lost(self, reason: str) -> None:
        self._close(ErrorCode.LINK_LOST.value, reason)


class _Waiting:
    """Stands for the stream while its OPEN is not answered: hears if the peer gives up."""

    def __init__(self, gave_up: Callable[[str, str], None]) -> None:
        self._gave_up = gave_up

    def stream_reset(self, code: str, message: str) -> None:
        self._gave_up(code, message)

    def link_lost(self, reason: str) -> None:
        self._gave_up(ErrorCode.LINK_LOST.value, reason)

    def next_control(self) -> OutEvent | OutLimit | None:
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return None

    def stream_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def stream_refused(self, code: str, message: str) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, event: DataReceived) -> None:
        """Not before OPENED."""

    def event_received(self, event: EventReceived) -> None:
        """Not before OPENED."""

    def limit_received(self, event: LimitReceived) -> None:
        """Not before OPENED."""

    def stream_finished(self) -> None:
        """Not before OPENED."""


@implementer(IHandlerChannel)
class HandlerChannel:
    """One handler's use of one stream.

    Args:
        link: The link that carries it.
        number: Its stream number; the peer waits for an answer.
        request: The peer's OPEN, with an operator.
        weight: The stream's share of the link.
        host: Admits or splices.
        closed: Called once with (code, message) when the stream ends by the peer's doing, or
            with code ``none`` when the outcome has been acknowledged.
    """

    def __init__(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        weight: int,
        host: ChannelHost,
        closed: Callable[[str, str], None],
    ) -> None:
        self.session = request.session
        self.operator = request.operator
        self.login = request.login
        self._link = link
        self._number = number
        self._request = request
        self._weight = weight
        self._host = host
        self._closed = closed
        self._over: tuple[str, str] | None = None
        self._stream: _Stream | None = None
        self._spliced = False
        self._input: deque[bytes] = deque()
        self._input_ended = False
        self._reader: Deferred[bytes] | None = None
        self._protocol: IProtocol | None = None
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_EARLY_EVENTS)
        self._on_event: Callable[[str, dict[str, Any]], None] | None = None
        link.watch(number, _Waiting(self._gave_up))

    # -- opening and ending, by the runner -----------------------------------------------------

    @property
    def used(self) -> bool:
        """Whether the stream has been accepted or handed to the keeper."""
        return self._stream is not None or self._spliced

    @property
    def over(self) -> bool:
        """Whether the stream has ended."""
        return self._over is not None

    def refuse(self, code: str, message: str) -> None:
        """Refuse the stream, which must not have been used."""
        self._over = self._over or (code, message)
        self._link.refuse(self._number, code, message)

    def finish(self, outcome: Outcome) -> None:
        """Send the outcome; a spliced stream has the keeper's."""
        if not self._spliced and self._over is None:
            self._accepted().finish(outcome)

    def _accepted(self) -> _Stream:
        """Return the accepted stream, accepting it if this is its first use.

        Raises:
            StreamOver: It was refused, or has ended.
            RuntimeError: It is spliced.
        """
        if self._stream is not None:
            return self._stream
        if self._spliced:
            raise RuntimeError("the channel is spliced to the keeper")
        if self._over is not None:
            raise StreamOver(*self._over)
        if not self._link.waiting(self._number):  # the link is ending, and will say so
            raise StreamOver(ErrorCode.LINK_LOST.value, "the link is ending")
        refusal = self._host.admit(self._request)
        if refusal is not None:
            self.refuse(*refusal)
            raise StreamOver(*refusal)
        stream = _Stream(self._link, self)
        stream.pauseProducing()  # until somebody reads
        self._stream = stream
        stream.accept(self._number, self._request, self._weight)
        return stream

    def _gave_up(self, code: str, message: str) -> None:
        if self._over is None:
            self._over = (code, message)
            self._closed(code, message)

    # -- IHandlerChannel -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._accepted().write(data)

    def write_stderr(self, data: bytes) -> None:
        self._accepted().write_stderr(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._accepted().writeSequence(data)

    def loseConnection(self) -> None:
        self._accepted().loseConnection()

    def abortConnection(self) -> None:
        """End the stream at once, without an outcome."""
        self._accepted().abortConnection()

    def getPeer(self) -> Any:
        return StreamAddress(f"{self._number} operator")

    def getHost(self) -> Any:
        return StreamAddress(f"{self._number} device")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._accepted().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if self._stream is not None:
            self._stream.unregisterProducer()

    def pauseProducing(self) -> None:
        self._accepted().pauseProducing()

    def resumeProducing(self) -> None:
        self._accepted().resumeProducing()

    def stopProducing(self) -> None:
        self.abortConnection()

    def send_event(self, kind: str, body: dict[str, Any]) -> None:
        self._accepted().send_event(kind, body)

    async def read(self) -> bytes:
        if self._protocol is not None or self._reader is not None:
            raise RuntimeError("somebody reads already")
        stream = self._accepted()
        if self._input:
            return self._input.popleft()
        if self._input_ended or self._over is not None:
            return b""
        self._reader = Deferred(self._reader_cancelled)
        reader = self._reader
        stream.resumeProducing()
        return await reader

    def _reader_cancelled(self, _: Deferred[bytes]) -> None:
        self._reader = None
        if self._stream is not None:
            self._stream.pauseProducing()

    def start_protocol(self, protocol: IProtocol) -> None:
        if self._protocol is not None or self._reader is not None:
            raise RuntimeError("somebody reads already")
        stream = self._accepted()
        self._protocol = protocol
        protocol.makeConnection(self)
        stream.resumeProducing()

    def on_event(self, receiver: Callable[[str, dict[str, Any]], None]) -> None:
        self._accepted()
        self._on_event = receiver
        while self._events:
            receiver(*self._events.popleft())

    async def splice(self, process: ProcessRequest) -> Outcome:
        if self.used:
            raise RuntimeError("splice must be the first use of the channel")
        if self._over is not None:
            raise StreamOver(*self._over)
        self._spliced = True
        done: Deferred[Outcome] = Deferred()
        arguments = (self._link, self._number, self._request, process, self._weight)

        def ended(outcome: Outcome | None, code: str, message: str) -> None:
            self._over = (code, message)
            if done.called:
                return  # the handler has been cancelled
            if outcome is None:
                done.errback(StreamOver(code, message))
            else:
                done.callback(outcome)

        self._host.splice(*arguments, ended)
        return await done

    # -- ChannelReceiver: what the stream tells ------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        if self._protocol is not None:
            self._protocol.dataReceived(data)
            return
        if self._stream is not None:
            self._stream.pauseProducing()  # one piece for each read: credit follows the reader
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(data)
        else:
            self._input.append(data)

    def input_ended(self) -> None:
        self._input_ended = True
        if self._protocol is not None:
            if IHalfCloseableProtocol.providedBy(self._protocol):
                IHalfCloseableProtocol(self._protocol).readConnectionLost()
            else:
                self._disconnect(ConnectionDone())
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(b"")

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "cancel":
            self._closed(ErrorCode.CANCELLED.value, "cancelled by the operator")
        elif self._on_event is not None:
            self._on_event(kind, body)
        else:
            self._events.append((kind, body))

    def channel_closed(self, code: str, message: str) -> None:
        self._over = (code, message)
        self._disconnect(ConnectionDone() if code == ErrorCode.NONE else ConnectionLost(message))
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(b"")
        self._closed(code, message)

    def _disconnect(self, reason: Exception) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(reason))
