"""The child of the keeper that carries a reboot out: it announces, waits, and gives the command.

It runs as the keeper's own user, in a session of its own, and tells each step as a line of JSON on
its standard output.  Before each step it looks into the journal under its lock: a job that somebody
has decided meanwhile is left alone.  SIGTERM before the command cancels; after it the system is
going down, and the child leaves without a word, for only the next boot can tell what became of it.

It is killed with the machine in most cases, so nothing here is needed after the command, but for
a command that fails and a device that stays.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

from rshell_agent.jobs.journal import Job, Journal, JournalBroken, crash_point
from rshell_agent.jobs.rules import alive, outcome_of, start_time, still_here
from rshell_agent.jobs.settings import ACTIONS, RebootSettings
from rshell_agent.jobs.times import passed

__all__ = ["run"]

Map = dict[str, object]

#: From the last word to the command: the operator is to hear it.
SETTLE_SECONDS = 1.0
#: `wall` writes to terminals, of which one may hang.
_WALL_SECONDS = 5.0
#: A command that has not returned by then is waiting for something; the device may still go down.
_COMMAND_SECONDS = 60.0
#: An agent that starts, looks up its gateway and is welcomed.
_AGENT_SECONDS = 60.0
_CANCEL_SECONDS = 10.0
_LOOK_SECONDS = 0.25
#: Of what the command says, for the message of a failure.
_MAX_OUTPUT = 400
#: Newest jobs that `status` tells.
_TOLD = 20
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: By these a system that goes down ends what runs, the command that asked it to among the first.
#: So a command that they ended has not failed: the boot id tells.
_SHUTDOWN = (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


class _Cancelled(Exception):
    """SIGTERM came before the command was given."""


class _Overtaken(Exception):
    """The journal says that this job is decided."""


def run(request: Map, settings: RebootSettings, journal: Journal) -> int:
    """Do what a checked request asks for.

    Args:
        request: ``action``, ``job`` and what belongs to them, as the keeper has checked them.
        settings: The keeper's reading of ``[reboot]``.
        journal: The keeper's.

    Returns:
        The exit status: 0 if all is well as far as one can tell by then.
    """
    action = str(request["action"])
    try:
        if action in ACTIONS:
            return _Reboot(request, settings, journal).run()
        if action == "cancel":
            return _cancel(journal, str(request["operator"]))
        return _status(journal, str(request.get("job") or ""))
    except JournalBroken as error:
        os.write(2, f"{error}\n".encode(errors="replace"))
        return 1


def _say(step: str, **fields: object) -> None:
    """Tell the operator a step; nobody being there is no reason to stop."""
    line = json.dumps({"step": step, **fields}, separators=(",", ":"))
    try:
        os.write(1, line.encode() + b"\n")
    except OSError:
        pass


class _Reboot:
    """One job from its acceptance on, which the keeper has written down."""

    def __init__(self, request: Map, settings: RebootSettings, journal: Journal) -> None:
        self._job = str(request["session"])
        self._action = str(request["action"])
        delay, operator, reason = request["delay"], request["operator"], request["reason"]
        self._delay = float(delay) if isinstance(delay, int | float) else 0.0
        self._operator, self._reason = str(operator), str(reason)
        self._settings = settings
        self._journal = journal
        self._command = settings.commands[self._action]

    def run(self) -> int:
        """Go through all steps."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            self._enter(("accepted",), "waiting", pid=os.getpid(), start=start_time(os.getpid()))
            _say("accepted", job=self._job, action=self._action, due_in_seconds=self._delay)
            self._announce()
            self._wait()
            self._enter(("waiting",), "going", went=True, command=self._command)
        except _Cancelled:
            return self._cancelled()
        except _Overtaken as error:
            _say("overtaken", job=self._job, state=str(error))
            return 1
        _say("going", job=self._job, action=self._action, command=self._command)
        crash_point("reboot.told")
        time.sleep(SETTLE_SECONDS)  # the steps are over; nothing else waits in this process
        return self._give_command()

    def _enter(self, before: tuple[str, ...], state: str, **fields: object) -> None:
        """Write the next state down, if nobody has decided otherwise.

        Raises:
            _Overtaken: Somebody has.
        """
        with self._journal.lock():
            job = self._journal.jobs().get(self._job)
            if job is None or job.state not in before:
                raise _Overtaken("" if job is None else job.state)
            self._journal.append(self._job, "reboot", state, **fields)

    # -- before the command --------------------------------------------------------------------

    def _announce(self) -> None:
        what = {"reboot": "reboots", "poweroff": "is switched off"}.get(self._action)
        if what is None:  # nobody at a terminal notices that the agent is another one
            _say("announced", by_wall=False)
            return
        when = f"in {self._delay:.0f} s" if self._delay >= 1 else "now"
        why = f": {self._reason}" if self._reason else ""
        told = _wall(f"rshell: this device {what} {when}, asked for by {self._operator}{why}")
        _say("announced", by_wall=told)

    def _wait(self) -> None:
        """Wait for the time; suspended time counts.

        Raises:
            _Cancelled: A signal came.
        """
        began = self._journal.clock.now()
        while True:
            left = self._delay - passed(began, self._journal.clock.now())
            # in pieces: the timeout's clock does not run while the machine sleeps
            if signal.sigtimedwait(_ENDING, max(0.0, min(left, 30.0))) is not None:
                raise _Cancelled
            if left <= 0:
                return

    def _cancelled(self) -> int:
        self._enter(("accepted", "waiting"), "cancelled")
        if self._action != "restart-agent":
            _wall("rshell: the announced reboot has been cancelled")
        _say("cancelled", job=self._job)
        return 1

    # -- the command, and after it -------------------------------------------------------------

    def _give_command(self) -> int:
        before = _agent_pid(self._journal.directory)
        crash_point("reboot.command.before")
        began = time.monotonic()
        try:
            failure = self._call()
        except OSError as error:
            failure = f"{self._command[0]}: {error.strerror}"
        crash_point("reboot.command.after")
        # What asks us to leave by now is the system going down.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        if failure:
            return self._failed("command-failed", failure)
        if self._action == "restart-agent":
            return self._await_agent(before, began)
        return self._await_end(began)

    def _call(self) -> str:
        """Run the command; return why it failed, or "".

        Raises:
            OSError: It cannot be run.
        """
        with subprocess.Popen(  # the device's owner wrote it into [reboot]
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_unblock,  # noqa: PLW1509  # this process has one thread
        ) as process:
            try:
                output, _ = process.communicate(timeout=_COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                return ""  # it may have done its work all the same: the boot id tells
            if process.returncode == 0 or -process.returncode in _SHUTDOWN:
                return ""
            said = " ".join(output[-4096:].decode(errors="replace").split())[-_MAX_OUTPUT:]
            ended = f"ended with status {process.returncode}"
            return f"{' '.join(self._command)[:200]} {ended}" + (f": {said}" if said else "")

    def _failed(self, code: str, message: str) -> int:
        self._enter(("going",), "failed", code=code, message=message[:1000])
        _say("failed", job=self._job, code=code, message=message[:1000])
        return 1

    def _await_end(self, began: float) -> int:
        """See the device go down, or say that it did not."""
        first = self._journal.jobs()[self._job].moments["going"].boot
        while time.monotonic() - began < self._settings.patience:
            if self._journal.clock.now().boot != first:
                return 0
            time.sleep(_LOOK_SECONDS)
        return self._failed("same-boot", still_here(time.monotonic() - began))

    def _await_agent(self, before: int, began: float) -> int:
        """See another agent connected."""
        while time.monotonic() - began < _AGENT_SECONDS:
            pid = _agent_pid(self._journal.directory)
            if pid and pid != before:
                seconds = round(time.monotonic() - began, 1)
                self._enter(("going",), "done", seconds=seconds, agent_pid=pid)
                _say("done", job=self._job, seconds=seconds)
                return 0
            time.sleep(_LOOK_SECONDS)
        return self._failed("no-agent", f"no other agent was connected within {_AGENT_SECONDS:g} s")


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _wall(text: str) -> bool:
    """Write to all terminals of the device; return whether there is a `wall` that did."""
    safe = "".join(c if c.isprintable() else "?" for c in text)[:500]
    try:
        done = subprocess.run(
            ["wall", safe],  # of the fixed PATH that every worker has
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
            check=False,
            preexec_fn=_unblock,  # this process has one thread
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _agent_pid(directory: int) -> int:
    """Return the agent that says that it is connected, 0 if none does."""
    try:
        fd = os.open("status.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        with os.fdopen(fd, "rb") as file:
            status = json.loads(file.read(65536))
    except (OSError, ValueError, RecursionError):
        return 0
    if not isinstance(status, dict) or status.get("state") != "connected":
        return 0
    pid = status.get("pid")
    return pid if type(pid) is int and start_time(pid) else 0


# -- the other requests --------------------------------------------------------------------------


def _told(job: Job, journal: Journal) -> Map:
    now = journal.clock.now()
    ago = {state: round(passed(at, now), 1) for state, at in job.moments.items()}
    outcome = outcome_of(job)
    return {
        "job": job.id,
        "action": job.text("action"),
        "operator": job.text("operator"),
        "reason": job.text("reason"),
        "delay_seconds": job.number("delay"),
        "state": job.state,
        "decided": job.decided,
        "seconds_ago": ago,
        "status": outcome["status"],
        "code": outcome["code"],
        "message": outcome["message"],
        "boot_id": now.boot,
    }


def _status(journal: Journal, name: str) -> int:
    jobs = [job for job in journal.jobs().values() if job.kind == "reboot"]
    found = [job for job in jobs if job.id == name] if name else jobs[-_TOLD:]
    for job in found:
        _say("status", **_told(job, journal))
    return 0 if found or not name else 1


def _cancel(journal: Journal, operator: str) -> int:
    """End the child that waits, and see it say so."""
    waiting = [
        job
        for job in journal.jobs().values()
        if job.kind == "reboot" and job.state in ("accepted", "waiting")
    ]
    for job in waiting:
        pid, start = int(job.number("pid")), int(job.number("start"))
        if alive(pid, start):
            os.kill(pid, signal.SIGTERM)
    latest = time.monotonic() + _CANCEL_SECONDS
    states = {job.id: job.state for job in waiting}
    while any(state in ("accepted", "waiting") for state in states.values()):
        if time.monotonic() >= latest:
            break
        time.sleep(0.05)
        jobs = journal.jobs()
        states = {name: jobs[name].state for name in states}
    for name, state in states.items():
        _say("cancelled" if state == "cancelled" else "not-cancelled", job=name, state=state)
    good = bool(states) and all(state == "cancelled" for state in states.values())
    if not good:
        what = ", ".join(states.values()) or "nothing waits"
        os.write(2, f"not cancelled for {operator}: {what}\n".encode(errors="replace"))
    return 0 if good else 1
