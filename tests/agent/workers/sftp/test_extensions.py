"""The extensions of OpenSSH."""

from __future__ import annotations

import os
import pwd

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.handles import MAX_HANDLES
from rshell_agent.workers.sftp.wire import Fields, string, u32, u64
from tests.agent.workers.sftp.client import Answer, SftpCase, attributes


class ExtensionTests(SftpCase):
    def setUp(self) -> None:
        super().setUp()
        (self.root / "f").write_bytes(b"0123456789")

    def numbers(self, answer: Answer) -> list[int]:
        self.assertEqual(wire.EXTENDED_REPLY, answer.kind)
        fields = answer.fields()
        found = []
        while fields.left:
            found.append(fields.u64())
        return found

    def test_posix_rename(self) -> None:
        """posix-rename replaces what is there."""
        (self.root / "g").write_bytes(b"old")
        name = b"posix-rename@openssh.com"
        self.assert_ok(self.client.extended(name, string(b"f"), string(b"g")))
        self.assertEqual(b"0123456789", (self.root / "g").read_bytes())
        answer = self.client.extended(name, string(b"f"), string(b"g"))
        self.assert_code(wire.NO_SUCH_FILE, answer)

    def test_hardlink(self) -> None:
        """hardlink gives a file a second name, of a link the link's, and replaces nothing."""
        name = b"hardlink@openssh.com"
        self.assert_ok(self.client.extended(name, string(b"f"), string(b"g")))
        self.assertTrue(os.path.samefile(self.root / "f", self.root / "g"))
        self.assert_code(wire.FAILURE, self.client.extended(name, string(b"f"), string(b"g")))
        (self.root / "l").symlink_to("/etc/passwd")
        self.assert_ok(self.client.extended(name, string(b"l"), string(b"l2")))
        self.assertEqual("/etc/passwd", os.readlink(self.root / "l2"))

    def test_fsync(self) -> None:
        """fsync is for open files."""
        handle = self.client.handle(b"f", wire.OPEN_WRITE)
        self.assert_ok(self.client.extended(b"fsync@openssh.com", handle))
        answer = self.client.extended(b"fsync@openssh.com", string(b"77"))
        self.assert_code(wire.FAILURE, answer)

    def test_space(self) -> None:
        """statvfs and fstatvfs tell eleven figures of the file system."""
        found = os.statvfs(self.root)
        by_path = self.numbers(self.client.extended(b"statvfs@openssh.com", string(b"f")))
        handle = self.client.handle(b"f")
        by_handle = self.numbers(self.client.extended(b"fstatvfs@openssh.com", handle))
        for told in (by_path, by_handle):
            self.assertEqual(11, len(told))
            self.assertEqual([found.f_bsize, found.f_frsize, found.f_blocks], told[:3])
            self.assertEqual(found.f_namemax, told[10])
        answer = self.client.extended(b"statvfs@openssh.com", string(b"none"))
        self.assert_code(wire.NO_SUCH_FILE, answer)

    def test_limits(self) -> None:
        """limits tells what packets, reads, writes and handles may be."""
        told = self.numbers(self.client.extended(b"limits@openssh.com"))
        self.assertEqual([wire.MAX_PACKET, wire.MAX_DATA, wire.MAX_DATA, MAX_HANDLES], told)

    def test_lsetstat(self) -> None:
        """lsetstat changes a link itself, which has no permissions of its own."""
        (self.root / "l").symlink_to("f")
        name = b"lsetstat@openssh.com"
        self.assert_ok(self.client.extended(name, string(b"l"), attributes(times=(1, 2))))
        self.assertEqual(2, (self.root / "l").lstat().st_mtime)
        self.assertNotEqual(2, (self.root / "f").stat().st_mtime)
        answer = self.client.extended(name, string(b"l"), attributes(permissions=0o600))
        self.assert_code(wire.OP_UNSUPPORTED, answer)

    def test_homes(self) -> None:
        """expand-path and home-directory know the login's home, and others'."""
        root = os.fsencode(self.root)
        expand, home = b"expand-path@openssh.com", b"home-directory"
        for path, found in ((b"~", root), (b"~/f", root + b"/f"), (b"f", root + b"/f")):
            self.assertEqual(found, self.client.extended(expand, string(path)).names[0][0])
        self.assertEqual(root, self.client.extended(home, string(b"")).names[0][0])
        entry = pwd.getpwuid(0)
        told = self.client.extended(home, string(entry.pw_name.encode())).names[0][0]
        self.assertEqual(os.fsencode(entry.pw_dir), told)
        for user in (b"no-such-user", b"a\0b", b"\xff"):
            self.assert_code(wire.FAILURE, self.client.extended(home, string(user)))
            self.assert_code(wire.FAILURE, self.client.extended(expand, string(b"~" + user)))

    def test_owners(self) -> None:
        """users-groups-by-id tells names, empty ones for ids that nobody has."""
        name = b"users-groups-by-id@openssh.com"
        ids = u32(0) + u32(4_000_000_123) + u32(2**32 - 1)
        fields = self.client.extended(name, string(ids), string(u32(0))).fields()
        users, groups = Fields(fields.view()), Fields(fields.view())
        self.assertEqual(pwd.getpwuid(0).pw_name.encode(), users.string())
        self.assertEqual([b"", b""], [users.string(), users.string()])
        self.assertTrue(groups.string())
        for bad in (b"abc", u32(0) * 5000):
            self.assert_code(wire.BAD_MESSAGE, self.client.extended(name, string(bad), string(b"")))

    def copy(self, source: bytes, start: int, length: int, target: bytes, at: int) -> Answer:
        parts = (source, u64(start), u64(length), target, u64(at))
        return self.client.extended(b"copy-data", *parts)

    def test_copy(self) -> None:
        """copy-data copies a range, or up to the end, from file to file on the device."""
        source = self.client.handle(b"f")
        target = self.client.handle(b"g", wire.OPEN_WRITE | wire.OPEN_CREATE)
        self.assert_ok(self.copy(source, 2, 3, target, 0))
        self.assertEqual(b"234", (self.root / "g").read_bytes())
        self.assert_ok(self.copy(source, 5, 0, target, 3))
        self.assert_ok(self.copy(source, 100, 0, target, 100))
        self.assertEqual(b"23456789", (self.root / "g").read_bytes())
        self.assert_code(wire.PERMISSION_DENIED, self.copy(target, 0, 1, source, 0))
        self.assert_code(wire.BAD_MESSAGE, self.copy(source, 2**63, 0, target, 0))

    def test_copy_onto_itself(self) -> None:
        """Ranges of one file that overlap are refused; others are copied."""
        handle = self.client.handle(b"f", wire.OPEN_READ | wire.OPEN_WRITE)
        self.assert_ok(self.copy(handle, 0, 5, handle, 5))
        self.assertEqual(b"0123401234", (self.root / "f").read_bytes())
        for start, length, at in ((0, 0, 5), (0, 6, 5), (5, 0, 0), (0, 5, 0)):
            self.assert_code(wire.FAILURE, self.copy(handle, start, length, handle, at))
        self.assertEqual(b"0123401234", (self.root / "f").read_bytes())
