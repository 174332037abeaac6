"""Sessions of a change that must be confirmed, while the command's keeper lives (K50 to K53).

::

    STARTING, RUNNING, DRAINING   as any command
    WAITING                       the command has ended; the guard waits, or rolls back
    FINISHED                      decided: the outcome is the command's, or says what was undone
"""

from __future__ import annotations

from rshell_agent.jobs.journal import Job
from rshell_agent.keeper import wire
from rshell_agent.keeper.guard import ConfirmRequest, Guard
from rshell_agent.keeper.process import Account, Command
from rshell_agent.keeper.session import DRAINING, FINISHED, RUNNING, STARTING, Session
from rshell_agent.keeper.wire import Map, Refused

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.jobs import Jobs
    from rshell_agent.keeper.server import Connection
    from rshell_agent.keeper.sessions import Opening

__all__ = ["WAITING", "Guarded", "GuardedSession"]

WAITING = "waiting"


class Guarded(Session):
    """What a session with a guard says to its operator, and hears of him.

    A subclass makes `guard`, and knows when the command ended.
    """

    kept = True
    guard: Guard
    _jobs: Jobs
    _ran_at: float | None = None  # of the loop's clock; None while the command runs
    _fresh = False  # whether the link that we are attached by was dialled after that

    def attach(self, connection: Connection, opening: Opening, existed: bool) -> None:
        self.out.drop_events("guard")  # they told of the attachment before
        ran_at, dialled = self._ran_at, opening.link_dialled
        proves = ran_at is not None and dialled is not None and dialled > ran_at
        # what is still to come was told by another clock, and proves nothing
        self._fresh = proves and dialled is not None and dialled <= self._loop.now()
        super().attach(connection, opening, existed)
        self._tell_guard()

    def _tell_guard(self) -> None:
        """Tell who is attached that the change waits for him, and whether this link proves it."""
        if self.connection is None or self._ran_at is None or not self.guard.undecided:
            return
        event: Map = {
            "kind": "guard",
            "fresh": self._fresh,
            "left_ms": self.guard.left_ms,
            "command": self.guard.job.fields.get("command"),
        }
        self.out.add_event(event)
        self.pump()

    def _asked(self, kind: object) -> None:
        if kind == "rollback":
            self.guard.roll_back(f"asked for by {self.operator}")
        elif kind == "confirm" and self._fresh:
            self.guard.confirm(self.operator)

    def guard_decided(self) -> None:
        """The guard knows the outcome."""
        self._tell_output()
        if self.state == WAITING:
            self._finish()
        elif self.state == DRAINING:
            self.pump()

    def _tell_output(self) -> None:
        """Show the rollback's output, if there is room: the journal has it too."""
        text = self.guard.output
        if text and 0 < len(text) <= self.out.room:
            self.out.add(wire.STDERR, text)

    def check_exited(self) -> None:
        self.guard.check_exited()
        super().check_exited()

    def buried(self) -> None:
        self._jobs.tell(self.guard.job.id, "confirm")

    def leave(self) -> None:
        """The keeper ends; the next one goes on by the journal."""
        self.guard.leave()
        self.state = FINISHED
        self._release()
        self._sessions.forget(self)
        if self.connection is not None:
            self.connection.close("")


class GuardedSession(Guarded):
    """A command that is undone unless it is confirmed in time."""

    def __init__(
        self,
        jobs: Jobs,
        opening: Opening,
        command: Command,
        account: Account,
        request: ConfirmRequest,
    ) -> None:
        """Arm the guard, then start the command.

        Raises:
            Refused: it cannot be written down, or not started; nothing has run.
        """
        self._jobs = jobs
        key = opening.id.hex()
        job = Job(key, "confirm")
        job.add(
            jobs.note(
                key,
                "confirm",
                "armed",
                operator=opening.operator,
                handler=opening.handler,
                login=account.name,
                seconds=request.seconds,
                keep_failed=request.keep_failed,
                line=wire.base64(request.rollback),
            )
        )
        sessions = jobs.sessions
        self.guard = Guard(
            sessions,
            jobs.journal,
            job,
            lambda: account,
            self._end_command,
            self.guard_decided,
            jobs.log,
        )
        try:
            super().__init__(sessions, opening, command, account)
        except Refused:
            self._disarm("it could not be started")
            raise
        self.guard.arm(request.seconds)

    def _disarm(self, why: str) -> None:
        self.guard.leave()
        self._jobs.note(self.guard.job.id, "confirm", "disarmed", message=why)
        self._jobs.tell(self.guard.job.id, "confirm")

    def _start_failed(self, refusal: Refused) -> None:
        self._disarm(str(refusal))
        super()._start_failed(refusal)

    def _end_command(self) -> bool:
        """The time is over: end the command, if it still runs."""
        if self.state not in (STARTING, RUNNING):
            return False
        super().stop(None)
        return True

    def _ended_as(self, code: int, status: int) -> Map:
        outcome = super()._ended_as(code, status)
        self._ran_at = self._loop.now()
        stopped = ""
        if self._verdict is not None:
            stopped = str(self._verdict.get("message") or self._verdict.get("status"))
        elif self._stopping:
            stopped = "the command was cancelled"
        self.guard.ran(outcome, stopped)
        self._tell_guard()
        return outcome

    def _finish(self) -> None:
        final = self.guard.final
        if final is not None:
            self.outcome = final
            super()._finish()
            return
        self._release()
        self.state = WAITING

    def stop(self, verdict: Map | None) -> None:
        code = None if verdict is None else verdict.get("code")
        if code == "stopped":
            self.leave()  # with the command: it may be what stops the keeper, to upgrade it
            return
        timed_out = (
            self.state == DRAINING and verdict is not None and verdict["status"] == "timeout"
        )
        if self.state != WAITING:
            super().stop(verdict)  # in DRAINING: nobody takes the output; the change waits on
        if self.state == WAITING and not timed_out:
            why = str(verdict.get("message") or "stopped") if verdict else "cancelled"
            self.guard.roll_back(why)
