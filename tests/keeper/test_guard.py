"""A change that must be confirmed: played processes, a clock that the test moves (K50 to K53)."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.jobs.times import Clock
from rshell_agent.keeper import jobs as keeper_jobs
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.jobs import Jobs
from rshell_agent.keeper.policy import PolicyFile
from rshell_agent.keeper.server import Server
from rshell_agent.keeper.sessions import Sessions
from rshell_agent.keeper.wire import Refused
from tests.keeper.client import b64
from tests.keeper.inprocess import InProcess, PlayedProcess, View

WALL = 1_800_000_000.0
SECONDS = 120


class JobsKeeper(InProcess):
    """A keeper with a journal; `restart` is its death and the next one."""

    def __init__(self, policy: str = "", **times: float) -> None:
        super().__init__(policy, **times)
        self.boot = os.path.join(self.home, "boot_id")
        self.set_boot("boot-1")
        self.wall = WALL
        self.policy(f'{policy}\n[reboot]\nboot_id_file = "{self.boot}"\n')
        self.journalled()

    def set_boot(self, text: str) -> None:
        with open(self.boot, "w", encoding="ascii") as file:
            file.write(text)

    def journalled(self) -> None:
        directory = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)

        def clock(path: str) -> Clock:
            return Clock(path, lambda: self.time, lambda: self.wall + self.time)

        jobs = Jobs(self.sessions, self.home, directory, self.lines.append, clock)
        self.sessions.jobs = jobs
        jobs.begin()
        self.jobs = jobs

    def restart(self, boot: str | None = None) -> None:
        """Kill this keeper without a word, and start the next, perhaps after a reboot."""
        for session in self.sessions._sessions.values():
            for timer in session._timers.values():
                timer.cancel()
            guard = getattr(session, "guard", None)
            if guard is not None:
                guard.leave()
        if boot is not None:
            self.set_boot(boot)
        self.processes.clear()
        self.sessions = Sessions(self.loop, Times(), PolicyFile(self.home, None), self._play)
        self.server = Server(self.sessions, None, self.lines.append)
        self.journalled()

    def states(self) -> list[str]:
        """Return what the journal has of the only job."""
        (job,) = self.jobs.journal.jobs().values()
        return [str(record["state"]) for record in job.records]


class GuardCase(SynchronousTestCase):
    policy = ""

    def setUp(self) -> None:
        self.keeper = JobsKeeper(self.policy)
        self.addCleanup(self.keeper.stop)
        self.key = os.urandom(16)
        self.attempt = 1
        self.sequence = 0

    def armed(self, **confirm: Any) -> View:
        """Open a session with a guard."""
        view = View(self.keeper.connect())
        fields = {"seconds": SECONDS, "rollback": b64("undo it")} | confirm
        process = {"kind": "exec", "argv": [b64("change")], "confirm": fields}
        view.open(self.key, "-", handler="exec", process=process, link_dialled_ms=0)
        return view

    def attach(self, age_seconds: float | None, consumed: int = 0, events: int = 0) -> View:
        """Come back over a link of this age."""
        self.attempt += 1
        resume = {"consumed": consumed, "limit": 1 << 20, "events": events}
        dialled = {}
        if age_seconds is not None:
            dialled["link_dialled_ms"] = max(0, int((self.keeper.time - age_seconds) * 1000))
        view = View(self.keeper.connect())
        view.open(self.key, "-", attempt=self.attempt, resume=resume, **dialled)
        assert view.refused is None, view.refused
        self.sequence = view.opened["events"]
        return view

    def say(self, view: View, kind: str) -> View:
        self.sequence += 1
        view.event(self.sequence, kind)
        view.everything()
        return view

    @property
    def command(self) -> PlayedProcess:
        return self.keeper.processes[0]

    @property
    def rollback(self) -> PlayedProcess:
        return self.keeper.processes[1]

    @property
    def begun(self) -> int:
        """How many rollbacks were begun."""
        return len(self.keeper.processes) - 1

    def ran(self, status: int = 0, **confirm: Any) -> View:
        """Open, and let the command end after ten seconds; another one passes."""
        view = self.armed(**confirm)
        self.keeper.advance(10)
        self.command.exit(status)
        self.keeper.settle()
        view.everything()
        self.keeper.advance(1)
        return view

    def outcome(self, view: View) -> tuple[str, str | None, str]:
        """Read to the outcome and acknowledge it."""
        view.everything()
        assert view.outcome is not None, view.guards
        view.tell()
        self.keeper.settle()
        return view.outcome["status"], view.outcome["code"], view.outcome["message"] or ""


class ConfirmTests(GuardCase):
    def test_fresh(self) -> None:
        """Over a link that was dialled after the command's end a confirmation lets it stand."""
        view = self.ran()
        self.assertEqual([False], [guard["fresh"] for guard in view.guards])
        self.assertEqual(
            {"status": "ok", "exit_code": 0, "signal": None}, view.guards[0]["command"]
        )
        self.keeper.advance(3)
        view = self.attach(2)
        view.everything()
        self.assertEqual([(True, (SECONDS - 14) * 1000)], [
            (guard["fresh"], guard["left_ms"]) for guard in view.guards
        ])  # fmt: skip
        self.assertEqual(("ok", None, ""), self.outcome(self.say(view, "confirm")))
        self.assertEqual(["armed", "ran", "confirmed", "told"], self.keeper.states())
        self.keeper.advance(SECONDS)
        self.assertEqual(0, self.begun)

    def test_stale(self) -> None:
        """Over the link that there was before, or one of the same moment, it does not count."""
        view = self.say(self.ran(), "confirm")
        self.keeper.advance(5)
        for age in (6.0, 60.0):
            view = self.say(self.attach(age), "confirm")
            self.assertEqual([False], [guard["fresh"] for guard in view.guards])
        self.keeper.advance(SECONDS)
        self.assertEqual(1, self.begun)

    def test_from_the_future(self) -> None:
        """A moment that is still to come is another clock's, and proves nothing."""
        self.ran()
        view = self.say(self.attach(-1), "confirm")
        self.assertEqual([False], [guard["fresh"] for guard in view.guards])
        self.assertIsNone(view.outcome)

    def test_read_late(self) -> None:
        """A link from before the command's end proves nothing, however late the keeper reads."""
        self.armed()
        self.keeper.advance(9)
        dialled_ms = int(self.keeper.time * 1000)
        self.keeper.advance(1)
        self.command.exit()
        self.keeper.settle()
        self.keeper.advance(30)  # the OPEN was waiting meanwhile, for a keeper that syncs a disk
        view = View(self.keeper.connect())
        resume = {"consumed": 0, "limit": 1 << 20, "events": 0}
        view.open(self.key, "-", attempt=2, resume=resume, link_dialled_ms=dialled_ms)
        self.sequence = view.opened["events"]
        self.assertIsNone(self.say(view, "confirm").outcome)

    def test_no_age(self) -> None:
        """An agent that does not tell when it dialled proves nothing."""
        self.ran()
        view = self.say(self.attach(None), "confirm")
        self.assertEqual([False], [guard["fresh"] for guard in view.guards])
        self.assertIsNone(view.outcome)

    def test_while_it_runs(self) -> None:
        """A confirmation before the command's end counts for nothing."""
        view = self.say(self.armed(), "confirm")
        self.assertEqual([], view.guards)
        self.keeper.advance(SECONDS)
        self.assertIn(("term",), self.command.told)

    def test_twice(self) -> None:
        """Nothing can be taken back: a rollback after a confirmation changes nothing."""
        self.ran()
        view = self.attach(0)
        self.say(self.say(view, "confirm"), "rollback")
        self.assertEqual(("ok", None, ""), self.outcome(view))
        self.assertEqual(0, self.begun)

    def test_only_the_newest_is_told(self) -> None:
        """What an attachment was told and did not acknowledge is not told to the next."""
        self.ran()
        for _ in range(5):
            self.attach(60).everything()
        view = self.attach(0)
        view.everything()
        self.assertEqual([True], [guard["fresh"] for guard in view.guards])

    def test_not_written(self) -> None:
        """A confirmation that cannot be written does not count: a power cut would undo it."""
        self.ran()
        view = self.attach(0)
        os.chmod(os.path.join(self.keeper.home, "keeper.jobs"), 0o666)
        self.say(view, "confirm")
        self.assertIsNone(view.outcome)
        os.chmod(os.path.join(self.keeper.home, "keeper.jobs"), 0o600)
        self.assertEqual("ok", self.outcome(self.say(view, "confirm"))[0])


class RollbackTests(GuardCase):
    def test_deadline(self) -> None:
        """Without a confirmation it is undone, to the second, once; its output is told."""
        view = self.ran()
        self.keeper.advance(SECONDS - 11.01)
        self.assertEqual(0, self.begun)
        self.keeper.advance(0.02)
        self.assertEqual(1, self.begun)
        self.assertEqual(["armed", "ran", "rolling-back"], self.keeper.states())
        self.rollback.write(b"all as before\n")
        self.rollback.exit()
        self.keeper.settle()
        status, code, message = self.outcome(view)
        self.assertEqual(("error", "rolled-back"), (status, code))
        self.assertEqual("not confirmed within 120 s; rolled back: all as before", message)
        self.assertEqual(b"all as before\n", view.stderr)
        self.assertEqual(
            ["armed", "ran", "rolling-back", "rolled-back", "told"], self.keeper.states()
        )

    def test_too_late(self) -> None:
        """A confirmation while the rollback runs does not stop it."""
        self.ran()
        self.keeper.advance(SECONDS)
        view = self.say(self.attach(0), "confirm")
        self.assertEqual([], view.guards)
        self.rollback.exit()
        self.keeper.settle()
        self.assertEqual("rolled-back", self.outcome(view)[1])

    def test_failed(self) -> None:
        """A command that fails is undone at once."""
        view = self.ran(3)
        self.assertEqual(1, self.begun)
        self.rollback.exit()
        self.keeper.settle()
        self.assertIn("exit status 3", self.outcome(view)[2])

    def test_keep_failed(self) -> None:
        """Unless it may stand, too: then it can be confirmed, and has its own outcome."""
        self.ran(3, keep_failed=True)
        self.assertEqual(0, self.begun)
        view = self.say(self.attach(0), "confirm")
        self.assertEqual("exit", self.outcome(view)[0])
        assert view.outcome is not None
        self.assertEqual(3, view.outcome["exit_code"])

    def test_rollback_fails(self) -> None:
        """A rollback that fails is told as such, with its last words."""
        view = self.ran(1)
        self.rollback.write(b"x" * 9000 + b" no such file\n", stderr=True)
        self.rollback.exit(2)
        self.keeper.settle()
        status, code, message = self.outcome(view)
        self.assertEqual(("error", "rollback-failed"), (status, code))
        self.assertIn("the rollback FAILED, exit status 2", message)
        self.assertIn("no such file", message)

    def test_rollback_hangs(self) -> None:
        """A rollback that does not end is ended."""
        self.ran(1)
        self.keeper.advance(598)
        self.assertEqual([], [told for told in self.rollback.told if told == ("term",)])
        self.keeper.advance(1.1)
        self.assertIn(("term",), self.rollback.told)
        self.keeper.advance(5.1)
        self.assertIn(("kill",), self.rollback.told)

    def test_no_process_left(self) -> None:
        """A rollback for which the system has no process is tried again, and runs once."""
        self.armed()
        spawn, tries = self.keeper.sessions.spawn, []

        def full(*arguments: Any) -> Any:
            tries.append(arguments)
            if len(tries) < 3:
                raise Refused("overload", "cannot start a process")
            return spawn(*arguments)

        self.keeper.sessions.spawn = full
        self.command.exit(1)
        self.keeper.settle()
        self.assertEqual(0, self.begun)
        self.keeper.advance(5.1)
        self.keeper.advance(5.1)
        self.assertEqual(1, self.begun)
        self.rollback.exit()
        self.keeper.settle()
        self.keeper.advance(SECONDS)
        self.assertEqual(["armed", "ran", "rolling-back", "rolled-back"], self.keeper.states())
        self.assertEqual(3, len(tries))

    def test_never_a_process(self) -> None:
        """After ten minutes without one it has failed, and is told so."""
        view = self.armed()

        def full(*arguments: Any) -> Any:
            raise Refused("overload", "cannot start a process")

        self.keeper.sessions.spawn = full
        self.command.exit(1)
        self.keeper.settle()
        for _ in range(121):
            self.keeper.advance(5.0)
        self.assertEqual("rollback-failed", self.outcome(view)[1])

    def test_asked_for(self) -> None:
        """An operator can undo it at once, over any link."""
        view = self.say(self.ran(), "rollback")
        self.assertEqual(1, self.begun)
        self.rollback.exit()
        self.keeper.settle()
        self.assertIn("asked for by ann", self.outcome(view)[2])

    def test_cancelled(self) -> None:
        """Cancelling is undoing: the command is ended first, if it runs."""
        view = self.say(self.armed(), "cancel")
        self.assertIn(("term",), self.command.told)
        self.assertEqual(0, self.begun)
        self.command.exit()
        self.keeper.settle()
        self.assertEqual(1, self.begun)
        self.rollback.exit()
        self.keeper.settle()
        self.assertIn("cancelled", self.outcome(view)[2])

    def test_cancelled_while_waiting(self) -> None:
        """Cancelling after the command's end undoes it, too."""
        self.say(self.ran(), "cancel")
        self.assertEqual(1, self.begun)

    def test_revoked(self) -> None:
        """What a revoked operator has not confirmed is undone."""
        self.ran()
        control = self.keeper.control()
        control.call("end", sessions=[b64(self.key)], reason="revoked")
        self.assertEqual(1, self.begun)

    def test_hanging_command(self) -> None:
        """A command that still runs at the deadline is ended, and undone when it has ended."""
        self.armed()
        self.keeper.advance(SECONDS)
        self.assertIn(("term",), self.command.told)
        self.assertEqual(0, self.begun)
        self.command.exit()
        self.keeper.settle()
        self.assertEqual(1, self.begun)
        self.keeper.advance(20)
        self.assertEqual(1, self.begun)

    def test_unkillable_command(self) -> None:
        """One that not even KILL ends does not prevent the rollback."""
        self.armed()
        self.keeper.advance(SECONDS)
        self.keeper.advance(6.1)
        self.assertIn(("kill",), self.command.told)
        self.assertEqual(1, self.begun)
        self.command.exit()  # at last
        self.keeper.settle()
        self.assertEqual(["armed", "rolling-back"], self.keeper.states())
        self.rollback.exit()
        self.keeper.settle()
        self.assertEqual(["armed", "rolling-back", "rolled-back"], self.keeper.states())
        self.keeper.restart()
        self.keeper.advance(SECONDS)
        self.assertEqual(0, len(self.keeper.processes))

    def test_nobody_reads(self) -> None:
        """Output that nobody takes does not hold the rollback up."""
        view = self.armed()
        view.send(21, {"code": "link-lost"})
        view.close()
        for _ in range(40):
            self.command.write(b"y" * 16384)
            self.keeper.settle()
        self.command.exit(1)
        self.keeper.settle()
        self.assertEqual(1, self.begun)

    def full(self, **confirm: Any) -> None:
        """Have the command end well, with more output than anybody takes."""
        view = self.armed(**confirm)
        view.send(21, {"code": "link-lost"})
        view.close()
        for _ in range(40):
            self.command.write(b"y" * 16384)
            self.keeper.settle()
        self.command.exit()
        self.keeper.settle()

    def test_revoked_while_output_waits(self) -> None:
        """A revocation undoes the change also while output of the command waits to be read."""
        self.full()
        control = self.keeper.control()
        control.call("end", sessions=[b64(self.key)], reason="revoked")
        self.assertEqual(1, self.begun)

    def test_output_waits_for_ever(self) -> None:
        """Output that nobody takes keeps neither the change waiting nor the session running."""
        self.full(seconds=7200)
        self.keeper.advance(3601)  # exec_limit_seconds
        self.assertEqual(0, self.begun)
        self.keeper.advance(3600)
        self.assertEqual(1, self.begun)
        self.rollback.exit()
        self.keeper.settle()
        self.assertEqual(0, len(self.keeper.sessions))

    def test_journal_is_gone(self) -> None:
        """A journal that cannot be written does not keep a device unreachable."""
        self.ran()
        os.chmod(os.path.join(self.keeper.home, "keeper.jobs"), 0o666)
        self.keeper.advance(SECONDS)
        self.assertEqual(1, self.begun)


class RefusedTests(GuardCase):
    def refused(self, **confirm: Any) -> str:
        view = self.armed(**confirm)
        assert view.refused is not None
        self.assertEqual(0, len(self.keeper.processes))
        return str(view.refused["code"])

    def test_bad(self) -> None:
        """What is malformed is refused, and nothing runs or is written."""
        for fields in (
            {"seconds": 4}, {"seconds": 86_401}, {"seconds": "9"}, {"seconds": -1},
            {"seconds": None}, {"rollback": ""}, {"rollback": None}, {"rollback": "?"},
            {"rollback": b64("a\0b")}, {"rollback": b64("x" * 4097)}, {"keep_failed": 1},
        ):  # fmt: skip
            self.assertEqual("bad-request", self.refused(**fields), fields)
        self.assertEqual({}, self.keeper.jobs.journal.jobs())

    def test_for_a_shell(self) -> None:
        """A shell has no end that could be confirmed."""
        view = View(self.keeper.connect())
        confirm = {"seconds": 60, "rollback": b64("undo")}
        view.open(self.key, "-", handler="shell", process={"kind": "shell", "confirm": confirm})
        self.assertEqual("bad-request", (view.refused or {})["code"])

    def test_no_journal(self) -> None:
        """Without a journal nothing is done."""
        os.mkdir(os.path.join(self.keeper.home, "keeper.jobs"), 0o700)
        self.assertEqual("journal", self.refused())

    def test_too_many_untold(self) -> None:
        """Outcomes that nobody fetches must not fill the journal: then nothing new is begun."""
        jobs = self.keeper.jobs
        self.patch(keeper_jobs, "UNTOLD", 2)
        for key in ("a1", "b2"):
            jobs.note(key, "confirm", "confirmed")
        self.assertEqual("overload", self.refused())
        jobs.tell("a1", "confirm")
        self.assertIsNone(self.armed().refused)

    def test_known_id(self) -> None:
        """An id that the journal knows is not run again, by the next keeper neither."""
        self.ran()
        self.outcome(self.say(self.attach(0), "confirm"))
        self.keeper.restart()
        view = self.armed()
        self.assertEqual("lost", (view.refused or {})["code"])


class NextKeeperTests(GuardCase):
    def back(self, boot: str | None = None) -> None:
        self.keeper.restart(boot)
        self.attempt = max(self.attempt, 1)

    def begun_now(self) -> int:
        """How many processes this keeper has started: all are rollbacks."""
        return len(self.keeper.processes)

    def test_goes_on(self) -> None:
        """The next keeper counts on, and undoes it in time."""
        self.ran()
        self.back()
        self.keeper.advance(SECONDS - 11.1)
        self.assertEqual(0, self.begun_now())
        self.keeper.advance(0.2)
        self.assertEqual(1, self.begun_now())

    def test_can_be_confirmed(self) -> None:
        """It can still be confirmed, by who comes back to the same session."""
        view = self.ran()
        consumed, events = view.consumed, view.events
        self.back()
        self.keeper.advance(2)
        view = self.attach(1, consumed + 500, events + 3)
        self.assertEqual(("ok", None, ""), self.outcome(self.say(view, "confirm")))
        self.keeper.advance(SECONDS)
        self.assertEqual(0, self.begun_now())

    def test_end_unknown(self) -> None:
        """A command whose end nobody saw can be confirmed, and that is said."""
        self.armed()
        self.keeper.advance(10)
        self.back()
        self.keeper.advance(2)
        view = self.attach(1)
        view.everything()
        self.assertIsNone(view.guards[0]["command"])
        status, _, message = self.outcome(self.say(view, "confirm"))
        self.assertEqual("ok", status)
        self.assertIn("not known", message)

    def test_old_link(self) -> None:
        """A link from before the command's end proves nothing to the next keeper either."""
        self.ran()
        self.keeper.advance(5)
        self.back()
        self.say(self.attach(7), "confirm")
        self.assertEqual(["armed", "ran"], self.keeper.states())
        self.say(self.attach(4), "confirm")
        self.assertEqual(["armed", "ran", "confirmed"], self.keeper.states())

    def test_after_reboot(self) -> None:
        """After a reboot the rest of the time runs, by the wall clock."""
        self.ran()
        self.keeper.advance(50)
        self.back("boot-2")
        self.keeper.advance(58)
        self.assertEqual(0, self.begun_now())
        self.keeper.advance(2)
        self.assertEqual(1, self.begun_now())

    def test_after_reboot_in_1970(self) -> None:
        """With a clock that cannot be true the whole time runs again."""
        self.ran()
        self.keeper.advance(50)
        self.keeper.wall = 0.0
        self.back("boot-2")
        self.keeper.advance(SECONDS - 1)
        self.assertEqual(0, self.begun_now())
        self.keeper.advance(2)
        self.assertEqual(1, self.begun_now())

    def test_too_late(self) -> None:
        """A time that is over when the next keeper starts is over."""
        self.ran()
        self.keeper.wall += 1000
        self.back("boot-2")
        self.keeper.settle()
        self.assertEqual(1, self.begun_now())

    def test_in_the_rollback(self) -> None:
        """A rollback that was begun is not begun again; what is told is what is known."""
        self.ran(1)
        self.back()
        self.keeper.advance(SECONDS)
        self.assertEqual(0, self.begun_now())
        status, code, message = self.outcome(self.attach(0))
        self.assertEqual(("error", "rollback-unknown"), (status, code))
        self.assertIn("not known how it ended", message)
        self.assertEqual("told", self.keeper.states()[-1])

    def test_told_once(self) -> None:
        """An outcome that nobody took is told by the next keeper, until somebody has it."""
        self.ran(1)
        self.rollback.exit()
        self.keeper.settle()
        for _ in range(2):
            self.back()
            found = self.keeper.described(self.key)
            self.assertEqual(
                ("finished", "rolled-back"), (found["state"], found["outcome"]["code"])
            )
            self.assertEqual(0, len(self.keeper.sessions))  # it keeps no keeper from its end
        control = self.keeper.control()
        control.call("acknowledge", sessions=[b64(self.key)])
        self.back()
        self.assertEqual([], self.keeper.control().call("sessions")["sessions"])

    def test_noted_once(self) -> None:
        """The flight recorder gets it until it has it, whoever else was told."""
        self.ran(1)
        self.assertEqual([], self.keeper.control().call("jobs")["jobs"])
        self.rollback.exit()
        self.keeper.settle()
        for _ in range(2):
            (job,) = self.keeper.control().call("jobs")["jobs"]
            self.assertEqual(("change", "rolled-back", "ann"), (
                job["kind"], job["state"], job["operator"]
            ))  # fmt: skip
            self.assertIn("exit status 1", job["message"])
            self.back()
        noted = self.keeper.control().call("noted", jobs=[job["job"], "f" * 32, 3])["noted"]
        self.assertEqual([self.key.hex()], noted)
        self.assertEqual([], self.keeper.control().call("jobs")["jobs"])
        self.assertEqual("rolled-back", self.keeper.described(self.key)["outcome"]["code"])

    def test_not_expired(self) -> None:
        """It is not given up after an hour: nobody has it."""
        self.ran(1)
        self.rollback.exit()
        self.back()
        session = self.keeper.sessions._sessions[self.key]
        session.out.add(0, b"x" * 1000)
        self.keeper.advance(90_000)
        self.keeper.sessions.expire()
        self.assertEqual(session.out.base, session.out.end)  # its output may go
        self.assertEqual("finished", self.keeper.described(self.key)["state"])

    def test_retire(self) -> None:
        """A keeper that guards a change does not make room for another version."""
        self.ran()
        self.assertEqual(False, self.keeper.control().call("retire")["retiring"])
        self.back()
        self.assertEqual(False, self.keeper.control().call("retire")["retiring"])

    def test_stopped(self) -> None:
        """A keeper that is stopped leaves the command and the guard to the next."""
        self.armed()
        self.keeper.advance(10)
        self.keeper.sessions.stop_all()
        self.assertEqual([], self.command.told)
        self.assertFalse(self.keeper.sessions.busy)
        self.back()
        self.keeper.advance(SECONDS)
        self.assertEqual(1, self.begun_now())

    def test_login_gone(self) -> None:
        """A rollback as a login that is gone fails, and says so."""
        self.ran()
        jobs = self.keeper.jobs
        jobs.journal.append(self.key.hex(), "confirm", "ran", login="nobody-at-all")
        self.back()
        self.keeper.advance(SECONDS)
        outcome = self.keeper.described(self.key)["outcome"]
        self.assertEqual("rollback-failed", outcome["code"])
        self.assertIn("no such login", outcome["message"])

    def test_foreign_journal(self) -> None:
        """A journal that is not the keeper's own arms nothing, and the keeper still works."""
        self.ran()
        os.chmod(os.path.join(self.keeper.home, "keeper.jobs"), 0o620)
        self.back()
        self.keeper.advance(SECONDS)
        self.assertEqual(0, self.begun_now())
        self.assertTrue(any("not the keeper's own" in line for line in self.keeper.lines))
        self.keeper.open(os.urandom(16), "plain").close()
