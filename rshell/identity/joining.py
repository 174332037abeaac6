"""The join exchange of a new device or operator (docs/protocol.md section 11).

One connection, one JOIN, one answer. It stores nothing: the caller has made and stored the key
before, so that a lost answer can be asked for again with the same key (rules J2 and J4).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.identity.fleet_home import certificates_from_pem
from rshell.identity.join_string import JoinString
from rshell.identity.keys import PrivateKey, make_csr, spki_hash
from rshell.identity.names import PeerKind
from rshell.identity.tls import GatewayNotTrusted, JoinTLS, explain_tls_failure
from rshell.link.addresses import resolve
from rshell.link.core.constants import FrameType
from rshell.link.core.errors import ErrorCode, RemoteProtocolError
from rshell.link.core.frames import FrameReader, encode_frame
from rshell.link.core.messages import GoAway, Join, Joined, decode, encode
from rshell.link.dialling import LinkEndpoint
from rshell.link.sockets import wrap_tls

__all__ = ["JoinFailed", "join"]


#: What a gateway says that may be otherwise later.
_TRY_LATER = frozenset(
    {ErrorCode.PENDING, ErrorCode.OVERLOAD, ErrorCode.INTERNAL, ErrorCode.SHUTDOWN}
)


class JoinFailed(Exception):
    """Joining came to nothing.

    Attributes:
        code: A stable word of section 3 of docs/protocol.md; ``offline`` when no gateway
            answered, ``auth`` when the gateway refused the join string or is not to be trusted.
        message: One line for a person.
        retry_seconds: How long a gateway asks to be left alone; 0 if it did not say.
        refused: Whether a gateway of the fleet said so; else it was never asked, or never answered.
    """

    def __init__(
        self, code: str, message: str, *, retry_seconds: float = 0.0, refused: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_seconds = retry_seconds
        self.refused = refused

    @property
    def pending(self) -> bool:
        """Whether the device waits to be accepted: ask again with the same key (rule J7)."""
        return self.refused and self.code == ErrorCode.PENDING

    @property
    def final(self) -> bool:
        """Whether asking again will not help."""
        return self.refused and self.code not in _TRY_LATER


@implementer(IHandshakeListener)
class _JoinProtocol(Protocol):
    """Checks who answers, then asks once."""

    def __init__(self, tls: JoinTLS, request: Join) -> None:
        self.answer: Deferred[Joined] = Deferred(lambda _: self._abort())
        self._tls = tls
        self._request = request
        self._reader = FrameReader()
        self._over = False

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        connection: SSL.Connection = transport.getHandle()
        try:
            self._tls.verify(connection, datetime.now(UTC))
        except GatewayNotTrusted as error:
            self._fail(ErrorCode.AUTH, error.reason)
            return
        transport.write(encode_frame(FrameType.JOIN, 0, encode(self._request)))

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._reader.feed(data)
        try:
            frame = self._reader.next_frame()
            if frame is None:
                return
            if frame.type == FrameType.JOINED:
                self._end(decode(frame.payload, Joined))
            elif frame.type == FrameType.GOAWAY:
                goaway = decode(frame.payload, GoAway)
                text = "".join(c if c.isprintable() else "?" for c in goaway.message)
                retry = goaway.retry_min_ms / 1000
                self._end(
                    JoinFailed(goaway.code, text or goaway.code, retry_seconds=retry, refused=True)
                )
            else:
                self._fail(ErrorCode.PROTOCOL, "the gateway broke the join protocol")
        except RemoteProtocolError as error:
            self._fail(error.code, f"the gateway broke the join protocol: {error.reason}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fail(ErrorCode.LINK_LOST, f"no answer: {explain_tls_failure(reason)}")

    def _end(self, result: Joined | JoinFailed) -> None:
        if self._over:
            return
        self._over = True
        self._abort()
        if isinstance(result, JoinFailed):
            self.answer.errback(result)
        else:
            self.answer.callback(result)

    def _fail(self, code: str, message: str) -> None:
        self._end(JoinFailed(str(code), message))

    def _abort(self) -> None:
        self._over = True
        if self.transport is not None:
            transport: Any = self.transport
            transport.abortConnection()


async def join(
    reactor: Any,
    join_string: JoinString,
    kind: PeerKind,
    key: PrivateKey,
    name: str | None,
    facts: Mapping[str, str],
    timeout_seconds: float = 30.0,
) -> Joined:
    """Turn a join string and a stored key into a certificate.

    Args:
        reactor: Where the connection lives.
        join_string: Names the gateway, pins the fleet's root, and holds the token.
        kind: What the string was made for.
        key: Already stored durably; asking again with the same key repeats the answer.
        name: The name proposed, or None.
        facts: Short texts about this machine for listings.
        timeout_seconds: For everything, from the name lookup on.

    Returns:
        The gateway's answer; its root is the one that the join string pins.

    Raises:
        JoinFailed: Nothing was issued, or the answer was lost.
    """
    exchange = Deferred.fromCoroutine(_join(reactor, join_string, kind, key, name, facts))
    exchange.addTimeout(timeout_seconds, reactor, _timed_out(join_string, timeout_seconds))
    return await exchange


def _timed_out(join_string: JoinString, seconds: float) -> Any:
    def explain(result: object, _seconds: float) -> None:
        where = f"{join_string.host}:{join_string.port}"
        raise JoinFailed(
            ErrorCode.TIMEOUT.value, f"no answer from {where} within {seconds:g} seconds"
        ) from None

    return explain


async def _join(
    reactor: Any,
    join_string: JoinString,
    kind: PeerKind,
    key: PrivateKey,
    name: str | None,
    facts: Mapping[str, str],
) -> Joined:
    request = Join(
        kind=kind,
        id=join_string.token_id,
        secret=join_string.secret,
        csr=make_csr(key),
        name=name,
        facts=dict(facts),
    )
    protocol = await _connect(reactor, join_string, request)
    joined = await protocol.answer
    try:
        root = certificates_from_pem(joined.root.encode())[0]
        pinned = spki_hash(root.public_key()) == join_string.root_pin
    except ValueError:
        pinned = False
    if not pinned:
        raise JoinFailed(
            ErrorCode.PROTOCOL.value, "the answer does not carry the root that the string pins"
        )
    return joined


async def _connect(reactor: Any, join_string: JoinString, request: Join) -> _JoinProtocol:
    """Try each address of the host until one accepts a connection."""
    where = f"{join_string.host}:{join_string.port}"
    try:
        addresses = await resolve(reactor, join_string.host, join_string.port)
    except OSError as error:
        raise JoinFailed(
            ErrorCode.OFFLINE.value, f"{join_string.host} cannot be resolved: {error.strerror}"
        ) from None
    reason = ""
    for address in addresses:
        tls = JoinTLS(join_string.root_pin, join_string.host)
        made: list[_JoinProtocol] = []

        def build(tls: JoinTLS = tls, made: list[_JoinProtocol] = made) -> Protocol:
            made.append(_JoinProtocol(tls, request))
            return made[0]

        inner = Factory.forProtocol(build)
        inner.noisy = False  # a device may ask for weeks
        factory = wrap_tls(tls, client=True, factory=inner)
        try:
            await LinkEndpoint(reactor, address, join_string.port).connect(factory)
        except CancelledError:
            raise
        except ConnectError as error:
            reason = " ".join(str(error).split())
            continue
        return made[0]
    raise JoinFailed(ErrorCode.OFFLINE.value, f"no connection to {where}: {reason}")
