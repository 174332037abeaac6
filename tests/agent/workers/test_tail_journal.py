"""Tail's worker on the journal: a journalctl of ours on PATH says what the real one would."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import rshell_agent
from rshell_agent.workers.tail.journal import message_of

#: Knows the options that the worker uses; entries come from a file of JSON lines beside it.
JOURNALCTL = """#!{python}
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
open(here + "/calls", "a").write(json.dumps(sys.argv[1:]) + "\\n")
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
if os.path.exists(here + "/broken"):
    sys.stderr.write("Failed to open files: Bad message\\n")
    sys.exit(1)
entries = [json.loads(line) for line in open(here + "/entries")]
units = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("--unit=")]
if units:
    entries = [e for e in entries if e.get("_SYSTEMD_UNIT") in units]
if "--after-cursor" in options:
    places = [i for i, e in enumerate(entries) if e["__CURSOR"] == options["--after-cursor"]]
    entries = entries[places[0] + 1:]
if "--since" in options:
    since = float(options["--since"][1:]) * 1e6
    entries = [e for e in entries if float(e["__REALTIME_TIMESTAMP"]) >= since]
if options.get("--lines", "all") != "all":
    entries = entries[max(0, len(entries) - int(options["--lines"])):]
if "--reverse" in options:
    entries.reverse()
if not entries:
    print("-- No entries --")
for entry in entries:
    print(json.dumps(entry), flush=True)
"""

WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from rshell_agent.workers.confined import Confined
from rshell_agent.workers.tail import journal, run
journal.AGAIN_SECONDS = 0.01
sys.exit(run(json.loads(sys.argv[2]), Confined(json.loads(sys.argv[3]), [])))
"""


def entry(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "__CURSOR": f"s=1;i={number}",
        "__REALTIME_TIMESTAMP": str(10**15 + number * 10**6),
        "MESSAGE": f"message {number}",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "app",
        "_PID": "42",
        "_SYSTEMD_UNIT": "app.service" if number % 2 else "other.service",
        **fields,
    }


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(os.path.realpath(self.mktemp()))
        self.folder.mkdir()
        program = self.folder / "journalctl"
        program.write_text(JOURNALCTL.replace("{python}", f"{sys.executable} -IS"))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.write([entry(n) for n in range(1, 21)])

    def write(self, entries: list[dict[str, Any]]) -> None:
        (self.folder / "entries").write_text("".join(json.dumps(e) + "\n" for e in entries))

    def tail(
        self, status: int = 0, path: str = "", read: tuple[str, ...] = ("/",), **argument: Any
    ) -> list[dict[str, Any]]:
        """Run a worker to its end and return its records."""
        code = str(Path(rshell_agent.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", WORKER, code, json.dumps(argument), json.dumps(read)],
            env={"PATH": path or f"{self.folder}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(status, done.returncode, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def calls(self) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [[w for w in json.loads(line) if not w.startswith("--output")] for line in lines]

    def test_last_entries(self) -> None:
        """The last entries of the whole journal or of units come with what is known of them."""
        records = self.tail(journal=True, lines=2)
        self.assertEqual(["message 19", "message 20"], [r["line"] for r in records])
        self.assertEqual("s=1;i=20", records[1]["cursor"])
        facts = {"time": 10**15 + 20 * 10**6, "ident": "app", "pid": "42", "priority": "6"}
        self.assertEqual({**facts, "unit": "other.service"}, records[1]["entry"])
        records = self.tail(units=["app.service"])
        self.assertEqual([f"message {n}" for n in range(1, 21, 2)], [r["line"] for r in records])
        self.assertIn("--unit=app.service", self.calls()[1])

    def test_since_and_cursor(self) -> None:
        """Time and cursor are journalctl's to look at; with a cursor, all that follows comes."""
        records = self.tail(journal=True, since=10**9 + 19)
        self.assertEqual(["message 19", "message 20"], [r["line"] for r in records])
        records = self.tail(journal=True, cursor="s=1;i=18", lines=1)
        self.assertEqual(["message 19", "message 20"], [r["line"] for r in records])

    def test_last_matching(self) -> None:
        """With a pattern, the last matching entries are searched for from the end."""
        records = self.tail(journal=True, lines=2, pattern="5$|7$|3$")
        self.assertEqual(["message 15", "message 17"], [r["line"] for r in records])

    def test_odd_entries(self) -> None:
        """Binary, missing, repeated and overlong messages, and what is no JSON, do no harm."""
        odd: list[dict[str, Any]] = [
            entry(1, MESSAGE=[255, 0, 27]),
            entry(2, MESSAGE=None),
            entry(3, MESSAGE=["first", "second"]),
            entry(4, MESSAGE="x" * 100_000, _PID=None, SYSLOG_IDENTIFIER=None, _COMM="prog"),
            entry(5, MESSAGE=[300]),
            entry(6, MESSAGE="two\nlines \x1b[31m"),
            entry(7, MESSAGE="y" * 1_500_000),
            entry(8),
        ]
        self.write(odd)
        records = self.tail(journal=True)
        lines = [r.get("line", r.get("b64")) for r in records if "kind" not in r]
        self.assertEqual(["/wAb", "", "first"], lines[:3])
        self.assertEqual((65_536, 34_464), (len(lines[3]), records[3]["cut"]))
        self.assertEqual(["", "two\nlines \x1b[31m", "message 8"], lines[4:])
        self.assertEqual(["cut"], [r["code"] for r in records if r.get("kind") == "note"])
        for message in ({}, {"MESSAGE": {}}, {"MESSAGE": [[1]]}, {"MESSAGE": ["a", 1]}):
            self.assertIsInstance(message_of(message), bytes)

    def test_follows_again(self) -> None:
        """A journalctl that ends is started again behind the last entry, and given up in time."""
        records = self.tail(1, journal=True, follow=True, lines=1)
        self.assertEqual(["ready", None, "note"], [r.get("kind") for r in records])
        self.assertEqual("message 20", records[1]["line"])
        self.assertIn("--after-cursor=s=1;i=20", self.calls()[1])
        self.assertIn("--follow", self.calls()[1])

    def test_failure(self) -> None:
        """A journalctl that fails is said to; so is a device that has none."""
        (self.folder / "broken").touch()
        (note,) = self.tail(1, journal=True)
        self.assertEqual(
            ("journal", "journalctl ended with status 1"), (note["code"], note["text"])
        )
        (note,) = self.tail(1, journal=True, path="/nonexistent")
        self.assertIn("no systemd journal", note["text"])

    def test_policy(self) -> None:
        """Who may not read the journal's folder may not read it through journalctl."""
        (note,) = self.tail(1, journal=True, read=("/srv",))
        self.assertEqual("policy", note["code"])
        self.assertFalse((self.folder / "calls").exists())

    def test_flood(self) -> None:
        """While following, what comes too fast is counted; what was there before is not."""
        future = [entry(n, __REALTIME_TIMESTAMP=str(10**16 + n)) for n in range(21, 1021)]
        self.write([*(entry(n) for n in range(1, 21)), *future])
        records = self.tail(1, journal=True, follow=True, lines=1020, rate=10)
        shown = sum("line" in record for record in records)
        dropped = sum(record.get("count", 0) for record in records)
        self.assertEqual(1020, shown + dropped)
        self.assertLess(shown, 20 + 50 + 100)
        last = [r for r in records if r.get("kind") == "dropped"][-1]
        self.assertEqual("s=1;i=1020", last["cursor"])

    def test_bad_arguments(self) -> None:
        """An argument that the handler would not send ends the worker with status 2."""
        for argument in ({}, {"paths": "x", "journal": True}, {"paths": ["%"]}, {"lines": -1}):
            self.assertEqual([], self.tail(2, **argument))
