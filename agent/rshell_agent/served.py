"""The sessions that this process serves itself: those that live, and those that must not run again.

How a session ended while nobody was there is kept until the gateway has it (rules S1 and S2); the
id that must not run again is remembered apart from that.  Sessions of the keeper are not here; it
remembers its own (docs/keeper.md K17 to K19).
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open, SessionReport
from rshell_agent.guarding import MAX_CROWD_BYTES
from rshell_agent.handler_run import HandlerRun
from rshell_agent.run_story import RunStory

__all__ = ["ServedSessions"]

#: Ended sessions are remembered at least this long, and at most so many (rule R4).
_MEMORY_SECONDS = 3600.0
_MEMORY_COUNT = 20_000
#: Sessions kept for somebody who is away, running or finished; the one longest alone goes first.
_DETACHED_COUNT = 256
#: What they may hold when one is added; each grows by a buffer at most after that.
_DETACHED_BYTES = 16 * 1024 * 1024
#: Ends that the gateway has not acknowledged, at most 2 KB each; the first is given up first.
_UNHEARD_COUNT = 256


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
        self._unheard: OrderedDict[bytes, RunStory] = OrderedDict()
        self._memory_begins = clock.seconds()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, session: bytes) -> HandlerRun | None:
        """Return the run of a session that lives here."""
        return self._runs.get(session)

    def add(self, run: HandlerRun) -> None:
        """Take note of a run that begins."""
        self._runs[run.session] = run
        self._unheard.pop(run.session, None)  # it had no effect, or it would not run again

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

    def reports(self) -> list[SessionReport]:
        """Return what there is to tell: those that live, and those that ended with nobody there."""
        now = self._clock.seconds()
        stories = [*self._unheard.values(), *(run.story for run in self._runs.values())]
        return [story.report(now) for story in stories]

    def acknowledged(self, sessions: list[bytes]) -> None:
        """Forget how these ended; one that lives is spared, whatever the gateway believes."""
        for session in sessions:
            self._unheard.pop(session, None)

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

    def crowded(self) -> bool:
        return sum(run.kept_bytes for run in self._runs.values()) > MAX_CROWD_BYTES

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
        if self._away.pop(run.session, None) is not None:
            self._keep(run.story)
        if run.used:
            self.ran(run.session)  # remembered from its end on

    def _keep(self, story: RunStory) -> None:
        """Remember an end that nobody heard of."""
        self._unheard[story.session] = story
        while len(self._unheard) > _UNHEARD_COUNT:
            self._unheard.popitem(last=False)
