"""Dialling through an HTTP proxy: real sockets for the way through, a fake one for its answers."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from rshell.link.addresses import NameLookup
from rshell.link.proxy import BadProxy, Proxy, ProxyEndpoint, ProxyFailed, _Tunnel
from rshell.link.sockets import tcp_socket_of
from tests.link.test_sockets import OPTIONS, options

REACTOR: Any = reactor  # trial's own; the product never imports one
SECRET = "hunter2"


class ParseTests(SynchronousTestCase):
    def test_good(self) -> None:
        """Host, port and, percent-decoded, user and password."""
        for text, expected in (
            ("http://10.0.0.1:3128", Proxy("10.0.0.1", 3128)),
            ("http://proxy.example.net:80/", Proxy("proxy.example.net", 80)),
            ("http://[2001:db8::1]:3128", Proxy("2001:db8::1", 3128)),
            ("http://me:p%40ss:w@p:1", Proxy("p", 1, b"me:p@ss:w")),
            ("http://me:@p:1", Proxy("p", 1, b"me:")),
        ):
            self.assertEqual(expected, Proxy.parse(text))

    def test_bad(self) -> None:
        """Anything else is refused, without a word of what it said."""
        for text in (
            "",
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://proxy",
            "http://proxy:0",
            "http://proxy:99999",
            "http://proxy:3128/path",
            "http://proxy:3128?x",
            f"http://{SECRET}@proxy:3128",
            f"http://:{SECRET}@proxy:3128",
            f"http://me:{SECRET}%0d%0aX@proxy:3128",
            f"http://m%3Ae:{SECRET}@proxy:3128",
            f"http://me:{SECRET}@x@proxy:3128",
            f"http://me:{SECRET}@pro xy:3128",
            "http://proxy:3128\r\nX: y",
        ):
            error = self.assertRaises(BadProxy, Proxy.parse, text)
            self.assertNotIn(SECRET, str(error))

    def test_password_is_not_shown(self) -> None:
        """Neither str nor repr of a proxy has its password."""
        proxy = Proxy.parse(f"http://me:{SECRET}@[::1]:3128")
        self.assertEqual("[::1]:3128", str(proxy))
        self.assertNotIn(SECRET, repr(proxy))


class Inner(Protocol):
    """What speaks through the tunnel."""

    def __init__(self) -> None:
        self.got = b""
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost += 1


class Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class AnswerTests(SynchronousTestCase):
    """What a proxy may answer, and what then happens."""

    def setUp(self) -> None:
        self.inner = Inner()
        self.clock = Clock()
        self.transport = Transport()

    def tunnel(self, proxy: str = "http://p:3128", target: str = "gw:7411") -> _Tunnel:
        factory = Factory.forProtocol(lambda: self.inner)
        tunnel = _Tunnel(self.clock, Proxy.parse(proxy), target, factory, 20.0)
        tunnel.makeConnection(self.transport)
        return tunnel

    def why(self, tunnel: _Tunnel) -> str:
        text = str(self.failureResultOf(tunnel.through, ProxyFailed).value)
        self.assertTrue(self.transport.aborted)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertIsNone(self.inner.transport)
        return text

    def test_request(self) -> None:
        """CONNECT with host and port, Host, and the credentials if there are any."""
        self.tunnel()
        self.assertEqual(
            b"CONNECT gw:7411 HTTP/1.1\r\nHost: gw:7411\r\n\r\n", self.transport.value()
        )
        self.transport.clear()
        self.tunnel(f"http://me:{SECRET}@p:3128")
        told = base64.b64encode(f"me:{SECRET}".encode())
        self.assertIn(b"\r\nProxy-Authorization: Basic " + told + b"\r\n", self.transport.value())

    def test_way_through(self) -> None:
        """After a 200 the protocol is connected; bytes behind the header belong to it."""
        tunnel = self.tunnel()
        tunnel.dataReceived(b"HTTP/1.1 200 Connection established\r\nX-A: b\r\n\r\n\x16\x03")
        self.assertIs(self.inner, self.successResultOf(tunnel.through))
        tunnel.dataReceived(b"\x01")
        self.assertEqual(b"\x16\x03\x01", self.inner.got)
        self.assertEqual([], self.clock.getDelayedCalls())
        tunnel.connectionLost()
        self.assertEqual(1, self.inner.lost)

    def test_byte_by_byte(self) -> None:
        """However the answer is cut into pieces, it means the same."""
        tunnel = self.tunnel()
        for byte in b"HTTP/1.0 200 OK\r\n\r\nrest":
            tunnel.dataReceived(bytes([byte]))
        self.assertEqual(b"rest", self.inner.got)

    def test_refusals(self) -> None:
        """A refusal is told with its number and text, and nothing of its page."""
        for status, text in (
            (b"407 Proxy Authentication Required", "407 Proxy Authentication Required"),
            (b"403 Forbidden", "403 Forbidden"),
            (b"502 Bad\x1b[2J\xff Gateway", None),
            (b"502", "502"),
            (b"302 Found", "302 Found"),
        ):
            self.transport = Transport()
            tunnel = self.tunnel(f"http://me:{SECRET}@10.0.0.1:3128")
            tunnel.dataReceived(b"HTTP/1.1 " + status + b"\r\nA: b\r\n\r\n<html>")
            why = self.why(tunnel)
            if text is not None:
                self.assertEqual(f"the proxy 10.0.0.1:3128 refuses: {text}", why)
            else:
                self.assertIn("does not speak HTTP", why)
            self.assertNotIn(SECRET, why)

    def test_garbage(self) -> None:
        """What is no HTTP answer ends the attempt at once."""
        for data in (
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 200 OK\n\n",
            b"HTTP/1.1 0200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\na: \x00\r\n\r\n",
        ):
            self.transport = Transport()
            tunnel = self.tunnel()
            tunnel.dataReceived(data)
            if not tunnel.through.called:
                self.clock.advance(20)  # an end of line that is none is never a whole header
            self.assertIn("the proxy p:3128 d", self.why(tunnel))

    def test_too_long(self) -> None:
        """More than 8 KiB of header is refused, with or without its end."""
        for end in (b"", b"\r\n\r\n"):
            self.transport = Transport()
            tunnel = self.tunnel()
            tunnel.dataReceived(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 8192 + end)
            self.assertIn("8 KiB", self.why(tunnel))

    def test_hangs(self) -> None:
        """20 s without an answer end the attempt; later bytes mean nothing."""
        tunnel = self.tunnel()
        self.clock.advance(19.9)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(0.1)
        self.assertEqual("the proxy p:3128 did not answer within 20 s", self.why(tunnel))
        tunnel.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertIsNone(self.inner.transport)

    def test_closes(self) -> None:
        """A proxy that closes is told as such."""
        tunnel = self.tunnel()
        tunnel.connectionLost()
        self.assertIn("closed the connection", self.why(tunnel))


class Middleman(Protocol):
    """A proxy on a real socket: says yes, then is an echo."""

    asked = b""
    open = False

    def connectionMade(self) -> None:
        self.factory.made.append(self)  # type: ignore[union-attr]  # as the test sets it

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if self.open:
            transport.write(data)
            return
        self.asked += data
        if self.asked.endswith(b"\r\n\r\n"):
            self.open = True
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")


class Echoed(Protocol):
    def __init__(self) -> None:
        self.echoed: Deferred[bytes] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.echoed.callback(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)


class EndpointTests(TestCase):
    """Over the loopback."""

    timeout = 20

    def setUp(self) -> None:
        factory: Any = Factory.forProtocol(Middleman)
        factory.made = self.made = []
        self.port = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.addCleanup(self.port.stopListening)

    def endpoint(self, host: str = "127.0.0.1", lookup: Any = None) -> ProxyEndpoint:
        proxy = Proxy(host, self.number)
        return ProxyEndpoint(
            REACTOR, proxy, "gw.example.net", 7411, lookup or NameLookup(REACTOR), 5.0
        )

    async def test_through(self) -> None:
        """The name goes to the proxy, bytes go both ways, the socket has the link's options."""
        endpoint = self.endpoint()
        self.assertTrue(verifyObject(IStreamClientEndpoint, endpoint))
        inner: Any = await endpoint.connect(Factory.forProtocol(Echoed))
        self.assertEqual(b"hello", await inner.echoed)
        self.assertTrue(self.made[0].asked.startswith(b"CONNECT gw.example.net:7411 "))
        _, sock = tcp_socket_of(inner.transport)
        assert sock is not None
        self.assertEqual(OPTIONS, options(sock))
        inner.transport.loseConnection()
        await inner.gone

    async def test_all_addresses_of_the_proxy(self) -> None:
        """A proxy's name may have an address where nobody listens."""

        class Lookup:
            def resolve(self, host: str, port: int) -> Deferred[list[str]]:
                return succeed(["::1", "127.0.0.1"])

        inner: Any = await self.endpoint("proxy", Lookup()).connect(Factory.forProtocol(Echoed))
        self.assertEqual(b"hello", await inner.echoed)
        inner.transport.loseConnection()
        await inner.gone

    async def test_nobody_there(self) -> None:
        """A proxy that cannot be reached, or found, is named as the reason."""
        endpoint = self.endpoint()
        await self.port.stopListening()
        error = await self.assertFailure(endpoint.connect(Factory.forProtocol(Echoed)), ProxyFailed)
        self.assertIn("cannot be reached", str(error))

        def look(host: str, port: int, flags: int) -> list[str]:
            raise OSError(-2, "Name or service not known")

        endpoint = self.endpoint("proxy.invalid", NameLookup(REACTOR, look))
        error = await self.assertFailure(endpoint.connect(Factory.forProtocol(Echoed)), ProxyFailed)
        self.assertIn("Name or service not known", str(error))
