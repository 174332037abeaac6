"""LinkProtocol: the core on a TLS transport.

It hands the transport one TLS record at a time, when the transport asks (rule Q1), dispatches what
arrives to its owner and to the receivers of its streams, and keeps the time limits of rules P7,
L1 and L2 on the one timer wheel.  It decides nothing about who may do what: its owner does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from typing import Protocol as TypingProtocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.clock import TICK_SECONDS, TimerWheel, WheelTimer
from rshell.link.core.connection import LinkConnection
from rshell.link.core.constants import (
    ANNOUNCE_SECONDS,
    HEARTBEAT_JITTER,
    HEARTBEAT_SECONDS,
    HELLO_SECONDS,
    PONG_SECONDS,
    SILENCE_SECONDS,
    WEIGHT_NORMAL,
    WELCOME_SECONDS,
)
from rshell.link.core.errors import ErrorCode
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
from rshell.link.core.limits import CreditBudget, LinkLimits
from rshell.link.core.messages import Advice, GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.core.sources import FrameSource
from rshell.link.sockets import own_the_queue, set_link_options, tcp_socket_of

__all__ = ["LinkOwner", "LinkProtocol", "StreamReceiver"]

#: A peer that does not take our last words is cut off after this long.
CLOSE_SECONDS = 2.0


class StreamReceiver(FrameSource, TypingProtocol):
    """What a link wants of each of its streams: frames to send, and a place for what arrives.

    Calls come in this order: ``stream_opened`` (streams that were asked for here), any number of
    ``data_received``, ``event_received`` and ``limit_received``, then exactly one of
    ``stream_refused``, ``stream_reset``, ``stream_finished`` and ``link_lost``.
    """

    def stream_opened(self, opened: Opened) -> None:
        """The peer accepted."""

    def stream_refused(self, code: str, message: str) -> None:
        """The peer refused; the stream is over."""

    def data_received(self, event: DataReceived) -> None:
        """Bytes arrived, within the limit that was given."""

    def event_received(self, event: EventReceived) -> None:
        """An event arrived."""

    def limit_received(self, event: LimitReceived) -> None:
        """The peer's positions moved."""

    def stream_reset(self, code: str, message: str) -> None:
        """The peer ended the stream at once."""

    def stream_finished(self) -> None:
        """The outcome was acknowledged; the stream is over."""

    def link_lost(self, reason: str) -> None:
        """The link under the stream is gone."""


class LinkOwner(TypingProtocol):
    """Decides what a link may do.  All calls come from the reactor's thread."""

    def link_handshaken(self, link: LinkProtocol) -> None:
        """TLS is up; the peer's certificate can be read."""

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        """Gateway: judge, then call `LinkProtocol.welcome` or `LinkProtocol.go_away`."""

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        """Dialler: the link is connected."""

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """A list of sessions or its answer arrived."""

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        """The peer takes no new streams; the link may end at any moment."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Answer with `LinkProtocol.accept` or `LinkProtocol.refuse`, now or later."""

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        """The link is gone; said once, after every stream was told."""


@implementer(IPushProducer)
class LinkProtocol(Protocol):
    """One link.

    Args:
        owner: Decides.
        wheel: The process's timers.
        dialler: Whether this side dialled.
        limits: What this side accepts.
        uniform: Random numbers for heartbeat jitter: (low, high) -> float.
        greeting_seconds: How long the peer has for its first frame, if not the full time.

    Attributes:
        peer: Set by the owner after the handshake; whatever it needs to know the peer by.
        connected_at: Wheel seconds at which WELCOME was sent or received; None before.
        rtt_seconds: The last measured round trip, None before the first.
        greeted: Called once when the peer has said HELLO.
        advised: Called with each ADVICE of the gateway (rule L4).
    """

    _log = Logger()

    def __init__(
        self,
        owner: LinkOwner,
        wheel: TimerWheel,
        *,
        dialler: bool,
        limits: LinkLimits,
        uniform: Callable[[float, float], float] = random.uniform,
        greeting_seconds: float | None = None,
    ) -> None:
        self.core = LinkConnection(dialler=dialler, limits=limits)
        self.receive_budget = CreditBudget(limits.receive_budget)
        self.peer: Any = None
        self.connected_at: float | None = None
        self.rtt_seconds: float | None = None
        self.greeted: Callable[[], None] | None = None
        self.advised: Callable[[Advice], None] | None = None
        self.last_received = 0.0
        self._owner = owner
        self._wheel = wheel
        self._uniform = uniform
        self._greeting = greeting_seconds or (WELCOME_SECONDS if dialler else HELLO_SECONDS)
        self._receivers: dict[int, StreamReceiver] = {}
        self._paused = False
        self._busy = False
        self._closing = False
        self._lost = False
        self._reason: str | None = None
        self._last_sent = 0.0
        #: Set while a PING waits for any byte at all; the PONG itself measures the round trip.
        self._pinged_at: float | None = None
        self._ping_sent_at = 0.0
        self._ping_count = 0
        self._heartbeat = HEARTBEAT_SECONDS
        self._timer: WheelTimer | None = None
        self._announce_timer: WheelTimer | None = None
        self._unannounced: dict[int, Callable[[], None]] = {}

    # -- Twisted -----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        _, sock = tcp_socket_of(transport)
        if sock is not None:
            set_link_options(sock)
        own_the_queue(transport)
        transport.registerProducer(self, True)
        self.last_received = self._last_sent = self._wheel.seconds()
        self._timer = self._wheel.call_later(self._greeting, self._greeting_late)

    def handshake_completed(self) -> None:
        """TLS is up: tell the owner."""
        self._owner.link_handshaken(self)

    def dataReceived(self, data: bytes) -> None:
        now = self._wheel.seconds()
        self.last_received = now
        self._busy = True
        try:
            for event in self.core.receive_data(data, now):
                if self._lost:
                    break  # the owner aborted: nothing follows link_lost
                self._dispatch_safely(event)
        finally:
            self._busy = False
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reason is None:
            clean = isinstance(reason.value, ConnectionDone)
            self._reason = "the peer closed the connection" if clean else reason.getErrorMessage()
        self._finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        transport: Any = self.transport
        tcp, _ = tcp_socket_of(transport)
        if getattr(tcp, "disconnecting", False):
            # TLS is over.  With a buffer of one byte the goodbye itself paused us, and TCP waits
            # for its producer before it closes (FileDescriptor.doWrite).
            transport.unregisterProducer()
        else:
            self.flush()

    def stopProducing(self) -> None:
        self._paused = True

    # -- sending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand the transport records until it says stop; called at the end of what we did."""
        if self._busy or self._lost:
            return
        transport: Any = self.transport
        # The last words of a link go out even to a transport that is full; they are a few bytes.
        while self.core.has_output and (not self._paused or self.core.closed):
            self._busy = True
            try:
                record, finished = self.core.next_record()
                if record:
                    self._last_sent = self._wheel.seconds()
                    transport.write(record)
                for event in finished:
                    self._dispatch_safely(event)
            finally:
                self._busy = False
        if self.core.closed:
            self._close()

    def wake(self, number: int) -> None:
        """A stream may have something to send."""
        self.core.wake(number)
        self.flush()

    def hello(self, hello: Hello) -> None:
        """Dialler: introduce ourselves."""
        self.core.send_hello(hello)
        self.flush()

    def welcome(self, welcome: Welcome, limits: LinkLimits | None = None) -> None:
        """Gateway: accept the peer, with the limits that fit it."""
        if self.core.closed:
            return
        if limits is not None:
            self.core.use_limits(limits)
            self.receive_budget.total = limits.receive_budget
        self.core.send_welcome(welcome)
        self._connected()
        self.flush()

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Tell the peer to leave; with ``close``, end the link as soon as it was told."""
        if close and self._reason is None:
            self._reason = reason or goaway.message or goaway.code
        self.core.send_goaway(goaway, close=close)
        self.flush()

    def sessions(self, sessions: Sessions) -> None:
        """Send a list of sessions or its answer."""
        if self.closed:
            return
        self.core.send_sessions(sessions)
        self.flush()

    def abort(self, reason: str) -> None:
        """End the link at once; nothing more is sent."""
        if self._reason is None:
            self._reason = reason
        if not self._lost and self.transport is not None:
            transport: Any = self.transport
            transport.abortConnection()
            self._finish()

    def advise(self, advice: Advice) -> None:
        """Gateway: steer the dialler's next reconnect."""
        if not self.closed:
            self.core.send_advice(advice)
            self.flush()

    # -- streams -----------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the link has ended or is ending."""
        return self._lost or self.core.closed

    def open_stream(
        self, request: Open, receiver: StreamReceiver, weight: int = WEIGHT_NORMAL
    ) -> int:
        """Ask the peer for a stream; see `LinkConnection.open_stream`."""
        number = self.core.open_stream(request, receiver, weight)
        self.watch(number, receiver)
        self.flush()
        return number

    def accept(
        self,
        number: int,
        request: Open,
        opened: Opened,
        receiver: StreamReceiver,
        weight: int = WEIGHT_NORMAL,
    ) -> None:
        """Accept a stream that the peer asked for."""
        self.core.accept(number, request, opened, receiver, weight)
        self.watch(number, receiver)
        self.flush()

    def watch(self, number: int, receiver: StreamReceiver) -> None:
        """Tell ``receiver`` if the peer gives up a stream that waits for its answer."""
        if number not in self._receivers:
            self.receive_budget.join()
        self._receivers[number] = receiver

    def waiting(self, number: int) -> bool:
        """Whether the peer still waits for the answer to its OPEN."""
        return not self.closed and self.core.waiting(number)

    def refuse(self, number: int, code: ErrorCode | str, message: str) -> None:
        """Refuse a stream that the peer asked for; nothing happens if it gave up meanwhile."""
        if self.waiting(number):
            self._drop(number)
            self.core.refuse(number, code, message)
            self.flush()

    def reset(self, number: int, code: ErrorCode | str, message: str = "") -> None:
        """End a stream at once; its receiver is told nothing more."""
        self._drop(number)
        self.core.reset(number, code, message)
        self.flush()

    def announce_later(self, number: int, announce: Callable[[], None]) -> None:
        """Call ``announce`` within a second: some consumption waits to be told (rule F3)."""
        self._unannounced[number] = announce
        if self._announce_timer is None and not self._lost:
            # A tick less: the wheel may be as late as that.
            delay = ANNOUNCE_SECONDS - TICK_SECONDS
            self._announce_timer = self._wheel.call_later(delay, self._announce)

    def _announce(self) -> None:
        self._announce_timer = None
        waiting, self._unannounced = self._unannounced, {}
        for announce in waiting.values():
            announce()

    def _drop(self, number: int) -> StreamReceiver | None:
        receiver = self._receivers.pop(number, None)
        if receiver is not None:
            self._unannounced.pop(number, None)
            self.receive_budget.leave()
        return receiver

    # -- dispatch ----------------------------------------------------------------------------

    def _dispatch_safely(self, event: LinkEvent) -> None:
        """Dispatch; a fault of ours ends the stream it concerns and no other."""
        try:
            self._dispatch(event)
        except Exception:
            self._log.failure("a fault while handling {kind}", kind=type(event).__name__)
            number = getattr(event, "stream", 0)
            if not number:
                self.abort("a fault of this program")
                return
            text = "a fault at this end"
            receiver = self._drop(number)
            if self.core.waiting(number):
                self.core.refuse(number, ErrorCode.INTERNAL, text)
            self.core.reset(number, ErrorCode.INTERNAL, text)
            if receiver is not None:
                receiver.stream_reset(ErrorCode.INTERNAL.value, text)

    def _dispatch(self, event: LinkEvent) -> None:
        receiver: StreamReceiver | None
        match event:
            case DataReceived(stream=number):
                if receiver := self._receivers.get(number):
                    receiver.data_received(event)
            case LimitReceived(stream=number, finished=finished):
                receiver = self._drop(number) if finished else self._receivers.get(number)
                if receiver is not None:
                    receiver.limit_received(event)
                    if finished:
                        receiver.stream_finished()
            case EventReceived(stream=number):
                if receiver := self._receivers.get(number):
                    receiver.event_received(event)
            case StreamRequested(stream=number, open=request):
                # It may be over already, by a RESET or a fault that came in the same read.
                if self.core.waiting(number):
                    self._owner.stream_requested(self, number, request)
            case StreamOpened(stream=number, opened=opened):
                if receiver := self._receivers.get(number):
                    receiver.stream_opened(opened)
            case StreamRefused(stream=number, refused=refused):
                if receiver := self._drop(number):
                    receiver.stream_refused(refused.code, refused.message)
            case StreamReset(stream=number, code=code, message=message):
                if receiver := self._drop(number):
                    receiver.stream_reset(code, message)
            case StreamFinished(stream=number):
                if receiver := self._drop(number):
                    receiver.stream_finished()
            case _:
                self._dispatch_link(event)

    def _dispatch_link(self, event: LinkEvent) -> None:
        match event:
            case HelloReceived(hello=hello):
                if self.greeted is not None:
                    self.greeted()
                self._owner.hello_received(self, hello)
            case WelcomeReceived(welcome=welcome):
                self._heartbeat = (
                    welcome.heartbeat_ms
                    / 1000
                    * self._uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
                )
                self._connected()
                self._owner.welcome_received(self, welcome)
            case SessionsReceived(sessions=sessions):
                self._owner.sessions_received(self, sessions)
            case AdviceReceived(advice=advice):
                if self.advised is not None:
                    self.advised(advice)
            case GoAwayReceived(goaway=goaway):
                if self._reason is None:
                    self._reason = f"the peer said {goaway.code}: {goaway.message}".rstrip(": ")
                self._owner.goaway_received(self, goaway)
            case PongReceived():
                self.rtt_seconds = self._wheel.seconds() - self._ping_sent_at
                self._pinged_at = None
                self._set_timer(self._check_delay())
            case LinkFailed(error=error):
                self._reason = str(error)

    # -- time --------------------------------------------------------------------------------

    def _connected(self) -> None:
        self.connected_at = self._wheel.seconds()
        self._set_timer(self._check_delay())

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._lost and not self._closing:
            self._timer = self._wheel.call_later(delay, self._check)

    def _greeting_late(self) -> None:
        what = "WELCOME" if self.core.dialler else "HELLO"
        self.abort(f"no {what} in time")

    def _check_delay(self) -> float:
        now = self._wheel.seconds()
        if not self.core.dialler:
            return self.last_received + SILENCE_SECONDS - now
        if self._pinged_at is not None:
            return self._pinged_at + PONG_SECONDS - now
        return min(self.last_received, self._last_sent) + self._heartbeat - now

    def _check(self) -> None:
        """Do what is due, then sleep until the next thing can be due."""
        if self._pinged_at is not None and self.last_received > self._pinged_at:
            self._pinged_at = None
        if self._check_delay() <= 0:
            if not self.core.dialler:
                self.abort(f"silent for {SILENCE_SECONDS:g} s")
                return
            if self._pinged_at is not None:
                self.abort(f"no answer to a heartbeat for {PONG_SECONDS:g} s")
                return
            self.probe()
        self._set_timer(max(0.0, self._check_delay()))

    def probe(self) -> None:
        """Send a PING; any byte that comes back proves the peer alive."""
        self._pinged_at = self._ping_sent_at = self._last_sent = self._wheel.seconds()
        self._ping_count += 1
        self.core.send_ping(self._ping_count.to_bytes(8, "big"))
        self.flush()

    # -- the end -----------------------------------------------------------------------------

    def _close(self) -> None:
        """Our last words are with the transport: close, and cut off a peer that stalls."""
        if self._lost or self._closing:
            return
        self._closing = True
        if self._reason is None and self.core.failure is not None:
            self._reason = str(self.core.failure)
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._wheel.call_later(CLOSE_SECONDS, self._cut_off)

    def _cut_off(self) -> None:
        if not self._lost:
            transport: Any = self.transport
            transport.abortConnection()
            self._finish()

    def _finish(self) -> None:
        if self._lost:
            return
        self._lost = True
        for timer in (self._timer, self._announce_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._announce_timer = None
        self._unannounced.clear()
        reason = self._reason or "lost"
        receivers, self._receivers = self._receivers, {}
        for receiver in receivers.values():
            receiver.link_lost(reason)
        self._owner.link_lost(self, reason)
