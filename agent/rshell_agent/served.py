"""The sessions that this process serves itself: those that live, and those that must not run again.

Sessions of the keeper are not here; it remembers its own (docs/keeper.md K17 to K19).
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open
from rshell_agent.handler_run import HandlerRun

__all__ = ["ServedSessions"]

#: Ended sessions are remembered at least this long, and at most so many (rule R4).
_MEMORY_SECONDS = 3600.0
_MEMORY_COUNT = 20_000
#: Sessions kept for somebody who is away, running or finished; the one longest alone goes first.
_DETACHED_COUNT = 256
#: What they may hold when one is added; each grows by a buffer at most after that.
_DETACHED_BYTES = 16 * 1024 * 1024


class ServedSessions:
    """Sees to it that a session id runs once (rule R3), and is found again (rule R1).

    Args:
        clock: Says how long ago something was.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._runs: dict[bytes, HandlerRun] = {}
        self._away: dict[bytes, HandlerRun] = {}
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._memory_begins = clock.seconds()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, session: bytes) -> HandlerRun | None:
        """Return the run of a session that lives here."""
        return self._runs.get(session)

    def add(self, run: HandlerRun) -> None:
        """Take note of a run that begins."""
        self._runs[run.session] = run

    def ended(self, session: bytes) -> bool:
        """Whether a session ran here and is over."""
        self._expire()
        return session in self._seen and session not in self._runs

    def judge(self, request: Open) -> tuple[str, str] | None:
        """Return (code, message) if a session that is not known may have run before."""
        self._expire()
        known_for = self._clock.seconds() - self._memory_begins
        if request.attempt > 1 and known_for * 1000 <= request.age_ms:
            return ErrorCode.UNKNOWN.value, "the device cannot tell whether this has run"
        return None

    def end(self, sessions: list[bytes], code: ErrorCode, message: str) -> None:
        """End those that live here."""
        for session in sessions:
            run = self._runs.get(session)
            if run is not None:
                run.end(code, message)

    def stop(self) -> None:
        """The agent is going down: end all."""
        for run in list(self._runs.values()):
            run.stop()

    def _expire(self) -> None:
        now = self._clock.seconds()
        while self._seen:
            session, when = next(iter(self._seen.items()))
            if now - when < _MEMORY_SECONDS and len(self._seen) < _MEMORY_COUNT:
                return
            del self._seen[session]
            self._memory_begins = when

    # -- RunRegister -----------------------------------------------------------------------------

    def ran(self, session: bytes) -> None:
        self._seen[session] = self._clock.seconds()
        self._seen.move_to_end(session)

    def detached(self, run: HandlerRun) -> None:
        self._away[run.session] = run
        while len(self._away) > _DETACHED_COUNT or (
            len(self._away) > 1
            and sum(other.kept_bytes for other in self._away.values()) > _DETACHED_BYTES
        ):
            oldest = next(iter(self._away.values()))
            oldest.end(ErrorCode.OVERLOAD, "too many sessions wait for their operators")

    def attached(self, run: HandlerRun) -> None:
        self._away.pop(run.session, None)

    def remove(self, run: HandlerRun) -> None:
        if self._runs.get(run.session) is not run:
            return
        del self._runs[run.session]
        self._away.pop(run.session, None)
        if run.used:
            self.ran(run.session)  # remembered from its end on
