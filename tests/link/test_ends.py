"""StreamEnd: offsets, credit, events and resuming (sections 6 to 8 of docs/protocol.md)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import (
    BULK_WINDOW,
    DEFAULT_WINDOW,
    EVENTS_UNACKNOWLEDGED,
    MAX_PAYLOAD,
)
from rshell.link.core.ends import StreamEnd
from rshell.link.core.errors import LocalProtocolError
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Positions, decode_event
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from tests.link.pairs import ConnectionPair, converse


def connected(window: int = 1000) -> StreamEnd:
    """Return an end whose peer lets it send without bound."""
    end = StreamEnd(window)
    end.positions()
    end.resume(Positions(0, 10**9, 0))
    return end


def frames(end: StreamEnd, credit: int = 10**9) -> list[OutData | OutEvent]:
    """Pull frames until there is none."""
    found = []
    while (item := end.next_frame(MAX_PAYLOAD, credit)) is not None:
        found.append(item)
        credit -= len(item.data) if isinstance(item, OutData) else 0
    return found


def controls(end: StreamEnd) -> list[OutEvent | OutLimit]:
    """Pull urgent events and LIMITs until there is none."""
    found = []
    while (item := end.next_control()) is not None:
        found.append(item)
    return found


class SendingTests(SynchronousTestCase):
    """What goes out."""

    def test_credit_and_room(self) -> None:
        """Bytes go as far as credit and room allow, without waiting for a full frame (F5)."""
        end = connected()
        end.write(b"abcdef")
        self.assertEqual(end.next_frame(100, 4), OutData(b"abcd", False, False))
        self.assertIsNone(end.next_frame(100, 0))
        self.assertEqual(end.next_frame(1, 9), OutData(b"e", False, False))
        self.assertEqual((end.unsent, end.retained, end.written), (1, 6, 6))

    def test_small_writes_are_joined(self) -> None:
        """Writes share a frame, but not across stdout and stderr."""
        end = connected()
        for data, stderr in [(b"a", False), (b"b", False), (b"c", True), (b"", True), (b"d", True)]:
            end.write(data, stderr=stderr)
        self.assertEqual(frames(end), [OutData(b"ab", False, False), OutData(b"cd", True, False)])

    def test_eof(self) -> None:
        """EOF goes with the last byte, or alone, once; no byte may follow (F6)."""
        end = connected()
        end.write(b"a")
        end.write_eof()
        end.write_eof()
        self.assertEqual(frames(end), [OutData(b"a", False, True)])
        self.assertRaises(LocalProtocolError, end.write, b"b")
        end = connected()
        end.write(b"a")
        self.assertEqual(frames(end), [OutData(b"a", False, False)])
        end.write_eof()
        self.assertEqual(frames(end, credit=0), [OutData(b"", False, True)])

    def test_ordered_event(self) -> None:
        """An ordered event goes exactly behind the bytes written before it (V2)."""
        end = connected()
        end.write(b"before")
        end.send_event("progress", {"done": 1})
        end.write(b"after")
        first, event, last = frames(end)
        assert isinstance(event, OutEvent)
        self.assertEqual(
            (first, last), (OutData(b"before", False, False), OutData(b"after", False, False))
        )
        self.assertEqual(decode_event(event.payload).at, 6)

    def test_urgent_event(self) -> None:
        """An urgent event goes ahead of unsent bytes and numbers follow the wire (V1, V3)."""
        end = connected()
        end.send_event("progress", {})
        end.send_event("signal", {"signal": "INT"}, urgent=True)
        (urgent,) = controls(end)
        (ordered,) = frames(end)
        assert isinstance(urgent, OutEvent)
        assert isinstance(ordered, OutEvent)
        self.assertEqual((urgent.seq, ordered.seq), (1, 2))
        self.assertEqual(decode_event(urgent.payload).at, 0)

    def test_newest_window(self) -> None:
        """Of window sizes that wait only the newest is kept, other events stay."""
        end = connected()
        for rows in range(5):
            end.send_event("window", {"rows": rows}, urgent=True)
            end.send_event("signal", {"signal": str(rows)}, urgent=True)
        bodies = [decode_event(e.payload).body for e in controls(end) if isinstance(e, OutEvent)]
        self.assertEqual([b["rows"] for b in bodies if "rows" in b], [4])
        self.assertEqual(len(bodies), 6)

    def test_unacknowledged_events(self) -> None:
        """At most 64 wait for acknowledgement; an ordered one holds back what follows (V4)."""
        end = connected()
        for turn in range(EVENTS_UNACKNOWLEDGED + 1):
            end.send_event("progress", {"done": turn})
        end.write(b"behind")
        self.assertEqual(len(frames(end)), EVENTS_UNACKNOWLEDGED)
        end.send_event("cancel", {}, urgent=True)
        self.assertEqual(controls(end), [])
        end.acknowledged(0, 2)
        self.assertEqual(len(controls(end)), 1)
        self.assertEqual([type(item) for item in frames(end)], [OutEvent, OutData])

    def test_outcome_is_last(self) -> None:
        """After the outcome nothing may be sent (E2)."""
        end = connected()
        end.write(b"x")
        end.send_event("outcome", {"status": "ok"})
        self.assertRaises(LocalProtocolError, end.write, b"y")
        self.assertRaises(LocalProtocolError, end.send_event, "progress", {})
        data, outcome = frames(end)[:2]
        self.assertEqual(data, OutData(b"x", False, True))
        assert isinstance(outcome, OutEvent)
        self.assertTrue(outcome.outcome)
        self.assertFalse(end.drained)
        end.acknowledged(1, 1)
        self.assertTrue(end.drained)

    def test_too_large_an_event(self) -> None:
        """An event that fits into no frame is refused when it is made, and leaves no trace."""
        end = connected()
        big = {"note": "x" * MAX_PAYLOAD}
        self.assertRaises(LocalProtocolError, end.send_event, "outcome", big)
        end.send_event("outcome", {"status": "ok"})

    @given(st.lists(st.integers(1, 50), max_size=20), st.lists(st.integers(0, 60), max_size=40))
    def test_retained(self, writes: list[int], acks: list[int]) -> None:
        """What is kept is exactly what was written and not consumed (F4)."""
        end = connected()
        for size in writes:
            end.write(bytes(size))
            frames(end)
        consumed = 0
        for ack in acks:
            consumed = min(sum(writes), max(consumed, ack * 3))
            end.acknowledged(ack * 3 if ack * 3 <= sum(writes) else consumed, 0)
            self.assertEqual(end.retained, sum(writes) - consumed)


class ReceivingTests(SynchronousTestCase):
    """Credit: F3."""

    def limit(self, end: StreamEnd) -> OutLimit | None:
        item = end.next_control()
        assert item is None or isinstance(item, OutLimit)
        return item

    def test_no_credit_for_arrival(self) -> None:
        """Bytes that merely arrived give nothing."""
        end = connected(1000)
        end.received(1000)
        self.assertIsNone(self.limit(end))
        self.assertEqual(end.unconsumed, 1000)

    def test_half_a_window(self) -> None:
        """Half a window of consumption is announced at once, a byte less is not."""
        end = connected(1000)
        end.received(1000)
        end.consumed(499)
        self.assertIsNone(self.limit(end))
        end.consumed(1)
        self.assertEqual(self.limit(end), OutLimit(500, 1500, 0))
        self.assertIsNone(self.limit(end))

    def test_at_most_64_kib_wait(self) -> None:
        """Of the usual window 64 KiB are enough to be announced, of a larger one it takes 192."""
        for window, enough in ((DEFAULT_WINDOW, 65_536), (BULK_WINDOW, 12 * MAX_PAYLOAD)):
            end = connected(window)
            end.received(200_000)
            end.consumed(enough - 1)
            self.assertIsNone(self.limit(end))
            end.consumed(1)
            self.assertEqual(self.limit(end), OutLimit(enough, enough + window, 0))

    def test_announce(self) -> None:
        """Any consumption is told when the owner's second is over, and only once."""
        end = connected(1000)
        end.announce()
        self.assertIsNone(self.limit(end))
        end.received(10)
        end.consumed(10)
        self.assertTrue(end.unannounced)
        end.announce()
        self.assertEqual(self.limit(end), OutLimit(10, 1010, 0))
        self.assertFalse(end.unannounced)
        end.announce()
        self.assertIsNone(self.limit(end))

    def test_events_are_acknowledged_at_once(self) -> None:
        """A seen event is announced without waiting, with what was consumed by then."""
        end = connected(1000)
        end.received(3)
        end.consumed(2)
        end.event_seen(4)
        end.event_seen(3)
        self.assertEqual(self.limit(end), OutLimit(2, 1002, 4))
        self.assertIsNone(self.limit(end))

    def test_consuming_too_much(self) -> None:
        """Consuming what did not arrive is our own error."""
        self.assertRaises(LocalProtocolError, connected().consumed, 1)

    def test_shrinking_budget(self) -> None:
        """When the budget shrinks a limit that was given is never taken back (F2)."""
        budget = CreditBudget(10_000)
        end = StreamEnd(10_000, budget)
        self.assertEqual(end.positions().limit, 10_000)
        for _ in range(4):
            budget.join()
        end.received(3000)
        end.consumed(3000)
        self.assertEqual(self.limit(end), OutLimit(3000, 10_000, 0))
        end.received(7000)
        end.consumed(7000)
        self.assertEqual(self.limit(end), OutLimit(10_000, 12_500, 0))

    def test_wake(self) -> None:
        """The link is woken by everything that gives it work, and not when it is gone."""
        calls: list[int] = []
        end = connected()
        end.attach(lambda: calls.append(1))
        end.received(1)
        self.assertEqual(len(calls), 1)
        end.write(b"x")
        end.write_eof()
        end.send_event("cancel", {}, urgent=True)
        end.consumed(1)
        end.announce()
        end.event_seen(1)
        self.assertEqual(len(calls), 7)
        end.detach()
        end.event_seen(2)
        self.assertEqual(len(calls), 7)


class ConversationTests(SynchronousTestCase):
    """Ends on a link."""

    def test_reader_that_stops(self) -> None:
        """An application that does not read stops the sender after one window."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair, window=10_000)
        caller.consuming = False
        answerer.end.write(bytes(1_000_000))
        pair.run()
        self.assertEqual(len(caller.got), 10_000)
        self.assertEqual(answerer.end.retained - answerer.end.unsent, 10_000)
        caller.consume(5000)
        pair.run()
        self.assertEqual(len(caller.got), 15_000)

    def test_few_limits(self) -> None:
        """LIMITs are few: two for each window, not one for each frame (F3)."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair, window=100_000)
        pair.dialler.wire.clear()
        for _ in range(1000):
            answerer.end.write(bytes(1000))
            pair.run()
        self.assertEqual(len(caller.got), 1_000_000)
        # A LIMIT frame has 32 bytes.
        self.assertLessEqual(len(pair.dialler.wire) // 32, 20)
