"""LinkProtocol: the core on a TLS transport.

It hands the transport a TLS record, or a few on a fast link, when the transport asks (rule Q1),
dispatches what arrives to its owner and to the receivers of its streams, and keeps the time limit
of rule P7;
those of rules L1 and L2 are heartbeat.py's.  It decides nothing about who may do what: its owner
does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.clock import TICK_SECONDS, TimerWheel, WheelTimer
from rshell.link.contracts import LinkOwner, StreamReceiver
from rshell.link.core.connection import BEAT_SIZE, LinkConnection, LinkState
from rshell.link.core.constants import (
    ANNOUNCE_SECONDS,
    HELLO_SECONDS,
    WEIGHT_NORMAL,
    WELCOME_SECONDS,
)
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import (
    AdviceReceived,
    GoAwayReceived,
    HelloReceived,
    LinkEvent,
    LinkFailed,
    PongReceived,
    SessionsReceived,
    StreamRequested,
    WelcomeReceived,
)
from rshell.link.core.figures import LinkFigures
from rshell.link.core.limits import CreditBudget, LinkLimits
from rshell.link.core.messages import Advice, GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.heartbeat import Heartbeat
from rshell.link.inbox import Inbox
from rshell.link.pacing import Pacing
from rshell.link.sockets import own_the_queue, set_link_options, tcp_socket_of
from rshell.link.tls_wire import TlsWire
from rshell.link.turn import ReadBudget

__all__ = ["LinkOwner", "LinkProtocol", "StreamReceiver"]

#: A peer that does not take our last words is cut off after this long.
CLOSE_SECONDS = 2.0
#: The clock is read after so many events.
EVENTS_PER_LOOK = 32


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
        greeted: Called once: the peer has said HELLO, or is gone without.
        advised: Called with each ADVICE of the gateway (rule L4).
        tap: Puts something between the next stream that is opened here and its receiver.
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
        self.greeted: Callable[[], None] | None = None
        self.advised: Callable[[Advice], None] | None = None
        self.tap: Callable[[Open, StreamReceiver], StreamReceiver] | None = None
        self._owner = owner
        self._wheel = wheel
        self._heartbeat = Heartbeat(
            wheel,
            dialler=dialler,
            ping=self._ping,
            dead=self.abort,
            idle=self._idle,
            uniform=uniform,
        )
        self._pacing = Pacing(self.core.traffic)
        self._budget = ReadBudget()
        self._greeting = greeting_seconds or (WELCOME_SECONDS if dialler else HELLO_SECONDS)
        self._receivers = Inbox(self.receive_budget, self._forget_announcement)
        self._paused = False
        self._busy = False
        self._closing = False
        self._lost = False
        #: Whether received frames wait for the next turn; nothing is read meanwhile.
        self._yielded = False
        self._reason: str | None = None
        self._timer: WheelTimer | None = None
        self._announce_timer: WheelTimer | None = None
        self._unannounced: dict[int, Callable[[], None]] = {}

    # -- Twisted -----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        _, sock = tcp_socket_of(transport)
        if sock is not None:
            set_link_options(sock)
            self._pacing.use(sock)
        own_the_queue(transport)
        transport.registerProducer(self, True)
        self._heartbeat.connected(self._wheel.seconds())
        self._timer = self._wheel.call_later(self._greeting, self._greeting_late)

    def handshake_completed(self) -> None:
        """TLS is up: tell the owner."""
        self._owner.link_handshaken(self)

    def dataReceived(self, data: bytes) -> None:
        now = self._wheel.seconds()
        if len(data) == BEAT_SIZE and self._answer_beat(data, now):
            return
        self._heartbeat.received(now)
        self.core.feed(data)
        if not self._yielded:
            self._budget.begin(now)
            self._work(now)

    def _answer_beat(self, data: bytes, now: float) -> bool:
        """Answer a heartbeat on a link at rest at once; False if there is more to it."""
        if self._yielded or self._paused or self._busy or self._lost:
            return False
        pong = self.core.answer_beat(data, now)
        if pong is None:
            return False
        self._heartbeat.answered(now)
        transport: Any = self.transport
        transport.write(pong)
        return True

    def _work(self, now: float) -> None:
        """Dispatch what was received; when it takes too long, go on in the next turn (rule Q5)."""
        self.core.now = now
        self._busy = True
        self._wheel.turn.begin(now)
        try:
            self._dispatch_events()
        finally:
            self._busy = False
            now = self._wheel.seconds()
            self._budget.end(now)
            if not self._lost:
                self._flush(now)
            self._wheel.turn.end()

    def _dispatch_events(self) -> None:
        """Dispatch in lots: what gives up or breaks a request of the same lot is seen first."""
        while True:
            lot = list(islice(iter(self.core.next_event, None), EVENTS_PER_LOOK))
            for event in lot:
                if self._lost:
                    return  # the owner aborted: nothing follows link_lost
                self._dispatch_safely(event)
            if len(lot) < EVENTS_PER_LOOK:
                return
            self.core.now = self._wheel.seconds()
            if self._budget.spent(self.core.now):
                self._yield()
                return

    def _yield(self) -> None:
        if not self._lost:
            self._yielded = True
            transport: Any = self.transport
            transport.pauseProducing()
            self._wheel.call_next_turn(self._resume)

    def _resume(self) -> None:
        if not self._yielded or self._lost:
            return
        self._yielded = False
        now = self._wheel.seconds()
        self._budget.begin(now, fresh=True)
        self._work(now)
        if not (self._yielded or self._lost):
            # Only now: what is read sooner would come in before what waits.
            transport: Any = self.transport
            transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reason is None:
            clean = isinstance(reason.value, ConnectionDone)
            self._reason = "the peer closed the connection" if clean else reason.getErrorMessage()
        while not self._lost and (event := self.core.next_event()) is not None:
            self._dispatch_safely(event)  # what it said before it went
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
        if not (self._busy or self._lost):
            self._flush(self._wheel.seconds())

    def _flush(self, now: float) -> None:
        core = self.core
        core.now = now
        try:
            # The last words of a link go out even to a transport that is full: a few bytes.
            while core.has_output and (not self._paused or core.closed):
                self._write_record()
            if core.state is LinkState.CLOSED:
                self._close()
        except Exception:  # of a source, say; other links, which wait for this turn, go on
            self._log.failure("a fault while a link was written to")
            self.abort("a fault of this program")

    def _flush_with_turn(self) -> None:
        """Flush once the read that is being dealt with, of whatever link, is over (rule Q4)."""
        if not self._wheel.turn.postpone(self):
            self.flush()

    def _write_record(self) -> None:
        core, now = self.core, self.core.now
        transport: Any = self.transport
        size = self._pacing.fit(now)
        self._busy = True
        try:
            before = core.traffic.data_frames_sent
            record, finished = core.next_record(size)
            if record:
                self._heartbeat.sent(now, data=core.traffic.data_frames_sent > before)
                transport.write(record)
            for event in finished:
                self._dispatch_safely(event)
        finally:
            self._busy = False

    def wake(self, number: int) -> None:
        """A stream may have something to send."""
        turn, core = self._wheel.turn, self.core
        if turn.postpone(self):
            core.now = max(core.now, turn.now)  # a frame of thousands: the read's time will do
            core.wake(number)
        else:
            core.now = self._wheel.seconds()
            core.wake(number)
            self.flush()

    def together(self, work: Callable[[], None]) -> None:
        """Do ``work``; what it sends leaves together, when it is done."""
        if self._busy:
            work()
            return
        self._busy = True
        try:
            work()
        finally:
            self._busy = False
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
        self._idle()

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
        self._flush_with_turn()

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
            self._flush_with_turn()

    # -- streams -----------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the link has ended or is ending."""
        return self._lost or self.core.closed

    def open_stream(
        self, request: Open, receiver: StreamReceiver, weight: int = WEIGHT_NORMAL
    ) -> int:
        """Ask the peer for a stream; see `LinkConnection.open_stream`."""
        tap, self.tap = self.tap, None
        if tap is not None:
            receiver = tap(request, receiver)
        number = self.core.open_stream(request, receiver, weight)
        self.watch(number, receiver)
        self._flush_with_turn()
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
        self._flush_with_turn()

    def watch(self, number: int, receiver: StreamReceiver) -> None:
        """Tell ``receiver`` if the peer gives up a stream that waits for its answer."""
        self._receivers.add(number, receiver)

    def waiting(self, number: int) -> bool:
        """Whether the peer still waits for the answer to its OPEN."""
        return not self.closed and self.core.waiting(number)

    def refuse(self, number: int, code: ErrorCode | str, message: str) -> None:
        """Refuse a stream that the peer asked for; nothing happens if it gave up meanwhile."""
        if self.waiting(number):
            self._receivers.take(number)
            self.core.refuse(number, code, message)
            self._flush_with_turn()

    def reset(self, number: int, code: ErrorCode | str, message: str = "") -> None:
        """End a stream at once; its receiver is told nothing more."""
        self._receivers.take(number)
        self.core.reset(number, code, message)
        self._flush_with_turn()

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

    def _forget_announcement(self, number: int) -> None:
        self._unannounced.pop(number, None)

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
            receiver = self._receivers.take(number)
            if self.core.waiting(number):
                self.core.refuse(number, ErrorCode.INTERNAL, text)
            self.core.reset(number, ErrorCode.INTERNAL, text)
            if receiver is not None:
                receiver.stream_reset(ErrorCode.INTERNAL.value, text)

    def _dispatch(self, event: LinkEvent) -> None:
        if self._receivers.deliver(event):
            return
        if isinstance(event, StreamRequested):
            # It may be over already, by a RESET or a fault that came in the same read.
            if self.core.waiting(event.stream):
                self._owner.stream_requested(self, event.stream, event.open)
        else:
            self._dispatch_link(event)

    def _dispatch_link(self, event: LinkEvent) -> None:
        match event:
            case HelloReceived(hello=hello):
                self._tell_greeted()
                self._owner.hello_received(self, hello)
            case WelcomeReceived(welcome=welcome):
                self._connected(welcome.heartbeat_ms / 1000)
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
                self._heartbeat.pong()
            case LinkFailed(error=error):
                self._reason = str(error)

    # -- time --------------------------------------------------------------------------------

    def _connected(self, heartbeat_seconds: float | None = None) -> None:
        self.connected_at = self._wheel.seconds()
        self._cancel_timer()
        if not self._lost and not self._closing:
            self._heartbeat.start(heartbeat_seconds)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _greeting_late(self) -> None:
        what = "WELCOME" if self.core.dialler else "HELLO"
        self.abort(f"no {what} in time")

    def probe(self) -> None:
        """Send a PING; any byte that comes back proves the peer alive."""
        self._heartbeat.probe()

    def hurry_heartbeat(self, interval_seconds: float | None) -> None:
        """Dialler: beat at least this often, while somebody waits; None: as the gateway told."""
        self._heartbeat.hurry(interval_seconds)

    def _ping(self, count: int) -> None:
        self.core.send_ping(count.to_bytes(8, "big"))
        self.flush()

    def _idle(self) -> None:
        """Nothing is under way: let TLS give back what it took for more."""
        transport: Any = self.transport
        if isinstance(transport, TlsWire) and not self.core.has_output:
            transport.idle()

    # -- figures -----------------------------------------------------------------------------

    @property
    def last_received(self) -> float:
        """Wheel seconds of the peer's last byte."""
        return self._heartbeat.last_received

    @property
    def rtt_seconds(self) -> float | None:
        """The last round trip of a PING, None before the first."""
        return self._heartbeat.rtt_seconds

    @property
    def last_pong(self) -> float | None:
        """Wheel seconds of the last answer to a PING, None before the first."""
        return self._heartbeat.last_pong

    def figures(self) -> LinkFigures:
        """Return what this link measured about itself."""
        return self._pacing.figures(self.rtt_seconds)

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
        self._heartbeat.stop()
        self._cancel_timer()
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
        self._heartbeat.stop()
        self._cancel_timer()
        if self._announce_timer is not None:
            self._announce_timer.cancel()
            self._announce_timer = None
        self._unannounced.clear()
        self._tell_greeted()
        reason = self._reason or "lost"
        for receiver in self._receivers.clear():
            self._tell_lost(partial(receiver.link_lost, reason))
        self._tell_lost(partial(self._owner.link_lost, self, reason))

    def _tell_greeted(self) -> None:
        greeted, self.greeted = self.greeted, None
        if greeted is not None:
            greeted()

    def _tell_lost(self, tell: Callable[[], None]) -> None:
        """One that fails must not keep the others, and the owner, from hearing of it."""
        try:
            tell()
        except Exception:
            self._log.failure("a fault while the end of a link was told")
