"""Sessions without an operator, and who comes back, on a clock moved by the test (K24, K32)."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants
from tests.keeper.client import BIG, Stream
from tests.keeper.inprocess import InProcess, PlayedProcess, View

TERMINAL = {"rows": 24, "columns": 80, "term": "xterm"}
LINE = 8  # bytes of a numbered line
HOUR = 3600.0


def lines(count: int, first: int = 0) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(first, first + count))


class DetachedCase(SynchronousTestCase):
    policy = ""

    def setUp(self) -> None:
        self.keeper = InProcess(self.policy)
        self.addCleanup(self.keeper.stop)
        self.session = os.urandom(16)

    def started(self, key: bytes | None = None, **fields: Any) -> tuple[View, PlayedProcess]:
        """A shell on a terminal, and its driver."""
        stream = View(self.keeper.connect())
        stream.open(key or self.session, **{"pty": TERMINAL, **fields})
        self.assertIsNone(stream.refused)
        return stream, self.keeper.processes[-1]

    def command(self) -> tuple[View, PlayedProcess]:
        stream = View(self.keeper.connect())
        stream.open(self.session, "x")
        return stream, self.keeper.processes[-1]

    def print(self, process: PlayedProcess, data: bytes) -> int:
        """Print as much as the program can, and return how much that is."""
        done = 0
        while done < len(data):
            count = process.write(data[done : done + 4096])
            self.keeper.settle()
            if not count and not process.write(data[done : done + 1]):
                break
            done += count or 1
        return done

    def state(self) -> Any:
        return self.keeper.described(self.session)["state"]


class RingTests(DetachedCase):
    def test_sixty_seconds(self) -> None:
        """For 60 s the program waits with a full ring and pipe; then it runs on (K32)."""
        stream, process = self.started()
        stream.close()
        text = lines(200_000)
        done = self.print(process, text)
        self.assertGreaterEqual(done, constants.WINDOW)
        self.keeper.advance(59.999)
        self.assertEqual(0, process.write(b"x"))
        self.keeper.advance(0.001)
        self.assertEqual(len(text) - done, self.print(process, text[done:]))

    def test_counted_from_the_last_going(self) -> None:
        """The 60 s are counted anew each time somebody goes (K32)."""
        stream, process = self.started()
        stream.close()
        self.keeper.advance(50.0)
        self.keeper.attach(self.session, 2, limit=0).close()
        self.keeper.advance(50.0)
        done = self.print(process, lines(100_000))
        self.assertLess(done, 800_000)
        self.keeper.advance(10.0)
        self.assertEqual(LINE, self.print(process, b"onwards\n"))

    def wrapped(self, total: int) -> tuple[bytes, PlayedProcess]:
        """A detached session that printed so many bytes into its ring."""
        stream, process = self.started()
        stream.close()
        self.keeper.advance(60.0)
        text = lines(total // LINE)
        self.assertEqual(len(text), self.print(process, text))
        return text, process

    def test_gap_is_exact(self) -> None:
        """However often the ring wrapped, gap and tail make up the whole, to the byte (K24)."""
        text, process = self.wrapped(40 * constants.WINDOW + 8 * 12_345)
        joined = self.keeper.attach(self.session, 2)
        self.assertEqual(len(text) - constants.WINDOW, joined.opened["gap"])
        self.assertEqual(constants.WINDOW, joined.opened["replay"])
        self.assertEqual(text[-constants.WINDOW :], joined.everything())
        self.assertEqual(len(text), joined.consumed)
        joined.tell(BIG)
        process.write(b"next")
        self.assertEqual(b"next", joined.everything()[constants.WINDOW :])

    def test_gap_from_what_was_consumed(self) -> None:
        """Who had consumed some, told or untold, hears of a gap from there on (R5)."""
        stream, process = self.started()
        text = lines(100_000)
        self.print(process, text[:80_000])
        stream.everything()
        stream.consumed = 30_000
        stream.tell()
        stream.close()
        self.keeper.advance(60.0)
        self.print(process, text[80_000:])
        joined = self.keeper.attach(self.session, 2, consumed=70_000)
        self.assertEqual(len(text) - constants.WINDOW - 70_000, joined.opened["gap"])
        self.assertEqual(text[-constants.WINDOW :], joined.everything())

    def test_attach_while_overwriting(self) -> None:
        """One who comes between two writes gets a ring that stands still from then on."""
        stream, process = self.started()
        stream.close()
        self.keeper.advance(60.0)
        text = lines(60_000)
        half = 37_777
        self.print(process, text[:half])
        printed, gaps = half, []
        while printed < len(text) - 5_001:
            joined = View(self.keeper.connect())
            printed += process.write(text[printed : printed + 5_001])  # not yet read
            resume = {"consumed": 0, "limit": BIG, "events": 0}
            joined.open(self.session, "-", attempt=printed, resume=resume)
            gaps.append(joined.opened.get("gap", 0))
            tail = joined.everything()
            self.assertLessEqual(len(tail), constants.WINDOW)
            self.assertEqual(text[gaps[-1] : gaps[-1] + len(tail)], tail)
            self.assertIn(printed - gaps[-1] - len(tail), (0, 5_001))
            joined.close()
            self.keeper.advance(60.0)
        self.assertEqual(sorted(gaps), gaps)
        self.assertGreater(gaps[-1], 100_000)

    def test_answer_lost(self) -> None:
        """If the answer that told of the gap is lost, the next one tells of all that is gone."""
        text, process = self.wrapped(2 * constants.WINDOW)
        first = self.keeper.attach(self.session, 2, limit=0)
        first.close()
        self.keeper.advance(60.0)
        more = lines(1000, 100_000)
        self.print(process, more)
        joined = self.keeper.attach(self.session, 3)
        self.assertEqual(constants.WINDOW + len(more), joined.opened["gap"])
        self.assertEqual((text + more)[-constants.WINDOW :], joined.everything())

    def test_end_while_overwriting(self) -> None:
        """A program that ends while nobody looks leaves its tail and its outcome."""
        text, process = self.wrapped(3 * constants.WINDOW)
        process.exit(4)
        self.keeper.settle()
        self.assertEqual("finished", self.state())
        joined = self.keeper.attach(self.session, 2)
        self.assertEqual(4, joined.finish()["exit_code"])
        self.assertEqual(text[-constants.WINDOW :], joined.stdout)

    def test_replay(self) -> None:
        """`replay` counts what was written before OPENED, for a join of any kind (K15)."""
        stream, process = self.started()
        self.assertNotIn("replay", stream.opened)
        self.print(process, b"0123456789")
        stream.everything()
        joined = self.keeper.attach(self.session, 2, consumed=4)
        self.assertEqual(6, joined.opened["replay"])
        self.print(process, b"abc")
        self.assertEqual(b"456789abc", joined.everything())
        joined.tell()
        again = self.keeper.attach(self.session, 3, consumed=13)
        self.assertNotIn("replay", again.opened)
        other = self.keeper.attach(self.session, 4)
        self.assertEqual((13, None), (other.opened["gap"], other.opened.get("replay")))


class LimitTests(DetachedCase):
    def ended(self, process: PlayedProcess) -> bool:
        return ("term",) in process.told

    def test_shell(self) -> None:
        """A shell nobody is attached to ends after 24 h, KILL 5 s after TERM (K31, K32)."""
        stream, process = self.started()
        stream.close()
        self.keeper.advance(24 * HOUR - 1)
        self.assertFalse(self.ended(process))
        self.keeper.advance(1)
        self.assertTrue(self.ended(process))
        self.assertNotIn(("kill",), process.told)
        self.keeper.advance(5.0)
        self.assertIn(("kill",), process.told)
        process.exit(1)
        self.keeper.settle()
        self.assertEqual("timeout", self.keeper.described(self.session)["outcome"]["status"])

    def test_somebody_in_between(self) -> None:
        """Whoever is attached stops the 24 h; they begin anew when he goes (K32)."""
        stream, process = self.started()
        stream.close()
        self.keeper.advance(23 * HOUR)
        joined = self.keeper.attach(self.session, 2)
        self.keeper.advance(30 * HOUR)
        joined.close()
        self.keeper.advance(24 * HOUR - 1)
        self.assertFalse(self.ended(process))
        self.keeper.advance(1)
        self.assertTrue(self.ended(process))

    def test_viewer_is_nobody(self) -> None:
        """Who only watches does not keep a session from its limit (R9)."""
        stream, process = self.started()
        viewer = self.keeper.watch(self.session)
        stream.close()
        self.keeper.advance(24 * HOUR)
        self.assertTrue(self.ended(process))
        self.assertFalse(viewer.closed())

    def test_command(self) -> None:
        """A command waits like a pipe for an hour, loses nothing, and is ended then (K32)."""
        stream, process = self.command()
        stream.close()
        done = self.print(process, lines(200_000))
        self.keeper.advance(HOUR - 1)
        self.assertEqual(0, process.write(b"x"))
        self.assertFalse(self.ended(process))
        joined = self.keeper.attach(self.session, 2, limit=BIG)
        self.assertNotIn("gap", joined.opened)
        while len(joined.stdout) < done:
            joined.everything()
            joined.tell(BIG)
        self.assertEqual(lines(200_000)[:done], joined.stdout)
        joined.close()
        self.keeper.advance(HOUR)
        self.assertTrue(self.ended(process))

    def test_policy_lowers(self) -> None:
        """Policy as it is when the operator goes may shorten the limits, never lengthen (K7)."""
        stream, process = self.started()
        self.keeper.policy("[policy]\nshell_limit_seconds = 100\n")
        stream.close()
        self.keeper.advance(99.0)
        self.assertFalse(self.ended(process))
        self.keeper.advance(1.0)
        self.assertTrue(self.ended(process))
        self.keeper.policy("[policy]\nshell_limit_seconds = 999999999\n")
        other = os.urandom(16)
        stream, process = self.started(other)
        stream.close()
        self.keeper.advance(24 * HOUR)
        self.assertTrue(self.ended(process))

    def test_eight(self) -> None:
        """Of more than eight alone for a minute, the one alone for longest is ended (K32)."""
        keys = [os.urandom(16) for _ in range(9)]
        for key in keys:
            self.started(key)[0].close()
            self.keeper.advance(1.0)
        self.keeper.advance(58.0)
        self.assertFalse(any(self.ended(process) for process in self.keeper.processes))
        self.keeper.advance(1.0)
        ended = [self.ended(process) for process in self.keeper.processes]
        self.assertEqual([True] + [False] * 8, ended)


class RepaintTests(DetachedCase):
    def sizes(self, process: PlayedProcess) -> list[tuple[int, int]]:
        return [(told[1], told[2]) for told in process.told if told[0] == "resize"]

    def test_other_terminal(self) -> None:
        """For one who begins at 0 the program sees a row less, then, later, its size (K24)."""
        _, process = self.started()
        self.keeper.attach(self.session, 2)
        self.assertEqual([(23, 80)], self.sizes(process))
        self.keeper.advance(0.099)
        self.assertEqual([(23, 80)], self.sizes(process))
        self.keeper.advance(0.001)
        self.assertEqual([(23, 80), (24, 80)], self.sizes(process))
        self.keeper.advance(10.0)
        self.assertEqual(2, len(self.sizes(process)))

    def test_gap(self) -> None:
        """After a gap it paints again, whoever comes."""
        stream, process = self.started()
        self.print(process, lines(100))
        stream.everything()
        stream.close()
        self.keeper.advance(60.0)
        self.print(process, lines(100_000))
        self.keeper.attach(self.session, 2, consumed=100 * LINE)
        self.keeper.advance(1.0)
        self.assertEqual([(23, 80), (24, 80)], self.sizes(process))

    def test_same_terminal(self) -> None:
        """Who comes back to where he was, or never was told of OPENED, sees no repainting."""
        _, process = self.started()
        self.print(process, b"abc")
        again = Stream(self.keeper.connect())
        again.open(self.session, attempt=2)
        self.keeper.attach(self.session, 3, consumed=2)
        self.keeper.advance(1.0)
        self.assertEqual([], self.sizes(process))

    def test_new_size_meanwhile(self) -> None:
        """A size that the new terminal tells at once is set last, and cannot undo the change."""
        _, process = self.started()
        joined = self.keeper.attach(self.session, 2)
        joined.event(1, "window", rows=24, columns=80)
        joined.event(2, "window", rows=50, columns=132)
        self.assertEqual([(23, 80)], self.sizes(process))
        self.keeper.advance(0.1)
        self.assertEqual([(23, 80), (50, 132)], self.sizes(process))
        joined.event(3, "window", rows=51, columns=132)
        self.assertEqual((51, 132), self.sizes(process)[-1])

    def test_gone_meanwhile(self) -> None:
        """The size is set back also when the terminal is gone again."""
        _, process = self.started()
        self.keeper.attach(self.session, 2).close()
        self.keeper.advance(0.1)
        self.assertEqual((24, 80), self.sizes(process)[-1])

    def test_one_row(self) -> None:
        """A terminal of one row grows by one for a moment."""
        _, process = self.started(pty={**TERMINAL, "rows": 1})
        self.keeper.attach(self.session, 2)
        self.keeper.advance(0.1)
        self.assertEqual([(2, 80), (1, 80)], self.sizes(process))

    def test_pipes(self) -> None:
        """Without a terminal there is nothing to paint."""
        _, process = self.command()
        self.keeper.attach(self.session, 2)
        self.keeper.advance(0.1)
        self.assertEqual([], self.sizes(process))

    def test_ended_meanwhile(self) -> None:
        """A program that ends between the two sizes is left alone."""
        _, process = self.started()
        self.keeper.attach(self.session, 2)
        process.exit(0)
        self.keeper.advance(0.1)
        self.assertEqual([(23, 80)], self.sizes(process))


class DescribedTests(DetachedCase):
    def test_entry(self) -> None:
        """The call `sessions` tells attempt, viewers and for how long nobody is there (K33)."""
        stream, _ = self.started()
        viewer = self.keeper.watch(self.session)
        entry = self.keeper.described(self.session)
        self.assertEqual(
            (1, 1, True, None),
            (entry["attempt"], entry["viewers"], entry["attached"], entry["detached_ms"]),
        )
        joined = self.keeper.attach(self.session, 7)
        joined.close()
        self.keeper.advance(2.5)
        entry = self.keeper.described(self.session)
        self.assertEqual(
            (7, 1, False, 2500),
            (entry["attempt"], entry["viewers"], entry["attached"], entry["detached_ms"]),
        )
        self.assertIsNone(stream.frame())
        self.assertFalse(viewer.closed())
