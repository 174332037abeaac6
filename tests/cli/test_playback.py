"""Playing a recording: when what is shown, on a clock of our own."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.access.asciicast import CastEvent
from rshell.cli.playback import RESET, Playback

EVENTS = [
    CastEvent(1.0, "o", "a"),
    CastEvent(2.0, "i", "never shown"),
    CastEvent(2.0, "o", "b"),
    CastEvent(2.0, "r", "10x10"),
    CastEvent(62.0, "o", "c"),
]


class PlaybackTests(SynchronousTestCase):
    def playback(self, **options: Any) -> Playback:
        values: dict[str, Any] = {"speed": 1.0, "idle_limit": None, "start": 0.0, "now": 100.0}
        return Playback(EVENTS, **(values | options))

    def test_its_own_pace(self) -> None:
        """Each piece at its time; the wait until the next is told."""
        playback = self.playback()
        self.assertEqual((playback.begin(), playback.wait()), (b"", 1.0))
        self.assertEqual(playback.advance(101.0), b"a")
        self.assertEqual((playback.advance(102.5), playback.wait()), (b"b", 59.5))
        self.assertFalse(playback.over)
        self.assertEqual(playback.advance(162.0), b"c")
        self.assertTrue(playback.over)
        self.assertIsNone(playback.wait())

    def test_speed_and_pauses(self) -> None:
        """Faster, and with pauses shortened."""
        playback = self.playback(speed=4.0, idle_limit=2.0)
        self.assertEqual(playback.length, 4.0)
        playback.begin()
        self.assertEqual(playback.advance(101.0), b"abc")

    def test_begins_later(self) -> None:
        """What came before is shown at once, by the recording's own seconds."""
        playback = self.playback(start=30.0, idle_limit=1.0)
        self.assertEqual(playback.begin(), b"ab")
        self.assertEqual(playback.wait(), 1.0)

    def test_pause(self) -> None:
        """While it is paused no time passes."""
        playback = self.playback()
        playback.begin()
        playback.toggle()
        self.assertEqual((playback.advance(500.0), playback.wait()), (b"", None))
        playback.toggle()
        self.assertEqual(playback.advance(501.0), b"a")

    def test_seek(self) -> None:
        """Forward shows what lies between; back clears and shows it anew; ends are ends."""
        playback = self.playback()
        playback.begin()
        self.assertEqual(playback.seek(10), b"ab")
        self.assertEqual(playback.seek(-9), RESET + b"a")
        self.assertEqual(playback.seek(-100), RESET)
        self.assertEqual(playback.seek(1000), b"abc")
        self.assertTrue(playback.over)

    def test_questions(self) -> None:
        """What a terminal would answer is not asked."""
        playback = Playback(
            [CastEvent(0, "o", "x\x1b[c\x1b[6ny")], speed=1, idle_limit=None, start=0, now=0
        )
        self.assertEqual(playback.begin(), b"xy")
