"""Session: one use of a handler on a device, as the operator's end sees it.

It outlives the links that carry it (rule R1): when one breaks, or the gateway says that the way to
the device did, the session is *away*, and is opened again with the same id and the next attempt
until the grace is over.  Offsets, what was not confirmed and input that was typed meanwhile stay in
its channel.  Three kinds:

* a session of its own, or one that `rshell.client.Client.attach` drives on: as above;
* one that only watches (rule R9): its stream does not resume; it joins anew, with what the
  device still holds;
* a verb of the gateway's own: it ends with ``link-lost``; `rshell.client.Client.call_gateway`
  knows which may be asked again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from rshell.client.absence import Absence, Away
from rshell.client.errors import ConnectionFailed, Refused
from rshell.client.outcomes import Outcome, outcome_of_closing, read_outcome
from rshell.client.replays import Replays
from rshell.client.requests import check_deadline, check_size
from rshell.client.signals import check_signal
from rshell.client.uplink import Uplink
from rshell.link.channel import StreamChannel
from rshell.link.clock import WheelTimer
from rshell.link.core.constants import DEFAULT_WINDOW, SESSION_BYTES, WEIGHT_NORMAL
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Opened, Positions
from rshell.link.protocol import LinkProtocol

__all__ = ["Session", "SessionReceiver"]

#: A device that accepts nothing for this long is stuck, though its link lives.
OPEN_SECONDS = 30.0
#: Ends of a viewer's stream after which it joins anew.
_PASSING = frozenset(
    {
        ErrorCode.LINK_LOST,
        ErrorCode.OVERLOAD,
        ErrorCode.STREAMS,
        ErrorCode.SHUTDOWN,
        ErrorCode.INTERNAL,
    }
)


class SessionReceiver(Protocol):
    """Takes what a session's device sends."""

    def session_opened(self) -> None:
        """The device accepted; not called if it refuses."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Bytes in order.  They count as consumed when this returns; see `Session.pause`."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """An event other than the outcome, at its place among the bytes."""


class Session:
    """A conversation with a handler on a device; `rshell.client.Client.open` makes them.

    ``await session.outcome`` waits for its end.  A session is a consumer: register a producer,
    and it is paused while the device does not read, or cannot be reached.

    A link that breaks does not end it: it goes on over the next one, and nothing is lost or done
    twice.  `away` tells of such a time, which lasts for the uplink's grace (60 s) at most; then
    the outcome is ``lost`` with the code ``link-lost``.  What runs on the device goes on then, and
    can be continued by `rshell.client.Client.attach`.

    Args:
        uplink: Has been connected; it finds the links.
        device: Name or id; None for a handler of the gateway's own.
        handler: The verb.
        receiver: Who takes the output.
        session_id: Of a session that somebody opened before; None makes one.
        attempt: The last attempt of that session.
        view: Only watch that session.
        grace_seconds: How long to try to come back; None: as long as the uplink says.

    Attributes:
        session_id: 16 random bytes; names the session everywhere, also in the audit log.
        attempt: How many times it was opened.
        opened: Whether the device has accepted.
        gap_bytes: Output that the device had to drop before it could be sent.
        link_changed: Called with the new `away` whenever that changes.
        noticed: Called with a code and a line for people when the gateway has something to say:
            the session is about to end, somebody watches it.  Not what the device says.
        output_ended: Called once the device has said that no output follows; the outcome may
            come long after, if it still takes input.
    """

    def __init__(
        self,
        uplink: Uplink,
        device: str | None,
        handler: str,
        receiver: SessionReceiver,
        *,
        session_id: bytes | None = None,
        attempt: int = 0,
        view: bool = False,
        grace_seconds: float | None = None,
    ) -> None:
        self.session_id = session_id or os.urandom(SESSION_BYTES)
        self.attempt = attempt
        self.opened = False
        self.gap_bytes = 0
        self.device = device
        self.handler = handler
        self.link_changed: Callable[[Away | None], None] | None = None
        self.noticed: Callable[[str, str], None] | None = None
        self.output_ended: Callable[[], None] | None = None
        self._uplink = uplink
        self._receiver = receiver
        self._view = view
        self._joins = session_id is not None and not view
        self._resumable = device is not None and not view
        self._weight = WEIGHT_NORMAL
        self._window = DEFAULT_WINDOW
        self._opening: Open | None = None
        self._newest: Callable[[], Coroutine[Any, Any, int | None]] | None = None
        #: When the first OPEN was sent, in the wheel's seconds.
        self._begun: float | None = None
        self._channel: StreamChannel | None = None
        self._patient = grace_seconds is not None
        self._grace_seconds = uplink.grace_seconds if grace_seconds is None else grace_seconds
        self._absence = Absence(uplink, self, self._expired, self._grace_seconds)
        self._replays = Replays()
        #: Of the device; told once it is acknowledged.
        self._outcome: Outcome | None = None
        #: Ours, if the device's does not come.
        self._verdict: Outcome | None = None
        self._ended = False
        self._waiting: list[Deferred[Outcome]] = []
        self._timer: WheelTimer | None = None

    # -- opening ---------------------------------------------------------------------------------

    def start(
        self,
        request: dict[str, Any],
        *,
        login: str | None = None,
        weight: int = WEIGHT_NORMAL,
        window: int = DEFAULT_WINDOW,
        interactive: bool = False,
        newest: Callable[[], Coroutine[Any, Any, int | None]] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Open it, now or as soon as there is a link.

        Args:
            request: The handler's own, as JSON values.
            login: The account on the device; None asks for its default.
            weight: The share of a busy link.
            window: Bytes the device may be ahead of the receiver.
            interactive: Whether somebody sits in front of it: a dead path is noticed sooner.
            newest: Finds the last attempt, or None for none, if the one that was given turns out
                to be old.
            timeout: Seconds after which the device ends it.

        Raises:
            ConnectionFailed: There is no link, and there will be none.
            Refused: The link takes no such stream: it is full, or the request too large; or the
                gateway is too old for a time limit.
        """
        if timeout is not None:
            check_deadline(timeout, self._uplink.welcome)
        self._weight = weight
        self._window = window
        self._newest = newest
        opening = self._opening = Open(
            handler=self.handler,
            session=self.session_id,
            device=self.device,
            login=login,
            request=request,
            view=self._view,
            timeout_ms=None if timeout is None else max(1, round(timeout * 1000)),
            resume=Positions(0, 0, 0) if self._joins else None,
        )
        check_size(opening)
        self._channel = self._new_channel()
        self._uplink.join(self, interactive=interactive)
        if not self._view:
            self._uplink.notices.listen(self)
        link = self._uplink.link
        if link is None:
            self._depart(self._uplink.last_error)
        elif error := self._ask(link):
            self._ended = True
            self._uplink.part(self)
            raise error

    def _new_channel(self) -> StreamChannel:
        latest = self._uplink.latest
        if latest is None:
            raise ConnectionFailed(ErrorCode.LINK_LOST.value, "not connected yet", "")
        channel = StreamChannel(latest, self, self._window, resumable=self._resumable)
        if self._patient:  # the gateway's own patience is shorter than ours
            channel.passing |= {ErrorCode.OFFLINE}
        return channel

    def _ask(self, link: LinkProtocol) -> Refused | None:
        """Send the next OPEN; return why that is not possible."""
        channel, opening = self._channel, self._opening
        if channel is None or opening is None:
            return None
        now = self._uplink.wheel.seconds()
        first = self._begun is None
        age = 0.0 if self._begun is None else now - self._begun
        request = msgspec.structs.replace(
            opening, attempt=self.attempt + 1, age_ms=math.ceil(age * 1000)
        )
        try:
            channel.request(request, self._weight, link)
        except LocalProtocolError as error:
            if not first:
                self._depart(str(error))
                return None
            return Refused(ErrorCode.STREAMS.value, str(error))
        self.attempt += 1
        if first:
            self._begun = now
            self._returned()
            self._timer = self._uplink.wheel.call_later(OPEN_SECONDS, self._open_late)
        return None

    def _open_late(self) -> None:
        text = f"{self.device or 'the gateway'} did not answer for {OPEN_SECONDS:g} s"
        self._end(Outcome(status="error", code=ErrorCode.TIMEOUT.value, message=text))

    # -- away ------------------------------------------------------------------------------------

    @property
    def away(self) -> Away | None:
        """Since when there is no way to the device, and until when that is borne; else None."""
        return self._absence.away

    @property
    def replay_left(self) -> int:
        """Bytes of output still to come that are older than our joining (rule R8).

        While `SessionReceiver.output_received` runs, its own bytes are among them.  A terminal
        that is shown them must not answer the questions in them.
        """
        return self._replays.left

    def _depart(self, reason: str) -> None:
        """There is no stream: wait for the next, within the grace."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended and self._verdict is None:
            self._absence.lost(reason)
            self._tell_link()

    def _returned(self) -> None:
        was_away = self._absence.away is not None
        self._absence.over()
        if was_away:
            self._tell_link()

    def _tell_link(self) -> None:
        if self.link_changed is not None:
            self.link_changed(self.away)

    def _expired(self) -> None:
        """The grace is over."""
        away, channel = self.away, self._channel
        if away is None or channel is None:
            return
        reason = away.reason if self._uplink.link else self._uplink.last_error
        text = f"the link was gone for {self._grace_seconds:g} s ({reason})"
        if self._begun is None:
            text += "; nothing was sent"
        elif not self.opened:
            text += f"; {self.handler} may or may not have run"
        elif channel.unconfirmed and not self._view:
            text += f"; {channel.unconfirmed:,} bytes of input were not confirmed"
        self._give_up(Outcome(status="lost", code=ErrorCode.LINK_LOST.value, message=text))

    def _give_up(self, outcome: Outcome) -> None:
        """End this end only; what has arrived is still delivered."""
        channel = self._channel
        streaming = self.opened and self.away is None
        if channel is None or channel.closed or streaming or self._verdict is not None:
            self._end(self._verdict or outcome, ErrorCode.LINK_LOST)
        else:
            self._verdict = outcome
            self._returned()
            self._uplink.forget(self)
            channel.abandon(ErrorCode.LINK_LOST, outcome.message or "")

    # -- LinkUser --------------------------------------------------------------------------------

    def link_ready(self, link: LinkProtocol) -> None:
        if error := self._ask(link):
            self._end(Outcome(status="refused", code=error.code, message=error.message))

    def link_refused(self, error: ConnectionFailed) -> None:
        status = "refused" if self._begun is None else "lost"
        self._give_up(Outcome(status=status, code=error.code, message=error.message))

    # -- sending ---------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send input.  Register a producer for more than a few kilobytes."""
        if self._channel is not None and not self._ended:
            self._channel.write(data)

    def write_eof(self) -> None:
        """Say that no input follows."""
        if self._channel is not None and not self._ended:
            self._channel.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take input from a producer as fast as the device reads (`IConsumer`)."""
        if self._channel is None or self._ended:
            producer.stopProducing()
        else:
            self._channel.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer is done (`IConsumer`)."""
        if self._channel is not None:
            self._channel.unregisterProducer()

    def send_window(self, rows: int, columns: int) -> None:
        """Tell the device the terminal's new size in character cells; 0 by 0 is unknown."""
        self._urgent("window", {"rows": rows, "columns": columns})

    def send_signal(self, name: str) -> None:
        """Send a signal to what runs.

        Args:
            name: One of `rshell.client.signals.SIGNALS`: without SIG, such as ``INT``
                (RFC 4254 section 6.9).

        Raises:
            RshellError: Code ``bad-request``: there is no such signal.
        """
        check_signal(name)
        self._urgent("signal", {"signal": name})

    def send_event(self, kind: str, body: dict[str, Any] | None = None) -> None:
        """Send an event of the handler's own, such as ``confirm``, at once."""
        self._urgent(kind, body or {})

    def cancel(self) -> None:
        """Ask for the end of what runs: TERM, and KILL 5 s later.  The outcome still comes."""
        self._urgent("cancel", {})

    def abort(self) -> None:
        """End the session here and now, whatever the device says; its outcome is ``lost``.

        The device ends what runs, unless the session is `away`: then it cannot be told.
        """
        text = "given up by this end"
        self._end(Outcome(status="lost", code=ErrorCode.CANCELLED.value, message=text))

    def detach(self) -> None:
        """End this end here and now, and let what runs run on; its outcome is ``lost``.

        `rshell.client.Client.attach` continues it, from anywhere.  Whoever only watches leaves;
        nothing has broken, and the gateway is told so.
        """
        if self._view:
            left = ErrorCode.CANCELLED
            self._end(Outcome(status="lost", code=left.value, message="left by this end"), left)
            return
        lost, text = ErrorCode.LINK_LOST, "detached by this end"
        self._end(Outcome(status="lost", code=lost.value, message=text), lost)

    def _urgent(self, kind: str, body: dict[str, Any]) -> None:
        if self._channel is not None and not self._ended:
            self._channel.send_event(kind, body, urgent=True)

    # -- receiving -------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop delivery; the device stalls once its window is full."""
        if self._channel is not None:
            self._channel.pauseProducing()

    def resume(self) -> None:
        """Deliver again."""
        if self._channel is not None:
            self._channel.resumeProducing()

    @property
    def ended(self) -> bool:
        """Whether the outcome is known."""
        return self._ended

    @property
    def outcome(self) -> Deferred[Outcome]:
        """A new Deferred that fires with the outcome; it never fails."""
        waiting: Deferred[Outcome] = Deferred()
        if self._ended and self._outcome is not None:
            waiting.callback(self._outcome)
        else:
            self._waiting.append(waiting)
        return waiting

    def _end(self, outcome: Outcome, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        if self._ended:
            return
        self._ended = True
        self._uplink.notices.leave(self)
        self._outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        self._returned()
        self._uplink.part(self)
        if self._channel is not None and not self._channel.closed:
            self._channel.reset(code, "")
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(outcome)

    # -- ResumableReceiver -----------------------------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        if self._ended:
            return
        first, self.opened = not self.opened, True
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None and ((first and self._joins) or opened.gap or self._view):
            # Else it is output for this very terminal, only late: it may be answered.
            self._replays.expect(self._channel.end.unconsumed, opened.replay)
        self._returned()
        if first:
            self._receiver.session_opened()

    def data_received(self, data: bytes, stderr: bool) -> None:
        if not self._ended:
            self._receiver.output_received(data, stderr)
        self._replays.delivered(len(data))

    def input_ended(self) -> None:
        if self.output_ended is not None and not self._ended:
            self.output_ended()

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome":
            # Told once it is acknowledged: whoever waits may close the link at once.
            self._outcome = read_outcome(body)
            return
        if kind == "gap" and type(size := body.get("bytes")) is int and size > 0:
            self.gap_bytes += size
        if not self._ended:
            self._receiver.event_received(kind, body)

    def channel_detached(self, reason: str) -> None:
        self._depart(reason)

    def channel_closed(self, code: str, message: str) -> None:
        outcome = self._outcome or self._verdict
        if outcome is None and not self._ended and self._begins_anew(code, message):
            return
        self._end(outcome or outcome_of_closing(code, message, self.opened))

    def _begins_anew(self, code: str, message: str) -> bool:
        """Go on with another stream, where this kind of session can."""
        known = ErrorCode.read(code)
        if self._view and known in _PASSING and (self.opened or known is ErrorCode.LINK_LOST):
            self._channel = self._new_channel()
            self._depart(message or code)
            return True
        newest, self._newest = self._newest, None
        if known is ErrorCode.DUPLICATE and not self.opened and newest is not None:
            found = Deferred.fromCoroutine(newest())
            found.addCallbacks(self._join_newest, lambda _: self._join_newest(None))
            return True
        return False

    def _join_newest(self, attempt: int | None) -> None:
        if self._ended:
            return
        if attempt is None:
            self._end(outcome_of_closing(ErrorCode.DUPLICATE.value, "", self.opened))
            return
        self.attempt = max(self.attempt, attempt)
        self._channel = self._new_channel()
        self._uplink.need(self)
