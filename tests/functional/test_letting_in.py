"""Devices that are not invited one by one: sites, images and factories, and who accepts them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import AGENT, Finished, until


class LettingIn(FleetCase):
    def json(self, fleet: Fleet, *arguments: str) -> Any:
        """Return what a command answers in JSON."""
        done = fleet.rshell(*arguments, "--json")
        self.assert_status(0, done)
        return json.loads(done.stdout)

    def pending(self, fleet: Fleet) -> dict[str, dict[str, Any]]:
        """Return the devices that wait, by fingerprint."""
        return {row["fingerprint"]: row for row in self.json(fleet, "pending")}

    def join(self, string: bytes, home: str, *options: str) -> Finished:
        """Run ``rshell-agent join -``."""
        command = [*AGENT, "join", "-", "--home", str(self.fleet.base / home), *options]
        return self.fleet.command(command, string)

    def fingerprint(self, fleet: Fleet, home: Path) -> str:
        """Return what the device shows."""
        done = fleet.command([*AGENT, "key", "--fingerprint", "--home", str(home)])
        self.assert_status(0, done)
        return done.stdout.decode().strip()

    def told(self, fleet: Fleet, home: Path) -> dict[str, Any]:
        """Return what ``rshell-agent status`` says."""
        done = fleet.command([*AGENT, "status", "--json", "--home", str(home)])
        status: dict[str, Any] = json.loads(done.stdout or b"{}")
        return status


class SiteTests(LettingIn):
    def test_image(self) -> None:
        """An image's device asks by itself, waits over a killed gateway, and is accepted."""
        fleet = self.own_fleet()
        words = ("--name", "tank-*", "--uses", "5", "--label", "site=rio", "--from", "127.0.0.0/8")
        string = fleet.invite("device", *words)
        agent = Agent(fleet, "tank-1", fleet.base / "tank-1")
        fleet.agents["tank-1"] = agent
        agent.home.mkdir(mode=0o700)
        (agent.home / "join").write_text(f"{string.decode().strip()}\nname = tank-1\n")
        agent.start()
        (row,) = until(lambda: self.pending(fleet).values(), agent.log_text, 60, 0.2)
        told = self.told(fleet, agent.home)
        self.assertEqual(("pending", row["fingerprint"]), (told["state"], told["fingerprint"]))
        self.assertEqual((row["name"], row["within"]), ("tank-1", True))
        fleet.kill_gateway(signal.SIGKILL)
        fleet.restart_gateway()
        self.assertEqual({row["fingerprint"]}, set(self.pending(fleet)))
        self.assertEqual([], fleet.devices())
        done = fleet.rshell("accept", row["fingerprint"].lower())
        self.assert_status(0, done)
        self.assertEqual(f"accepted tank-1 ({row['fingerprint']})\n".encode(), done.stdout)
        fleet.kill_gateway(signal.SIGKILL)
        agent.kill()
        fleet.restart_gateway()
        agent.start()  # it would ask by itself, some seconds later
        fleet.wait_live("tank-1", seconds=90)
        self.assertEqual({"site": "rio"}, fleet.device("tank-1")["labels"])
        self.assert_status(0, fleet.run("tank-1", "--", "true"))
        self.assertFalse((agent.home / "join").exists())
        kinds = [entry["kind"] for entry in self.json(fleet, "audit", "--kind", "join")]
        self.assertEqual({"join.pending", "join.accepted", "join"}, set(kinds))
        self.assertIn("rshell_devices_pending 0.0", fleet.rshell("metrics").stdout.decode())

    def test_rejected(self) -> None:
        """A rejected device is refused in the words that all refusals have."""
        public = self.fleet.invite("device", "--pending")
        home = self.fleet.base / "intruder"
        done = self.join(public, "intruder", "--name", "intruder", "--no-wait")
        self.assert_status(75, done)
        key = self.fingerprint(self.fleet, home)
        self.assertIn(key, done.stdout.decode())
        self.assertIn(key, self.fleet.rshell("pending").stdout.decode())
        self.assert_status(0, self.fleet.rshell("reject", key))
        self.assertNotIn(key, self.pending(self.fleet))
        again = self.fleet.command([*AGENT, "join", "--home", str(home)])
        self.assert_status(1, again)
        self.assert_one_line(again.stderr)
        self.assertIn(b"not joined (auth)", again.stderr)
        unknown = self.fleet.rshell("accept", key, "nobody-here")
        self.assert_status(255, unknown)
        self.assertEqual(2, unknown.stderr.count(b"\n"))
        self.assertIn(b"nobody-here", unknown.stderr)

    def test_waits_at_the_terminal(self) -> None:
        """join waits beside the person until the device is accepted, under another name."""
        public = self.fleet.invite("device", "--pending", "--label", "line=4")
        home = self.fleet.base / "bench"
        program = self.fleet.start(
            [*AGENT, "join", "-", "--home", str(home)], stdin=subprocess.PIPE
        )
        assert program.process.stdin is not None
        program.process.stdin.write(public)
        program.process.stdin.close()
        program.process.stdin = None
        key = until(lambda: self.seen(home), "the fingerprint is listed", 60, 0.2)
        words = ("--name", "bench-4", "--label", "tier=test")
        self.assert_status(0, self.fleet.rshell("accept", key, *words))
        done = program.finish(seconds=60)
        self.assert_status(0, done)
        self.assertIn(b"joined as bench-4", done.stdout)
        row = self.fleet.device("bench-4")
        self.assertEqual({"line": "4", "tier": "test"}, row["labels"])
        self.assertFalse(row["name_provisional"])

    def seen(self, home: Path) -> str:
        """Return the fingerprint of a home if it waits."""
        if not (home / "identity" / "pending.key").exists():
            return ""
        key = self.fingerprint(self.fleet, home)
        return key if key in self.pending(self.fleet) else ""

    def test_elsewhere(self) -> None:
        """A site's string is of no use outside of its ranges, and nothing says why."""
        string = self.fleet.invite("device", "--name", "rig-*", "--from", "10.0.0.0/8")
        done = self.join(string, "elsewhere", "--name", "rig-1")
        self.assert_status(1, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"this join string is not valid", done.stderr)
        codes = [row["code"] for row in self.json(self.fleet, "audit", "--kind", "join.refused")]
        self.assertIn("wrong-source", codes)

    def test_auto_accept(self) -> None:
        """With --auto-accept a site's devices do not wait; other names are provisional."""
        words = ("--name", "crane-*", "--uses", "2", "--auto-accept", "--label", "yard=7")
        string = self.fleet.invite("device", *words)
        for name in ("crane-1", "winch-1"):
            self.assert_status(0, self.join(string, name, "--name", name))
        rows = {row["name"]: row["name_provisional"] for row in self.fleet.devices("yard=7")}
        self.assertEqual({"crane-1": False, "winch-1": True}, rows)
        self.assert_status(0, self.fleet.rshell("rename", "winch-1", "winch-1"))
        self.assertFalse(self.fleet.device("winch-1")["name_provisional"])

    def test_wrong_words(self) -> None:
        """Terms that make no sense are refused in one line, and what it could be instead."""
        for words in (
            ("--name", "Pump-*"),
            ("--from", "10.0.0.1/8"),
            ("--from", "berlin"),
            ("--pending", "--auto-accept"),
            ("--pending", "--name", "pump-77"),
            ("--name", "pump-77", "--uses", "2"),
            ("--key", "/nowhere"),
            ("--key", "/dev/null"),
            ("--ttl", "31d"),
        ):
            done = self.fleet.rshell("invite", "device", *words)
            self.assertIn(done.status, (2, 255), words)
            self.assertEqual(b"", done.stdout)
            self.assertNotIn(b"Traceback", done.stderr)


class FactoryTests(LettingIn):
    def test_keys(self) -> None:
        """A factory's devices are in by their keys, with a public string; others are not."""
        lines = b""
        for name in ("hub-1", "hub-2"):
            home = str(self.fleet.base / name)
            done = self.fleet.command([*AGENT, "key", "--line", "--name", name, "--home", home])
            self.assert_status(0, done)
            lines += done.stdout
        words = ("invite", "device", "--key", "-", "--label", "batch=12")
        invited = self.fleet.rshell(*words, data=lines)
        self.assert_status(0, invited)
        self.assertRegex(invited.stdout.decode(), r"\Arsh1p\.[^ ]+\n\Z")
        self.assert_status(0, self.join(invited.stdout, "hub-1"))
        row = self.fleet.device("hub-1")
        self.assertEqual(({"batch": "12"}, False), (row["labels"], row["name_provisional"]))
        done = self.join(invited.stdout, "hub-3", "--name", "hub-2")
        self.assert_status(1, done)
        self.assertIn(b"not joined (auth)", done.stderr)
        (invite,) = [one for one in self.json(self.fleet, "invites") if one["mode"] == "keys"]
        self.assertEqual((1, 2), (invite["uses"], invite["uses_max"]))
        shown = self.fleet.rshell("invites", invite["id"]).stdout.decode()
        self.assertIn(self.fingerprint(self.fleet, self.fleet.base / "hub-2"), shown)
        self.assert_status(0, self.fleet.rshell("revoke", "invite", invite["id"]))
        self.assert_status(1, self.join(invited.stdout, "hub-2"))
        again = self.fleet.rshell(*words, data=lines)
        self.assert_status(255, again)
        self.assert_one_line(again.stderr)
        self.assertIn(b"hub-1", again.stderr)
