"""LinkProtocol: heartbeats and how a dead peer is noticed (rules L1 and L2)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import FrameType
from rshell.link.core.messages import Sessions
from tests.link.fakes import Line
from tests.link.pairs import frames_of, hello, welcome


class LivenessTests(SynchronousTestCase):
    """L1 and L2."""

    def pings(self, line: Line) -> int:
        return sum(f.type == FrameType.PING for f in line.wire(line.dialler).frames())

    def test_heartbeat(self) -> None:
        """A silent link carries a PING 25 s after the last byte, and lives for hours."""
        line = Line()
        line.advance(24.75, carry=False)
        self.assertEqual(self.pings(line), 0)
        line.advance(0.25, carry=False)
        frames = line.wire(line.dialler).frames()
        self.assertEqual([f.type for f in frames], [FrameType.PING])
        line = Line()
        line.advance(7200)
        self.assertFalse(line.wire(line.dialler).aborted)
        self.assertFalse(line.wire(line.gateway).aborted)

    def test_round_trip(self) -> None:
        """The PONG tells the round trip."""
        line = Line()
        line.advance(25, carry=False)
        line.carry(line.dialler)
        line.clock.advance(0.3)
        line.carry(line.gateway)
        self.assertAlmostEqual(line.dialler.rtt_seconds or 0, 0.3)
        self.assertAlmostEqual(line.dialler.figures().rtt_ms or 0, 300)

    def test_one_way_traffic(self) -> None:
        """A dialler that only sends, or only receives, still asks for a sign of life."""
        line = Line()
        pings = 0
        for _ in range(120):
            line.dialler.sessions(Sessions())
            line.advance(0.5, carry=False)
            pings += self.pings(line)
            if pings:
                break
        self.assertEqual(pings, 1)
        line = Line()
        pings = 0
        for _ in range(120):
            line.gateway.sessions(Sessions())
            line.carry(line.gateway)
            line.advance(0.5, carry=False)
            pings += self.pings(line)
        self.assertEqual(pings, 2)

    def test_death(self) -> None:
        """15 s after an unanswered PING the dialler aborts, not before."""
        line = Line()
        line.advance(25, carry=False)
        self.assertEqual(self.pings(line), 1)
        line.advance(14.75, carry=False)
        self.assertFalse(line.wire(line.dialler).aborted)
        line.advance(0.25, carry=False)
        self.assertTrue(line.wire(line.dialler).aborted)
        self.assertEqual(line.dialler_owner.said[-1], ("lost", "no answer to a heartbeat for 15 s"))

    def test_within_45_seconds(self) -> None:
        """With the longest jitter, at any phase of the wheel, death is noticed in 45 s (L2)."""
        for phase in (0.0, 0.01, 0.1, 0.2, 0.249):
            line = Line(greet=False, uniform=lambda low, high: high)
            line.clock.advance(phase)
            line.dialler.hello(hello())
            line.run()
            last = line.clock.seconds()
            while not line.wire(line.dialler).aborted:
                line.clock.advance(0.01)
            self.assertLessEqual(line.clock.seconds() - last, 45.02)
            self.assertGreater(line.clock.seconds() - last, 44.4)

    def test_busy_half_open_link(self) -> None:
        """A dialler that sends without end into a dead path notices within 45 s too (L1)."""
        line = Line()
        while not line.wire(line.dialler).aborted:
            line.dialler.sessions(Sessions())
            line.clock.advance(0.25)
            self.assertLessEqual(line.clock.seconds(), 45)

    def test_wall_clock(self) -> None:
        """Only the wheel's clock counts: time that stands still there ages no link."""
        line = Line()
        before = line.dialler.last_received
        line.clock.advance(0)
        self.assertEqual(before, line.dialler.last_received)
        line.advance(20, carry=False)
        self.assertFalse(line.wire(line.dialler).aborted)

    def test_late_timer(self) -> None:
        """A process that did not run reads what waits before it gives anyone up."""
        line = Line()
        line.clock.advance(300)  # both were stopped: each timer is late
        for link in (line.dialler, line.gateway):
            self.assertFalse(line.wire(link).aborted)
        line.gateway.dataReceived(b"\x03")
        line.advance(1.25)
        for link in (line.dialler, line.gateway):
            self.assertFalse(line.wire(link).aborted)
        line = Line()
        line.clock.advance(300)
        line.advance(0.75, carry=False)
        self.assertFalse(line.wire(line.gateway).aborted)
        line.advance(0.75, carry=False)
        self.assertTrue(line.wire(line.gateway).aborted, "silent even then")

    def test_hurry(self) -> None:
        """A dialler beats faster while somebody waits, never slower than the gateway told."""
        line = Line()
        line.dialler.hurry_heartbeat(10)
        line.advance(9.75, carry=False)
        self.assertEqual(self.pings(line), 0)
        line.advance(0.25)
        line.dialler.hurry_heartbeat(100)
        line.advance(24.75, carry=False)
        self.assertEqual(self.pings(line), 0)
        line.advance(0.25, carry=False)
        self.assertEqual(self.pings(line), 1)

    def test_any_byte_proves_life(self) -> None:
        """After a PING any byte at all keeps the link, half a frame too (L2)."""
        line = Line()
        line.advance(26, carry=False)
        line.wire(line.dialler).take()
        line.advance(13, carry=False)
        line.dialler.dataReceived(b"\x03")
        line.advance(5, carry=False)
        self.assertFalse(line.wire(line.dialler).aborted)

    def test_short_heartbeat(self) -> None:
        """The gateway chooses the heartbeat, also one below the 15 s of the answer."""
        line = Line(greet=False)
        line.gateway_owner.judge = lambda link: link.welcome(welcome(heartbeat_ms=5000))
        line.dialler.hello(hello())
        line.run()
        pings = 0
        for _ in range(240):
            line.clock.advance(0.25)
            data = line.carry(line.dialler)
            pings += data[:1] == bytes([FrameType.PING])
            line.run()
        self.assertIn(pings, (10, 11, 12))

    def test_silent_peer(self) -> None:
        """A gateway aborts after 60 s without any byte, counted from the last (L2)."""
        line = Line()
        line.advance(40, carry=False)
        line.gateway.dataReceived(b"\x03")
        line.advance(59.75, carry=False)
        self.assertFalse(line.wire(line.gateway).aborted)
        line.advance(0.25, carry=False)
        self.assertTrue(line.wire(line.gateway).aborted)
        self.assertEqual(line.gateway_owner.said[-1], ("lost", "silent for 60 s"))

    def gateway_pings(self, line: Line) -> int:
        return sum(f.type == FrameType.PING for f in line.wire(line.gateway).frames())

    def test_unanswered_data(self) -> None:
        """A gateway whose data brought no byte for 15 s asks once, and gives up at 60 s (L5)."""
        line = Line()
        _, answerer = line.channel()
        line.advance(5, carry=False)
        answerer.write(b"x")
        self.assertEqual(self.gateway_pings(line), 0)
        line.advance(14.75, carry=False)
        self.assertEqual(self.gateway_pings(line), 0)
        line.advance(0.25, carry=False)
        self.assertEqual(self.gateway_pings(line), 1)
        line.advance(39.75, carry=False)
        self.assertEqual(self.gateway_pings(line), 0)
        self.assertFalse(line.wire(line.gateway).aborted)
        line.advance(0.25, carry=False)
        self.assertTrue(line.wire(line.gateway).aborted)

    def test_slow_reader_lives(self) -> None:
        """A peer whose application takes nothing answers the PING, and lives."""
        line = Line()
        caller, answerer = line.channel()
        caller.pauseProducing()
        answerer.write(bytes(1000))
        line.advance(600)
        self.assertFalse(line.wire(line.gateway).aborted)
        self.assertIsNotNone(line.gateway.rtt_seconds)

    def test_idle_links_are_left_alone(self) -> None:
        """A gateway sends no PING to peers that only beat, for hours."""
        line = Line()
        beats = 0
        for _ in range(2 * 3600 * 4):
            line.clock.advance(0.25)
            line.carry(line.dialler)
            frames = frames_of(line.carry(line.gateway))
            self.assertNotIn(FrameType.PING, [frame.type for frame in frames])
            beats += len(frames)
        self.assertGreater(beats, 280)

    def test_round_trip_of_a_busy_link(self) -> None:
        """A link too busy for heartbeats is measured about once a minute, by both sides."""
        line = Line()
        caller, answerer = line.channel()
        pings = {"dialler": 0, "gateway": 0}
        for _ in range(300):
            caller.write(b"x")
            answerer.write(b"y")
            line.clock.advance(1)
            for name, link in (("dialler", line.dialler), ("gateway", line.gateway)):
                data = line.carry(link)
                pings[name] += sum(f.type == FrameType.PING for f in frames_of(data))
            line.run()
        for name, count in pings.items():
            self.assertIn(count, (3, 4, 5), name)

    def test_probe(self) -> None:
        """An owner may ask for a sign of life at any time."""
        line = Line()
        line.dialler.probe()
        line.run()
        self.assertEqual(line.dialler.rtt_seconds, 0.0)

    def test_no_timer_stays(self) -> None:
        """A link that is gone leaves no timer behind."""
        line = Line()
        line.channel()
        for link in (line.dialler, line.gateway):
            line.wire(link).lost()
        line.clock.advance(120)
        self.assertEqual(line.clock.getDelayedCalls(), [])
