"""Watchdog: a line at the console that keeps the reactor from turning is interrupted.

Goal: ``while True: pass`` must not cost a single link.  A thread with
``PyThreadState_SetAsyncExc`` could not wake ``time.sleep(60)`` or a read from a pipe; a signal
does, and its handler sees which frames are running, so that nothing is ever raised in code that no
line of the console has called.  That covers what a line leaves behind, too: callbacks and
coroutines are told by the file name of their code, not by when they run.

What it is not: a cure for C code that never looks for signals.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

from twisted.logger import Logger

from rshell.link.clock import TimerWheel, WheelTimer

__all__ = ["BLOCKED_SECONDS", "FILE_PREFIX", "LineBlocked", "Watchdog"]

#: Beginning of the file name of all code that was typed at a console.
FILE_PREFIX = "<console "
#: A reactor that stands still this long answers nobody; the first heartbeats are missed at 15 s
#: (rule L2).
BLOCKED_SECONDS = 5.0
#: How often is looked; and raised anew, in code that catches everything.
LOOK_SECONDS = 0.5


class LineBlocked(BaseException):
    """Raised in a line that blocked the reactor; no ``except Exception`` stops it."""

    def __init__(self) -> None:
        super().__init__(
            f"interrupted: it kept the gateway from all other work for {BLOCKED_SECONDS:g} s; "
            "await what takes long, or use deferToThread"
        )


class Watchdog:
    """Looks on while at least one console is open.

    Args:
        wheel: Its timers fire only while the reactor turns.
        seconds: Monotonic, and not the reactor's.
    """

    _log = Logger()

    def __init__(self, wheel: TimerWheel, seconds: Callable[[], float] = time.monotonic) -> None:
        self._wheel = wheel
        self._seconds = seconds
        self._consoles = 0
        self._turned = 0.0
        self._timer: WheelTimer | None = None
        self._before: object = None

    def enter(self) -> None:
        """A console opens."""
        self._consoles += 1
        if self._consoles > 1:
            return
        self._turn()
        try:
            self._before = signal.signal(signal.SIGALRM, self.alarm)
            signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
        except ValueError:
            # Only the main thread gets signals; twistd's reactor runs in it.
            self._log.warn("lines at the console that block are not interrupted in this thread")

    def leave(self) -> None:
        """A console is closed."""
        self._consoles -= 1
        if self._consoles:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # What was there before, but for a handler that Python did not install.
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]  # it came from signal()
        except ValueError:
            pass  # as above

    def _turn(self) -> None:
        self._turned = self._seconds()
        self._timer = self._wheel.call_later(LOOK_SECONDS, self._turn)

    def alarm(self, _number: int, frame: FrameType | None) -> None:
        """Handle the signal.

        Raises:
            LineBlocked: In the code that runs, if a line of the console has called it, and the
                reactor stands still for `BLOCKED_SECONDS`.
        """
        if self._seconds() - self._turned < BLOCKED_SECONDS:
            return
        while frame is not None:
            if frame.f_code.co_filename.startswith(FILE_PREFIX):
                raise LineBlocked
            frame = frame.f_back
