"""Who sends next: rule Q1."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import (
    QUANTUM,
    SPARSE_QUANTUM,
    WEIGHT_BULK,
    WEIGHT_INTERACTIVE,
    WEIGHT_NORMAL,
    FrameType,
)
from rshell.link.core.errors import ErrorCode
from rshell.link.core.scheduler import Flow, Scheduler
from tests.link.pairs import ConnectionPair, Talker, frames_of, request


def greedy(scheduler: Scheduler, rounds: int, size: int) -> Counter[int]:
    """Let flows that always have a frame of ``size`` bytes send; count bytes by key."""
    sent: Counter[int] = Counter()
    for _ in range(rounds):
        flow = scheduler.current()
        assert flow is not None
        scheduler.sent(flow, size)
        sent[flow.key] += size
    return sent


class SchedulerTests(SynchronousTestCase):
    """The queue by itself."""

    @given(
        st.lists(st.sampled_from([1, 4, 8]), min_size=2, max_size=6),
        st.integers(64, 16_384),
    )
    def test_shares(self, weights: list[int], size: int) -> None:
        """Busy streams share by weight within 10 %, whatever their frames' size."""
        scheduler = Scheduler()
        for key, weight in enumerate(weights):
            scheduler.wake(Flow(key, weight))
        turns = 40 * QUANTUM * sum(weights) // size
        sent = greedy(scheduler, turns, size)
        total = sum(sent.values())
        for key, weight in enumerate(weights):
            share = sent[key] / total * sum(weights) / weight
            self.assertTrue(0.9 <= share <= 1.1, (weights, size, sent))

    def test_sparse_stream_goes_first(self) -> None:
        """A stream that was idle is next, however many busy ones wait."""
        scheduler = Scheduler()
        for key in range(50):
            scheduler.wake(Flow(key))
        greedy(scheduler, 500, 16_384)
        sparse = Flow(99)
        scheduler.wake(sparse)
        self.assertIs(scheduler.current(), sparse)

    def test_sparse_streams_wait_one_quantum_each(self) -> None:
        """Among streams that were idle, each takes one small quantum before the next."""
        scheduler = Scheduler()
        for key in range(10):
            scheduler.wake(Flow(key))
        sent = greedy(scheduler, 10 * SPARSE_QUANTUM // 256, 256)
        self.assertEqual(set(sent.values()), {SPARSE_QUANTUM})

    def test_greedy_stream_demotes_itself(self) -> None:
        """A stream that uses its small quantum up is a busy one from then on."""
        scheduler = Scheduler()
        hog, quiet = Flow(1), Flow(2)
        scheduler.wake(hog)
        greedy(scheduler, 3, SPARSE_QUANTUM)
        scheduler.wake(quiet)
        self.assertIs(scheduler.current(), quiet)
        scheduler.sent(quiet, 10)
        scheduler.idle(quiet)
        self.assertIs(scheduler.current(), hog)

    def test_idle_and_back(self) -> None:
        """A stream that ran empty goes first again with the rest of its quantum, then waits."""
        scheduler = Scheduler()
        hog, trickle = Flow(1), Flow(2)
        scheduler.wake(hog)
        greedy(scheduler, 3, SPARSE_QUANTUM)
        ahead = 0
        for _ in range(10):
            scheduler.wake(trickle)
            if scheduler.current() is trickle:
                scheduler.sent(trickle, 500)
                scheduler.idle(trickle)
                ahead += 500
        self.assertEqual(ahead, 2500)
        self.assertIs(scheduler.current(), hog)
        greedy(scheduler, 10, 16_384)
        self.assertIs(scheduler.current(), trickle)

    def test_wake_while_asked(self) -> None:
        """A stream that wakes while it is asked, as others do, leaves the queues sound."""
        scheduler = Scheduler()
        hog, trickle, other = Flow(1), Flow(2), Flow(3)
        scheduler.wake(hog)
        greedy(scheduler, 3, SPARSE_QUANTUM)
        scheduler.wake(trickle)
        self.assertIs(scheduler.current(), trickle)
        scheduler.idle(trickle)
        scheduler.remove(hog)
        self.assertIs(scheduler.current(), trickle)
        scheduler.wake(other)
        scheduler.wake(trickle)
        scheduler.idle(trickle)
        self.assertIs(scheduler.current(), other)
        self.assertEqual((list(scheduler._new), list(scheduler._old)), ([other], []))

    def test_busy_streams_do_not_starve(self) -> None:
        """Streams that become idle and wake over and over cannot shut a busy one out."""
        scheduler = Scheduler()
        hog = Flow(0, WEIGHT_BULK)
        others = [Flow(key, WEIGHT_INTERACTIVE) for key in range(1, 6)]
        scheduler.wake(hog)
        sent: Counter[int] = Counter()
        for _ in range(10_000):
            for flow in others:
                scheduler.wake(flow)
            flow_now = scheduler.current()
            assert flow_now is not None
            scheduler.sent(flow_now, 1000)
            sent[flow_now.key] += 1000
            if flow_now is not hog:
                scheduler.idle(flow_now)
        self.assertGreater(sent[0], sum(sent.values()) / 50)

    def test_remove(self) -> None:
        """A stream that is over is not asked, and removing it again does nothing."""
        scheduler = Scheduler()
        one, two, three = Flow(1), Flow(2), Flow(3)
        for flow in (one, two, three):
            scheduler.wake(flow)
        scheduler.sent(one, SPARSE_QUANTUM)
        self.assertIs(scheduler.current(), two)
        for flow in (one, two, two):
            scheduler.remove(flow)
        self.assertIs(scheduler.current(), three)
        scheduler.remove(three)
        self.assertIsNone(scheduler.current())
        self.assertFalse(scheduler)
        scheduler.wake(one)
        self.assertIs(scheduler.current(), one)

    @given(st.lists(st.tuples(st.sampled_from("wsir"), st.integers(0, 4)), max_size=100))
    def test_any_order(self, calls: list[tuple[str, int]]) -> None:
        """Whatever is called when, a flow is in each queue at most once, and if it says so."""
        scheduler = Scheduler()
        flows = [Flow(key) for key in range(5)]
        for what, key in calls:
            current = scheduler.current()
            if what == "w":
                scheduler.wake(flows[key])
            elif what == "r":
                scheduler.remove(flows[key])
            elif current is not None and what == "s":
                scheduler.sent(current, 1000 * key)
            elif current is not None:
                scheduler.idle(current)
            for queue, name in ((scheduler._new, "new"), (scheduler._old, "old")):
                queued = sorted(flow.key for flow in queue)
                self.assertEqual(queued, [f.key for f in flows if getattr(f, name)])


class LinkSchedulingTests(SynchronousTestCase):
    """The queue inside a link: one record at a time."""

    def busy(self, *weights: int) -> tuple[ConnectionPair, list[Talker]]:
        """Return a pair whose gateway has a bulk of output on streams of these weights."""
        pair = ConnectionPair()
        answerers: list[Talker] = []
        callers: list[Talker] = []
        for weight in weights:
            answerer = Talker(10_000_000)
            caller = Talker(10_000_000)
            answerers.append(answerer)
            callers.append(caller)
            pair.gateway.on_request = lambda e, a=answerer: a.answer(pair.gateway, e.stream, e.open)
            number = caller.call(pair.dialler)
            pair.run()
            pair.gateway.core.streams[number].flow.weight = weight
        for answerer in answerers:
            answerer.end.write(bytes(9_000_000))
        pair.step(pair.gateway)
        return pair, callers

    def test_weights(self) -> None:
        """Interactive, normal and bulk transfers share a link 8 to 4 to 1, within 10 %."""
        weights = (WEIGHT_INTERACTIVE, WEIGHT_NORMAL, WEIGHT_BULK)
        pair, callers = self.busy(*weights)
        for _ in range(500):
            pair.step(pair.gateway)
        total = sum(len(caller.got) for caller in callers)
        for caller, weight in zip(callers, weights, strict=True):
            share = len(caller.got) / total * sum(weights) / weight
            self.assertTrue(0.9 <= share <= 1.1, share)

    def test_keystroke(self) -> None:
        """A keystroke's echo is at the head of the next record behind three bulk transfers."""
        pair, _ = self.busy(8, 8, 8)
        talker = Talker()
        core = pair.gateway.core
        pair.gateway.on_request = lambda e: talker.answer(pair.gateway, e.stream, e.open)
        Talker().call(pair.dialler)
        pair.step(pair.dialler)
        for _ in range(20):
            pair.step(pair.gateway)
        talker.end.write(b"x")
        first = frames_of(core.next_record()[0])[0]
        self.assertEqual((first.type, first.payload), (FrameType.DATA, b"x"))

    def test_control_goes_first(self) -> None:
        """PONG, RESET and LIMIT stand before bytes in the next record, under any load."""
        pair, callers = self.busy(8, 8)
        core = pair.gateway.core
        pair.dialler.core.send_ping(b"12345678")
        callers[0].end.send_event("signal", {"signal": "INT"}, urgent=True)
        pair.step(pair.dialler)
        core.reset(3, ErrorCode.CANCELLED)
        kinds = [frame.type for frame in frames_of(core.next_record()[0])]
        wanted = [FrameType.PONG, FrameType.RESET, FrameType.LIMIT, FrameType.DATA]
        self.assertEqual(kinds[:4], wanted)

    def test_records(self) -> None:
        """Records are full and never longer than one TLS record."""
        pair, _ = self.busy(8, 1)
        sizes = [pair.step(pair.gateway) for _ in range(50)]
        self.assertLessEqual(max(sizes), 16_384)
        self.assertGreater(min(sizes), 16_384 - 64)

    def test_many_opens_fill_records(self) -> None:
        """A burst of control frames is cut into records too."""
        pair = ConnectionPair()
        for _ in range(500):
            pair.dialler.core.open_stream(request(), Talker())
        sizes = []
        while pair.dialler.core.has_output:
            sizes.append(pair.step(pair.dialler))
        self.assertLessEqual(max(sizes), 16_384)
        self.assertEqual(len(pair.gateway.core.streams), 500)
