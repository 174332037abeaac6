"""Noticing that the machine slept, or that its clock was set.

While a machine is suspended CLOCK_MONOTONIC stands still and CLOCK_BOOTTIME goes on (see
clock_gettime(2)): their difference grows by exactly the time slept.  A link that slept for long is
dead at the other end, which a heartbeat would find out 15 s later; so it is dropped at once.  The
wall clock against CLOCK_BOOTTIME shows a step; nothing depends on it, but an operator who reads
logs wants to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["SuspensionWatch"]

#: A look costs two system calls; the sleep is noticed this long after its end at the latest.
LOOK_SECONDS = 5.0
#: Shorter sleeps leave the link alive: its gateway waits 60 s.
SLEPT_SECONDS = 10.0
#: Less is a clock being slewed.
STEP_SECONDS = 2.0


class SuspensionWatch:
    """Looks every few seconds.

    Args:
        clock: For the timer; its seconds are not looked at.
        slept: Called with the seconds slept, when they were more than ten.
        stepped: Called with the seconds by which the wall clock was moved, forward if positive.
        boottime: Seconds since boot, suspended time included.
        monotonic: Seconds since boot, without it.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        clock: IReactorTime,
        slept: Callable[[float], None],
        stepped: Callable[[float], None],
        boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._slept = slept
        self._stepped = stepped
        self._boottime = boottime
        self._monotonic = monotonic
        self._wall = wall
        self._timer: IDelayedCall | None = None
        self._asleep = 0.0
        self._offset = 0.0

    def start(self) -> None:
        """Look from now on."""
        self._asleep, self._offset = self._read()
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _read(self) -> tuple[float, float]:
        boottime = self._boottime()
        return boottime - self._monotonic(), self._wall() - boottime

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
        asleep, offset = self._read()
        slept, stepped = asleep - self._asleep, offset - self._offset
        self._asleep, self._offset = asleep, offset
        if abs(stepped) > STEP_SECONDS:
            self._stepped(stepped)
        if slept > SLEPT_SECONDS:
            self._slept(slept)
