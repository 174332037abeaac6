"""SessionWitness: what becomes of a joined attempt, told to the audit, the table and the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.session_audit import SessionAudit, outcome_from
from rshell.link.core.errors import ErrorCode

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["SessionWitness"]

#: With these a device says that it does not have the session.
_NOT_THERE = {ErrorCode.LOST.value, ErrorCode.UNKNOWN.value}
#: These end an attempt and leave the session to its device.
_DETACHES = {ErrorCode.LINK_LOST.value, ErrorCode.DUPLICATE.value}


class SessionWitness:
    """Writes down what becomes of one joined attempt."""

    def __init__(self, gateway: Gateway, audit: SessionAudit, session: LiveSession) -> None:
        self._board = gateway.switchboard
        self._metrics = gateway.metrics
        self._table = gateway.sessions
        self._recordings = gateway.recordings
        self._watching = gateway.switchboard.watching
        self._audit = audit
        self._session = session
        self._accepted = False
        self._outcome = False

    def not_asked(self) -> None:
        """The OPEN did not leave."""
        if not self._session.view:
            self._table.refused(self._session, gone=False)

    def stream_accepted(self) -> None:
        self._accepted = True
        if not self._session.view:
            self._table.accepted(self._session)
        self._watching.joined(self._session)

    def outcome_passed(self, body: dict[str, Any]) -> None:
        self._outcome = True
        outcome = outcome_from(body)
        self._audit.passed(self._session, outcome)
        if not self._session.view:
            self._table.finished(self._session, outcome)

    def outcome_taken(self) -> None:
        if not self._session.view:
            self._table.over(self._session)
        self._recordings.ended(self._session)
        self._leave()

    def stream_broken(self, code: str, message: str) -> None:
        self._leave()
        self._tell_recordings(code)
        if not self._accepted:
            self._board.count_refused(code)
        if not self._outcome:
            self._audit.ended(self._session, code, message)
        if self._session.view:
            return
        if self._outcome or code in _DETACHES:
            self._table.detached(self._session)
        elif self._accepted:
            self._table.over(self._session)
        else:
            self._table.refused(self._session, gone=code in _NOT_THERE)

    def _tell_recordings(self, code: str) -> None:
        if self._outcome or code in _DETACHES:
            self._recordings.detached(self._session, told=self._outcome)
        elif self._accepted:
            self._recordings.ended(self._session)
        else:
            self._recordings.refused(self._session, gone=code in _NOT_THERE)

    def _leave(self) -> None:
        session = self._session
        self._board.forget(session)
        if self._accepted:
            self._watching.left(session)
        if session.stream is not None:
            if not session.view:
                self._table.left(session)
            self._metrics.bytes_relayed.inc(session.stream.bytes_in + session.stream.bytes_out)
