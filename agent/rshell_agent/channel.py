"""HandlerChannel: a handler's end of its stream, accepted at its first use.

Until the handler uses the channel, nothing has been answered: it may still refuse by raising.
Then the channel is either a `StreamChannel` that ends with this process, or spliced to the keeper.
A link that breaks detaches it: the handler goes on, and `HandlerChannel.rejoin` continues over
another link what it has said and heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.interfaces import IHandlerChannel
from rshell.link.channel import StreamAddress, StreamChannel
from rshell.link.core.ends import ResumeLost
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol
from rshell_agent.device_stream import AwaitedAnswer, DeviceStream
from rshell_agent.guarding import (
    FAIR_BYTES,
    MAX_EVENTS,
    MAX_UNSENT_BYTES,
    EventPacer,
    GuardedProducer,
    OutputLimit,
    ProtocolRunner,
)

__all__ = ["ChannelOwner", "HandlerChannel", "StreamOver"]

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


class ChannelOwner(Protocol):
    """Who runs the handler."""

    def admit(self) -> tuple[str, str] | None:
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

    def channel_detached(self) -> None:
        """The link is gone; continue by `HandlerChannel.rejoin`, or give up by `end`."""

    def channel_cancelled(self) -> None:
        """The operator asks for the end; the outcome is still wanted."""

    def channel_over(self, code: str, message: str) -> None:
        """The stream is over for good, said once; code ``none``: its outcome has arrived."""

    def crowded(self) -> bool:
        """Whether all handlers together hold as much as this agent can afford."""

    def channel_flooded(self, limit: OutputLimit) -> None:
        """The handler produces more than may wait; what is there is still sent."""

    def channel_broke(self, failure: Failure) -> None:
        """A protocol, producer or listener of the handler raised."""


@implementer(IHandlerChannel)
class HandlerChannel:
    """One handler's use of one stream.

    Args:
        link: The link that carries it.
        number: Its stream number; the peer waits for an answer.
        request: The peer's OPEN, with an operator.
        weight: The stream's share of the link.
        owner: Admits or splices, and hears what becomes of the stream.
        clock: For events that come too fast.
    """

    def __init__(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        weight: int,
        owner: ChannelOwner,
        clock: IReactorTime,
    ) -> None:
        self.session = request.session
        self.operator = request.operator
        self.login = request.login
        self._weight = weight
        self._owner = owner
        self._over: tuple[str, str] | None = None
        self._stream: DeviceStream | None = None
        self._spliced = False
        self._input: deque[bytes] = deque()
        self._input_ended = False
        self._reader: Deferred[bytes] | None = None
        self._protocol: ProtocolRunner | None = None
        self._producer: GuardedProducer | None = None
        self._clock = clock
        self._pacer = EventPacer(self._send_event, clock)
        #: The outcome is said: nothing follows it.
        self._finished = False
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_EARLY_EVENTS)
        self._on_event: Callable[[str, dict[str, Any]], None] | None = None
        self._bind(link, number, request)

    def _bind(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Have a peer wait for the handler to use the channel."""
        self._link = link
        self._number = number
        self._request = request

        def gave_up(code: str, message: str) -> None:
            if self._waiting is waiting:
                self._gave_up(code, message)

        #: Who hears of the peer while it waits; None when none does.
        self._waiting: AwaitedAnswer | None = None
        waiting = self._waiting = AwaitedAnswer(gave_up)
        link.watch(number, waiting)

    # -- opening and ending, by the runner -----------------------------------------------------

    @property
    def used(self) -> bool:
        """Whether the stream has been accepted or handed to the keeper."""
        return self._stream is not None or self._spliced

    @property
    def over(self) -> bool:
        """Whether the stream has ended."""
        return self._over is not None

    @property
    def ending(self) -> tuple[str, str] | None:
        """How the stream has ended: (code, message); None if it has not."""
        return self._over

    @property
    def disconnecting(self) -> bool:
        """As of a TCP transport: whether nothing more can be sent.  Twisted's protocols ask."""
        return (
            self.over or self._finished or (self._stream is not None and self._stream.disconnecting)
        )

    @property
    def kept_bytes(self) -> int:
        """Bytes that were written and not confirmed, or arrived and not read."""
        if self._stream is None:
            return 0
        return self._stream.unconfirmed + self._stream.end.unconsumed

    def refuse(self, code: str, message: str) -> None:
        """Refuse the stream, which must not have been used."""
        self._over = self._over or (code, message)
        self._waiting = None
        self._link.refuse(self._number, code, message)

    def finish(self, outcome: Outcome) -> None:
        """Send the outcome; a spliced stream has the keeper's."""
        if not self._spliced and self._over is None:
            stream = self._accepted()
            self._pacer.flush()
            self._finished = True
            self._stop_producer()
            try:
                stream.finish(outcome)
            except LocalProtocolError:  # too large: there will be another
                self._finished = False
                raise

    def end(self, code: str, message: str) -> None:
        """End the stream at once, wherever it is; a spliced one is the keeper's."""
        if self._stream is not None:
            self._stream.reset(code, message)
        elif not self._spliced and self._over is None:
            self.refuse(code, message)
            self._owner.channel_over(code, message)

    def rejoin(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Continue over another stream, whose peer waits for an answer.

        Raises:
            ResumeLost: The peer states impossible positions; nothing has changed.
        """
        if self._stream is not None:
            self._stream.accept(number, request, self._weight, link)
            self._waiting = None
            self._link, self._number = link, number
        elif request.start.consumed or request.start.events:
            raise ResumeLost("the session has sent nothing yet")
        else:
            message = "a higher attempt of the session took over"
            self._waiting = None
            self._link.refuse(self._number, ErrorCode.DUPLICATE, message)
            self._bind(link, number, request)

    def _accepted(self) -> DeviceStream:
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
        refusal = self._owner.admit()
        if refusal is not None:
            self.refuse(*refusal)
            raise StreamOver(*refusal)
        stream = DeviceStream(self._link, self, self._clock)
        stream.pauseProducing()  # until somebody reads
        self._stream = stream
        if self._link.waiting(self._number):  # else nobody is there, or the link is ending
            self._waiting = None
            stream.accept(self._number, self._request, self._weight)
        return stream

    def _gave_up(self, code: str, message: str) -> None:
        """The peer does not wait any more for the first use."""
        self._waiting = None
        if self._over is not None:
            return  # the handler knew before the link said so
        if code == ErrorCode.LINK_LOST:
            self._owner.channel_detached()
        elif self._stream is not None:
            self._stream.reset(code, message)
        else:
            self._over = (code, message)
            self._owner.channel_over(code, message)

    # -- IHandlerChannel -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        stream = self._writable(len(data))
        if stream is not None:
            stream.write(data)

    def write_stderr(self, data: bytes) -> None:
        stream = self._writable(len(data))
        if stream is not None:
            stream.write_stderr(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def _writable(self, size: int) -> StreamChannel | None:
        """Return the stream if it takes so many bytes more; None after the outcome.

        Raises:
            OutputLimit: It does not.
        """
        stream = self._accepted()
        if self._finished:
            return None
        unsent, most = stream.end.unsent + size, MAX_UNSENT_BYTES
        if unsent > FAIR_BYTES and self._owner.crowded():
            most = FAIR_BYTES
        if unsent > most:
            limit = OutputLimit(f"more than {most >> 10} KiB wait to be read")
            self._owner.channel_flooded(limit)
            raise limit
        return stream

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
        guarded = GuardedProducer(producer, self._owner.channel_broke)
        self._accepted().registerProducer(guarded, streaming)
        self._producer = guarded

    def unregisterProducer(self) -> None:
        self._producer = None
        if self._stream is not None:
            self._stream.unregisterProducer()

    def _stop_producer(self) -> None:
        """Nothing follows the outcome, whoever would still produce."""
        producer, self._producer = self._producer, None
        if producer is not None and self._stream is not None:
            self._stream.unregisterProducer()
            producer.stopProducing()

    def pauseProducing(self) -> None:
        self._accepted().pauseProducing()

    def resumeProducing(self) -> None:
        self._accepted().resumeProducing()

    def stopProducing(self) -> None:
        self.abortConnection()

    def send_event(self, kind: str, body: dict[str, Any]) -> None:
        stream = self._accepted()
        if self._finished:
            return
        if stream.end.ordered_waiting >= MAX_EVENTS:
            limit = OutputLimit(f"more than {MAX_EVENTS} events wait to be read")
            self._owner.channel_flooded(limit)
            raise limit
        self._pacer.event(kind, body)

    def _send_event(self, kind: str, body: dict[str, Any]) -> None:
        if self._stream is not None and not self._finished:
            self._stream.send_event(kind, body)

    async def read(self) -> bytes:
        if self._protocol is not None or self._reader is not None:
            raise RuntimeError("somebody reads already")
        stream = self._accepted()
        if self._input:
            return self._input.popleft()
        if self._input_ended:
            return b""
        if self._over is not None:
            raise StreamOver(*self._over)
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
        self._protocol = ProtocolRunner(protocol, self._owner.channel_broke)
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
        if self._over is None and not self._link.waiting(self._number):
            self._over = (ErrorCode.LINK_LOST.value, "nobody is there to splice to")
        if self._over is not None:
            raise StreamOver(*self._over)
        self._spliced = True
        self._waiting = None
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

        self._owner.splice(*arguments, ended)
        return await done

    # -- ChannelReceiver: what the stream tells ------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        if self._protocol is not None:
            self._protocol.data_received(data)
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
            self._protocol.input_ended(ConnectionDone())
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(b"")

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "cancel":
            self._owner.channel_cancelled()
        elif self._on_event is not None:
            try:
                self._on_event(kind, body)
            except Exception:
                self._owner.channel_broke(Failure())
        else:
            self._events.append((kind, body))

    def channel_detached(self, reason: str) -> None:
        self._owner.channel_detached()

    def channel_closed(self, code: str, message: str) -> None:
        self._over = (code, message)
        self._pacer.stop()
        if self._protocol is not None:
            over = code == ErrorCode.NONE
            self._protocol.disconnect(ConnectionDone() if over else ConnectionLost(message))
        reader, self._reader = self._reader, None
        if reader is not None:  # not b"": what was read so far is not all of it
            reader.errback(StreamOver(code, message))
        self._owner.channel_over(code, message)
