"""Requests on paths: looking, listing, making, moving, removing, links, attributes."""

from __future__ import annotations

import errno
import os
import stat

from rshell_agent.workers.confined import Denied
from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.failures import Failed, reply_for
from rshell_agent.workers.sftp.wire import string, u32
from tests.agent.workers.sftp.client import NOW, SftpCase, attributes


class PathTests(SftpCase):
    def setUp(self) -> None:
        super().setUp()
        (self.root / "f").write_bytes(b"data")
        (self.root / "d").mkdir()
        (self.root / "l").symlink_to("f")

    def real(self, path: bytes) -> bytes:
        [(name, _)] = self.client.on(wire.REALPATH, path).names
        return name

    def test_stat(self) -> None:
        """STAT tells of what a link leads to, LSTAT of the link."""
        os.utime(self.root / "f", (1000, 2**33))
        os.chmod(self.root / "f", 0o640)
        told = (4, os.getuid(), os.getgid(), 0o100640, 1000, 2**32 - 1)
        self.assertEqual(told, self.client.on(wire.STAT, b"l").stat)
        self.assertTrue(stat.S_ISLNK(self.client.on(wire.LSTAT, b"l").stat[3]))
        self.assertEqual(told, self.client.on(wire.STAT, self.root / "f").stat)
        for path in (b"none", b"f/x", b"none/x", b"/none"):
            answer = self.client.on(wire.STAT, path)
            self.assertIn(answer.code, (wire.NO_SUCH_FILE, wire.PERMISSION_DENIED), path)

    def test_before_1970(self) -> None:
        """A time before 1970 is told as 1970: the protocol has no other."""
        os.utime(self.root / "f", (-5, -5))
        self.assertEqual((0, 0), self.client.on(wire.STAT, b"f").stat[4:])
        names = self.listing(b".")
        self.assertIn(b"1969", names[b"f"])

    def listing(self, path: bytes) -> dict[bytes, bytes]:
        handle = string(self.client.on(wire.OPENDIR, path).value)
        found: dict[bytes, bytes] = {}
        while (answer := self.client.ask(wire.READDIR, handle)).kind == wire.NAME:
            for name, long_name in answer.names:
                self.assertNotIn(name, found)
                found[name] = long_name
        self.assert_code(wire.EOF, answer)
        self.assert_code(wire.EOF, self.client.ask(wire.READDIR, handle))
        self.assert_ok(self.client.ask(wire.CLOSE, handle))
        return found

    def test_listing(self) -> None:
        """A listing has every name once, with a line as of ``ls -l``."""
        os.utime(self.root / "f", (0, NOW - 86400))
        os.utime(self.root / "d", (0, 0))
        names = self.listing(b".")
        self.assertEqual({b".", b"..", b"f", b"d", b"l"}, set(names))
        line = names[b"f"].split()
        self.assertEqual([b"-rw-r--r--", b"1"], line[:2])
        self.assertEqual([b"4", b"Jun", b"30"], line[4:7])
        self.assertIn(b":", line[7])
        self.assertEqual(b"f", line[8])
        self.assertIn(b" 1970 d", names[b"d"])
        self.assertTrue(names[b"l"].startswith(b"lrwxrwxrwx"))

    def test_long_listing(self) -> None:
        """A folder of thousands comes in pages, none larger than a packet."""
        many = {b"%04d" % n + b"x" * 251 for n in range(1000)}
        for name in many:
            os.mknod(os.path.join(os.fsencode(self.root / "d"), name))
        self.assertEqual(many | {b".", b".."}, set(self.listing(b"d")))

    def test_odd_names(self) -> None:
        """Names of any bytes are told as they are; the line for people has no control bytes."""
        odd = b"a\n\x1b[2J\xff\xe4 \x7f"
        (self.root / os.fsdecode(odd)).touch()
        names = self.listing(b".")
        self.assertIn(odd, names)
        self.assertFalse([c for c in names[odd] if c < 32 or c == 127])
        self.assertEqual(wire.ATTRS, self.client.on(wire.STAT, odd).kind)

    def test_changing_folder(self) -> None:
        """What vanishes while a folder is listed is left out."""
        for number in range(500):
            (self.root / "d" / str(number)).touch()
        handle = string(self.client.on(wire.OPENDIR, b"d").value)
        seen = {name for name, _ in self.client.ask(wire.READDIR, handle).names}
        for name in os.listdir(self.root / "d"):
            (self.root / "d" / name).unlink()
        while (answer := self.client.ask(wire.READDIR, handle)).kind == wire.NAME:
            seen |= {name for name, _ in answer.names}
        self.assert_code(wire.EOF, answer)
        self.assertIn(b".", seen)

    def test_opendir_of_others(self) -> None:
        """Only folders are listed."""
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.OPENDIR, b"f"))
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.OPENDIR, b"none"))

    def test_folders(self) -> None:
        """Folders are made, with permissions, and removed when they are empty."""
        self.assert_ok(self.client.on(wire.MKDIR, b"e", attributes(permissions=0o700)))
        self.assertEqual(0o700, stat.S_IMODE((self.root / "e").stat().st_mode))
        self.assert_code(wire.FAILURE, self.client.on(wire.MKDIR, b"e", u32(0)))
        self.assert_ok(self.client.on(wire.MKDIR, b"e/x", u32(0)))
        self.assert_code(wire.FAILURE, self.client.on(wire.RMDIR, b"e"))
        self.assert_ok(self.client.on(wire.RMDIR, b"e/x"))
        self.assert_ok(self.client.on(wire.RMDIR, b"e"))
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.RMDIR, b"e"))
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.RMDIR, b"f"))
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.MKDIR, b"no/x", u32(0)))

    def test_remove(self) -> None:
        """REMOVE takes a file, or a link and not what it leads to, and no folder."""
        self.assert_ok(self.client.on(wire.REMOVE, b"l"))
        self.assertEqual({"f", "d"}, set(os.listdir(self.root)))
        self.assert_ok(self.client.on(wire.REMOVE, b"f"))
        self.assertNotEqual(wire.OK, self.client.on(wire.REMOVE, b"d").code)
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.REMOVE, b"f"))
        self.assertNotEqual(wire.OK, self.client.on(wire.REMOVE, b".").code)
        self.assertNotEqual(wire.OK, self.client.on(wire.RMDIR, b".").code)

    def test_rename(self) -> None:
        """RENAME moves files, links and folders, never onto what is there."""
        (self.root / "g").write_bytes(b"other")
        for old, new in ((b"f", b"g"), (b"f", b"f"), (b"d", b"g"), (b"f", b"d"), (b"l", b"g")):
            self.assert_code(wire.FAILURE, self.client.on(wire.RENAME, old, string(new)))
        self.assertEqual(b"other", (self.root / "g").read_bytes())
        for old, new in ((b"f", b"d/f"), (b"l", b"d/l"), (b"d", b"e")):
            self.assert_ok(self.client.on(wire.RENAME, old, string(new)))
        self.assertEqual({"g", "e"}, set(os.listdir(self.root)))
        self.assertEqual(b"data", (self.root / "e/f").read_bytes())
        self.assertEqual("f", os.readlink(self.root / "e/l"))
        self.assertEqual(1, (self.root / "e/f").stat().st_nlink)
        answer = self.client.on(wire.RENAME, b"none", string(b"x"))
        self.assert_code(wire.NO_SUCH_FILE, answer)

    def test_links(self) -> None:
        """SYMLINK makes a link with any text, target first; READLINK tells it."""
        for target in (b"f", b"../../x", b"/etc/passwd", b"none", b"\xff"):
            self.assert_ok(self.client.ask(wire.SYMLINK, string(target), string(b"new")))
            self.assertEqual(target, os.readlink(os.fsencode(self.root / "new")))
            self.assertEqual([(target, target)], self.client.on(wire.READLINK, b"new").names)
            self.assert_ok(self.client.on(wire.REMOVE, b"new"))
        for target in (b"", b"a\0b", b"x" * 5000):
            answer = self.client.ask(wire.SYMLINK, string(target), string(b"new"))
            self.assertNotEqual(wire.OK, answer.code)
        self.assert_code(wire.FAILURE, self.client.on(wire.READLINK, b"f"))

    def test_setstat(self) -> None:
        """SETSTAT changes what a link leads to."""
        body = attributes(size=2, permissions=0o2600, times=(1000, 2000))
        self.assert_ok(self.client.on(wire.SETSTAT, b"l", body))
        found = (self.root / "f").stat()
        told = (found.st_size, stat.S_IMODE(found.st_mode), found.st_atime, found.st_mtime)
        self.assertEqual((2, 0o600, 1000, 2000), told)
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.SETSTAT, b"none", body))
        self.assert_code(wire.FAILURE, self.client.on(wire.SETSTAT, b"d", attributes(size=1)))

    def test_setstat_goes_on(self) -> None:
        """What can be changed is changed, though something else cannot."""
        body = attributes(size=1, permissions=0o700, times=(1000, 2000))
        self.assert_code(wire.FAILURE, self.client.on(wire.SETSTAT, b"d", body))
        found = (self.root / "d").stat()
        self.assertEqual((0o700, 2000), (stat.S_IMODE(found.st_mode), found.st_mtime))

    def test_setid(self) -> None:
        """Set-id bits are set only where policy says so, but for a folder's set-group-id."""
        self.assert_ok(self.client.on(wire.SETSTAT, b"f", attributes(permissions=0o7755)))
        self.assertEqual(0o1755, stat.S_IMODE((self.root / "f").stat().st_mode))
        self.assert_ok(self.client.on(wire.SETSTAT, b"d", attributes(permissions=0o6775)))
        self.assertEqual(0o2775, stat.S_IMODE((self.root / "d").stat().st_mode))
        client = self.connect(setid=True)
        self.assert_ok(client.on(wire.SETSTAT, b"f", attributes(permissions=0o4755)))
        self.assertEqual(0o4755, stat.S_IMODE((self.root / "f").stat().st_mode))

    def test_owner(self) -> None:
        """The owner may be said again, and is else the system's to decide."""
        own = attributes(owner=(os.getuid(), os.getgid()))
        self.assert_ok(self.client.on(wire.SETSTAT, b"f", own))
        self.assert_ok(self.client.on(wire.SETSTAT, b"f", attributes(owner=(2**32 - 1,) * 2)))
        self.assertEqual(os.getuid(), (self.root / "f").stat().st_uid)

    def test_real_path(self) -> None:
        """REALPATH takes out links, dots and double slashes; the last name may be missing."""
        root = os.fsencode(self.root)
        (self.root / "d/e").symlink_to("../d")
        for path, name in (
            (b".", b""),
            (b"", b""),
            (b"f", b"/f"),
            (b"l", b"/f"),
            (b"d/e/e/./..//none", b"/none"),
            (root + b"//d/", b"/d"),
            (b"~", b"/~"),
            (b"~/x", None),
        ):
            if name is None:
                self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.REALPATH, path))
            else:
                self.assertEqual(root + name, self.real(path), path)
        self.assert_code(wire.NO_SUCH_FILE, self.client.on(wire.REALPATH, b"no/such"))

    def test_home_elsewhere(self) -> None:
        """A client whose home the policy does not show begins there all the same."""
        client = self.connect(read=["/usr"], write=[])
        [(home, _)] = client.on(wire.REALPATH, b".").names
        self.assertEqual(os.fsencode(self.root), home)
        self.assert_code(wire.PERMISSION_DENIED, client.on(wire.REALPATH, b"f"))
        self.assertEqual(wire.HANDLE, client.on(wire.OPENDIR, b"/usr").kind)

    def test_linked_root(self) -> None:
        """Real paths beneath a root that is a link are such as can be asked for."""
        (self.base / "way").symlink_to("root")
        client = self.connect(read=[str(self.base / "way")], write=[])
        way = os.fsencode(self.base / "way")
        [(path, _)] = client.on(wire.REALPATH, way + b"/d/../f").names
        self.assertEqual(wire.ATTRS, client.on(wire.STAT, path).kind)

    def test_codes(self) -> None:
        """Clients are told what was missing and what was not allowed, and all else in words."""
        for error, code in (
            (FileNotFoundError(errno.ENOENT, "x"), wire.NO_SUCH_FILE),
            (PermissionError(errno.EACCES, "x"), wire.PERMISSION_DENIED),
            (Denied(b"/x\n"), wire.PERMISSION_DENIED),
            (OSError(errno.ENOSPC, "No space left on device"), wire.FAILURE),
            (OSError(errno.EROFS, "x"), wire.FAILURE),
            (OSError(errno.EOPNOTSUPP, "x"), wire.OP_UNSUPPORTED),
            (OSError(), wire.FAILURE),
            (Failed(wire.FAILURE, "ä" * 2000), wire.FAILURE),
        ):
            _, parts = reply_for(error)
            self.assertEqual(u32(code), parts[0])
            self.assertLessEqual(len(parts[1]), 4 + wire.MAX_MESSAGE)
