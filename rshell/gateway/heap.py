"""Memory that handshakes leave free, given back to the system.

Each handshake takes 17 KB buffers of OpenSSL's for a moment.  What the link keeps afterwards lies
between them, so glibc finds them again for small things only, and a fleet that arrives leaves a
hole beside each of its links: 9 to 15 KB a device, measured.  `malloc_trim` gives the pages back.

Not a limit, and no remedy for anything that grows: it changes what is free, not what is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from rshell.link.clock import TimerWheel, WheelTimer

__all__ = ["HeapTrim", "trim_heap"]

#: It walks the free list in the reactor's turn: 50 ms when 20,000 devices have just arrived, and
#: 12 ms when there is nothing new (measured).
EVERY_SECONDS = 10.0
#: Fewer links than this since the last time leave nothing worth it ...
LEAST_ARRIVALS = 100
#: ... nor do fewer than such a part of those that are live, whose holes are walked as well.
LEAST_PART = 1 / 50


def trim_heap() -> None:
    """Give free pages of the heap back; does nothing where the C library has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class HeapTrim:
    """Trims the heap now and then while links arrive.

    Args:
        wheel: Timers.
        arrivals: Returns how many links have arrived so far.
        live: Returns how many devices are live.
        trim: Does it.
    """

    def __init__(
        self,
        wheel: TimerWheel,
        arrivals: Callable[[], int],
        live: Callable[[], int],
        trim: Callable[[], None] = trim_heap,
    ) -> None:
        self._wheel = wheel
        self._arrivals = arrivals
        self._live = live
        self._trim = trim
        self._trimmed_at = 0
        self._timer: WheelTimer | None = None

    def start(self) -> None:
        """Begin."""
        self._timer = self._wheel.call_later(EVERY_SECONDS, self._look)

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.start()
        arrivals = self._arrivals()
        if arrivals - self._trimmed_at >= max(LEAST_ARRIVALS, self._live() * LEAST_PART):
            self._trimmed_at = arrivals
            self._trim()
