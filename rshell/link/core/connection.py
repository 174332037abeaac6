"""One link, sans-IO: received bytes become events, calls become records to send.

The owner feeds `LinkConnection.receive_data` and asks for `next_record` whenever the transport
can take one.  The connection holds the rules that concern a link as a whole: who may say what
when (a table, below), stream numbers, credit in both directions, and how much a peer may cost.
It keeps no byte of a stream: sources (sources.py) are asked for frames when it is their turn
(outgoing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from rshell.link.core import messages
from rshell.link.core.constants import (
    MAX_OFFSET,
    MAX_STREAM,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    RECORD_SIZE,
    WEIGHT_NORMAL,
    FrameFlag,
    FrameType,
)
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.events import (
    AdviceReceived,
    DataReceived,
    EventReceived,
    GoAwayReceived,
    HelloReceived,
    LimitReceived,
    LinkEvent,
    LinkFailed,
    PongReceived,
    SessionsReceived,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WelcomeReceived,
)
from rshell.link.core.frames import Frame, FrameReader, encode_frame
from rshell.link.core.limits import LinkLimits, TokenBucket
from rshell.link.core.messages import (
    Advice,
    GoAway,
    Hello,
    Open,
    Opened,
    Refused,
    Reset,
    Sessions,
    Welcome,
)
from rshell.link.core.outgoing import LIMIT_FIELDS, Outgoing
from rshell.link.core.sources import FrameSource
from rshell.link.core.streams import LinkStream, StreamState, check_window

__all__ = ["LinkConnection", "LinkState", "choose_version"]

_PING_SIZE: Final = 8


class LinkState(Enum):
    """Where a link stands."""

    AWAITING_HELLO = auto()
    JUDGING = auto()
    AWAITING_WELCOME = auto()
    OPEN = auto()
    CLOSED = auto()


#: Frames that may arrive in a state; what is absent is a protocol error (rule W5).
_ALLOWED: Final[dict[LinkState, frozenset[int]]] = {
    LinkState.AWAITING_HELLO: frozenset({FrameType.HELLO}),
    LinkState.JUDGING: frozenset({FrameType.GOAWAY}),
    LinkState.AWAITING_WELCOME: frozenset({FrameType.WELCOME, FrameType.GOAWAY}),
    LinkState.OPEN: frozenset(FrameType)
    - {FrameType.HELLO, FrameType.WELCOME, FrameType.JOIN, FrameType.JOINED},
    LinkState.CLOSED: frozenset(),
}
_LINK_FRAMES: Final = frozenset(
    {
        FrameType.HELLO,
        FrameType.WELCOME,
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
        FrameType.SESSIONS,
        FrameType.ADVICE,
    }
)


def choose_version(theirs: messages.VersionRange) -> int:
    """Return the highest version both sides speak.

    Raises:
        RemoteProtocolError: There is none; the text names the side that must be upgraded.
    """
    if theirs.max < PROTOCOL_MIN or theirs.max < theirs.min:
        raise RemoteProtocolError(
            ErrorCode.VERSION,
            f"the dialler speaks link protocol {theirs.min} to {theirs.max}, this gateway "
            f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the dialler",
        )
    if theirs.min > PROTOCOL_MAX:
        raise RemoteProtocolError(
            ErrorCode.VERSION,
            f"the dialler speaks link protocol {theirs.min} to {theirs.max}, this gateway "
            f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the gateway",
        )
    return min(theirs.max, PROTOCOL_MAX)


class LinkConnection:
    """The state of one link at one side.

    Args:
        dialler: Whether this side opened the TCP connection (agent, operator's client).
        limits: What this side accepts from the other.
    """

    def __init__(self, *, dialler: bool, limits: LinkLimits) -> None:
        self.dialler = dialler
        self.state = LinkState.AWAITING_WELCOME if dialler else LinkState.AWAITING_HELLO
        self.streams: dict[int, LinkStream] = {}
        self.goaway_sent = False
        self.goaway_received = False
        #: Why the link failed, None while it did not.
        self.failure: RemoteProtocolError | None = None
        self.peer_max_streams = 0
        self._reader = FrameReader()
        self._outgoing = Outgoing(self.streams, self._grant_limits)
        self._ping_outstanding: bytes | None = None
        self._next_local = 1 if dialler else 2
        self._highest_remote = 0
        self._opened_here = 0
        self._opened_there = 0
        self._handlers: dict[int, Callable[[Frame, float], LinkEvent | None]] = {
            FrameType.HELLO: self._hello,
            FrameType.WELCOME: self._welcome,
            FrameType.PING: self._ping,
            FrameType.PONG: self._pong_received,
            FrameType.GOAWAY: self._goaway,
            FrameType.SESSIONS: self._sessions,
            FrameType.ADVICE: self._advice,
            FrameType.OPEN: self._open,
            FrameType.OPENED: self._opened,
            FrameType.REFUSED: self._refused,
            FrameType.DATA: self._data,
            FrameType.LIMIT: self._limit,
            FrameType.RESET: self._reset,
            FrameType.EVENT: self._event,
        }
        self.use_limits(limits)

    def use_limits(self, limits: LinkLimits) -> None:
        """Set what this side accepts; a gateway does so once it knows who dialled."""
        self.limits = limits
        self._open_bucket = _bucket(limits.open_rate, limits.open_burst)
        self._reset_bucket = _bucket(limits.reset_rate, limits.reset_rate)
        self._ping_bucket = _bucket(limits.ping_rate, limits.ping_rate)
        self._event_bucket = _bucket(limits.event_rate, limits.event_rate)
        self._limit_allowance = limits.limit_floor

    @property
    def closed(self) -> bool:
        """Whether the link has ended: send what is left, then abort."""
        return self.state is LinkState.CLOSED

    # -- receiving ---------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[LinkEvent]:
        """Take received bytes and return what they mean, in order.

        Args:
            data: Any number of bytes, cut anywhere.
            now: Seconds of a clock that never goes back; used for rates only.

        Returns:
            Events.  `LinkFailed` is the last one if the peer broke a rule; nothing after the
            offending frame is acted upon (rule W4).
        """
        events: list[LinkEvent] = []
        if self.closed:
            return events
        self._reader.feed(data)
        try:
            while not self.closed:
                frame = self._reader.next_frame()
                if frame is None:
                    break
                event = self._frame(frame, now)
                if event is not None:
                    events.append(event)
        except RemoteProtocolError as error:
            self.fail(error)
        if self.failure is not None:
            events.append(LinkFailed(self.failure))
        return events

    def fail(self, error: RemoteProtocolError) -> None:
        """Queue GOAWAY with the error's code and accept nothing more."""
        if self.state is not LinkState.CLOSED:
            self.failure = error
            self._outgoing.clear()
            self._close_with(GoAway(code=error.code.value, message=error.reason[:256]))

    def _close_with(self, goaway: GoAway) -> None:
        """Forget the streams; what is queued for the link (a RESET, say) still goes out first."""
        for stream in list(self.streams.values()):
            self._forget(stream)
        self.state = LinkState.CLOSED
        # Said again after a planned GOAWAY: this one has the code, and that one may be unsent.
        self._queue(encode_frame(FrameType.GOAWAY, 0, messages.encode(goaway)))
        self.goaway_sent = True
        self._reader.clear()

    def _frame(self, frame: Frame, now: float) -> LinkEvent | None:
        if frame.type not in _ALLOWED[self.state]:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL,
                f"{FrameType(frame.type).name} while {self.state.name.lower().replace('_', ' ')}",
            )
        if (frame.type in _LINK_FRAMES) != (frame.stream == 0):
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL, f"{FrameType(frame.type).name} on stream {frame.stream}"
            )
        return self._handlers[frame.type](frame, now)

    def _hello(self, frame: Frame, now: float) -> LinkEvent:
        hello = messages.decode(frame.payload, Hello)
        choose_version(hello.protocol)
        self.peer_max_streams = hello.max_streams
        self.state = LinkState.JUDGING
        return HelloReceived(hello)

    def _welcome(self, frame: Frame, now: float) -> LinkEvent:
        welcome = messages.decode(frame.payload, Welcome)
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL_MAX:
            raise RemoteProtocolError(
                ErrorCode.VERSION, f"the gateway chose version {welcome.protocol}, not offered"
            )
        self.peer_max_streams = welcome.max_streams
        self.state = LinkState.OPEN
        return WelcomeReceived(welcome)

    def _ping(self, frame: Frame, now: float) -> None:
        if len(frame.payload) != _PING_SIZE:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "PING is 8 bytes")
        self._spend(self._ping_bucket, now, "PING")
        self._outgoing.pong = frame.payload

    def _pong_received(self, frame: Frame, now: float) -> LinkEvent | None:
        if frame.payload != self._ping_outstanding:
            return None
        self._ping_outstanding = None
        return PongReceived(frame.payload)

    def _goaway(self, frame: Frame, now: float) -> LinkEvent:
        goaway = messages.decode(frame.payload, GoAway)
        self.goaway_received = True
        return GoAwayReceived(goaway)

    def _sessions(self, frame: Frame, now: float) -> LinkEvent:
        return SessionsReceived(messages.decode(frame.payload, Sessions))

    def _advice(self, frame: Frame, now: float) -> LinkEvent:
        if not self.dialler:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "ADVICE is for diallers")
        return AdviceReceived(messages.decode(frame.payload, Advice))

    def _open(self, frame: Frame, now: float) -> LinkEvent | None:
        number = frame.stream
        remote_parity = 0 if self.dialler else 1
        if number % 2 != remote_parity or number <= self._highest_remote or number > MAX_STREAM:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"OPEN of stream {number}")
        self._spend(self._open_bucket, now, "OPEN")
        self._highest_remote = number
        request = messages.decode(frame.payload, Open)
        # Judged here and not in `accept`, which is called when the fault is no longer the caller's.
        check_window(request.start.consumed, request.start.limit)
        if self.goaway_sent:
            self._refuse(number, ErrorCode.SHUTDOWN, "this side is going away")
            return None
        if self._opened_there >= self.limits.max_streams:
            self._refuse(
                number, ErrorCode.STREAMS, f"at most {self.limits.max_streams} streams at once"
            )
            return None
        self._add(LinkStream(number, local=False))
        return StreamRequested(number, request)

    def _opened(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._stream(frame)
        if stream is None:
            return None
        if not stream.local or stream.state is not StreamState.ASKED:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"OPENED on stream {stream.number}")
        opened = messages.decode(frame.payload, Opened)
        stream.accepted_by_peer(opened)
        self._outgoing.wake(stream)
        return StreamOpened(stream.number, opened)

    def _refused(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._stream(frame)
        if stream is None:
            return None
        if not stream.local or stream.state is not StreamState.ASKED:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"REFUSED on stream {stream.number}")
        refused = messages.decode(frame.payload, Refused)
        self._forget(stream)
        return StreamRefused(stream.number, refused)

    def _data(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._stream(frame, StreamState.OPEN)
        if stream is None:
            return None
        eof = bool(frame.flags & FrameFlag.EOF)
        stream.data_received(len(frame.payload), eof)
        return DataReceived(stream.number, frame.payload, bool(frame.flags & FrameFlag.STDERR), eof)

    def _limit(self, frame: Frame, now: float) -> LinkEvent | None:
        if len(frame.payload) != LIMIT_FIELDS.size:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "LIMIT is three 8-byte numbers")
        if self._limit_allowance is not None:
            self._limit_allowance -= 1
            if self._limit_allowance < 0:
                raise RemoteProtocolError(ErrorCode.OVERLOAD, "too many LIMIT frames")
        stream = self._stream(frame, StreamState.OPEN)
        if stream is None:
            return None
        consumed, limit, events = LIMIT_FIELDS.unpack(frame.payload)
        if max(consumed, limit, events) > MAX_OFFSET:
            raise RemoteProtocolError(ErrorCode.FLOW_CONTROL, "a LIMIT beyond 2^63")
        if not stream.limit_received(consumed, limit, events):
            return None
        self._outgoing.wake(stream)
        finished = stream.outcome_acknowledged
        if finished:
            self._forget(stream)
        return LimitReceived(
            stream.number, stream.peer_consumed, stream.send_limit, stream.peer_events, finished
        )

    def _reset(self, frame: Frame, now: float) -> LinkEvent | None:
        reset = messages.decode(frame.payload, Reset)
        stream = self._stream(frame)
        if stream is None or not stream.local:
            # The one RESET of a stream that we opened is not the peer's to account for.
            self._spend(self._reset_bucket, now, "RESET")
        if stream is None:
            return None
        self._forget(stream)
        return StreamReset(stream.number, reset.code, reset.message)

    def _event(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._stream(frame, StreamState.OPEN)
        if stream is None:
            self._spend(self._event_bucket, now, "EVENT")
            return None
        event = messages.decode_event(frame.payload)
        first_outcome = (
            stream.local
            and event.kind == "outcome"
            and not stream.outcome_received
            and event.seq > stream.receive_events
        )
        if not first_outcome:
            # The one outcome of a stream that we opened is not the peer's to account for.
            self._spend(self._event_bucket, now, "EVENT")
        urgent = bool(frame.flags & FrameFlag.URGENT)
        if not stream.event_received(event, urgent):
            return None
        return EventReceived(stream.number, event, urgent, frame.payload)

    def _stream(self, frame: Frame, state: StreamState | None = None) -> LinkStream | None:
        """Return the frame's stream; None if it is over; fail if it never was (rule W8)."""
        stream = self.streams.get(frame.stream)
        if stream is None:
            local_parity = 1 if self.dialler else 0
            highest = (
                self._next_local - 2 if frame.stream % 2 == local_parity else self._highest_remote
            )
            if frame.stream > highest:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL,
                    f"{FrameType(frame.type).name} on stream {frame.stream}, never opened",
                )
            return None
        if state is not None and stream.state is not state:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL,
                f"{FrameType(frame.type).name} on stream {frame.stream} before OPENED",
            )
        return stream

    @staticmethod
    def _spend(bucket: TokenBucket | None, now: float, what: str) -> None:
        if bucket is not None and not bucket.take(now):
            raise RemoteProtocolError(
                ErrorCode.OVERLOAD, f"more than {bucket.rate:g} {what} frames a second"
            )

    # -- link control ------------------------------------------------------------------------

    def send_hello(self, hello: Hello) -> None:
        """Introduce this dialler."""
        if not self.dialler or self.state is not LinkState.AWAITING_WELCOME:
            raise LocalProtocolError("HELLO is the dialler's first frame")
        self._queue(encode_frame(FrameType.HELLO, 0, messages.encode(hello)))

    def send_welcome(self, welcome: Welcome) -> None:
        """Accept the dialler: from here on streams may be opened."""
        if self.state is not LinkState.JUDGING:
            raise LocalProtocolError("WELCOME answers a HELLO, once")
        self._queue(encode_frame(FrameType.WELCOME, 0, messages.encode(welcome)))
        self.state = LinkState.OPEN

    def send_goaway(self, goaway: GoAway, *, close: bool = False) -> None:
        """Say that no stream may be opened any more; with ``close``, that the link ends now."""
        if self.state is LinkState.CLOSED:
            return
        if close:
            self._close_with(goaway)
        elif not self.goaway_sent:
            self._queue(encode_frame(FrameType.GOAWAY, 0, messages.encode(goaway)))
            self.goaway_sent = True

    def send_ping(self, payload: bytes) -> None:
        """Ask for a PONG; a newer PING replaces one that is still outstanding."""
        if len(payload) != _PING_SIZE:
            raise LocalProtocolError("a PING carries 8 bytes")
        if self.state is LinkState.OPEN:
            self._ping_outstanding = payload
            self._queue(encode_frame(FrameType.PING, 0, payload))

    def send_sessions(self, sessions: Sessions) -> None:
        """Send a list of sessions or the answer to one."""
        if self.state is not LinkState.OPEN:
            raise LocalProtocolError("SESSIONS belongs on an open link")
        self._queue(encode_frame(FrameType.SESSIONS, 0, messages.encode(sessions)))

    def send_advice(self, advice: Advice) -> None:
        """Gateway: tell a dialler how to come back after a loss."""
        if self.state is not LinkState.OPEN or self.dialler:
            raise LocalProtocolError("ADVICE is the gateway's, on an open link")
        self._queue(encode_frame(FrameType.ADVICE, 0, messages.encode(advice)))

    # -- streams -----------------------------------------------------------------------------

    @property
    def streams_opened_here(self) -> int:
        """Streams that this side opened and that are not over."""
        return self._opened_here

    def open_stream(self, request: Open, source: FrameSource, weight: int = WEIGHT_NORMAL) -> int:
        """Ask the peer for a stream.

        Returns:
            The stream's number.

        Raises:
            LocalProtocolError: The link is not open, is going away, or the peer's
                ``max_streams`` is reached, or the request is too large for a frame.
        """
        if self.state is not LinkState.OPEN or self.goaway_received or self.goaway_sent:
            raise LocalProtocolError("the link does not take new streams")
        if self._opened_here >= self.peer_max_streams:
            raise LocalProtocolError(f"the peer takes {self.peer_max_streams} streams at once")
        payload = messages.encode(request)
        number = self._next_local
        if number > MAX_STREAM:
            raise LocalProtocolError("stream numbers are used up: dial anew")
        self._next_local += 2
        stream = LinkStream(number, local=True, weight=weight)
        stream.source = source
        start = request.start
        stream.receive_offset = start.consumed
        stream.receive_limit = start.limit
        stream.receive_events = start.events
        self._add(stream)
        self._queue(encode_frame(FrameType.OPEN, number, payload))
        return number

    def accept(
        self,
        number: int,
        request: Open,
        opened: Opened,
        source: FrameSource,
        weight: int = WEIGHT_NORMAL,
    ) -> None:
        """Answer OPENED: this side's positions, and from where each direction goes on."""
        stream = self._asked(number)
        payload = messages.encode(opened)
        stream.source = source
        stream.flow.weight = weight
        stream.accepted_here(request.start, opened)
        self._queue(encode_frame(FrameType.OPENED, number, payload))
        self._grant_limits()
        self._outgoing.wake(stream)

    def refuse(self, number: int, code: ErrorCode | str, message: str) -> None:
        """Answer REFUSED: the stream is over."""
        self._forget(self._asked(number))
        self._refuse(number, code, message)

    def reset(self, number: int, code: ErrorCode | str, message: str = "") -> None:
        """End a stream at once in both directions; a stream that is over already is left alone."""
        stream = self.streams.get(number)
        if stream is None:
            return
        self._forget(stream)
        payload = messages.encode(Reset(str(code), message[:256]))
        self._queue(encode_frame(FrameType.RESET, number, payload))

    def wake(self, number: int) -> None:
        """Note that the source of a stream may have a frame, an urgent event or a LIMIT."""
        stream = self.streams.get(number)
        if stream is not None and stream.state is StreamState.OPEN:
            self._outgoing.wake(stream)

    def waiting(self, number: int) -> bool:
        """Whether the peer still waits for this side's answer to its OPEN."""
        stream = self.streams.get(number)
        return stream is not None and not stream.local and stream.state is StreamState.ASKED

    def credit(self, number: int) -> int:
        """Return how many bytes the peer's limit still allows on a stream; 0 if it is over."""
        stream = self.streams.get(number)
        return stream.credit if stream is not None else 0

    def _asked(self, number: int) -> LinkStream:
        stream = self.streams.get(number)
        if stream is None or stream.local or stream.state is not StreamState.ASKED:
            raise LocalProtocolError(f"stream {number} does not wait for an answer")
        return stream

    def _refuse(self, number: int, code: ErrorCode | str, message: str) -> None:
        payload = messages.encode(Refused(str(code), message[:256]))
        self._queue(encode_frame(FrameType.REFUSED, number, payload))

    def _add(self, stream: LinkStream) -> None:
        self.streams[stream.number] = stream
        if stream.local:
            self._opened_here += 1
        else:
            self._opened_there += 1

    def _forget(self, stream: LinkStream) -> None:
        if self.streams.pop(stream.number, None) is None:
            return
        self._outgoing.forget(stream)
        if stream.local:
            self._opened_here -= 1
        else:
            self._opened_there -= 1

    def _grant_limits(self) -> None:
        """Let the peer send LIMITs for what we send it (section 13)."""
        if self._limit_allowance is not None:
            self._limit_allowance += 4

    # -- sending -----------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether `next_record` may have something to send."""
        return bool(self._outgoing)

    def next_record(self, size: int = RECORD_SIZE) -> tuple[bytes, list[LinkEvent]]:
        """Return up to ``size`` bytes to send now, and the streams that this finished.

        Call it when the transport asks, once per record, so that what comes first (see
        outgoing.py) can still come first.
        """
        record, told = self._outgoing.next_record(size)
        finished: list[LinkEvent] = []
        for stream in told:
            self._forget(stream)
            finished.append(StreamFinished(stream.number))
        return record, finished

    def _queue(self, frame: bytes) -> None:
        self._outgoing.queue(frame)
        if self._outgoing.queued_bytes > self.limits.control_queue_bytes and not self.closed:
            self.fail(
                RemoteProtocolError(ErrorCode.OVERLOAD, "the peer does not read what it asked for")
            )


def _bucket(rate: float | None, burst: float | None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate, burst or rate)
