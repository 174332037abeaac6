"""TlsWireFactory: makes the OpenSSL connection, its wire and what speaks inside."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory

from rshell.link.kernel import unsent_bytes
from rshell.link.tls_wire import TlsWire

__all__ = ["TlsWireFactory"]


class TlsWireFactory(Factory):
    """Builds wires, and what speaks inside them.

    Args:
        creator: IOpenSSLServerConnectionCreator or IOpenSSLClientConnectionCreator.
        client: Which of them.
        inner: Builds what speaks inside.
        unsent: Tells how much the kernel holds of a socket that it has not sent.

    Attributes:
        client: As given.
        unsent: As given.
        protocol: Builds a wire, from this factory and what speaks inside.
    """

    noisy = False
    protocol: Callable[[TlsWireFactory, Any], TlsWire] = TlsWire

    def __init__(
        self,
        creator: Any,
        *,
        client: bool,
        inner: IProtocolFactory,
        unsent: Callable[[socket.socket], int] = unsent_bytes,
    ) -> None:
        self.unsent = unsent
        self._creator = creator
        self.client = client
        self._inner = inner

    def doStart(self) -> None:
        self._inner.doStart()
        super().doStart()  # type: ignore[no-untyped-call]  # untyped in Twisted

    def doStop(self) -> None:
        self._inner.doStop()
        super().doStop()  # type: ignore[no-untyped-call]  # untyped in Twisted

    def buildProtocol(self, addr: Any) -> TlsWire | None:
        inner = self._inner.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)

    def new_connection(self, wire: TlsWire) -> SSL.Connection:
        """Return a new OpenSSL connection over memory."""
        connection: SSL.Connection
        if self.client:
            connection = self._creator.clientConnectionForTLS(wire)
            connection.set_connect_state()
        else:
            connection = self._creator.serverConnectionForTLS(wire)
            connection.set_accept_state()
        return connection
