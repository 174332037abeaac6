"""Turns of the reactor: frames of a read leave together (Q4), no link lets others wait (Q5)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import FrameType
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import Open, Sessions, encode
from rshell.link.protocol import LinkProtocol
from rshell.link.turn import READ_SECONDS, ReadBudget, Turn
from tests.link.fakes import Line, application


class Noting:
    """Something that flushes."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.flushed = 0
        self.then = then

    def flush(self) -> None:
        self.flushed += 1
        self.then()


class TurnTests(SynchronousTestCase):
    """`Turn` by itself."""

    def test_outside(self) -> None:
        """Outside a read nobody waits."""
        self.assertFalse(Turn().postpone(Noting()))

    def test_once(self) -> None:
        """However often a link asks, it writes once, when the outermost read is over."""
        turn, link = Turn(), Noting()
        turn.begin(0.0)
        turn.begin(0.0)
        self.assertTrue(all([turn.postpone(link), turn.postpone(link)]))
        turn.end()
        self.assertEqual(link.flushed, 0)
        turn.end()
        self.assertEqual(link.flushed, 1)
        self.assertFalse(turn.postpone(link))

    def test_read_while_flushing(self) -> None:
        """A flush that begins another read loses nobody."""
        turn, last = Turn(), Noting()

        def read() -> None:
            turn.begin(0.0)
            self.assertTrue(turn.postpone(last))
            turn.end()

        turn.begin(0.0)
        turn.postpone(Noting(read))
        turn.end()
        self.assertEqual(last.flushed, 1)

    def test_budget(self) -> None:
        """What a link used adds up, and is forgiven by the time in which it does nothing."""
        budget = ReadBudget()
        budget.begin(10.0)
        self.assertFalse(budget.spent(10.0 + READ_SECONDS / 2))
        budget.end(10.0 + READ_SECONDS * 0.75)
        budget.begin(10.0 + READ_SECONDS * 0.75)
        self.assertTrue(budget.spent(10.0 + READ_SECONDS))
        budget.end(10.0 + READ_SECONDS)
        budget.begin(10.0 + READ_SECONDS * 2)
        self.assertFalse(budget.spent(10.0 + READ_SECONDS * 2.9))
        budget.end(10.0 + READ_SECONDS * 3)
        budget.begin(10.0 + READ_SECONDS * 3, fresh=True)
        self.assertFalse(budget.spent(10.0 + READ_SECONDS * 3.9))


class CoalescingTests(SynchronousTestCase):
    """Frames of one read, handed over to another link."""

    def test_one_record(self) -> None:
        """Twenty small writes caused by one read leave in one record of the other link."""
        one, other = Line(), Line()
        caller, answerer = one.channel()
        away, _ = other.channel()
        # Both lines in one process: they share the turn.
        one.wheel.turn = other.wheel.turn
        application(answerer).on_data = away.write
        for number in range(20):
            caller.write(b"%02d" % number)
            if number == 0:
                one.wire(one.dialler).room = 1  # the rest waits behind a full transport
                one.dialler.pauseProducing()
        one.wire(one.dialler).resume(None)
        other.wire(other.dialler).take()
        one.carry(one.dialler)
        self.assertEqual(len(other.wire(other.dialler).records), 1)


class FairReadingTests(SynchronousTestCase):
    """A link with much to dispatch stops after its share and goes on in the next turn."""

    def busy(self, count: int = 200) -> tuple[Line, list[int], bytes]:
        """Return a line whose gateway takes a millisecond for each OPEN, and ``count`` of them."""
        line = Line()
        asked: list[int] = []

        def ask(link: LinkProtocol, number: int, request: Open) -> None:
            line.clock.rightNow += 0.001
            asked.append(number)

        line.gateway_owner.on_request = ask
        payload = encode(Open(handler="exec", session=bytes(16)))
        frames = [encode_frame(FrameType.OPEN, 1 + 2 * n, payload) for n in range(count)]
        return line, asked, b"".join(frames)

    def turn(self, clock: Clock) -> None:
        clock.advance(0)

    def test_yields(self) -> None:
        """It reads no more meanwhile, keeps the order, and reads again when all is done."""
        line, asked, data = self.busy()
        wire = line.wire(line.gateway)
        line.gateway.dataReceived(data)
        self.assertTrue(0 < len(asked) < 50, len(asked))
        self.assertFalse(wire.reading)
        before = len(asked)
        line.gateway.dataReceived(encode_frame(FrameType.SESSIONS, 0, encode(Sessions())))
        self.assertEqual(len(asked), before, "what comes later waits its turn")
        self.turn(line.clock)  # the fake clock takes a chain of turns at once
        self.assertTrue(wire.reading)
        self.assertEqual(asked, [1 + 2 * n for n in range(200)])
        self.assertEqual(line.gateway_owner.names()[-1], "sessions")

    def test_bytes_count_as_life(self) -> None:
        """What waits here counts as heard: the link is not silent."""
        line, _, data = self.busy()
        line.advance(50, carry=False)
        line.gateway.dataReceived(data)
        self.assertAlmostEqual(line.gateway.last_received, 50)

    def test_lost_meanwhile(self) -> None:
        """What a peer said before it went is dispatched before the link is reported lost."""
        line, asked, data = self.busy()
        line.gateway.dataReceived(data)
        line.wire(line.gateway).lost()
        self.assertEqual(len(asked), 200)
        self.assertEqual(line.gateway_owner.names()[-1], "lost")
        self.turn(line.clock)
        self.assertTrue(all(call.getTime() > 1 for call in line.clock.getDelayedCalls()))

    def test_aborted_meanwhile(self) -> None:
        """After an abort nothing of what waits is dispatched."""
        line, asked, data = self.busy()
        line.gateway.dataReceived(data)
        before = len(asked)
        line.gateway.abort("enough")
        for _ in range(5):
            self.turn(line.clock)
        self.assertEqual(len(asked), before)
        self.assertEqual(line.gateway_owner.said[-1], ("lost", "enough"))

    def test_quick_frames(self) -> None:
        """As long as time does not pass, everything of a read is dispatched in it."""
        line, asked, data = self.busy()
        line.gateway_owner.on_request = lambda link, number, request: asked.append(number)
        line.gateway.dataReceived(data)
        self.assertEqual(len(asked), 200)
        self.assertTrue(line.wire(line.gateway).reading)
