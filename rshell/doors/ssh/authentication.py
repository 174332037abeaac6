"""``ssh-userauth`` (RFC 4252): public keys, certificates of such, and nothing else.

conch's own service would bring the global reactor with its import, and password, twenty tries and
ten hours with its defaults.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.doors.ssh.logins import Credential, Known, NotAdmitted
from rshell.doors.ssh.transport import QuietLogger, SshTransport
from rshell.doors.ssh.wire import BadPacket, Fields
from rshell.identity.ssh_certificates import (
    BadCertificate,
    SshCertificate,
    is_certificate,
    read_certificate,
)
from rshell.identity.ssh_keys import BadSshKey, read_blob

__all__ = ["MAX_TRIES", "Authentication"]

#: As OpenSSH's MaxAuthTries: an agent with many keys offers one after the other.
MAX_TRIES = 6
#: Requests a client sends without waiting for answers; none does, and each costs a look-up.
MAX_WAITING = 4

VERIFY_REQUIRED = (
    "rshell: your certificate wants a security key that asks for PIN or finger: "
    "ssh-keygen -t ed25519-sk -O verify-required\r\n"
)

_REQUEST, _FAILURE, _SUCCESS, _BANNER, _PK_OK = 50, 51, 52, 53, 60
_METHODS = b"publickey"

#: (what was shown) -> whom it lets in, why it does not, or None if it means nothing here.
FindKey = Callable[[Credential], Awaitable[Known | NotAdmitted | None]]
#: (user name, whom) -> the service to start, or None if there was a reason not.
LetIn = Callable[[bytes, Known], Awaitable[Any]]


class Authentication(SSHService):
    """Lets one operator in, by a key that the store knows.

    Args:
        find: Looks a key or certificate up.
        let_in: Called with what was found, once its signature was right.
        failed: Called with the method of each attempt that was refused.
    """

    name = b"ssh-userauth"
    _log: Any = QuietLogger()
    _faults = Logger()
    transport: SshTransport

    def __init__(self, find: FindKey, let_in: LetIn, failed: Callable[[str], None]) -> None:
        self._find = find
        #: What was offered last, and whom it lets in: the same is signed next.
        self._offered: tuple[bytes, Known] | None = None
        self._let_in = let_in
        self._failed = failed
        self._tries = 0
        self._waiting: deque[bytes] = deque()
        self._busy = False
        self._stopped = False

    def serviceStopped(self) -> None:
        self._stopped = True
        self._waiting.clear()

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        if messageNum != _REQUEST:
            raise BadPacket("log in first")
        if len(self._waiting) >= MAX_WAITING:
            raise BadPacket("too many logins at once")
        self._waiting.append(packet)
        self._next()

    def _next(self) -> None:
        if self._busy or self._stopped or not self._waiting:
            return
        self._busy = True
        packet = self._waiting.popleft()
        judged = Deferred.fromCoroutine(self._judge(packet))
        judged.addErrback(self._broken)
        judged.addCallback(self._judged)

    def _judged(self, _: object) -> None:
        self._busy = False
        self._next()

    def _broken(self, failure: Failure) -> None:
        if failure.check(BadPacket):
            self.transport.broken(failure.getErrorMessage())
        else:
            self._faults.failure("a login failed", failure)
            self.transport.disconnect("the gateway failed; its log says why")

    async def _judge(self, packet: bytes) -> None:
        fields = Fields(packet)
        user, service, method = fields.string(512), fields.string(64), fields.string(64)
        if method == b"none":
            self._refuse("")
        elif method != b"publickey" or service != b"ssh-connection":
            self._refuse("other")
        else:
            await self._judge_key(user, service, fields)

    async def _judge_key(self, user: bytes, service: bytes, fields: Fields) -> None:
        signed, algorithm, blob = fields.flag(), fields.string(64), fields.string(16_384)
        signature = fields.string(16_384) if signed else b""
        method = "certificate" if is_certificate(blob) else "key"
        known = await self._known(blob, signed=signed)
        if self._stopped:
            return
        if known is None:
            self._refuse(method)
        elif not signed:
            self._offered = (blob, known)
            self.transport.sendPacket(_PK_OK, _string(algorithm) + _string(blob))
        elif known.credential.verify(
            algorithm, signature, self._signed(user, service, algorithm, blob)
        ):
            await self._enter(user, known)
        else:
            if isinstance(known.credential, SshCertificate) and known.credential.verified:
                self._tell(VERIFY_REQUIRED)
            self._refuse(method)

    async def _known(self, blob: bytes, *, signed: bool) -> Known | None:
        """Return whom a key or certificate lets in, if anybody."""
        offered, self._offered = self._offered, None
        if signed and offered is not None and offered[0] == blob:
            return offered[1]  # whoever lets in looks again
        try:
            credential = read_certificate(blob) if is_certificate(blob) else read_blob(blob)
        except BadCertificate as error:
            self._tell(f"rshell: your certificate is not accepted: {error}\r\n")
            return None
        except BadSshKey:
            return None
        found = await self._find(credential)
        if isinstance(found, NotAdmitted):
            self._tell(f"rshell: your certificate {found.why}\r\n")
            return None
        return found

    def _tell(self, text: str) -> None:
        if not self._stopped and not self.transport.closing:
            self.transport.sendPacket(_BANNER, _string(text.encode()) + _string(b""))

    def _signed(self, user: bytes, service: bytes, algorithm: bytes, blob: bytes) -> bytes:
        """Return what a login's signature is over (RFC 4252 section 7)."""
        session = self.transport.sessionID
        assert session is not None
        words = (user, service, b"publickey")
        return (
            _string(session)
            + bytes((_REQUEST,))
            + b"".join(_string(word) for word in words)
            + b"\x01"
            + _string(algorithm)
            + _string(blob)
        )

    async def _enter(self, user: bytes, known: Known) -> None:
        connection = await self._let_in(user, known)
        if self._stopped or self.transport.closing:
            return
        if connection is None:
            self._refuse(known.method)
            return
        self._waiting.clear()
        self.transport.sendPacket(_SUCCESS, b"")
        self.transport.let_in(connection)

    def _refuse(self, method: str) -> None:
        """Refuse an attempt; an empty method only asked what there is, and does not count."""
        if self._stopped:
            return
        if method:
            self._tries += 1
            self._failed(method)
        if self._tries >= MAX_TRIES:
            self.transport.sendDisconnect(
                DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, b"too many authentication failures"
            )
        else:
            self.transport.sendPacket(_FAILURE, _string(_METHODS) + b"\0")


def _string(data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + data
