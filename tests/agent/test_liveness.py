"""Unit tests of noticing a sleep, a clock that is set, and of systemd's watchdog."""

from __future__ import annotations

import os
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.clock_floor import ClockFloor
from rshell_agent.suspension import SuspensionWatch
from rshell_agent.watchdog import Watchdog
from tests.agent.test_link_watch import WatchCase


class SuspensionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asleep = 7.0  # before the agent began
        self.wall = 0.0
        self.slept: list[float] = []
        self.stepped: list[float] = []
        self.watch = SuspensionWatch(
            self.clock,
            self.slept.append,
            self.stepped.append,
            lambda: self.clock.seconds() + self.asleep,
            self.clock.seconds,
            lambda: 1.8e9 + self.clock.seconds() + self.asleep + self.wall,
        )
        self.watch.start()

    def test_awake(self) -> None:
        """As long as the machine is awake and its clock runs nothing is told."""
        self.clock.pump([1.0] * 600)
        self.assertEqual(([], []), (self.slept, self.stepped))

    def test_slept(self) -> None:
        """More than ten seconds of sleep are noticed within five seconds, once."""
        self.clock.advance(12)
        self.asleep += 10.0
        self.clock.pump([1.0] * 6)
        self.assertEqual([], self.slept)
        self.asleep += 3600.0
        self.clock.pump([1.0] * 20)
        self.assertEqual([3600], [round(seconds) for seconds in self.slept])
        self.assertEqual([], self.stepped)

    def test_short_sleep_before_long(self) -> None:
        """Short sleeps do not add up: the link was alive between them."""
        for _ in range(10):
            self.asleep += 6.0
            self.clock.advance(5)
        self.assertEqual([], self.slept)

    def test_clock_set(self) -> None:
        """A step of the wall clock is told with its direction, and is no sleep."""
        for step in (-3600.0, 3600.0, 1.8e9, 1.0):
            self.wall += step
            self.clock.pump([1.0] * 6)
        self.assertEqual([-3600, 3600, 1_800_000_000], [round(step) for step in self.stepped])
        self.assertEqual([], self.slept)

    def test_stop(self) -> None:
        """Stopping leaves no timer."""
        self.watch.stop()
        self.assertEqual([], self.clock.getDelayedCalls())


class WatchdogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.sock.close)
        # short: a path of a unix socket has 107 bytes at the most
        base = tempfile.mkdtemp(prefix="rsh-")
        self.path = Path(base) / "notify"
        self.sock.bind(str(self.path))
        self.sock.setblocking(False)
        self.addCleanup(os.rmdir, base)
        self.addCleanup(self.path.unlink, missing_ok=True)

    def heard(self) -> list[bytes]:
        told = []
        while True:
            try:
                told.append(self.sock.recv(4096))
            except BlockingIOError:
                return told

    def watchdog(self, **environment: str) -> Watchdog:
        return Watchdog.from_environment(
            self.clock, {"NOTIFY_SOCKET": str(self.path), **environment}, lambda: 42
        )

    def test_fed_from_the_loop(self) -> None:
        """Ready at once, a sign of life every third of the interval, and a goodbye."""
        watchdog = self.watchdog(WATCHDOG_USEC="60000000", WATCHDOG_PID="42")
        watchdog.start()
        self.assertEqual([b"READY=1"], self.heard())
        self.clock.pump([1.0] * 60)
        self.assertEqual([b"WATCHDOG=1"] * 3, self.heard())
        watchdog.stop()
        self.assertEqual([b"STOPPING=1"], self.heard())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_abstract_socket(self) -> None:
        """A name that begins with @ is one of the abstract namespace."""
        name = f"rshell-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind("\0" + name)
            sock.setblocking(False)
            Watchdog(self.clock, "@" + name).start()
            self.assertEqual(b"READY=1", sock.recv(100))

    def test_not_asked_for(self) -> None:
        """Without an interval, or with one for another process, only readiness is told."""
        for environment in (
            {},
            {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "43"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "-5"},
            {"WATCHDOG_USEC": "x"},
        ):
            self.watchdog(**environment).start()
            self.clock.advance(1000)
            self.assertEqual([b"READY=1"], self.heard(), environment)

    def test_no_systemd(self) -> None:
        """Without systemd, or with a socket that is gone, nothing happens."""
        for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
            Watchdog.from_environment(self.clock, dict(environment)).start()
        self.path.unlink()
        self.watchdog(WATCHDOG_USEC="3000000").start()
        self.clock.advance(1)
        self.assertEqual([], self.heard())

    def test_children_do_not_inherit(self) -> None:
        """What systemd set is taken out of the environment: no child speaks in our name."""
        environment = {
            "NOTIFY_SOCKET": str(self.path),
            "WATCHDOG_USEC": "1",
            "WATCHDOG_PID": "1",
            "HOME": "/",
        }
        Watchdog.from_environment(self.clock, environment)
        self.assertEqual({"HOME": "/"}, environment)


class ClockStepTests(WatchCase):
    """A wall clock that is set at the device: nothing of the link depends on it."""

    def test_steps(self) -> None:
        """-1 h, +1 h, 1970 to now: no heartbeat is lost, no link dropped, the time stays right."""
        self.welcomed()
        wall = [0.0]
        state = Path(self.mktemp())
        state.mkdir()
        floor = ClockFloor(state, wall=lambda: wall[0], monotonic=self.pair.clock.seconds)
        now = datetime(2027, 1, 1, tzinfo=UTC)
        wall[0] = now.timestamp()
        floor.learn(now)
        for set_to in (now.timestamp() - 3600, now.timestamp() + 3600, 0.0, now.timestamp()):
            wall[0] = set_to
            began = self.pair.clock.seconds()
            logical = floor.logical_now()
            self.pass_seconds(300)
            self.assertFalse(self.pair.device.closed)
            self.assertFalse(self.pair.gateway.closed)
            self.assertIsNotNone(self.pair.device.rtt_seconds)
            passed = (floor.logical_now() - logical).total_seconds()
            self.assertAlmostEqual(self.pair.clock.seconds() - began, passed, places=3)
            self.assertGreaterEqual(floor.effective_now(), now)
