"""A TCP client endpoint whose socket options are set before ``connect()`` (rule P8).

And `connect_first`, which races several addresses as RFC 8305 section 5 does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectingCancelledError, NoProtocol
from twisted.internet.interfaces import (
    IConnector,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.sockets import set_link_options

__all__ = ["LinkEndpoint", "connect_first"]

#: The kernel alone would try for 130 s; a dead path shall be found early.
CONNECT_SECONDS = 20.0
#: How long one address has before the next one is tried beside it (RFC 8305 section 5).
STAGGER_SECONDS = 0.25

T = TypeVar("T")


class _LinkClient(tcp.Client):
    """A TCP client connection with link options from its first SYN on."""

    def createInternetSocket(self) -> socket.socket:
        # Twisted leaves this part of tcp.Client untyped.
        sock: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]  # see above
        set_link_options(sock)
        return sock

    def _connectDone(self) -> None:
        super()._connectDone()  # type: ignore[no-untyped-call]  # as above
        self.connector.factory.made()


class _LinkConnector(tcp.Connector):
    """Makes `_LinkClient` transports."""

    def _makeTransport(self) -> tcp.Client:
        return _LinkClient(  # type: ignore[no-untyped-call]  # as above
            self.host, self.port, self.bindAddress, self, self.reactor
        )


class _Attempt(ClientFactory):
    """One attempt to connect, told by a Deferred.

    Twisted's endpoints do the same and stay between transport and protocol: a call more for
    each read, and modules that neither agent nor command need.
    """

    noisy = False

    def __init__(self, inner: IProtocolFactory) -> None:
        self.connected: Deferred[IProtocol] = Deferred(self._cancelled)
        self._inner = inner
        self._connector: IConnector | None = None
        self._protocol: IProtocol | None = None

    def doStart(self) -> None:
        self._inner.doStart()

    def doStop(self) -> None:
        self._inner.doStop()

    def startedConnecting(self, connector: IConnector) -> None:
        self._connector = connector

    # Twisted has it that a factory makes a `Protocol`; what provides the interface will do.
    def buildProtocol(self, addr: Any) -> Protocol | None:
        try:
            self._protocol = self._inner.buildProtocol(addr)
            if self._protocol is None:
                raise NoProtocol
        except Exception:
            self.connected.errback()
            return None
        return self._protocol  # type: ignore[return-value]  # see above

    def made(self) -> None:
        """The protocol has its transport."""
        if self._protocol is not None and not self.connected.called:
            self.connected.callback(self._protocol)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.connected.called:
            self.connected.errback(reason)

    def _cancelled(self, connected: Deferred[IProtocol]) -> None:
        if self._connector is not None:
            connected.errback(ConnectingCancelledError(self._connector.getDestination()))
            self._connector.stopConnecting()


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
        attempt = _Attempt(protocolFactory)
        connector = _LinkConnector(
            self._address, self._port, attempt, self._timeout, None, self._reactor
        )
        connector.connect()
        return attempt.connected


def connect_first(
    clock: IReactorTime,
    attempts: Sequence[Callable[[], Deferred[T]]],
    unwanted: Callable[[T], object],
    stagger_seconds: float = STAGGER_SECONDS,
) -> Deferred[T]:
    """Start attempts one after the other until one succeeds; cancel the others then.

    The next attempt begins when the one before has failed, or has taken ``stagger_seconds``
    (RFC 8305 section 5).

    Args:
        clock: For the stagger.
        attempts: Each starts one connection; at least one.
        unwanted: Gets what a second one yields although it was cancelled.
        stagger_seconds: See above.

    Returns:
        A Deferred with the first result; it fails with the last failure when all have failed.
        Cancelling it gives all attempts up.
    """
    return _Race(clock, attempts, unwanted, stagger_seconds).result


class _Race(Generic[T]):
    """One call of `connect_first`."""

    def __init__(
        self,
        clock: IReactorTime,
        attempts: Sequence[Callable[[], Deferred[T]]],
        unwanted: Callable[[T], object],
        stagger_seconds: float,
    ) -> None:
        self.result: Deferred[T] = Deferred(lambda _: self._end())
        self._clock = clock
        self._unwanted = unwanted
        self._stagger = stagger_seconds
        self._waiting = list(attempts)
        self._running: list[Deferred[T]] = []
        self._timer: IDelayedCall | None = None
        self._over = False
        self._next()

    def _next(self) -> None:
        self._stop_timer()
        attempt = self._waiting.pop(0)
        if self._waiting:
            self._timer = self._clock.callLater(self._stagger, self._next)
        running = maybeDeferred(attempt)
        self._running.append(running)
        running.addCallbacks(
            self._won, self._failed, callbackArgs=(running,), errbackArgs=(running,)
        )

    def _won(self, value: T, running: Deferred[T]) -> None:
        self._running.remove(running)
        if self._over:
            self._unwanted(value)
            return
        self._end()
        self.result.callback(value)

    def _failed(self, failure: Failure, running: Deferred[T]) -> None:
        self._running.remove(running)
        if self._over:
            return
        if self._waiting:
            self._next()
        elif not self._running:
            self._over = True
            self.result.errback(failure)

    def _end(self) -> None:
        self._over = True
        self._waiting.clear()
        self._stop_timer()
        for running in list(self._running):
            running.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
