"""Dialling through an HTTP proxy: CONNECT (RFC 9110 section 9.3.6), and TLS inside.

The proxy resolves the gateway's name.  It sees that name and encrypted bytes; it cannot take part,
for the link is authenticated at both ends.  Environment variables such as ``https_proxy`` are not
read: what a device does must not depend on who started it.
"""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.addresses import BadAddress, NameLookup, split_address
from rshell.link.dialling import LinkEndpoint, connect_first

__all__ = ["BadProxy", "Proxy", "ProxyEndpoint", "ProxyFailed"]

#: A proxy that has to reach a slow gateway first gets as long as TCP itself.
ANSWER_SECONDS = 20.0
#: Real answers have a few hundred bytes.
MAX_HEADER = 8 * 1024

_URL = re.compile(r"http://(?:([!-.0-?A-~]*)@)?([^@/\s]+:[0-9]{1,5})/?", re.ASCII)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([\t \x21-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class BadProxy(ValueError):
    """Text that names no proxy; the message is one line and repeats nothing of it."""


class ProxyFailed(Exception):
    """The proxy gave no way through; the message says which proxy and why, in one line."""


@attrs.frozen
class Proxy:
    """An HTTP proxy and what it wants to be told.

    Attributes:
        host: Name or address, without brackets.
        port: TCP port.
        credentials: ``user:password`` for Basic authentication (RFC 7617), or None.
    """

    host: str
    port: int
    credentials: bytes | None = attrs.field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read ``http://[user:password@]host:port``; both may be percent-encoded.

        Raises:
            BadProxy: It is something else.
        """
        match = _URL.fullmatch(text)
        if match is None:
            raise BadProxy("not of the form http://[user:password@]host:port")
        try:
            host, port = split_address(match[2])
        except BadAddress:
            raise BadProxy("its host or port is malformed") from None
        if match[1] is None:
            return cls(host, port)
        user, colon, password = match[1].partition(":")
        if not user or not colon:
            raise BadProxy("before the @ must stand user:password")
        name, secret = unquote_to_bytes(user), unquote_to_bytes(password)
        if b":" in name or any(byte < 0x20 or byte == 0x7F for byte in name + secret):
            # RFC 7617 section 2: neither can be told
            raise BadProxy("a colon in the user's name, or a control character, cannot be sent")
        return cls(host, port, name + b":" + secret)

    def __str__(self) -> str:
        return _authority(self.host, self.port)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """Connects to a gateway by way of a proxy.

    Args:
        reactor: Where the connection lives.
        proxy: Which; all its addresses are tried.
        host: The gateway's name or address, for the proxy to resolve.
        port: The gateway's TCP port.
        lookup: Finds the proxy's own addresses.
        timeout_seconds: How long the proxy may take to answer.
    """

    def __init__(
        self,
        reactor: Any,
        proxy: Proxy,
        host: str,
        port: int,
        lookup: NameLookup,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._target = _authority(host, port)
        self._lookup = lookup
        self._timeout = timeout_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fire with the protocol once the proxy lets bytes through; else `ProxyFailed`."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            addresses = await self._lookup.resolve(self._proxy.host, self._proxy.port)
        except OSError as error:
            why = error.strerror or str(error)
            raise ProxyFailed(f"the name of the proxy {self._proxy} is not found: {why}") from None
        tunnels = [lambda a=address: self._reach(a, factory) for address in addresses]
        try:
            tunnel = await connect_first(self._reactor, tunnels, _Tunnel.drop)
        except ConnectError as error:
            why = " ".join(str(error).split()).rstrip(".")
            raise ProxyFailed(f"the proxy {self._proxy} cannot be reached: {why}") from None
        return await tunnel.through

    def _reach(self, address: str, factory: IProtocolFactory) -> Deferred[_Tunnel]:
        made: list[_Tunnel] = []

        def build() -> Protocol:
            made.append(_Tunnel(self._reactor, self._proxy, self._target, factory, self._timeout))
            return made[0]

        outer = Factory.forProtocol(build)
        outer.noisy = False
        connected = LinkEndpoint(self._reactor, address, self._proxy.port).connect(outer)
        return connected.addCallback(lambda _: made[0])


class _Tunnel(Protocol):
    """One connection to a proxy: asks for the way through, then only passes on.

    Attributes:
        through: Fires with the inner protocol, or fails with `ProxyFailed`.
    """

    def __init__(
        self,
        clock: Any,
        proxy: Proxy,
        target: str,
        factory: IProtocolFactory,
        timeout_seconds: float,
    ) -> None:
        self.through: Deferred[IProtocol] = Deferred(lambda _: self.give_up())
        self._clock = clock
        self._proxy = proxy
        self._target = target
        self._factory = factory
        self._timeout = timeout_seconds
        self._answer = bytearray()
        self._timer: IDelayedCall | None = None
        self._peer: IAddress | None = None
        self._inner: Any = None

    def give_up(self) -> None:
        """Close at once, without a word."""
        self._stop_timer()
        transport: Any = self.transport
        transport.abortConnection()

    def drop(self) -> None:
        """Give up where another connection was faster: nobody waits for the answer."""
        self.through.addErrback(lambda _: None)
        self.give_up()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._peer = transport.getPeer()
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.credentials is not None:
            told = base64.b64encode(self._proxy.credentials).decode()
            lines.append(f"Proxy-Authorization: Basic {told}")
        transport.write("\r\n".join([*lines, "", ""]).encode())
        self._timer = self._clock.callLater(
            self._timeout, self._fail, f"did not answer within {self._timeout:g} s"
        )

    def dataReceived(self, data: bytes) -> None:
        if self.through.called:
            return  # it was given up
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end > MAX_HEADER or (end < 0 and len(self._answer) > MAX_HEADER):
            self._fail(f"answers with more than {MAX_HEADER // 1024} KiB of header")
        elif end >= 0:
            self._judge(bytes(self._answer[:end]), bytes(self._answer[end + 4 :]))
        elif not b"HTTP/1.".startswith(self._answer[:7]):
            self._fail("does not speak HTTP")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._fail("closed the connection without an answer")

    def _judge(self, header: bytes, rest: bytes) -> None:
        first, *fields = header.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None or not all(_FIELD.fullmatch(field) for field in fields):
            self._fail("does not speak HTTP")
        elif not status[1].startswith(b"2"):
            # of the rest of the answer nothing is read: it is a page for a browser
            reason = (status[2] or b"").decode("ascii", "replace")[:80]
            text = "".join(c if c.isascii() and c.isprintable() else "?" for c in reason)
            self._fail(f"refuses: {status[1].decode()} {text}".rstrip())
        else:
            self._pass_on(rest)

    def _pass_on(self, rest: bytes) -> None:
        self._stop_timer()
        self._answer.clear()
        factory: Any = self._factory
        self._inner = inner = factory.buildProtocol(self._peer)
        self.dataReceived = inner.dataReceived  # type: ignore[method-assign]  # one hop less
        inner.makeConnection(self.transport)
        self.through.callback(inner)
        if rest:
            # a server that speaks first; TLS does not, but the bytes are not ours
            self._inner.dataReceived(rest)

    def _fail(self, why: str) -> None:
        self._stop_timer()
        if not self.through.called:
            self.through.errback(ProxyFailed(f"the proxy {self._proxy} {why}"))
        transport: Any = self.transport
        transport.abortConnection()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
