"""The keeper's part in jobs: sessions that are some, and what it finds in the journal (K48 to K53).

The journal, its rules and the child that reboots are in `rshell_agent.jobs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rshell_agent.jobs import changes, rules
from rshell_agent.jobs.journal import Job, Journal, JournalBroken
from rshell_agent.jobs.settings import BOOT_ID_FILE, BadReboot, RebootSettings
from rshell_agent.jobs.times import Clock, passed
from rshell_agent.keeper import wire
from rshell_agent.keeper.guard import ConfirmRequest
from rshell_agent.keeper.guarded import GuardedSession
from rshell_agent.keeper.process import Account, Command, pwd_name
from rshell_agent.keeper.reboot import open_reboot
from rshell_agent.keeper.revived import Revived, RevivedGuard
from rshell_agent.keeper.session import Session
from rshell_agent.keeper.wire import Map, Refused

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.sessions import Opening, Sessions

__all__ = ["Jobs"]

NOTES = 16  # told to the flight recorder at once: they fit a few frames
LOOK_SECONDS = 30.0  # is a device that was told to reboot still here
UNTOLD = (
    128  # outcomes that nobody has fetched: what they take of the journal at most is half of it
)


class Jobs:
    """What must be written down before it is done.

    Args:
        sessions: The register.
        home: The keeper's home, for the child that reboots.
        directory: The same, opened.
        log: Takes lines.
        clock: Makes the clock for a file with a boot id.
    """

    def __init__(
        self,
        sessions: Sessions,
        home: str,
        directory: int,
        log: Callable[[str], None],
        clock: Callable[[str], Clock] = Clock,
    ) -> None:
        self.sessions, self.home, self.log = sessions, home, log
        self.journal = Journal(directory, clock(BOOT_ID_FILE))
        self._clock = clock
        self._boot_id_file = BOOT_ID_FILE
        self._looks = False

    # -- for new sessions ----------------------------------------------------------------------

    def session(self, opening: Opening, command: Command, account: Account) -> Session:
        """Return the session for an OPEN that policy allows.

        Raises:
            Refused: it cannot be, and nothing has been done.
            WireError: it is malformed.
        """
        if opening.handler == "reboot":
            return open_reboot(self, opening, command, account)
        if command.confirm is None:
            return Session(self.sessions, opening, command, account)
        request = ConfirmRequest(command.confirm)
        self.settings_or_default()  # the clock
        jobs = self.read()
        known = jobs.get(opening.id.hex())
        if known is not None:
            raise Refused("lost", f"the session has ended: {known.state}")
        self.check_untold(jobs)
        return GuardedSession(self, opening, command, account, request)

    def check_untold(self, jobs: dict[str, Job]) -> None:
        """See that the journal stays readable: untold outcomes are never dropped from it.

        Raises:
            Refused: too many wait for somebody to fetch them.
        """
        if sum(job.decided and not job.told for job in jobs.values()) >= UNTOLD:
            raise Refused("overload", f"{UNTOLD} outcomes of earlier jobs wait to be fetched")

    def settings(self) -> RebootSettings:
        """Return ``[reboot]`` as the file is now.

        Raises:
            BadReboot: it is wrong.
        """
        self.sessions.policy.current()
        settings = RebootSettings(self.sessions.policy.reboot)
        if settings.boot_id_file != self._boot_id_file:
            self._boot_id_file = settings.boot_id_file
            self.journal.clock = self._clock(settings.boot_id_file)
        return settings

    def settings_or_default(self) -> RebootSettings:
        """Return ``[reboot]``, or its defaults if it is wrong: where nothing reboots."""
        try:
            return self.settings()
        except BadReboot as error:
            self.log(f"the default is used: {error}")
            return RebootSettings()

    # -- the journal ---------------------------------------------------------------------------

    def read(self) -> dict[str, Job]:
        """Return all jobs.

        Raises:
            Refused: the journal cannot be read.
        """
        try:
            return self.journal.jobs()
        except JournalBroken as error:
            raise _broken(error) from None

    def settled(self, settings: RebootSettings, ended: bool = False) -> dict[str, Job]:
        """Return all jobs, decided as far as possible by now.

        Args:
            settings: How long a shutdown may take.
            ended: No child is about to begin.

        Raises:
            Refused: the journal cannot be read or written.
        """
        try:
            jobs = rules.settle(self.journal, settings, starting=ended)
        except JournalBroken as error:
            raise _broken(error) from None
        self._revive(jobs)
        return jobs

    def note(self, job: str, kind: str, state: str, **fields: object) -> Map:
        """Write a step down before it is taken.

        Raises:
            Refused: that is not possible: do not take it.
        """
        try:
            return self.journal.append(job, kind, state, **fields)
        except JournalBroken as error:
            raise _broken(error) from None

    def tell(self, job: str, kind: str) -> None:
        """Somebody has the outcome; if that cannot be written it is told once more."""
        try:
            self.journal.append(job, kind, "told")
        except JournalBroken as error:
            self.log(f"{job}: {error}")

    def unnoted(self) -> list[object]:
        """Return what the call `jobs` tells: outcomes that the flight recorder has not."""
        try:
            jobs = self.journal.jobs().values()
        except JournalBroken as error:
            self.log(str(error))
            return []
        found = [job for job in jobs if job.decided and not job.noted and job.state != "disarmed"]
        return [self._told(job) for job in found[:NOTES]]

    @staticmethod
    def _told(job: Job) -> Map:
        outcome = (rules if job.kind == "reboot" else changes).outcome_of(job)
        return {
            "job": job.id,
            "kind": job.text("action") if job.kind == "reboot" else "change",
            "state": job.state,
            "operator": job.text("operator"),
            "reason": job.text("reason"),
            "message": outcome["message"],
            "seconds": job.fields.get("seconds") if job.kind == "reboot" else None,
        }

    def noted(self, call: Map) -> list[object]:
        """Note that the flight recorder has these; return them."""
        known, done = self.unnoted(), wire.array(call, "jobs")
        kinds = {str(job["job"]): str(job["kind"]) for job in known if isinstance(job, dict)}
        found = [str(job) for job in done if str(job) in kinds]
        for job in found:
            kind = "confirm" if kinds[job] == "change" else "reboot"
            try:
                self.journal.append(job, kind, "noted")
            except JournalBroken as error:
                self.log(f"{job}: {error}")
        return list(found)

    def account(self, job: Job) -> Account:
        """Return whom a rollback runs as that an earlier keeper armed.

        Where policy is a boundary it is asked once more: the home belongs to somebody else.

        Raises:
            Refused: policy forbids it by now, or there is no such login.
        """
        policy, login = self.sessions.policy.current(), job.text("login")
        if policy.boundary:
            return policy.account(job.text("handler"), login)
        return Account(None if login == pwd_name(os.geteuid()) else login)

    # -- what earlier keepers left -------------------------------------------------------------

    def begin(self) -> None:
        """Go on where an earlier keeper was; a journal that cannot be read is a line in the log."""
        settings = self.settings_or_default()
        try:
            jobs = rules.settle(self.journal, settings, starting=True)
            for job in jobs.values():
                if job.kind == "confirm" and job.state == "rolling-back":
                    message = changes.why_lost(job)
                    job.add(self.journal.append(job.id, "confirm", "lost", message=message))
        except JournalBroken as error:
            self.log(f"jobs of earlier keepers are unknown: {error}")
            return
        self._revive(jobs)
        for job in jobs.values():
            if job.kind == "confirm" and not job.decided:
                self._guard(job)

    def _revive(self, jobs: dict[str, Job]) -> None:
        """Have a session for each outcome that nobody has."""
        undecided = False
        for job in jobs.values():
            key = _key(job)
            undecided |= job.kind == "reboot" and not job.decided
            if key is None or job.told or not job.decided or self.sessions.known(key):
                continue
            if job.state == "disarmed":
                self.tell(job.id, job.kind)
                continue
            outcome = (rules if job.kind == "reboot" else changes).outcome_of(job)
            self.log(f"{job.kind} {job.id}: {job.state}, not told yet")
            self.sessions.keep(Revived(self, job, outcome))
        if undecided:
            self.look_later()

    def _guard(self, job: Job) -> None:
        if _key(job) is None:
            return
        now = self.journal.clock.now()
        ran = job.moments.get("ran")
        # One that is not known to have ended counts as ended by now: nobody will see its end.
        ago = passed(ran, now) if ran is not None and ran.boot == now.boot else 0.0
        session = RevivedGuard(self, job, self.sessions.loop.now() - ago)
        self.sessions.keep(session)
        left = changes.remaining(job, now)
        self.log(f"confirm {job.id}: {job.state}, {left:.0f} s left")
        session.guard.arm(left)

    def look_later(self) -> None:
        """See in a while what became of a reboot whose child is gone."""
        if not self._looks:
            self._looks = True
            self.sessions.loop.after(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looks = False
        try:
            self.settled(self.settings_or_default())
        except Refused as refusal:
            self.log(str(refusal))
            self.look_later()


def _broken(error: JournalBroken) -> Refused:
    return Refused("journal", f"nothing was done: {error}")


def _key(job: Job) -> bytes | None:
    try:
        key = bytes.fromhex(job.id)
    except ValueError:
        return None
    return key if len(key) == 16 else None
