"""Sessions that this keeper knows from the journal only: an earlier one had them (K49, K52)."""

from __future__ import annotations

from rshell_agent.jobs.journal import Job
from rshell_agent.keeper.guard import Guard
from rshell_agent.keeper.guarded import WAITING, Guarded
from rshell_agent.keeper.process import Command
from rshell_agent.keeper.session import Session
from rshell_agent.keeper.wire import Map

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.jobs import Jobs
    from rshell_agent.keeper.sessions import Opening

__all__ = ["Revived", "RevivedGuard"]


class _Nothing:
    """Stands for the process of a session whose process another keeper had."""

    pid = 0
    outputs: dict[int, bool] = {}
    stdin = slave = None
    terminal = False

    def exit_status(self) -> None:
        """It has ended, or nobody knows."""


class Revived(Session):
    """A session that the journal tells of: its outcome is known, and nobody has it yet.

    Who comes back for it is believed where he was: nothing of its bytes is left here.
    """

    kept = True

    def __init__(self, jobs: Jobs, job: Job, outcome: Map | None) -> None:
        self._jobs, self.job = jobs, job
        sessions = jobs.sessions
        super()._begin(sessions, bytes.fromhex(job.id), job.text("operator"), job.text("handler"))
        self.process = _Nothing()  # type: ignore[assignment]  # what of it is used
        self.login = job.text("login")
        self.state = WAITING
        self.attempt = 1  # so that it counts as one that existed
        self._command = Command({"kind": "shell"})
        self.outcome = outcome
        if outcome is not None:
            self._finish()

    def check(self, opening: Opening) -> None:
        if not self.out.highest_sent:
            self.out.begin_at(opening.consumed, opening.events)
        super().check(opening)

    def buried(self) -> None:
        self._jobs.tell(self.job.id, self.job.kind)


class RevivedGuard(Guarded, Revived):
    """A change that an earlier keeper armed: it can still be confirmed, else it is undone."""

    def __init__(self, jobs: Jobs, job: Job, ran_at: float) -> None:
        self._ran_at = ran_at
        Revived.__init__(self, jobs, job, None)
        self.guard = Guard(
            jobs.sessions,
            jobs.journal,
            job,
            lambda: jobs.account(job),
            lambda: False,
            self.guard_decided,
            jobs.log,
        )

    def buried(self) -> None:
        Revived.buried(self)

    def _finish(self) -> None:
        self.outcome = self.guard.final
        super()._finish()

    def stop(self, verdict: Map | None) -> None:
        code = None if verdict is None else verdict.get("code")
        if code == "stopped":
            self.leave()
        elif self.state == WAITING:
            why = str(verdict.get("message") or "stopped") if verdict else "cancelled"
            self.guard.roll_back(why)
