"""HandlerRun: one handler serving one session, over as many links as that takes.

A session that the agent serves itself survives its links, not the agent.  When its stream is lost
to a broken link, the handler goes on; what it writes is kept, up to the window and a buffer, and
it is paused by its producer as usual.  The same session asked for again with a higher attempt
joins it (rules R1 to R3 of docs/protocol.md).  After `GRACE_SECONDS` without anybody the handler
is cancelled and the session is lost.  So is a handler whose outcome nobody has fetched by then.
How a session ended while nobody was there is told to the gateway (rule S1): `HandlerRun.story`.

A handler that has not used its channel when the link breaks goes on too: its first use happens
while nobody is there, and who comes back finds it.  Only `splice` needs somebody: the stream is
over then, and the next attempt runs the handler again, as nothing has happened yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.handlers import PRIORITIES, BadRequest, Outcome, ProcessRequest, decode_request
from rshell.interfaces import IDeviceContext
from rshell.link.core.ends import ResumeLost
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open
from rshell.link.protocol import LinkProtocol
from rshell_agent.channel import HandlerChannel, StreamOver
from rshell_agent.guarding import OutputLimit
from rshell_agent.run_story import RunStory, told_outcome, unheard_outcome

__all__ = ["GRACE_SECONDS", "HandlerRun", "RunHost", "RunRegister"]

#: An operator's end tries for this long (rule R7).
GRACE_SECONDS = 60.0
#: A handler that is cancelled, and neither ends nor lets it pass, loses its stream after this.
STUBBORN_SECONDS = 5.0


class RunHost(Protocol):
    """What a run asks of the agent."""

    def login_refusal(self, login: str | None) -> tuple[str, str] | None:
        """Return (code, message) if policy does not allow the login."""

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


class RunRegister(Protocol):
    """Who knows all runs."""

    def ran(self, session: bytes) -> None:
        """The session has had its effect: it must not run again."""

    def crowded(self) -> bool:
        """Whether all runs together hold as much as this agent can afford."""

    def detached(self, run: HandlerRun) -> None:
        """Nobody is there any more."""

    def attached(self, run: HandlerRun) -> None:
        """Somebody is there again."""

    def remove(self, run: HandlerRun) -> None:
        """The run is over, or the keeper's; said at least once."""


class HandlerRun:
    """Runs a handler, and decides what becomes of its exceptions.

    Args:
        handler: `rshell.interfaces.ICommandHandler`.
        link: The link that carries the session first.
        number: The stream's number; the peer waits for an answer.
        request: The peer's OPEN.
        refusal: (code, message) if the session must not run, to be told at the channel's first
            use; a handler that splices instead leaves that to the keeper.
        host: Policy, and the way to the keeper.
        register: Told what becomes of it.
        clock: For the grace.

    Attributes:
        attempt: The highest that joined.
        used: Whether the session counts as run.
    """

    _log = Logger()

    def __init__(
        self,
        handler: Any,
        link: LinkProtocol,
        number: int,
        request: Open,
        refusal: tuple[str, str] | None,
        host: RunHost,
        register: RunRegister,
        clock: IReactorTime,
    ) -> None:
        self.session = request.session
        self.operator = request.operator
        self.login = request.login
        self.handler_name = request.handler
        self.attempt = request.attempt
        self.used = False
        self._handler = handler
        self._request = request
        self._refusal = refusal
        self._host = host
        self._register = register
        self._clock = clock
        self._task: Deferred[None] | None = None
        self._grace: IDelayedCall | None = None
        self._started = clock.seconds()
        self._alone_since: float | None = None
        self._outcome: Outcome | None = None
        self._deadline: IDelayedCall | None = None
        self._stubborn: IDelayedCall | None = None
        #: What is told of it, whatever the handler makes of being cancelled.
        self._verdict: Outcome | None = None
        weight = PRIORITIES[handler.priority]
        self._channel = HandlerChannel(link, number, request, weight, self, clock)

    def start(self, device: IDeviceContext) -> None:
        """Decode the request and run."""
        try:
            request = decode_request(self._request.request, self._handler.request_type)
        except BadRequest as error:
            self._channel.refuse(ErrorCode.BAD_REQUEST.value, str(error))
            self._forget()
            return
        if self._request.timeout_ms is not None:
            seconds = self._request.timeout_ms / 1000
            self._deadline = self._clock.callLater(seconds, self._out_of_time, seconds)
        self._task = Deferred.fromCoroutine(self._run(request, device))

    # -- by the dispatcher -----------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """Bytes held for an end that is away."""
        return self._channel.kept_bytes

    @property
    def story(self) -> RunStory:
        """What there is to tell of the session."""
        outcome, ending = None, self._channel.ending
        if self._outcome is not None:
            outcome = told_outcome(self._outcome)
        elif ending is not None:
            outcome = unheard_outcome(*ending)
        return RunStory(
            session=self.session,
            operator=self.operator or "",
            handler=self.handler_name,
            login=self.login or "",
            attempt=self.attempt,
            started=self._started,
            alone_since=self._alone_since,
            outcome=outcome,
        )

    def judge(self, request: Open) -> tuple[str, str] | None:
        """Return (code, message) if an OPEN of this session may not join it."""
        if request.operator != self.operator:
            return ErrorCode.POLICY.value, "the session belongs to another operator"
        if request.handler != self.handler_name:
            message = f"the session is of the handler {self.handler_name}"
            return ErrorCode.BAD_REQUEST.value, message
        if request.view:
            message = f"{self.handler_name} runs in the agent: it cannot be watched, only joined"
            return ErrorCode.NOT_FOUND.value, message
        if request.attempt <= self.attempt:
            message = f"attempt {self.attempt} came before this one"
            return ErrorCode.DUPLICATE.value, message
        return None

    def rejoin(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Go on over another stream; an older one that seems to live is told ``duplicate``."""
        try:
            self._channel.rejoin(link, number, request)
        except ResumeLost as error:
            link.refuse(number, ErrorCode.LOST, str(error))
            return
        self.attempt = request.attempt
        self._stop_grace()
        self._alone_since = None
        self._register.attached(self)

    def expel(self, code: str, message: str) -> None:
        """End the session because who came back may not go on; a stream of theirs is refused.

        The older stream, if there still seems to be one, carries no word to anybody.
        """
        self._leave_alone()
        self.end(code, message)

    def end(self, code: ErrorCode | str, message: str) -> None:
        """End stream and handler."""
        self._channel.end(str(code), message)
        self._forget()
        self._cancel_soon()

    def stop(self) -> None:
        """The agent is going down."""
        self.end(ErrorCode.SHUTDOWN, "the device's agent was stopped, and the handler with it")
        self._cancel()

    # -- ChannelOwner ----------------------------------------------------------------------------

    def admit(self) -> tuple[str, str] | None:
        refusal = self._host.login_refusal(self.login) or self._refusal
        if refusal is None:
            self.used = True
            self._register.ran(self.session)
        return refusal

    def splice(
        self,
        link: LinkProtocol,
        number: int,
        request: Open,
        process: ProcessRequest,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
    ) -> None:
        self._forget()  # the keeper knows it from here on, and keeps its time
        limits = [limit for limit in (process.timeout_ms, request.timeout_ms) if limit is not None]
        if limits:
            process = msgspec.structs.replace(process, timeout_ms=min(limits))
        _stop(self._deadline)
        self._host.splice(link, number, request, process, weight, ended)

    def channel_detached(self) -> None:
        if self._grace is None:
            self._grace = self._clock.callLater(GRACE_SECONDS, self._expire)
            self._leave_alone()

    def channel_cancelled(self) -> None:
        self._cancel_soon()

    def channel_over(self, code: str, message: str) -> None:
        self._forget()
        if code != ErrorCode.NONE:
            self._cancel_soon()

    def crowded(self) -> bool:
        return self._register.crowded()

    def channel_flooded(self, limit: OutputLimit) -> None:
        self._end_soon(_error(ErrorCode.OUTPUT_LIMIT, self._too_much(limit)))

    def channel_broke(self, failure: Failure) -> None:
        if isinstance(failure.value, OutputLimit | StreamOver):
            return  # whoever raised it has seen to it
        self._log.failure("handler {name} failed", failure, name=self._handler.name)
        self._end_soon(_error(ErrorCode.INTERNAL, f"the handler {self._handler.name} failed"))

    # -- the handler -----------------------------------------------------------------------------

    async def _run(self, request: Any, device: IDeviceContext) -> None:
        try:
            outcome = await self._handler.run(request, self._channel, device)
            if not isinstance(outcome, Outcome):
                raise TypeError(f"run() returned {type(outcome).__name__}, not an Outcome")
            self._finish(outcome)
        except StreamOver:
            pass
        except BadRequest as error:
            self._fail(ErrorCode.BAD_REQUEST, str(error))
        except OutputLimit as limit:
            self._fail(ErrorCode.OUTPUT_LIMIT, self._too_much(limit))
        except CancelledError:
            self._fail(ErrorCode.CANCELLED, "cancelled")
        except (
            Exception,
            SystemExit,
        ):  # of a plug-in: the operator gets a code, the device's log the traceback
            self._log.failure("handler {name} failed", name=self._handler.name)
            self._fail(ErrorCode.INTERNAL, f"the handler {self._handler.name} failed")
        finally:
            _stop(self._deadline)
            _stop(self._stubborn)
            if self._channel.over or not self._channel.used:
                self._forget()

    def _too_much(self, limit: OutputLimit) -> str:
        return f"the handler {self._handler.name} was stopped: {limit}"

    def _fail(self, code: ErrorCode, message: str) -> None:
        if self._channel.over or self._outcome is not None:
            return
        if not self._channel.used and self._verdict is None:
            self._channel.refuse(code.value, message)
        else:
            self._finish(_error(code, message))

    def _finish(self, outcome: Outcome) -> None:
        if self._outcome is not None:
            return
        outcome = self._verdict or outcome
        try:
            self._channel.finish(outcome)
        except StreamOver:
            return
        except LocalProtocolError as error:
            self._log.error("outcome of {name}: {error}", name=self._handler.name, error=error)
            code = ErrorCode.INTERNAL.value
            outcome = Outcome(status="error", code=code, message="outcome too large")
            self._channel.finish(outcome)
        self._outcome = outcome

    def _cancel_soon(self) -> None:
        # not from here: the handler may be the one who ended it, and be running just now
        self._clock.callLater(0, self._cancel)

    def _cancel(self) -> None:
        if self._task is None or self._task.called:
            return
        if self._stubborn is None:
            self._stubborn = self._clock.callLater(STUBBORN_SECONDS, self._give_up)
        self._task.cancel()

    def _give_up(self) -> None:
        """Tell the end of a handler that does not end; its code goes on, with nobody to hear it."""
        self._log.error("handler {name} goes on though cancelled", name=self._handler.name)
        message = f"cancelled; the handler {self._handler.name} does not stop"
        if not self._channel.over:
            self._finish(_error(ErrorCode.CANCELLED, message))

    def _out_of_time(self, seconds: float) -> None:
        message = f"{self._handler.name} took longer than {seconds:g} s"
        code = ErrorCode.TIMEOUT.value
        self._end_soon(Outcome(status="timeout", code=code, message=message))

    def _end_soon(self, outcome: Outcome) -> None:
        """Cancel the handler, and tell this outcome; the first of several is told."""
        if self._verdict is None and self._outcome is None:
            self._verdict = outcome
            self._cancel_soon()

    # -- the grace -------------------------------------------------------------------------------

    def _expire(self) -> None:
        self._grace = None
        name, seconds = self.handler_name, f"{GRACE_SECONDS:g} s"
        message = f"nobody came back to {name} within {seconds}: it was cancelled"
        self.end(ErrorCode.LINK_LOST, message)

    def _leave_alone(self) -> None:
        if self._alone_since is None:
            self._alone_since = self._clock.seconds()
        self._register.detached(self)

    def _stop_grace(self) -> None:
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.cancel()

    def _forget(self) -> None:
        self._stop_grace()
        self._register.remove(self)


def _error(code: ErrorCode, message: str) -> Outcome:
    return Outcome(status="error", code=code.value, message=message[:1024])


def _stop(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
