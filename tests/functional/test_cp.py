"""``rshell cp`` with real gateways and devices: what is copied, over links that break, and told."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.functional.fleet import FleetCase
from tests.functional.processes import (
    Finished,
    Program,
    children,
    lasting,
    peak_kb,
    reset_peak,
    until,
)
from tests.functional.relay import DOWN, UP, Relay
from tests.functional.relayed import DEVICE, RelayedCase

MIB = 1 << 20
#: Bytes a second: no machine is done before the test has broken what it wanted to break.
SLOW = 6e6


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def json_lines(done: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


class CopyTests(FleetCase):
    """Copies on healthy links."""

    def setUp(self) -> None:
        self.here = self.fleet.base / self.id().rpartition(".")[2]
        self.device = self.fleet.base / f"{self.here.name}-device"
        for folder in (self.here, self.device):
            folder.mkdir()

    def cp(self, *words: str | bytes, **options: Any) -> Finished:
        return self.fleet.rshell("cp", *words, **options)

    def test_there_and_back(self) -> None:
        """A tree goes to a device, to another one, and back, and is the same."""
        tree = self.here / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub" / "file").write_bytes(os.urandom(300_000))
        (tree / "empty").touch(0o600)
        (tree / "link").symlink_to("sub/file")
        os.mkfifo(tree / "pipe")
        first, second = self.device / "one", self.device / "two"
        done = self.cp("-r", str(tree), f"pump-1:{first}")
        self.assert_status(0, done)
        self.assertIn(b"2 files copied", done.stdout)
        self.assertIn(b"passed over", done.stderr)
        self.assert_status(0, self.cp("-r", f"pump-1:{first}", f"pump-2:{second}"))
        self.assert_status(0, self.cp("-qr", f"pump-2:{second}/.", str(self.here / "back")))
        (tree / "pipe").unlink()
        same = subprocess.run(
            ["diff", "-r", "--no-dereference", tree, self.here / "back"],
            capture_output=True,
            check=False,
        )
        self.assertEqual((0, b""), (same.returncode, same.stdout))
        self.assertEqual(0o600, (self.here / "back" / "empty").stat().st_mode & 0o777)
        again = self.cp("-r", f"pump-2:{second}/.", str(self.here / "back"))
        self.assertIn(b"0 files copied", again.stdout)

    def test_patterns(self) -> None:
        """A quoted pattern picks files on the device; a home is where a bare colon is."""
        for name in ("a.log", "b.log", "c.txt"):
            (self.device / name).write_text(name)
        self.assert_status(0, self.cp(f"pump-1:{self.device}/*.log", str(self.here)))
        self.assertEqual({"a.log", "b.log"}, set(os.listdir(self.here)))

    def test_odd_names(self) -> None:
        """Names that are no UTF-8, or have a colon, are copied and shown harmlessly."""
        odd = os.fsencode(self.here) + b"/\xff\x1b[2J:x"
        with open(odd, "wb") as file:
            file.write(b"content")
        done = self.cp(odd, f"pump-1:{self.device}/")
        self.assert_status(0, done)
        os.rename(os.fsencode(self.device) + b"/\xff\x1b[2J:x", os.fsencode(self.device) + b"/\xfe")
        done = self.cp("--json", b"pump-1:" + os.fsencode(self.device) + b"/\xfe", str(self.here))
        self.assert_status(0, done)
        self.assertIn("source_b64", json_lines(done)[0])
        done = self.cp(b"pump-1:" + os.fsencode(self.device) + b"/\xff\x1b[2J", str(self.here))
        self.assert_status(1, done)
        self.assertNotIn(b"\x1b", done.stderr)

    def test_statuses(self) -> None:
        """Each kind of failure has its exit status and one line that says what to do."""
        (self.here / "file").write_text("x")
        file, place = str(self.here / "file"), f"pump-1:{self.device}/"
        cases: list[tuple[int, tuple[str, ...]]] = [
            (2, (file, str(self.here / "other"))),
            (2, ("--limit", "fast", file, place)),
            (2, (file,)),
            (255, (file, "no-such-device:/tmp/")),
            (2, (file, "Bad Name:/tmp/")),
            (255, (file, f"pump-1:{self.device}/new/")),
            (255, ("--as", "no-such-login", file, place)),
            (1, (str(self.here / "nothing"), place)),
            (1, (file, f"pump-1:{self.device}/no/such/folder")),
        ]
        for status, words in cases:
            done = self.cp(*words)
            self.assert_status(status, done)
            self.assertTrue(done.stderr.startswith(b"rshell: "), done)
            self.assert_one_line(done.stderr)
        done = self.cp(file, f"pump-1:{self.device}/new/")
        self.assertIn(f"pump-1:{self.device}/new/: there is no such folder".encode(), done.stderr)
        done = self.cp(str(self.here / "nothing"), file, place)
        self.assert_status(1, done)
        self.assertIn(b"nothing", done.stderr)
        self.assertEqual("x", (self.device / "file").read_text())

    def test_json(self) -> None:
        """Programs get an object for each file and an outcome for each device."""
        for name in ("a", "b"):
            (self.here / name).write_text(name)
        words = (str(self.here / "a"), str(self.here / "b"), str(self.here / "none"))
        done = self.cp("--json", *words, f"pump-1:{self.device}")
        self.assert_status(1, done)
        *files, last = json_lines(done)
        told = {Path(one["source"]).name: one["status"] for one in files}
        self.assertEqual({"none": "failed", "a": "copied", "b": "copied"}, told)
        self.assertEqual({"pump-1"}, {one["device"] for one in files} | {last["device"]})
        self.assertEqual(
            ("error", "failed", 2, 1),
            tuple(last["outcome"][key] for key in ("status", "code", "copied", "failed")),
        )
        done = self.cp("--json", words[0], "no-such-device:/tmp/")
        self.assert_status(255, done)
        [only] = json_lines(done)
        self.assertEqual("not-found", only["outcome"]["code"])

    def test_dry_run(self) -> None:
        """A dry run lists what would be copied and copies nothing."""
        (self.here / "a").write_text("a")
        done = self.cp("-n", str(self.here / "a"), f"pump-1:{self.device}")
        self.assert_status(0, done)
        self.assertEqual(2, done.stdout.count(b"\n"))
        self.assertIn(f"-> pump-1:{self.device}/a".encode(), done.stdout)
        self.assertEqual([], os.listdir(self.device))


class BrokenLinkTests(RelayedCase):
    """Copies over links that are cut, and processes that are killed."""

    SIZE = 6 * MIB

    def setUp(self) -> None:
        super().setUp()
        self.source, self.target = self.file("source"), self.file("target")
        self.source.write_bytes(random.Random(1).randbytes(self.SIZE))

    def copying(self, *options: str, up: bool = True) -> Program:
        """Start a copy through the operator's relay, to the device or from it."""
        source, target = str(self.source), str(self.target)
        words = (source, f"{DEVICE}:{target}") if up else (f"{DEVICE}:{source}", target)
        program = self.fleet.start(self.fleet.far_cli("cp", *options, *words))
        self.addCleanup(program.kill)
        return program

    def arrives(self, share: float) -> None:
        """Wait until a share of the file is there."""

        def there() -> int:
            parts = self.target.parent.glob(".rshell-*.part")
            return max((part.stat().st_size for part in parts), default=0)

        until(lambda: there() >= share * self.SIZE, lambda: f"{share} of it: {there()}", 60, 0.01)

    def check(self, program: Program) -> Finished:
        done = program.finish(seconds=90)
        self.assert_status(0, done)
        self.assertEqual(digest(self.source), digest(self.target))
        self.assertEqual([], list(self.target.parent.glob(".rshell-*.part")))
        return done

    def _cut(self, up: bool) -> None:
        near, far = self.fleet.operator_side, self.fleet.device_side
        near.rate = SLOW
        program = self.copying(up=up)
        self.arrives(0.05)
        places = random.Random(up)
        onward = {near: UP, far: DOWN} if up else {near: DOWN, far: UP}
        for relay in (near, far, near):
            before = relay.accepted
            relay.cut_after(places.randrange(1, 200_000), onward[relay])
            self.wait_cut(relay, before)
        before = near.accepted
        near.cut_after(places.randrange(1, 200), DOWN if up else UP)
        self.wait_cut(near, before)
        near.rate = 0
        self.check(program)

    def test_upload_cut(self) -> None:
        """An upload goes on over every cut, of the operator's link and of the device's."""
        self._cut(True)

    def test_download_cut(self) -> None:
        """So does a download."""
        self._cut(False)

    def test_processes_killed(self) -> None:
        """Agent and gateway are killed within one upload, and it goes on."""
        self.fleet.operator_side.rate = SLOW
        program = self.copying()
        self.arrives(0.2)
        self.fleet.agent.kill(signal.SIGKILL)
        self.fleet.agent.start()
        self.arrives(0.5)
        self.fleet.kill_gateway()
        self.fleet.restart_gateway()
        self.fleet.operator_side.rate = 0
        self.check(program)

    def test_interrupted(self) -> None:
        """Ctrl-C ends a copy with 130 and says how to go on; going on sends only the rest."""
        for up in (True, False):
            self.fleet.operator_side.rate = SLOW
            self.target.unlink(missing_ok=True)
            program = self.copying(up=up)
            self.arrives(0.5)
            program.process.send_signal(signal.SIGINT)
            done = program.finish()
            self.assert_status(130, done)
            self.assertIn(b"run the same command again", done.stderr)
            self.assertFalse(self.target.exists())
            self.fleet.operator_side.rate = 0
            done = self.check(self.copying("--json", up=up))
            sent = json_lines(done)[0]["sent"]
            self.assertLess(sent, 0.6 * self.SIZE, (up, sent))


class LongTests(RelayedCase):
    @lasting("2 GiB go over links that are cut fifty times")
    def test_two_gigabytes(self) -> None:
        """2 GiB arrive whole over 50 cuts, and no process's memory grows with them."""
        size, cuts = 2048 * MIB, 50
        source, target = self.file("large"), self.file("large-copy")
        noise = random.Random(1).randbytes(16 * MIB)
        with source.open("wb") as file:
            for number in range(size // len(noise)):
                file.write(number.to_bytes(8, "big") + noise[8:])
        fleet = self.fleet
        fleet.agent.kill()
        fleet.agent.start()
        fleet.wait_live(DEVICE)
        watched = {"gateway": fleet.gateway_pid, "agent": fleet.agent.pid}
        keeper = until(fleet.agent.keeper_pid, "a keeper")
        watched["keeper"] = keeper
        for pid in watched.values():
            reset_peak(pid)
        program = fleet.start(fleet.far_cli("cp", str(source), f"{DEVICE}:{target}"))
        self.addCleanup(program.kill)
        watched["worker"] = until(lambda: next(iter(children(keeper)), 0), "a worker")
        watched["cp"] = program.pid
        peaks: dict[str, int] = {}
        places = random.Random(2)
        for number in range(cuts):
            # A device that loses its links one after the other waits ever longer (rule C6).
            relay = fleet.device_side if number in (10, 40) else fleet.operator_side
            before = relay.accepted
            way = UP if relay is fleet.operator_side else DOWN
            relay.cut_after(places.randrange(1, size // cuts), way)
            self._wait_cut(relay, before, program, watched, peaks)
        done = program.finish(seconds=600)
        self.assert_status(0, done)
        self.assertEqual(digest(source), digest(target))
        told = {name: round(peak / 1024) for name, peak in peaks.items()}
        sys.stderr.write(f"\n{done.stdout.decode().strip()}; peaks in MiB: {told}\n")
        for name, peak in peaks.items():
            self.assertLess(peak, 150 * 1024, name)
        source.unlink()
        target.unlink()

    def _wait_cut(
        self,
        relay: Relay,
        before: int,
        program: Program,
        watched: dict[str, int],
        peaks: dict[str, int],
    ) -> None:
        def cut() -> bool:
            for name, pid in watched.items():
                try:
                    peaks[name] = max(peaks.get(name, 0), peak_kb(pid))
                except OSError:
                    pass  # it ended
            return relay.accepted > before or program.process.poll() is not None

        until(cut, "a cut", 120)
