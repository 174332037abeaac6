"""Wires and clocks of the simulated fleet do what the tests on it rely on."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rshell.testing.clocks import ProcessClock, WallClock
from rshell.testing.wires import CAPACITY_BYTES, Wire


class Noting(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: type[BaseException] | None = None
        self.paused = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.lost is None, "told twice"
        self.lost = reason.type

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None: ...


class WireTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.here, self.there = ProcessClock(self.clock), ProcessClock(self.clock)
        self.wire = Wire("w", self.clock.seconds, self.here, self.there)
        self.dialler, self.listener = Noting(), Noting()
        self.wire.join(self.dialler, self.listener)

    def write(self, data: bytes) -> None:
        """Send from the dialler."""
        transport: Any = self.dialler.transport
        transport.write(data)

    def pump(self) -> None:
        """Deliver until nothing moves."""
        while self.wire.step():
            pass

    def test_cut_to_the_byte(self) -> None:
        """A cut after five bytes delivers exactly five, and tells both sides."""
        self.wire.cut(5, "up")
        self.write(b"abc")
        self.pump()
        self.assertFalse(self.wire.over)
        self.write(b"defgh")
        self.pump()
        self.assertEqual(self.listener.data, b"abcde")
        self.assertEqual((self.dialler.lost, self.listener.lost), (ConnectionLost, ConnectionLost))
        self.assertTrue(self.wire.was_cut)

    def test_spared(self) -> None:
        """A cut that was planned can be forgotten."""
        self.wire.cut(1, "up")
        self.wire.spare()
        self.write(b"abc")
        self.pump()
        self.assertEqual(self.listener.data, b"abc")

    def test_frozen(self) -> None:
        """A frozen wire delivers nothing, and tells only the side that hangs up."""
        self.wire.freeze()
        self.write(b"abc")
        self.pump()
        self.assertEqual(self.listener.data, b"")
        transport: Any = self.dialler.transport
        transport.abortConnection()
        self.pump()
        self.assertEqual((self.dialler.lost, self.listener.lost), (ConnectionAborted, None))
        self.wire.thaw()
        self.pump()
        self.assertEqual(self.listener.lost, ConnectionLost)

    def test_thawed(self) -> None:
        """What was written while it was frozen arrives afterwards."""
        self.wire.freeze()
        self.write(b"abc")
        self.wire.thaw()
        self.pump()
        self.assertEqual(self.listener.data, b"abc")

    def test_delayed(self) -> None:
        """A byte arrives when its time has come, not before."""
        self.wire.delay_seconds = 2.0
        self.write(b"abc")
        self.pump()
        self.assertEqual((self.listener.data, self.wire.next_arrival()), (b"", 2.0))
        self.clock.advance(2)
        self.pump()
        self.assertEqual(self.listener.data, b"abc")

    def test_closed(self) -> None:
        """A side that closes is heard after its last byte."""
        transport: Any = self.dialler.transport
        self.write(b"abc")
        transport.loseConnection()
        self.write(b"lost")
        self.pump()
        self.assertEqual(self.listener.data, b"abc")
        self.assertEqual((self.dialler.lost, self.listener.lost), (ConnectionDone, ConnectionDone))

    def test_full(self) -> None:
        """A wire that is full pauses who writes, and resumes when it has room."""
        transport: Any = self.dialler.transport
        transport.registerProducer(self.dialler, True)
        self.wire.freeze()
        self.write(bytes(CAPACITY_BYTES + 1))
        self.assertTrue(self.dialler.paused)
        self.wire.thaw()
        self.pump()
        self.assertFalse(self.dialler.paused)

    def test_dead_process(self) -> None:
        """A process that was killed hears nothing and sends nothing."""
        self.here.die()
        self.write(b"abc")
        self.wire.cut()
        self.assertEqual(self.listener.data, b"")
        self.assertEqual((self.dialler.lost, self.listener.lost), (None, ConnectionLost))

    def test_asleep(self) -> None:
        """What comes for a machine that sleeps waits until it wakes."""
        self.there.sleep()
        self.write(b"abc")
        self.pump()
        self.assertEqual((self.listener.data, self.wire.next_arrival()), (b"", None))
        self.there.wake()
        self.pump()
        self.assertEqual(self.listener.data, b"abc")


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.process = ProcessClock(self.clock)
        self.calls: list[float] = []
        self.process.callLater(10, lambda: self.calls.append(self.clock.seconds()))

    def test_sleep(self) -> None:
        """Time spent asleep does not count, and delays what was to come."""
        self.clock.advance(4)
        self.process.sleep()
        self.clock.advance(100)
        self.assertEqual(self.calls, [])
        self.process.wake()
        self.assertEqual(self.process.seconds(), 4)
        self.clock.pump([3, 3])
        self.assertEqual(self.calls, [110])

    def test_death(self) -> None:
        """Nothing is called in a process that died, whenever it was asked for."""
        self.process.die()
        self.process.callLater(1, lambda: self.calls.append(0))
        self.clock.advance(100)
        self.assertEqual(self.calls, [])
        self.assertEqual(self.clock.calls, [])

    def test_cancel(self) -> None:
        """A call that is cancelled, even while asleep, is not made."""
        (call,) = self.process.getDelayedCalls()
        self.process.sleep()
        call.cancel()
        self.process.wake()
        self.clock.advance(100)
        self.assertEqual((self.calls, call.active()), ([], False))

    def test_wall(self) -> None:
        """A wall clock goes with the time, from wherever it is set."""
        wall = WallClock(self.clock, 1000.0)
        wall.step(-400)
        self.clock.advance(5)
        self.assertEqual(wall(), 605)
