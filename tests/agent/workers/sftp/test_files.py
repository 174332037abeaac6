"""Open files: reading, writing, flags, handles, and what is not opened."""

from __future__ import annotations

import os
import socket
import stat

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.handles import MAX_HANDLES
from rshell_agent.workers.sftp.wire import string, u32, u64
from tests.agent.workers.sftp.client import SftpCase, attributes

CREATE = wire.OPEN_WRITE | wire.OPEN_CREATE


class FileTests(SftpCase):
    def read(self, handle: bytes, offset: int, size: int) -> bytes:
        return self.client.ask(wire.READ, handle, u64(offset), u32(size)).value

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        self.assert_ok(self.client.ask(wire.WRITE, handle, u64(offset), string(data)))

    def test_write_and_read(self) -> None:
        """What was written at any offsets is read from any offsets, up to the end."""
        handle = self.client.handle(b"f", CREATE | wire.OPEN_READ)
        self.write(handle, 4, b"world")
        self.write(handle, 0, b"ello")
        self.write(handle, 0, b"")
        self.assertEqual(b"elloworld", self.read(handle, 0, 100))
        self.assertEqual(b"wor", self.read(handle, 4, 3))
        self.assertEqual(b"", self.read(handle, 4, 0))
        self.assert_code(wire.EOF, self.client.ask(wire.READ, handle, u64(9), u32(1)))
        self.assert_code(wire.EOF, self.client.ask(wire.READ, handle, u64(2**40), u32(1)))
        self.assert_ok(self.client.ask(wire.CLOSE, handle))
        self.assertEqual(b"elloworld", (self.root / "f").read_bytes())

    def test_read_is_bounded(self) -> None:
        """A read of more than a packet holds gives what one packet holds."""
        (self.root / "f").write_bytes(bytes(wire.MAX_DATA + 5))
        handle = self.client.handle(b"f")
        self.assertEqual(wire.MAX_DATA, len(self.read(handle, 0, 2**32 - 1)))
        self.assertEqual(5, len(self.read(handle, wire.MAX_DATA, 2**32 - 1)))

    def test_far(self) -> None:
        """Offsets beyond 4 GiB are offsets like any other, those beyond 2^63 a bad message."""
        handle = self.client.handle(b"f", CREATE | wire.OPEN_READ)
        self.write(handle, 5 * 2**30, b"far")
        self.assertEqual(b"\0far", self.read(handle, 5 * 2**30 - 1, 100))
        for offset in (2**63, 2**64 - 1):
            bad = self.client.ask(wire.READ, handle, u64(offset), u32(1))
            self.assert_code(wire.BAD_MESSAGE, bad)
            bad = self.client.ask(wire.WRITE, handle, u64(offset), string(b"x"))
            self.assert_code(wire.BAD_MESSAGE, bad)
        bad = self.client.ask(wire.WRITE, handle, u64(2**63 - 1), string(b"x"))
        self.assert_code(wire.BAD_MESSAGE, bad)
        self.assertEqual(5 * 2**30 + 3, (self.root / "f").stat().st_size)

    def test_flags(self) -> None:
        """CREATE, EXCLUSIVE, TRUNCATE and APPEND do what open(2) does by these names."""
        self.assert_code(wire.NO_SUCH_FILE, self.client.open(b"f", wire.OPEN_WRITE))
        self.write(self.client.handle(b"f", CREATE), 0, b"one two")
        exclusive = CREATE | wire.OPEN_EXCLUSIVE
        self.assert_code(wire.FAILURE, self.client.open(b"f", exclusive))
        self.write(self.client.handle(b"f", wire.OPEN_WRITE), 0, b"ONE")
        self.write(self.client.handle(b"f", wire.OPEN_WRITE | wire.OPEN_APPEND), 0, b"!")
        self.assertEqual(b"ONE two!", (self.root / "f").read_bytes())
        self.client.handle(b"f", wire.OPEN_WRITE | wire.OPEN_TRUNCATE)
        self.assertEqual(b"", (self.root / "f").read_bytes())
        for flags in (wire.OPEN_TRUNCATE, wire.OPEN_READ | wire.OPEN_APPEND):
            self.assert_code(wire.BAD_MESSAGE, self.client.open(b"f", flags))
        self.assertEqual(b"", string(b"")[4:] + (self.root / "f").read_bytes())
        self.client.handle(b"new", exclusive)
        self.client.handle(b"touched", wire.OPEN_READ | wire.OPEN_CREATE)
        self.assertTrue((self.root / "touched").exists())

    def test_rights_of_a_handle(self) -> None:
        """A file opened for one thing is not used for the other."""
        (self.root / "f").write_bytes(b"data")
        reading, writing = self.client.handle(b"f"), self.client.handle(b"f", wire.OPEN_WRITE)
        answer = self.client.ask(wire.WRITE, reading, u64(0), string(b"x"))
        self.assert_code(wire.PERMISSION_DENIED, answer)
        answer = self.client.ask(wire.FSETSTAT, reading, attributes(size=0))
        self.assert_code(wire.PERMISSION_DENIED, answer)
        self.assert_code(wire.FAILURE, self.client.ask(wire.READ, writing, u64(0), u32(1)))
        self.assertEqual(b"data", (self.root / "f").read_bytes())

    def test_handles(self) -> None:
        """A handle that is wrong, closed or of the other kind is a failure, and never reused."""
        (self.root / "f").touch()
        file, folder = self.client.handle(b"f"), self.client.on(wire.OPENDIR, b".").value
        for handle in (b"", b"0", b"9", b"\xff" * 300, b"01"):
            for kind in (wire.CLOSE, wire.FSTAT, wire.READDIR):
                self.assert_code(wire.FAILURE, self.client.ask(kind, string(handle)))
        self.assert_code(wire.FAILURE, self.client.ask(wire.READDIR, file))
        for kind, rest in ((wire.READ, u64(0) + u32(1)), (wire.WRITE, u64(0) + string(b""))):
            self.assert_code(wire.FAILURE, self.client.ask(kind, string(folder), rest))
        answer = self.client.ask(wire.FSETSTAT, string(folder), attributes(permissions=0o700))
        self.assert_code(wire.PERMISSION_DENIED, answer)
        self.assert_ok(self.client.ask(wire.CLOSE, file))
        self.assert_code(wire.FAILURE, self.client.ask(wire.CLOSE, file))
        self.assertNotEqual(file, self.client.handle(b"f"))

    def test_too_many_handles(self) -> None:
        """One handle too many is refused, and creates nothing; there is room after a close."""
        handles = [self.client.handle(b"f", CREATE) for _ in range(MAX_HANDLES)]
        answer = self.client.open(b"more", CREATE)
        self.assert_code(wire.FAILURE, answer)
        self.assertIn(str(MAX_HANDLES), answer.message)
        self.assert_code(wire.FAILURE, self.client.on(wire.OPENDIR, b"."))
        self.assertFalse((self.root / "more").exists())
        self.assert_ok(self.client.ask(wire.CLOSE, handles[7]))
        self.client.handle(b"f")

    def test_no_waiting(self) -> None:
        """FIFOs, sockets and devices are refused at once, folders as well."""
        os.mkfifo(self.root / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.root / "socket"))
        (self.root / "folder").mkdir()
        names = [b"fifo", b"socket", b"folder"]
        if os.getuid() == 0:
            os.mknod(self.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            names.append(b"null")
        for name in names:
            for flags in (wire.OPEN_READ, wire.OPEN_WRITE, CREATE | wire.OPEN_TRUNCATE):
                with self.subTest(name=name, flags=flags):
                    self.assertNotEqual(wire.OK, self.client.open(name, flags).code)
            self.assertEqual(wire.ATTRS, self.client.on(wire.STAT, name).kind)

    def test_permissions(self) -> None:
        """A new file has the permissions asked for, under the umask, without set-id bits."""
        self.addCleanup(os.umask, os.umask(0o022))
        for asked, got in ((None, 0o644), (0o600, 0o600), (0o6777, 0o755), (0o100755, 0o755)):
            name = f"f{asked}".encode()
            body = u32(0) if asked is None else attributes(permissions=asked)
            self.client.open(name, CREATE, body)
            found = os.stat(os.path.join(os.fsencode(self.root), name)).st_mode
            self.assertEqual(got, stat.S_IMODE(found), oct(asked or 0))

    def test_fsetstat(self) -> None:
        """An open file's size, permissions and times are changed through its handle."""
        handle = self.client.handle(b"f", CREATE)
        self.write(handle, 0, b"0123456789")
        body = attributes(size=4, permissions=0o6640, times=(1000, 2000))
        self.assert_ok(self.client.ask(wire.FSETSTAT, handle, body))
        size, _, _, mode, accessed, modified = self.client.ask(wire.FSTAT, handle).stat
        self.assertEqual((4, 0o100640, 1000, 2000), (size, mode, accessed, modified))

    def test_read_only(self) -> None:
        """A read-only session changes nothing, by any request."""
        (self.root / "f").write_bytes(b"data")
        client = self.connect(read_only=True)
        self.assertEqual(
            b"data",
            client.ask(wire.READ, client.handle(b"f"), u64(0), u32(9)).value,
        )
        attrs = attributes(permissions=0o600)
        answers = [
            client.open(b"f", wire.OPEN_WRITE),
            client.open(b"new", wire.OPEN_READ | wire.OPEN_CREATE),
            client.on(wire.SETSTAT, b"f", attrs),
            client.extended(b"lsetstat@openssh.com", string(b"f"), attrs),
            client.on(wire.REMOVE, b"f"),
            client.on(wire.MKDIR, b"d", u32(0)),
            client.on(wire.RMDIR, b"."),
            client.on(wire.RENAME, b"f", string(b"g")),
            client.extended(b"posix-rename@openssh.com", string(b"f"), string(b"g")),
            client.extended(b"hardlink@openssh.com", string(b"f"), string(b"g")),
            client.on(wire.SYMLINK, b"f", string(b"g")),
        ]
        for answer in answers:
            self.assert_code(wire.PERMISSION_DENIED, answer)
            self.assertIn("reading only", answer.message)
        self.assertEqual(["f"], os.listdir(self.root))

    def test_file_size(self) -> None:
        """Beyond the policy's size of a file nothing is written, by any request."""
        client = self.connect(max_file_size=100)
        handle = client.handle(b"f", CREATE)
        self.assert_ok(client.ask(wire.WRITE, handle, u64(90), string(b"x" * 10)))
        answer = client.ask(wire.WRITE, handle, u64(90), string(b"x" * 11))
        self.assert_code(wire.FAILURE, answer)
        self.assertIn("100", answer.message)
        for kind, target in ((wire.FSETSTAT, handle), (wire.SETSTAT, string(b"f"))):
            self.assert_code(wire.FAILURE, client.ask(kind, target, attributes(size=101)))
        appending = client.handle(b"f", CREATE | wire.OPEN_APPEND)
        answer = client.ask(wire.WRITE, appending, u64(0), string(b"x"))
        self.assert_code(wire.FAILURE, answer)
        self.assertEqual(100, (self.root / "f").stat().st_size)
