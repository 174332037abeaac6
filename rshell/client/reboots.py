"""A reboot as an operator's end sees it: asked for, on its way, and back with another boot id.

The device's own journal decides what became of it, not that a link came back: a device may lose
its link without restarting, and restart without having been told to.  The session that asks stays
open over the reboot; where it cannot go on, the device is asked for the job by its id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater

from rshell.client.client import Client
from rshell.client.commands import Collected
from rshell.client.errors import RshellError
from rshell.client.outcomes import Outcome
from rshell.client.session import Session
from rshell.handlers import RebootRequest
from rshell.handlers.reboot import RebootStep, read_steps

__all__ = ["WAIT_SECONDS", "Reboot"]

#: Most devices are back within two minutes; slow firmware and file system checks take longer.
WAIT_SECONDS = 300.0
#: After ``going``: a command that fails at once is worth hearing of.
ASKED_SECONDS = 3.0
#: Between two questions what became of a job.
_ASK_SECONDS = 2.0
#: For one answer; a device that is back answers at once.
_ANSWER_SECONDS = 20.0
#: Outcomes after which only the device's journal can tell.
_OPEN = frozenset({"lost", "offline"})


class Reboot:
    """Asks one device for a reboot, and waits for what the caller wants to know.

    Args:
        client: The operator's.
        device: Name or id.
        request: ``reboot``, ``poweroff`` or ``restart-agent``.
        wait_seconds: How long, after its time, to wait until the device is back; None waits only
            until it is on its way.
        progress: Called with each step that the device tells, and with ``away`` and ``back``.
        login: The account to ask as.
    """

    def __init__(
        self,
        client: Client,
        reactor: Any,
        device: str,
        request: RebootRequest,
        *,
        wait_seconds: float | None = None,
        progress: Callable[[RebootStep], None] = lambda step: None,
        login: str | None = None,
    ) -> None:
        self.device = device
        self._client = client
        self._reactor = reactor
        self._request = request
        self._wait_seconds = wait_seconds
        self._progress = progress
        self._login = login
        self._buffer = bytearray()
        self._accepted = self._going = False
        self._session: Session | None = None
        self._settled: Deferred[Outcome] = Deferred()
        self._deadline = 0.0
        self._away_at: float | None = None
        self._asked_timer: IDelayedCall | None = None

    @property
    def going(self) -> bool:
        """Whether the device has been told for good: nothing takes it back."""
        return self._going

    @property
    def job(self) -> str:
        """The job's id; "" before it was asked for."""
        return "" if self._session is None else self._session.session_id.hex()

    async def run(self) -> Outcome:
        """Ask, and return what there is to say by then.

        Returns:
            ``ok`` with ``result["confirmed"]``: true once the device is back with another boot id;
            false if nobody waited for that.  ``error`` with code ``unconfirmed`` if it was asked
            for and did not come back in time; other codes are the device's.

        Raises:
            RshellError: It cannot be asked for at all.
        """
        wait = self._wait_seconds or 0.0
        delay = self._request.delay_seconds
        self._deadline = self._reactor.seconds() + delay + wait
        grace = max(60.0, delay + wait) if self._wait_seconds is not None else None
        session = self._session = self._client.open(
            self.device, "reboot", self._request, self, login=self._login, grace_seconds=grace
        )
        session.link_changed = self._link_changed
        session.write_eof()
        session.outcome.addCallback(self._ended)
        limit = None
        if self._wait_seconds is not None:
            limit = self._reactor.callLater(delay + wait, self._too_late)
        try:
            outcome = await self._settled
        finally:
            for timer in (limit, self._asked_timer):
                if timer is not None and timer.active():
                    timer.cancel()
        if outcome.status in _OPEN and self._accepted:
            outcome = await self._by_journal(outcome)
        return outcome

    def cancel(self) -> None:
        """Take it back if its time has not come; else only stop waiting."""
        if self._session is None or self._settled.called:
            return
        if self._going:
            self._leave(self._unconfirmed("not waited for"))
        else:
            self._session.cancel()

    # -- SessionReceiver -------------------------------------------------------------------------

    def session_opened(self) -> None:
        """The first step says more."""

    def output_received(self, data: bytes, stderr: bool) -> None:
        if stderr:
            return
        self._buffer += data
        for step in read_steps(self._buffer):
            self._accepted = True
            if step.step == "going":
                self._going = True
            self._progress(step)
            self._maybe_enough(step)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """The steps are output."""

    def _maybe_enough(self, step: RebootStep) -> None:
        """Without waiting: it is enough that the device is on its way, or has noted its time."""
        if self._wait_seconds is not None:
            return
        if step.step == "going" and self._asked_timer is None:
            self._asked_timer = self._reactor.callLater(ASKED_SECONDS, self._enough)
        elif step.step == "announced" and self._request.delay_seconds:
            self._enough()

    def _enough(self) -> None:
        result = {"job": self.job, "action": self._request.action, "confirmed": False}
        self._leave(Outcome(status="ok", message="asked for, not waited for", result=result))

    # -- the ends ----------------------------------------------------------------------------------

    def _link_changed(self, away: object) -> None:
        if self._settled.called:
            return
        if away is not None and self._away_at is None:
            self._away_at = self._reactor.seconds()
            self._progress(RebootStep(step="away"))
            if self._going and self._wait_seconds is None:
                self._enough()
        elif away is None and self._away_at is not None:
            seconds = self._reactor.seconds() - self._away_at
            self._away_at = None
            self._progress(RebootStep(step="back", seconds=seconds))

    def _ended(self, outcome: Outcome) -> None:
        if self._settled.called:
            return
        if outcome.status in _OPEN and self._going and self._wait_seconds is None:
            self._enough()
        else:
            self._settled.callback(outcome)

    def _too_late(self) -> None:
        self._leave(self._unconfirmed(f"not back within {self._wait_seconds:g} s"))

    def _unconfirmed(self, why: str) -> Outcome:
        hint = f"ask again with: rshell reboot --status {self.device}"
        result = {"job": self.job, "action": self._request.action, "confirmed": False}
        text = f"asked for, not confirmed: {why}; {hint}"
        if not self._accepted:
            text = f"the device has not answered: {why}"
        return Outcome(status="error", code="unconfirmed", message=text, result=result)

    def _leave(self, outcome: Outcome) -> None:
        if self._settled.called:
            return
        self._settled.callback(outcome)
        if self._session is not None:
            self._session.detach()

    async def _by_journal(self, last: Outcome) -> Outcome:
        """Ask the device what became of the job until it can tell, or the time is over."""
        while True:
            step = await self._asked()
            if step is not None and step.decided:
                return _outcome(step)
            left = self._deadline - self._reactor.seconds()
            if left <= 0 or self._client.closed:
                return self._unconfirmed(last.message or "the device's link is lost")
            await deferLater(self._reactor, min(_ASK_SECONDS, left))

    async def _asked(self) -> RebootStep | None:
        collected = Collected(64 * 1024)
        request = RebootRequest(action="status", job=self.job)
        try:
            session = self._client.open(
                self.device, "reboot", request, collected, login=self._login
            )
        except RshellError:
            return None
        session.write_eof()
        late = self._reactor.callLater(_ANSWER_SECONDS, session.abort)
        outcome = await session.outcome
        if late.active():
            late.cancel()
        steps = read_steps(bytearray(collected.stdout))
        if outcome.status == "refused" and outcome.code == "not-found":
            # It is there, and has no such job: its journal is gone, or it never was accepted.
            return RebootStep(step="status", decided=True, status="error", code="unconfirmed",
                              message=outcome.message)  # fmt: skip
        return steps[0] if steps else None


def _outcome(step: RebootStep) -> Outcome:
    result = {"job": step.job, "action": step.action, "state": step.state}
    confirmed = {"confirmed": step.state == "done", "boot_id": step.boot_id}
    return Outcome(
        status=step.status or "error",
        code=step.code,
        message=step.message,
        result=msgspec.to_builtins(result | confirmed),
    )
