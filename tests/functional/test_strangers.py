"""Crowds of connections that want nothing good, over real sockets; and a real one among them."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rshell.gateway.arrivals import Arrivals
from rshell.gateway.metrics import descriptors_used
from rshell.identity.keys import new_key
from rshell.identity.tls import ALPN_LINK
from rshell.link.core.constants import HELLO_SECONDS
from tests.gateway.fleet import Fleet

reactor: Any = _reactor
EACH = 130
KINDS = ("silent", "trickle", "stopped", "no-hello")


def turn(seconds: float = 0.01) -> Deferred[None]:
    """Let the reactor turn."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned


def lowest_free() -> int:
    """Return the number that the next descriptor gets."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@implementer(IOpenSSLClientConnectionCreator)
class Creator:
    """A TLS client with a device's certificate of this fleet that nobody registered."""

    def __init__(self, fleet: Fleet) -> None:
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        key = new_key()
        name = str(uuid.uuid4())
        leaf = fleet.home.keys.issue_device(key.public_key(), name, datetime.now(UTC))
        context.use_certificate(crypto.X509.from_cryptography(leaf))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.set_alpn_protos([ALPN_LINK])

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self.context, None)

    def client_hello(self) -> bytes:
        """Return a ClientHello."""
        connection = SSL.Connection(self.context, None)
        connection.set_connect_state()
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        return bytes(connection.bio_read(1 << 16))


class Real(Protocol):
    """A device that completes TLS."""

    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(None)


class Talker(ProcessProtocol):
    """A process whose lines we wait for."""

    def __init__(self) -> None:
        self.said: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        if not self.said.called:
            self.said.callback(None)

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(None)


class StrangersTests(TestCase):
    timeout = 90

    async def _listen(self, **more: Any) -> None:
        self.fleet = Fleet(self)
        gateway = self.fleet.gateway
        self.arrivals = Arrivals(
            gateway.tls,
            self.fleet.wheel,
            gateway.devices,
            self.fleet.door,
            gateway.joiner,
            admission=gateway.admission,
            metrics=gateway.metrics,
            **more,
        )
        endpoint = TCP4ServerEndpoint(reactor, 0, backlog=1024, interface="127.0.0.1")
        self.port = await endpoint.listen(self.arrivals.wrapped())
        self.addCleanup(self.port.stopListening)

    def _count(self, name: str, **labels: str) -> float:
        sample = self.fleet.gateway.metrics.registry.get_sample_value
        return sample(f"rshell_{name}_total", labels) or 0

    async def _until(self, ready: Any) -> None:
        for _ in range(3000):
            if ready():
                return
            # The gateway's clock is the test's: admission goes on by it.
            self.fleet.clock.advance(0.002)
            await turn()
        self.fail("it never happened")

    async def _handshakes(self) -> Real:
        """Let a real device in."""
        before = self._count("handshakes")
        real = Real()
        creator = Creator(self.fleet)
        factory: Any = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(lambda: real))
        address = self.port.getHost()
        await TCP4ClientEndpoint(reactor, address.host, address.port).connect(factory)
        await self._until(lambda: self._count("handshakes") > before)
        return real

    def _sockets(self, count: int) -> list[socket.socket]:
        found = []
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", self.port.getHost().port))
            sock.setblocking(False)
            self.addCleanup(sock.close)
            found.append(sock)
        return found

    async def test_crowd(self) -> None:
        """520 that are silent, trickle, stop after ClientHello or say no HELLO are gone in time."""
        await self._listen()
        gc.collect()
        baseline = descriptors_used()
        hello = Creator(self.fleet).client_hello()
        silent, trickle, stopped = (self._sockets(EACH) for _ in range(3))
        for sock in stopped:
            sock.send(hello)
        mute = [await self._handshakes() for _ in range(EACH)]
        await self._until(lambda: self.arrivals._count == EACH * len(KINDS))
        self.assertGreaterEqual(descriptors_used(), baseline + 2 * EACH * len(KINDS))
        for second in range(int(HELLO_SECONDS) + 1):
            for sock in trickle:
                try:
                    sock.send(hello[second : second + 1])
                except OSError:
                    pass  # it was cut off, as it should be
            if second == 5:
                real = await self._handshakes()
            self.fleet.clock.advance(1)
            await turn()
        await self._until(lambda: self.arrivals._count == 1)
        for client in mute:
            await client.over
        for sock in (*silent, *trickle, *stopped):
            sock.close()
        # Both ends of the device that came in the middle, and what the store opened.
        await self._until(lambda: descriptors_used() <= baseline + 6)
        real.transport.abortConnection()  # type: ignore[union-attr]  # TLS over TCP
        await real.over
        await self._until(lambda: self.arrivals._count == 0)
        self.assertEqual(len(self.fleet.gateway.admission), 0)

    async def test_flood_of_handshakes(self) -> None:
        """ClientHellos beyond the rate wait in the queue; nobody's accept waits."""
        await self._listen()
        self.fleet.gateway.admission._bucket.burst = 5
        self.fleet.gateway.admission._bucket._tokens = 5
        hello = Creator(self.fleet).client_hello()
        for sock in self._sockets(100):
            sock.send(hello)
        while self.arrivals._count < 100:
            await turn()
        while len(self.fleet.gateway.admission) < 95:
            await turn()
        self.fleet.clock.advance(0.5)
        self.assertEqual(len(self.fleet.gateway.admission), 90)
        self.fleet.clock.advance(HELLO_SECONDS)
        await self._until(lambda: self.arrivals._count == 0)
        self.assertEqual(len(self.fleet.gateway.admission), 0)
        # Ten began and said no more; the others' turn did not come in time.
        self.assertEqual(self._count("connections_refused", reason="timeout"), 10)
        self.assertEqual(self._count("connections_refused", reason="admission"), 90)

    async def test_no_descriptors_left(self) -> None:
        """At the limit of open files accepting goes on: later, a device gets in."""
        await self._listen()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        program = (
            "import resource,socket,sys\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            f"address=('127.0.0.1',{self.port.getHost().port})\n"
            "kept=[socket.create_connection(address) for _ in range(300)]\n"
            "print('all', flush=True)\n"
            "sys.stdin.read()\n"
        )
        talker = Talker()
        process = reactor.spawnProcess(talker, sys.executable, [sys.executable, "-c", program], {})
        limit = lowest_free() + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        await talker.said
        for _ in range(50):
            await turn()
        self.assertLess(self.arrivals._count, 45)
        process.closeStdin()
        await talker.ended
        await self._until(lambda: self.arrivals._count == 0)
        real = await self._handshakes()
        real.transport.abortConnection()  # type: ignore[union-attr]  # TLS over TCP
        await real.over
        await self._until(lambda: self.arrivals._count == 0)
        self.flushLoggedErrors()

    async def test_room_is_made_before_the_limit(self) -> None:
        """Near the limit the oldest strangers go, and the newest are served."""
        await self._listen(max_files=int((lowest_free() + 160) / 0.9))
        self._sockets(100)
        await self._until(lambda: self._count("connections_refused", reason="descriptors") > 20)
        real = await self._handshakes()
        real.transport.abortConnection()  # type: ignore[union-attr]  # TLS over TCP
        await real.over
        self.fleet.clock.advance(HELLO_SECONDS + 1)
        await self._until(lambda: self.arrivals._count == 0)
