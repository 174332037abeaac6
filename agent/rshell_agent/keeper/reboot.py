"""Sessions of the handler `reboot`: what may be asked for, and what is told of it (K48, K49).

The command comes from ``[reboot]`` of the keeper's own policy file; a peer names an action only.
The child that acts (`rshell_agent.jobs.reboot`) runs as the keeper's own user, whatever login was
asked for: to reboot is the device's own doing, and the login says only who may ask.
"""

from __future__ import annotations

from rshell_agent.jobs import rules
from rshell_agent.jobs.journal import Job, JournalBroken
from rshell_agent.jobs.settings import ACTIONS, BadReboot
from rshell_agent.keeper import wire
from rshell_agent.keeper.process import Account, Command
from rshell_agent.keeper.session import FINISHED, RUNNING, STARTING, Session
from rshell_agent.keeper.wire import Map, Refused, WireError

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.jobs import Jobs
    from rshell_agent.keeper.sessions import Opening

__all__ = ["RebootSession", "open_reboot"]

MAX_DELAY_SECONDS = 86_400  # who wants a reboot tomorrow asks for it tomorrow
MAX_REASON = 200  # characters: a line on terminals
_STOPPED = "stopped"  # the code of an outcome by which a keeper that ends ends its sessions


def _checked(argument: Map) -> Map:
    """Return a request field by field.

    Raises:
        WireError: it is malformed.
    """
    action = wire.text(argument, "action", 32, "reboot")
    if action not in (*ACTIONS, "cancel", "status"):
        raise WireError("action: neither reboot, poweroff, restart-agent, cancel nor status")
    delay = wire.integer(argument, "delay_seconds", 0)
    if delay > MAX_DELAY_SECONDS:
        raise WireError(f"delay_seconds: more than {MAX_DELAY_SECONDS}")
    return {
        "action": action,
        "delay": delay,
        "reason": wire.text(argument, "reason", MAX_REASON, ""),
        "job": wire.text(argument, "job", 64, ""),
    }


def open_reboot(jobs: Jobs, opening: Opening, command: Command, account: Account) -> Session:
    """Return the session for an OPEN of the handler `reboot`.

    Raises:
        Refused: it is forbidden or not possible now, and nothing has been done.
        WireError: it is malformed.
    """
    request = _checked(command.argument)
    try:
        settings = jobs.settings()
    except BadReboot as error:
        raise Refused("policy", f"the device's {error}") from None
    known = jobs.settled(settings)
    action, key = str(request["action"]), opening.id.hex()
    command.argument = {
        **request,
        "session": key,
        "operator": opening.operator,
        "home": jobs.home,
        "settings": jobs.sessions.policy.reboot,
    }
    command.rules = {"read": [], "write": []}  # of no file but the journal, and that unlimited
    if action not in ACTIONS:
        _check_known(action, str(request["job"]), known)
        session = Session(jobs.sessions, opening, command, Account(None))
        session.login = account.name
        return session
    if key in known:
        raise Refused("lost", f"the session has ended: {known[key].state}")
    jobs.check_untold(known)
    verdict = rules.refusal(known, action, settings, jobs.journal.clock.now())
    if verdict is not None:
        raise Refused(*verdict)
    jobs.note(
        key,
        "reboot",
        "accepted",
        action=action,
        delay=request["delay"],
        reason=request["reason"],
        operator=opening.operator,
        handler=opening.handler,
        login=account.name,
    )
    try:
        return RebootSession(jobs, opening, command, account)
    except Refused as refusal:
        _never_began(jobs, key, str(refusal))
        raise


def _check_known(action: str, name: str, known: dict[str, Job]) -> None:
    reboots = [job for job in known.values() if job.kind == "reboot"]
    if action == "cancel" and not any(job.state in ("accepted", "waiting") for job in reboots):
        raise Refused("not-found", "no reboot waits for its time; see rshell reboot --status")
    if action == "status" and name and name not in {job.id for job in reboots}:
        raise Refused("not-found", "the device knows no such job")


def _never_began(jobs: Jobs, key: str, why: str) -> None:
    """Take back what was written down: whoever asked is told by a refusal."""
    jobs.note(key, "reboot", "failed", code="not-started", message=why)
    jobs.tell(key, "reboot")


class RebootSession(Session):
    """A reboot from its acceptance on; its outcome is what the journal says, and nothing before.

    Nobody need be there: what was accepted is done. Only the next boot can tell whether it was, so
    a child that leaves because the system goes down ends the session here without an outcome.
    """

    kept = True

    def __init__(self, jobs: Jobs, opening: Opening, command: Command, account: Account) -> None:
        self._jobs = jobs
        super().__init__(jobs.sessions, opening, command, Account(None))
        self.login = account.name

    def _job(self) -> Job | None:
        try:
            return self._jobs.journal.jobs().get(self.id.hex())
        except JournalBroken as error:
            self._jobs.log(str(error))
            return None

    def detached(self) -> None:
        """No limit: a few lines are all there is to wait for."""
        self.connection, self._welcome = None, None
        self._cancel("announce")
        self.out.recall()
        self.alone_since = self._loop.now()
        self._read_or_pause()

    def stop(self, verdict: Map | None) -> None:
        if self.state in (STARTING, RUNNING):
            job = self._job()
            if job is not None and job.state == "going":
                if verdict is not None and verdict.get("code") == _STOPPED:
                    self._leave()  # the keeper may be ending because the machine is
                return
        super().stop(verdict)

    def check_exited(self) -> None:
        if self.state == STARTING:
            self.check_started()
        if self.state == RUNNING and self.process.exit_status() is not None:
            job = self._job()
            if job is not None and job.state == "going":
                self.process.reap()
                self._leave()
                self._jobs.look_later()
                return
        super().check_exited()

    def _ended_as(self, code: int, status: int) -> Map:
        # one reboot at a time: no other child is about to begin
        self._jobs.settled(self._jobs.settings_or_default(), ended=True)
        job = self._job()
        if job is None or not job.decided:
            return super()._ended_as(code, status)
        if self._verdict is not None and job.state in ("cancelled", "interrupted"):
            return super()._ended_as(code, status)  # it says why; what was done after all says more
        return rules.outcome_of(job)

    def _leave(self) -> None:
        """Be no session any more; whoever was attached finds its link broken."""
        self.state = FINISHED
        self._release()
        self._sessions.forget(self)
        if self.connection is not None:
            self.connection.close("")

    def _start_failed(self, refusal: Refused) -> None:
        _never_began(self._jobs, self.id.hex(), str(refusal))
        super()._start_failed(refusal)

    def buried(self) -> None:
        self._jobs.tell(self.id.hex(), "reboot")
