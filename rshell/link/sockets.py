"""Socket options of rule P8, and TLS wrapped so that the multiplexer owns the queue (rule Q1)."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from rshell.link.read_size import LARGE
from rshell.link.tls_factory import TlsWireFactory
from rshell.link.tls_wire import TlsWire

__all__ = ["own_the_queue", "set_link_options", "tcp_socket_of", "wrap_tls"]

KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_PROBES = 3
USER_TIMEOUT_MS = 60_000
#: The kernel takes about one record more than it has sent; the rest stays in our queue.
NOT_SENT_LOW_WATER = 16_384


def set_link_options(sock: socket.socket) -> None:
    """Set what rule P8 asks of a link's socket; a dialler calls it before ``connect()``.

    Keep-alive does not run while data is unacknowledged and ``TCP_USER_TIMEOUT`` does, so both
    are needed (tcp(7)).
    """
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(tcp, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER)


def tcp_socket_of(transport: Any) -> tuple[Any, socket.socket | None]:
    """Return the TCP transport below TLS and its socket (None for an in-memory transport)."""
    while isinstance(transport, TlsWire):
        transport = transport.transport
    handle = getattr(transport, "getHandle", lambda: None)()
    return transport, handle if isinstance(handle, socket.socket) else None


def own_the_queue(transport: Any) -> None:
    """Make the transport ask for each record: nothing is queued below the multiplexer."""
    tcp, _ = tcp_socket_of(transport)
    tcp.bufferSize = LARGE


def wrap_tls(creator: Any, *, client: bool, factory: IProtocolFactory) -> TlsWireFactory:
    """Wrap ``factory`` in TLS that queues nothing: the multiplexer fills records itself.

    Args:
        creator: IOpenSSLServerConnectionCreator or IOpenSSLClientConnectionCreator.
        client: Which of them.
        factory: Builds the protocols that speak inside.
    """
    return TlsWireFactory(creator, client=client, inner=factory)
