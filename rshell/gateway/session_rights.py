"""Whose a session is, and whether it may go on: asked at every attempt and every return (R6, S2).

The store answers, not this process's memory: what was revoked while a device was away, or before
this gateway started, ends like what is revoked now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from rshell.access.recordings import has_terminal
from rshell.access.roles import Decision
from rshell.gateway.callers import Caller, OpenRefused
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.parking import GRACE_SECONDS
from rshell.gateway.presence import LiveDevice
from rshell.gateway.session_audit import SessionAudit
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, SessionReport, Sessions
from rshell.store.records import AuditRecord, Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Earlier", "SessionRights"]


@attrs.frozen(kw_only=True)
class Earlier:
    """What a session is that an attempt joins, or begins.

    Attributes:
        owner: Whose it is.
        handler, login, request: As it was asked for when it began.
        rule: By which somebody else joins it; None for its owner.
    """

    owner: Operator
    handler: str
    login: str | None
    request: Mapping[str, Any]
    rule: str | None = None

    @classmethod
    def new(cls, owner: Operator, request: Open) -> Earlier:
        """Return a session that begins with this."""
        return cls(
            owner=owner, handler=request.handler, login=request.login, request=request.request
        )

    @classmethod
    def of(cls, owner: Operator, record: AuditRecord, rule: str | None) -> Earlier:
        """Return a session that began with this row."""
        request = record.details.get("request")
        return cls(
            owner=owner,
            handler=record.handler or "",
            login=record.login,
            request=request if isinstance(request, dict) else {},
            rule=rule,
        )

    @property
    def terminal(self) -> bool:
        """Whether it has a terminal."""
        return has_terminal(self.handler, self.request)


class SessionRights:
    """Decides about sessions that began before."""

    def __init__(self, gateway: Gateway, audit: SessionAudit) -> None:
        self._gateway = gateway
        self._audit = audit

    async def check_again(
        self, caller: Caller, device: Device, request: Open, decision: Decision
    ) -> Earlier | None:
        """Check an attempt that is not the first, or a viewer's.

        Args:
            caller: Who asks.
            device: Where.
            request: What they sent.
            decision: Whether they may use that handler there themselves.

        Returns:
            What the session is, and whose; None if nothing is known of it.

        Raises:
            OpenRefused: Another's session that is not theirs to join, another device's, or
                forbidden by now.
        """
        operator = await self._operator(caller.operator.name)
        story = await self._gateway.store.session_story(request.session.hex())
        first = story.first
        foreign = (
            first is not None
            and first.record.device == device.id
            and first.record.operator != operator.name
        )
        rule = self._join_rule(operator, device, request) if foreign else None
        # Who knows of it, because they may watch it, is told the reason below.
        watches = foreign and self._gateway.rights.may_watch(operator, device) is not None
        if rule is None and not decision and not watches:
            raise OpenRefused(ErrorCode.POLICY, decision.reason)
        if request.view and request.resume is not None:
            raise OpenRefused(ErrorCode.BAD_REQUEST, "a viewer does not resume")
        if first is None:
            if request.view:
                raise OpenRefused(ErrorCode.NOT_FOUND, f"no such session on {device.name}")
            return None
        if first.record.device != device.id or (foreign and rule is None):
            raise OpenRefused(ErrorCode.POLICY, "this session belongs to somebody else")
        if foreign and not request.view and request.resume is None:
            # What was lost on its way would run now, in another's name.
            raise OpenRefused(ErrorCode.BAD_REQUEST, "another's session is only gone on with")
        owner = await self._operator(first.record.operator or "") if foreign else operator
        # Whatever this attempt calls itself: it joins what was asked for when the session began.
        if not self._gateway.rights.may_live(owner, device, story):
            raise OpenRefused(ErrorCode.POLICY, "what this session does is no longer granted")
        return Earlier.of(owner, first.record, rule)

    def _join_rule(self, operator: Operator, device: Device, request: Open) -> str | None:
        """Return the rule by which somebody joins another's session, or None."""
        if request.view:
            return self._gateway.rights.may_watch(operator, device)
        return self._gateway.rights.admin_rule(operator)

    async def check_now(self, session: LiveSession) -> None:
        """Decide anew about an attempt that was parked: roles may have changed meanwhile.

        Raises:
            OpenRefused: It is forbidden by now.
        """
        operator = await self._operator(session.caller.operator.name)
        device = await self._gateway.store.device(session.device.id)
        session.device = device or session.device
        refused = self._gateway.rights.refusal(session, operator)
        if refused is not None:
            raise refused

    async def _operator(self, name: str) -> Operator:
        """Return the operator as the store has it now.

        Raises:
            OpenRefused: Revoked by now.
        """
        operator = await self._gateway.store.operator(name)
        if operator is None or not operator.active:
            raise OpenRefused(ErrorCode.REVOKED, "this operator is revoked")
        return operator

    async def judge(self, entry: LiveDevice, report: Sessions) -> None:
        """Say which of a device's sessions may live, and complete the audit (section 9)."""
        end: list[bytes] = []
        acknowledged: list[bytes] = []
        live: list[SessionReport] = []
        operators: dict[str, Operator | None] = {}
        came: dict[bytes, AuditRecord] = {}
        rights, limits = self._gateway.rights, self._gateway.switchboard.limits
        table, began = self._gateway.sessions, self._gateway.wheel.seconds()
        for session in report.sessions:
            if session.operator not in operators:
                operators[session.operator] = await self._gateway.store.operator(session.operator)
            story = await self._gateway.store.session_story(session.session.hex())
            operator = operators[session.operator]
            if operator is None or not rights.may_live(operator, entry.device, story):
                end.append(session.session)
            elif session.outcome is None and (
                limit := limits.too_old(operator, entry.device, story, session.age_ms)
            ):
                end.append(session.session)
                await limits.settle(story, limit)
            else:
                live.append(session)
                if story.first is not None:
                    came[session.session] = story.first.record
            if session.outcome is None:
                continue
            # An attempt that is under way, or ended while we asked the store, tells it itself.
            told = self._awaited(entry, session) or table.ended_since(
                entry.device.id, session.session, began
            )
            known = story.first is not None and story.first.record.device == entry.device.id
            if known and not told:
                await self._audit.complete(story, session)
            if session.ended_ms > GRACE_SECONDS * 1000 and not self._awaited(entry, session):
                acknowledged.append(session.session)
        gone = {*end, *acknowledged}
        self._gateway.sessions.reported(
            entry.device.id,
            entry.epoch,
            [
                session
                for session in live
                if session.session not in gone
                and not table.ended_since(entry.device.id, session.session, began)
            ],
            complete=not report.more,
        )
        for session_id, record in came.items():
            asked = record.details.get("request")
            terminal = has_terminal(
                record.handler or "", asked if isinstance(asked, dict) else {"terminal": None}
            )
            where = record.door or "", record.address or ""
            table.came_by(entry.device.id, session_id, *where, terminal=terminal)
        for session_id in gone:
            self._gateway.sessions.forget(entry.device.id, session_id)
        if not entry.link.closed:
            entry.link.sessions(Sessions(end=end, acknowledged=acknowledged))

    def _awaited(self, entry: LiveDevice, report: SessionReport) -> bool:
        """Whether somebody has come back for it: its output and outcome are on their way.

        A device notices that a path is dead before the operator hears of it, and so counts the
        grace from another moment.
        """
        board = self._gateway.switchboard
        return board.driven(entry.device.id, report.session, report.operator) is not None
