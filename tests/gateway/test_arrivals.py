"""Whatever connects: one log line, a closed socket, no traceback, over real loopback sockets."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from rshell.gateway.arrivals import ALL_LINES_BURST, Arrival, Arrivals
from rshell.identity.authority import CertificateAuthority, new_fleet
from rshell.identity.keys import PrivateKey, new_key
from rshell.identity.tls import ALPN_JOIN, ALPN_LINK
from tests.gateway.fleet import Fleet
from tests.gateway.wires import MemoryTransport

reactor: Any = _reactor


class Client(Protocol):
    """Sends something, collects what comes, and says when it is over."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.got = bytearray()
        self.closed: Deferred[None] = Deferred()
        self.connected_once: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        for start in range(0, len(self.first), 65536):
            transport.write(self.first[start : start + 65536])
        self.connected_once.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


@implementer(IOpenSSLClientConnectionCreator)
class Creator:
    """A TLS client that believes everybody."""

    def __init__(self, **more: Any) -> None:
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        if (leaf := more.get("leaf")) is not None:
            context.use_certificate(crypto.X509.from_cryptography(leaf[1]))
            context.use_privatekey(crypto.PKey.from_cryptography_key(leaf[0]))
        if alpn := more.get("alpn"):
            context.set_alpn_protos(alpn)
        if version := more.get("version"):
            context.set_max_proto_version(version)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class ArrivalsTests(TestCase):
    timeout = 30

    async def _listen(self) -> None:
        self.fleet = Fleet(self)
        self.events: list[Any] = []
        self.waiters: list[tuple[Callable[[], bool], Deferred[None]]] = []
        observer: Any = self._observe
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port = await endpoint.listen(self.fleet.arrivals.wrapped())
        self.addCleanup(self.port.stopListening)

    def _observe(self, event: Any) -> None:
        self.events.append(event)
        for ready, waiter in list(self.waiters):
            if ready() and not waiter.called:
                waiter.callback(None)

    def lines(self) -> list[str]:
        """Return what rshell logged."""
        ours = [e for e in self.events if e.get("log_namespace", "").startswith("rshell.")]
        return [event["log_format"].format(**event) for event in ours]

    async def _logged(self) -> None:
        """Wait for the first line of rshell's."""
        if not self.lines():
            waiter: Deferred[None] = Deferred()
            self.waiters.append((lambda: bool(self.lines()), waiter))
            await waiter

    async def _connect(self, client: Client, creator: Creator | None = None) -> Client:
        factory: Any = Factory.forProtocol(lambda: client)
        if creator is not None:
            factory = TLSMemoryBIOFactory(creator, True, factory)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        await endpoint.connect(factory)
        return client

    async def _refused(
        self, *words: str, creator: Creator | None = None, send: bytes = b""
    ) -> None:
        """Connect; exactly one line holds these words, and the socket is closed."""
        client = await self._connect(Client(send), creator)
        await self._logged()
        await client.closed
        (line,) = self.lines()
        for word in ("127.0.0.1:", *words):
            self.assertIn(word, line)
        self._quiet()

    def _quiet(self) -> None:
        gc.collect()
        loud = [e for e in self.events if e.get("log_level", LogLevel.info) >= LogLevel.error]
        self.assertEqual(loud, [])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.fleet.arrivals._count, 0)
        self.assertEqual(len(self.fleet.gateway.presence), 0)

    def device_leaf(self, keys: Any = None) -> tuple[PrivateKey, Any]:
        """Return a key and a certificate of a device nobody registered."""
        key = new_key()
        keys = keys or self.fleet.home.keys
        name = "00000000-0000-4000-8000-000000000000"
        return key, keys.issue_device(key.public_key(), name, datetime.now(UTC))

    async def test_wrong_ca(self) -> None:
        """A device of another fleet's CA is refused in the handshake."""
        await self._listen()
        creator = Creator(alpn=[ALPN_LINK], leaf=self.device_leaf(new_fleet(datetime.now(UTC))))
        await self._refused("unknown authority", creator=creator)

    async def test_self_signed(self) -> None:
        """A certificate that signed itself is refused."""
        await self._listen()
        keys = new_fleet(datetime.now(UTC))
        root: CertificateAuthority = keys.root
        creator = Creator(alpn=[ALPN_LINK], leaf=(root.signing_key(), root.certificate))
        await self._refused("refused", creator=creator)

    async def test_gateways_certificate(self) -> None:
        """A gateway's own certificate does not pass for a client's."""
        await self._listen()
        leaf = self.fleet.home.leaf
        await self._refused(
            "refused", creator=Creator(alpn=[ALPN_LINK], leaf=(leaf.key, leaf.chain[0]))
        )

    async def test_device_certificate_of_the_operator_ca(self) -> None:
        """A device's name in a certificate of the operator CA is refused."""
        await self._listen()
        keys = self.fleet.home.keys
        import attrs

        crossed = attrs.evolve(keys, device=keys.operator)
        creator = Creator(alpn=[ALPN_LINK], leaf=self.device_leaf(crossed))
        await self._refused("not of the device CA", creator=creator)

    async def test_no_certificate(self) -> None:
        """A link without a certificate is refused."""
        await self._listen()
        await self._refused("no certificate", creator=Creator(alpn=[ALPN_LINK]))

    async def test_no_alpn(self) -> None:
        """A TLS client that names no protocol is refused."""
        await self._listen()
        creator = Creator(leaf=self.device_leaf())
        await self._refused("no application protocol", creator=creator)

    async def test_foreign_alpn(self) -> None:
        """A web browser's ALPN is refused."""
        await self._listen()
        await self._refused("application protocol", creator=Creator(alpn=[b"h2", b"http/1.1"]))

    async def test_tls_1_2(self) -> None:
        """TLS 1.2 is refused (rule P1)."""
        await self._listen()
        creator = Creator(alpn=[ALPN_LINK], version=SSL.TLS1_2_VERSION, leaf=self.device_leaf())
        await self._refused("TLS 1.3", creator=creator)

    async def test_http(self) -> None:
        """An HTTP request is refused, and named."""
        await self._listen()
        await self._refused("HTTP request", send=b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")

    async def test_random_bytes(self) -> None:
        """Random bytes are refused."""
        await self._listen()
        await self._refused("refused a connection", send=b"\x99" + os.urandom(4000))

    async def test_ten_megabytes_of_zeros(self) -> None:
        """Ten megabytes of nothing are not swallowed."""
        await self._listen()
        await self._refused("not TLS", send=bytes(10_000_000))

    async def test_silence(self) -> None:
        """Who connects and says nothing is cut off after ten seconds."""
        await self._listen()
        client = await self._connect(Client())
        while not self.fleet.arrivals._count:
            await _turn()
        self.fleet.clock.advance(9.5)
        self.assertEqual(self.lines(), [])
        self.fleet.clock.advance(1)
        await client.closed
        self.assertEqual(len(self.lines()), 1)
        self.assertIn("no TLS handshake in time", self.lines()[0])
        self._quiet()

    async def test_no_hello(self) -> None:
        """A good device certificate without HELLO is cut off ten seconds after it connected."""
        await self._listen()
        creator = Creator(alpn=[ALPN_LINK], leaf=self.device_leaf())
        client = await self._connect(Client(), creator)
        while not self.fleet.gateway.devices._entries:
            await _turn()
        self.fleet.clock.advance(10.5)
        await client.closed
        (line,) = self.lines()
        self.assertIn("no HELLO in time", line)
        self._quiet()

    async def test_flood_from_many_sources(self) -> None:
        """However many sources connect, the log gets a bounded number of lines."""
        await self._listen()
        arrivals = self.fleet.arrivals
        sources = [f"2001:db8:0:{n:x}" for n in range(3 * ALL_LINES_BURST)]
        said = [arrivals.line_about(source) for source in sources]
        self.assertEqual(said.count(""), ALL_LINES_BURST)
        self.assertIsNone(said[-1])
        self.fleet.clock.advance(1)
        self.assertEqual(
            arrivals.line_about("192.0.2.1"),
            f" ({2 * ALL_LINES_BURST} lines about other sources left out)",
        )

    async def test_garbage_after_the_handshake(self) -> None:
        """A good certificate and then garbage: one line, GOAWAY, closed."""
        await self._listen()
        creator = Creator(alpn=[ALPN_LINK], leaf=self.device_leaf())
        client = await self._connect(Client(b"\xff" * 4096), creator)
        await client.closed
        await self._logged()
        self.assertEqual(len(self.lines()), 1)
        self.assertIn(b"frame-size", client.got)
        self._quiet()

    async def test_expired_device(self) -> None:
        """An expired device certificate passes TLS: it is judged later (rule E4)."""
        await self._listen()
        key = new_key()
        long_ago = datetime.now(UTC) - timedelta(days=200)
        leaf = self.fleet.home.keys.issue_device(
            key.public_key(), "00000000-0000-4000-8000-000000000000", long_ago
        )
        await self._connect(Client(), Creator(alpn=[ALPN_LINK], leaf=(key, leaf)))
        while not self.fleet.gateway.devices._entries:
            await _turn()
        (link,) = self.fleet.gateway.devices._entries
        self.assertTrue(link.peer.expired)
        link.abort("enough")
        await _turn()

    async def test_garbage_of_a_joiner(self) -> None:
        """Garbage on a join connection: one line, GOAWAY, closed."""
        await self._listen()
        client = await self._connect(Client(b"\xff" * 8), Creator(alpn=[ALPN_JOIN]))
        await client.closed
        await self._logged()
        self.assertEqual(len(self.lines()), 1)
        self.assertIn("refused a join", self.lines()[0])
        while self.fleet.arrivals._count:
            await _turn()
        self._quiet()

    async def test_joiner_counts_as_a_stranger(self) -> None:
        """A machine that joins is counted among the strangers until it is gone."""
        await self._listen()
        client = await self._connect(Client(), Creator(alpn=[ALPN_JOIN]))
        groups = self.fleet.arrivals._waiting
        while not any(arrival._inner for group in groups.values() for arrival in group):
            await _turn()
        self.fleet.clock.advance(15.5)
        await client.closed
        self.assertEqual(len(self.lines()), 1)
        self.assertIn("no JOIN in time", self.lines()[0])
        self._quiet()


def _turn() -> Deferred[None]:
    """Let the reactor turn once."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.005, turned.callback, None)
    return turned


class CapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fleet = Fleet(self)
        gateway = self.fleet.gateway
        self.arrivals = Arrivals(
            gateway.tls, self.fleet.wheel, gateway.devices, self.fleet.door, gateway.joiner, 4
        )

    def come(self, host: str) -> MemoryTransport:
        """Let a connection come that says nothing."""
        transport = MemoryTransport(host, 1)
        arrival = self.arrivals.buildProtocol(None)
        assert isinstance(arrival, Arrival)
        arrival.makeConnection(transport)
        transport.protocol = arrival
        return transport

    def test_default(self) -> None:
        """The cap is 2,000 by default."""
        self.assertEqual(self.fleet.arrivals._max_waiting, 2_000)

    def test_oldest_of_the_busiest_source_goes(self) -> None:
        """At the cap the oldest of the source with the most connections makes room."""
        lone = self.come("192.0.2.1")
        busy = [self.come("192.0.2.2") for _ in range(3)]
        late = self.come("192.0.2.3")
        self.assertEqual([t.aborted for t in (lone, late)], [False, False])
        self.assertEqual([t.aborted for t in busy], [True, False, False])

    def test_flood_leaves_others_alone(self) -> None:
        """One source that floods drops its own connections only."""
        lone = self.come("192.0.2.1")
        flood = [self.come("192.0.2.2") for _ in range(50)]
        self.assertFalse(lone.aborted)
        self.assertEqual(sum(not transport.aborted for transport in flood), 3)
        self.assertEqual(self.arrivals._count, 4)

    def test_gone_are_not_counted(self) -> None:
        """Connections that ended make room, and the counts return to nothing."""
        for _ in range(20):
            transport = self.come("192.0.2.1")
            transport.protocol.connectionLost()
        self.assertEqual((self.arrivals._count, self.arrivals._waiting), (0, {}))

    def test_evicted_end_is_counted_once(self) -> None:
        """The end of a connection that was dropped for others does not count again."""
        all_of_them = [self.come("192.0.2.1") for _ in range(6)]
        for transport in all_of_them:
            transport.protocol.connectionLost()
        self.assertEqual((self.arrivals._count, self.arrivals._waiting), (0, {}))
