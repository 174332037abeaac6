"""The watchdog raises in code of the console, and in no other."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.doors.console.watchdog import BLOCKED_SECONDS, LineBlocked, Watchdog
from rshell.link.clock import TimerWheel


class WatchdogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.now = 0.0
        self.watchdog = Watchdog(TimerWheel(self.clock), lambda: self.now)
        before = signal.getsignal(signal.SIGALRM)
        self.watchdog.enter()
        self.addCleanup(lambda: self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0.0, 0.0)))
        self.addCleanup(lambda: self.assertIs(signal.getsignal(signal.SIGALRM), before))
        self.addCleanup(self.watchdog.leave)

    def frame(self, name: str) -> FrameType:
        """Return a frame of code from a file, below which other code runs."""
        namespace: dict[str, Any] = {"sys": sys}
        exec(compile("def f(g): return g()", name, "exec"), namespace)
        frame = namespace["f"](sys._getframe)
        assert isinstance(frame, FrameType)
        return frame

    def test_in_time(self) -> None:
        """While the reactor turns nothing is raised, however long the line."""
        frame = self.frame("<console ab:1>")
        for _ in range(100):
            self.now += 0.5
            self.clock.advance(0.5)
            self.watchdog.alarm(signal.SIGALRM, frame)

    def test_blocked(self) -> None:
        """After five seconds without a turn it is raised below code of the console, repeatedly."""
        self.now = BLOCKED_SECONDS - 0.01
        self.watchdog.alarm(signal.SIGALRM, self.frame("<console ab:1>"))
        for _ in range(2):
            self.now += 0.5
            with self.assertRaises(LineBlocked):
                self.watchdog.alarm(signal.SIGALRM, self.frame("<console ab:1>"))

    def test_others(self) -> None:
        """Other code is left alone, however long it blocks."""
        self.now = 100.0
        self.watchdog.alarm(signal.SIGALRM, self.frame("/usr/lib/python3/console.py"))
        self.watchdog.alarm(signal.SIGALRM, None)

    def test_second_console(self) -> None:
        """It looks on until the last console is closed."""
        self.watchdog.enter()
        self.watchdog.leave()
        self.assertEqual(signal.getsignal(signal.SIGALRM), self.watchdog.alarm)
