"""Hostile paths, in every request that takes one: refused or contained."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.wire import string, u32, u64
from tests.agent.workers.sftp.client import Answer, SftpCase, SftpClient, attributes

SECRET = b"not for operators"
CREATE = wire.OPEN_WRITE | wire.OPEN_CREATE

Request = Callable[[SftpClient, bytes], Answer]


def plain(kind: int, *rest: bytes) -> Request:
    return lambda client, path: client.ask(kind, string(path), *rest)


def opened(flags: int) -> Request:
    return plain(wire.OPEN, u32(flags), attributes(permissions=0o666))


def extended(name: bytes, *rest: bytes) -> Request:
    return lambda client, path: client.extended(name, string(path), *rest)


CHANGE = attributes(permissions=0o777, times=(1, 1))
#: Requests that go on where the last name is a link.
FOLLOWING: dict[str, Request] = {
    "read": opened(wire.OPEN_READ),
    "write": opened(wire.OPEN_WRITE),
    "create": opened(CREATE | wire.OPEN_TRUNCATE),
    "append": opened(CREATE | wire.OPEN_APPEND),
    "stat": plain(wire.STAT),
    "setstat": plain(wire.SETSTAT, CHANGE),
    "truncate": plain(wire.SETSTAT, attributes(size=0)),
    "opendir": plain(wire.OPENDIR),
    "realpath": plain(wire.REALPATH),
    "statvfs": extended(b"statvfs@openssh.com"),
    "expand": extended(b"expand-path@openssh.com"),
}
#: Requests on the last name itself.
OTHERS: dict[str, Request] = {
    "exclusive": opened(CREATE | wire.OPEN_EXCLUSIVE),
    "lstat": plain(wire.LSTAT),
    "remove": plain(wire.REMOVE),
    "mkdir": plain(wire.MKDIR, u32(0)),
    "rmdir": plain(wire.RMDIR),
    "readlink": plain(wire.READLINK),
    "lsetstat": extended(b"lsetstat@openssh.com", CHANGE),
    "symlink": lambda client, path: client.ask(wire.SYMLINK, string(b"x"), string(path)),
    "rename from": lambda c, path: c.ask(wire.RENAME, string(path), string(b"stolen")),
    "rename to": lambda c, path: c.ask(wire.RENAME, string(b"mine"), string(path)),
    "posix from": extended(b"posix-rename@openssh.com", string(b"stolen")),
    "posix to": lambda c, path: c.extended(
        b"posix-rename@openssh.com", string(b"mine"), string(path)
    ),
    "link from": extended(b"hardlink@openssh.com", string(b"stolen")),
    "link to": lambda c, path: c.extended(b"hardlink@openssh.com", string(b"mine"), string(path)),
}


class HostileTests(SftpCase):
    def setUp(self) -> None:
        super().setUp()
        self.outside = self.base / "outside"
        (self.outside / "d/e").mkdir(parents=True)
        for name in ("secret", "d/secret", "d/e/secret"):
            (self.outside / name).write_bytes(SECRET)
        (self.root / "d/e").mkdir(parents=True)
        (self.root / "d/e/secret").write_bytes(b"mine")
        (self.root / "mine").write_bytes(b"mine")
        for name, target in (
            ("out", "../outside"),
            ("absolute", str(self.outside)),
            ("chain", "out"),
            ("long", "d/../d/e/../../../outside"),
            ("top", "/"),
            ("file", "../outside/secret"),
            ("new", "../outside/new"),
            ("loop", "loop"),
            ("proc", "/proc/self/root"),
        ):
            (self.root / name).symlink_to(target)
        (self.root / "d/up").symlink_to("../../outside")

    def snapshot(self) -> dict[str, object]:
        """Tell all of what lies outside."""
        found: dict[str, object] = {}
        for folder, folders, files in os.walk(self.outside):
            for name in [*folders, *files]:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                content = b"" if stat.S_ISDIR(info.st_mode) else Path(path).read_bytes()
                found[path] = (info.st_mode, info.st_mtime_ns, info.st_nlink, content)
        return found

    def ways_out(self) -> Iterator[bytes]:
        """Yield paths to the secret that leave the root before their last name.

        All of them end in our own folder: a server that fails must not harm the machine.
        """
        outside = os.fsencode(self.outside)
        yield from (b"../outside/secret", b"../outside/d/e/secret", b"d/../../outside/secret")
        yield from (outside + b"/secret", b"/" + outside + b"//secret")
        yield from (b"out/secret", b"chain/secret", b"absolute/secret", b"long/secret")
        yield from (b"d/up/secret", b"d/e/../up/d/e/secret", b"out/../outside/secret")
        yield b"top" + outside + b"/secret"
        yield b"proc" + outside + b"/secret"
        yield b"/proc/self/root" + outside + b"/secret"
        yield b"/proc/self/cwd/secret"
        yield b"/proc/%d/root" % os.getpid() + outside + b"/secret"
        folder = os.open(self.outside, os.O_PATH)
        self.addCleanup(os.close, folder)
        yield b"/proc/self/fd/%d/secret" % folder
        yield b"/proc/%d/fd/%d/secret" % (os.getpid(), folder)
        yield b"loop/secret"

    def assert_contained(self, name: str, path: bytes, answer: Answer) -> None:
        told = (name, path, answer)
        self.assertEqual(wire.STATUS, answer.kind, told)
        self.assertIn(answer.code, (wire.PERMISSION_DENIED, wire.NO_SUCH_FILE, wire.FAILURE), told)

    def test_ways_out(self) -> None:
        """No path leads out of the roots, in no request, and what lies there stays as it is."""
        before = self.snapshot()
        for path in self.ways_out():
            for name, request in {**FOLLOWING, **OTHERS}.items():
                self.assert_contained(name, path, request(self.client, path))
        self.assertEqual(before, self.snapshot())
        self.assertFalse((self.root / "stolen").exists())

    def test_last_name(self) -> None:
        """A last name that is a link out is not followed by those that follow links."""
        before = self.snapshot()
        for path in (b"file", b"new", b"out", b"loop"):
            for name, request in FOLLOWING.items():
                self.assert_contained(name, path, request(self.client, path))
        for path in (b"top", b"proc"):  # a server that fails this test must not harm the machine
            for name in ("stat", "opendir", "realpath", "statvfs", "expand"):
                self.assert_contained(name, path, FOLLOWING[name](self.client, path))
        self.assertEqual(before, self.snapshot())

    def test_link_itself(self) -> None:
        """A link out can be looked at, renamed and removed: it is the root's own."""
        before = self.snapshot()
        self.assertTrue(stat.S_ISLNK(self.client.on(wire.LSTAT, b"file").stat[3]))
        self.assertEqual(b"../outside/secret", self.client.on(wire.READLINK, b"file").names[0][0])
        self.assert_ok(self.client.on(wire.RENAME, b"file", string(b"other")))
        self.assert_ok(self.client.on(wire.REMOVE, b"other"))
        self.assertEqual(before, self.snapshot())

    def test_malformed(self) -> None:
        """NUL bytes and paths or names of any length are failures and nothing else."""
        for path in (
            b"\0",
            b"mine\0.txt",
            b"x" * 256,
            b"x/" * 2048 + b"y",
            b"d/" * 5000,
            b"x" * 9999,
        ):
            for name, request in {**FOLLOWING, **OTHERS}.items():
                self.assert_contained(name, path, request(self.client, path))
        self.assertEqual(b"mine", (self.root / "mine").read_bytes())

    def test_roots_themselves(self) -> None:
        """A root cannot be removed, renamed or replaced through itself."""
        for path in (b".", b"", os.fsencode(self.root), b"d/..", b"d/e/../.."):
            for name in ("remove", "rmdir", "rename from", "posix from", "rename to", "posix to"):
                self.assert_contained(name, path, OTHERS[name](self.client, path))
        self.assertEqual(b"mine", (self.root / "mine").read_bytes())

    def test_rights_differ(self) -> None:
        """Where only reading is allowed nothing changes, whatever links lead there."""
        (self.root / "w").mkdir()
        (self.root / "w/back").symlink_to("../d/e")
        (self.root / "w/mine").write_bytes(b"own")
        root = os.fsencode(self.root)
        client = self.connect(write=[str(self.root / "w")])
        changing = {**FOLLOWING, **OTHERS}
        for name in (
            "read",
            "stat",
            "opendir",
            "realpath",
            "statvfs",
            "expand",
            "lstat",
            "readlink",
        ):
            del changing[name]
        for path in (b"d/e/secret", b"w/back/secret", b"w/../mine", root + b"/w/back/../e/secret"):
            for name, request in changing.items():
                self.assert_contained(name, path, request(client, path))
            self.assertEqual(wire.ATTRS, client.on(wire.STAT, path).kind, path)
        self.assert_ok(client.on(wire.RENAME, b"w/mine", string(b"w/other")))
        self.assertEqual(b"mine", (self.root / "d/e/secret").read_bytes())

    def test_denied(self) -> None:
        """What a deny list names is not reached, nor moved away from under its name."""
        client = self.connect(deny_read=[str(self.root / "d/e")])
        for path in (b"d/e/secret", b"d/./e/../e/secret", b"out/../root/d/e/secret"):
            for name in ("read", "stat", "lstat", "opendir", "realpath", "statvfs", "link from"):
                request = {**FOLLOWING, **OTHERS}[name]
                self.assert_contained(name, path, request(client, path))
        self.assert_contained("move", b"d", OTHERS["rename from"](client, b"d"))
        self.assert_contained("move", b"d", OTHERS["posix from"](client, b"d"))
        self.assertEqual(b"mine", (self.root / "d/e/secret").read_bytes())

    def test_hard_link(self) -> None:
        """A hard link inside of a root is that root's file; none can be made to one outside."""
        os.link(self.outside / "secret", self.root / "hard")
        handle = self.client.handle(b"hard")
        self.assertEqual(SECRET, self.client.ask(wire.READ, handle, u64(0), u32(99)).value)
        path = os.fsencode(self.outside / "secret")
        self.assert_contained("link", path, OTHERS["link from"](self.client, path))

    def test_swapped(self) -> None:
        """A folder that becomes a link out between any two steps leads nowhere outside."""
        before = self.snapshot()
        swapped = 0
        for name, request in {**FOLLOWING, **OTHERS}.items():
            for folder in ("d", "d/e"):
                for turn in range(4):
                    swapped += self._swap_at(name, request, folder, turn)
                    self.assertEqual(before, self.snapshot(), (name, folder, turn))
        self.assertGreaterEqual(swapped, 3 * 2 * len({**FOLLOWING, **OTHERS}))

    def _swap_at(self, name: str, request: Request, folder: str, turn: int) -> bool:
        place, aside = self.root / folder, self.root / "aside"
        steps: list[bytes] = []

        def step(component: bytes) -> None:
            steps.append(component)
            if len(steps) == turn + 1:
                place.rename(aside)
                place.symlink_to(self.outside / folder)

        client = self.connect(step=step)
        answer = request(client, b"d/e/secret")
        if answer.kind == wire.HANDLE and name == "read":
            handle = string(answer.value)
            read = client.ask(wire.READ, handle, u64(0), u32(99))
            self.assertNotEqual(SECRET, read.value)
        client.end()
        swapped = aside.exists()
        self._restore(place, aside)
        return swapped

    def _restore(self, place: Path, aside: Path) -> None:
        if aside.exists():
            place.unlink()
            aside.rename(place)
        for path in (self.root / "stolen", self.root / "d/e/secret"):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.exists() or path.is_symlink():
                path.unlink()
        for path in (self.root / "d/e/secret", self.root / "mine"):
            path.write_bytes(b"mine")
