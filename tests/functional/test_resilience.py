"""Gateways and agents that are killed, restarted, stopped and copied."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import AGENT, state, until

CLEAN = (0, -signal.SIGTERM)


class GatewayTests(FleetCase):
    def test_killed_and_restarted(self) -> None:
        """After SIGKILL and a start on the same port the devices come back by themselves."""
        fleet = self.own_fleet("solo-1", "solo-2")
        epochs = {row["name"]: row["epoch"] for row in fleet.devices()}
        host, port = fleet.address
        assert fleet.gateway is not None
        fleet.gateway.kill()
        fleet.gateway.wait()
        fleet.start_gateway(f"tcp:{port}:interface={host}")
        began = time.monotonic()
        fleet.wait_live("solo-1", "solo-2", seconds=40)
        print(f"\nback after {time.monotonic() - began:.1f} s")  # noqa: T201  # a measurement
        for row in fleet.devices():
            self.assertGreater(row["epoch"], epochs[row["name"]])
        self.assertEqual(b"ok\n", fleet.run("solo-1", "--", "echo ok").stdout)

    def test_terminated(self) -> None:
        """SIGTERM ends the gateway cleanly; agents are told, and come back to the next."""
        fleet = self.own_fleet("solo-1")
        host, port = fleet.address
        start = fleet.log_size()
        assert fleet.gateway is not None
        fleet.gateway.terminate()
        # twistd ends by the signal itself, which systemd takes as a clean end
        self.assertIn(fleet.gateway.wait(20), CLEAN)
        self.assertFalse((fleet.home / "endpoints.json").exists())
        self.assertNotIn("Traceback", fleet.log_text(start))
        agent = fleet.agents["solo-1"]
        until(lambda: "shutdown" in agent.log_text(), agent.log_text, 10)
        self.assertNotIn("Traceback", agent.log_text())
        done = fleet.run("solo-1", "--", "true")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        fleet.start_gateway(f"tcp:{port}:interface={host}")
        fleet.wait_live("solo-1", seconds=60)

    def test_restart_does_not_end_commands(self) -> None:
        """A restart of the gateway ends no command on a device."""
        fleet = self.own_fleet("solo-1")
        program = fleet.start(
            fleet.cli("run", "solo-1", "--", "echo $$; exec sleep 300"), stdin=subprocess.DEVNULL
        )
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        self.addCleanup(_kill, pid)
        assert fleet.gateway is not None
        host, port = fleet.address
        fleet.gateway.terminate()
        self.assertIn(fleet.gateway.wait(20), CLEAN)
        fleet.start_gateway(f"tcp:{port}:interface={host}")
        fleet.wait_live("solo-1", seconds=60)
        self.assertEqual("S", state(pid))


class AgentTests(FleetCase):
    def test_agent_killed(self) -> None:
        """A killed agent leaves its commands running; a new one carries them on to the end."""
        agent = self.added("hardy-1")
        ticks = self.fleet.base / "ticks"
        stop = self.fleet.base / "stop"
        count = f"n=$((n+1)); echo $n > {ticks}; sleep 0.1"
        loop = f"echo $$; n=0; while [ ! -e {stop} ]; do {count}; done"
        program = self.fleet.start(
            self.fleet.cli("run", "hardy-1", "--", f"{loop}; echo done; exit 5"),
            stdin=subprocess.DEVNULL,
        )
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        self.addCleanup(_kill, pid)
        keeper = agent.keeper_pid()
        agent.kill()
        until(lambda: self.fleet.device("hardy-1")["state"] != "live", "seen to be away", 10)

        def tick() -> int:
            text = ticks.read_text() if ticks.exists() else ""
            return int(text) if text.strip() else 0

        seen = tick()
        until(lambda: tick() > seen + 3, "the command goes on", 10)
        agent.start()
        self.fleet.wait_live("hardy-1", seconds=20)
        self.assertEqual(keeper, agent.keeper_pid())
        self.assertNotEqual("", state(pid))
        self.assert_status(0, self.run_on("hardy-1", "true"))
        stop.touch()
        done = program.finish(seconds=30)
        self.assertEqual((5, b"done\n"), (done.status, done.stdout))

    def test_agent_terminated(self) -> None:
        """SIGTERM ends the agent with status 0, and it is seen to be away at once."""
        agent = self.added("hardy-2")
        agent.kill(signal.SIGTERM)
        assert agent.process is not None
        self.assertEqual(0, agent.process.returncode)
        until(lambda: self.fleet.device("hardy-2")["state"] != "live", "seen to be away", 5)
        self.assertNotIn("Traceback", agent.log_text())

    def test_second_agent(self) -> None:
        """A second agent on a home is refused with one line; the first stays."""
        agent = self.fleet.agents["pump-1"]
        epoch = self.fleet.device("pump-1")["epoch"]
        done = self.fleet.command([*AGENT, "run", "--home", str(agent.home)], seconds=20)
        self.assertEqual(1, done.status)
        self.assert_one_line(done.stderr)
        self.assertEqual(epoch, self.fleet.device("pump-1")["epoch"])

    def test_copied_home(self) -> None:
        """Of two agents with one identity the newer is the device; they do not push in turns."""
        first = self.added("twin-1")
        copy = Agent(self.fleet, "twin-1", self.fleet.base / "twin-copy")
        shutil.copytree(
            first.home, copy.home, ignore=shutil.ignore_patterns("keeper.*", "agent.lock", "*.sock")
        )
        os.chmod(copy.home, 0o700)
        self.fleet.agents["twin-copy"] = copy
        epoch = self.fleet.device("twin-1")["epoch"]
        start = self.fleet.log_size()
        copy.start()
        until(
            lambda: (
                self.fleet.device("twin-1")["epoch"] > epoch and "duplicate" in first.log_text()
            ),
            first.log_text,
        )
        newer = self.fleet.device("twin-1")["epoch"]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            rows = [row for row in self.fleet.devices() if row["name"] == "twin-1"]
            self.assertEqual([("live", newer)], [(row["state"], row["epoch"]) for row in rows])
        self.assertEqual(1, self.fleet.log_text(start).count("displaces"))
        where = self.run_on("twin-1", "tr '\\0' ' ' < /proc/$PPID/cmdline").stdout
        self.assertIn(os.fsencode(copy.home), where)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
