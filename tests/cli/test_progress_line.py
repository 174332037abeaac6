"""The line that tells how far handlers are, and gives way to their output."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.progress_line import ProgressLine, progress_text


class TextTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Percent, count, rate, time left and note, as far as they are known."""
        for body, rate, text in (
            ({"done": 450, "total": 1000}, None, "45 % (450 of 1,000)"),
            ({"done": 450, "total": 1000}, 12.0, "45 % (450 of 1,000), 12/s, 46 s left"),
            ({"done": 7, "note": "copying"}, None, "7  copying"),
            ({"done": 7}, 4500.5, "7, 4,500/s"),
            ({"note": "so"}, None, "so"),
            ({}, None, "working"),
            ({"done": 5, "total": 0}, None, "5"),
            ({"done": 2000, "total": 1000}, 1.0, "100 % (2,000 of 1,000), 1/s"),
        ):
            self.assertEqual(text, progress_text(body, rate))

    def test_hostile(self) -> None:
        """Whatever a device sends is one safe line."""
        for value in ("\x1b[2J", None, [], {}, True, 1e308, float("nan"), -1, 2**80, -0.5):
            for key in ("done", "total", "note"):
                text = progress_text({"done": 1, "total": 3, key: value}, 0.000001)
                self.assertTrue(text.isprintable(), text)
                self.assertLess(len(text), 400)


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[tuple[bytes, bool]] = []
        self.line = ProgressLine(
            self.clock.seconds, lambda *what: self.written.append(what), True, lambda: 20
        )

    def event(self, **body: Any) -> None:
        self.line.event("pump", "progress", body)

    def test_gives_way(self) -> None:
        """Output takes the line's place, and at the end it is taken back."""
        self.event(done=1)
        self.line.write(b"out\n", False)
        self.line.write(b"more\n", False)
        self.clock.advance(1)
        self.event(done=2, total=4)
        self.line.ended()
        self.assertEqual(
            [
                (b"\r\x1b[Kpump: 1", True),
                (b"\r\x1b[K", True),
                (b"out\n", False),
                (b"more\n", False),
                (b"\r\x1b[Kpump: 50 % (2 of 4)"[: 4 + 19], True),
                (b"\r\x1b[K", True),
                (b"", True),
            ],
            self.written,
        )

    def test_not_too_often(self) -> None:
        """No more often than an eye can see, and nothing of other events."""
        for _ in range(100):
            self.event(done=1)
            self.clock.advance(0.01)
        self.line.event("pump", "found", {"x": 1})
        self.assertLess(len(self.written), 12)
