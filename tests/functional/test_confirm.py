"""``rshell run --confirm``: changes that undo themselves, with real processes."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import Finished, Program, until


class ConfirmCase(FleetCase):
    def marker(self, name: str) -> Path:
        return self.fleet.base / f"undone-{name}"

    def change(self, device: str, seconds: int, *words: str, **options: Any) -> Program:
        """Start a change whose rollback leaves a line in a file each time that it runs."""
        rollback = f"echo undone | tee -a {self.marker(device)}"
        options.setdefault("stdin", subprocess.DEVNULL)
        return self.fleet.start(
            self.fleet.cli("run", "--confirm", str(seconds), "--rollback", rollback, *words),
            **options,
        )

    def undone(self, device: str) -> int:
        path = self.marker(device)
        return path.read_text().count("undone") if path.exists() else 0

    def outcome(self, done: Finished) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["outcome"]
        return found

    def down(self, agent: Agent) -> None:
        until(lambda: agent.process is None or agent.process.poll() is not None, agent.log_text)


class GoodTests(ConfirmCase):
    def test_confirmed(self) -> None:
        """A change after which the device can dial anew stands, over a link that is a new one."""
        epoch = self.fleet.device("pump-2")["epoch"]
        done = self.change("pump-2", 30, "pump-2", "--", "echo changed").finish()
        self.assert_status(0, done)
        self.assertEqual(b"changed\n", done.stdout)
        self.assertIn(b"confirmed", done.stderr)
        self.assertGreater(self.fleet.device("pump-2")["epoch"], epoch)
        self.assertEqual(0, self.undone("pump-2"))

    def test_many(self) -> None:
        """On several devices each proves itself."""
        done = self.change("all", 30, "--json", "site=berlin", "--", "true").finish()
        self.assert_status(0, done)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        confirming = [line["device"] for line in lines
                      if line.get("progress", {}).get("step") == "confirming"]  # fmt: skip
        self.assertEqual(["pump-1", "valve-1"], sorted(confirming))

    def test_agent_killed(self) -> None:
        """A change that kills the agent proves itself by the next one's link."""
        agent = self.added("conf-a1")
        program = self.change("conf-a1", 60, "conf-a1", "--", f"kill -9 {agent.pid}; echo gone")
        self.down(agent)
        agent.start()
        done = program.finish(seconds=60)
        self.assert_status(0, done)
        self.assertEqual(b"gone\n", done.stdout)
        self.assertEqual(0, self.undone("conf-a1"))

    def test_everything_killed(self) -> None:
        """So does one that takes the keeper with it, if its end need not be known."""
        agent = self.added("conf-a2")
        kill = f"kill -9 {agent.pid} {agent.keeper_pid()}"
        words = ["--confirm-failed", "--json", "conf-a2", "--", kill + "; sleep 5"]
        program = self.change("conf-a2", 60, *words)
        self.down(agent)
        until(lambda: not agent.keeper_pid(), agent.log_text)
        agent.start()
        done = program.finish(seconds=60)
        self.assert_status(0, done)
        self.assertIn("not known", self.outcome(done)["message"])
        self.assertEqual(0, self.undone("conf-a2"))

    def commands(self, device: str) -> set[str]:
        """Return the commands' sessions that are known of on a device."""
        rows = json.loads(self.fleet.rshell("sessions", "--json", device).stdout)
        return {row["session"] for row in rows if row["handler"] == "exec"}

    def test_by_another_command(self) -> None:
        """A change whose rshell is gone can be confirmed by `rshell confirm`, or undone at once."""
        for option, undone in (([], 0), (["--rollback"], 1)):
            before = self.commands("pump-1")
            program = self.change("pump-1", 60, "--confirm-failed", "pump-1", "--",
                                  "echo begun; sleep 2; exit 3")  # fmt: skip
            assert program.process.stdout is not None
            self.assertEqual(b"begun\n", program.process.stdout.readline())
            program.process.send_signal(signal.SIGKILL)
            program.process.wait()
            (session,) = self.commands("pump-1") - before
            done = self.fleet.rshell("confirm", *option, session[:8])
            self.assertEqual(undone, self.undone("pump-1"), done)
            self.assert_status(255 if undone else 3, done)


class UndoneTests(ConfirmCase):
    def test_failing(self) -> None:
        """A change that fails is undone at once, and its rollback's words are shown."""
        done = self.change("pump-3", 60, "pump-2", "--", "echo trying; exit 3").finish()
        self.assert_status(255, done)
        self.assertEqual(1, self.undone("pump-3"))
        self.assertIn(b"exit status 3; rolled back: undone", done.stderr)

    def test_link_cut(self) -> None:
        """A change that cuts the device off is undone by the device itself, and told later."""
        agent = self.added("conf-b1")
        program = self.change("conf-b1", 5, "--json", "conf-b1", "--", f"kill -9 {agent.pid}")
        self.down(agent)
        until(lambda: self.undone("conf-b1") == 1, "undone", 20)
        agent.start()
        done = program.finish(seconds=60)
        self.assert_status(255, done)
        outcome = self.outcome(done)
        self.assertEqual(("error", "rolled-back"), (outcome["status"], outcome["code"]))
        self.assertIn("not confirmed within 5 s", outcome["message"])
        self.assertEqual(1, self.undone("conf-b1"))

    def test_power_cut(self) -> None:
        """So it is when all dies: the next keeper undoes it, once, and the audit is told."""
        agent = self.added("conf-b2")
        kill = f"kill -9 {agent.pid} {agent.keeper_pid()}"
        program = self.change("conf-b2", 6, "conf-b2", "--", kill)
        self.down(agent)
        program.kill()
        until(lambda: not agent.keeper_pid(), agent.log_text)
        agent.start()
        until(lambda: self.undone("conf-b2") == 1, agent.log_text, 20)
        agent.kill()
        agent.start()
        self.fleet.wait_live("conf-b2")

        def told() -> list[str]:
            listed = json.loads(self.fleet.rshell("audit", "--json", "--limit", "100").stdout)
            rows = [row for row in listed if row.get("device") == "conf-b2"]
            return [row["code"] for row in rows if row["kind"] == "session.outcome"]

        until(lambda: told() == ["rolled-back"], lambda: str(told()), 20)
        self.assertEqual(1, self.undone("conf-b2"))

    def test_interrupted(self) -> None:
        """Ctrl-C undoes the change."""
        program = self.change("pump-4", 60, "pump-2", "--", "echo begun; sleep 60")
        assert program.process.stdout is not None
        self.assertEqual(b"begun\n", program.process.stdout.readline())
        program.process.send_signal(signal.SIGINT)
        done = program.finish(seconds=30)
        self.assertEqual(130, done.status)
        until(lambda: self.undone("pump-4") == 1, "undone", 15)

    def test_no_such_command(self) -> None:
        """A command that is not there has changed nothing, and nothing is undone."""
        done = self.change("pump-5", 60, "pump-2", "--", "no-such-command", "x").finish()
        self.assert_status(255, done)
        self.assertIn(b"command not found", done.stderr)
        self.assertEqual(0, self.undone("pump-5"))


class UsageTests(ConfirmCase):
    def test_wrong(self) -> None:
        """Half of the options, or one that makes no sense, is wrong usage: one line, status 2."""
        for words in (
            ["--confirm", "30", "pump-1", "--", "true"],
            ["--rollback", "x", "pump-1", "--", "true"],
            ["--confirm", "4", "--rollback", "x", "pump-1", "--", "true"],
            ["--confirm", "x", "--rollback", "x", "pump-1", "--", "true"],
            ["--confirm", "30", "--rollback", "", "pump-1", "--", "true"],
            ["--confirm", "30", "--rollback", "x" * 4097, "pump-1", "--", "true"],
            ["--confirm-ask", "pump-1", "--", "true"], ["--confirm-failed", "pump-1", "--", "true"],
            ["--confirm", "30", "--rollback", "x", "--confirm-ask", "pump-1", "--", "true"],
        ):  # fmt: skip
            done = self.fleet.rshell("run", *words, stdin=subprocess.DEVNULL)
            self.assertEqual(2, done.status, (words, done))
            self.assert_one_line(done.stderr)

    def test_no_such_change(self) -> None:
        """There is nothing to confirm where no session is."""
        done = self.fleet.rshell("confirm", "f" * 32)
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
