"""StreamChannel: one end of a stream as a Twisted transport, producer and consumer.

Any Twisted protocol runs over it unchanged: `StreamChannel.write` sends (with back-pressure
through `registerProducer`), `pauseProducing` stops delivery, and credit returns to the other end
only as the application takes the bytes.  Events and the outcome are the extra that a terminal
transport does not have.

A *resumable* channel outlives its link (section 8 of docs/protocol.md)::

    IDLE --request, accept--> ASKED --OPENED--> OPEN --outcome acknowledged, RESET--> CLOSED
                                ^                 |
             request, accept    +-- DETACHED <----+  the link is gone, link-lost

While it is detached it keeps its offsets, what was not confirmed, input that was not delivered,
and its producer, which is paused as the buffer fills.  ENDING is a stream that is over while
delivery is paused: what arrived before the end is still delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, cast, overload

from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from zope.interface import implementer

from rshell.link.core.constants import DEFAULT_WINDOW, EVENTS_UNACKNOWLEDGED, WEIGHT_NORMAL
from rshell.link.core.ends import ResumeLost, StreamEnd
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Open, Opened, Outcome, Positions
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol
from rshell.link.receivers import ChannelReceiver, ResumableReceiver, StreamAddress
from rshell.link.regulator import Regulator

__all__ = ["PASSING", "ChannelReceiver", "ResumableReceiver", "StreamAddress", "StreamChannel"]

#: Urgent events kept while detached; a user who types on at a dead link needs no more.
DETACHED_EVENTS = EVENTS_UNACKNOWLEDGED
#: Refusals of a repeated request that say nothing of the session: asked again, it may go on.
PASSING: frozenset[str] = frozenset(
    {ErrorCode.OVERLOAD, ErrorCode.STREAMS, ErrorCode.SHUTDOWN, ErrorCode.INTERNAL}
)


class _State(Enum):
    IDLE = auto()
    ASKED = auto()
    OPEN = auto()
    DETACHED = auto()
    ENDING = auto()
    CLOSED = auto()


@implementer(ITransport, IConsumer, IPushProducer)
class StreamChannel:
    """One end of one stream.

    Args:
        link: The link that carries it first.
        receiver: Whom to tell.
        window: Bytes the other end may be ahead of ``receiver``.
        resumable: Whether the stream outlives the link.

    Attributes:
        disconnecting: True once this end has said that it sends no more.
        detached_by: The code that detached it last: ``link-lost``, or of a refusal that may pass.
        passing: Codes of refusals of a repeated request that may pass.
    """

    @overload
    def __init__(
        self, link: LinkProtocol, receiver: ChannelReceiver, window: int = DEFAULT_WINDOW
    ) -> None: ...

    @overload
    def __init__(
        self,
        link: LinkProtocol,
        receiver: ResumableReceiver,
        window: int = DEFAULT_WINDOW,
        *,
        resumable: bool,
    ) -> None: ...

    def __init__(
        self,
        link: LinkProtocol,
        receiver: ChannelReceiver,
        window: int = DEFAULT_WINDOW,
        *,
        resumable: bool = False,
    ) -> None:
        self.end = StreamEnd(window, link.receive_budget)
        self.disconnecting = False
        self.detached_by = ""
        self.passing = PASSING
        self.number = 0
        self._link = link
        self._receiver = receiver
        self._resumable = resumable
        self._state = _State.IDLE
        self._was_opened = False
        self._requests = 0
        self._paused = False
        self._regulator = Regulator(self.end)
        #: What arrived while delivery was paused: calls in order.
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        #: Whether its end has arrived, and whether it was told.
        self._input_ends = self._input_ended = False
        self._outcome_arrived = False
        self._delivering = False

    # -- opening -----------------------------------------------------------------------------

    def request(
        self, request: Open, weight: int = WEIGHT_NORMAL, link: LinkProtocol | None = None
    ) -> None:
        """Ask the peer for the stream, or for its continuation on another link.

        Args:
            request: ``attempt`` and ``age_ms`` are the caller's.  The positions are filled in:
                ``resume`` if it was opened before or ``request`` has one (rule R8: join a session
                that somebody else opened), else ``limit``.
            weight: The share of a busy link.
            link: Where; None: where it was.

        Raises:
            LocalProtocolError: The link takes no such stream, or this one is over; a channel that
                was asked for before is detached then.
        """
        if self._state in (_State.ENDING, _State.CLOSED):
            raise LocalProtocolError("the stream is over")
        if (link or self._link).closed:
            raise LocalProtocolError("the link is gone")
        fallback = _State.IDLE if self._state is _State.IDLE else _State.DETACHED
        self._leave(ErrorCode.LINK_LOST, "the stream goes on over another link")
        self._use(link)
        resuming = self._was_opened or request.resume is not None
        request = request.starting(self.end.positions(), resuming=resuming)
        self._state = _State.ASKED
        try:
            self.number = self._link.open_stream(request, self, weight)
        except LocalProtocolError:
            self._state = fallback
            raise
        self._requests += 1

    def accept(
        self,
        number: int,
        request: Open,
        weight: int = WEIGHT_NORMAL,
        link: LinkProtocol | None = None,
    ) -> None:
        """Accept a stream that the peer asked for, or its continuation.

        A stream of an older attempt that still seems to live is ended with ``duplicate``.  If the
        peer gave up, a resumable channel stays detached, another is closed at once.

        Args:
            number: The stream's number; the peer waits for an answer.
            request: The peer's OPEN.
            weight: The share of a busy link.
            link: Where; None: where it was.

        Raises:
            ResumeLost: The peer states positions from which this end cannot go on; nothing
                has changed, and the peer waits for a refusal.
            LocalProtocolError: The stream is over.
        """
        if self._state in (_State.ENDING, _State.CLOSED):
            raise LocalProtocolError("the stream is over")
        link = link or self._link
        if not link.waiting(number):
            if self._state is _State.IDLE and not self._resumable:
                self._close(ErrorCode.CANCELLED.value, "the other end gave up")
            return
        start, gap = self._judge(request)
        self._leave(ErrorCode.DUPLICATE, "a higher attempt of the session took over")
        self._use(link)
        replay = 0
        if self._was_opened:
            self.end.resume(start)
            if request.resume is not None and request.resume.consumed == 0:
                replay = self.end.unsent  # for somebody else: who was here would be further
        own = self.end.positions()
        self.number = number
        self._was_opened = True
        self._state = _State.OPEN
        opened = Opened(own.consumed, own.limit, own.events, gap, replay)
        link.accept(number, request, opened, self, weight)
        self._attach()

    def _judge(self, request: Open) -> tuple[Positions, int]:
        """Return from where to go on for a request, and what it missed for good (rule R8).

        Raises:
            ResumeLost: That is not possible.
        """
        start = request.start
        if not self._was_opened and not self._resumable:
            return start, 0
        gap = max(0, self.end.kept_from - start.consumed)
        start = Positions(start.consumed + gap, start.limit, start.events)
        self.end.check(start)
        return start, gap

    def _leave(self, code: ErrorCode | str, message: str) -> None:
        """End the stream on the present link, if it is there; the channel is told nothing."""
        if self._state in (_State.ASKED, _State.OPEN):
            self.end.detach()
            self._link.reset(self.number, code, message)

    def _use(self, link: LinkProtocol | None) -> None:
        if link is not None:
            self._link = link
            self.end.use_budget(link.receive_budget)

    def _attach(self) -> None:
        """The stream is open on a link: go on."""
        self.end.attach(self._wake)
        self._announce_later()
        self._regulator.regulate()

    def _wake(self) -> None:
        if self._state is _State.OPEN:
            self._link.wake(self.number)

    def abandon(self, code: ErrorCode | str, message: str) -> None:
        """Give up a channel that is not open: it is closed once what arrived has been delivered.

        A peer that was asked and has not answered is told so.
        """
        if self._state in (_State.IDLE, _State.ASKED, _State.DETACHED):
            self._leave(code, message)
            self._end(str(code), message)

    @property
    def closed(self) -> bool:
        """Whether the stream is over and all is told."""
        return self._state is _State.CLOSED

    @property
    def detached(self) -> bool:
        """Whether a resumable stream waits to be asked for again."""
        return self._state is _State.DETACHED

    @property
    def unconfirmed(self) -> int:
        """Bytes written here that the other application is not known to have taken."""
        return self.end.retained

    # -- ITransport and IConsumer --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes (to stdout, at a device's end)."""
        self._write(data, False)

    def write_stderr(self, data: bytes) -> None:
        """Send bytes on the second channel, in order with the first."""
        self._write(data, True)

    def _write(self, data: bytes, stderr: bool) -> None:
        if self.closed or (self.disconnecting and not self._regulator.registered):
            return
        self.end.write(bytes(data), stderr=stderr)
        self._regulator.regulate()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Say that no byte follows what a producer still has; the other direction goes on."""
        if not self.closed and not self.disconnecting:
            self.disconnecting = True
            if not self._regulator.registered:
                self.end.write_eof()

    def abortConnection(self) -> None:
        """End the stream at once, both ways."""
        self.reset(ErrorCode.CANCELLED, "")

    def getPeer(self) -> Any:
        return StreamAddress(f"{self.number} peer")

    def getHost(self) -> Any:
        return StreamAddress(f"{self.number} host")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take data from ``producer`` as fast as the other end consumes it."""
        if self.closed:
            producer.stopProducing()
        else:
            self._regulator.register(producer, streaming)

    def unregisterProducer(self) -> None:
        self._regulator.unregister()
        if self.disconnecting and not self.closed:
            self.end.write_eof()

    # -- more than a transport -----------------------------------------------------------------

    def send_event(self, kind: str, body: dict[str, Any], *, urgent: bool = False) -> None:
        """Send an event, in order or at once.

        While detached, urgent ones beyond 64 are dropped, but for window and cancel: of these
        the newest is kept anyway.
        """
        if self.closed or (
            urgent
            and self._state is not _State.OPEN
            and self.end.urgent_waiting >= DETACHED_EVENTS
            and kind not in ("window", "cancel")
        ):
            return
        self.end.send_event(kind, body, urgent=urgent)

    def finish(self, outcome: Outcome) -> None:
        """Send the outcome: the last word of a device's end."""
        body = {
            name: value
            for name in outcome.__struct_fields__
            if (value := getattr(outcome, name)) is not None
        }
        self.disconnecting = True
        self.send_event("outcome", body)

    def reset(self, code: ErrorCode | str, message: str) -> None:
        """End the stream at once, both ways."""
        if not self.closed:
            if self._state in (_State.ASKED, _State.OPEN):
                self._link.reset(self.number, code, message)
            self._close(str(code), message)

    # -- IPushProducer: delivery to the application ----------------------------------------------

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._deliver_waiting()

    def stopProducing(self) -> None:
        self.abortConnection()

    def _deliver(self, size: int, call: Callable[[], None]) -> None:
        self._waiting.append((size, call))
        self._deliver_waiting()

    def _deliver_waiting(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting and not self._paused:
                size, call = self._waiting.popleft()
                call()
                if size:
                    self._consumed(size)
        finally:
            self._delivering = False

    def _consumed(self, size: int) -> None:
        self.end.consumed(size)
        self._announce_later()

    def _announce_later(self) -> None:
        if self.end.unannounced and self._state is _State.OPEN:
            self._link.announce_later(self.number, self.end.announce)

    # -- StreamReceiver --------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        return self.end.next_control()

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        frame = self.end.next_frame(room, credit)
        self._regulator.sent()
        return frame

    def stream_opened(self, opened: Opened) -> None:
        peer = Positions(opened.consumed, opened.limit, opened.events)
        try:
            if self._was_opened:
                self.end.resume(peer, opened.gap)
            else:
                self.end.join(peer, opened.gap)
        except ResumeLost as error:
            self._link.reset(self.number, ErrorCode.LOST, str(error))
            self._end(ErrorCode.LOST.value, str(error))
            return
        self._was_opened = True
        self._state = _State.OPEN
        self._attach()
        self._receiver.channel_opened(opened)
        if opened.gap:
            gap = {"bytes": opened.gap}
            self._deliver(0, lambda: self._receiver.event_received("gap", gap, False))

    def stream_refused(self, code: str, message: str) -> None:
        if code == ErrorCode.LINK_LOST or (self._requests > 1 and code in self.passing):
            self._broken(code, message)
        else:
            self._end(code, message)

    def data_received(self, event: DataReceived) -> None:
        size = len(event.data)
        if size:
            self.end.received(size)
            self._deliver(size, lambda: self._receiver.data_received(event.data, event.stderr))
        if event.eof and not self._input_ends:  # repeated for ever it must cost nothing
            self._input_ends = True
            self._deliver(0, self._end_input)

    def _end_input(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            self._receiver.input_ended()

    def event_received(self, event: EventReceived) -> None:
        note = event.event
        if event.urgent:
            self.end.event_seen(note.seq)
            self._receiver.event_received(note.kind, note.body, True)
        elif note.kind == "outcome" and not self._outcome_arrived:
            # Acknowledged only when the application has it: then the other end may forget it.
            self._outcome_arrived = True
            self._deliver(0, lambda: self._outcome(note.seq, note.body))
        elif note.kind == "outcome":
            self._deliver(0, lambda: self.end.event_seen(note.seq))
        else:
            self.end.event_held(note.seq)
            self._deliver(0, lambda: self._ordered(note.kind, note.body))

    def _ordered(self, kind: str, body: dict[str, Any]) -> None:
        self.end.event_taken()
        self._receiver.event_received(kind, body, False)

    def _outcome(self, seq: int, body: dict[str, Any]) -> None:
        self._end_input()
        self._receiver.event_received("outcome", body, False)
        self.end.event_seen(seq)

    def limit_received(self, event: LimitReceived) -> None:
        self.end.acknowledged(event.consumed, event.events)

    def stream_reset(self, code: str, message: str) -> None:
        if code == ErrorCode.LINK_LOST:
            self._broken(code, message)
        else:
            self._end(code, message)

    def stream_finished(self) -> None:
        self._close(ErrorCode.NONE.value, "")

    def link_lost(self, reason: str) -> None:
        self._broken(ErrorCode.LINK_LOST.value, reason)

    # -- the end, for now or for good ------------------------------------------------------------

    def _broken(self, code: str, message: str) -> None:
        """The stream is over on this link through no fault of its own."""
        if self.closed:
            return
        if self._outcome_arrived:  # all is said; that we heard it, the gateway learns otherwise
            self._end(ErrorCode.NONE.value, "")
        elif self._resumable:
            self._state = _State.DETACHED
            self.detached_by = code
            self.end.detach()
            cast(ResumableReceiver, self._receiver).channel_detached(message or code)
        else:
            self._end(code, message)

    def _end(self, code: str, message: str) -> None:
        """Close once all that arrived has been delivered."""
        if self.closed:
            return
        self._state = _State.ENDING
        self.end.detach()
        self._deliver(0, lambda: self._close(code, message))

    def _close(self, code: str, message: str) -> None:
        if self.closed:
            return
        self._state = _State.CLOSED
        self.disconnecting = True
        self.end.detach()
        self._waiting.clear()
        self._regulator.stop()
        self._receiver.channel_closed(code, message)
