"""A worker that dies at any point of an upload leaves the old file or the new one (FT26, FT36)."""

from __future__ import annotations

import os
import signal
from typing import Any

from rshell_agent.workers.files.writing import SYNC_LEAST_BYTES
from tests.agent.workers.files.driver import (
    DATA,
    TRANSFER,
    Answer,
    Child,
    FilesCase,
    digest_of,
    end_frame,
    frame,
    part_names,
    put_frames,
    request_frame,
)
from tests.functional.processes import until

OLD = b"old" * 1000
NEW = bytes(range(256)) * 1000
PART = f".rshell-{TRANSFER}.part"
#: Where it dies, whether the new file is there then, and whether a part is left.
POINTS = (
    ("put.created", False, True),
    ("put.written", False, True),
    ("put.fsync", False, True),
    ("put.rename", False, True),
    ("put.renamed", True, False),
    ("put.dirsync", True, False),
)


class CrashCase(FilesCase):
    def setUp(self) -> None:
        super().setUp()
        (self.home / "f").write_bytes(OLD)

    def child(self, crash_at: str = "", **policy: Any) -> Child:
        child = Child(self.home, crash_at, **policy)
        self.addCleanup(child.kill)
        return child

    def crash(self, point: str, frames: bytes) -> None:
        status, _, errors = self.child(point).finish(frames)
        self.assertEqual((-signal.SIGKILL, b""), (status, errors))

    def again(self) -> Answer:
        """Do what a client does that starts anew: ask what is there, and go on with it."""
        child = self.child()
        child.send(request_frame(1, "part", {"path": b"f", "transfer": TRANSFER}))
        told = child.answer().last
        size = told["size"]
        resume = {}
        if size and told["digest"] == digest_of(NEW[:size]):
            resume = {"resume": {"from": size}}
        child.send(put_frames(2, b"f", NEW, **resume))
        answer = child.answer()
        self.assertEqual((0, b""), child.finish()[::2])
        return answer


class CrashTests(CrashCase):
    def test_every_point(self) -> None:
        """At each point the file is old or new; asked again, it is new and nothing is left."""
        for point, done, left in POINTS:
            (self.home / "f").write_bytes(OLD)
            self.crash(point, put_frames(1, b"f", NEW))
            self.assertEqual(NEW if done else OLD, (self.home / "f").read_bytes(), point)
            self.assertEqual([PART] if left else [], part_names(self.names()), point)
            answer = self.again()
            self.assertEqual("", answer.code, point)
            self.assertEqual(NEW, (self.home / "f").read_bytes(), point)
            self.assertEqual(["f"], self.names(), point)
            if left and point != "put.created":
                self.assertEqual(0, answer.last["written"], point)

    def test_synced_on_the_way(self) -> None:
        """What was synced in the middle of a large file is gone on with."""
        large = NEW * 140
        self.crash("put.synced", put_frames(1, b"f", large))
        self.assertEqual(OLD, (self.home / "f").read_bytes())
        size = os.stat(self.home / PART).st_size
        self.assertGreaterEqual(size, SYNC_LEAST_BYTES)
        self.assertEqual(large[:size], (self.home / PART).read_bytes())
        child = self.child()
        child.send(put_frames(1, b"f", large, resume={"from": size}))
        self.assertEqual(len(large) - size, child.answer().last["written"])
        self.assertEqual((0, b""), child.finish()[::2])
        self.assertEqual(large, (self.home / "f").read_bytes())

    def test_link(self) -> None:
        """A link that replaces a file is there, or the file is; what is left is swept one day."""
        wanted = request_frame(1, "symlink", {"path": b"f", "target": b"x", "replace": True})
        self.crash("link.rename", wanted)
        self.assertEqual(OLD, (self.home / "f").read_bytes())
        self.assertEqual(1, len(part_names(self.names())))

    def test_resumed_part(self) -> None:
        """It may die again while it goes on with a part."""
        (self.home / PART).write_bytes(NEW[:100_000] + b"more")
        self.crash("part.resume", put_frames(1, b"f", NEW, resume={"from": 100_000}))
        self.assertEqual(OLD, (self.home / "f").read_bytes())
        self.assertEqual(100_000, os.stat(self.home / PART).st_size)
        self.assertEqual(len(NEW) - 100_000, self.again().last["written"])
        self.assertEqual(NEW, (self.home / "f").read_bytes())

    def test_second_file(self) -> None:
        """A crash at the second upload leaves the first one done."""
        frames = put_frames(1, b"g", NEW) + put_frames(2, b"f", NEW)
        self.crash("put.rename:2", frames)
        self.assertEqual(NEW, (self.home / "g").read_bytes())
        self.assertEqual(OLD, (self.home / "f").read_bytes())

    def test_cut_anywhere(self) -> None:
        """An input that ends in the middle leaves the old file, status 2 and one line."""
        frames = put_frames(1, b"f", NEW)
        for size in (10, 500, 120_000, len(frames) - 1):
            status, _, errors = self.child().finish(frames[:size])
            self.assertEqual(2, status)
            self.assertEqual(1, errors.count(b"\n"), errors)
            self.assertEqual(OLD, (self.home / "f").read_bytes())
        self.assertEqual("", self.again().code)
        self.assertEqual(NEW, (self.home / "f").read_bytes())


class TakeoverTests(CrashCase):
    """Two workers and one transfer: the younger wins (FT31)."""

    def begun(self) -> Child:
        """Return a worker in the middle of the upload, which waits for more."""
        child = self.child()
        request = {"path": b"f", "size": len(NEW), "transfer": TRANSFER}
        # The answer to the request in front tells that the worker has come so far.
        child.send(request_frame(1, "hello", {}) + request_frame(2, "put", request))
        child.send(frame(DATA, 2, b"\0" + NEW[:100_000]))
        child.answer()
        self.wait_for_part(100_000)
        return child

    def wait_for_part(self, size: int) -> None:
        def there() -> bool:
            try:
                return os.stat(self.home / PART).st_size >= size
            except FileNotFoundError:
                return False

        until(there, "the part file grows")

    def finish_older(self, child: Child) -> None:
        child.send(frame(DATA, 2, b"\0" + NEW[100_000:]) + end_frame(2, NEW))
        self.assertEqual("changed", child.answer().code)
        self.assertEqual(0, child.finish()[0])

    def test_resumed_elsewhere(self) -> None:
        """A transfer that another worker still holds is copied, gone on with and committed."""
        older = self.begun()
        answer = self.again()
        self.assertEqual(len(NEW) - 100_000, answer.last["written"])
        self.assertEqual(NEW, (self.home / "f").read_bytes())
        self.finish_older(older)
        self.assertEqual(NEW, (self.home / "f").read_bytes())
        self.assertEqual(["f"], self.names())

    def test_begun_anew_elsewhere(self) -> None:
        """So is one that is begun anew; both write, and one file comes of it."""
        older, younger = self.begun(), self.child()
        other = b"other" * 50_000
        younger.send(
            request_frame(1, "put", {"path": b"f", "size": len(other), "transfer": TRANSFER})
        )
        younger.send(frame(DATA, 1, b"\0" + other[:125_000]))
        self.wait_for_part(125_000)
        self.finish_older(older)
        self.assertEqual(OLD, (self.home / "f").read_bytes())
        younger.send(frame(DATA, 1, b"\0" + other[125_000:]) + end_frame(1, other))
        self.assertEqual("", younger.answer().code)
        self.assertEqual(other, (self.home / "f").read_bytes())

    def test_dies_taking_over(self) -> None:
        """A worker that dies after it has copied leaves a part to go on with."""
        older = self.begun()
        self.crash("part.takeover", put_frames(1, b"f", NEW, resume={"from": 100_000}))
        self.finish_older(older)
        self.assertEqual(len(NEW) - 100_000, self.again().last["written"])
        self.assertEqual(NEW, (self.home / "f").read_bytes())

    def test_held_part_stays(self) -> None:
        """A part file that somebody holds is not swept, however old."""
        older = self.begun()
        os.utime(self.home / PART, (1, 1))
        self.assertEqual({"removed": 0}, self.ask("sweep", path=b"~").last)
        older.send(frame(DATA, 2, b"\0" + NEW[100_000:]) + end_frame(2, NEW))
        self.assertEqual("", older.answer().code)
