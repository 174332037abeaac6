"""SESSIONS: what lives on this device, and what has ended unheard, told to the gateway (S1, S2).

Most sessions are the keeper's; those that the agent serves itself are passed in as ``own``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from twisted.logger import Logger

from rshell.link.core.constants import MAX_PAYLOAD
from rshell.link.core.messages import SessionReport, Sessions
from rshell.link.protocol import LinkProtocol
from rshell_agent.courier import outcome_of
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable

__all__ = ["SessionsExchange", "batches", "report_of"]

#: Rule R7: so long an operator's end may come back for its outcome itself.
GRACE_MS = 60_000
_ENVELOPE = 64  # {"sessions":[],"more":true} and some air
_CALL_SESSIONS = 300  # ids that fit one frame to the keeper


def report_of(entry: dict[str, Any]) -> SessionReport:
    """Return the report of one entry of the keeper's list.

    Raises:
        WireError: The entry is malformed.
    """
    outcome = entry.get("outcome")
    detached_ms = wire.integer(entry, "detached_ms", 0)
    return SessionReport(
        session=wire.unbase64(entry.get("session"), "session"),
        operator=str(entry.get("operator"))[:64],
        handler=str(entry.get("handler"))[:64],
        login=str(entry.get("login") or "")[:64],
        state=str(entry.get("state"))[:64],
        age_ms=wire.integer(entry, "started_ms_ago", 0),
        # For how long it has been over with nobody attached: after the grace nobody comes back.
        ended_ms=detached_ms if entry.get("state") == "finished" else 0,
        attached=bool(entry.get("attached")),
        attempt=wire.integer(entry, "attempt", 0),
        detached_ms=detached_ms,
        outcome=outcome_of(outcome) if isinstance(outcome, dict) else None,
    )


def batches(reports: list[SessionReport]) -> Iterator[Sessions]:
    """Yield SESSIONS frames that each fit, ``more`` being false in the last only."""
    batch: list[SessionReport] = []
    size = _ENVELOPE
    for report in reports:
        length = len(msgspec.json.encode(report)) + 1
        if batch and size + length > MAX_PAYLOAD:
            yield Sessions(sessions=batch, more=True)
            batch, size = [], _ENVELOPE
        batch.append(report)
        size += length
    yield Sessions(sessions=batch)


class SessionsExchange:
    """Reports, and does what the gateway answers."""

    _log = Logger()

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper

    async def report(self, link: LinkProtocol, own: Callable[[], list[SessionReport]]) -> None:
        """Send the list over a link that has just been welcomed.

        Without the keeper's part nothing is sent: what is left out counts as gone.
        """
        reports = await self._reports()
        if reports is not None:
            self._send(link, reports + own())

    async def report_over(self, link: LinkProtocol, own: Callable[[], list[SessionReport]]) -> None:
        """Send those that nobody will come back for, if there are any, over a welcomed link."""
        of_keeper = await self._reports() or []
        reports = [
            report
            for report in of_keeper + own()
            if report.state == "finished" and not report.attached and report.ended_ms > GRACE_MS
        ]
        if reports:
            self._send(link, reports)

    async def _reports(self) -> list[SessionReport] | None:
        try:
            reply = await self._keeper.call("sessions")
            return [report_of(entry) for entry in reply.get("sessions") or ()]
        except (KeeperUnavailable, wire.WireError) as error:
            self._log.error("sessions cannot be reported: {reason}", reason=str(error))
            return None

    @staticmethod
    def _send(link: LinkProtocol, reports: list[SessionReport]) -> None:
        for frame in batches(reports):
            if link.closed:
                return
            link.sessions(frame)

    async def obey(self, answer: Sessions) -> None:
        """End and forget sessions of the keeper as the gateway says; it ignores others."""
        try:
            for names in _parts(answer.end):
                reply = await self._keeper.call(
                    "end", sessions=names, reason="ended by the gateway"
                )
                self._log.warn("{count} sessions ended on the gateway's order", count=len(names))
                self._log.debug("ended: {ended}", ended=reply.get("ended"))
            for names in _parts(answer.acknowledged):
                await self._keeper.call("acknowledge", sessions=names)
        except KeeperUnavailable as error:
            self._log.error("the gateway's answer cannot be obeyed: {reason}", reason=str(error))


def _parts(sessions: list[bytes]) -> Iterator[list[str]]:
    for start in range(0, len(sessions), _CALL_SESSIONS):
        yield [wire.base64(session) for session in sessions[start : start + _CALL_SESSIONS]]
