"""``rshell reboot`` with real processes; its command only pretends, the test starts all again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import Finished, Program, until

BERLIN = "site=reboots"


class RebootCase(FleetCase):
    def device(self, name: str, *settings: str) -> Agent:
        """Return a live device whose restart is a script of the test's."""
        agent = self.fleet.join(name, BERLIN)
        self.addCleanup(self.fleet.remove, agent)
        self.boot = Path(f"{agent.home}.boot")
        self.boot.write_text("boot-1\n")
        self.script = Path(f"{agent.home}.sh")
        command = f'["sh", "{self.script}"]'
        lines = [
            "[reboot]", f"command = {command}", f"restart_agent_command = {command}",
            f'boot_id_file = "{self.boot}"', *settings,
        ]  # fmt: skip
        agent.configure("\n".join(lines) + "\n")
        agent.start()
        self.fleet.wait_live(name)
        return agent

    def does(self, *lines: str) -> None:
        self.script.write_text("\n".join(lines) + "\n")

    def dies(self, agent: Agent, boot: str = "boot-2") -> None:
        """Have the command end the device as a reboot does: no process lives on."""
        self.does(f"echo {boot} > {self.boot}", f"kill -9 {agent.pid} {agent.keeper_pid()} $PPID")

    def reboot(self, *arguments: str) -> Program:
        return self.fleet.start(self.fleet.cli("reboot", *arguments))

    def starts_again(self, agent: Agent) -> None:
        """Wait until the device is down, and let it come up."""
        assert agent.process is not None
        until(lambda: agent.process is None or agent.process.poll() is not None, agent.log_text)
        until(lambda: not agent.keeper_pid(), agent.log_text)
        agent.start()

    def lines(self, done: Finished) -> list[dict[str, Any]]:
        return [json.loads(line) for line in done.stdout.splitlines()]


class WaitTests(RebootCase):
    def test_back(self) -> None:
        """It is done when the device is back with another boot id, and the audit says so."""
        agent = self.device("boot-a1")
        self.dies(agent)
        program = self.reboot("--wait", "60", "--reason", "new kernel", "boot-a1")
        self.starts_again(agent)
        done = program.finish(seconds=60)
        self.assert_status(0, done)
        told = done.stdout.decode().splitlines()
        self.assertEqual("boot-a1: accepted", told[0])
        self.assertIn("boot-a1: going down", told)
        self.assertIn("boot-a1: away", told)
        self.assertIn("boot-a1: back with another boot id", told[-1])
        status = self.fleet.rshell("reboot", "--status", "boot-a1").stdout
        self.assertIn(b"done", status)
        self.assertIn(b"new kernel", status)

        def why() -> str:
            return self.fleet.rshell("why", "boot-a1", "--json").stdout.decode()

        noted = "done; asked for by admin; new kernel; back with another boot id"
        until(lambda: noted in why(), why, 20)  # the recorder tells within moments

    def test_told_without_operator(self) -> None:
        """An operator who did not wait finds the end in the audit, told once by the device."""
        agent = self.device("boot-a2")
        self.dies(agent)
        done = self.reboot("--json", "boot-a2").finish(seconds=30)
        self.assert_status(0, done)
        result = self.lines(done)[-1]["outcome"]["result"]
        self.assertEqual(False, result["confirmed"])
        self.starts_again(agent)
        self.fleet.wait_live("boot-a2")

        def rows() -> list[dict[str, Any]]:
            listed = json.loads(self.fleet.rshell("audit", "--json", "--limit", "100").stdout)
            return [row for row in listed if row.get("session") == result["job"]]

        def ends() -> list[str]:
            return [row["status"] for row in rows() if row["kind"] == "session.outcome"]

        until(lambda: ends() == ["ok"], lambda: str(rows()), 20)
        agent.kill()  # the next link lists it again, and it is not written again
        agent.start()
        self.fleet.wait_live("boot-a2")
        self.assertEqual(["ok"], ends())

    def test_same_boot(self) -> None:
        """A device that comes back with the same boot id has failed, and that is an error."""
        agent = self.device("boot-a3", "patience_seconds = 1")
        self.dies(agent, "boot-1")
        program = self.reboot("--wait", "60", "--json", "boot-a3")
        self.starts_again(agent)
        done = program.finish(seconds=60)
        self.assert_status(255, done)
        outcome = self.lines(done)[-1]["outcome"]
        self.assertEqual(("error", "same-boot"), (outcome["status"], outcome["code"]))

    def test_not_back(self) -> None:
        """A device that is not back in time is an error: asked for, not confirmed."""
        agent = self.device("boot-a4")
        self.dies(agent)
        done = self.reboot("--wait", "4", "--json", "boot-a4").finish(seconds=40)
        self.assert_status(255, done)
        outcome = self.lines(done)[-1]["outcome"]
        self.assertEqual(("error", "unconfirmed"), (outcome["status"], outcome["code"]))
        self.assertIn("--status", outcome["message"])

    def test_only_the_agent(self) -> None:
        """--agent restarts the agent; what runs on the device lives on."""
        agent = self.device("boot-a5")
        self.does(f"kill -9 {agent.pid}")
        sleeper = self.fleet.start(self.fleet.cli("run", "boot-a5", "--", "echo on; sleep 3"))
        assert sleeper.process.stdout is not None
        self.assertEqual(b"on\n", sleeper.process.stdout.readline())
        program = self.reboot("--agent", "--wait", "40", "boot-a5")
        until(lambda: agent.process is None or agent.process.poll() is not None, agent.log_text)
        agent.start()
        done = program.finish(seconds=60)
        self.assert_status(0, done)
        self.assertIn(b"another agent is connected", done.stdout)
        self.assertEqual(0, sleeper.finish(seconds=30).status)


class ManyTests(RebootCase):
    def test_delay_and_cancel(self) -> None:
        """What waits for its time is taken back, on all devices, by whoever may."""
        self.device("boot-b1")
        self.device("boot-b2")
        done = self.reboot("--delay", "10m", BERLIN + ",boot-b*").finish(seconds=40)
        self.assert_status(0, done)
        self.assertEqual(2, done.stdout.count(b"scheduled"))
        done = self.reboot("boot-b1").finish(seconds=30)
        self.assert_status(255, done)
        self.assertIn(b"under way already, asked for by admin", done.stderr)
        done = self.reboot("--cancel", "boot-b*").finish(seconds=30)
        self.assert_status(0, done)
        self.assertEqual(
            {b"boot-b1: cancelled", b"boot-b2: cancelled"}, set(done.stdout.splitlines())
        )
        done = self.reboot("--cancel", "boot-b*").finish(seconds=30)
        self.assert_status(1, done)
        self.assertEqual(2, done.stderr.count(b"no reboot waits"))
        shown = json.loads(self.reboot("--status", "--json", "boot-b1").finish().stdout)
        self.assertEqual([("cancelled", True)], [(s["state"], s["decided"]) for s in shown])

    def test_command_fails(self) -> None:
        """A command that fails is told with its words; they are shown as harmless text."""
        self.device("boot-b3")
        self.does("printf 'no \\033[2Jrights\\n' >&2", "exit 4")
        done = self.reboot("boot-b3").finish(seconds=30)
        self.assert_status(255, done)
        self.assertIn(b"status 4", done.stderr)
        self.assertNotIn(b"\x1b", done.stderr)
        self.assertIn(b"rights", done.stderr)

    def test_absent(self) -> None:
        """A device that is away is not asked later; nothing is queued."""
        agent = self.device("boot-b4")
        agent.stop()
        until(lambda: self.fleet.device("boot-b4")["state"] != "live", "seen to be away")
        done = self.reboot("--wait", "30", "boot-b4").finish(seconds=30)
        self.assert_status(255, done)
        self.assertIn(b"boot-b4", done.stderr)
        self.assert_one_line(done.stderr)


class UsageTests(FleetCase):
    def test_wrong(self) -> None:
        """What cannot be meant is refused with status 2 and one line; nothing is asked for."""
        for words in (
            ["--poweroff", "--wait", "5", "pump-1"], ["--poweroff", "--agent", "pump-1"],
            ["--cancel", "--status", "pump-1"], ["--cancel", "--delay", "5", "pump-1"],
            ["--delay", "2d", "pump-1"], ["--delay", "soon", "pump-1"], ["--wait", "0", "pump-1"],
            ["--reason", "x" * 201, "pump-1"], ["--reason", "a\nb", "pump-1"], [],
        ):  # fmt: skip
            done = self.fleet.rshell("reboot", *words)
            self.assertEqual(2, done.status, (words, done))
            self.assert_one_line(done.stderr)
        done = self.fleet.rshell("reboot", "nothing-*")
        self.assertEqual(255, done.status)
