"""May a device be restarted now, and what became of it: without any process or clock."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.jobs import changes, rules
from rshell_agent.jobs.journal import Job
from rshell_agent.jobs.settings import BadReboot, RebootSettings
from rshell_agent.jobs.times import Moment
from tests.agent.jobs.test_journal import WALL, JournalCase

A, B = "a" * 32, "b" * 32


class SettingsTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """Without a section systemd restarts the device, every ten minutes at most."""
        settings = RebootSettings()
        self.assertEqual(["systemctl", "reboot"], settings.commands["reboot"])
        self.assertEqual((600, 3, 300), (
            settings.min_interval, settings.max_per_hour, settings.patience
        ))  # fmt: skip

    def test_bad(self) -> None:
        """What is wrong is named, and nothing of the section is used."""
        for section, named in (
            ([], "no table"), ({"command": "reboot"}, "command"), ({"command": []}, "command"),
            ({"command": [""]}, "command"), ({"command": ["a", 1]}, "command"),
            ({"command": ["a\0"]}, "command"), ({"command": ["a"] * 65}, "command"),
            ({"poweroff_command": [[]]}, "poweroff_command"),
            ({"boot_id_file": "relative"}, "boot_id_file"), ({"boot_id_file": 1}, "boot_id_file"),
            ({"boot_id_file": "/a\0"}, "boot_id_file"),
            ({"min_interval_seconds": -1}, "min_interval"), ({"max_per_hour": True}, "max_per"),
            ({"max_per_hour": 1.5}, "max_per"), ({"patience_seconds": 10**9}, "patience"),
        ):  # fmt: skip
            with self.assertRaisesRegex(BadReboot, named):
                RebootSettings(section)


class RulesCase(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.settings = RebootSettings({"patience_seconds": 60})
        self.pid, self.start = os.getppid(), rules.start_time(os.getppid())

    def went(self, name: str, at: float, **fields: object) -> None:
        """A reboot was asked for at a second of the clock."""
        before, self.mono = self.mono, at
        self.note(name, "accepted", action="reboot", operator="ann", **fields)
        self.note(name, "going", went=True)
        self.mono = before

    def note(self, name: str, state: str, **fields: object) -> None:
        self.journal.append(name, "reboot", state, **fields)

    def settle(self, *, starting: bool = False) -> Job:
        return rules.settle(self.journal, self.settings, starting)[A]

    def refusal(self, action: str = "reboot") -> rules.Verdict | None:
        jobs = self.journal.jobs()
        return rules.refusal(jobs, action, self.settings, self.journal.clock.now())


class RefusalTests(RulesCase):
    def test_first(self) -> None:
        """The first may."""
        self.assertIsNone(self.refusal())

    def test_busy(self) -> None:
        """One at a time; who asked is told, and when it is due."""
        self.note(A, "accepted", action="reboot", operator="ann", delay=60)
        self.mono += 20
        code, message = self.refusal() or ("", "")
        self.assertEqual("busy", code)
        self.assertIn("ann", message)
        self.assertIn("due in 40 s", message)
        self.assertEqual("busy", (self.refusal("restart-agent") or ("", ""))[0])

    def test_too_soon(self) -> None:
        """The next is refused until the interval is over, to the second."""
        self.went(A, 100)
        self.note(A, "done")
        self.mono = 699.5
        code, message = self.refusal() or ("", "")
        self.assertEqual("rate-limited", code)
        self.assertIn("min_interval_seconds", message)
        self.mono = 700.0
        self.assertIsNone(self.refusal())

    def test_too_many(self) -> None:
        """No more within an hour than policy allows."""
        for number in range(3):
            self.went(f"{number:032x}", 100 + 700 * number)
            self.note(f"{number:032x}", "done")
        self.mono = 3600.0
        self.assertEqual("rate-limited", (self.refusal() or ("", ""))[0])
        self.assertIsNone(self.refusal("restart-agent"))
        self.mono = 3700.0
        self.assertIsNone(self.refusal())

    def test_none_at_all(self) -> None:
        """A device may forbid it."""
        self.settings = RebootSettings({"max_per_hour": 0})
        self.assertEqual("policy", (self.refusal() or ("", ""))[0])

    def test_did_nothing(self) -> None:
        """A command that failed has not restarted anything, and one of the agent does not count."""
        self.went(A, 100)
        self.note(A, "failed", code="command-failed")
        self.went(B, 100)
        self.note(B, "done", action="restart-agent")
        self.assertIsNone(self.refusal())

    def test_other_boot(self) -> None:
        """After a restart with an unknown clock this boot's age is what has passed."""
        self.went(A, 100)
        self.note(A, "done")
        self.boot.write_text("boot-2")
        self.journal.clock._wall = lambda: 50.0
        self.mono = 599.0
        self.assertEqual("rate-limited", (self.refusal() or ("", ""))[0])
        self.mono = 601.0
        self.assertIsNone(self.refusal())


class SettleTests(RulesCase):
    def test_done(self) -> None:
        """Another boot after the command: done, said once."""
        self.went(A, 100)
        self.boot.write_text("boot-2")
        self.mono = 130
        job = self.settle(starting=True)
        self.assertEqual("done", job.state)
        outcome = rules.outcome_of(job)
        self.assertEqual(("ok", None), (outcome["status"], outcome["code"]))
        self.assertIn("30 s", str(outcome["message"]))
        size = self.file.stat().st_size
        self.settle(starting=True)
        self.assertEqual(size, self.file.stat().st_size)

    def test_same_boot(self) -> None:
        """The same boot: not yet while it may be going down, then failed."""
        self.went(A, 100)
        self.mono = 159
        self.assertEqual("going", self.settle(starting=True).state)
        self.assertEqual("unconfirmed", rules.outcome_of(self.journal.jobs()[A])["code"])
        self.mono = 161
        job = self.settle()
        self.assertEqual("failed", job.state)
        self.assertEqual("same-boot", rules.outcome_of(job)["code"])

    def test_child_lives(self) -> None:
        """A job whose process lives is left alone, however long it takes."""
        self.note(A, "accepted", action="reboot", operator="ann")
        self.note(A, "waiting", pid=self.pid, start=self.start)
        self.mono = 90_000
        self.assertEqual("waiting", self.settle(starting=True).state)
        self.note(A, "going", went=True)
        self.assertEqual("going", self.settle(starting=True).state)

    def test_other_process(self) -> None:
        """A process that only has the same number does not count."""
        self.note(A, "accepted", action="reboot", operator="ann")
        self.note(A, "waiting", pid=self.pid, start=self.start + 1)
        self.assertEqual("interrupted", self.settle().state)

    def test_before_its_time(self) -> None:
        """A device that restarted by itself before the time is not restarted again."""
        self.note(A, "accepted", action="reboot", operator="ann", delay=900)
        self.note(A, "waiting", pid=self.pid, start=self.start)
        self.boot.write_text("boot-2")
        job = self.settle(starting=True)
        self.assertEqual("interrupted", job.state)
        self.assertIn("not asked again", str(rules.outcome_of(job)["message"]))

    def test_never_began(self) -> None:
        """Accepted, and the keeper died before it forked: interrupted at the next one's start."""
        self.note(A, "accepted", action="reboot", operator="ann")
        self.assertEqual("accepted", self.settle().state)
        self.assertEqual("interrupted", self.settle(starting=True).state)

    def test_no_boot_id(self) -> None:
        """Without boot ids nobody can tell, and that is what is told."""
        self.went(A, 100)
        self.boot.unlink()
        job = self.settle(starting=True)
        self.assertEqual("lost", job.state)
        self.assertEqual("unconfirmed", rules.outcome_of(job)["code"])

    def test_agent(self) -> None:
        """Whether an agent came back that nobody waited for cannot be told."""
        self.note(A, "accepted", action="restart-agent", operator="ann")
        self.note(A, "going", went=True)
        self.assertEqual("lost", self.settle(starting=True).state)


class ChangeTests(SynchronousTestCase):
    def job(self, *states: str, **fields: object) -> Job:
        job = Job(A, "confirm")
        for number, state in enumerate(states):
            at = Moment("boot-1", 100.0 + number, WALL + number).plain()
            job.add({"state": state, "at": at, "fields": {"seconds": 120, **fields}})
        return job

    def test_remaining(self) -> None:
        """What is left counts on, by the wall clock over a restart; a bad one gives all anew."""
        job = self.job("armed")
        self.assertEqual(70.0, changes.remaining(job, Moment("boot-1", 150, 0)))
        self.assertEqual(0.0, changes.remaining(job, Moment("boot-1", 350, 0)))
        self.assertEqual(80.0, changes.remaining(job, Moment("boot-2", 9, WALL + 40)))
        self.assertEqual(0.0, changes.remaining(job, Moment("boot-2", 9, WALL + 400)))
        self.assertEqual(120.0, changes.remaining(job, Moment("boot-2", 9, 40.0)))
        self.assertEqual(120.0, changes.remaining(job, Moment("boot-2", 9, WALL - 40)))

    def test_outcomes(self) -> None:
        """The outcome is the command's, or says what was undone and whether that worked."""
        ran = {"status": "exit", "exit_code": 3, "signal": None}
        outcome = changes.outcome_of(self.job("armed", "confirmed", command=ran))
        self.assertEqual(("exit", 3), (outcome["status"], outcome["exit_code"]))
        outcome = changes.outcome_of(self.job("armed", "confirmed"))
        self.assertEqual("ok", outcome["status"])
        self.assertIn("not known", str(outcome["message"]))
        for rollback, code in (({"status": "ok"}, "rolled-back"), (ran, "rollback-failed")):
            job = self.job("armed", "rolled-back", why="because", rollback=rollback, output="said")
            outcome = changes.outcome_of(job)
            self.assertEqual(("error", code), (outcome["status"], outcome["code"]))
            self.assertIn("because", str(outcome["message"]))
            self.assertIn("said", str(outcome["message"]))
        outcome = changes.outcome_of(self.job("armed", "rolling-back", "lost", why="because"))
        self.assertEqual("rollback-unknown", outcome["code"])

    def test_described(self) -> None:
        """A process's end is a few words."""
        self.assertEqual("how it ended is not known", changes.described(None))
        self.assertEqual("ended by signal TERM", changes.described(
            {"status": "signal", "signal": "TERM"}
        ))  # fmt: skip
        self.assertEqual("no fork", changes.described({"status": "error", "message": "no fork"}))
