"""Socket options of rule P8, read back from real sockets on the loopback."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_OPERATOR
from rshell.link.dialling import LinkEndpoint
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import own_the_queue, set_link_options, tcp_socket_of
from tests.link.fakes import Application, FakeTransport, Owner
from tests.link.pairs import hello, request, welcome

REACTOR: Any = reactor  # trial's own; the product never imports one
TCP = socket.IPPROTO_TCP
OPTIONS: dict[tuple[int, int], int] = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (TCP, socket.TCP_KEEPIDLE): 30,
    (TCP, socket.TCP_KEEPINTVL): 10,
    (TCP, socket.TCP_KEEPCNT): 3,
    (TCP, socket.TCP_USER_TIMEOUT): 60_000,
    (TCP, socket.TCP_NODELAY): 1,
    (TCP, socket.TCP_NOTSENT_LOWAT): 16_384,
}


def options(sock: socket.socket) -> dict[tuple[int, int], int]:
    """Read the options back."""
    return {name: sock.getsockopt(*name) for name in OPTIONS}


class Meeting(Owner):
    """An owner whose Deferreds fire when the link is up and when it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.up: Deferred[LinkProtocol] = Deferred()
        self.gone: Deferred[str] = Deferred()

    def hello_received(self, link: LinkProtocol, hello: Any) -> None:
        link.welcome(welcome())
        self.up.callback(link)

    def welcome_received(self, link: LinkProtocol, welcome: Any) -> None:
        self.up.callback(link)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.gone.callback(reason)


class LinkFactory(Factory):
    """Builds links for one owner."""

    noisy = False

    def __init__(self, owner: Owner, wheel: TimerWheel, *, dialler: bool) -> None:
        self.owner = owner
        self.wheel = wheel
        self.dialler = dialler

    def buildProtocol(self, addr: Any) -> LinkProtocol:
        limits = AT_AGENT if self.dialler else AT_GATEWAY_FROM_OPERATOR
        return LinkProtocol(self.owner, self.wheel, dialler=self.dialler, limits=limits)


class SocketTests(TestCase):
    """Real sockets."""

    timeout = 10

    def test_options(self) -> None:
        """All options are set on a fresh socket, IPv4 and IPv6."""
        for family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(family) as sock:
                self.assertNotEqual(options(sock), OPTIONS)
                set_link_options(sock)
                self.assertEqual(options(sock), OPTIONS)

    async def test_link(self) -> None:
        """Two links over the loopback greet each other; both sockets have the options."""
        wheel = TimerWheel(Clock())  # no timer is needed: nothing is late
        server, client = Meeting(), Meeting()
        port = REACTOR.listenTCP(
            0, LinkFactory(server, wheel, dialler=False), interface="127.0.0.1"
        )
        endpoint = LinkEndpoint(REACTOR, "127.0.0.1", port.getHost().port)
        try:
            link: Any = await endpoint.connect(LinkFactory(client, wheel, dialler=True))
            link.hello(hello())
            accepted = await server.up
            await client.up
            for one in (link, accepted):
                transport, sock = tcp_socket_of(one.transport)
                assert sock is not None
                self.assertEqual(options(sock), OPTIONS)
                self.assertTrue(transport.bufferSize < 2, "a record fills the send buffer")
                self.assertGreaterEqual(int(transport.bufferSize), 16_384, "reads are large")
            link.abort("the test is over")
            self.assertEqual(await client.gone, "the test is over")
            await server.gone
        finally:
            await port.stopListening()

    async def test_before_connect(self) -> None:
        """The dialling socket has the options before the first SYN is answered."""
        seen: list[tuple[bool, dict[tuple[int, int], int]]] = []

        def look() -> None:
            for selectable in REACTOR.getWriters():
                if selectable.getPeer() == IPv4Address("TCP", *address):
                    seen.append((bool(selectable.connected), options(selectable.socket)))

        # Nobody accepts: a full backlog leaves the connection in SYN_SENT.
        with contextlib.ExitStack() as sockets:
            server = sockets.enter_context(socket.socket())
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            address = server.getsockname()
            for _ in range(4):
                filler = sockets.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            endpoint = LinkEndpoint(REACTOR, address[0], address[1], timeout_seconds=0.3)
            connecting = endpoint.connect(Factory.forProtocol(Protocol))
            call = REACTOR.callLater(0.1, look)
            await self.assertFailure(connecting, TimeoutError)
        self.assertFalse(call.active())
        self.assertEqual(seen, [(False, OPTIONS)])

    async def test_refused(self) -> None:
        """A port where nobody listens fails the Deferred."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            number = sock.getsockname()[1]
        endpoint = LinkEndpoint(REACTOR, "127.0.0.1", number)
        self.assertTrue(verifyObject(IStreamClientEndpoint, endpoint))
        await self.assertFailure(
            endpoint.connect(Factory.forProtocol(Protocol)), ConnectionRefusedError
        )

    async def test_many_bytes(self) -> None:
        """A megabyte each way over real sockets, one record at a time."""
        wheel = TimerWheel(Clock())  # no timer is needed: nothing is late
        server, client = Meeting(), Meeting()
        port = REACTOR.listenTCP(
            0, LinkFactory(server, wheel, dialler=False), interface="127.0.0.1"
        )
        endpoint = LinkEndpoint(REACTOR, "127.0.0.1", port.getHost().port)
        here, there = Application(), Application()
        done: Deferred[None] = Deferred()

        def accept(link: Any, number: int, opening: Any) -> None:
            there.channel = StreamChannel(link, there)
            there.on_data = there.channel.write
            there.channel.accept(number, opening)

        def count(data: bytes) -> None:
            if len(here.got) == len(payload):
                done.callback(None)

        payload = bytes(range(256)) * 4096
        server.on_request = accept
        here.on_data = count
        try:
            link: Any = await endpoint.connect(LinkFactory(client, wheel, dialler=True))
            link.hello(hello())
            await client.up
            here.channel = StreamChannel(link, here)
            here.channel.request(request())
            here.channel.write(payload)
            await done
            self.assertEqual(here.got, payload)
            link.abort("the test is over")
            await server.gone
        finally:
            await port.stopListening()


class WrapperTests(TestCase):
    """Without sockets."""

    def test_memory_transport(self) -> None:
        """A transport without a socket is left alone, but owns no queue either."""
        transport = FakeTransport()
        self.assertEqual(tcp_socket_of(transport), (transport, None))
        own_the_queue(transport)
        self.assertEqual([size > transport.bufferSize for size in (0, 1, 2)], [False, False, True])
