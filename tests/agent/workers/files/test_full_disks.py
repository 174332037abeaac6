"""Full disks, quotas and read-only file systems: the old file stays, and the reason is told."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SkipTest

from rshell_agent.workers.files import space
from rshell_agent.workers.files.faults import Fault, fault_of
from tests.agent.workers.files.driver import (
    DATA,
    TRANSFER,
    FilesCase,
    end_frame,
    frame,
    hole_frame,
    request_frame,
)
from tests.functional.processes import REQUIRE_ALL

MIB = 1 << 20


class SmallDiskTests(FilesCase):
    """On a tmpfs of 8 MiB, of which a tenth must stay free."""

    SIZE = 8 * MIB

    def setUp(self) -> None:
        super().setUp()
        self.disk = self.home / "disk"
        self.disk.mkdir()
        self.mount("-t", "tmpfs", "-o", f"size={self.SIZE},nr_inodes=20", "tmpfs")
        (self.disk / "f").write_bytes(b"old")

    def mount(self, *words: str) -> None:
        done = subprocess.run(
            ["mount", *words, str(self.disk)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            message = f"cannot mount a small file system: {done.stderr.strip()}"
            raise AssertionError(message) if REQUIRE_ALL else SkipTest(message)
        if "remount" not in ",".join(words):
            self.addCleanup(subprocess.run, ["umount", "-l", str(self.disk)], check=True)

    def fill(self, leave: int) -> None:
        """Use the disk up but for so many bytes."""
        room = os.statvfs(self.disk)
        free = room.f_bavail * room.f_frsize
        with open(self.disk / "ballast", "ab") as file:
            file.write(bytes(free - leave))

    def unharmed(self, *others: str) -> None:
        self.assertEqual(b"old", (self.disk / "f").read_bytes())
        self.assertEqual(sorted(["f", *others]), sorted(os.listdir(self.disk)))

    def test_at_once(self) -> None:
        """What would not fit is refused before a byte is written."""
        answer = self.put(b"disk/f", bytes(self.SIZE))
        self.assertEqual("no-space", answer.code)
        self.assertIn("must stay", answer.last["message"])
        self.unharmed()

    def test_floor(self) -> None:
        """A tenth of a small disk stays free, and the rest may be used."""
        self.fill(3 * MIB)
        self.assertEqual("no-space", self.put(b"disk/g", bytes(int(2.5 * MIB))).code)
        self.assertEqual("", self.put(b"disk/g", bytes(1 * MIB)).code)
        self.assertEqual("", self.put(b"disk/g", bytes(1 * MIB)).code, "replaced in what is left")

    def test_fills_meanwhile(self) -> None:
        """A disk that somebody else fills while bytes come in fails the upload (FT29)."""
        size = 2 * MIB
        given = {"path": b"disk/f", "size": size, "transfer": TRANSFER}
        content = os.urandom(size)
        blocks = [frame(DATA, 1, b"\0" + content[i : i + 65_536]) for i in range(0, size, 65_536)]
        data = [request_frame(1, "put", given), *blocks, end_frame(1, content)]
        pieces = iter(data)

        def read() -> bytes:
            piece = next(pieces, b"")
            if piece is blocks[2]:
                self.fill(100_000)
            return piece

        self.assertEqual("no-space", self.serve_from(read)[1].code)
        self.unharmed("ballast")

    def test_no_inode(self) -> None:
        """A file system that has no room for another file says so."""
        for number in range(50):
            try:
                (self.disk / str(number)).touch()
            except OSError:
                break
        self.assertEqual("no-space", self.put(b"disk/f", b"new").code)
        self.assertEqual(b"old", (self.disk / "f").read_bytes())
        self.assertEqual("no-space", self.ask("mkdir", path=b"disk/d").code)

    def test_read_only(self) -> None:
        """On a read-only file system everything can be read and nothing changed."""
        self.mount("-o", "remount,ro")
        self.assertEqual(b"old", self.ask("get", path=b"disk/f").data)
        self.assertEqual("read-only", self.put(b"disk/f", b"new").code)
        for op, fields in (
            ("mkdir", {"path": b"disk/d"}),
            ("remove", {"path": b"disk/f"}),
            ("rename", {"from": b"disk/f", "to": b"disk/g"}),
            ("symlink", {"path": b"disk/l", "target": b"f"}),
            ("setmeta", {"path": b"disk/f", "mode": 0o600}),
        ):
            answer = self.serve(request_frame(1, op, fields))[1]
            self.assertEqual("read-only", answer.code, op)
        self.unharmed()

    def test_not_crossed(self) -> None:
        """A recursive removal does not enter what is mounted inside (FT35)."""
        (self.home / "a").touch()
        answer = self.ask("remove", path=os.fsencode(self.home), recursive=True)
        self.assertEqual("busy", answer.code)
        self.assertIn("mounted", answer.last["message"])
        self.assertEqual(b"old", (self.disk / "f").read_bytes())


class SpaceTests(FilesCase):
    def test_floor(self) -> None:
        """The floor is 5 %, at least 64 MiB, at most 1 GiB, and never over a tenth (FT29)."""
        gib = 1 << 30
        for size, floor in (
            (1000 * gib, gib),
            (10 * gib, gib // 2),
            (gib, 64 * MIB),
            (100 * MIB, 10 * MIB),
            (0, 0),
        ):
            self.assertEqual(floor, space.Space(size, size, 1).floor, size)

    def test_demand(self) -> None:
        """What leaves exactly the floor is taken, a byte more is not."""
        room = space.Space(20 * MIB, 100 * MIB, 1)
        room.demand(10 * MIB)
        self.assertRaises(Fault, room.demand, 10 * MIB + 1)
        self.assertRaises(Fault, space.Space(20 * MIB, 100 * MIB, 0).demand, 0)

    def test_codes(self) -> None:
        """Errors of the system are told apart by stable codes (FT15)."""
        for number, code in (
            (errno.EDQUOT, "quota"),
            (errno.ENOSPC, "no-space"),
            (errno.EROFS, "read-only"),
            (errno.EIO, "io"),
            (errno.EFBIG, "too-large"),
            (errno.ETXTBSY, "busy"),
            (errno.EPERM, "permission"),
        ):
            fault = fault_of(OSError(number, "x"))
            self.assertEqual((code, number), (fault.code, fault.number))


class LimitTests(FilesCase):
    @contextmanager
    def file_limit(self, size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)

    def test_write_fails_in_the_middle(self) -> None:
        """A write that the system refuses in the middle leaves the old file and no part."""
        (self.home / "f").write_bytes(b"old")
        with self.file_limit(150_000):
            answer = self.put(b"f", os.urandom(400_000))
        self.assertEqual("too-large", answer.code)
        self.assertEqual(["f"], self.names())
        self.assertEqual(b"old", (self.home / "f").read_bytes())

    def test_at_sync(self) -> None:
        """So does one that fails at the end, when the size is set."""
        (self.home / "f").write_bytes(b"old")
        given = {"path": b"f", "size": 200_000, "transfer": TRANSFER}
        frames = request_frame(1, "put", given) + hole_frame(1, 200_000)
        with self.file_limit(150_000):
            answer = self.serve(frames + end_frame(1, bytes(200_000)))[1]
        self.assertEqual("too-large", answer.code)
        self.assertEqual(["f"], self.names())
