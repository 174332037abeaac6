"""twisted.conch's SSH transport, hardened: algorithms, strict key exchange, rekeying, limits.

What conch does as it comes, and this does not: offer CBC, SHA-1, MD5 and zlib; start services in
the clear; take messages of any kind at any time; write without end to a peer that does not read;
keep one key for ever.  Strict key exchange (the answer to CVE-2023-48795) is OpenSSH's PROTOCOL
section 1.10.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.conch.ssh import _kex
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_KEY_EXCHANGE_FAILED,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    MSG_SERVICE_ACCEPT,
)
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.access.printable import printable
from rshell.doors.ssh.metrics import SshMetrics
from rshell.doors.ssh.packets import PacketTransport
from rshell.doors.ssh.wire import BadPacket, Fields
from rshell.identity.ssh_keys import SIGNATURE_ALGORITHMS
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.sockets import set_link_options, tcp_socket_of

__all__ = ["QuietLogger", "Rekeying", "SshTransport", "TransportOwner"]

#: From the connection to a login that succeeded, as OpenSSH since 9.8 recommends at most.
LOGIN_GRACE_SECONDS = 30.0
#: A key exchange takes two round trips; a peer that begins one and never ends it is gone.
KEX_SECONDS = 30.0
#: Who has not logged in has nothing to say that is longer.
MAX_UNAUTHENTICATED_BYTES = 64 * 1024
#: Of answers that a peer asks for and does not read, before it is cut off.
MAX_UNREAD_ANSWERS = 256 * 1024
#: What each takes beside its payload: header, padding and MAC, or its place while keys change.
PACKET_BYTES = 64
#: The version, with its end of line (RFC 4253 section 4.2).
MAX_VERSION_BYTES = 255
#: A peer that does not take our last words is cut off after this long.
CLOSE_SECONDS = 2.0

_STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
_STRICT_SERVER = b"kex-strict-s-v00@openssh.com"

#: 1.99 is what speaks SSH 1 as well.
_VERSIONS = (b"SSH-2.0-", b"SSH-1.99-")

#: What wants a packet after its last channel.
_SLEEPY = "SSH-2.0-dropbear"

_DISCONNECT, _IGNORE, _UNIMPLEMENTED, _DEBUG, _SERVICE_REQUEST, _EXT_INFO = 1, 2, 3, 4, 5, 7
_KEXINIT, _NEWKEYS, _KEX_FIRST, _KEX_LAST = 20, 21, 30, 49
_CHANNEL_DATA, _CHANNEL_EXTENDED_DATA = 94, 95

_WANTED_KEX = (
    b"mlkem768x25519-sha256",  # where cryptography has ML-KEM
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
)


class QuietLogger:
    """In the place of conch's loggers: they tell each packet, in the peer's own bytes."""

    _log = Logger(namespace="rshell.doors.ssh")

    def debug(self, *_: Any, **__: Any) -> None:
        """Say nothing."""

    info = warn = error = debug

    def failure(self, text: str, failure: Failure | None = None, **more: Any) -> None:
        """Pass on a fault of this program."""
        self._log.failure(text, failure, **more)


@attrs.frozen
class Rekeying:
    """When new keys are agreed upon: RFC 4253 section 9 asks for a gigabyte or an hour.

    Attributes:
        limit_bytes: Of both directions together.
        limit_seconds: Since the last keys.
    """

    limit_bytes: int = 1 << 30
    limit_seconds: float = 3600.0


class TransportOwner(Protocol):
    """Decides about connections; `rshell.doors.ssh.door.SshDoor` is it.

    Attributes:
        publicKeys, privateKeys: Host keys by type, as conch wants them.
        metrics: What is counted.
        cpu: Seconds of processor time that this thread has used.
    """

    publicKeys: dict[bytes, Key]
    privateKeys: dict[bytes, Key]
    wheel: TimerWheel
    rekeying: Rekeying
    metrics: SshMetrics
    cpu: Callable[[], float]

    def authentication(self, transport: SshTransport) -> Any:
        """Return the service that lets somebody in."""

    def grace_over(self, transport: SshTransport) -> None:
        """Nobody logged in in time; it is cut off now."""

    def connection_lost(self, transport: SshTransport) -> None:
        """It is gone; its services were told before."""


@implementer(IPushProducer)
class SshTransport(PacketTransport):
    """One SSH connection.

    Args:
        owner: Decides who may do what.
        address: The peer's, ``host:port``.

    Attributes:
        authenticated: Whether somebody has logged in; set by the authentication.
        said_goodbye: Whether the peer ended it on purpose, so that nothing waits for its return.
        blocked: Whether nothing should be sent now that can wait: TCP is full, or keys change.
        unblocked: Called when that is over.
    """

    _log: Any = QuietLogger()
    # OpenSSH's client says that nobody reads any more (eow@openssh.com) only to what is called
    # OpenSSH: without it `ssh DEVICE yes | head` would run for ever.
    ourVersionString = b"SSH-2.0-OpenSSH_compatible_rshell"
    supportedKeyExchanges = [
        name for name in _WANTED_KEX if name in _kex.getSupportedKeyExchanges()
    ]
    supportedCiphers = [b"aes128-ctr", b"aes256-ctr"]
    supportedMACs = [b"hmac-sha2-256", b"hmac-sha2-512"]
    supportedPublicKeys = [b"ssh-ed25519"]
    supportedCompressions = [b"none"]

    def __init__(self, owner: TransportOwner, address: str) -> None:
        self.factory: Any = owner
        self.address = address
        self.authenticated = False
        self.said_goodbye = False
        self.unblocked: Callable[[], None] | None = None
        self.closing = False
        self._owner = owner
        self._strict = False
        self._first_kex = True
        #: Whether the peer's KEXINIT of an exchange is here, and its NEWKEYS is not.
        self._exchanging = False
        #: Whether the keys of the exchange under way were agreed: NEWKEYS may come.
        self._agreed = False
        self._full = False
        self._socket: socket.socket | None = None
        self._unread = 0
        self._since_keys = 0
        self._timer: WheelTimer | None = None
        self._rekey_timer: WheelTimer | None = None
        self._lost = False
        self.supportedKeyExchanges = [*type(self).supportedKeyExchanges, _STRICT_SERVER]

    # -- Twisted -----------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        _, self._socket = tcp_socket_of(transport)
        if self._socket is not None:
            set_link_options(self._socket)
        transport.registerProducer(self, True)
        self._timer = self._owner.wheel.call_later(LOGIN_GRACE_SECONDS, self._grace_over)
        super().connectionMade()  # type: ignore[no-untyped-call]  # untyped in Twisted

    def connectionLost(self, reason: Failure | None = connectionDone) -> None:
        if self._lost:
            return
        self._lost = self.closing = True
        for timer in (self._timer, self._rekey_timer):
            if timer is not None:
                timer.cancel()
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        self._owner.connection_lost(self)

    def dataReceived(self, data: bytes) -> None:
        if self.closing:
            return
        self._owner.metrics.bytes_in += len(data)
        self._count(len(data))
        if self.authenticated:
            self._take(data)
            return
        if self._socket is not None:
            # OpenSSH's client leaves Nagle on until it is in: what it sends next would wait for
            # our acknowledgement, which the kernel may keep back for 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        begun = self._owner.cpu()
        self._take(data)
        self._owner.metrics.handshake_seconds += self._owner.cpu() - begun

    def _take(self, data: bytes) -> None:
        try:
            if not self.gotVersion:
                data = self._take_version(data)
            if self.gotVersion:
                self.packets_received(data)
        except (struct.error, IndexError, ValueError, OverflowError, TypeError) as error:
            # What conch's own parsing, and the libraries below it, make of malformed packets.
            self.broken(str(error) if isinstance(error, BadPacket) else "a malformed packet")
        except Exception:
            self._log.failure("a fault while serving {address}", address=self.address)
            self.broken("a fault of the gateway")
        if not self.authenticated and len(self.buf) > MAX_UNAUTHENTICATED_BYTES:
            self.broken("too long a packet before the login")

    def _take_version(self, data: bytes) -> bytes:
        """Wait for the peer's first line; return what follows it.

        conch looks for the version anywhere, takes packets that come before it, and refuses a
        first segment of more than 4 KiB, whatever is in it.

        Raises:
            BadPacket: The line is no version, or not one of SSH 2.
        """
        seen = bytes(self.buf) + data
        end = seen.find(b"\n", 0, MAX_VERSION_BYTES)
        if end < 0:
            if len(seen) >= MAX_VERSION_BYTES or not seen.startswith(b"SSH-"[: len(seen)]):
                raise BadPacket("the first line is no version")
            self.buf = seen
            return b""
        if not seen.startswith(_VERSIONS):
            raise BadPacket("the first line is no version of SSH 2")
        self.otherVersionString = seen[:end].rstrip(b"\r")
        self.gotVersion = True
        self.buf = b""
        return seen[end + 1 :]

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self._unread = 0
        self._tell_unblocked()

    def stopProducing(self) -> None:
        self._full = True

    @property
    def blocked(self) -> bool:
        """Whether nothing should be sent now that can wait."""
        return self._full or self.closing or self._keyExchangeState != self._KEY_EXCHANGE_NONE

    def _tell_unblocked(self) -> None:
        if self.unblocked is not None and not self.blocked:
            self.unblocked()

    # -- the rules of the exchange -------------------------------------------------------------

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if self.closing:
            return
        self._check_order(messageNum)
        if messageNum in (_IGNORE, _UNIMPLEMENTED, _DEBUG, _EXT_INFO):
            return
        if messageNum <= _KEX_LAST or self.service is None:
            if messageNum not in (_DISCONNECT, _SERVICE_REQUEST, _KEXINIT, _NEWKEYS, _KEX_FIRST):
                raise BadPacket(f"message {messageNum} is not expected here")
            super().dispatchMessage(messageNum, payload)  # type: ignore[no-untyped-call]  # untyped
        else:
            self.service.packetReceived(messageNum, payload)

    def _check_order(self, number: int) -> None:
        """Judge by what was agreed so far whether this message may come now.

        Raises:
            BadPacket: It may not.
        """
        if number == _DISCONNECT:
            return
        fits = True
        if number == _KEXINIT:
            # Until somebody is in, one exchange is enough: each costs us more than the peer.
            fits = not self._exchanging and (self._first_kex or self.authenticated)
        elif number == _NEWKEYS:
            fits = self._exchanging and self._agreed
        elif _KEX_FIRST <= number <= _KEX_LAST:
            fits = self._exchanging and not self._agreed
        elif self._first_kex:
            # In the clear; and what a strict peer would not send might be somebody else's.
            fits = number in (_IGNORE, _UNIMPLEMENTED, _DEBUG) and not self._strict
        elif self._exchanging:
            fits = number in (_IGNORE, _UNIMPLEMENTED, _DEBUG)
        if not fits:
            raise BadPacket(f"message {number} is not expected here")

    def ssh_KEXINIT(self, packet: bytes) -> None:
        if self._first_kex:
            offered = getNS(packet[16:])[0].split(b",")
            self._strict = _STRICT_CLIENT in offered
            if self._strict and self.incomingPacketSequence != 1:
                raise BadPacket("KEXINIT was not the first message")
        elif self._keyExchangeState == self._KEY_EXCHANGE_NONE:
            self._watch_keys(KEX_SECONDS, self.abort)  # the peer's wish; ours has its watch
        self._exchanging, self._agreed = True, False
        super().ssh_KEXINIT(packet)
        if not self.closing and self.kexAlg not in type(self).supportedKeyExchanges:
            self.sendDisconnect(DISCONNECT_KEY_EXCHANGE_FAILED, b"no key exchange in common")

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        # conch has sent NEWKEYS when this returns; what follows it waits for the peer's.
        super()._keySetup(sharedSecret, exchangeHash)
        self.sends_with_new_keys()
        self._agreed = True
        if self._strict:
            self.outgoingPacketSequence = 0

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        if self._strict:
            self.incomingPacketSequence = 0
        self._exchanging = self._agreed = False
        if self._first_kex:
            self._first_kex = False
            # Only the first KEXINIT may say it.
            self.supportedKeyExchanges = list(type(self).supportedKeyExchanges)
        if not self._full:
            self._unread = 0  # what waited for the keys goes now
        super().ssh_NEWKEYS(packet)
        self.reads_with_new_keys()
        self._since_keys = 0
        self._watch_keys(self._owner.rekeying.limit_seconds, self._rekey)
        self._tell_unblocked()

    def sendExtInfo(self, extensions: Any) -> None:
        """Tell what logins may be signed with; conch would tell the host key's algorithms."""
        told = [(b"server-sig-algs", b",".join(SIGNATURE_ALGORITHMS))]
        super().sendExtInfo(told)  # type: ignore[no-untyped-call]  # untyped in Twisted

    # -- rekeying ------------------------------------------------------------------------------

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self._lost:
            return
        super().sendPacket(messageType, payload)
        waits = self._full or self._keyExchangeState != self._KEY_EXCHANGE_NONE
        if waits and messageType not in (_CHANNEL_DATA, _CHANNEL_EXTENDED_DATA):
            self._unread += PACKET_BYTES + len(payload)
            if self._unread > MAX_UNREAD_ANSWERS:
                self.abort()
                return
        self._owner.metrics.bytes_out += len(payload)
        self._count(len(payload))

    def _allowedKeyExchangeMessageType(self, messageType: int) -> bool:
        """Keep back what channel_over says: it must come after the channel's CLOSE."""
        if messageType == _IGNORE:
            return False
        return bool(super()._allowedKeyExchangeMessageType(messageType))  # type: ignore[no-untyped-call]  # untyped

    def _count(self, size: int) -> None:
        self._since_keys += size
        if self._since_keys >= self._owner.rekeying.limit_bytes:
            self._rekey()

    def _rekey(self) -> None:
        idle = self._keyExchangeState == self._KEY_EXCHANGE_NONE
        if idle and not self._first_kex and self.authenticated and not self.closing:
            self._since_keys = 0
            self.sendKexInit()  # type: ignore[no-untyped-call]  # untyped in Twisted
            self._watch_keys(KEX_SECONDS, self.abort)

    def _watch_keys(self, seconds: float, call: Callable[[], None]) -> None:
        if self._rekey_timer is not None:
            self._rekey_timer.cancel()
        self._rekey_timer = self._owner.wheel.call_later(seconds, call)

    # -- services --------------------------------------------------------------------------------

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        name = Fields(packet).string(64)
        if name != b"ssh-userauth" or self.service is not None:
            self.sendDisconnect(DISCONNECT_SERVICE_NOT_AVAILABLE, b"log in first")
            return
        self.sendPacket(MSG_SERVICE_ACCEPT, struct.pack(">L", len(name)) + name)
        self.setService(self._owner.authentication(self))  # type: ignore[no-untyped-call]  # untyped

    def let_in(self, connection: Any) -> None:
        """Somebody has logged in: start the service of channels."""
        self.authenticated = True
        if self._timer is not None:
            self._timer.cancel()
        self.setService(connection)  # type: ignore[no-untyped-call]  # untyped in Twisted

    def channel_over(self) -> None:
        """A channel is closed on both sides: wake a client that would sleep on.

        Dropbear's dbclient asks itself whether anything is left to do before it writes the last
        output, and then sleeps until a packet comes, for ever, if the answer has become no.
        """
        if self.software.startswith(_SLEEPY):
            self.sendPacket(_IGNORE, struct.pack(">L", 0))

    def _grace_over(self) -> None:
        if not self.authenticated:
            self._owner.grace_over(self)
            self.abort()

    @property
    def software(self) -> str:
        """What the peer says it is; not to be trusted."""
        raw = getattr(self, "otherVersionString", b"")
        return printable(raw.decode("utf-8", "replace"), 64)

    # -- the end ---------------------------------------------------------------------------------

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        self.said_goodbye = True
        self.closing = True
        self._leave_tcp()

    def broken(self, why: str) -> None:
        """The peer broke a rule: say so, and end it."""
        self.sendDisconnect(DISCONNECT_PROTOCOL_ERROR, why.encode("ascii", "replace"))

    def disconnect(self, why: str) -> None:
        """Tell the peer why, and end it."""
        self.sendDisconnect(DISCONNECT_BY_APPLICATION, why.encode("utf-8"))

    def sendDisconnect(self, reason: int, desc: Any) -> None:
        if self.closing:
            return
        self._leave_tcp()
        super().sendDisconnect(reason, desc)  # type: ignore[no-untyped-call]  # untyped in Twisted
        self.closing = True

    def _leave_tcp(self) -> None:
        """TCP closes only without a producer, and not at all for a peer that does not read."""
        transport: Any = self.transport
        transport.unregisterProducer()
        for timer in (self._timer, self._rekey_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._owner.wheel.call_later(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """End it at once."""
        self.closing = True
        transport: Any = self.transport
        if transport is not None and not self._lost:
            transport.abortConnection()
