"""Small uploads that follow each other are committed together, and answered in order (FT26)."""

from __future__ import annotations

import os
import signal

from rshell_agent.workers.files.committing import MAX_UPLOADS
from tests.agent.workers.files.driver import (
    Child,
    FilesCase,
    part_names,
    put_frames,
    request_frame,
)


def uploads(count: int, first: int = 1) -> bytes:
    """Return uploads of small files, each a transfer of its own."""
    return b"".join(
        put_frames(n, b"f%d" % n, b"%d" % n, transfer=f"transfer{n}")
        for n in range(first, first + count)
    )


class GroupTests(FilesCase):
    def test_all_answered(self) -> None:
        """More uploads than a group holds are all done and answered in order."""
        count = 2 * MAX_UPLOADS + 3
        answers = self.serve(uploads(count))
        self.assertEqual(list(range(1, count + 1)), list(answers))
        self.assertEqual({""}, {answer.code for answer in answers.values()})
        self.assertEqual(sorted(f"f{n}" for n in range(1, count + 1)), self.names())
        self.assertEqual(b"7", (self.home / "f7").read_bytes())

    def test_order(self) -> None:
        """A request that fails or is no upload is answered behind the uploads before it."""
        frames = [
            uploads(2),
            put_frames(3, b"missing/f", b"x"),
            uploads(1, 4),
            request_frame(5, "stat", {"path": b"f4"}),
            request_frame(6, "nothing", {}),
            uploads(1, 7),
        ]
        answers = self.serve(b"".join(frames))
        self.assertEqual([1, 2, 3, 4, 5, 6, 7], list(answers))
        codes = [answer.code for answer in answers.values()]
        self.assertEqual(["", "", "not-found", "", "", "bad-request", ""], codes)

    def test_same_destination(self) -> None:
        """Two uploads of one file are done one after the other; the last one stays."""
        frames = put_frames(1, b"f", b"first", transfer="transfer1")
        frames += put_frames(2, b"f", b"second", transfer="transfer2", expect="any")
        frames += put_frames(3, b"f", b"third", transfer="transfer3", expect="absent")
        answers = self.serve(frames)
        self.assertEqual(["", "", "exists"], [answers[n].code for n in (1, 2, 3)])
        self.assertEqual(b"second", (self.home / "f").read_bytes())

    def test_one_fails(self) -> None:
        """One whose destination became a directory meanwhile fails alone, and leaves nothing."""

        pieces = iter([uploads(2), uploads(2, 3), b""])

        def read() -> bytes:
            piece = next(pieces)
            if part_names(self.names()):
                (self.home / "f2").mkdir(exist_ok=True)
            return piece

        self.ready = lambda: True
        answers = self.serve_from(read)
        codes = [answers[n].code for n in (1, 2, 3, 4)]
        self.assertEqual(["", "is-a-directory", "", ""], codes)
        self.assertEqual(["f1", "f2", "f3", "f4"], self.names())

    def test_not_answered_early(self) -> None:
        """Nothing is answered before it is in place; whoever pauses is answered at once."""
        pieces = iter([uploads(3), b""])
        seen = []

        def read() -> bytes:
            seen.append((len(self.names()), len(part_names(self.names()))))
            return next(pieces)

        self.serve_from(read)
        self.assertEqual([(0, 0), (3, 0)], seen, "committed before it waits for more")

    def test_large_ones_do_not_wait(self) -> None:
        """A small upload is not held back by a large one behind it."""
        large = put_frames(2, b"large", bytes(5 << 20), transfer="transfer2")
        pieces = iter([uploads(1) + large[:1000], large[1000:], b""])
        seen: list[list[str]] = []

        def read() -> bytes:
            seen.append(self.names())
            return next(pieces)

        self.ready = lambda: True
        self.serve_from(read)
        self.assertIn("f1", seen[1])

    def test_directories(self) -> None:
        """Files of many directories are committed together as well."""
        frames = b"".join(
            put_frames(n, b"d%d/f" % n, b"x", transfer="transfer0", mkdirs=True)
            for n in range(1, 20)
        )
        answers = self.serve(frames)
        self.assertEqual({""}, {answer.code for answer in answers.values()})
        self.assertEqual(19, len(list(self.home.glob("d*/f"))))

    def test_crash_within(self) -> None:
        """A crash between two renames leaves some files new, the others old with their parts."""
        for n in range(1, 6):
            (self.home / f"f{n}").write_bytes(b"old")
        child = Child(self.home, "put.rename:3")
        status, output, _ = child.finish(uploads(5))
        self.assertEqual((-signal.SIGKILL, b""), (status, output))
        contents = [(self.home / f"f{n}").read_bytes() for n in range(1, 6)]
        self.assertEqual([b"1", b"2", b"old", b"old", b"old"], contents)
        parts = part_names(self.names())
        self.assertEqual([f".rshell-transfer{n}.part" for n in (3, 4, 5)], sorted(parts))
        self.assertEqual(0, Child(self.home).finish(uploads(5))[0])
        self.assertEqual([f"f{n}" for n in range(1, 6)], self.names())
        self.assertEqual(b"5", (self.home / "f5").read_bytes())

    def test_grown(self) -> None:
        """A source that only grew while it was read is told apart from one that changed."""
        (self.home / "log").write_bytes(os.urandom(1 << 20))

        def grow(_written: bytearray) -> None:
            with open(self.home / "log", "ab") as file:
                file.write(b"more")

        self.sent = grow
        told = self.ask("get", path=b"log").last
        self.assertEqual((True, True, 1 << 20), (told["changed"], told["grew"], told["size"]))
