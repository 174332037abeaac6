"""Recordings and the audit log of a real gateway: played, fetched, followed, killed."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from pathlib import Path
from typing import Any

from rshell.access.asciicast import CastEvent, read_cast
from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import LONG, environment, until
from tests.functional.terminal import Terminal


class EvidenceCase(FleetCase):
    def shell(self, fleet: Fleet, device: str) -> Terminal:
        command = fleet.cli("shell", device)
        terminal = Terminal(command, environment(fleet.base), fleet.base)
        self.addCleanup(terminal.close)
        terminal.expect(r"[#$>] ")
        return terminal

    def recordings(self, fleet: Fleet, *arguments: str) -> list[dict[str, Any]]:
        done = fleet.rshell("recordings", "--json", *arguments)
        self.assert_status(0, done)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def fetched(self, fleet: Fleet, session: str) -> list[CastEvent]:
        """Fetch a recording and read it strictly."""
        done = fleet.rshell("recordings", "get", session)
        self.assert_status(0, done)
        return list(read_cast(done.stdout)[1])

    @staticmethod
    def text(events: list[CastEvent]) -> str:
        return "".join(event.text for event in events if event.code == "o")


class RecordedTests(EvidenceCase):
    def test_recorded_and_played(self) -> None:
        """A shell is recorded with its sizes, listed, fetched by a prefix, and played."""
        terminal = self.shell(self.fleet, "valve-1")
        terminal.resize(41, 99)
        terminal.type("echo wit''ness; stty size; exit 0\n")
        terminal.expect("^41 99\r\n")
        self.assertEqual(0, terminal.wait())
        row = self.recordings(self.fleet, "--device", "valve-1", "--since", "5m")[0]
        until(
            lambda: self.recordings(self.fleet, "--device", "valve-1")[0]["status"] == "complete",
            "it is packed",
        )
        events = self.fetched(self.fleet, row["session"])
        self.assertIn("witness\r\n", self.text(events))
        self.assertIn("99x41", [event.text for event in events if event.code == "r"])
        played = self.fleet.rshell("play", row["session"][:12], "--speed", "50")
        self.assert_status(0, played)
        self.assertIn(b"witness\r\n", played.stdout)
        listed = self.fleet.rshell("recordings", "--operator", "admin")
        self.assertIn(row["session"][:8].encode(), listed.stdout)
        read = self.fleet.rshell(
            "audit", "--json", "--session", row["session"], "--kind", "recording"
        )
        self.assertIn("recording.read", {found["kind"] for found in json.loads(read.stdout)})

    def test_unknown(self) -> None:
        """A recording that is not there, or an id that is none, is one line and 255."""
        for name, code in (("00000000", b"no recording"), ("zz", b"")):
            for verb in (("play", name), ("recordings", "get", name)):
                done = self.fleet.rshell(*verb)
                self.assert_status(255, done)
                self.assert_one_line(done.stderr)
                self.assertIn(code, done.stderr)
                self.assertEqual(b"", done.stdout)

    def test_verify_and_export(self) -> None:
        """The log is sound, also by its exported key; exports are whole and in order."""
        fleet = self.fleet
        self.assert_status(0, fleet.rshell("audit", "--verify"))
        key = fleet.base / "audit.pub"
        key.write_bytes(fleet.rshell("audit", "key").stdout)
        checked = fleet.rshell("audit", "--verify", "--json", "--key", str(key))
        head = json.loads(checked.stdout)["head"]
        self.assert_status(0, fleet.rshell("audit", "--verify", "--against", head))
        wrong = head[:-1] + ("0" if head[-1] != "0" else "1")
        broken = fleet.rshell("audit", "--verify", "--against", wrong)
        self.assert_status(1, broken)
        self.assertIn(b"broken at row", broken.stdout)
        target = fleet.base / "audit.jsonl"
        self.assert_status(0, fleet.rshell("audit", "export", "--to", str(target)))
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        self.assertEqual([row["seq"] for row in rows], list(range(1, len(rows) + 1)))
        for before, row in itertools.pairwise(rows):
            self.assertEqual(before["hash"], row["previous_hash"])
        lines = fleet.rshell("audit", "export", "--format", "syslog", "--kind", "operator").stdout
        for line in lines.decode().splitlines():
            self.assertRegex(line, r"^<109>1 \S+ \S+ rshell - operator\.entered \[rshell@32473 ")

    def test_followed(self) -> None:
        """--follow shows each new row once, also those of a gateway that was restarted."""
        fleet = self.own_fleet()
        shown = fleet.base / "followed"
        with shown.open("wb") as target:
            fleet.start(
                fleet.cli("audit", "--follow", "--json", "--kind", "gateway.invite"),
                stdout=target.fileno(),
            )
        numbers = itertools.count()

        def there() -> bool:
            fleet.invite("device", "--name", f"probe-{next(numbers)}")
            return shown.stat().st_size > 0

        until(there, "the follower is there", 30)
        for number in range(3):
            if number == 1:
                fleet.kill_gateway()
                fleet.restart_gateway()
            fleet.invite("device", "--name", f"new-{number}")
        until(lambda: b"new-2" in shown.read_bytes(), "the last row", 60)
        told = [json.loads(line) for line in shown.read_text().splitlines()]
        names = re.findall(r"new-\d", " ".join(row["summary"] or "" for row in told))
        self.assertEqual(names, ["new-0", "new-1", "new-2"])
        numbered = [row["seq"] for row in told]
        self.assertEqual(numbered, sorted(set(numbered)))


class KilledTests(EvidenceCase):
    def test_killed_while_recording(self) -> None:
        """SIGKILL at random moments: readable to the last flushed second, the log is sound."""
        # Few in a row: everybody's back-off grows with each (rule C6).
        for seed in range(4 if LONG else 1):
            self._kill_some(random.Random(seed))

    def _kill_some(self, rng: random.Random) -> None:
        fleet = self.own_fleet("pump-9")
        terminal = self.shell(fleet, "pump-9")
        terminal.type("i=0; while sleep 0.05; do i=$((i+1)); echo n$i; done\n")
        number = 0
        for _ in range(3):
            number = flushed = int(terminal.expect(r"^n(\d+)\r\n", 60).group(1))
            # What was shown so long before the end has to be there, whenever that is.
            end = time.monotonic() + 1.5 + rng.random()
            while time.monotonic() < end:
                number = int(terminal.expect(r"^n(\d+)\r\n", 60).group(1))
            fleet.kill_gateway()
            (path,) = Path(fleet.home / "recordings").rglob("*.cast")
            shown = self.text(list(read_cast(path.read_bytes())[1]))
            self.assertIn(f"n{flushed}\r\n", shown)
            fleet.restart_gateway()
            self.assert_status(0, fleet.rshell("audit", "--verify"))
        terminal.expect(f"^n{number + 5}\r\n", 60)
        terminal.type("\x03exit 0\n")
        terminal.wait()
        (row,) = self.recordings(fleet)
        events = self.fetched(fleet, row["session"])
        found = [int(one) for one in re.findall(r"^n(\d+)\r$", self.text(events), re.M)]
        self.assertEqual(found, sorted(set(found)), "nothing twice, and in order")
        self.assertGreater(found[-1], number)
        if found != list(range(1, len(found) + 1)):
            self.assertIn("m", {event.code for event in events})
