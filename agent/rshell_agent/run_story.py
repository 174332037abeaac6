"""RunStory: what there is to tell of one session that this process serves, or served, itself.

The keeper has its own list; session_report.py sends both.
"""

from __future__ import annotations

import attrs

from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Outcome, SessionReport
from rshell_agent.courier import outcome_of

__all__ = ["RunStory", "told_outcome", "unheard_outcome"]

#: What the gateway keeps of a message: a list of many sessions must not be a flood.
_MAX_MESSAGE = 240
#: With these nobody can say how far the handler came; any other is why it was ended.
_LOST = frozenset({ErrorCode.LINK_LOST.value, ErrorCode.OVERLOAD.value})


def unheard_outcome(code: str, message: str) -> Outcome:
    """Return the outcome of a session that ended without one of its handler's."""
    status = "lost" if code in _LOST else "error"
    return told_outcome(Outcome(status=status, code=code, message=message))


def told_outcome(outcome: Outcome) -> Outcome:
    """Return an outcome without its result, and in shape, whatever the handler has made."""
    message = outcome.message
    if isinstance(message, str):
        # One lone surrogate would keep the whole list from being sent, for ever.
        message = message[:_MAX_MESSAGE].encode(errors="replace").decode()
    return outcome_of(
        {
            "status": outcome.status,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "code": outcome.code,
            "message": message,
        }
    )


@attrs.frozen
class RunStory:
    """One session, as far as it has come.

    Attributes:
        started: Clock seconds.
        alone_since: Clock seconds; None while somebody is attached.
        outcome: Once there is one, as `told_outcome` and `unheard_outcome` return it.
    """

    session: bytes
    operator: str
    handler: str
    login: str
    attempt: int
    started: float
    alone_since: float | None
    outcome: Outcome | None

    def report(self, now: float) -> SessionReport:
        """Return what SESSIONS says of it (rule S1) at ``now``, in clock seconds."""
        alone_ms = 0 if self.alone_since is None else _milliseconds(now - self.alone_since)
        return SessionReport(
            session=self.session,
            operator=self.operator,
            handler=self.handler,
            login=self.login,
            state="running" if self.outcome is None else "finished",
            age_ms=_milliseconds(now - self.started),
            ended_ms=0 if self.outcome is None else alone_ms,
            attached=self.alone_since is None,
            attempt=self.attempt,
            detached_ms=alone_ms,
            outcome=self.outcome,
        )


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))
