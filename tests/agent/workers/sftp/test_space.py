"""File systems that are full, nearly full, or read-only."""

from __future__ import annotations

import os
import subprocess

from twisted.trial.unittest import SkipTest

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.wire import string, u64
from tests.agent.workers.sftp.client import SftpCase
from tests.functional.processes import REQUIRE_ALL

CREATE = wire.OPEN_WRITE | wire.OPEN_CREATE
MIB = 1024 * 1024


class SpaceTests(SftpCase):
    def mount(self, options: str) -> None:
        """Put a file system of memory in the root's place."""
        if os.geteuid() != 0:
            raise SkipTest("only root can mount")
        self.client.end()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.root)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            if REQUIRE_ALL:
                raise AssertionError(done.stderr)
            raise SkipTest(f"cannot mount: {done.stderr!r}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.root)], check=True)
        self.client = self.connect()

    def fill(self, name: bytes, most: int) -> tuple[int, str]:
        """Write until it fails; return how many bytes were taken and what was told."""
        handle = self.client.handle(name, CREATE)
        piece = bytes(wire.MAX_DATA)
        for offset in range(0, most, len(piece)):
            answer = self.client.ask(wire.WRITE, handle, u64(offset), string(piece))
            if answer.code != wire.OK:
                self.assert_code(wire.FAILURE, answer)
                self.assert_ok(self.client.ask(wire.CLOSE, handle))
                return offset, answer.message
        raise AssertionError("it was never full")

    def test_full(self) -> None:
        """A write to a full file system fails in words; what was there before is whole."""
        self.mount("size=2m")
        (self.root / "old").write_bytes(b"old")
        _, message = self.fill(b"new", 4 * MIB)
        self.assertIn("No space left on device", message)
        self.assertEqual(b"old", (self.root / "old").read_bytes())
        self.assert_ok(self.client.on(wire.REMOVE, b"new"))

    def test_floor(self) -> None:
        """Bulk is refused while a twentieth is still free; what is small goes through."""
        self.mount("size=40m")
        taken, message = self.fill(b"bulk", 60 * MIB)
        self.assertIn("No space left on device", message)
        room = os.statvfs(self.root)
        self.assertGreaterEqual(room.f_bavail * room.f_frsize, 2 * MIB)
        self.assertGreaterEqual(taken, 37 * MIB)
        handle = self.client.handle(b"small", CREATE)
        self.assert_ok(self.client.ask(wire.WRITE, handle, u64(0), string(bytes(1000))))
        far = self.client.handle(b"sparse", CREATE)
        self.assert_ok(self.client.ask(wire.WRITE, far, u64(2**33), string(b"x")))

    def test_no_names_left(self) -> None:
        """A file system without room for another name says so."""
        self.mount("size=1m,nr_inodes=3")
        self.client.handle(b"a", CREATE)
        self.client.handle(b"b", CREATE)
        answer = self.client.open(b"c", CREATE)
        self.assert_code(wire.FAILURE, answer)
        self.assertIn("No space left on device", answer.message)

    def test_read_only_file_system(self) -> None:
        """A read-only file system says so for every change, and is read."""
        self.mount("size=1m")
        (self.root / "f").write_bytes(b"data")
        subprocess.run(["mount", "-o", "remount,ro", str(self.root)], check=True)
        for answer in (
            self.client.open(b"f", wire.OPEN_WRITE),
            self.client.open(b"g", CREATE),
            self.client.on(wire.REMOVE, b"f"),
            self.client.on(wire.RENAME, b"f", string(b"g")),
        ):
            self.assert_code(wire.FAILURE, answer)
            self.assertIn("Read-only file system", answer.message)
        self.assertEqual(wire.HANDLE, self.client.open(b"f").kind)
