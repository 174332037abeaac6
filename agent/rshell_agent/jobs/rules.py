"""Whether a reboot may be asked for, and what became of one; only `settle` writes."""

from __future__ import annotations

import os

from rshell_agent.jobs.journal import Job, Journal
from rshell_agent.jobs.settings import RebootSettings
from rshell_agent.jobs.times import Moment, passed

__all__ = ["Verdict", "alive", "outcome_of", "refusal", "settle", "start_time"]

Map = dict[str, object]
#: (code, message)
Verdict = tuple[str, str]

_HOUR = 3600.0
#: From ``accepted`` to the child's own first record: one fork and one fsync.
_BEGINS_SECONDS = 30.0


def refusal(
    jobs: dict[str, Job], action: str, settings: RebootSettings, now: Moment
) -> Verdict | None:
    """Return why `action` may not be begun now, or None.

    Args:
        jobs: Settled.
        action: One of `rshell_agent.jobs.settings.ACTIONS`.
        settings: The limits.
        now: The present moment.
    """
    ours = [job for job in jobs.values() if job.kind == "reboot"]
    for job in ours:
        if not job.decided:
            return (
                "busy",
                f"{job.text('action')} is under way already, {_by(job)}: {_due(job, now)}",
            )
    if action == "restart-agent":
        return None
    times = sorted(passed(at, now) for job in ours if (at := _went(job)) is not None)
    if times and times[0] < settings.min_interval:
        wait = settings.min_interval - times[0]
        ago = f"the last reboot was asked for {times[0]:.0f} s ago"
        least = f"[reboot] min_interval_seconds is {settings.min_interval}"
        return "rate-limited", f"{ago} and {least}: possible again in {wait:.0f} s"
    hour = [seconds for seconds in times if seconds < _HOUR]
    if len(hour) >= settings.max_per_hour:
        most = f"[reboot] max_per_hour is {settings.max_per_hour}"
        if not settings.max_per_hour:
            return "policy", f"{most}: the device's policy allows no reboot"
        wait = _HOUR - hour[settings.max_per_hour - 1]
        message = f"{len(hour)} reboots within an hour and {most}: possible again in {wait:.0f} s"
        return "rate-limited", message
    return None


def _went(job: Job) -> Moment | None:
    """Return when a job's command was given, if that counts for the limits."""
    if job.fields.get("went") is not True or job.text("action") == "restart-agent":
        return None
    if job.text("code") == "command-failed":
        return None  # nothing has happened to the device
    return job.moments.get("going") or job.moments.get(job.state)


def _by(job: Job) -> str:
    return f"asked for by {job.text('operator')}"


def _due(job: Job, now: Moment) -> str:
    if job.state == "going":
        return "the command has been given"
    began = job.moments.get("accepted", now)
    return f"due in {max(0.0, job.number('delay') - passed(began, now)):.0f} s"


def settle(journal: Journal, settings: RebootSettings, starting: bool = False) -> dict[str, Job]:
    """Decide what can be decided of reboots, write it down, and return all jobs.

    Args:
        journal: Read, and written where something was decided.
        settings: How long a shutdown may take.
        starting: A keeper has just begun: what waits for a child of its own waits in vain.

    Raises:
        JournalBroken: It cannot be read or written.
    """
    with journal.lock():
        jobs = journal.jobs()
        now = journal.clock.now()
        found = {
            job.id: verdict
            for job in jobs.values()
            if job.kind == "reboot"
            and not job.decided
            and (verdict := _verdict(job, settings, now, starting)) is not None
        }
        for name, (state, fields) in found.items():
            journal.append(name, "reboot", state, **fields)
    return journal.jobs() if found else jobs


def _verdict(
    job: Job, settings: RebootSettings, now: Moment, starting: bool
) -> tuple[str, Map] | None:
    """Return the state that a job has come to, and what to note with it."""
    began = job.moments.get("going") or job.moments.get("waiting") or job.moments.get("accepted")
    if began is None:
        return "lost", {"message": "the journal does not tell how it began"}
    if now.boot != began.boot and now.boot and began.boot:
        return _after_boot(job, began, now)
    if _child_lives(job, began, now, starting):
        return None
    if job.state != "going":
        return "interrupted", {"message": "its process was killed before its time had come"}
    if not (now.boot and began.boot):
        return "lost", {"message": "[reboot] boot_id_file cannot be read: nobody can tell"}
    if job.text("action") == "restart-agent":
        return "lost", {"message": "its process was killed: nobody can tell whether it worked"}
    if passed(began, now) < settings.patience:
        return None  # it may be going down just now
    return "failed", {"code": "same-boot", "message": still_here(passed(began, now))}


def still_here(seconds: float) -> str:
    """Return what there is to say of a device that did not go down."""
    return f"the device is still in the same boot {seconds:.0f} s after the command"


def _after_boot(job: Job, began: Moment, now: Moment) -> tuple[str, Map]:
    if job.state != "going":
        message = "the device restarted by itself before its time had come; it is not asked again"
        return "interrupted", {"message": message, "boot_id": now.boot}
    fields: Map = {"boot_id": now.boot}
    if began.trusted and now.trusted and now.wall > began.wall:
        fields["seconds"] = round(now.wall - began.wall, 1)
    return "done", fields


def _child_lives(job: Job, began: Moment, now: Moment, starting: bool) -> bool:
    if job.state == "accepted":
        return not starting and passed(began, now) < _BEGINS_SECONDS
    return alive(int(job.number("pid")), int(job.number("start")))


def start_time(pid: int) -> int:
    """Return when a process began, in the kernel's ticks since boot; 0 if it is gone (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether the process that had this number then has it now."""
    return pid > 1 and pid != os.getpid() and start > 0 and start_time(pid) == start


def outcome_of(job: Job) -> Map:
    """Return a reboot's outcome as an event's fields; one that is not decided is an error."""
    message = job.text("message")
    result: Map = {"job": job.id, "action": job.text("action"), "state": job.state}
    result |= {key: job.fields[key] for key in ("boot_id", "seconds") if key in job.fields}
    status, code = "error", job.text("code") or job.state
    if job.state == "done":
        status, code = "ok", ""
        message = message or _back(job)
    elif not job.decided or job.state == "lost":
        code = "unconfirmed"
        message = message or "asked for, not confirmed"
    elif job.state == "cancelled":
        message = message or "cancelled before its time had come"
    result["confirmed"] = job.state == "done"
    return {
        "kind": "outcome",
        "status": status,
        "exit_code": None,
        "signal": None,
        "code": code or None,
        "message": message[:1000] or None,
        "core": False,
        "result": result,
    }


def _back(job: Job) -> str:
    if job.text("action") == "restart-agent":
        return f"another agent is connected, {job.number('seconds'):.1f} s after the command"
    if "seconds" in job.fields:
        return f"back with another boot id {job.number('seconds'):.0f} s after the command"
    return "back with another boot id"
