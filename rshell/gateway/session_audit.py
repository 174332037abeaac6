"""What the audit log is told of sessions.

Each attempt has a row that opens it and a row that ends it.  ``detached`` ends an attempt and not
its session: a later attempt's end, or a ``session.outcome`` row from the device's own report, says
how the session ended.  ``viewed`` ends a viewer's attempt, which never tells of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from twisted.internet.defer import gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditEnd, AuditRecord
from rshell.access.printable import printable
from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.summaries import kept
from rshell.gateway.throttle import Throttle
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, Outcome, SessionReport
from rshell.store.audit import SessionStory
from rshell.store.errors import StoreError
from rshell.store.records import Device

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["SessionAudit", "outcome_from"]

MAX_MESSAGE = 240
#: Rows about refused requests of one operator: one command on the whole fleet, then a trickle.
REFUSALS_RATE, REFUSALS_BURST = 10, 10_000
#: Ends that a start writes at once: one commit for each so many.
INTERRUPTED_BATCH = 1_000
#: These end an attempt, not its session.
_GOES_ON = {ErrorCode.LINK_LOST.value, ErrorCode.DUPLICATE.value, ErrorCode.SHUTDOWN.value}
#: The code of a viewer's end who wanted to look on no longer.
LEFT = "left"
#: The roles of its operator grant it no longer time.
_TIMES = {ErrorCode.IDLE_LIMIT.value, ErrorCode.TIME_LIMIT.value}

_GOES_ON_LATER = "the gateway stopped; later rows tell how the session went on"
_NOT_KNOWN = "the gateway stopped: whether it was done is not known"


def outcome_from(body: Mapping[str, Any]) -> Outcome:
    """Read what passed by on its way from the device: hostile until typed."""
    try:
        return msgspec.convert(body, Outcome)
    except msgspec.ValidationError:
        return Outcome(status="error", code="protocol", message="the device sent a bad outcome")


class SessionAudit:
    """Writes the rows of sessions."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._refusals = Throttle(gateway.wheel.seconds, REFUSALS_RATE, REFUSALS_BURST)

    async def opening(
        self, caller: Caller, device: Device, request: Open, rule: str | None, owner: str
    ) -> int:
        """Commit the row that opens an attempt of ``owner``'s session; return its number.

        It tells by which rule that was granted, and whose the session is if not the caller's.
        """
        granted: dict[str, Any] = {} if owner == caller.operator.name else {"session_of": owner}
        granted["rule"] = rule
        row = self._row(caller, device, request, granted)
        return await self._gateway.store.append_audit(row)

    async def refusal(
        self, caller: Caller, device: Device | None, request: Open, error: OpenRefused
    ) -> None:
        """Write that a request was refused before anything was done."""
        left_out = self._refusals.admit(caller.operator.name)
        if left_out is None:
            return
        row = self._row(caller, device, request)
        more = {"left_out": left_out} if left_out else {}
        await self._gateway.store.append_audit(
            attrs.evolve(
                row,
                status="refused",
                code=error.code,
                message=error.message,
                details={**row.details, **more},
            )
        )

    def _row(
        self,
        caller: Caller,
        device: Device | None,
        request: Open,
        granted: Mapping[str, Any] | None = None,
    ) -> AuditRecord:
        """Return a row about a request; ``granted`` is more about one that opens an attempt."""
        details: dict[str, Any] = {"request": kept(request.request)}
        if request.view:
            details["view"] = True
        if granted is not None:
            details |= granted
        return AuditRecord(
            kind="session",
            opens=granted is not None,
            operator=caller.operator.name,
            device=device.id if device else None,
            device_name=device.name if device else printable(request.device or "", 64),
            handler=request.handler,
            login=request.login,
            session=request.session.hex(),
            attempt=request.attempt,
            door=caller.door,
            address=caller.address,
            details=details,
        )

    def passed(self, session: LiveSession, outcome: Outcome) -> None:
        """The outcome passed by."""
        if session.view:
            outcome = Outcome(status="viewed", message="to its end")
        self._finish(session.row, outcome)

    def ended(self, session: LiveSession, code: str, message: str) -> None:
        """An attempt ended without an outcome."""
        if session.view and session.stream is not None:
            status = "viewed"
            if code == ErrorCode.CANCELLED.value:
                code, message = LEFT, "the viewer left"
        elif code in _GOES_ON:
            # Not the end of the session: it may be resumed, or its device reports the outcome.
            status = "detached"
            self._gateway.switchboard.unsettled.add(session.device.id, session.session)
        elif code in _TIMES:
            status = "timeout"
        else:
            status = "offline" if code == ErrorCode.OFFLINE.value else "refused"
        self._finish(session.row, Outcome(status=status, code=code, message=message))

    def _finish(self, row: int, outcome: Outcome) -> None:
        end = AuditEnd(
            refers=row,
            status=printable(outcome.status, 32),
            exit_code=outcome.exit_code,
            code=printable(outcome.code, 64) if outcome.code else None,
            message=printable(outcome.message, MAX_MESSAGE) if outcome.message else None,
            details={"signal": printable(outcome.signal, 16)} if outcome.signal else {},
        )
        written = self._gateway.store.finish_audit(end, patient=True)
        written.addErrback(self._not_written, end)

    def _not_written(self, failure: Failure, end: AuditEnd) -> None:
        if isinstance(failure.value, StoreError):
            self._gateway.audit_spool.keep(end, failure.value)
        else:
            self._log.failure("the audit could not be written", failure)

    async def complete(self, story: SessionStory, report: SessionReport) -> None:
        """Write an outcome that nobody collected, unless it is known."""
        if report.outcome is not None:
            await self.settle(story, report.outcome, report.attempt, "by the device on its return")

    async def settle(
        self, story: SessionStory, outcome: Outcome, attempt: int = 0, reported: str | None = None
    ) -> None:
        """Write how a session ended that no attempt told of, unless it is known.

        Args:
            story: What the log says of it.
            outcome: How it ended.
            attempt: The last one, 0 if it is not known.
            reported: By whom, if anybody.
        """
        if story.first is None or story.told:
            return
        await self._gateway.store.append_audit(
            attrs.evolve(
                story.first.record,
                kind="session.outcome",
                opens=False,
                attempt=attempt or story.first.record.attempt,
                status=printable(outcome.status, 32),
                exit_code=outcome.exit_code,
                code=printable(outcome.code, 64) if outcome.code else None,
                message=printable(outcome.message or "", MAX_MESSAGE) or None,
                details={"reported": reported} if reported else {},
            )
        )
        self._gateway.recordings.settled(story.first.record.session or "")

    async def complete_interrupted(self) -> None:
        """At start: mark what an earlier run of this gateway left open as interrupted."""
        left = await self._gateway.store.unfinished_audit()
        for start in range(0, len(left), INTERRUPTED_BATCH):
            # At once, so that they share a commit: there may be thousands.
            await gatherResults(
                self._gateway.store.finish_audit(
                    AuditEnd(
                        refers=row.seq,
                        status="interrupted",
                        message=_GOES_ON_LATER if row.record.session else _NOT_KNOWN,
                    )
                )
                for row in left[start : start + INTERRUPTED_BATCH]
            )
