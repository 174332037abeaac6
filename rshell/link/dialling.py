"""A TCP client endpoint whose socket options are set before ``connect()`` (rule P8)."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import _WrappingFactory
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from rshell.link.sockets import set_link_options

__all__ = ["LinkEndpoint"]

#: The kernel alone would try for 130 s (rule K4 of good manners: a dead path is found early).
CONNECT_SECONDS = 20.0


class _LinkClient(tcp.Client):
    """A TCP client connection with link options from its first SYN on."""

    def createInternetSocket(self) -> socket.socket:
        # Twisted leaves this part of tcp.Client untyped.
        sock: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]  # see above
        set_link_options(sock)
        return sock


class _LinkConnector(tcp.Connector):
    """Makes `_LinkClient` transports."""

    def _makeTransport(self) -> tcp.Client:
        return _LinkClient(  # type: ignore[no-untyped-call]  # as above
            self.host, self.port, self.bindAddress, self, self.reactor
        )


@implementer(IStreamClientEndpoint)
class LinkEndpoint:
    """Connects to one address.

    Args:
        reactor: Where the connection lives.
        address: An IPv4 or IPv6 address; names are resolved by the caller, who tries them all.
        port: TCP port.
        timeout_seconds: Give up after this long.
    """

    def __init__(
        self, reactor: Any, address: str, port: int, timeout_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._port = port
        self._timeout = timeout_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Start to connect; the Deferred fires with the protocol, or fails with ConnectError."""
        wrapper = _WrappingFactory(protocolFactory)
        connector = _LinkConnector(
            self._address, self._port, wrapper, self._timeout, None, self._reactor
        )
        connector.connect()
        connected: Deferred[IProtocol] = wrapper._onConnection
        return connected
