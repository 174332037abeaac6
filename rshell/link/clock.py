"""Time for links: a reactor clock that never goes back, and one timer wheel for all links."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.link.turn import Turn

__all__ = ["TimerWheel", "WheelTimer", "use_monotonic_clock"]

#: Links time in seconds; a quarter of one is precise enough and lets thousands share a wake-up.
TICK_SECONDS = 0.25
#: With thousands of links a tick has hundreds of timers; what arrives meanwhile waits for so many.
TIMERS_A_TURN = 32


def use_monotonic_clock(reactor: Any) -> None:
    """Make ``reactor.seconds`` monotonic, for every timer of the process.

    Twisted's reactors use ``time.time``: a clock step of an hour back would stop every heartbeat
    for an hour (https://github.com/twisted/twisted/issues/2424).  Call it before any timer is set.
    """
    type(reactor).seconds = staticmethod(time.monotonic)


class WheelTimer:
    """One call that is due; cancel it as often as you like."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Do not call; nothing happens if it was called or cancelled before."""
        self._call = None

    def fire(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class TimerWheel:
    """Timers of coarse precision that cost the reactor one delayed call in all.

    A timer fires at the first tick at or after its time, never early, and in its order.  A tick of
    many takes several turns of the reactor, which looks after everyone else between them.

    Args:
        clock: Whose seconds count, and who wakes us.
        tick_seconds: The precision.

    Attributes:
        seconds: Returns the clock's seconds; the clock's own, since links ask with each read.
        turn: What the links of the process share of the current turn of the reactor.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, tick_seconds: float = TICK_SECONDS) -> None:
        self.turn = Turn()
        self.seconds: Callable[[], float] = clock.seconds
        self._clock = clock
        self._tick = tick_seconds
        self._slots: dict[int, list[WheelTimer]] = {}
        self._due: list[int] = []
        #: What fires now, the next one last.
        self._firing: list[WheelTimer] = []
        self._turning = False
        self._call: Any = None
        self._call_slot = 0

    def call_later(self, delay_seconds: float, call: Callable[[], None]) -> WheelTimer:
        """Call ``call`` after at least ``delay_seconds``; the owner of the timer cancels it."""
        timer = WheelTimer(call)
        slot = int((self.seconds() + max(0.0, delay_seconds)) / self._tick) + 1
        timers = self._slots.get(slot)
        if timers is None:
            timers = self._slots[slot] = []
            heapq.heappush(self._due, slot)
        timers.append(timer)
        self._arm()
        return timer

    def call_next_turn(self, call: Callable[[], None]) -> None:
        """Call ``call`` when the reactor has looked after everyone else; it is not cancelled."""
        self._clock.callLater(0, call)

    def stop(self) -> None:
        """Forget every timer, and leave nothing behind in the clock."""
        self._slots.clear()
        self._due.clear()
        self._firing.clear()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _arm(self) -> None:
        if self._turning or not self._due:
            return
        slot = self._due[0]
        if self._call is not None:
            if self._call_slot <= slot:
                return
            self._call.cancel()
        delay = max(0.0, slot * self._tick - self.seconds())
        self._call_slot = slot
        self._call = self._clock.callLater(delay, self._turn)

    def _turn(self) -> None:
        self._call = None
        self._turning = True
        try:
            self._fire_some()
        finally:
            self._turning = False
        if self._firing:
            self._call_slot = 0
            self._call = self._clock.callLater(0, self._turn)
        else:
            self._arm()

    def _fire_some(self) -> None:
        # 1e-6: a clock that reads a hair before the tick it was set for counts as there.
        now = int(self.seconds() / self._tick + 1e-6)
        left = TIMERS_A_TURN
        while left and (self._firing or (self._due and self._due[0] <= now)):
            if not self._firing:
                self._firing = self._slots.pop(heapq.heappop(self._due))[::-1]
            timer = self._firing.pop()
            if not timer.active:
                continue
            left -= 1
            try:
                timer.fire()
            except Exception:
                self._log.failure("a timer failed")
