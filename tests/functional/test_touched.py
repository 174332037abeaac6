"""Files that sftp and cp touched, by name in the audit log, whatever dies on the way."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from tests.functional.fleet import Fleet
from tests.functional.processes import lasting, until
from tests.functional.test_sftp import SftpCase
from tests.hostile import acting


class TouchedCase(SftpCase):
    def touched(self, fleet: Fleet, device: str, pattern: str) -> list[dict[str, Any]]:
        """Return every file that the log has of a device, rows of 1,000 parts at most."""
        done = fleet.rshell(
            "audit", "--device", device, "--file", pattern, "--limit", "1000", "--json"
        )
        self.assert_status(0, done)
        return [
            {"handler": row["handler"], "session": row["session"], **entry}
            for row in json.loads(done.stdout)
            for entry in row["files"]
        ]

    def named(self, fleet: Fleet, device: str, op: str = "put") -> Counter[str]:
        return Counter(
            entry.get("path") or entry["path_b64"]
            for entry in self.touched(fleet, device, f"{self.there}/*")
            if entry["op"] == op
        )

    def wait_named(self, fleet: Fleet, device: str, count: int) -> Counter[str]:
        until(
            lambda: len(self.named(fleet, device)) >= count,
            lambda: f"{len(self.named(fleet, device))} of {count}",
            60,
        )
        return self.named(fleet, device)

    def tree(self, count: int) -> Path:
        tree = self.here / "tree"
        tree.mkdir()
        for number in range(count):
            (tree / f"file-{number}").write_text(f"number {number}\n")
        return tree


class NamesTests(TouchedCase):
    def test_cp(self) -> None:
        """What cp writes and reads is named, with size and digest, and found by a pattern."""
        fleet = self.fleet
        (self.here / "a").write_bytes(b"new")
        self.assert_status(0, fleet.rshell("cp", self.here / "a", f"pump-1:{self.there}/b"))
        self.assert_status(0, fleet.rshell("cp", f"pump-1:{self.there}/b", self.here / "c"))
        self.assert_status(0, fleet.rshell("rm", "-y", f"pump-1:{self.there}/b"))
        pattern = f"{self.there}/*"
        until(lambda: len(self.touched(fleet, "pump-1", pattern)) == 3, "three things", 30)
        found = {entry["op"]: entry for entry in self.touched(fleet, "pump-1", pattern)}
        self.assertEqual({"put", "get", "remove"}, set(found))
        self.assertEqual((3, str(self.there / "b")), (found["put"]["size"], found["put"]["path"]))
        self.assertEqual(found["put"]["digest"], found["get"]["digest"])
        done = fleet.rshell("audit", "--session", found["get"]["session"])
        self.assertIn(f"get {self.there}/b, 3 bytes".encode(), done.stdout)

    def test_sftp(self) -> None:
        """Each request of sftp that changes or reads something is named, with how it ended."""
        (self.there / "secret").symlink_to("/etc/hostname")
        (self.here / "a").write_bytes(b"12345")
        done = self.sftp(
            "put a\nrename a b\nchmod 600 b\nget secret\n-rm nothing\nmkdir d\nrmdir d\n"
            "symlink b l\nrm l\n",
            device="pump-2",
        )
        self.assert_status(0, done)
        wanted = [
            ("put", "a", None, None), ("rename", "a", "b", None), ("setmeta", "b", None, None),
            ("remove", "nothing", None, "not-found"), ("mkdir", "d", None, None),
            ("remove", "d", None, None), ("symlink", "l", "b", None), ("remove", "l", None, None),
        ]  # fmt: skip
        pattern = f"{self.there}/*"
        until(lambda: len(self.touched(self.fleet, "pump-2", pattern)) >= 8, "eight things", 30)
        found = [
            (
                entry["op"],
                entry["path"].rpartition("/")[2],
                entry["to"].rpartition("/")[2] if "to" in entry else None,
                entry.get("code"),
            )
            for entry in self.touched(self.fleet, "pump-2", pattern)
        ]
        self.assertEqual(wanted, found)
        # a link is told by where it leads
        got = self.touched(self.fleet, "pump-2", os.path.realpath("/etc/hostname"))
        self.assertEqual("get", got[-1]["op"])

    def test_left_open(self) -> None:
        """A file that is still open when the session is cancelled is told, too."""
        server = self.start_sftp(self.fleet, "valve-1")
        assert server.process.stdin is not None
        (self.here / "big").write_bytes(os.urandom(1 << 20))
        server.process.stdin.write(f"put -f {self.here}/big {self.there}/big\n".encode())
        server.process.stdin.flush()
        until((self.there / "big").exists, "the upload has begun", 30)
        server.process.stdin.close()
        server.process.wait(30)
        until(lambda: self.named(self.fleet, "valve-1"), "its name", 30)


class HostileNamesTests(TouchedCase):
    def test_names(self) -> None:
        """Names of files that would act on a terminal do so in no listing, message or log."""
        evil = [
            b"a\x1b[2J\x1b]52;c;eA==\x07",
            b"b\n\rc",
            b"\xc2\x9b6n\xe2\x80\xae",
            b"\xff\xc0\xaf\xed\xa0\x80",
        ]
        for name in evil:
            (Path(os.fsdecode(os.fsencode(self.there) + b"/" + name))).write_bytes(b"x")
        there, fleet = f"pump-1:{self.there}", self.fleet
        for words in (
            ("ls", "-l", there), ("--json", "ls", there), ("--json", "cp", "-r", there, self.here),
            ("tail", f"{there}/a\x1bnothing"), ("rm", "-r", "-y", there),
        ):  # fmt: skip
            done = fleet.rshell(*map(str, words))
            for text in (done.stdout, done.stderr):
                self.assertEqual([], acting(text), words)
        until(lambda: self.named(fleet, "pump-1", "get"), "what was read", 30)
        for words in (("audit", "--file", f"{self.there}/*"), ("--json", "audit", "--files")):
            self.assertEqual([], acting(fleet.rshell(*words).stdout), words)


class SurvivalTests(TouchedCase):
    """Nothing is lost and nothing is doubled."""

    def wait_landed(self, count: int) -> None:
        tree = self.there / "tree"
        until(lambda: tree.exists() and len(os.listdir(tree)) >= count, f"{count} files", 60)

    def copied(self, files: int, kills: int, what: str) -> None:
        fleet = self.own_fleet("touch-1")
        agent = fleet.agents["touch-1"]
        copy = fleet.start(fleet.cli("cp", "-r", self.tree(files), f"touch-1:{self.there}/"))
        for turn in range(1, kills + 1):
            self.wait_landed(files * turn // (kills + 1))
            if what == "agent":
                agent.kill()
                agent.start()
            else:
                fleet.kill_gateway()
                fleet.restart_gateway()
        self.assert_status(0, copy.finish(b"", 120))
        names = self.wait_named(fleet, "touch-1", files)
        wanted = {f"{self.there}/tree/file-{number}" for number in range(files)}
        self.assertEqual(wanted, set(names))
        # A file may be sent again by cp; the same part of a report may not be there twice.
        done = fleet.rshell("audit", "--kind", "session.files", "--limit", "1000", "--json")
        parts = Counter((row["session"], row["code"]) for row in json.loads(done.stdout))
        self.assertEqual(1, max(parts.values()))
        for session in {session for session, _ in parts}:
            numbers = sorted(int(code.removeprefix("part-")) for s, code in parts if s == session)
            self.assertEqual(list(range(1, len(numbers) + 1)), numbers)
        if what == "agent":
            self.assertEqual(1, max(names.values()))
        self.assertIn(b"sound", fleet.rshell("audit", "--verify").stdout)

    def test_agent_killed(self) -> None:
        """An agent that is killed in the middle of a copy loses and doubles no name."""
        self.copied(800, 1, "agent")

    def test_gateway_killed(self) -> None:
        """Nor does a gateway that is killed."""
        self.copied(800, 1, "gateway")

    @lasting("killed again and again")
    def test_killed_often(self) -> None:
        """However often either is killed."""
        self.copied(8_000, 5, "agent")

    def test_client_killed(self) -> None:
        """What the worker still did after its operator was gone is told as well."""
        fleet = self.fleet
        copy = fleet.start(fleet.cli("cp", "-r", self.tree(800), f"valve-1:{self.there}/"))
        self.wait_landed(200)
        copy.process.kill()
        copy.process.wait()
        tree = self.there / "tree"

        def all_told() -> bool:
            there = {str(tree / name) for name in os.listdir(tree) if name.startswith("file-")}
            return there <= set(self.named(fleet, "valve-1"))

        until(all_told, "every file that is there", 60)
