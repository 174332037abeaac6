"""TimerWheel on a fake clock."""

from __future__ import annotations

import functools
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.clock import TICK_SECONDS, TIMERS_A_TURN, TimerWheel, use_monotonic_clock


class TimerWheelTests(SynchronousTestCase):
    """One delayed call for all timers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.fired: list[Any] = []

    def test_stop_leaves_nothing(self) -> None:
        """A stopped wheel calls nobody and has nothing left in its clock."""
        self.wheel.call_later(1, lambda: self.fired.append(1))
        self.wheel.call_later(5, lambda: self.fired.append(5)).cancel()
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10)
        self.assertEqual(self.fired, [])
        self.wheel.call_later(1, lambda: self.fired.append(2))
        self.clock.advance(2)
        self.assertEqual(self.fired, [2])

    @given(
        st.floats(0, 10_000),
        st.lists(st.tuples(st.floats(0, 100), st.floats(0, 7)), max_size=30),
    )
    def test_never_early_and_soon(self, start: float, timers: list[tuple[float, float]]) -> None:
        """A timer fires at or after its time, and at most a tick later."""
        clock = Clock()
        clock.advance(start)
        wheel = TimerWheel(clock)
        fired: list[float] = []

        def late(due: float) -> None:
            fired.append(clock.seconds() - due)

        for delay, pause in timers:
            due = clock.seconds() + delay
            wheel.call_later(delay, lambda due=due: late(due))  # type: ignore[misc]  # early binding
            for _ in range(int(pause / 0.05)):
                clock.advance(0.05)
        for _ in range(2100):
            clock.advance(0.05)
        self.assertEqual(len(fired), len(timers))
        for lateness in fired:
            self.assertGreaterEqual(lateness, -1e-6)
            self.assertLessEqual(lateness, TICK_SECONDS + 0.05 + 1e-6)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_order(self) -> None:
        """Timers fire in the order of their ticks."""
        for delay in (3, 1, 2):
            self.wheel.call_later(delay, lambda delay=delay: self.fired.append(delay))  # type: ignore[misc]  # early binding
        self.clock.pump([0.25] * 20)
        self.assertEqual(self.fired, [1, 2, 3])

    def test_not_before_its_time(self) -> None:
        """Just before it nothing happens, a tick after it everything has."""
        timer = self.wheel.call_later(10, lambda: self.fired.append(1))
        self.clock.advance(9.999)
        self.assertEqual((self.fired, timer.active), ([], True))
        self.clock.advance(0.001 + TICK_SECONDS)
        self.assertEqual((self.fired, timer.active), ([1], False))
        self.clock.advance(100)
        self.assertEqual(self.fired, [1])

    def test_cancel(self) -> None:
        """A cancelled timer does not fire; cancelling again, or afterwards, does nothing."""
        timer = self.wheel.call_later(1, lambda: self.fired.append(1))
        other = self.wheel.call_later(1, lambda: self.fired.append(2))
        timer.cancel()
        timer.cancel()
        self.clock.advance(2)
        other.cancel()
        self.assertEqual(self.fired, [2])

    def test_cancel_in_the_same_tick(self) -> None:
        """A timer may cancel another one of its own tick."""
        timers: list[Any] = []
        self.wheel.call_later(1, lambda: timers.pop().cancel())
        timers.append(self.wheel.call_later(1, lambda: self.fired.append(1)))
        self.clock.advance(2)
        self.assertEqual(self.fired, [])

    def test_one_delayed_call(self) -> None:
        """Ten thousand timers cost the reactor one delayed call."""
        for number in range(10_000):
            self.wheel.call_later(number % 60 + 1, lambda: self.fired.append(1))
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([0.25] * 300)
        self.assertEqual(len(self.fired), 10_000)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_others_between(self) -> None:
        """A tick of many timers lets the reactor look after others between some of them."""

        def first() -> None:
            self.clock.callLater(0, lambda: self.fired.append("other"))

        self.wheel.call_later(1, first)
        for number in range(3 * TIMERS_A_TURN):
            self.wheel.call_later(1, lambda number=number: self.fired.append(number))  # type: ignore[misc]  # early binding
        self.wheel.call_later(1.25, lambda: self.fired.append("next tick"))
        self.clock.advance(2)
        self.assertEqual(TIMERS_A_TURN - 1, self.fired.index("other"))
        self.fired.remove("other")
        self.assertEqual([*range(3 * TIMERS_A_TURN), "next tick"], self.fired)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopped_between(self) -> None:
        """A wheel that one of many timers stops, or the first after some turns, calls no other."""
        for at in (0, TIMERS_A_TURN, TIMERS_A_TURN + 5):
            fired: list[int] = []
            wheel = TimerWheel(self.clock)

            def fire(number: int, wheel: TimerWheel = wheel, at: int = at) -> None:
                fired.append(number)  # noqa: B023  # of this round
                if number == at:
                    wheel.stop()

            for number in range(3 * TIMERS_A_TURN):
                wheel.call_later(1, functools.partial(fire, number))
            self.clock.advance(2)
            self.assertEqual([*range(at + 1)], fired)
            self.assertEqual([], self.clock.getDelayedCalls())

    def test_set_while_firing(self) -> None:
        """Timers that are set by one of many are due after them, and leave one delayed call."""

        def first() -> None:
            for delay in (0, 5, 1):
                self.wheel.call_later(delay, lambda delay=delay: self.fired.append(-delay))  # type: ignore[misc]  # early binding

        self.wheel.call_later(1, first)
        for number in range(2 * TIMERS_A_TURN):
            self.wheel.call_later(1, lambda number=number: self.fired.append(number))  # type: ignore[misc]  # early binding
        self.clock.advance(1.25)
        self.assertEqual([*range(2 * TIMERS_A_TURN)], self.fired)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.pump([0.25] * 30)
        self.assertEqual([0, -1, -5], self.fired[2 * TIMERS_A_TURN :])

    def test_earlier_timer_takes_over(self) -> None:
        """A timer that is due before all others moves the one delayed call."""
        self.wheel.call_later(50, lambda: self.fired.append("late"))
        self.wheel.call_later(1, lambda: self.fired.append("early"))
        self.clock.advance(1.5)
        self.assertEqual(self.fired, ["early"])
        self.clock.advance(50)
        self.assertEqual(self.fired, ["early", "late"])

    def test_failure(self) -> None:
        """A timer that fails is logged and stops no other."""
        self.wheel.call_later(1, lambda: self.fired.append("before"))
        self.wheel.call_later(1, self.fail_with_key_error)
        self.wheel.call_later(1, lambda: self.fired.append("after"))
        self.wheel.call_later(2, lambda: self.fired.append("later"))
        self.clock.pump([0.25] * 10)
        self.assertEqual(self.fired, ["before", "after", "later"])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    @staticmethod
    def fail_with_key_error() -> None:
        raise KeyError("missing")

    def test_timer_that_sets_a_timer(self) -> None:
        """A timer may set the next one; a delay of nothing never fires inside the call."""

        def again() -> None:
            self.fired.append(self.clock.seconds())
            if len(self.fired) < 5:
                self.wheel.call_later(0, again)

        self.wheel.call_later(-5, again)
        self.assertEqual(self.fired, [])
        self.clock.pump([0.25] * 10)
        self.assertEqual(self.fired, [0.25, 0.5, 0.75, 1.0, 1.25])

    def test_sleep(self) -> None:
        """After a long sleep everything that is due fires once, in order."""
        for delay in (5, 1, 3):
            self.wheel.call_later(delay, lambda delay=delay: self.fired.append(delay))  # type: ignore[misc]  # early binding
        self.clock.advance(3600)
        self.assertEqual(self.fired, [1, 3, 5])


class MonotonicTests(SynchronousTestCase):
    """The reactor's clock."""

    def test_replaced(self) -> None:
        """The reactor's seconds are the monotonic clock's, also for calls on the class."""

        class Reactor:
            """Has seconds like a reactor."""

            @staticmethod
            def seconds() -> float:
                return time.time()

        reactor = Reactor()
        use_monotonic_clock(reactor)
        before = time.monotonic()
        self.assertTrue(before <= reactor.seconds() <= time.monotonic())
