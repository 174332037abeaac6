"""LocalSession: an operator's end of a session inside the gateway, for doors that speak no link.

A client of the link door holds its end itself and the gateway relays.  Behind the SSH, web and
console doors there is no such client: here the door *is* the end that offsets belong to (rule R1)::

    door  <-- EndReceiver --  LocalSession  -- StreamChannel on the device's own link -->  device

It passes the one gate like everyone: each attempt is a `Petition` to `Switchboard.open`, which asks
the policy, writes the audit row, finds the device's link, and has the stream opened on it.  When
the device's link breaks, the session is asked for again by the next attempt, and the gate parks
that until the device is back, for the grace of rule R7; what was not confirmed waits in the
channel meanwhile, both ways.  What it is not: it survives no end of this gateway.  A door that is
left by its operator says `detach`, and what runs can be continued by ``rshell attach``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.printable import printable
from rshell.client.outcomes import outcome_of_closing, read_outcome
from rshell.doors.local_attempt import Attempt, LocalPetition
from rshell.gateway.callers import INPUT_RECORDED, Caller, OpenRefused, StreamEnder
from rshell.gateway.core import Gateway
from rshell.gateway.parking import GRACE_SECONDS
from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import WheelTimer
from rshell.link.core.constants import DEFAULT_WINDOW, SESSION_BYTES
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, Opened
from rshell.link.hops import StreamWitness
from rshell.link.protocol import LinkProtocol
from rshell.store.errors import StoreError

__all__ = ["DoorSession", "EndReceiver", "LocalSession"]

#: A device that accepts nothing for this long is stuck, though its link lives.
OPEN_SECONDS = 30.0
#: Between attempts of one absence, from the second on: a device that flaps must not keep us busy.
RETRY_SECONDS = 1.0
#: Refusals of a repeated request after which it may go on, as in `rshell.link.channel`.
_PASSING = frozenset(
    {
        ErrorCode.LINK_LOST,
        ErrorCode.OVERLOAD,
        ErrorCode.STREAMS,
        ErrorCode.SHUTDOWN,
        ErrorCode.INTERNAL,
    }
)


class EndReceiver(Protocol):
    """Takes what a session's device sends, for a door.  ``session_ended`` comes last, once."""

    def session_opened(self) -> None:
        """The device accepted; said once."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Bytes in order; they count as consumed when this returns.  See `LocalSession.pause`."""

    def output_ended(self) -> None:
        """No byte follows; the outcome may be far off."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """An event other than the outcome, at its place among the bytes."""

    def link_changed(self, away: str | None) -> None:
        """The device's link is gone, with the reason, or the session goes on (None)."""

    def notice_received(self, message: str) -> None:
        """The gateway has something to say to the person at the door, in one line."""

    def session_ended(self, outcome: Outcome) -> None:
        """The device's outcome, or ours where it cannot come; all output was delivered."""


class DoorSession(Protocol):
    """What a door drives: a `LocalSession`, or something of the gateway's own that acts like one.

    A door that speaks for it registers itself as its producer, and is paused and resumed.
    """

    def start(self) -> None:
        """Begin."""

    def write(self, data: bytes) -> None:
        """Take input."""

    def write_eof(self) -> None:
        """No input follows."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As `IConsumer`."""

    def unregisterProducer(self) -> None:
        """As `IConsumer`."""

    def send_urgent(self, kind: str, body: dict[str, Any]) -> None:
        """``window``: {"rows", "columns"}; ``signal``: {"signal"}."""

    def pause(self) -> None:
        """Deliver nothing until `resume`."""

    def resume(self) -> None:
        """Deliver again."""

    def abort(self, message: str = "") -> None:
        """End it for good; the receiver is told nothing more."""

    def detach(self, message: str = "") -> None:
        """The operator is gone without a word; the receiver is told nothing more."""


class LocalSession:
    """One use of a handler on a device, by an operator who came in at a door of this gateway.

    It is a consumer: register a producer, and it is paused while the device does not read or is
    away.

    Args:
        gateway: Whose gate it passes.
        caller: Who, through which door.
        device: Name or id.
        handler: The verb.
        receiver: Who takes the output.
        login: The account on the device; None asks for its default.
        request: The handler's own, as JSON values.
        window: Bytes the device may be ahead of the receiver.

    Attributes:
        session_id: 16 random bytes; names the session in the audit log and for ``rshell attach``.
        opened: Whether the device has accepted.
        ended: Whether the receiver was told the end, or wants none.
    """

    _log = Logger()

    def __init__(
        self,
        gateway: Gateway,
        caller: Caller,
        device: str,
        handler: str,
        receiver: EndReceiver,
        *,
        login: str | None = None,
        request: dict[str, Any] | None = None,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        self.session_id = os.urandom(SESSION_BYTES)
        self.opened = False
        self.ended = False
        self._gateway = gateway
        self._caller = caller
        self._receiver = receiver
        self._opening = Open(
            handler=handler,
            session=self.session_id,
            device=device,
            login=login,
            request=request or {},
        )
        self._window = window
        self._attempts = 0
        self._begun = 0.0
        self._channel: StreamChannel | None = None
        self._attempt: Attempt | None = None
        self._petition: LocalPetition | None = None
        #: What the door sent before there was a channel, in order.
        self._early: list[Callable[[StreamChannel], None]] = []
        self._paused = False
        #: Codes of notices so far.
        self._told: set[str] = set()
        self._outcome: Outcome | None = None
        #: Since when there is no stream, in the wheel's seconds; None while there is one.
        self._away_since: float | None = None
        self._retry: WheelTimer | None = None
        self._open_timer: WheelTimer | None = None

    # -- opening ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask for it; what follows is told to the receiver."""
        self._begun = self._gateway.wheel.seconds()
        self._ask()

    def _ask(self) -> None:
        if self.ended:
            return
        self._attempts += 1
        age = self._gateway.wheel.seconds() - self._begun
        opening = self._opening
        request = Open(
            handler=opening.handler,
            session=opening.session,
            attempt=self._attempts,
            age_ms=math.ceil(age * 1000),
            device=opening.device,
            login=opening.login,
            request=opening.request,
        )
        self._petition = petition = LocalPetition(self._joined)
        asked = Deferred.fromCoroutine(
            self._gateway.switchboard.open(self._caller, request, petition)
        )
        asked.addErrback(self._refused, petition)

    def _joined(
        self, link: LinkProtocol, request: Open, witness: StreamWitness, weight: int
    ) -> StreamEnder:
        """Open the stream on the device's link; for the petition only.

        Raises:
            LocalProtocolError: The link takes no stream.
        """
        self._petition = None
        channel = self._channel
        if channel is None:
            channel = StreamChannel(link, self, self._window, resumable=True)
            if self._paused:
                channel.pauseProducing()
        attempt = Attempt(link, channel, witness, self._tell)
        channel.request(request, weight, link)
        self._attempt = attempt
        if self._channel is None:
            self._channel = channel
            self._open_timer = self._gateway.wheel.call_later(OPEN_SECONDS, self._open_late)
            early, self._early = self._early, []
            for call in early:
                call(channel)
        return attempt

    def _tell(self, code: str, message: str) -> None:
        if self.ended or (code == INPUT_RECORDED and code in self._told):
            return  # of the device's next link, for the same person
        self._told.add(code)
        self._receiver.notice_received(message)

    def _open_late(self) -> None:
        if self.opened or self.ended or self._channel is None:
            return
        text = f"{printable(self._opening.device or '', 64)} did not answer for {OPEN_SECONDS:g} s"
        self._outcome = Outcome(status="error", code=ErrorCode.TIMEOUT.value, message=text)
        self._channel.reset(ErrorCode.CANCELLED, text)

    def _refused(self, failure: Failure, petition: LocalPetition) -> None:
        """The gate said no, or an attempt that waited there was ended."""
        if self._petition is petition:
            self._petition = None
        if self.ended:
            return
        error = failure.value
        if isinstance(error, OpenRefused):
            code, message = self._words(error)
        elif isinstance(error, StoreError):
            code, message = error.code, str(error)
        else:
            self._log.failure("a session could not be opened", failure)
            code, message = ErrorCode.INTERNAL.value, "the gateway failed; its log says why"
        if self._away_since is not None and self._may_go_on(code):
            self._ask_later()
            return
        self._give_up(outcome_of_closing(code, message, self.opened))

    def _words(self, error: OpenRefused) -> tuple[str, str]:
        """Return code and text of a refusal.

        The gate has hidden what is not theirs to see; of what is not there, or so hidden, it is
        said for what it was wanted.
        """
        if error.code != ErrorCode.NOT_FOUND:
            return error.code, error.message
        opening = self._opening
        who = f" as {printable(opening.login, 64)}" if opening.login else ""
        return (
            ErrorCode.NOT_FOUND.value,
            f"there is no device {printable(opening.device or '', 64)!r} on which you may use "
            f"{opening.handler}{who} (list yours with: rshell devices)",
        )

    # -- away ------------------------------------------------------------------------------------

    def _may_go_on(self, code: str) -> bool:
        """Whether another attempt makes sense after this refusal of a repeated one."""
        assert self._away_since is not None
        late = self._gateway.wheel.seconds() - self._away_since >= GRACE_SECONDS
        return not late and ErrorCode.read(code) in _PASSING

    def _depart(self, reason: str) -> None:
        if self.ended:
            return
        if self._away_since is None:
            self._away_since = self._gateway.wheel.seconds()
            if self.opened:
                self._receiver.link_changed(reason)
            # Not from within the link's own turn: it may be telling the others, too.
            self._gateway.wheel.call_next_turn(self._ask)
        elif self._gateway.wheel.seconds() - self._away_since >= GRACE_SECONDS:
            text = f"the device was away for {GRACE_SECONDS:g} s ({reason})"
            self._give_up(
                Outcome(status="lost", code=ErrorCode.LINK_LOST.value, message=text[:1024])
            )
        else:
            self._ask_later()

    def _ask_later(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._gateway.wheel.call_later(RETRY_SECONDS, self._ask)

    def _give_up(self, outcome: Outcome) -> None:
        """Nothing more will come: deliver what has, then tell this outcome."""
        channel = self._channel
        if self._outcome is None:
            self._outcome = outcome
        if channel is None or channel.closed:
            self._end()
        else:
            channel.abandon(ErrorCode.LINK_LOST, outcome.message or "")

    # -- sending ---------------------------------------------------------------------------------

    def _on_channel(self, call: Callable[[StreamChannel], None]) -> None:
        if self.ended:
            return
        if self._channel is None:
            self._early.append(call)
        else:
            call(self._channel)

    def write(self, data: bytes) -> None:
        """Send input.  The door bounds what it writes ahead: see `registerProducer`."""
        if self._attempt is not None:
            self._attempt.bytes_in += len(data)
        self._on_channel(lambda channel: channel.write(data))

    def write_eof(self) -> None:
        """Say that no input follows."""
        self._on_channel(StreamChannel.loseConnection)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take input from a producer as fast as the device reads (`IConsumer`)."""
        self._on_channel(lambda channel: channel.registerProducer(producer, streaming))

    def unregisterProducer(self) -> None:
        """The producer is done (`IConsumer`)."""
        self._on_channel(StreamChannel.unregisterProducer)

    def send_urgent(self, kind: str, body: dict[str, Any]) -> None:
        """Send an event that is acted on at once: ``window``, ``signal``."""
        self._on_channel(lambda channel: channel.send_event(kind, body, urgent=True))

    def abort(self, message: str = "") -> None:
        """End the session here and on the device; the receiver is told nothing more."""
        self._leave(ErrorCode.CANCELLED, message)

    def detach(self, message: str = "the operator's connection is gone") -> None:
        """End this end, and let what runs run on; the receiver is told nothing more."""
        self._leave(ErrorCode.LINK_LOST, message)

    def _leave(self, code: ErrorCode, message: str) -> None:
        if self.ended:
            return
        self.ended = True
        self._stop_waiting()
        if self._petition is not None:
            self._petition.give_up(code.value, message or "the operator gave up")
        if self._channel is not None:
            self._channel.reset(code, message)

    def _stop_waiting(self) -> None:
        self._early.clear()
        for timer in (self._retry, self._open_timer):
            if timer is not None:
                timer.cancel()

    # -- receiving -------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop delivery; the device stalls once its window is full."""
        self._paused = True
        if self._channel is not None:
            self._channel.pauseProducing()

    def resume(self) -> None:
        """Deliver again."""
        self._paused = False
        if self._channel is not None:
            self._channel.resumeProducing()

    # -- ResumableReceiver -----------------------------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        if self._attempt is not None:
            self._attempt.accepted()
        if self.ended:
            return
        was_away, self._away_since = self._away_since is not None, None
        if not self.opened:
            self.opened = True
            self._receiver.session_opened()
        elif was_away:
            self._receiver.link_changed(None)

    def data_received(self, data: bytes, stderr: bool) -> None:
        if self._attempt is not None:
            self._attempt.bytes_out += len(data)
        if not self.ended:
            self._receiver.output_received(data, stderr)

    def input_ended(self) -> None:
        if not self.ended:
            self._receiver.output_ended()

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome":
            if self._attempt is not None:
                self._attempt.outcome(body)
            self._outcome = read_outcome(body)
        elif not self.ended:
            self._receiver.event_received(kind, body)

    def channel_detached(self, reason: str) -> None:
        self._attempt_over(ErrorCode.LINK_LOST.value, reason)
        self._depart(reason)

    def channel_closed(self, code: str, message: str) -> None:
        self._attempt_over(code, message)
        if self._outcome is None:
            self._outcome = outcome_of_closing(code, message, self.opened)
        self._end()

    def _attempt_over(self, code: str, message: str) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.over(code, message)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._stop_waiting()
        assert self._outcome is not None
        self._receiver.session_ended(self._outcome)
