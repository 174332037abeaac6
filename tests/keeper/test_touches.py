"""What workers tell of the files they touched: batches, limits, and being told twice (K54, K55)."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants as c
from rshell_agent.keeper.constants import Times
from rshell_agent.keeper.loop import Loop
from rshell_agent.keeper.touches import Teller, TouchBook
from rshell_agent.keeper.wire import WireError


class TouchesCase(SynchronousTestCase):
    """Real pipes, because descriptors are what it reads; the clock is the test's."""

    def setUp(self) -> None:
        self.now = 100.0
        self.faults: list[str] = []
        self.loop = Loop(self.faults.append, lambda: self.now)
        self.addCleanup(self.loop.close)
        self.book = TouchBook(self.loop, Times())
        self.told = 0
        self.book.ready = self._ready

    def _ready(self) -> None:
        self.told += 1

    def tearDown(self) -> None:
        self.assertEqual([], self.faults)

    def teller(self, key: bytes = b"k" * 16) -> tuple[Teller, int]:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.set_blocking(theirs, False)
        teller = Teller(self.book, key, ours)
        self.addCleanup(teller.close)
        return teller, theirs

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and do all that can be done then."""
        for step in (0.0, seconds):
            self.now += step
            while self.loop.turn(0):
                pass

    def say(self, fd: int, *names: str, op: str = "put") -> None:
        for name in names:
            os.write(fd, json.dumps({"op": op, "path": name}).encode() + b"\n")

    def batches(self) -> list[Any]:
        return self.book.unnoted()

    def paths(self) -> list[str]:
        return [entry["path"] for batch in self.batches() for entry in batch["files"]]

    def note(self, *batches: Any) -> None:
        self.book.noted({"batches": [[b["session"], b["n"]] for b in batches]})


class BatchTests(TouchesCase):
    def test_gathered(self) -> None:
        """Names wait a moment for others, and come in one batch, in their order."""
        _, fd = self.teller()
        self.say(fd, "/a", "/b")
        self.turn()
        self.assertEqual([], self.batches())
        self.turn(0.5)
        self.assertEqual(["/a", "/b"], self.paths())
        self.assertEqual(1, self.told)

    def test_full_batch(self) -> None:
        """A batch holds a hundred names, and no more bytes than a frame does."""
        _, fd = self.teller()
        self.say(fd, *(f"/{n}" for n in range(150)))
        self.turn()
        self.assertEqual([100], [len(batch["files"]) for batch in self.batches()])
        self.turn(1)
        self.assertEqual([1, 2], [batch["n"] for batch in self.batches()])
        _, other = self.teller(b"o" * 16)
        for _ in range(3):
            self.say(other, "/" + "x" * 7_000)
            self.turn()
        self.turn(1)
        long = [batch for batch in self.batches() if batch["files"][0]["path"].startswith("/x")]
        self.assertEqual([1, 1, 1], [len(batch["files"]) for batch in long])

    def test_noted(self) -> None:
        """A batch is told until it is noted; what is not there, or nonsense, changes nothing."""
        _, fd = self.teller()
        self.say(fd, "/a")
        self.turn(1)
        (batch,) = self.batches()
        self.note({"session": "eA==", "n": 1}, {"session": batch["session"], "n": 2})
        self.assertEqual([batch], self.batches())
        for bad in ("x", [1], [["a"]], [["a", 1, 2]]):
            self.assertRaises(WireError, self.book.noted, {"batches": bad})
        self.note(batch)
        self.note(batch)
        self.assertEqual(([], 0), (self.batches(), len(self.book)))

    def test_end(self) -> None:
        """What a worker wrote last is taken when it has ended, also without a line's end."""
        teller, fd = self.teller()
        self.say(fd, *(f"/{n}" for n in range(120)))
        os.write(fd, b'{"op": "put", "pa')
        os.close(fd)
        teller.close()
        self.assertEqual([f"/{n}" for n in range(120)], self.paths())
        teller.close()

    def test_garbage(self) -> None:
        """What is no line of a worker's is left out, and nothing else."""
        _, fd = self.teller()
        os.write(fd, b"\xff\n[]\n{}\n\n" + b"[" * 5000 + b'\n{"op":1}\n{"op":"a\\u001b"}\n')
        self.say(fd, "/a")
        os.write(fd, b"y" * 30_000)
        self.turn(1)
        self.assertEqual(["/a"], self.paths())


class LimitTests(TouchesCase):
    def fill(self, fd: int, count: int) -> None:
        """Say names of 100 bytes; the pipe is read in between."""
        for number in range(count):
            try:
                self.say(fd, f"/{number:099}")
            except BlockingIOError:
                self.turn()
                self.say(fd, f"/{number:099}")

    def test_many_names(self) -> None:
        """Beyond so many names a session's operations are counted, and that is told."""
        teller, fd = self.teller()
        told = 0
        for start in range(0, c.TOUCHED_NAMES + 50, 50):
            self.say(fd, *(f"/{n}" for n in range(start, start + 50)))
            self.turn(0.6)
            told += len(self.paths())
            self.note(*self.batches())
        self.assertEqual(c.TOUCHED_NAMES, told)
        self.say(fd, "/z", op="remove")
        self.turn(1)
        teller.close()
        (batch,) = self.batches()
        self.assertEqual(([], {"put": 50, "remove": 1}), (batch["files"], batch["left_out"]))

    def test_counted_at_the_end(self) -> None:
        """The counts come with the last batch."""
        self.patch(c, "TOUCHED_NAMES", 2)
        teller, fd = self.teller()
        self.say(fd, "/a", "/b", "/c", "/d")
        self.say(fd, "/e", op="remove")
        for number in range(40):
            self.say(fd, "/x", op=f"odd{number}")
        self.turn(1)
        teller.close()
        self.assertEqual(["/a", "/b"], self.paths())
        left = {}
        for batch in self.batches():
            left.update(batch.get("left_out", {}))
        self.assertEqual((2, 1), (left["put"], left["remove"]))
        self.assertEqual(43, sum(left.values()))
        self.assertLessEqual(len(left), c.TOUCHED_OPS + 1)

    def test_waits_then_counts(self) -> None:
        """A worker waits while nobody notes its names, but not for long: then they are counted."""
        teller, fd = self.teller()
        with self.assertRaises(BlockingIOError):
            while True:
                self.fill(fd, 100)
                self.turn(0.01)
        self.turn(1)
        kept = len(self.paths_all())
        self.turn(8)
        self.assertEqual(kept, len(self.paths_all()))
        self.turn(2)
        self.fill(fd, 100)
        self.turn(1)
        self.assertEqual(kept, len(self.paths_all()))
        while self.batches():
            self.note(*self.batches())
        self.say(fd, "/again")
        self.turn(1)
        (batch,) = self.batches()
        self.assertEqual(["/again"], [entry["path"] for entry in batch["files"]])
        self.assertGreater(batch["left_out"]["put"], 100)
        teller.close()

    def paths_all(self) -> list[Any]:
        return [entry for batch, _, _ in self.book._batches.values() for entry in batch["files"]]

    def test_another_session(self) -> None:
        """A session that is full stalls no other."""
        _, fd = self.teller()
        with self.assertRaises(BlockingIOError):
            while True:
                self.fill(fd, 100)
                self.turn(0.01)
        _, other = self.teller(b"o" * 16)
        self.say(other, "/other")
        self.turn(1)
        self.assertIn("/other", [entry["path"] for entry in self.paths_all()])

    def test_given_up(self) -> None:
        """What nobody fetches for a day is given up: a missing number tells."""
        _, fd = self.teller()
        self.say(fd, "/a")
        self.turn(1)
        self.book.expire()
        self.assertEqual(1, len(self.book))
        self.turn(86_400)
        self.book.expire()
        self.assertEqual(0, len(self.book))
        self.say(fd, "/b")
        self.turn(1)
        self.assertEqual([2], [batch["n"] for batch in self.batches()])
