"""The one gate: whatever door an operator uses, a device is reached through `Switchboard.open`.

::

    policy  ->  audit row, committed  ->  route  ->  stream  ...  outcome  ->  audit row

A door says how the stream is joined to its operator (`Joiner`); it holds no second way in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditEnd, AuditRecord
from rshell.access.printable import printable
from rshell.access.roles import decide
from rshell.gateway.presence import LiveDevice
from rshell.gateway.summaries import kept
from rshell.handlers import PRIORITIES
from rshell.link.core.constants import WEIGHT_NORMAL
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Outcome, SessionReport, Sessions
from rshell.link.protocol import LinkProtocol
from rshell.store.records import AuditRow, Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Caller", "LiveSession", "OpenRefused", "StreamEnder", "Switchboard"]

#: An outcome that nobody collected for longer than this is nobody's but the audit's (rule R7).
GRACE_MS = 60_000
MAX_MESSAGE = 240
#: Audit rows of one session read at once.
PAGE_ROWS = 1_000

Ended = Callable[[dict[str, Any] | None, str, str], None]


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks, and through which door."""

    operator: Operator
    door: str
    address: str


class OpenRefused(Exception):
    """The gate says no; the text is for the operator.

    Attributes:
        code: A stable word.
        message: What happened, to which device, and what to do.
    """

    def __init__(self, code: ErrorCode | str, message: str) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message


class StreamEnder(Protocol):
    """A stream that the gate may have to end."""

    def broken(self, code: str, message: str) -> None:
        """End it at both ends."""


Join = Callable[[LinkProtocol, Open, Ended, int], StreamEnder]


@attrs.define(eq=False, kw_only=True)
class LiveSession:
    """One open stream between an operator and a device."""

    session: bytes
    caller: Caller
    device: Device
    handler: str
    login: str | None
    row: int
    stream: StreamEnder | None = None


class Switchboard:
    """Opens streams to devices, and knows those that are open."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sessions: dict[int, LiveSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> Iterable[LiveSession]:
        """Return what is open now."""
        return list(self._sessions.values())

    async def open(self, caller: Caller, request: Open, join: Join) -> LiveSession:
        """Open a stream to a device.

        Args:
            caller: Who, through which door.
            request: As the operator sent it; ``device`` names the device.
            join: Opens the stream on the device's link and joins it to the operator:
                ``join(device_link, device_open, ended, weight)``; raises LocalProtocolError if
                the link takes no stream, OpenRefused if the operator is gone.

        Raises:
            OpenRefused: Policy, no such device, offline, too many streams; audited.
        """
        found, device = await self._find(request.device or "")
        decision = decide(caller.operator, device, request.handler, request.login)
        if not decision:
            await self._audit_refusal(caller, device, request, ErrorCode.POLICY, decision.reason)
            raise OpenRefused(ErrorCode.POLICY, decision.reason)
        if request.attempt > 1 or request.resume is not None:
            await self._check_same_operator(caller, device, request)
        row = await self._gateway.store.append_audit(self._row(caller, device, request, opens=True))
        session = LiveSession(
            session=request.session,
            caller=caller,
            device=device,
            handler=request.handler,
            login=request.login,
            row=row,
        )
        if self._gateway.revocation.is_revoked("operator", caller.operator.name):
            self._finish(row, Outcome(status="refused", code="revoked"))
            raise OpenRefused(ErrorCode.REVOKED, "this operator is revoked")
        # The device may have come, gone or been displaced while the row was written.
        live = self._gateway.presence.find(device.id)
        if live is None or live.link.closed:
            message = (
                self._offline_text(device)
                if found is None
                else f"{device.name} is offline: it disconnected just now"
            )
            self._finish(row, Outcome(status="offline", code="offline", message=message))
            raise OpenRefused(ErrorCode.OFFLINE, message)
        self._sessions[row] = session
        try:
            session.stream = join(
                live.link,
                self._device_open(caller, request),
                lambda outcome, code, message: self._ended(row, outcome, code, message),
                self._weight(live, request.handler),
            )
        except LocalProtocolError as error:
            del self._sessions[row]
            self._finish(row, Outcome(status="refused", code="streams", message=str(error)))
            raise OpenRefused(ErrorCode.STREAMS, f"{device.name}: {error}") from None
        except OpenRefused as error:
            del self._sessions[row]
            self._finish(row, Outcome(status="refused", code=error.code, message=error.message))
            raise
        return session

    async def _find(self, name_or_id: str) -> tuple[LiveDevice | None, Device]:
        live = self._gateway.presence.find(name_or_id)
        if live is not None:
            return live, live.device
        device = await self._gateway.store.device(name_or_id)
        if device is None or not device.active:
            raise OpenRefused(
                ErrorCode.NOT_FOUND,
                f"no device is called {printable(name_or_id, 64)!r} (see: rshell devices)",
            )
        return None, device

    async def _check_same_operator(self, caller: Caller, device: Device, request: Open) -> None:
        first = await self._first_row(request.session)
        if first is None:
            return
        if first.record.operator != caller.operator.name or first.record.device != device.id:
            message = "this session belongs to somebody else"
            await self._audit_refusal(caller, device, request, ErrorCode.POLICY, message)
            raise OpenRefused(ErrorCode.POLICY, message)

    async def _first_row(self, session: bytes) -> AuditRow | None:
        """Return the row that began a session: it says whose it is (rule R6).

        All rows are looked through, because anybody may add rows by asking for the session:
        refusals, or first attempts, which a device does not run twice.
        """
        first: AuditRow | None = None
        before: int | None = None
        while True:
            rows = await self._gateway.store.audit_rows(
                session=session.hex(), limit=PAGE_ROWS, before=before
            )
            for row in rows:
                if row.record.opens and row.record.kind == "session":
                    first = row
            if len(rows) < PAGE_ROWS:
                return first
            before = rows[-1].seq

    def _device_open(self, caller: Caller, request: Open) -> Open:
        """Write the device's OPEN field by field: nothing of the operator's is forwarded."""
        return Open(
            handler=request.handler,
            session=request.session,
            attempt=request.attempt,
            age_ms=request.age_ms,
            login=request.login,
            operator=caller.operator.name,
            request=request.request,
        )

    def _weight(self, live: LiveDevice, handler: str) -> int:
        for entry in self._gateway.catalogues.get(live.hello.catalogue) or ():
            if entry.name == handler:
                return PRIORITIES.get(entry.priority, WEIGHT_NORMAL)
        return WEIGHT_NORMAL

    def _offline_text(self, device: Device) -> str:
        if device.last_seen is None:
            return f"{device.name} is offline: it has never connected"
        seen = datetime.fromtimestamp(device.last_seen / 1_000_000, UTC)
        return f"{device.name} is offline: last seen {seen:%Y-%m-%d %H:%M:%S} UTC"

    # -- the audit -----------------------------------------------------------------------------

    def _row(self, caller: Caller, device: Device, request: Open, *, opens: bool) -> AuditRecord:
        return AuditRecord(
            kind="session",
            opens=opens,
            operator=caller.operator.name,
            device=device.id,
            device_name=device.name,
            handler=request.handler,
            login=request.login,
            session=request.session.hex(),
            attempt=request.attempt,
            door=caller.door,
            address=caller.address,
            details={"request": kept(request.request)},
        )

    async def _audit_refusal(
        self, caller: Caller, device: Device, request: Open, code: ErrorCode, message: str
    ) -> None:
        row = self._row(caller, device, request, opens=False)
        await self._gateway.store.append_audit(
            attrs.evolve(row, status="refused", code=code.value, message=message)
        )

    def _ended(self, row: int, body: dict[str, Any] | None, code: str, message: str) -> None:
        self._sessions.pop(row, None)
        if body is not None:
            outcome = _outcome_from(body)
        elif code == ErrorCode.LINK_LOST.value:
            # Not the end of the session: it may be resumed, or its device reports the outcome.
            outcome = Outcome(status="detached", code=code, message=message)
        else:
            outcome = Outcome(status="refused", code=code, message=message)
        self._finish(row, outcome)

    def _finish(self, row: int, outcome: Outcome) -> None:
        written = self._gateway.store.finish_audit(
            AuditEnd(
                refers=row,
                status=printable(outcome.status, 32),
                exit_code=outcome.exit_code,
                code=printable(outcome.code, 64) if outcome.code else None,
                message=printable(outcome.message, MAX_MESSAGE) if outcome.message else None,
                details={"signal": printable(outcome.signal, 16)} if outcome.signal else {},
            )
        )
        written.addErrback(self._log_failure)

    def _log_failure(self, failure: Failure) -> None:
        self._log.error("the audit could not be written: {why}", why=failure.getErrorMessage())

    # -- what a device reports -----------------------------------------------------------------

    async def judge_sessions(self, entry: LiveDevice, report: Sessions) -> None:
        """Say which of a device's sessions may live, and complete the audit (section 9)."""
        end: list[bytes] = []
        acknowledged: list[bytes] = []
        for session in report.sessions:
            if not await self._may_live(entry.device, session):
                end.append(session.session)
            if session.outcome is not None and await self._complete(entry.device, session):
                acknowledged.append(session.session)
        if not entry.link.closed:
            entry.link.sessions(Sessions(end=end, acknowledged=acknowledged))

    async def _may_live(self, device: Device, session: SessionReport) -> bool:
        operator = await self._gateway.store.operator(session.operator)
        if operator is None or not decide(operator, device, session.handler, session.login or None):
            return False
        # What no committed row tells of, did not come through the gate.
        first = await self._first_row(session.session)
        return (
            first is not None
            and first.record.operator == session.operator
            and first.record.device == device.id
        )

    async def _complete(self, device: Device, session: SessionReport) -> bool:
        """Write an outcome that nobody collected; say whether the device may forget it."""
        assert session.outcome is not None
        rows = await self._gateway.store.audit_rows(session=session.session.hex(), limit=100)
        opening = [row for row in rows if row.record.opens and row.record.device == device.id]
        if opening and not _has_outcome(rows):
            newest = max(opening, key=lambda row: row.seq)
            await self._gateway.store.append_audit(
                attrs.evolve(
                    newest.record,
                    kind="session.outcome",
                    opens=False,
                    status=printable(session.outcome.status, 32),
                    exit_code=session.outcome.exit_code,
                    code=printable(session.outcome.code, 64) if session.outcome.code else None,
                    message=printable(session.outcome.message or "", MAX_MESSAGE) or None,
                    details={"reported": "by the device on its return"},
                )
            )
        return session.ended_ms > GRACE_MS

    # -- the end -------------------------------------------------------------------------------

    def end_where(
        self, matches: Callable[[LiveSession], bool], code: ErrorCode, message: str
    ) -> int:
        """End the sessions that match; return how many."""
        ending = [session for session in self.sessions() if matches(session)]
        for session in ending:
            if session.stream is not None:
                session.stream.broken(code.value, message)
        return len(ending)

    def complete_interrupted(self) -> Deferred[None]:
        """At start: mark what an earlier run of this gateway left open as interrupted."""
        return Deferred.fromCoroutine(self._complete_interrupted())

    async def _complete_interrupted(self) -> None:
        for row in await self._gateway.store.unfinished_audit():
            await self._gateway.store.finish_audit(
                AuditEnd(
                    refers=row.seq,
                    status="interrupted",
                    message="the gateway stopped before the end was known",
                )
            )


def _outcome_from(body: dict[str, Any]) -> Outcome:
    """Read what passed by on its way from the device: hostile until typed."""
    import msgspec

    try:
        return msgspec.convert(body, Outcome)
    except msgspec.ValidationError:
        return Outcome(status="error", code="protocol", message="the device sent a bad outcome")


def _has_outcome(rows: Iterable[AuditRow]) -> bool:
    told = {"ok", "exit", "signal", "timeout", "error"}
    return any(row.record.status in told for row in rows)
