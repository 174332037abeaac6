"""When a TLS handshake may begin, and for whom first; no OpenSSL, no socket, no time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from OpenSSL.SSL import WantReadError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.admission import (
    BURST_SECONDS,
    MOST_WAITING,
    PACE_LEAST,
    PACE_SECONDS,
    PATIENCE_SECONDS,
    TURN_SECONDS,
    Admission,
    AdmittingTLS,
    source_of,
)
from rshell.gateway.arrivals import MAX_WAITING, Arrival, Arrivals
from rshell.gateway.handshake_cost import SLOWEST_RATE, affordable_rate, handshake_seconds
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import HELLO_SECONDS
from rshell.link.tls_factory import TlsWireFactory
from tests.gateway.fleet import Fleet
from tests.gateway.wires import MemoryTransport

RATE = 100
BURST = int(RATE * BURST_SECONDS)


class TurnWheel(TimerWheel):
    """A wheel whose turns a test takes one by one: `Clock.advance` takes as many as there are."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._next: list[Callable[[], None]] = []

    def call_next_turn(self, call: Callable[[], None]) -> None:
        self._next.append(call)

    def take_turn(self) -> None:
        """Take one turn."""
        calls, self._next = self._next, []
        for call in calls:
            call()


class AdmissionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = TurnWheel(self.clock)
        self.waits: list[float] = []
        self.admission = Admission(self.wheel, RATE, lambda: 1000, waited=self.waits.append)
        self.begun: list[str] = []
        self.dropped: list[str] = []

    def come(self, source: str, count: int = 1, *, together: bool = False) -> list[Any]:
        """Ask so often, one a turn or all in the same; what may begin at once has begun."""
        tickets = []
        for _ in range(count):
            ticket = self.admission.ask(
                source,
                lambda: self.begun.append(source),
                lambda _why: self.dropped.append(source),
            )
            tickets.append(ticket)
            if ticket is None:
                self.begun.append(source)
            if not together:
                self.wheel.take_turn()
        return tickets

    def pass_time(self, seconds: float, turn_seconds: float = 0.01) -> None:
        """Let turns of the reactor pass that take so long each."""
        for _ in range(round(seconds / turn_seconds)):
            self.clock.advance(turn_seconds)
            self.wheel.take_turn()

    def test_burst_at_once(self) -> None:
        """A gateway at rest begins a burst without delay."""
        self.come("a", BURST)
        self.assertEqual((len(self.begun), len(self.admission)), (BURST, 0))

    def test_burst_in_one_turn(self) -> None:
        """Of many that come in the same turn a few begin in each, so that others get a turn too."""
        self.come("a", BURST, together=True)
        a_turn = int(RATE * TURN_SECONDS)
        self.assertEqual(len(self.begun), a_turn)
        self.wheel.take_turn()
        self.assertEqual(len(self.begun), 2 * a_turn)
        for _ in range(BURST // a_turn):
            self.wheel.take_turn()
        self.assertEqual((len(self.begun), len(self.admission)), (BURST, 0))

    def test_slower_than_its_rate(self) -> None:
        """A gateway whose turns are long begins less, and nothing that could not end in time."""
        self.come("a", int(RATE * PATIENCE_SECONDS), together=True)
        self.pass_time(HELLO_SECONDS, turn_seconds=0.5)
        self.assertEqual(len(self.admission), 0)
        self.assertEqual(len(self.begun) + len(self.dropped), int(RATE * PATIENCE_SECONDS))
        self.assertGreater(len(self.dropped), len(self.begun))
        self.assertLessEqual(max(self.waits), PATIENCE_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rate(self) -> None:
        """Beyond the burst handshakes begin at the rate, and none is lost."""
        self.come("a", BURST + 300)
        self.assertEqual(len(self.begun), BURST)
        for second in (1, 2):
            self.pass_time(1)
            self.assertAlmostEqual(len(self.begun), BURST + second * RATE, delta=RATE * 0.3)
        self.pass_time(2)
        self.assertEqual((len(self.begun), len(self.admission)), (BURST + 300, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_source_by_turns(self) -> None:
        """Who floods waits; one that comes after the flood is served with the next tokens."""
        self.come("flood", BURST + 500)
        self.come("lone")
        self.pass_time(0.5)
        self.assertIn("lone", self.begun)
        self.assertGreater(len(self.admission), 300)

    def test_in_order_of_arrival(self) -> None:
        """Of one source the first is served first."""
        self.come("a", BURST)
        served: list[int] = []
        for number in range(20):
            self.admission.ask("a", partial(served.append, number), self.fail)
        self.pass_time(0.5)
        self.assertEqual(served, list(range(20)))

    def test_too_long_a_wait(self) -> None:
        """Who could not begin in time is told so at once: the last of the longest queue."""
        self.come("lone", BURST + 1)
        room = int(RATE * PATIENCE_SECONDS)
        self.come("flood", room + 50)
        self.assertEqual(set(self.dropped), {"flood"})
        self.assertEqual(len(self.admission), room)
        self.pass_time(HELLO_SECONDS)
        self.assertEqual(len(self.admission), 0)
        self.assertLessEqual(max(self.waits), HELLO_SECONDS)

    def test_most_waiting(self) -> None:
        """However high the rate, no more wait than the gateway has room for among strangers."""
        self.admission = Admission(self.wheel, 100_000)
        self.wheel.call_next_turn = lambda call: None  # type: ignore[method-assign]  # no turn ends
        self.come("a", 10_000, together=True)
        self.assertEqual(len(self.admission), MOST_WAITING)
        self.assertEqual(len(self.begun) + len(self.dropped), 10_000 - MOST_WAITING)
        self.assertLess(MOST_WAITING, MAX_WAITING)

    def test_pace(self) -> None:
        """What is done while others wait becomes the pace; a quarter of the rate is the least."""
        self.assertEqual(self.admission.spread_ms(), 10_000)
        self.come("a", 300, together=True)
        self.pass_time(PACE_SECONDS * 3, turn_seconds=TURN_SECONDS / 0.7)
        self.assertTrue(0.6 * RATE < self.admission.pace < 0.85 * RATE, self.admission.pace)
        self.assertGreater(self.admission.spread_ms(), 11_000)
        for _ in range(6):
            self.come("a", 300, together=True)
            self.pass_time(PACE_SECONDS * 2, turn_seconds=1.0)
        self.assertTrue(PACE_LEAST <= self.admission.pace / RATE < PACE_LEAST + 0.02)

    def test_pace_of_a_burst(self) -> None:
        """Who never waits for long, or nobody at all, says nothing about the pace."""
        self.come("a", BURST + 20)
        self.pass_time(PACE_SECONDS * 5)
        self.come("a", BURST + 20)
        self.pass_time(PACE_SECONDS / 2)
        self.assertEqual(self.admission.pace, RATE)

    def test_cancel(self) -> None:
        """One that went away takes no token and leaves nothing behind."""
        self.come("a", BURST)
        (ticket,) = self.come("b")
        self.admission.cancel(ticket)
        self.admission.cancel(ticket)
        self.assertEqual(len(self.admission), 0)
        self.pass_time(1)
        self.assertNotIn("b", self.begun)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_fails(self) -> None:
        """A handshake that fails to begin does not stop the others."""
        self.come("a", BURST)

        def failing() -> None:
            raise ZeroDivisionError

        self.admission.ask("x", failing, self.fail)
        self.come("y")
        self.pass_time(0.5)
        self.assertIn("y", self.begun)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_spread(self) -> None:
        """A thousand devices at 100 a second spread over ten seconds."""
        self.assertEqual(self.admission.spread_ms(), 10_000)

    def test_sources(self) -> None:
        """IPv6 counts by /64, a mapped IPv4 as itself, and what is no address by its text."""
        self.assertEqual(source_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("2001:db8:1:2::3"), source_of("2001:db8:1:2:ffff::"))
        self.assertNotEqual(source_of("2001:db8:1:2::3"), source_of("2001:db8:1:3::3"))
        self.assertEqual(source_of("fe80::1%eth0"), source_of("fe80::2"))
        self.assertEqual(source_of("somewhere"), "somewhere")


HELLO = b"\x16\x03\x01\x00\x10" + b"c" * 16


class Inner(Protocol):
    """Speaks inside."""


class TlsTests(SynchronousTestCase):
    """The layer below OpenSSL; what OpenSSL gets is recorded instead of understood."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.admission = Admission(TimerWheel(self.clock), 2, waited=lambda _seconds: None)
        # The one token of the burst is gone.
        self.assertIsNone(self.admission.ask("before", self.fail, self.fail))
        self.clock.advance(0.1)
        self.dropped: list[str] = []

    def connect(self) -> tuple[AdmittingTLS, StringTransport, list[bytes]]:
        """Connect; returns the layer, its TCP, and what OpenSSL was given."""
        given: list[bytes] = []
        factory = TlsWireFactory(
            _FakeCreator(given), client=False, inner=Factory.forProtocol(Inner)
        )
        tls = AdmittingTLS(factory, Inner(), self.admission, self.dropped.append)
        transport = StringTransport()
        tls.makeConnection(transport)
        return tls, transport, given

    def test_waits_for_its_token(self) -> None:
        """A whole ClientHello waits unread, nothing more is read, and then goes on unchanged."""
        tls, transport, given = self.connect()
        tls.dataReceived(HELLO + b"more")
        self.assertEqual((given, transport.producerState), ([], "paused"))
        self.clock.pump([0.25] * 3)
        self.assertEqual((given, transport.producerState), ([HELLO + b"more"], "producing"))
        tls.dataReceived(b"then")
        self.assertEqual(given[-1], b"then")

    def test_byte_by_byte(self) -> None:
        """A ClientHello that trickles is charged for when it is complete, not before."""
        tls, transport, given = self.connect()
        for byte in HELLO[:-1]:
            tls.dataReceived(bytes([byte]))
        self.clock.pump([0.25] * 8)
        self.assertEqual((given, len(self.admission)), ([], 0))
        tls.dataReceived(HELLO[-1:])
        self.assertEqual(given, [HELLO])
        self.assertEqual(transport.producerState, "producing")

    def test_no_tls(self) -> None:
        """What is no TLS is refused at once: it costs nothing, and takes no token."""
        for first in (b"GET / HTTP/1.1\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff"):
            tls, _, given = self.connect()
            tls.dataReceived(first)
            self.assertEqual(given, [first])
        self.assertEqual(len(self.admission), 0)

    def test_gone_while_it_waits(self) -> None:
        """A connection that is lost in the queue takes no token."""
        tls, _, given = self.connect()
        tls.dataReceived(HELLO)
        self.assertEqual(len(self.admission), 1)
        tls.connectionLost()
        self.assertEqual(len(self.admission), 0)
        self.clock.pump([0.25] * 4)
        self.assertEqual(given, [])

    def test_leaves_nothing(self) -> None:
        """A connection that is gone waits for no search for cyclic garbage."""
        gc.disable()
        self.addCleanup(gc.enable)
        for received in (b"", HELLO[:3], HELLO):
            inner = Inner()
            factory = TlsWireFactory(
                _FakeCreator([]), client=False, inner=Factory.forProtocol(Inner)
            )
            tls = AdmittingTLS(factory, inner, self.admission, self.dropped.append)
            tls.makeConnection(StringTransport())
            if received:
                tls.dataReceived(received)
            tls.connectionLost()
            gone = weakref.ref(inner)
            del inner, tls
            self.assertIsNone(gone())

    def test_dropped(self) -> None:
        """A connection that would wait too long is told to its owner."""
        connections = [self.connect() for _ in range(20)]
        for tls, _, _ in connections:
            tls.dataReceived(HELLO)
        self.assertEqual(len(self.admission), int(2 * PATIENCE_SECONDS))
        self.assertEqual(len(self.dropped), 20 - int(2 * PATIENCE_SECONDS))


class _FakeCreator:
    """Makes connections that record."""

    def __init__(self, given: list[bytes]) -> None:
        self._given = given

    def serverConnectionForTLS(self, _wire: object) -> _FakeTls:
        return _FakeTls(self._given)


class _FakeTls:
    """A TLS connection that takes bytes and never answers."""

    def __init__(self, given: list[bytes]) -> None:
        self._given = given

    def set_accept_state(self) -> None:
        """It is a server's."""

    def do_handshake(self) -> None:
        raise WantReadError

    def bio_write(self, data: bytes) -> None:
        self._given.append(data)

    def bio_read(self, size: int) -> bytes:
        from OpenSSL.SSL import WantReadError

        raise WantReadError

    def recv(self, size: int) -> bytes:
        from OpenSSL.SSL import ZeroReturnError

        raise ZeroReturnError

    def shutdown(self) -> bool:
        return True

    def bio_shutdown(self) -> None:
        """Nothing waits."""


class CostTests(SynchronousTestCase):
    def test_rates(self) -> None:
        """The rate follows the cost; 400 where a core does that; and somebody always gets in."""
        self.assertAlmostEqual(affordable_rate(0.0001), 2500)
        self.assertEqual(affordable_rate(0.0007), 400)
        self.assertAlmostEqual(affordable_rate(0.005), 1 / 0.015)
        self.assertEqual(affordable_rate(10), SLOWEST_RATE)
        self.assertGreater(affordable_rate(0), 1000)

    def test_measured(self) -> None:
        """A real handshake with the gateway's certificates is measured, in parts of a second."""
        fleet = Fleet(self)
        seconds = handshake_seconds(fleet.gateway.tls, fleet.home.keys, rounds=2)
        self.assertGreater(seconds, 0)
        self.assertLess(seconds, 1)


class NumberedArrivals(Arrivals):
    """Believes of each connection the descriptor that a test says."""

    number = -1

    def came(self, arrival: Arrival, descriptor: int = -1) -> None:
        super().came(arrival, self.number)


class DescriptorTests(SynchronousTestCase):
    """Near the limit of open files strangers make room."""

    def setUp(self) -> None:
        self.fleet = fleet = Fleet(self)
        self.arrivals = NumberedArrivals(
            fleet.gateway.tls,
            fleet.wheel,
            fleet.gateway.devices,
            fleet.door,
            fleet.gateway.joiner,
            max_files=100,
            metrics=fleet.gateway.metrics,
        )

    def come(self, descriptor: int, host: str = "192.0.2.1") -> MemoryTransport:
        """Let a stranger come on that descriptor."""
        transport = MemoryTransport(host, 1)
        arrival: Any = self.arrivals.buildProtocol(None)
        self.arrivals.number = descriptor
        arrival.makeConnection(transport)
        transport.protocol = arrival
        return transport

    def test_below(self) -> None:
        """Below nine tenths nobody is dropped."""
        all_of_them = [self.come(descriptor) for descriptor in range(20, 90)]
        self.assertFalse(any(transport.aborted for transport in all_of_them))

    def test_near(self) -> None:
        """From nine tenths each newcomer takes the place of the oldest stranger."""
        old, new = self.come(50), self.come(90)
        self.assertEqual((old.aborted, new.aborted), (True, False))
        sample = self.fleet.gateway.metrics.registry.get_sample_value
        self.assertEqual(sample("rshell_connections_refused_total", {"reason": "descriptors"}), 1)

    def test_alone(self) -> None:
        """With known links only below it, a newcomer gets in until hardly any are left."""
        self.assertFalse(self.come(95).aborted)
        self.arrivals._waiting.clear()
        self.arrivals._count = 0
        self.assertTrue(self.come(97).aborted)

    def test_said_once_a_minute(self) -> None:
        """The log says so loudly, once a minute."""
        from twisted.logger import LogLevel, globalLogPublisher

        loud: list[Any] = []

        def listen(event: Any) -> None:
            if event["log_level"] is LogLevel.error:
                loud.append(event)

        observe: Any = listen
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for _ in range(30):
            self.come(92)
        self.assertEqual(len(loud), 1)
        self.fleet.clock.advance(61)
        self.come(92)
        self.assertEqual(len(loud), 2)
