"""When the heap is trimmed."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.heap import EVERY_SECONDS, LEAST_ARRIVALS, HeapTrim, trim_heap
from rshell.link.clock import TimerWheel


class HeapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.arrived = self.live = 0
        self.trims = 0
        self.heap = HeapTrim(
            TimerWheel(self.clock), lambda: self.arrived, lambda: self.live, self._trim
        )

    def _trim(self) -> None:
        self.trims += 1

    def test_only_after_arrivals(self) -> None:
        """A fleet that has arrived is trimmed for once; an idle one never again."""
        self.heap.start()
        self.arrived = LEAST_ARRIVALS - 1
        self.clock.advance(EVERY_SECONDS + 1)
        self.assertEqual(self.trims, 0)
        self.arrived = LEAST_ARRIVALS
        self.clock.advance(EVERY_SECONDS + 1)
        self.clock.pump([EVERY_SECONDS + 1] * 5)
        self.assertEqual(self.trims, 1)

    def test_large_fleet(self) -> None:
        """A large fleet, whose heap takes long to walk, is not walked for a few that came."""
        self.heap.start()
        self.live = 50 * LEAST_ARRIVALS + 50
        self.arrived = LEAST_ARRIVALS
        self.clock.advance(EVERY_SECONDS + 1)
        self.assertEqual(self.trims, 0)
        self.arrived += 1
        self.clock.advance(EVERY_SECONDS + 1)
        self.assertEqual(self.trims, 1)

    def test_stop(self) -> None:
        """It leaves no timer behind, whether it was started or not."""
        self.heap.stop()
        self.heap.start()
        self.heap.stop()
        self.arrived = 10 * LEAST_ARRIVALS
        self.clock.advance(10 * EVERY_SECONDS)
        self.assertEqual(self.trims, 0)

    def test_real(self) -> None:
        """The C library's call can be made."""
        trim_heap()
