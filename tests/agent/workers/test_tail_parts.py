"""What tail's worker is made of: rate, lines, patterns, time stamps, places in files."""

from __future__ import annotations

import calendar
import os
import random
import time

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.workers.tail.cutting import MAX_LINE_BYTES, Line, LineCutter
from rshell_agent.workers.tail.pattern import LINE_SECONDS, MAX_PATTERN, BadPattern, Pattern
from rshell_agent.workers.tail.rate import BURST_SECONDS, Rate
from rshell_agent.workers.tail.rotated import _is_kin
from rshell_agent.workers.tail.seeking import (
    BLOCK,
    lines_backwards,
    since_offset,
    start_of_last,
    start_of_line,
)
from rshell_agent.workers.tail.stamps import stamp_of


class RateTests(SynchronousTestCase):
    def test_burst_then_steady(self) -> None:
        """A quiet log may burst; beyond that so many lines a second pass."""
        rate = Rate(100, 0.0)
        burst = int(100 * BURST_SECONDS)
        self.assertEqual(burst, rate.grant(10_000))
        passed = 0
        for tick in range(1, 101):
            rate.advance(tick / 10)
            passed += rate.grant(1000)
        self.assertAlmostEqual(1000, passed, delta=100)

    def test_dropping_has_long_strides(self) -> None:
        """Once lines are dropped, a second's worth gathers before the next passes."""
        rate = Rate(100, 0.0)
        rate.grant(10_000)
        rate.advance(0.5)
        self.assertTrue(rate.closed)
        self.assertEqual(0, rate.grant(1))
        rate.advance(1.0)
        self.assertEqual(100, rate.grant(1000))

    def test_blocked_time_is_forgiven(self) -> None:
        """What came while nobody read passes, however long that was."""
        rate = Rate(100, 0.0)
        rate.blocked(3600.0)
        rate.advance(3600.0)
        self.assertGreaterEqual(rate.grant(360_000), 360_000)

    def test_what_gathered_is_not_kept(self) -> None:
        """Once everything was read, only a burst is left."""
        rate = Rate(100, 0.0)
        rate.blocked(3600.0)
        rate.advance(3600.0)
        rate.caught_up()
        self.assertEqual(int(100 * BURST_SECONDS), rate.grant(360_000))

    def test_no_limit(self) -> None:
        """0 is no limit."""
        self.assertEqual(10**9, Rate(0, 0.0).grant(10**9))
        self.assertFalse(Rate(0, 0.0).closed)


class CutterTests(SynchronousTestCase):
    def test_any_pieces(self) -> None:
        """However the bytes come, the same lines with the same places come out."""
        data = b"one\n\ntwo\r\n\0\xff\n" + b"x" * 1000 + b"\nrest"
        whole = LineCutter().feed(data, 7)
        for seed in range(20):
            chance = random.Random(seed)
            cutter, at, lines = LineCutter(), 0, []
            while at < len(data):
                size = chance.randint(1, 40)
                lines += cutter.feed(data[at : at + size], 7 + at)
                at += size
            self.assertEqual(whole, lines)
            self.assertEqual(Line(b"rest", 7 + len(data), 0, True), cutter.flush(7 + len(data)))
        self.assertEqual(b"two\r", whole[2].text)
        self.assertEqual(7 + 4, whole[0].end)

    def test_long_line(self) -> None:
        """A line is kept up to the limit; the rest of it is counted."""
        cutter = LineCutter()
        at = 0
        for _ in range(100):
            self.assertEqual([], cutter.feed(b"y" * 10_000, at))
            at += 10_000
        (line,) = cutter.feed(b"\n", at)
        self.assertEqual(MAX_LINE_BYTES, len(line.text))
        self.assertEqual(1_000_000 - MAX_LINE_BYTES, line.cut)
        (other,) = cutter.feed(b"z" * 70_000 + b"\n", at + 1)
        self.assertEqual(70_000 - MAX_LINE_BYTES, other.cut)

    def test_part_and_more(self) -> None:
        """An unfinished line is given as a part, and its end as more of it."""
        cutter = LineCutter()
        cutter.feed(b"begin", 0)
        self.assertEqual(Line(b"begin", 5, 0, True, False), cutter.flush(5))
        self.assertIsNone(cutter.flush(5))
        self.assertTrue(cutter.continues)
        self.assertEqual([Line(b" end", 10, 0, False, True)], cutter.feed(b" end\n", 5))
        self.assertFalse(cutter.continues)

    def test_skip_counts(self) -> None:
        """What is skipped is counted as exactly as what is looked at."""
        data = b"a\nb\n\nlast"
        cutter = LineCutter()
        cutter.feed(b"begun", 0)
        self.assertEqual(3, cutter.skip(data))
        self.assertEqual([b"last one"], [line.text for line in cutter.feed(b" one\n", 20)])


class PatternTests(SynchronousTestCase):
    def test_search(self) -> None:
        """A pattern is searched for in characters; case and sense can be turned."""
        self.assertTrue(Pattern("f.r").wants("für".encode()))
        self.assertFalse(Pattern("^b").wants(b"ab"))
        self.assertTrue(Pattern("ERROR", ignore_case=True).wants(b"an error"))
        self.assertTrue(Pattern("x", invert=True).wants(b"abc"))
        self.assertTrue(Pattern("b").wants(b"\xff\0b"))

    def test_bad(self) -> None:
        """What is no pattern is said to be none."""
        for text in ("(", "*", "a{2,1}", "[z-a]", "x" * (MAX_PATTERN + 1)):
            with self.assertRaises(BadPattern):
                Pattern(text)

    def test_catastrophic(self) -> None:
        """A pattern that would take for ever is ended soon, and says so."""
        for text in ("(a+)+$", "(a|aa)+$", r"(\w+\s?)+:"):
            began = time.process_time()
            with self.assertRaises(BadPattern) as caught:
                Pattern(text).wants(b"a" * 5000 + b"!")
            self.assertIn("nested", str(caught.exception))
            self.assertLess(time.process_time() - began, LINE_SECONDS + 2)


class StampTests(SynchronousTestCase):
    NOW = calendar.timegm((2026, 1, 2, 12, 0, 0))

    def test_known(self) -> None:
        """The usual forms are read."""
        moment = calendar.timegm((2025, 12, 31, 23, 59, 58))
        for text in (
            b"2025-12-31T23:59:58Z x",
            b"2025-12-31 23:59:58.000 +0000 x",
            b"[2026-01-01T01:59:58+02:00] x",
            b"2025/12/31 22:59:58,000 -0100 x",
            b'10.0.0.1 - - [31/Dec/2025:23:59:58 +0000] "GET /"',
            b'{"ts":"2025-12-31T23:59:58Z"}',
            b"%d.000 x" % moment,
        ):
            self.assertEqual(moment, stamp_of(text, self.NOW), text)

    def test_local_without_zone(self) -> None:
        """Without a zone it is local time; without a year it is the last one that fits."""
        moment = time.mktime((2025, 12, 31, 23, 59, 58, 0, 0, -1))
        self.assertEqual(moment, stamp_of(b"Dec 31 23:59:58 host app: x", self.NOW))
        self.assertEqual(moment, stamp_of(b"2025-12-31 23:59:58 x", self.NOW))
        early = time.mktime((2026, 1, 2, 1, 2, 3, 0, 0, -1))
        self.assertEqual(early, stamp_of(b"<13>Jan  2 01:02:03 x", self.NOW))

    def test_none(self) -> None:
        """What is no time stamp is none."""
        for text in (
            b"",
            b"x" * 500,
            b"2025-13-31T23:59:58Z",
            b"Foo 31 23:59:58",
            b"123",
            b"\0\xff",
        ):
            self.assertIsNone(stamp_of(text, self.NOW), text)


class SeekingTests(SynchronousTestCase):
    def opened(self, data: bytes) -> int:
        descriptor = os.memfd_create("seeking")
        self.addCleanup(os.close, descriptor)
        os.write(descriptor, data)
        return descriptor

    def test_last_lines(self) -> None:
        """The last lines begin where reading all of them would say."""
        chance = random.Random(5)
        samples = [b"", b"\n", b"a", b"a\n", b"\n\n\n", b"a\nb", b"x" * 200_000 + b"\ny\n"]
        for _ in range(20):
            sizes = (chance.choice((0, 1, 50, BLOCK - 1, BLOCK)) for _ in range(8))
            samples.append(
                b"".join(b"l" * size + b"\n" for size in sizes) + b"tail" * chance.randint(0, 1)
            )
        for data in samples:
            descriptor = self.opened(data)
            lines = data.splitlines(keepends=True)
            for count in (0, 1, 2, 3, 5, 100):
                start = (
                    len(data) - sum(map(len, lines[max(0, len(lines) - count) :]))
                    if count
                    else len(data)
                )
                self.assertEqual(start, start_of_last(descriptor, len(data), count), count)
                every = start_of_last(descriptor, len(data), count, lambda _: True)
                self.assertEqual(start, every if lines else len(data), (count, data[:50]))

    def test_backwards(self) -> None:
        """Lines come backwards, with their places."""
        data = b"first\n" + b"m" * (BLOCK + 5) + b"\n\nlast"
        found = list(lines_backwards(self.opened(data), len(data), 10))
        self.assertEqual([b"last", b"", b"m" * 10, b"first"], [line for _, line in found])
        for offset, line in found:
            self.assertTrue(data[offset:].startswith(line))

    def test_matching_lines(self) -> None:
        """With a pattern, only lines that match are counted."""
        data = b"".join(b"%d %s\n" % (n, b"hit" if n % 100 == 0 else b"no") for n in range(10_000))
        start = start_of_last(self.opened(data), len(data), 3, lambda line: b"hit" in line)
        self.assertTrue(data[start:].startswith(b"9700 hit\n"))

    def test_from_a_line(self) -> None:
        """A line is found by its number; beyond the last there is the end."""
        data = b"".join(b"%d\n" % n for n in range(1, 50_000))
        descriptor = self.opened(data)
        for number in (1, 2, 12_345, 49_999):
            start = start_of_line(descriptor, len(data), number)
            self.assertTrue(data[start:].startswith(b"%d\n" % number))
        self.assertEqual(len(data), start_of_line(descriptor, len(data), 60_000))

    def test_since(self) -> None:
        """The first line that is new enough is found; lines without a stamp belong to the last."""
        lines = [b"header\n"]
        for minute in range(60):
            lines += [b"2026-01-01T10:%02d:00Z event\n" % minute, b"  continued\n"]
        data = b"".join(lines)
        descriptor = self.opened(data)
        base = calendar.timegm((2026, 1, 1, 10, 0, 0))
        start = since_offset(descriptor, len(data), base + 30 * 60, base)
        assert start is not None
        self.assertTrue(data[start:].startswith(b"2026-01-01T10:30:00Z"))
        self.assertEqual(len(data), since_offset(descriptor, len(data), base + 9999, base))
        self.assertEqual(7, since_offset(descriptor, len(data), base - 9999, base))
        self.assertIsNone(since_offset(self.opened(b"x\n" * 900_000), 1_800_000, base, base))


class KinTests(SynchronousTestCase):
    def test_kin(self) -> None:
        """What rotation makes of a name is told from other logs."""
        for other in (
            b"app.log.1",
            b"app.log-20260101",
            b"app-20260101.log",
            b"app.1.log",
            b"app.log.old",
        ):
            self.assertTrue(_is_kin(other, b"app.log"), other)
        for other in (
            b"app.logger",
            b"app.log.audit",
            b"app-debug.log",
            b"other.log.1",
            b"app.txt.1",
        ):
            self.assertFalse(_is_kin(other, b"app.log"), other)
