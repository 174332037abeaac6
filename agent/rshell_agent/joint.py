"""Joint: a stream and a socket, joined into one connection.

Bytes, back-pressure and the end of each direction pass both ways unchanged: a half-close here is a
half-close there.  It opens neither side and decides nothing; forwarding.py and
listening.py bring the socket, handlers/forward.py the channel.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.interfaces import IHandlerChannel
from rshell.link.core.constants import MAX_PAYLOAD

__all__ = ["Joint", "SocketSide"]


@implementer(IPushProducer)
class _Pace:
    """Pauses one side for the other.

    What a consumer that has ended says to its producer is not passed on: how this ends is said by
    protocols only.
    """

    def __init__(self, side: Any) -> None:
        self._side = side

    def pauseProducing(self) -> None:
        self._side.pauseProducing()

    def resumeProducing(self) -> None:
        self._side.resumeProducing()

    def stopProducing(self) -> None:
        """The side hears of the end by its protocol."""


@implementer(IHalfCloseableProtocol)
class SocketSide(Protocol):
    """A socket that is joined later: until then nothing is read of it.

    Attributes:
        joint: Who takes over.
        lost: The connection is gone, and why; None while it lives.
    """

    def __init__(self) -> None:
        self.joint: Joint | None = None
        self.lost: Failure | None = None

    def abort(self) -> None:
        """Break the connection at once: its other end gets a reset."""
        transport: Any = self.transport
        transport.abortConnection()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()
        # One read is one frame, and as much may wait to be written: 64 KiB were no faster, and took
        # 50 KB more of a small device for each connection that nobody reads.
        transport.bufferSize = MAX_PAYLOAD
        if ITCPTransport.providedBy(transport):
            # The other end's writes come as it made them; keystrokes must not wait for an ACK.
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        if self.joint is not None:
            self.joint.socket_data(data)

    def readConnectionLost(self) -> None:
        if self.joint is not None:
            self.joint.socket_ended()

    def writeConnectionLost(self) -> None:
        """We ended it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        if self.joint is not None:
            self.joint.socket_lost(reason)


@implementer(IHalfCloseableProtocol)
class _ChannelSide(Protocol):
    """The operator's side."""

    def __init__(self, joint: Joint) -> None:
        self._joint = joint

    def dataReceived(self, data: bytes) -> None:
        self._joint.channel_data(data)

    def readConnectionLost(self) -> None:
        self._joint.channel_ended()

    def writeConnectionLost(self) -> None:
        """We ended it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._joint.abort()


class Joint:
    """Joins a channel and a socket.

    Args:
        channel: `IHandlerChannel`, accepted and not read so far.
        socket: Connected.

    Attributes:
        received: Bytes that the socket gave.
        sent: Bytes that it was given.
        done: Fires with True once both directions have ended and all is written, with False if
            the connection broke before.
    """

    def __init__(self, channel: IHandlerChannel, socket: SocketSide) -> None:
        self.received = 0
        self.sent = 0
        self.done: Deferred[bool] = Deferred()
        self._channel = channel
        transport: Any = socket.transport
        self._transport = transport
        self._socket_ended = False
        self._channel_ended = False
        socket.joint = self
        if socket.lost is not None:
            self.socket_lost(socket.lost)
            return
        channel.registerProducer(_Pace(self._transport), True)
        self._transport.registerProducer(_Pace(channel), True)
        self._transport.resumeProducing()
        channel.start_protocol(_ChannelSide(self))

    def abort(self) -> None:
        """Break the connection at once: its other end gets a reset."""
        self._transport.abortConnection()

    # -- from the socket -------------------------------------------------------------------------

    def socket_data(self, data: bytes) -> None:
        self.received += len(data)
        self._channel.write(data)

    def socket_ended(self) -> None:
        self._socket_ended = True
        self._channel.unregisterProducer()
        self._channel.loseConnection()
        self._check()

    def socket_lost(self, reason: Failure) -> None:
        in_order = self._socket_ended and self._channel_ended
        if not self.done.called:
            self.done.callback(in_order and reason.check(ConnectionDone) is not None)

    # -- from the operator -----------------------------------------------------------------------

    def channel_data(self, data: bytes) -> None:
        self.sent += len(data)
        self._transport.write(data)

    def channel_ended(self) -> None:
        self._channel_ended = True
        self._transport.unregisterProducer()
        self._transport.loseWriteConnection()
        self._check()

    def _check(self) -> None:
        if self._socket_ended and self._channel_ended:
            self._transport.loseConnection()  # once it has written what it holds
