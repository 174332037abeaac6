"""Hostile paths in every operation (docs/files.md FT13, FT14)."""

from __future__ import annotations

import os
from typing import Any

from tests.agent.workers.files.driver import (
    TRANSFER,
    Answer,
    FilesCase,
    put_frames,
    request_frame,
)

#: Every operation that takes a path, with what else it needs.
READING: dict[str, dict[str, Any]] = {
    "stat": {},
    "walk": {"recursive": True},
    "statvfs": {},
    "get": {},
    "get_ranges": {"ranges": [], "size": 6, "mtime_ns": 0, "inode": 0},
    "digest": {},
    "signature": {"block": 512},
}
WRITING: dict[str, dict[str, Any]] = {
    "part": {"transfer": TRANSFER},
    "sweep": {},
    "mkdir": {"parents": True, "exist_ok": True},
    "symlink": {"target": b"x", "replace": True},
    "setmeta": {"mode": 0o777, "mtime_ns": 0, "follow": True},
    "remove": {"recursive": True, "missing_ok": True},
}


class HostileCase(FilesCase):
    """A root beside a secret that must neither be read nor changed."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.home / "root"
        self.root.mkdir()
        self.secret = self.home / "secret"
        self.secret.mkdir()
        (self.secret / "f").write_bytes(b"secret")
        (self.root / "ok").write_bytes(b"public")
        (self.root / "up").symlink_to("..")
        (self.root / "abs").symlink_to(self.secret)
        (self.root / "file").symlink_to("../secret/f")
        (self.root / "proc").symlink_to(f"/proc/{os.getpid()}/cwd")
        (self.root / "loop").symlink_to("loop")
        self.policy = {"read": [str(self.root)], "write": [str(self.root)]}
        self.before = self.snapshot()

    def snapshot(self) -> list[tuple[str, int, int, bytes]]:
        info = os.stat(self.secret)
        told = [("", info.st_mode, info.st_mtime_ns, b"")]
        for name in sorted(os.listdir(self.secret)):
            info = os.stat(self.secret / name)
            told.append((name, info.st_mode, info.st_mtime_ns, (self.secret / name).read_bytes()))
        return told

    def paths(self) -> dict[bytes, tuple[str, ...]]:
        """Paths, and the codes that may answer them."""
        root = os.fsencode(self.root)
        outside = ("policy",)
        return {
            os.fsencode(self.secret): outside,
            os.fsencode(self.secret / "f"): outside,
            root + b"/../secret/f": outside,
            root + b"/ok/../../secret/f": ("policy", "not-a-directory"),
            root + b"/up/secret/f": outside,
            root + b"/abs/f": outside,
            root + b"/file": outside,
            root + b"/abs": outside,
            root + b"/proc/x": outside,
            b"/proc/self/root" + os.fsencode(self.secret): outside,
            b"/proc/self/cwd/x": outside,
            b"/proc/self/fd/0": outside,
            b"/etc/shadow": outside,
            b"/": outside,
            b"~": outside,
            b"../" * 50 + b"etc/passwd": outside,
            root + b"/loop": ("loop",),
            root + b"/loop/x": ("loop",),
            root + b"/" + b"n" * 256: ("name-too-long",),
            root + b"/" + b"x/" * 3000: ("name-too-long",),
            root + b"/nul\0byte": ("bad-request",),
            b"\0": ("bad-request",),
            b"": ("bad-request",),
        }

    def refused(self, answer: Answer, codes: tuple[str, ...], about: object) -> None:
        self.assertIn(answer.code, codes, (about, answer.last))
        self.assertEqual(b"", answer.data)
        self.assertEqual(self.before, self.snapshot(), about)
        self.assertNotIn(b"secret\0", self.written)


class HostileTests(HostileCase):
    def test_reading(self) -> None:
        """No operation that reads gets out of the root, by whatever path."""
        for op, fields in READING.items():
            for path, codes in self.paths().items():
                self.refused(self.ask(op, path=path, **fields), codes, (op, path))

    def test_writing(self) -> None:
        """No operation that writes gets out of the root, by whatever path."""
        links = {b"file", b"abs", b"loop", b"up"}
        for op, fields in WRITING.items():
            for path, codes in self.paths().items():
                if op in ("remove", "symlink") and path.rpartition(b"/")[2] in links:
                    continue  # these act on the link itself, which is inside
                also = ("bad-request",) if op == "remove" else ()
                self.refused(self.ask(op, path=path, **fields), (*codes, *also), (op, path))

    def test_put(self) -> None:
        """No upload lands outside of the root, with or without making directories."""
        for path, codes in self.paths().items():
            for fields in ({}, {"mkdirs": True}):
                answer = self.serve(put_frames(1, path, b"evil", **fields))[1]
                self.refused(answer, (*codes, "is-a-directory"), path)
        self.assertFalse((self.root / f".rshell-{TRANSFER}.part").exists())

    def test_rename(self) -> None:
        """Nothing is renamed out of the root, or into it."""
        inside = os.fsencode(self.root / "ok")
        links = {b"file", b"abs", b"loop", b"up"}
        for path, codes in self.paths().items():
            if path.rpartition(b"/")[2] in links:
                continue
            for source, target in ((inside, path), (path, inside + b"2")):
                fields = {"from": source, "to": target, "replace": True}
                answer = self.serve(request_frame(1, "rename", fields))[1]
                self.refused(answer, codes, (source, target))
        self.assertEqual(b"public", (self.root / "ok").read_bytes())

    def test_glob(self) -> None:
        """No pattern finds what is outside of the root."""
        for pattern in (b"/etc/*", os.fsencode(self.secret) + b"/*", b"../*", b"/*", b"**"):
            self.assertEqual([], self.ask("glob", pattern=pattern).paths, pattern)
        found = self.ask("glob", pattern=os.fsencode(self.root) + b"/*/f").paths
        self.assertEqual([], found)

    def test_links_inside(self) -> None:
        """Acting on a link itself leaves alone what it leads to."""
        for name in ("file", "abs", "up"):
            path = os.fsencode(self.root / name)
            answer = self.ask("remove", path=path, recursive=True)
            self.assertEqual("", answer.code)
            self.assertEqual(self.before, self.snapshot())

    def test_read_only_root(self) -> None:
        """Where only reading is allowed, every change is refused by policy."""
        self.policy["write"] = []
        path = os.fsencode(self.root / "ok")
        for op, fields in WRITING.items():
            about = os.fsencode(self.root) if op == "sweep" else path
            self.assertEqual("policy", self.ask(op, path=about, **fields).code, op)
        self.assertEqual("policy", self.put(path, b"evil").code)
        self.assertEqual(b"public", (self.root / "ok").read_bytes())
        self.assertEqual(b"public", self.ask("get", path=path).data)

    def test_write_only_root(self) -> None:
        """Where only writing is allowed, nothing is read."""
        self.policy["read"] = []
        path = os.fsencode(self.root / "ok")
        for op, fields in READING.items():
            self.assertEqual("policy", self.ask(op, path=path, **fields).code, op)
        self.assertEqual("", self.put(path, b"new").code)

    def test_bad_base64(self) -> None:
        """A path that is no base64 is refused."""
        for bad in ("x", "a b", "\u00e9", 5, None, ["Lw=="], {"a": 1}, True):
            self.assertEqual("bad-request", self.ask("stat", path=bad).code, bad)


class RaceTests(HostileCase):
    """A local user swaps a directory for a link while the worker walks."""

    def test_swapped_while_listed(self) -> None:
        """A directory that becomes a link after it was listed is not entered."""
        for number in range(3):
            (self.root / f"d{number}").mkdir()
            (self.root / f"d{number}" / "inner").touch()
        # More than a page, so that the first is written before the last is entered.
        for number in range(600):
            (self.root / f"f{number}").touch()

        def swap(_written: bytearray) -> None:
            if not (self.root / "d2").is_symlink():
                os.rename(self.root / "d2", self.root / "moved")
                (self.root / "d2").symlink_to("../secret")

        self.sent = swap
        told = self.ask("walk", path=os.fsencode(self.root), recursive=True)
        self.assertTrue((self.root / "d2").is_symlink())
        self.assertNotIn(b"d2/f", told.paths)
        self.assertEqual(1, len(told.notes))

    def test_swapped_while_uploading(self) -> None:
        """An upload lands in the directory that it began in, whatever its name is by now."""
        (self.root / "d").mkdir()
        frames = put_frames(1, os.fsencode(self.root / "d" / "f"), b"new")
        cut = len(frames) - 40
        pieces = iter([frames[:cut], frames[cut:]])
        reads = 0

        def read() -> bytes:
            nonlocal reads
            reads += 1
            if reads == 2:
                os.rename(self.root / "d", self.root / "moved")
                (self.root / "d").symlink_to("../secret")
            return next(pieces, b"")

        self.assertEqual("", self.serve_from(read)[1].code)
        self.assertEqual(b"new", (self.root / "moved" / "f").read_bytes())
        self.assertEqual(self.before, self.snapshot())
