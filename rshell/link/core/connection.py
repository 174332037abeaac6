"""One link, sans-IO: received bytes become events, calls become records to send.

The owner feeds `LinkConnection.receive_data` and asks for `next_record` whenever the transport
can take one.  The connection holds the rules that concern a link as a whole: who may say what
when (a table, below), stream numbers, credit in both directions, and how much a peer may cost.
It keeps no byte of a stream: sources (sources.py) are asked for frames when it is their turn
(outgoing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rshell.link.core import messages
from rshell.link.core.constants import (
    HEADER_SIZE,
    MAX_OFFSET,
    MAX_PAYLOAD,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    RECORD_SIZE,
    RUN_FRAMES,
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
from rshell.link.core.figures import CONTROL, class_of
from rshell.link.core.frames import Frame, FrameReader, encode_frame, frames_in, pack_header
from rshell.link.core.limits import LinkLimits, Quotas
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
from rshell.link.core.states import (
    BEAT_FRAMES,
    STREAM_FRAMES,
    LinkState,
    check_frame,
    choose_version,
)
from rshell.link.core.streams import LinkStream, StreamState, check_window
from rshell.link.core.table import StreamTable

__all__ = ["BEAT_SIZE", "LinkConnection", "LinkState", "choose_version"]

_PING_SIZE: Final = 8
#: The bytes of a PING or PONG on the wire.
BEAT_SIZE: Final = HEADER_SIZE + _PING_SIZE
_PING_HEADER: Final = pack_header(FrameType.PING, 0, _PING_SIZE, 0)
_PONG_HEADER: Final = pack_header(FrameType.PONG, 0, _PING_SIZE, 0)
#: As numbers: arithmetic of enum members calls Python code, here for each frame.
_EOF: Final = int(FrameFlag.EOF)
_STDERR: Final = int(FrameFlag.STDERR)
_URGENT: Final = int(FrameFlag.URGENT)


class LinkConnection:
    """The state of one link at one side.

    Args:
        dialler: Whether this side opened the TCP connection (agent, operator's client).
        limits: What this side accepts from the other.

    Attributes:
        now: Seconds of a clock that never goes back, set by the owner before it calls; only
            rates and waiting times are measured by it.
        streams: Those that are not over, by number.
        traffic: What went over the link so far.
        failure: Why the link failed, None while it did not.
    """

    def __init__(self, *, dialler: bool, limits: LinkLimits) -> None:
        self.dialler = dialler
        self.now = 0.0
        self.state = LinkState.AWAITING_WELCOME if dialler else LinkState.AWAITING_HELLO
        self._table = StreamTable(dialler=dialler)
        self.streams = self._table.streams
        self.goaway_sent = False
        self.goaway_received = False
        self.failure: RemoteProtocolError | None = None
        self.peer_max_streams = 0
        self.peer_features: frozenset[str] = frozenset()
        self._reader = FrameReader(RUN_FRAMES)
        self._outgoing = Outgoing(self.streams, self._grant_limits)
        self.traffic = self._outgoing.traffic
        self._failure_told = False
        self._ping_outstanding: bytes | None = None
        self.use_limits(limits)

    def use_limits(self, limits: LinkLimits) -> None:
        """Set what this side accepts; a gateway does so once it knows who dialled."""
        self.limits = limits
        self._quotas = Quotas(limits)

    @property
    def closed(self) -> bool:
        """Whether the link has ended: send what is left, then abort."""
        return self.state is LinkState.CLOSED

    # -- receiving ---------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take received bytes, cut anywhere; ask what they mean with `next_event`."""
        if self.state is not LinkState.CLOSED:
            self._reader.feed(data)

    def answer_beat(self, data: bytes, now: float) -> bytes | None:
        """Return the PONG for bytes that are a PING and nothing else, when nothing else waits.

        It is what `feed`, `next_event` and `next_record` would come to, for a tenth of the calls:
        idle links do nothing else.

        Returns:
            None: they are for `feed`; nothing was done.
        """
        if (
            not data.startswith(_PING_HEADER)
            or len(data) != BEAT_SIZE
            or self.state is not LinkState.OPEN
            or self._reader.buffered
            or self._outgoing
        ):
            return None
        try:
            self._quotas.ping(now)
        except RemoteProtocolError:
            return None  # `feed` will say so
        traffic = self.traffic
        traffic.received[CONTROL] += BEAT_SIZE
        traffic.sent[CONTROL] += BEAT_SIZE
        return _PONG_HEADER + data[HEADER_SIZE:]

    def next_event(self) -> LinkEvent | None:
        """Return what the received bytes mean next, or None when more of them are needed.

        `LinkFailed` is the last one if the peer broke a rule: nothing follows it (rule W4).
        """
        try:
            while self.state is not LinkState.CLOSED:
                frame = self._reader.next_frame()
                if frame is None:
                    break
                usual = STREAM_FRAMES if frame.stream else BEAT_FRAMES
                if self.state is not LinkState.OPEN or frame.type not in usual:
                    check_frame(frame, self.state)
                event = _HANDLERS[frame.type](self, frame, self.now)
                self._count(frame)
                if event is not None:
                    return event
        except RemoteProtocolError as error:
            self.fail(error)
        if self.failure is not None and not self._failure_told:
            self._failure_told = True
            return LinkFailed(self.failure)
        return None

    def receive_data(self, data: bytes, now: float) -> list[LinkEvent]:
        """Take received bytes, set `now`, and return all that they mean, in order."""
        self.now = now
        self.feed(data)
        events: list[LinkEvent] = []
        while (event := self.next_event()) is not None:
            events.append(event)
        return events

    def _count(self, frame: Frame) -> None:
        place = CONTROL
        if frame.type == FrameType.DATA:
            stream = self.streams.get(frame.stream)
            place = class_of(WEIGHT_NORMAL if stream is None else stream.flow.weight)
        size = len(frame.payload)
        frames = 1 if size <= MAX_PAYLOAD else frames_in(size)
        self.traffic.received[place] += HEADER_SIZE * frames + size

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

    def _hello(self, frame: Frame, now: float) -> LinkEvent:
        hello = messages.decode(frame.payload, Hello)
        choose_version(hello.protocol)
        self.peer_max_streams = hello.max_streams
        self.peer_features = frozenset(hello.features)
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
        self._quotas.ping(now)
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
        self._table.check_remote(number)
        self._quotas.open(now)
        self._table.claim_remote(number)
        request = messages.decode(frame.payload, Open)
        # Judged here and not in `accept`, which is called when the fault is no longer the caller's.
        check_window(request.start.consumed, request.start.limit)
        if self.goaway_sent:
            self._refuse(number, ErrorCode.SHUTDOWN, "this side is going away")
            return None
        if self._table.opened_there >= self.limits.max_streams:
            self._refuse(
                number, ErrorCode.STREAMS, f"at most {self.limits.max_streams} streams at once"
            )
            return None
        self._table.add(LinkStream(number, local=False))
        return StreamRequested(number, request)

    def _opened(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._table.find(frame)
        if stream is None:
            return None
        if not stream.local or stream.state is not StreamState.ASKED:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"OPENED on stream {stream.number}")
        opened = messages.decode(frame.payload, Opened)
        stream.accepted_by_peer(opened)
        self._outgoing.wake(stream, self.now)
        return StreamOpened(stream.number, opened)

    def _refused(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._table.find(frame)
        if stream is None:
            return None
        if not stream.local or stream.state is not StreamState.ASKED:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"REFUSED on stream {stream.number}")
        refused = messages.decode(frame.payload, Refused)
        self._forget(stream)
        return StreamRefused(stream.number, refused)

    def _data(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._table.find(frame, StreamState.OPEN)
        if stream is None:
            return None
        payload = frame.payload
        eof = bool(frame.flags & _EOF)
        if len(payload) > MAX_PAYLOAD:
            payload = self._within_credit(stream, payload)
        repeated = stream.eof_received and not payload
        stream.data_received(len(payload), eof)
        if repeated:
            return None  # harmless (rule F6), and nobody need hear of it twice
        return DataReceived(stream.number, payload, bool(frame.flags & _STDERR), eof)

    def _within_credit(self, stream: LinkStream, run: bytes) -> bytes:
        """Return the frames of a run that the limit allows; the one that does not comes next."""
        room = max(1, (stream.receive_limit - stream.receive_offset) // MAX_PAYLOAD)
        beyond = frames_in(len(run)) - room
        if beyond <= 0:
            return run
        self._reader.take_back(beyond)
        return run[: room * MAX_PAYLOAD]

    def _limit(self, frame: Frame, now: float) -> LinkEvent | None:
        if len(frame.payload) != LIMIT_FIELDS.size:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "LIMIT is three 8-byte numbers")
        self._quotas.limit()
        stream = self._table.find(frame, StreamState.OPEN)
        if stream is None:
            return None
        consumed, limit, events = LIMIT_FIELDS.unpack(frame.payload)
        if max(consumed, limit, events) > MAX_OFFSET:
            raise RemoteProtocolError(ErrorCode.FLOW_CONTROL, "a LIMIT beyond 2^63")
        if not stream.limit_received(consumed, limit, events):
            return None
        self._outgoing.wake(stream, self.now)
        finished = stream.outcome_acknowledged
        if finished:
            self._forget(stream)
        return LimitReceived(
            stream.number, stream.peer_consumed, stream.send_limit, stream.peer_events, finished
        )

    def _reset(self, frame: Frame, now: float) -> LinkEvent | None:
        reset = messages.decode(frame.payload, Reset)
        stream = self._table.find(frame)
        if stream is None or not stream.local:
            # The one RESET of a stream that we opened is not the peer's to account for.
            self._quotas.reset(now)
        if stream is None:
            return None
        self._forget(stream)
        return StreamReset(stream.number, reset.code, reset.message)

    def _event(self, frame: Frame, now: float) -> LinkEvent | None:
        stream = self._table.find(frame, StreamState.OPEN)
        if stream is None:
            self._quotas.event(now)
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
            self._quotas.event(now)
        urgent = bool(frame.flags & _URGENT)
        if not stream.event_received(event, urgent):
            return None
        return EventReceived(stream.number, event, urgent, frame.payload)

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
        return self._table.opened_here

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
        if self._table.opened_here >= self.peer_max_streams:
            raise LocalProtocolError(f"the peer takes {self.peer_max_streams} streams at once")
        payload = messages.encode(request)
        number = self._table.next_number()
        stream = LinkStream(number, local=True, weight=weight)
        stream.source = source
        start = request.start
        stream.receive_offset = start.consumed
        stream.receive_limit = start.limit
        stream.receive_events = start.events
        self._table.add(stream)
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
        self._grant_limits(1)
        self._outgoing.wake(stream, self.now)

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
            self._outgoing.wake(stream, self.now)

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

    def _forget(self, stream: LinkStream) -> None:
        if self._table.remove(stream):
            self._outgoing.forget(stream)

    def _grant_limits(self, frames: int) -> None:
        self._quotas.grant_limits(frames)

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
        record, told = self._outgoing.next_record(size, self.now)
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


#: One table for all links: bound methods would cost each of them two kilobytes.
_HANDLERS: Final[dict[int, Callable[[LinkConnection, Frame, float], LinkEvent | None]]] = {
    FrameType.HELLO: LinkConnection._hello,
    FrameType.WELCOME: LinkConnection._welcome,
    FrameType.PING: LinkConnection._ping,
    FrameType.PONG: LinkConnection._pong_received,
    FrameType.GOAWAY: LinkConnection._goaway,
    FrameType.SESSIONS: LinkConnection._sessions,
    FrameType.ADVICE: LinkConnection._advice,
    FrameType.OPEN: LinkConnection._open,
    FrameType.OPENED: LinkConnection._opened,
    FrameType.REFUSED: LinkConnection._refused,
    FrameType.DATA: LinkConnection._data,
    FrameType.LIMIT: LinkConnection._limit,
    FrameType.RESET: LinkConnection._reset,
    FrameType.EVENT: LinkConnection._event,
}
