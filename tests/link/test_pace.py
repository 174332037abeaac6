"""Records that fit the link (rule Q3), and what a link tells about itself."""

from __future__ import annotations

import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import RECORD_SIZE
from rshell.link.core.figures import DelayWindow, Traffic
from rshell.link.core.pace import LEAVE_FACTOR, SPARSE_SECONDS, STEPS, Pace
from rshell.link.kernel import set_low_water, tcp_facts
from rshell.link.pacing import LEAST_BYTES, MEASURE_SECONDS, Pacing
from tests.link.fakes import Line

MEGA = 1e6


def paced(*rates: float) -> Pace:
    """Return a pace that measured these rates, Mbit/s, each of a link that was the limit."""
    pace = Pace()
    for rate in rates:
        pace.measured(rate * MEGA, limited_by_us=False)
    return pace


class PaceTests(SynchronousTestCase):
    """Pure decisions."""

    def size(self, pace: Pace, sparse_ago: float = 0.0) -> int:
        pace.judge(sparse_ago)
        return pace.size

    def test_unknown_link(self) -> None:
        """Before anything is measured records are full, whoever types."""
        self.assertEqual(self.size(Pace()), RECORD_SIZE)

    def test_slow_link(self) -> None:
        """A slow link gets small records, a very slow one smaller ones."""
        for rate, size in ((0.5, 2048), (2, 2048), (20, 4096), (30, 8192), (1000, RECORD_SIZE)):
            self.assertEqual(self.size(paced(rate)), size, rate)

    def test_several_records(self) -> None:
        """A link gets as many records at once as it carries in 2.6 ms, never more than four."""
        for rate, records in ((2, 1), (20, 1), (99, 1), (101, 2), (151, 3), (10_000, 4)):
            self.assertEqual(paced(rate).records, records, rate)
        self.assertEqual(Pace().records, 1)

    def test_several_records_by_what_was_sent(self) -> None:
        """A link that was never the limit is judged by what went over it lately."""
        pace = Pace()
        pace.measured(9e9, limited_by_us=True, sent_bits_per_second=1e6)
        self.assertEqual(pace.records, 1, "one short burst proves nothing")
        pace.measured(9e9, limited_by_us=True, sent_bits_per_second=400e6)
        self.assertEqual(pace.records, 4)
        pace.measured(9e9, limited_by_us=True, sent_bits_per_second=10e6)
        self.assertEqual(pace.records, 1)
        for _ in range(8):
            pace.measured(5e6)
        self.assertEqual((pace.records, self.size(pace)), (1, 4096))

    def test_nobody_types(self) -> None:
        """Without a sparse stream in the last 10 s even a slow link gets full records."""
        pace = paced(20)
        self.assertEqual(self.size(pace, SPARSE_SECONDS), 4096)
        self.assertEqual(self.size(pace, SPARSE_SECONDS + 0.01), RECORD_SIZE)
        self.assertEqual(self.size(pace, float("inf")), RECORD_SIZE)
        self.assertEqual(self.size(pace, 0.1), 4096)

    def test_change_is_told(self) -> None:
        """`judge` says whether the size changed, once."""
        pace = paced(2)
        self.assertEqual([pace.judge(0), pace.judge(1), pace.judge(60)], [True, False, True])

    def test_hysteresis(self) -> None:
        """A step is left only at twice the rate at which it was entered."""
        pace = paced(20)
        for _ in range(40):
            pace.measured(49 * MEGA, limited_by_us=False)
        self.assertEqual(self.size(pace), 4096)
        for _ in range(40):
            pace.measured(75 * MEGA, limited_by_us=False)
        self.assertEqual(self.size(pace), 8192)
        for _ in range(40):
            pace.measured(500 * MEGA, limited_by_us=False)
        self.assertEqual(self.size(pace), RECORD_SIZE)

    def test_we_were_the_limit(self) -> None:
        """With little to send, only what was really sent says that the link is faster."""
        pace = Pace()
        pace.measured(0.01 * MEGA, limited_by_us=True, sent_bits_per_second=0.01 * MEGA)
        self.assertIsNone(pace.bits_per_second)
        pace = paced(2)
        for rate in (0.01, 900):
            pace.measured(rate * MEGA, limited_by_us=True, sent_bits_per_second=0.1 * MEGA)
        self.assertEqual(pace.bits_per_second, 2 * MEGA)
        for _ in range(20):
            pace.measured(900 * MEGA, limited_by_us=True, sent_bits_per_second=400 * MEGA)
        self.assertEqual(self.size(pace), RECORD_SIZE)

    def test_one_burst(self) -> None:
        """A single fast sample, however fast, does not end a slow link's small records."""
        pace = paced(20, 20, 20)
        pace.measured(9000 * MEGA, limited_by_us=False)
        self.assertEqual(self.size(pace), 4096)

    def test_faster_link(self) -> None:
        """A link that became a thousand times faster has full records after 15 samples."""
        pace = paced(0.5)
        for _ in range(15):
            pace.measured(500 * MEGA, limited_by_us=False)
        self.assertEqual(self.size(pace), RECORD_SIZE)

    @given(st.lists(st.tuples(st.floats(0, 1e10), st.booleans()), max_size=30))
    def test_any_samples(self, samples: list[tuple[float, bool]]) -> None:
        """Whatever is measured, the step fits what is believed, within the hysteresis."""
        pace = Pace()
        for rate, ours in samples:
            pace.measured(rate, limited_by_us=ours)
            believed = pace.bits_per_second
            size = self.size(pace)
            if believed is None:
                self.assertEqual(size, RECORD_SIZE)
                continue
            place = [step.size for step in STEPS].index(size)
            self.assertLessEqual(believed, LEAVE_FACTOR * STEPS[place].bits_per_second)
            if place + 1 < len(STEPS):
                self.assertGreaterEqual(believed, STEPS[place + 1].bits_per_second)


class ToldSocket(socket.socket):
    """A socket whose link delivers so many bytes a second, and held us up.

    Attributes:
        asked: How often it was asked.
    """

    def __init__(self, bytes_per_second: int) -> None:
        super().__init__()
        self.rate = bytes_per_second
        self.asked = 0

    def getsockopt(self, level: int, option: int, *size: Any) -> Any:
        self.asked += 1
        return struct.pack("=160xQ", self.rate)


class PacingTests(SynchronousTestCase):
    """When the kernel is asked, and what follows."""

    def setUp(self) -> None:
        self.traffic, self.now = Traffic(), 0.0
        self.pacing = Pacing(self.traffic)

    def use(self, bytes_per_second: int) -> ToldSocket:
        sock = ToldSocket(bytes_per_second)
        self.addCleanup(sock.close)
        self.pacing.use(sock)
        return sock

    def send(self, size: int) -> int:
        """Let a measure's time pass, send, and return how much was handed over at once."""
        self.now += MEASURE_SECONDS
        room = self.pacing.fit(self.now)
        self.traffic.sent[3] += size
        return room

    def test_bulk(self) -> None:
        """While bulk goes out the kernel is asked each time, and told to keep little of it."""
        sock = self.use(10**9)
        rooms = [self.send(4 * RECORD_SIZE) for _ in range(4)]
        self.assertEqual(rooms, [RECORD_SIZE] + [4 * RECORD_SIZE] * 3)
        self.assertEqual(sock.asked, 3)

    def test_little(self) -> None:
        """Who sends next to nothing does not ask."""
        sock = self.use(10**9)
        for _ in range(50):
            self.assertEqual(self.send(LEAST_BYTES - 1), RECORD_SIZE)
        self.assertEqual(sock.asked, 0)

    def test_smallest_records(self) -> None:
        """A link that is so slow that it gets the smallest records is still asked."""
        sock = self.use(50_000)
        self.traffic.sparse_sent_at = float("inf")
        rooms = [self.send(LEAST_BYTES) for _ in range(9)]
        self.assertEqual((rooms[0], rooms[-1]), (RECORD_SIZE, STEPS[-1].size))
        self.assertEqual(sock.asked, 8)

    def test_silence_after_bulk(self) -> None:
        """A link that was fast by what went over it begins anew with one record after a silence."""
        self.use(0)
        pace = self.pacing._pace
        pace.measured(9e9, limited_by_us=True, sent_bits_per_second=400e6)
        self.assertEqual(self.pacing.fit(0.1), 4 * RECORD_SIZE)
        self.assertEqual(self.send(40), RECORD_SIZE)

    def test_typing_on_a_slow_link_ends(self) -> None:
        """Records are full again ten seconds after the last key, whether or not anybody asks."""
        sock = self.use(50_000)
        self.traffic.sparse_sent_at = 0.0
        for _ in range(20):
            self.send(LEAST_BYTES)
        self.assertEqual(self.send(0), STEPS[-1].size)
        asked, self.now = sock.asked, SPARSE_SECONDS + 1
        self.assertEqual((self.send(0), sock.asked), (RECORD_SIZE, asked))
        self.traffic.sparse_sent_at = self.now
        self.assertEqual(self.send(0), STEPS[-1].size)


class KernelTests(SynchronousTestCase):
    """The two system calls, on a loopback connection."""

    def test_facts(self) -> None:
        """TCP tells a round trip and a rate, and whether we were the limit."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        near = socket.create_connection(listener.getsockname())
        self.addCleanup(near.close)
        far, _ = listener.accept()
        self.addCleanup(far.close)
        near.sendall(b"x" * 1000)
        self.assertEqual(far.recv(1000, socket.MSG_WAITALL), b"x" * 1000)
        facts = tcp_facts(near)
        assert facts is not None
        self.assertTrue(0 < facts.rtt_seconds < 5, facts)
        self.assertTrue(facts.bits_per_second > 0, facts)
        self.assertTrue(facts.limited_by_us, "one small write is all there was")
        set_low_water(near, 4096)
        low = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        self.assertEqual(low, 4096)

    def test_no_socket(self) -> None:
        """Without a TCP socket, and on a closed one, nothing is known and nothing breaks."""
        self.assertIsNone(tcp_facts(None))
        set_low_water(None, 4096)
        closed = socket.socket()
        closed.close()
        self.assertIsNone(tcp_facts(closed))
        set_low_water(closed, 4096)


class FiguresTests(SynchronousTestCase):
    """`LinkProtocol.figures` and what feeds it."""

    def test_delay_window(self) -> None:
        """The percentile is of the last 128 samples, the average moves by an eighth."""
        window = DelayWindow()
        self.assertEqual((window.average, window.p95()), (None, None))
        window.add(0.8)
        self.assertEqual((window.average, window.p95()), (0.8, 0.8))
        window.add(0.0)
        self.assertAlmostEqual(window.average or 0, 0.7)
        for number in range(128):
            window.add(number / 100)
        self.assertAlmostEqual(window.p95() or 0, 1.21)

    def test_bytes_by_class(self) -> None:
        """What one side sent by class is what the other received, headers included."""
        line = Line()
        caller, answerer = line.channel()
        caller.write(bytes(50_000))
        answerer.write(b"y")
        line.run()
        here, there = line.dialler.figures(), line.gateway.figures()
        self.assertEqual(here.sent["normal"], 50_000 + 4 * 8)
        self.assertEqual(there.sent["normal"], 1 + 8)
        self.assertEqual((here.sent, there.sent), (there.received, here.received))
        self.assertGreater(here.sent["control"], 100)
        self.assertEqual(here.record_bytes, RECORD_SIZE)

    def test_queue_delay(self) -> None:
        """What a keystroke waits for a full transport is measured; a transfer's wait is not."""
        line = Line()
        caller, _ = line.channel()
        self.assertIsNone(line.dialler.figures().queue_delay_ms)
        line.wire(line.dialler).paused = True
        line.dialler.pauseProducing()
        caller.write(b"k")
        line.clock.advance(0.04)
        line.wire(line.dialler).resume(None)
        figures = line.dialler.figures()
        self.assertAlmostEqual(figures.queue_delay_ms or 0, 40)
        self.assertAlmostEqual(figures.queue_delay_p95_ms or 0, 40)
        line.dialler.pauseProducing()
        caller.write(bytes(100_000))
        line.clock.advance(5)
        line.wire(line.dialler).resume(None)
        self.assertAlmostEqual(line.dialler.figures().queue_delay_ms or 0, 40)
