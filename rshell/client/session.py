"""Session: one use of a handler on a device, as the operator's end sees it.

It wraps the stream of the current attempt.  The session's id, its attempt number and the end's
offsets are kept here and in the channel, apart from the link, so that a broken link can be gone
around by opening again (rule R1).  Today a broken link ends the session with ``lost``.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.client.errors import Refused, RshellError
from rshell.client.outcomes import Outcome, outcome_of_closing, read_outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.constants import DEFAULT_WINDOW, SESSION_BYTES, WEIGHT_NORMAL
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Opened
from rshell.link.protocol import LinkProtocol

__all__ = ["SIGNALS", "Session", "SessionReceiver"]

#: What devices know: Linux's signals, whatever the system of this machine has.
SIGNALS = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE",
    "PROF", "PWR", "QUIT", "SEGV", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
})  # fmt: skip

#: A device that accepts nothing for this long is stuck, though its link lives.
OPEN_SECONDS = 30.0


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
    and it is paused while the device does not read.

    Args:
        device: Name or id; None for a handler of the gateway's own.
        handler: The verb.
        receiver: Who takes the output.

    Attributes:
        session_id: 16 random bytes; names the session everywhere, also in the audit log.
        attempt: How many times it was opened.
        opened: Whether the device has accepted.
    """

    def __init__(self, device: str | None, handler: str, receiver: SessionReceiver) -> None:
        self.session_id = os.urandom(SESSION_BYTES)
        self.attempt = 0
        self.opened = False
        self.device = device
        self.handler = handler
        self._receiver = receiver
        self._channel: StreamChannel | None = None
        self._outcome: Outcome | None = None
        self._ended = False
        self._waiting: list[Deferred[Outcome]] = []
        self._timer: WheelTimer | None = None

    # -- opening ---------------------------------------------------------------------------------

    def start(
        self,
        link: LinkProtocol,
        wheel: TimerWheel,
        request: dict[str, Any],
        *,
        login: str | None = None,
        weight: int = WEIGHT_NORMAL,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        """Open it over a link.

        Args:
            link: A welcomed link.
            wheel: For the limit of `OPEN_SECONDS`.
            request: The handler's own, as JSON values.
            login: The account on the device; None asks for its default.
            weight: The share of a busy link.
            window: Bytes the device may be ahead of the receiver.

        Raises:
            Refused: The link takes no such stream: it is full, closed, or the request too large.
        """
        channel = StreamChannel(link, self, window)
        self.attempt += 1
        opening = Open(
            handler=self.handler,
            session=self.session_id,
            attempt=self.attempt,
            device=self.device,
            login=login,
            request=request,
        )
        try:
            channel.request(opening, weight)
        except LocalProtocolError as error:
            closed = link.closed or link.core.goaway_received
            code = ErrorCode.LINK_LOST if closed else ErrorCode.BAD_REQUEST
            raise Refused(code.value, str(error)) from None
        self._channel = channel
        self._timer = wheel.call_later(OPEN_SECONDS, self._open_late)

    def _open_late(self) -> None:
        who = self.device or "the gateway"
        self._end(
            Outcome(
                status="error",
                code=ErrorCode.TIMEOUT.value,
                message=f"{who} did not answer for {OPEN_SECONDS:g} s",
            )
        )

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
            name: One of `SIGNALS`: without SIG, such as ``INT`` (RFC 4254 section 6.9).

        Raises:
            RshellError: Code ``bad-request``: there is no such signal.
        """
        if name not in SIGNALS:
            raise RshellError(
                ErrorCode.BAD_REQUEST.value,
                f"there is no signal {printable(name, 40)!r}",
                "signals are named without SIG: INT, TERM, KILL, HUP, USR1 …",
            )
        self._urgent("signal", {"signal": name})

    def cancel(self) -> None:
        """Ask for the end of what runs: TERM, and KILL 5 s later.  The outcome still comes."""
        self._urgent("cancel", {})

    def abort(self) -> None:
        """End the session here and now, whatever the device says; its outcome is ``lost``."""
        self._end(
            Outcome(status="lost", code=ErrorCode.CANCELLED.value, message="given up by this end")
        )

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

    def _end(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        self._outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None and not self._channel.closed:
            self._channel.reset(ErrorCode.CANCELLED, "")
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(outcome)

    # -- ChannelReceiver -------------------------------------------------------------------------

    def channel_opened(self, opened: Opened) -> None:
        self.opened = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended:
            self._receiver.session_opened()

    def data_received(self, data: bytes, stderr: bool) -> None:
        if not self._ended:
            self._receiver.output_received(data, stderr)

    def input_ended(self) -> None:
        """The outcome says more."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        if kind == "outcome":
            # Told once it is acknowledged: whoever waits may close the link at once.
            self._outcome = read_outcome(body)
        elif not self._ended:
            self._receiver.event_received(kind, body)

    def channel_closed(self, code: str, message: str) -> None:
        if self._outcome is None:
            self._outcome = outcome_of_closing(code, message, self.opened)
        self._end(self._outcome)


def encode_request(request: Any) -> dict[str, Any]:
    """Return a handler's request as JSON values: a `msgspec.Struct` or a dict; bytes as base64."""
    if isinstance(request, dict):
        built: dict[str, Any] = msgspec.to_builtins(request)
        return built
    # What equals its default is left out: a device may be older than this client.
    encoded: dict[str, Any] = msgspec.to_builtins(request)
    for field in msgspec.structs.fields(request):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if default is not msgspec.NODEFAULT and getattr(request, field.name) == default:
            del encoded[field.encode_name]
    return encoded
