"""A change that must be confirmed: what its outcome is, from what the journal knows. Pure."""

from __future__ import annotations

from rshell_agent.jobs.journal import Job
from rshell_agent.jobs.times import Moment, passed

__all__ = ["described", "outcome_of", "remaining", "why_lost"]

Map = dict[str, object]
#: Of a rollback's output in the outcome's message, which the audit log keeps.
_SAID = 160


def remaining(job: Job, now: Moment) -> float:
    """Return the seconds that are left to confirm.

    After another boot the wall clock tells, if it can be true both then and now; else the whole
    time runs once more, from the keeper's start: too long a wait is better than undoing a change
    that has just proved itself.
    """
    seconds = job.number("seconds")
    armed = job.moments.get("armed")
    if armed is None:
        return 0.0
    if armed.boot != now.boot and not (armed.trusted and now.trusted and now.wall >= armed.wall):
        return seconds
    return max(0.0, seconds - passed(armed, now))


def described(outcome: object) -> str:
    """Return a process's outcome, as noted, in words."""
    if not isinstance(outcome, dict) or not outcome:
        return "how it ended is not known"
    status = outcome.get("status")
    if status == "exit":
        return f"exit status {outcome.get('exit_code')}"
    if status == "signal":
        return f"ended by signal {outcome.get('signal')}"
    return str(outcome.get("message") or status)


def why_lost(job: Job) -> str:
    """Return what there is to say of a rollback that was begun, and of which no end is known."""
    return f"{job.text('why')}; the rollback was begun, and it is not known how it ended"


def outcome_of(job: Job) -> Map:
    """Return the outcome's fields for the operator."""
    command, rollback = job.fields.get("command"), job.fields.get("rollback")
    fields: Map = {"status": "ok", "exit_code": None, "signal": None, "code": None}
    message = ""
    if job.state == "confirmed":
        if isinstance(command, dict) and command:
            fields |= {key: command.get(key) for key in ("status", "exit_code", "signal")}
        else:
            message = "confirmed; how the command ended is not known"
    elif job.state == "rolled-back":
        good = isinstance(rollback, dict) and rollback.get("status") == "ok"
        said = " ".join(job.text("output").split())[-_SAID:]
        fields |= {"status": "error", "code": "rolled-back" if good else "rollback-failed"}
        how = "rolled back" if good else f"the rollback FAILED, {described(rollback)}"
        message = f"{job.text('why')}; {how}" + (f": {said}" if said else "")
    else:
        fields |= {"status": "error", "code": "rollback-unknown"}
        message = job.text("message") or why_lost(job)
    return {"kind": "outcome", **fields, "message": message[:1000] or None, "core": False}
