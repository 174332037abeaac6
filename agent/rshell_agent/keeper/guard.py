"""A guard over a change: it runs the rollback, once, unless the change is confirmed in time.

The keeper holds the time, because it outlives the agent and needs no network; `Guard` knows
nothing of streams. What it does is in the journal before it is done, so that the next keeper, also
one after a reboot, goes on where this one was (jobs/__init__.py has the states). A rollback whose
beginning is written down is never begun again: it may have run, and what undoes a change need not
be harmless twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from rshell_agent.jobs.changes import described, outcome_of
from rshell_agent.jobs.journal import Job, Journal, JournalBroken, crash_point
from rshell_agent.keeper import loop as loops
from rshell_agent.keeper import process as processes
from rshell_agent.keeper.process import Account, Command
from rshell_agent.keeper.wire import Map, Refused, WireError, integer, submap, unbase64

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.sessions import Sessions

__all__ = ["ConfirmRequest", "Guard"]

ROLLBACK_SECONDS = 600.0  # a rollback that hangs must end some time; package managers are slow
SPAWNS, SPAWN_SECONDS = 120, 5.0  # a system without a free process has one in ten minutes
MAX_OUTPUT = 4096  # of a rollback, kept for the journal: its last words say why it failed
MAX_LINE = 4096  # of a rollback's command: with all else it fits a record of the journal
LEAST_SECONDS, MOST_SECONDS = 5, 86_400  # a link needs seconds to be dialled; a day is a shift


class ConfirmRequest:
    """The checked `confirm` of an OPEN (docs/keeper.md K46)."""

    def __init__(self, value: Map) -> None:
        """Check it.

        Raises:
            WireError: it is malformed.
        """
        self.seconds = integer(value, "seconds")
        if not LEAST_SECONDS <= self.seconds <= MOST_SECONDS:
            raise WireError(f"confirm: not {LEAST_SECONDS} to {MOST_SECONDS} seconds")
        self.rollback = unbase64(value.get("rollback"), "rollback")
        if not 0 < len(self.rollback) <= MAX_LINE:
            raise WireError(f"confirm: a rollback of 1 to {MAX_LINE} bytes")
        keep = value.get("keep_failed", False)
        if not isinstance(keep, bool):
            raise WireError("keep_failed: neither true nor false")
        self.keep_failed = keep

    @classmethod
    def of(cls, process: Map) -> ConfirmRequest | None:
        """Return that of OPEN's `process`, or None if there is none."""
        value = submap(process, "confirm")
        return None if value is None else cls(value)


class Rollback:
    """The rollback's process. `done` gets its outcome and its last output, once."""

    def __init__(
        self,
        sessions: Sessions,
        command: Command,
        account: Account,
        extra: dict[bytes, bytes],
        done: Callable[[Map, bytes], None],
    ) -> None:
        """Start it.

        Raises:
            Refused: the system has no process left.
        """
        self._loop, self._times, self._done = sessions.loop, sessions.times, done
        self._output = b""
        self._over = False
        self._command, self._account = command, account
        self._process = process = sessions.spawn(command, account, extra)
        stdin, process.stdin = process.stdin, None
        if stdin is not None:
            os.close(stdin)
        if process.status is not None:
            self._loop.watch(process.status, partial(self._started, process.status), loops.READ)
        for fd in process.outputs:
            self._loop.watch(fd, partial(self._read, fd), loops.READ)
        self._limit = self._loop.after(ROLLBACK_SECONDS, self._too_long)

    def _started(self, status: int) -> None:
        try:
            told = os.read(status, 512)
        except BlockingIOError:
            return
        self._loop.unwatch(status)
        os.close(status)
        if told:
            refusal = processes.start_error(told, self._command, self._account)
            self._process.reap()
            self._end(processes.outcome("error", refusal.code, str(refusal)))

    def _read(self, fd: int) -> None:
        self._more(fd)

    def _more(self, fd: int) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            del self._process.outputs[fd]
            self._loop.unwatch(fd)
            os.close(fd)
        self._output = (self._output + data)[-MAX_OUTPUT:]
        return bool(data)

    def _too_long(self) -> None:
        self._process.terminate()
        self._limit = self._loop.after(self._times.kill, self._process.kill)

    def check_exited(self) -> None:
        """Learn whether it has ended, after SIGCHLD."""
        status = None if self._over else self._process.exit_status()
        if status is None:
            return
        for fd in tuple(self._process.outputs):
            for _ in range(64):  # a background child may write for ever
                if not self._more(fd):
                    break
        self._process.reap()
        self._end(processes.outcome_of(*status))

    def _end(self, outcome: Map) -> None:
        self._over = True
        self.leave()
        self._done(outcome, self._output)

    def leave(self) -> None:
        """Watch it no more; it goes on."""
        self._limit.cancel()
        for fd in tuple(self._process.outputs):
            self._loop.unwatch(fd)
            os.close(fd)
        self._process.outputs.clear()


class Guard:
    """One armed change.

    Args:
        sessions: For the clock, and to spawn.
        journal: Has the job already.
        job: As the journal knows it.
        account: Whom the rollback runs as; asked for when it is needed.
        command_runs: Ends the command if it still runs; returns whether it did run.
        decided: Called once, when `final` is known.
        log: Takes lines.

    Attributes:
        final: The outcome, once it is decided.
        output: The rollback's last output.
    """

    def __init__(
        self,
        sessions: Sessions,
        journal: Journal,
        job: Job,
        account: Callable[[], Account],
        command_runs: Callable[[], bool],
        decided: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.job = job
        self.final: Map | None = None
        self.output = b""
        self._sessions, self._loop, self._journal = sessions, sessions.loop, journal
        self._account, self._command_runs = account, command_runs
        self._decided, self._log = decided, log
        self._deadline: loops.Timer | None = None
        self._ends = 0.0
        self._why = ""
        self._begun = False
        self._rollback: Rollback | None = None

    def arm(self, seconds: float) -> None:
        """Begin to count."""
        self._ends = self._loop.now() + seconds
        self._deadline = self._loop.after(seconds, self._expired)

    @property
    def left_ms(self) -> int:
        """Milliseconds left to confirm."""
        return max(0, int((self._ends - self._loop.now()) * 1000))

    @property
    def undecided(self) -> bool:
        """Whether a confirmation would still count."""
        return self.final is None and not self._begun and not self._why

    def ran(self, outcome: Map, stopped: str = "") -> None:
        """The command has ended.

        Args:
            outcome: How.
            stopped: Why it was ended, if it was.
        """
        if self._begun:
            return  # it would not end, and is undone already: that is its last state
        kept = {key: outcome.get(key) for key in ("status", "exit_code", "signal")}
        self._note("ran", command=kept)
        if self._why:
            self._begin()
        elif stopped:
            self.roll_back(stopped)
        elif outcome.get("status") != "ok" and self.job.fields.get("keep_failed") is not True:
            self.roll_back(f"the command failed, {described(outcome)}")

    def confirm(self, operator: str) -> bool:
        """Let the change stand; return whether it does."""
        if not self.undecided:
            return False
        if not self._note("confirmed", by=operator):
            return False  # what is not on the disk would be undone after a power cut
        self._finish()
        return True

    def roll_back(self, why: str) -> None:
        """Undo the change now, whoever confirms it later."""
        if not self.undecided:
            return
        self._why = why
        self._begin()

    def _expired(self) -> None:
        if not self.undecided:
            return
        self._why = f"not confirmed within {self.job.number('seconds'):.0f} s"
        if self._command_runs():
            # its end begins the rollback; one that not even KILL ends must not prevent it
            self._loop.after(self._sessions.times.kill + 1.0, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._log(f"rolling back {self.job.id}: {self._why}")
        # A device that cannot be reached is worse than a journal that cannot be written.
        self._note("rolling-back", why=self._why)
        self._spawn(SPAWNS)
        crash_point("confirm.rollback.spawned")

    def _spawn(self, tries: int) -> None:
        try:
            line = self.job.text("line")
            command = Command({"kind": "exec", "line": line})
            command.outlives = True
            extra = {
                b"RSHELL_SESSION": self.job.id.encode(),
                b"RSHELL_OPERATOR": self.job.text("operator").encode(errors="replace"),
                b"RSHELL_ROLLBACK": self._why.encode(errors="replace"),
            }
            self._rollback = Rollback(
                self._sessions, command, self._account(), extra, self._rolled_back
            )
        except (Refused, WireError) as error:
            again = isinstance(error, Refused) and error.code == "overload" and tries > 1
            if again:  # nothing has run, and nobody may be able to come and help
                self._log(f"{self.job.id}: {error}; tried again")
                self._deadline = self._loop.after(SPAWN_SECONDS, partial(self._spawn, tries - 1))
            else:
                self._rolled_back(processes.outcome("error", message=str(error)), b"")

    def _rolled_back(self, outcome: Map, output: bytes) -> None:
        self.output = output
        kept = {key: outcome.get(key) for key in ("status", "exit_code", "signal", "message")}
        self._log(f"rolled back {self.job.id}: {described(kept)}")
        self._note("rolled-back", rollback=kept, output=_text(output))
        self._finish()

    def _finish(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.final = outcome_of(self.job)
        self._decided()

    def _note(self, state: str, **fields: object) -> bool:
        """Write a step down; return whether it is on the disk."""
        try:
            self.job.add(self._journal.append(self.job.id, "confirm", state, **fields))
        except JournalBroken as error:
            self._log(f"{self.job.id} {state}: {error}")
            at = self._journal.clock.now().plain()
            if state != "confirmed":
                self.job.add({"state": state, "at": at, "fields": fields})
            return False
        return True

    def check_exited(self) -> None:
        """Look whether the rollback has ended, after SIGCHLD."""
        if self._rollback is not None:
            self._rollback.check_exited()

    def leave(self) -> None:
        """The keeper ends: the next one goes on by the journal."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._rollback is not None:
            self._rollback.leave()


def _text(output: bytes) -> str:
    """Return output as text that fits a record: nothing of it takes more than a few bytes there."""
    text = output.decode(errors="replace").replace("\ufffd", "?")
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
