"""Reboots: a real keeper and its child, with commands that only pretend (K48, K49)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.jobs.rules import start_time
from tests.keeper.client import AGENT_FOLDER, PROGRAM, Keeper, Stream, b64
from tests.keeper.inprocess import View
from tests.keeper.test_guard import JobsKeeper
from tests.keeper.test_streams import alive

#: What the fake command does: it notes each call, then what the test put into a file.
SCRIPT = """#!/bin/sh
echo called >> "$0.calls"
. "$0.more"
"""


class RebootKeeper(Keeper):
    """A keeper whose device restarts by a script."""

    def __init__(self, home: str, **environment: str) -> None:
        self.environment = environment
        super().__init__(home)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, AGENT_FOLDER, self.home]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen([*command, json.dumps(self.times)], env=environment)

    def die(self) -> None:
        """End as by a power cut."""
        self.process.kill()
        self.process.wait()


class RebootCase(SynchronousTestCase):
    settings = "min_interval_seconds = 600"

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="keeper-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.boot = self.home / "boot_id"
        self.boot.write_text("boot-1\n")
        self.script = self.home / "reboot.sh"
        self.script.write_text(SCRIPT)
        self.does("true")
        words = f'["sh", "{self.script}"]'
        self.configure(
            f"[reboot]\ncommand = {words}\npoweroff_command = {words}\n"
            f'restart_agent_command = {words}\nboot_id_file = "{self.boot}"\n{self.settings}\n'
        )
        self.key = os.urandom(16)
        self.keeper = self.another()

    def another(self, **environment: str) -> RebootKeeper:
        """Start a keeper on the home."""
        keeper = RebootKeeper(str(self.home), **environment)
        self.addCleanup(self.ended, keeper)
        self.keeper = keeper
        return keeper

    def ended(self, keeper: RebootKeeper) -> None:
        if keeper.process.poll() is None:
            keeper.die()
        self.assertNotIn("fault:", keeper.log())

    def configure(self, text: str) -> None:
        (self.home / "agent.toml").write_text(text)

    def does(self, line: str) -> None:
        """Say what the device's command does."""
        Path(f"{self.script}.more").write_text(line + "\n")

    @property
    def calls(self) -> int:
        path = Path(f"{self.script}.calls")
        return path.read_text().count("called") if path.exists() else 0

    def stream(self, key: bytes | None = None, /, **argument: Any) -> Stream:
        stream = Stream(self.keeper.connect())
        process = {"kind": "worker", "worker": "reboot", "argument": argument}
        key = key or os.urandom(16)
        stream.open(key, "-", handler="reboot", process=process)
        return stream

    def ask(self, **argument: Any) -> Stream:
        """Open the session of this test's own reboot."""
        stream = self.stream(self.key, **argument)
        assert stream.refused is None, stream.refused
        return stream

    def refused(self, **argument: Any) -> tuple[str, str]:
        stream = self.stream(**argument)
        assert stream.refused is not None, stream.opened
        return stream.refused["code"], stream.refused["message"]

    def steps(self, stream: Stream) -> list[str]:
        return [json.loads(line)["step"] for line in stream.stdout.splitlines()]

    def status(self) -> dict[str, Any]:
        """Return what the device tells of the job."""
        stream = self.stream(action="status", job=self.key.hex())
        stream.finish()
        found: dict[str, Any] = json.loads(stream.stdout)
        return found

    def until(self, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while (found := self.status())["state"] != state:
            assert time.monotonic() < deadline, found
        return found

    def described(self) -> dict[str, Any] | None:
        control = self.keeper.control()
        found = control.session(self.key)
        control.close()
        return found


class FlowTests(RebootCase):
    def test_done(self) -> None:
        """The command is given once; the next keeper finds another boot, and tells it."""
        self.does(f"echo boot-2 > {self.boot}; kill -9 {self.keeper.process.pid}")
        stream = self.ask(reason="new kernel")
        stream.until(b'"going"')
        while stream.step():
            pass  # the connection ends with the keeper
        self.assertIsNone(stream.outcome)
        self.keeper.process.wait(20)
        self.another()
        found = self.described()
        assert found is not None
        self.assertEqual(("finished", "ok"), (found["state"], found["outcome"]["status"]))
        self.assertTrue(found["outcome"]["result"]["confirmed"])
        self.assertEqual(("ann", "reboot"), (found["operator"], found["handler"]))
        resume = {"consumed": stream.consumed, "limit": 1 << 20, "events": stream.events}
        back = Stream(self.keeper.connect())
        back.open(self.key, "-", handler="reboot", attempt=2, resume=resume)
        self.assertIsNone(back.refused)
        self.assertEqual("ok", back.finish()["status"])
        self.assertIsNone(self.described())
        self.assertEqual("done", self.status()["state"])
        self.assertEqual(1, self.calls)

    def test_same_boot(self) -> None:
        """A device that is back with the same boot id has failed."""
        self.configure((self.home / "agent.toml").read_text() + "patience_seconds = 1\n")
        self.does(f"kill -9 {self.keeper.process.pid} $PPID")
        self.ask().until(b'"going"')
        self.keeper.process.wait(20)
        time.sleep(1.1)  # the patience is counted on the device's own clock
        self.another()
        found = self.until("failed")
        self.assertEqual("same-boot", found["code"])
        self.assertEqual(1, self.calls)

    def test_stays(self) -> None:
        """A command that succeeds and restarts nothing is a failure, told at once."""
        self.configure((self.home / "agent.toml").read_text() + "patience_seconds = 1\n")
        outcome = self.ask().finish()
        self.assertEqual(("error", "same-boot"), (outcome["status"], outcome["code"]))

    def test_command_fails(self) -> None:
        """A command that fails is told with what it said, and may be given again at once."""
        self.does("echo 'not authorised\x1b[2J' >&2; exit 4")
        stream = self.ask()
        outcome = stream.finish()
        self.assertEqual(("error", "command-failed"), (outcome["status"], outcome["code"]))
        self.assertIn("status 4", outcome["message"])
        self.assertIn("not authorised", outcome["message"])
        self.assertEqual(["accepted", "announced", "going", "failed"], self.steps(stream))
        self.key = os.urandom(16)
        self.assertEqual("command-failed", self.ask().finish()["code"])

    def test_command_goes_down_too(self) -> None:
        """A command that the shutdown itself ends has not failed: the boot id tells."""
        self.configure((self.home / "agent.toml").read_text().replace("600", "0"))
        for name in ("TERM", "KILL"):
            self.does(f"echo boot-{name} > {self.boot}; kill -{name} $$")
            self.key = os.urandom(16)
            self.ask().until(b'"going"')
            self.until("done")

    def test_no_command(self) -> None:
        """A command that is not there is told as well."""
        self.configure('[reboot]\ncommand = ["/no/such/reboot"]\n')
        outcome = self.ask().finish()
        self.assertEqual("command-failed", outcome["code"])
        self.assertIn("No such file", outcome["message"])

    def test_never_twice(self) -> None:
        """The same session asked for again gets no second reboot, of the next keeper neither."""
        self.does("exit 1")
        self.ask().finish()
        self.assertEqual("lost", (self.stream(self.key).refused or {})["code"])
        self.keeper.die()
        self.another()
        self.assertEqual("lost", (self.stream(self.key).refused or {})["code"])
        self.assertEqual(1, self.calls)

    def test_nobody_there(self) -> None:
        """What was accepted is done, also if nobody is there any more."""
        self.does(f"echo boot-2 > {self.boot}")
        stream = self.ask(delay_seconds=1)
        stream.until(b'"announced"')
        stream.close()
        deadline = time.monotonic() + 20
        while not self.calls:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_agent(self) -> None:
        """An agent has been restarted when another one is connected."""
        sleeper = subprocess.Popen(["sleep", "100"])
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        status = json.dumps({"pid": sleeper.pid, "state": "connected"})
        self.does(f"echo '{status}' > {self.home}/status.json")
        (self.home / "status.json").write_text(
            json.dumps({"pid": os.getpid(), "state": "connected"})
        )
        stream = self.ask(action="restart-agent")
        outcome = stream.finish()
        self.assertEqual("ok", outcome["status"])
        self.assertIn("another agent", outcome["message"])
        self.assertEqual(["accepted", "announced", "going", "done"], self.steps(stream))


class CancelTests(RebootCase):
    def test_by_session(self) -> None:
        """Before its time the operator who asked can take it back."""
        stream = self.ask(delay_seconds=100)
        stream.until(b'"announced"')
        stream.event(1, "cancel")
        outcome = stream.finish()
        self.assertEqual(("error", "cancelled"), (outcome["status"], outcome["code"]))
        self.assertEqual(0, self.calls)

    def test_by_another(self) -> None:
        """So can another one, and after the keeper's death too."""
        stream = self.ask(delay_seconds=100)
        stream.until(b'"announced"')
        self.assertEqual("busy", self.refused()[0])
        self.keeper.die()
        self.another()
        self.assertEqual("waiting", self.status()["state"])
        asked = self.stream(action="cancel")
        self.assertEqual("ok", asked.finish()["status"])
        self.assertEqual(["cancelled"], self.steps(asked))
        self.assertEqual("cancelled", self.status()["code"])

    def test_nothing_waits(self) -> None:
        """Without one that waits there is nothing to take back."""
        self.assertEqual("not-found", self.refused(action="cancel")[0])

    def test_revoked(self) -> None:
        """A reboot whose operator is revoked before its time is not done."""
        self.ask(delay_seconds=100).until(b'"announced"')
        self.keeper.control().call("end", sessions=[b64(self.key)], reason="revoked")
        self.until("cancelled")

    def test_keeper_stopped(self) -> None:
        """A keeper that is stopped takes it back; the outcome is not forgotten."""
        self.ask(delay_seconds=100).until(b'"announced"')
        self.keeper.stop_and_keep()
        self.another()
        self.assertEqual("cancelled", self.status()["state"])

    def test_too_late(self) -> None:
        """After the command was given nothing takes it back."""
        self.does("sleep 2; exit 1")
        stream = self.ask()
        stream.until(b'"going"')
        stream.event(1, "cancel")
        self.assertEqual("command-failed", stream.finish()["code"])
        self.assertEqual(1, self.calls)


class PlayedTests(SynchronousTestCase):
    def test_revoked_too_late(self) -> None:
        """A revocation that the child does not heed any more does not hide what was done."""
        keeper = JobsKeeper()
        self.addCleanup(keeper.stop)
        key = os.urandom(16)
        view = View(keeper.connect())
        process = {"kind": "worker", "worker": "reboot", "argument": {"action": "restart-agent"}}
        view.open(key, "-", handler="reboot", process=process)
        keeper.jobs.note(key.hex(), "reboot", "waiting", pid=os.getpid(), start=1)
        keeper.control().call("end", sessions=[b64(key)], reason="revoked")
        keeper.jobs.note(key.hex(), "reboot", "going", went=True)
        keeper.jobs.note(key.hex(), "reboot", "failed", code="command-failed", message="it says no")
        keeper.processes[0].exit(1)
        keeper.settle()
        view.everything()
        assert view.outcome is not None
        self.assertEqual("command-failed", view.outcome["code"])


class RefusedTests(RebootCase):
    def test_requests(self) -> None:
        """What is malformed is refused, and nothing is written."""
        for argument in (
            {"action": "halt"}, {"action": 1}, {"action": ""}, {"delay_seconds": -1},
            {"delay_seconds": 86_401}, {"delay_seconds": "1"}, {"reason": "a\nb"},
            {"reason": "x" * 201}, {"reason": "\x1b"}, {"job": 3},
        ):  # fmt: skip
            self.assertEqual("bad-request", self.refused(**argument)[0], argument)
        self.assertEqual("not-found", self.refused(action="status", job="f" * 32)[0])
        self.assertFalse((self.home / "keeper.jobs").exists())

    def test_settings(self) -> None:
        """A wrong [reboot] forbids it, and says why."""
        self.configure('[reboot]\ncommand = "reboot"\n')
        code, message = self.refused()
        self.assertEqual("policy", code)
        self.assertIn("[reboot] command", message)

    def test_policy(self) -> None:
        """A device whose policy does not name the handler does not restart."""
        self.configure('[policy]\nhandlers = ["exec"]\n')
        self.assertEqual("policy", self.refused()[0])

    def test_not_by_others(self) -> None:
        """No other handler reaches the worker, and this one reaches no other kind."""
        for handler, process in (
            ("exec", {"kind": "worker", "worker": "reboot", "argument": {}}),
            ("files", {"kind": "worker", "worker": "reboot", "argument": {}}),
            ("reboot", {"kind": "exec", "argv": [b64("true")]}),
            ("reboot", {"kind": "worker", "worker": "files", "argument": {}}),
        ):
            found = self.keeper.refused(os.urandom(16), "-", handler=handler, process=process)
            self.assertEqual("bad-request", found[0])

    def test_command_of_the_peer(self) -> None:
        """A command in the request is not looked at."""
        marker = self.home / "marker"
        self.does("exit 1")
        self.ask(
            command=["touch", str(marker)], settings={"command": ["touch", str(marker)]}, home="/"
        ).finish()
        self.assertFalse(marker.exists())
        self.assertEqual(1, self.calls)

    def test_rate(self) -> None:
        """A device that was just restarted refuses to be restarted again."""
        self.configure((self.home / "agent.toml").read_text() + "patience_seconds = 0\n")
        self.assertEqual("same-boot", self.ask().finish()["code"])
        code, message = self.refused()
        self.assertEqual("rate-limited", code)
        self.assertIn("min_interval_seconds", message)


class CrashTests(RebootCase):
    """Whatever dies when: at most one command, and what is told is true."""

    def crash(self, point: str) -> dict[str, Any]:
        """Ask a keeper that ends at a point, let the next one tell."""
        self.keeper.die()
        self.another(RSHELL_CRASH_AT=point)
        stream = Stream(self.keeper.connect())
        process = {"kind": "worker", "worker": "reboot", "argument": {}}
        try:
            stream.open(self.key, "-", handler="reboot", process=process)
            while stream.outcome is None and stream.step():
                pass
        except (AssertionError, OSError, KeyError):
            pass  # it died before it could answer
        stream.close()
        pid = self.child()
        deadline = time.monotonic() + 10
        while pid and start_time(pid) and "command" not in point:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        if self.keeper.process.poll() is None:
            self.keeper.die()
        self.another()
        return self.status() if self.calls or (self.home / "keeper.jobs").exists() else {}

    def child(self) -> int:
        """Return the child's number, if the journal has it."""
        path = self.home / "keeper.jobs"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            fields = json.loads(line[9:]).get("fields", {})
            if "pid" in fields:
                return int(fields["pid"])
        return 0

    def test_keeper_before_accepting(self) -> None:
        """Nothing is written, nothing is done."""
        self.assertEqual({}, self.crash("jobs.reboot.accepted.before"))
        self.assertEqual(0, self.calls)

    def test_keeper_after_accepting(self) -> None:
        """Accepted, and not begun: told as interrupted, never begun."""
        self.assertEqual("interrupted", self.crash("jobs.reboot.accepted.after")["state"])
        self.assertEqual(0, self.calls)

    def test_child_before_waiting(self) -> None:
        """A child that dies before its first word has done nothing."""
        self.assertEqual("interrupted", self.crash("jobs.reboot.waiting.before")["state"])
        self.assertEqual(0, self.calls)

    def test_child_before_going(self) -> None:
        """One that dies before it wrote that it goes, neither."""
        self.assertEqual("interrupted", self.crash("jobs.reboot.going.before")["state"])
        self.assertEqual(0, self.calls)

    def test_child_after_going(self) -> None:
        """One that dies between the word and the deed has not done it, and it is not done later."""
        for point in ("jobs.reboot.going.after", "reboot.told", "reboot.command.before"):
            self.key = os.urandom(16)
            self.configure(
                f'[reboot]\ncommand = ["sh", "{self.script}"]\nboot_id_file = "{self.boot}"\n'
                "min_interval_seconds = 0\npatience_seconds = 0\nmax_per_hour = 9\n"
            )
            found = self.crash(point)
            self.assertEqual(("failed", "same-boot"), (found["state"], found["code"]))
            self.assertEqual(0, self.calls)

    def test_child_after_command(self) -> None:
        """One that dies after the command was given: the next boot tells."""
        self.does(f"echo boot-2 > {self.boot}")
        self.assertEqual("done", self.crash("reboot.command.after")["state"])
        self.assertEqual(1, self.calls)

    def test_child_after_failing(self) -> None:
        """One that dies with a command that failed: the device stays up, and that is told."""
        self.does("exit 7")
        for number, point in enumerate(("jobs.reboot.failed.before", "jobs.reboot.failed.after")):
            self.key = os.urandom(16)
            self.configure(
                f'[reboot]\ncommand = ["sh", "{self.script}"]\nboot_id_file = "{self.boot}"\n'
                "min_interval_seconds = 0\npatience_seconds = 0\nmax_per_hour = 9\n"
            )
            found = self.crash(point)
            self.assertEqual("failed", found["state"])
            self.assertEqual(("same-boot", "command-failed")[number], found["code"])
            self.assertEqual(number + 1, self.calls)

    def test_child_before_cancelling(self) -> None:
        """One that dies before it wrote that it was cancelled has done nothing, and says so."""
        self.keeper.die()
        self.another(RSHELL_CRASH_AT="jobs.reboot.cancelled.before")
        stream = self.ask(delay_seconds=100)
        stream.until(b'"announced"')
        self.stream(action="cancel").finish()
        outcome = stream.finish()
        self.assertEqual(("error", "interrupted"), (outcome["status"], outcome["code"]))
        self.assertEqual(0, self.calls)

    def test_child_killed(self) -> None:
        """A child that is killed while it waits is told so at once, and can be asked for again."""
        stream = self.ask(delay_seconds=100)
        stream.until(b'"announced"')
        pid = self.child()
        os.kill(pid, signal.SIGKILL)
        outcome = stream.finish()
        self.assertEqual(("error", "interrupted"), (outcome["status"], outcome["code"]))
        self.assertFalse(alive(pid))
        self.does("exit 1")
        self.key = os.urandom(16)
        self.ask().finish()
