"""TlsWire: TLS between a TCP transport and a link, made for few calls and few wake-ups.

It stands where Twisted's ``TLSMemoryBIOProtocol`` would and ends connections as that does, but

* what one read of the socket decrypts to is delivered once, not record by record;
* while nothing is queued, records go to the socket at once.  Twisted would add the socket to the
  poll set, go round the reactor, send, and take it out again: for each record;
* who produces is asked for more as long as the kernel has *nothing* unsent, and else when the
  kernel says so (``TCP_NOTSENT_LOWAT``).  So what waits still waits in the multiplexer's queue,
  where a keystroke overtakes it (rule Q1).

It checks no certificate: the connection creator's context does (rshell/identity/tls.py), and who
listens for the handshake's end.  It has no timers: whoever speaks inside has (rule P7).

On a transport without a TCP socket (in tests, or within another tunnel) all goes through the
transport's own queue.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IConsumer,
    IHandshakeListener,
    IPushProducer,
    ISystemHandle,
    ITransport,
)
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.read_size import LARGE, SMALL
from rshell.link.tls_calls import PLAIN_RECORD, TlsCalls, calls_for
from rshell.link.tls_memory import give_back_buffers
from rshell.link.tls_records import MANY, RecordCount, is_end_of_file

if TYPE_CHECKING:
    from rshell.link.tls_factory import TlsWireFactory

__all__ = ["TlsWire"]

#: A full record and what TLS adds to it; a flight of handshake messages comes in several.
_WIRE_RECORD: Final = PLAIN_RECORD + 512
#: What may be written before the handshake is complete; links write nothing then.
_EARLY_BYTES: Final = 1024 * 1024
#: The kernel is asked what it has unsent when more than this was sent since it had nothing: keys
#: and heartbeats are sent at once, or wait behind less than the smallest record (rule Q3).
_UNASKED_BYTES: Final = 1024
#: So much is encrypted before it is taken from OpenSSL: what a fast link hands over at once (four
#: records, rule Q1) is the most that its buffer ever holds.
_AT_ONCE: Final = 4 * PLAIN_RECORD + 1024


@implementer(ISystemHandle, ITransport, IConsumer, IPushProducer)
class TlsWire(Protocol):
    """One TLS connection; the transport of what speaks inside.

    Args:
        factory: Knows how to make the OpenSSL connection.
        inner: What speaks inside; told of the handshake's end if it is an `IHandshakeListener`.

    Attributes:
        disconnecting: Whether this side has begun to end it.
    """

    disconnecting = False

    def __init__(self, factory: TlsWireFactory, inner: Any) -> None:
        self._factory = factory
        self._inner = inner
        self._tls: SSL.Connection | None = None
        self._calls: TlsCalls
        self._socket: socket.socket | None = None
        self._producer: Any = None
        #: Whether the producer was told to wait.
        self._paused = False
        #: Whether bytes may wait in the transport's own queue, which must go first.
        self._queued = False
        self._records = RecordCount()
        self._shaken = False
        #: Whether TLS has ended: nothing is read or written any more.
        self._over = False
        self._aborted = False
        self._reason: Failure | None = None
        self._early: list[bytes] = []
        #: Whether OpenSSL's queues have grown (the handshake makes them), and reads are large.
        self._grown = True
        #: What was sent since the kernel was asked last, and had nothing unsent.
        self._unasked = 0

    # -- IProtocol: from TCP -------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        handle = getattr(transport, "getHandle", lambda: None)()
        if isinstance(handle, socket.socket) and hasattr(transport, "startWriting"):
            self._socket = handle
        self._tls = self._factory.new_connection(self)
        self._calls = calls_for(self._tls)
        self._inner.makeConnection(self)
        self._shake_hands()

    def dataReceived(self, data: bytes) -> None:
        tls = self._tls
        if tls is None or self._over or self._aborted:
            return
        whole = self._records.whole(data)
        if not self._grown and len(data) >= SMALL:
            self._grow()
        if self._shaken and not self._early:
            self._calls.put(tls, data)
            if whole:
                self._receive(tls, whole)
            return
        self._handshake_received(tls, data)

    def _handshake_received(self, tls: SSL.Connection, data: bytes) -> None:
        self._calls.put(tls, data)
        fresh = not self._shaken
        if fresh:
            self._shake_hands()
            if not self._shaken:
                return
        if self._early:
            self._write_early()
        self._receive(tls, fresh=fresh)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._socket = None
        tls = self._tls
        if tls is not None and not (self._over or self._aborted):
            # What came without its end, or without the peer's goodbye, is told from a clean end.
            tls.bio_shutdown()
            self._receive(tls)
        self._over = True
        reason, self._reason = self._reason or reason, None
        self._early.clear()
        self._producer = None
        inner = self._inner
        inner.connectionLost(reason)
        # The cycle through OpenSSL's callbacks is broken here, not by the collector.
        self._tls = None

    def _shake_hands(self) -> None:
        """Let OpenSSL go on with the handshake."""
        tls = self._tls
        if tls is None or self._aborted or self._over:
            return
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            self._flush_tls(tls)
        except SSL.Error:
            self._ended(tls, Failure())
        else:
            self._shaken = True
            if self._factory.client:
                self._flush_tls(tls)
            if IHandshakeListener.providedBy(self._inner):
                self._inner.handshakeCompleted()

    def _receive(self, tls: SSL.Connection, whole: int = MANY, *, fresh: bool = False) -> None:
        """Decrypt all there is, deliver it once, then act on how it ended.

        Args:
            tls: The connection.
            whole: How many records there are, if that is known.  When each of them was data,
                OpenSSL has nothing to answer.
            fresh: The handshake has just been completed.  What a server has to say then are
                tickets that nobody uses: they go with what is written first, instead of in a
                packet of their own that wakes the peer for nothing.
        """
        if self._over or self._aborted:
            return  # whoever speaks inside ended it when it saw who the peer is
        data, stopped = self._calls.decrypt(tls, whole)
        if data:
            self._inner.dataReceived(data)
        if self._over or self._aborted or stopped is None:
            return
        if isinstance(stopped, SSL.ZeroReturnError):
            self._shut_down(tls)
            self._ended(tls, None)
        elif not isinstance(stopped, SSL.WantReadError):
            self._ended(tls, Failure(stopped))
        elif self._factory.client or not fresh:
            self._flush_tls(tls)  # a KeyUpdate is answered by reading

    def idle(self) -> None:
        """Give back memory: whoever speaks inside expects to be silent for a while."""
        if self._grown and self._tls is not None and not (self._over or self._early):
            self._grown = not give_back_buffers(self._tls)
            if not self._grown:
                self._read_at_once(SMALL)

    def _grow(self) -> None:
        """More than heartbeats passes."""
        self._grown = True
        self._read_at_once(LARGE)

    def _read_at_once(self, size: int) -> None:
        if self._socket is not None:
            transport: Any = self.transport
            transport.bufferSize = size

    # -- the end -------------------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Say goodbye, after what a producer still has; TCP is closed when the peer says so too."""
        tls = self._tls
        if self.disconnecting or tls is None or self._over:
            return
        if not self._shaken and not self._early:
            self.abortConnection()
            return
        self.disconnecting = True
        if not self._early and self._producer is None:
            self._shut_down(tls)

    def abortConnection(self) -> None:
        """End TCP at once; nothing more is sent or delivered."""
        self._aborted = self.disconnecting = True
        self._early.clear()
        transport: Any = self.transport
        transport.abortConnection()

    def _shut_down(self, tls: SSL.Connection) -> None:
        """Begin or answer the goodbye of TLS."""
        try:
            both = tls.shutdown()
        except SSL.Error:
            both = False
        self._flush_tls(tls)
        if both:
            self._lose_transport()

    def _ended(self, tls: SSL.Connection, failure: Failure | None) -> None:
        """TLS is over: send the alert that says why, if there is one, and close TCP."""
        if failure is not None and is_end_of_file(failure.value):
            failure = Failure(CONNECTION_LOST)
        if self._reason is None:
            self._reason = failure
        self._over = True
        self._flush_tls(tls)
        self._lose_transport()

    def _lose_transport(self) -> None:
        transport: Any = self.transport
        if self._producer is not None:
            # TCP waits for its producer before it closes (FileDescriptor.doWrite); ours has
            # nothing more to give.
            producer, self._producer = self._producer, None
            transport.unregisterProducer()
            producer.stopProducing()
        transport.loseConnection()

    def hand_over(self, inner: Any) -> None:
        """Let ``inner``, whose transport this is already, be told all from now on."""
        self._inner = inner

    # -- ITransport: to TCP --------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Encrypt and send; after `loseConnection` only what a producer still gives."""
        if self.disconnecting and self._producer is None:
            return
        self._write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def _write(self, data: bytes) -> None:
        tls = self._tls
        if tls is None or self._over or self._aborted or not data:
            return
        if self._early or not self._shaken:
            self._keep(data)
            return
        if not self._grown and len(data) >= SMALL:
            self._grow()
        sent = 0
        while sent < len(data):
            piece = data if len(data) <= _AT_ONCE else data[sent : sent + _AT_ONCE]
            done = 0
            try:
                while done < len(piece):
                    done += self._calls.encrypt(tls, piece[done:] if done else piece)
                # And what records add, and what waited (tickets): less than a record.
                encrypted = self._calls.fetch(tls, done + _WIRE_RECORD)
            except SSL.WantReadError:
                self._flush_tls(tls)
                self._keep(data[sent + done :])
                return
            except SSL.Error as error:
                self._ended(tls, Failure(error))
                return
            self._send(encrypted)
            sent += done

    def _keep(self, data: bytes) -> None:
        self._early.append(data)
        self._pause()
        if sum(map(len, self._early)) > _EARLY_BYTES:
            self.abortConnection()

    def _write_early(self) -> None:
        """The handshake is complete: send what was written before."""
        early, self._early = self._early, []
        for data in early:
            self._write(data)
        if self._early:
            return
        if self._producer is not None:
            if not self._queued:
                self._resume()
        elif self.disconnecting and self._tls is not None:
            self._shut_down(self._tls)

    def _flush_tls(self, tls: SSL.Connection) -> None:
        """Send what OpenSSL has to say of its own accord."""
        while True:
            try:
                encrypted = self._calls.fetch(tls, _WIRE_RECORD)
            except SSL.Error:  # nothing; after bio_shutdown the queue says "end" instead of "later"
                return
            size = len(encrypted)
            self._send(encrypted)
            if size < _WIRE_RECORD:
                return

    def _send(self, data: Any) -> None:
        """Give encrypted bytes to the kernel, and what it does not take to the transport."""
        sock = self._socket
        if sock is None or self._queued:
            self._enqueue(bytes(data))
            return
        try:
            took = sock.send(data)
        except BlockingIOError:
            took = 0
        except OSError:
            took = 0  # the transport will meet the same error, and say so
        self._unasked += took
        if took < len(data):
            self._enqueue(bytes(data[took:]))
        elif self._unasked > _UNASKED_BYTES and self._producer is not None:
            self._ask_for_unsent(sock)

    def _ask_for_unsent(self, sock: socket.socket) -> None:
        if self._factory.unsent(sock):
            # Nothing waits here, but the kernel has not sent all: it says when it wants more.
            self._pause()
            transport: Any = self.transport
            transport.startWriting()
        else:
            self._unasked = 0

    def _enqueue(self, data: bytes) -> None:
        transport: Any = self.transport
        if self._socket is not None:
            self._queued = True
            self._pause()
        transport.write(data)

    # -- the producer --------------------------------------------------------------------------

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a push producer; it is paused while bytes wait in the transport or the kernel.

        Raises:
            RuntimeError: There is one already, or it is a pull producer: links have none.
        """
        if self._over or self._tls is None:
            producer.stopProducing()
            return
        if self._producer is not None or not streaming:
            raise RuntimeError("one push producer at a time")
        self._producer = producer
        self._paused = False
        transport: Any = self.transport
        # As a pull producer of TCP we are asked whenever its queue is empty and it may write;
        # `FileDescriptor` would ask a push producer only after it has queued something itself.
        queued = self._queued
        transport.registerProducer(_Membrane(self), self._socket is None)
        # A pull producer is asked at once, whatever is queued: that must still go first.
        self._queued = queued

    def unregisterProducer(self) -> None:
        if self._producer is None:
            return
        self._producer = None
        self._paused = False
        transport: Any = self.transport
        transport.unregisterProducer()
        if self.disconnecting and not self._early and self._tls is not None:
            self._shut_down(self._tls)

    def _pause(self) -> None:
        if self._producer is not None and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def _resume(self) -> None:
        if self._producer is not None and self._paused and not self._early:
            self._paused = False
            self._producer.resumeProducing()

    def transport_full(self) -> None:
        """The transport's queue is full (only without a socket of our own)."""
        self._pause()

    def transport_ready(self) -> None:
        """The transport has nothing queued and the kernel wants more."""
        self._queued = False
        self._resume()

    def transport_ended(self) -> None:
        """The transport is gone: nothing can be sent any more."""
        if self._producer is not None:
            self._producer.stopProducing()

    # -- IPushProducer: reading ----------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Read nothing for now."""
        transport: Any = self.transport
        transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        transport: Any = self.transport
        transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- what it is ----------------------------------------------------------------------------

    def getHandle(self) -> SSL.Connection | None:
        """Return OpenSSL's connection; None when it is gone."""
        return self._tls

    def getPeer(self) -> Any:
        transport: Any = self.transport
        return transport.getPeer()

    def getHost(self) -> Any:
        transport: Any = self.transport
        return transport.getHost()


@implementer(IPushProducer)
class _Membrane:
    """What TCP sees as its producer."""

    __slots__ = ("_wire",)

    def __init__(self, wire: TlsWire) -> None:
        self._wire = wire

    def pauseProducing(self) -> None:
        self._wire.transport_full()

    def resumeProducing(self) -> None:
        self._wire.transport_ready()

    def stopProducing(self) -> None:
        self._wire.transport_ended()
