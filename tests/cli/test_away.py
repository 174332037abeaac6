"""The line about a link that is away, and how long things are said to have lasted."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.away import AwayNotice, Overlay, PlainLines, StatusLine
from rshell.cli.fanout import Fanout, Target
from rshell.cli.running import Interrupts, Surroundings
from rshell.cli.times import span
from rshell.client import Away


class AwayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[bytes] = []

    def notice(self, place: Overlay | StatusLine | PlainLines) -> AwayNotice:
        return AwayNotice(self.clock, place, self.written.append, "~. quits")

    def away(self) -> Away:
        now = self.clock.seconds()
        return Away(since_seconds=now, until_seconds=now + 60, reason="cut")

    def test_short_break(self) -> None:
        """A break of a second is not worth a word, nor a timer left behind."""
        notice = self.notice(StatusLine())
        notice.changed("pump-1", self.away())
        self.clock.advance(1)
        notice.changed("pump-1", None)
        self.clock.advance(10)
        self.assertEqual(self.written, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_counts_up_and_goes(self) -> None:
        """The line counts the seconds, says how to quit, and is taken back."""
        notice = self.notice(StatusLine())
        backs: list[bool] = []
        notice.back = lambda: backs.append(True)
        notice.changed("pump-1", self.away())
        self.clock.pump([1.0] * 12)
        self.assertIn(b"pump-1: link lost 12 s, retrying, ~. quits", self.written[-1])
        notice.changed("pump-1", None)
        self.assertEqual(self.written[-1], b"\r\x1b[K")
        self.assertEqual(backs, [True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_several(self) -> None:
        """Several devices share one line, which stays until the last is back."""
        notice = self.notice(StatusLine())
        notice.changed("a", self.away())
        notice.changed("b", self.away())
        self.clock.advance(2)
        self.assertIn(b"2 devices: link lost 2 s", self.written[-1])
        notice.changed("a", None)
        self.clock.advance(1)
        self.assertIn(b"b: link lost 3 s", self.written[-1])
        notice.changed("b", None)
        self.assertEqual(self.written[-1], b"\r\x1b[K")

    def test_file(self) -> None:
        """A log file gets one line when it breaks and one when it is back."""
        notice = self.notice(PlainLines())
        notice.changed("a", self.away())
        self.clock.pump([1.0] * 20)
        notice.changed("a", None)
        self.assertEqual(
            self.written,
            [
                b"rshell: a: link lost 5 s, retrying, ~. quits\n",
                *[b""] * 15,
                b"rshell: the link was away for 20 s\n",
            ],
        )

    def test_overlay(self) -> None:
        """Over a program's screen the cursor is put back, and the text fits the row."""
        notice = self.notice(Overlay(lambda: 20))
        notice.changed("pump-1", self.away())
        self.clock.advance(2)
        self.assertTrue(self.written[-1].startswith(b"\x1b7\x1b[1;1H"))
        self.assertTrue(self.written[-1].endswith(b"pump-1: link lost 2 \x1b[0m\x1b8"))

    def test_hostile_name(self) -> None:
        """A name cannot act on the terminal."""
        notice = self.notice(StatusLine())
        notice.changed("pump\x1b[2J", self.away())
        self.clock.advance(2)
        self.assertNotIn(b"\x1b[2J", self.written[-1])


class SpanTests(SynchronousTestCase):
    def test_spans(self) -> None:
        """A duration shows its two largest units."""
        for seconds, text in [
            (0, "0 s"),
            (-1, "0 s"),
            (0.42, "0.4 s"),
            (2, "2 s"),
            (59.6, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3 * 3600 + 125, "3 h 2 min"),
            (90_000, "1 d 1 h"),
        ]:
            self.assertEqual(span(seconds), text, seconds)


class Screen:
    """Both outputs, never full."""

    full = failed = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes, stderr: bool) -> None:
        self.written += data


class AwaySession:
    """A session that was opened while there was no link."""

    device = "pump-1"
    away = Away(since_seconds=0.0, until_seconds=60.0, reason="cut")

    def __init__(self) -> None:
        self.outcome: Deferred[Any] = Deferred()
        self.link_changed: Any = None

    def write_eof(self) -> None:
        """No input."""


class FanoutTests(SynchronousTestCase):
    def test_opened_while_away(self) -> None:
        """A session that begins while the link is away shows the line too."""
        clock, screen = Clock(), Screen()

        def leave(status: Any) -> None:
            raise AssertionError("nobody leaves")

        surroundings = Surroundings(clock, Interrupts(clock, leave), leave)
        session, outputs, presenter = AwaySession(), screen, object()
        open_session: Any = lambda device, receiver: session  # noqa: E731  # one of any type
        present: Any = lambda device: presenter  # noqa: E731  # likewise
        shown: Any = outputs
        fanout = Fanout(surroundings, open_session, present, shown)
        running = Deferred.fromCoroutine(fanout.run([Target("pump-1")]))
        clock.advance(6)
        self.assertIn(b"pump-1: link lost 6 s", screen.written)
        self.assertNoResult(running)
