"""Devices that are silent, gone, back, or there twice, and who tells why (L1 to L5, H2 to H5)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import lasting, until
from tests.functional.relay import Relay
from tests.functional.relayed import DEVICE, RelayedCase


class GhostTests(RelayedCase):
    def test_ghost_replaced(self) -> None:
        """A device that returns while its old link looks alive replaces it at once."""
        fleet = self.fleet
        epoch = fleet.device(DEVICE)["epoch"]
        fleet.device_side.freeze()
        fleet.agent.kill()
        self.assertEqual("live", fleet.device(DEVICE)["state"])  # it is a ghost
        fleet.agent.start()
        began = time.monotonic()
        until(lambda: fleet.device(DEVICE)["epoch"] > epoch, fleet.agent.log_text, 15)
        self.assertEqual(1, len(fleet.devices(DEVICE)))
        asked = time.monotonic()
        done = fleet.run(DEVICE, "--", "echo here")
        self.assertEqual((0, b"here\n"), (done.status, done.stdout), done.stderr)
        self.assertLess(time.monotonic() - asked, 5)
        self.assertLess(time.monotonic() - began, 20)

    def test_late_end_of_a_ghost(self) -> None:
        """The end of the old link, when it comes at last, does not touch the new one."""
        fleet = self.fleet
        old = fleet.device(DEVICE)["epoch"]
        fleet.device_side.freeze()
        fleet.agent.kill()
        fleet.agent.start()
        until(lambda: fleet.device(DEVICE)["epoch"] > old, fleet.agent.log_text, 15)
        epoch = fleet.device(DEVICE)["epoch"]
        fleet.device_side.thaw()
        for _ in range(5):
            self.assert_status(0, fleet.run(DEVICE, "--", "true"))
        row = fleet.device(DEVICE)
        self.assertEqual(("live", epoch), (row["state"], row["epoch"]))

    @lasting("it takes a heartbeat, up to 45 s")
    def test_agent_notices(self) -> None:
        """An agent whose link is half-open dials again within 45 s."""
        relay, before = self.fleet.device_side, self.fleet.device_side.accepted
        began = time.monotonic()
        relay.freeze()
        until(lambda: relay.accepted > before, self.fleet.agent.log_text, 60)
        took = time.monotonic() - began
        print(f"\nthe agent noticed after {took:.1f} s")  # noqa: T201  # a measurement
        self.assertLess(took, 46)
        self.fleet.wait_live(DEVICE)

    @lasting("it takes 60 s")
    def test_gateway_notices(self) -> None:
        """The gateway gives up a device that is silent within 60 s; before, it is suspect."""
        fleet = self.fleet
        self._stop_agent()
        began = time.monotonic()
        states: list[str] = []

        def lost() -> bool:
            state = str(fleet.device(DEVICE)["state"])
            if state not in states:
                states.append(state)
            return state == "lost"

        until(lost, lambda: str(states), 75, 0.5)
        took = time.monotonic() - began
        print(f"\nthe gateway noticed after {took:.1f} s")  # noqa: T201  # a measurement
        self.assertLess(took, 64)
        self.assertEqual(["live", "suspect", "lost"], states)

    def _stop_agent(self) -> None:
        os.kill(self.fleet.agent.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.fleet.agent.pid, signal.SIGCONT)


class ProbeTests(RelayedCase):
    def probe(self, device: str = DEVICE) -> tuple[int, dict[str, Any], float]:
        began = time.monotonic()
        done = self.fleet.rshell("probe", "--json", device)
        self.assertNotIn(b"Traceback", done.stderr)
        return done.status, json.loads(done.stdout), time.monotonic() - began

    def test_alive(self) -> None:
        """A device that is there answers, with a round trip."""
        status, told, _ = self.probe()
        self.assertEqual((0, True, "live"), (status, told["alive"], told["state"]))
        self.assertTrue(0 <= told["rtt_ms"] < 2000, told)
        self.assertEqual(self.fleet.device(DEVICE)["epoch"], told["epoch"])
        text = self.fleet.rshell("probe", DEVICE)
        self.assertRegex(text.stdout, rb"^pump-1 answered in [\d.]+ ms\n$")

    def test_stopped(self) -> None:
        """One that is stopped does not, within five seconds; when it goes on, it does."""
        epoch = self.fleet.device(DEVICE)["epoch"]
        os.kill(self.fleet.agent.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.fleet.agent.pid, signal.SIGCONT)
        told, took = self._is_silent()
        self.assertLess(told["waited_ms"], 5500)
        self.assertLess(took, 10)
        os.kill(self.fleet.agent.pid, signal.SIGCONT)
        self._answers_again(epoch)

    def _is_silent(self) -> tuple[dict[str, Any], float]:
        # The "yes" that an earlier test was given a moment ago is everybody's for a second.
        until(lambda: self.probe()[0] == 1, "it is silent", 10)
        status, told, took = self.probe()
        self.assertEqual((1, False), (status, told["alive"]))
        return told, took

    def _answers_again(self, epoch: int) -> None:
        # An answer is given to everybody who asks within a second, "no" as well.
        until(lambda: self.probe()[0] == 0, "it answers", 5)
        _, told, _ = self.probe()
        self.assertEqual((True, "live", epoch), (told["alive"], told["state"], told["epoch"]))

    def test_half_open(self) -> None:
        """A path that leads nowhere is told within five seconds, and one that is back as well."""
        epoch = self.fleet.device(DEVICE)["epoch"]
        self.fleet.device_side.freeze()
        _, took = self._is_silent()
        self.assertLess(took, 10)
        self.fleet.device_side.thaw()
        self._answers_again(epoch)

    def test_away(self) -> None:
        """One that is away is told at once; one that does not exist gives 255."""
        self.fleet.agent.kill()
        until(lambda: self.fleet.device(DEVICE)["state"] == "lost", "it is away", 10)
        status, told, _ = self.probe()
        self.assertEqual((1, False, "lost"), (status, told["alive"], told["state"]))
        self.assertLess(told["waited_ms"], 500)
        done = self.fleet.rshell("probe", "nowhere")
        self.assert_status(255, done)
        self.assertIn(b"nowhere", done.stderr)


class MetricsTests(RelayedCase):
    def test_metrics(self) -> None:
        """rshell metrics prints what Prometheus reads, true at this moment."""
        done = self.fleet.rshell("metrics")
        self.assert_status(0, done)
        lines = done.stdout.decode().splitlines()
        self.assertIn("rshell_devices_live 1.0", lines)
        for line in lines:
            self.assertRegex(line, r"^(# (HELP|TYPE) rshell_\w+ .+|rshell_\w+(\{.*\})? [\d.e+-]+)$")


class ReturnTests(RelayedCase):
    def _two_ways(self, name: str) -> tuple[Agent, Relay, Relay]:
        """Start a device with two ways in, and two that lead nowhere before them."""
        fleet = self.fleet
        one, other = Relay(fleet.address), Relay(fleet.address)
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]  # where nobody listens any more
        agent = fleet.join(name)
        self.addCleanup(fleet.remove, agent)
        names = [f"127.0.0.1:{port}", "no-such-host.invalid:7411", one.where, other.where]
        agent.configure(f"[link]\ngateways = {json.dumps(names)}\n")
        agent.start()
        fleet.wait_live(name, seconds=20)
        return agent, *((one, other) if one.open() else (other, one))

    def _moves(self, agent: Agent, used: Relay, spare: Relay, seconds: float) -> None:
        epoch = self.fleet.device(agent.name)["epoch"]
        used.cut()
        until(lambda: self.fleet.device(agent.name)["epoch"] > epoch, agent.log_text, seconds, 0.2)
        self.assertEqual(1, spare.open())
        self.assert_status(0, self.fleet.run(agent.name, "--", "true"))

    def test_many_gateways(self) -> None:
        """Of several addresses one that works is found in seconds, and another when it dies."""
        agent, used, spare = self._two_ways("multi-1")
        used.arrival = "refuse"
        self._moves(agent, used, spare, 20)

    @lasting("it takes a watchdog, 45 s")
    def test_silent_gateway(self) -> None:
        """An address that takes connections and says nothing is given up for another one."""
        agent, used, spare = self._two_ways("multi-2")
        used.arrival = "hold"
        self._moves(agent, used, spare, 60)

    @lasting("it watches for 8 s")
    def test_retries_are_spread(self) -> None:
        """While nobody takes it, a device tries again and again, and not in a loop."""
        relay = self.fleet.device_side
        before = relay.accepted
        relay.arrival = "refuse"
        relay.cut()
        time.sleep(8)  # that long: what is counted is the attempts
        tried = relay.accepted - before
        self.assertTrue(1 <= tried <= 15, tried)
        relay.restore()
        self.fleet.wait_live(DEVICE, seconds=40)

    def test_why(self) -> None:
        """After an outage both sides tell their part of it, in order, with reason and duration."""
        fleet = self.fleet
        start = time.time()
        fleet.device_side.arrival = "refuse"
        before = fleet.device_side.accepted
        fleet.device_side.cut()
        until(lambda: fleet.device_side.accepted >= before + 2, "it tries", 30)
        fleet.device_side.restore()
        fleet.wait_live(DEVICE)

        def told() -> list[dict[str, Any]]:
            done = fleet.rshell("why", DEVICE, "--json")
            self.assert_status(0, done)
            rows: list[dict[str, Any]] = json.loads(done.stdout)
            return [row for row in rows if _unix(row["at"]) >= start - 1]

        until(
            lambda: {row["source"] for row in told()} == {"agent", "gateway"},
            lambda: str(told()),
            30,
            0.5,
        )
        rows = told()
        moments = [row["at"] for row in rows]
        self.assertEqual(sorted(moments), moments)
        own = [row for row in rows if row["source"] == "agent"]
        self.assertIn("lost", [row["kind"] for row in own], rows)
        failed = [row for row in own if row["kind"] not in ("lost", "welcomed")]
        self.assertTrue(failed, rows)
        self.assertTrue(all(row["message"] for row in failed), failed)
        self.assertTrue(any((row["seconds"] or 0) > 0 for row in rows), rows)
        done = fleet.rshell("why", DEVICE)
        self.assert_status(0, done)
        self.assertRegex(done.stdout.decode(), r"(?s)AT +TOLD BY.*gateway.*agent|agent.*gateway")

    def test_why_of_a_killed_agent(self) -> None:
        """A death of the agent is told as what it was: no goodbye, then a start."""
        fleet, begin = self.fleet, time.time()
        fleet.agent.kill()
        fleet.agent.start()
        fleet.wait_live(DEVICE)

        def told() -> list[str]:
            rows = json.loads(fleet.rshell("why", DEVICE, "--json").stdout)
            rows = [row for row in rows if _unix(row["at"]) >= begin - 1]
            return [row["kind"] for row in rows if row["source"] == "agent"]

        until(lambda: "start" in told(), lambda: str(told()), 30, 0.5)


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


class CloneTests(FleetCase):
    def _copy(self, first: Agent, name: str) -> Agent:
        """Copy a device's home as a disk is copied, without what runs."""
        copy = Agent(first.fleet, first.name, first.fleet.base / name)
        leave = shutil.ignore_patterns("keeper.*", "agent.lock", "*.sock")
        shutil.copytree(first.home, copy.home, ignore=leave)
        os.chmod(copy.home, 0o700)
        first.fleet.agents[name] = copy
        self.addCleanup(copy.stop)
        return copy

    def test_restored_backup(self) -> None:
        """A copy of an older state is let in and told as a clone, with its address."""
        fleet = self.own_fleet("twin-1")
        first = fleet.agents["twin-1"]
        first.kill(signal.SIGTERM)
        copy = self._copy(first, "twin-copy")
        for _ in range(2):  # the original goes on, and is known to
            first.start()
            until(lambda: fleet.device("twin-1")["state"] == "live", first.log_text, 30)
            first.kill(signal.SIGTERM)
            until(lambda: fleet.device("twin-1")["state"] != "live", "it left", 10)
        self.assertFalse(fleet.device("twin-1")["alerts"])
        copy.start()
        fleet.wait_live("twin-1")
        row = fleet.device("twin-1")
        self.assertEqual(1, len(row["alerts"]), row)
        self.assertRegex(row["alerts"][0], "clone: .*127.0.0.1")
        shown = fleet.rshell("devices")
        self.assertRegex(shown.stdout, rb"twin-1 +live \(!\)")
        self.assertIn(b"clone: ", shown.stderr)
        rows = json.loads(fleet.rshell("audit", "--json").stdout)
        self.assertIn("device.clone-suspected", [one["kind"] for one in rows])
        self._quarantine(fleet, copy)

    def _quarantine(self, fleet: Any, agent: Agent) -> None:
        """Shut a device out, see that it is, and let it in again."""
        done = fleet.rshell("quarantine", "twin-1")
        self.assertEqual((0, b"twin-1 is quarantined\n"), (done.status, done.stdout), done.stderr)
        until(lambda: fleet.device("twin-1")["state"] != "live", "it is out", 10)
        self.assertTrue(fleet.device("twin-1")["quarantined"])
        refused = fleet.run("twin-1", "--", "true")
        self.assertEqual(255, refused.status)
        agent.kill(signal.SIGTERM)
        start = len(agent.log_text())
        agent.start()
        until(lambda: "quarantined" in agent.log_text()[start:], agent.log_text, 20)
        self.assertNotEqual("live", fleet.device("twin-1")["state"])
        done = fleet.rshell("quarantine", "twin-1", "--release")
        self.assertEqual((0, b"twin-1 is released\n"), (done.status, done.stdout), done.stderr)
        agent.kill(signal.SIGTERM)
        agent.start()  # by itself it would come back within the hour
        fleet.wait_live("twin-1")
        row = fleet.device("twin-1")
        self.assertEqual((None, []), (row["quarantined"], row["alerts"]))
        done = fleet.run("twin-1", "--", "true", stdin=subprocess.DEVNULL)
        self.assertEqual(0, done.status, done.stderr)
