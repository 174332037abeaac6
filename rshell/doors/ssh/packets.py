"""SSH packets (RFC 4253 section 6) on and off the wire, in place of twisted.conch's own way.

conch takes each packet off the front of one ``bytes``, and copies what is left of it, twice a
packet; it builds what it sends from four sums, and its MAC from a fifth.  Here what arrives lies in
one buffer until its packet is whole, is decrypted where it lies, and is copied once; the padding
comes from the kernel in pages.  Bytes on the wire and what is refused are the same, but for a
packet without a message or with too little padding: conch passes over it, and it is refused here;
and for what is sent between our NEWKEYS and the peer's, which has the new keys here.

What it is not: it knows neither algorithms nor messages; those are conch's and transport.py's.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Any

from twisted.conch.ssh.transport import (
    DISCONNECT_MAC_ERROR,
    DISCONNECT_PROTOCOL_ERROR,
    SSHServerTransport,
)

from rshell.doors.ssh.wire import BadPacket

__all__ = ["PacketTransport"]

#: As conch: more than any implementation has to take (RFC 4253 section 6.1 says 35,000).
MAX_PACKET_BYTES = 1 << 20
#: RFC 4253 section 6.
MIN_PADDING = 4
#: Random bytes fetched at once: the padding of a few hundred packets for one system call.
PADDING_BYTES = 4096
_SEQUENCES = 1 << 32
_LENGTH, _PADDING, _MESSAGE = 4, 1, 1


class _Macs:
    """The two keyed hashes of one set of keys; each packet begins with a copy.

    Args:
        ciphers: conch's, with its keys set.
    """

    def __init__(self, ciphers: Any) -> None:
        self.ciphers = ciphers
        self._out = self._keyed(ciphers.outMAC)
        self._in = self._keyed(ciphers.inMAC)

    @staticmethod
    def _keyed(params: Any) -> hmac.HMAC | None:
        return hmac.new(params.key, digestmod=params[0]) if params[0] else None

    def outgoing(self, sequence: int, packet: bytes) -> bytes:
        """Return the MAC of a packet that is sent; empty before there are keys."""
        return self._digest(self._out, sequence, packet)

    def incoming(self, sequence: int, *parts: bytes) -> bytes:
        """Return the MAC that a packet must have."""
        return self._digest(self._in, sequence, *parts)

    @staticmethod
    def _digest(keyed: hmac.HMAC | None, sequence: int, *parts: bytes) -> bytes:
        if keyed is None:
            return b""
        digest = keyed.copy()
        digest.update(struct.pack(">L", sequence % _SEQUENCES))
        for part in parts:
            digest.update(part)
        return digest.digest()


class PacketTransport(SSHServerTransport):
    """conch's transport, with packets that are copied once.

    Attributes:
        buf: What arrived and is no whole packet yet.
    """

    buf: Any = b""
    #: Of ``buf``, what the packets of this turn had.
    _at = 0
    #: The first block of the packet that is not whole, decrypted: it says how long the packet is.
    _first = b""
    _macs: _Macs | None = None
    #: What is sent has new keys already, what comes has the old ones: between the two NEWKEYS.
    _sending: _Macs | None = None
    _padding = b""

    def packets_received(self, data: bytes) -> None:
        """Take bytes that follow the version, and dispatch the packets that are whole.

        Raises:
            BadPacket: One of them has no message, or too little padding.
        """
        if not isinstance(self.buf, bytearray):
            self.buf = bytearray(self.buf)
        self.buf += data
        try:
            while (packet := self._next_packet()) is not None:
                self.dispatchMessage(*packet)  # type: ignore[no-untyped-call]  # untyped in Twisted
        finally:
            del self.buf[: self._at]
            self._at = 0

    def _keyed(self) -> tuple[Any, _Macs]:
        ciphers, macs = self.currentEncryptions, self._macs
        if macs is None or macs.ciphers is not ciphers:
            macs = self._macs = _Macs(ciphers)
        return ciphers, macs

    def _next_packet(self) -> tuple[int, bytes] | None:
        """Return message number and payload; None until there is a whole packet, or at the end."""
        ciphers, macs = self._keyed()
        block, mac_size = ciphers.decBlockSize, ciphers.verifyDigestSize
        here = len(self.buf) - self._at
        if here < block:
            return None
        if not self._first:
            first = bytes(self.buf[self._at : self._at + block])
            self._first = ciphers.decrypt(first)
        length, padding = struct.unpack(">LB", self._first[:5])
        if length > MAX_PACKET_BYTES:
            self._end(DISCONNECT_PROTOCOL_ERROR, b"bad packet length %d" % length)
            return None
        whole = _LENGTH + length
        if whole % block:
            self._end(DISCONNECT_PROTOCOL_ERROR, b"bad packet mod (%d%%%d)" % (whole, block))
            return None
        if here < whole + mac_size:
            return None
        first, self._first = self._first, b""
        with memoryview(self.buf) as view:
            end = self._at + whole
            # one that does nothing, before there are keys, returns what it was given
            rest = bytes(ciphers.decrypt(view[self._at + block : end]))
            mac = bytes(view[end : end + mac_size])
        self._at = end + mac_size
        if not hmac.compare_digest(mac, macs.incoming(self.incomingPacketSequence, first, rest)):
            self._end(DISCONNECT_MAC_ERROR, b"bad MAC")
            return None
        self.incomingPacketSequence += 1
        end = whole - padding  # of the payload, in first and rest together
        if padding < MIN_PADDING or end < _LENGTH + _PADDING + _MESSAGE:
            raise BadPacket("a packet without a message")
        begin = _LENGTH + _PADDING + _MESSAGE
        body = b"".join((first[begin:end], memoryview(rest)[: max(0, end - block)]))
        return first[begin - 1], body

    def sends_with_new_keys(self) -> None:
        """Our NEWKEYS is sent: what follows it has the new keys (RFC 4253 section 7.3).

        conch changes both directions when the peer's comes, so that its DISCONNECT and DEBUG in
        between are garbage to the peer.
        """
        self._sending = _Macs(self.nextEncryptions)

    def reads_with_new_keys(self) -> None:
        """The peer's NEWKEYS came: both directions have the new keys."""
        self._macs, self._sending = self._sending, None

    def _end(self, reason: int, why: bytes) -> None:
        self.sendDisconnect(reason, why)  # type: ignore[no-untyped-call]  # untyped in Twisted

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message, or keep it until the key exchange is over."""
        if self._keyExchangeState != self._KEY_EXCHANGE_NONE:
            allowed = self._allowedKeyExchangeMessageType(messageType)  # type: ignore[no-untyped-call]  # untyped
            if not allowed:
                self._blockedByKeyExchange.append((messageType, payload))
                return
        macs = self._sending or self._keyed()[1]
        ciphers = macs.ciphers
        block = ciphers.encBlockSize
        size = _PADDING + _MESSAGE + len(payload)
        padding = block - (_LENGTH + size) % block
        if padding < MIN_PADDING:
            padding += block
        head = struct.pack(">LBB", size + padding, padding, messageType)
        packet = b"".join((head, payload, self._random(padding)))
        encrypted = ciphers.encrypt(packet)
        transport: Any = self.transport
        transport.writeSequence((encrypted, macs.outgoing(self.outgoingPacketSequence, packet)))
        self.outgoingPacketSequence += 1

    def _random(self, size: int) -> bytes:
        if len(self._padding) < size:
            self._padding = os.urandom(PADDING_BYTES)
        taken, self._padding = self._padding[:size], self._padding[size:]
        return taken
