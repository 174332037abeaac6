"""The TLS contexts of gateway, client and joiner: TLS 1.3 only, one way to be who you say.

Each is a Twisted connection creator, for ``TLSMemoryBIOFactory(creator, isClient, factory)``.
OpenSSL judges the chain during the handshake; what it cannot judge (which CA made which kind of
name, the host name, the pin of a root never seen before) is judged by `GatewayTLS.peer_of`,
`verify_gateway_name` and `verify_join_peer`, which must be called once the handshake is complete
and before anything is sent or believed. None of this admits anybody: the store does.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from rshell.identity.authority import fleet_of
from rshell.identity.clock_floor import BUILD_TIME, ClockFloor
from rshell.identity.credentials import Credentials
from rshell.identity.keys import PrivateKey, spki_hash
from rshell.identity.names import BadPeerName, PeerName, peer_name_of
from rshell.identity.refusals import (
    GatewayNotTrusted,
    PeerRefused,
    explain_tls_failure,
    verification_reason,
)

__all__ = [
    "ALPN_JOIN",
    "ALPN_LINK",
    "ClientTLS",
    "GatewayNotTrusted",
    "GatewayTLS",
    "JoinTLS",
    "PeerCertificate",
    "PeerRefused",
    "explain_tls_failure",
    "verify_gateway_name",
    "verify_join_peer",
]

ALPN_LINK = b"rshell/1"
ALPN_JOIN = b"rshell-join/1"

_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_LEAF = 0  # depth

# Leaf, CA and root; a chain longer than ours is not ours.
_MAX_CHAIN = 3


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    # A resumed session would skip the check of the peer's certificate.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # 62 -> 36 KB for each idle link
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


@attrs.frozen
class PeerCertificate:
    """What a device or operator proved to a gateway.

    Attributes:
        name: who its certificate says it is.
        spki: SHA-256 of its public key, 32 bytes: what the store knows it by.
        serial: of the certificate.
        not_before: begin of the certificate's life, aware.
        not_after: its end, aware.
        expired: whether that has passed: such a peer may at most renew.
    """

    name: PeerName
    spki: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    expired: bool


@implementer(IOpenSSLServerConnectionCreator)
class GatewayTLS:
    """The gateway's side: one context shared by all connections.

    A client certificate is asked for but not demanded, because a joining machine has none. The
    trust anchors are the device CA and the operator CA themselves, so a gateway's certificate
    does not pass for a client's. A device whose certificate expired in a drawer passes, flagged.
    """

    def __init__(
        self,
        leaf_key: PrivateKey,
        chain: Sequence[x509.Certificate],
        device_ca: x509.Certificate,
        operator_ca: x509.Certificate,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Build the context.

        Args:
            leaf_key: the gateway's private key.
            chain: its certificate, the gateway CA, the root.
            device_ca: issues what devices present.
            operator_ca: issues what operators present.
            now: the time, aware, for `PeerCertificate.expired`; OpenSSL itself looks at the
                system clock.

        Raises:
            SSL.Error: the key is not the certificate's.
        """
        self._authorities = {"device": device_ca, "operator": operator_ca}
        self._issuers = {
            kind: authority.public_bytes(Encoding.DER)
            for kind, authority in self._authorities.items()
        }
        self._fleets = {kind: fleet_of(ca) for kind, ca in self._authorities.items()}
        self._now = now
        self._context = self._build(leaf_key, chain)

    def replace(self, leaf_key: PrivateKey, chain: Sequence[x509.Certificate]) -> None:
        """Use a renewed certificate from the next connection on; links in use keep running.

        Raises:
            SSL.Error: the key is not the certificate's; the old one stays in use.
        """
        self._context = self._build(leaf_key, chain)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def peer_of(self, connection: SSL.Connection) -> PeerCertificate | None:
        """Say who is at the other end of a completed handshake.

        Returns:
            The peer; None for one that is joining and has no certificate.

        Raises:
            PeerRefused: it speaks no protocol of ours, has no certificate where one is needed,
                or one of the wrong shape or of the wrong CA.
        """
        protocol = connection.get_alpn_proto_negotiated()
        if protocol not in (ALPN_LINK, ALPN_JOIN):
            raise PeerRefused("peer offered no application protocol")
        leaf = connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            if protocol == ALPN_JOIN:
                return None
            raise PeerRefused("peer presented no certificate")
        # As OpenSSL has it: to parse our own CA anew for each peer would cost more than the rest.
        chain = connection.get_verified_chain() or []
        issuer = crypto.dump_certificate(crypto.FILETYPE_ASN1, chain[1]) if chain[1:] else b""
        try:
            return self._read_peer(leaf, issuer)
        except BadPeerName as error:
            raise PeerRefused(f"{error}") from None
        except ValueError:
            raise PeerRefused("the certificate is malformed") from None

    def _read_peer(self, leaf: x509.Certificate, issuer: bytes) -> PeerCertificate:
        """Judge what a handshake proved.

        Args:
            leaf: the peer's certificate.
            issuer: what OpenSSL verified it by, DER; empty if nothing.
        """
        name = peer_name_of(leaf)
        if issuer != self._issuers[name.kind]:
            raise PeerRefused(
                f"the certificate names a {name.kind} but is not of the {name.kind} CA"
            )
        if name.fleet != self._fleets[name.kind]:
            raise PeerRefused("the certificate names another fleet")
        if not _has_usage(leaf, ExtendedKeyUsageOID.CLIENT_AUTH):
            raise PeerRefused("the certificate is not meant for clients")
        not_after = leaf.not_valid_after_utc
        return PeerCertificate(
            name=name,
            spki=spki_hash(leaf.public_key()),
            serial=leaf.serial_number,
            not_before=leaf.not_valid_before_utc,
            not_after=not_after,
            expired=self._now() > not_after,
        )

    def _build(self, leaf_key: PrivateKey, chain: Sequence[x509.Certificate]) -> SSL.Context:
        context = _new_context()
        _use_certificate(context, leaf_key, chain)
        store = _store_of(context)
        for authority in self._authorities.values():
            store.add_cert(crypto.X509.from_cryptography(authority))
        # the CAs are anchors by themselves; their root is not needed, and not trusted here
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        context.set_verify(SSL.VERIFY_PEER, _judge_client)
        context.set_alpn_select_callback(_select_protocol)
        return context


def _judge_client(
    _connection: SSL.Connection, _certificate: crypto.X509, error: int, depth: int, _ok: int
) -> bool:
    # "Not yet valid" says that our own clock is wrong: these CAs are ours, and what admits is the
    # registered key.  A gateway whose clock starts in 1970 must not shut its fleet out.
    if error in (0, _NOT_YET_VALID) or (error == _EXPIRED and depth == _LEAF):
        return True
    raise PeerRefused(verification_reason(error))


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    for protocol in (ALPN_LINK, ALPN_JOIN):
        if protocol in offered:
            return protocol
    # An exception, unlike pyOpenSSL's NO_OVERLAPPING_PROTOCOLS, sends the fatal alert.
    raise PeerRefused("peer offered no application protocol of ours")


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """A device's or operator's side of a link.

    The only trust anchor is the fleet's root. Certificates are judged at the clock floor's
    `effective_now`; "not yet valid" is forgiven while the system clock is untrusted.
    """

    def __init__(
        self,
        credentials: Credentials,
        clock_floor: ClockFloor,
        revoked_gateways: frozenset[bytes] = frozenset(),
    ) -> None:
        """Prepare; the begin of our own certificate raises the clock floor.

        Args:
            credentials: who we are and which root we believe.
            clock_floor: the time to judge at.
            revoked_gateways: SPKI hashes (32 bytes each) of gateways never to be believed again.
        """
        self._key = credentials.key
        self._certificate = credentials.certificate
        self._root = credentials.root
        self._clock = clock_floor
        self._revoked = revoked_gateways
        clock_floor.at_least(self._certificate.not_valid_before_utc)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._build(), None)

    def _build(self) -> SSL.Context:
        # Built for each dial, 0.3 ms: OpenSSL takes a store's verification time only once,
        # later `set_time` calls on the same store are silently without effect.
        context = _new_context()
        # the gateway holds the device CA as an anchor, so the leaf alone is enough
        _use_certificate(context, self._key, (self._certificate,))
        context.set_alpn_protos([ALPN_LINK])
        store = _store_of(context)
        store.add_cert(crypto.X509.from_cryptography(self._root))
        store.set_time(self._clock.effective_now().astimezone(UTC))
        context.set_verify(SSL.VERIFY_PEER, self._judge_gateway)
        return context

    def _judge_gateway(
        self,
        _connection: SSL.Connection,
        certificate: crypto.X509,
        error: int,
        depth: int,
        _ok: int,
    ) -> bool:
        forgiven = error == _NOT_YET_VALID and not self._clock.trusted
        if error != 0 and not forgiven:
            raise GatewayNotTrusted(verification_reason(error))
        if depth == _LEAF and self._is_revoked(certificate):
            raise GatewayNotTrusted("this gateway's key is revoked")
        return True

    def _is_revoked(self, certificate: crypto.X509) -> bool:
        if not self._revoked:
            return False
        try:
            return spki_hash(certificate.to_cryptography().public_key()) in self._revoked
        except ValueError:
            raise GatewayNotTrusted("the certificate is malformed") from None


def verify_gateway_name(connection: SSL.Connection, host: str) -> x509.Certificate:
    """Check, after the handshake of a link, that the gateway is the one we dialled.

    Args:
        connection: of `ClientTLS`, handshake complete.
        host: the DNS name or address that was dialled, as configured.

    Returns:
        The gateway's certificate; its end bounds what its clock may tell us.

    Raises:
        GatewayNotTrusted: it speaks another protocol, is no gateway, or has another name.
    """
    if connection.get_alpn_proto_negotiated() != ALPN_LINK:
        raise GatewayNotTrusted("the peer does not speak the link protocol")
    leaf = connection.get_peer_certificate(as_cryptography=True)
    if leaf is None:
        raise GatewayNotTrusted("the peer presented no certificate")
    _check_gateway_leaf(leaf, host)
    return leaf


@implementer(IOpenSSLClientConnectionCreator)
class JoinTLS:
    """The side of a machine that joins: no certificate, and only the root's hash known.

    OpenSSL cannot check a chain without its root, so the handshake takes any; the token may be
    sent only after `verify_join_peer`. One per dial.
    """

    def __init__(self, root_pin: bytes, host: str) -> None:
        """Prepare to join.

        Args:
            root_pin: SHA-256 of the root's SubjectPublicKeyInfo, 32 bytes.
            host: the DNS name or address from the join string.
        """
        self._root_pin = root_pin
        self._host = host
        self._context = _new_context()
        self._context.set_alpn_protos([ALPN_JOIN])
        self._context.set_verify(SSL.VERIFY_NONE)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def verify(
        self, connection: SSL.Connection, now: datetime, build_time: datetime = BUILD_TIME
    ) -> x509.Certificate:
        """Call `verify_join_peer` with the pin and host of this join."""
        return verify_join_peer(connection, self._root_pin, self._host, now, build_time)


def verify_join_peer(
    connection: SSL.Connection,
    root_pin: bytes,
    host: str,
    now: datetime,
    build_time: datetime = BUILD_TIME,
) -> x509.Certificate:
    """Check, after the handshake of a join, that this is a gateway of the fleet invited to.

    Args:
        connection: of `JoinTLS`, handshake complete.
        root_pin: SHA-256 of the root's SubjectPublicKeyInfo, 32 bytes.
        host: the DNS name or address that was dialled.
        now: the system's time, aware. Before `build_time` it is wrong for certain, and then
            "not yet valid" is forgiven.
        build_time: when this software was built.

    Returns:
        The root, to be kept as the only trust anchor from now on.

    Raises:
        GatewayNotTrusted: nothing of the join may be sent.
    """
    if connection.get_alpn_proto_negotiated() != ALPN_JOIN:
        raise GatewayNotTrusted("the peer does not speak the join protocol")
    chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    if not 2 <= len(chain) <= _MAX_CHAIN:
        raise GatewayNotTrusted("the peer does not present the certificates of a gateway")
    leaf, *rest = chain
    try:
        root = _pinned(rest, root_pin)
        _verify_path(leaf, rest, root, _judging_time(chain, now, build_time))
        _check_gateway_leaf(leaf, host)
    except ValueError:
        raise GatewayNotTrusted("the certificate is malformed") from None
    return root


def _pinned(chain: Sequence[x509.Certificate], root_pin: bytes) -> x509.Certificate:
    for certificate in chain:
        if hmac.compare_digest(spki_hash(certificate.public_key()), root_pin):
            return certificate
    raise GatewayNotTrusted("this gateway is not of the fleet that the join string names")


def _judging_time(
    chain: Sequence[x509.Certificate], now: datetime, build_time: datetime
) -> datetime:
    if now >= build_time:
        return now
    return max(build_time, *(certificate.not_valid_before_utc for certificate in chain))


def _verify_path(
    leaf: x509.Certificate,
    chain: Sequence[x509.Certificate],
    root: x509.Certificate,
    when: datetime,
) -> None:
    """Let OpenSSL check signatures, CA flags, path lengths and times up to the pinned root."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(when.astimezone(UTC))
    untrusted = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    judge = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), untrusted)
    try:
        path = judge.get_verified_chain()
    except crypto.X509StoreContextError as error:
        raise GatewayNotTrusted(verification_reason(error.errors[0])) from None
    # what a link's handshake does by purpose: CAs made for clients only never vouch for servers
    for issuer in path[1:-1]:
        if not _has_usage(issuer.to_cryptography(), ExtendedKeyUsageOID.SERVER_AUTH):
            raise GatewayNotTrusted("the certificate was not issued by a gateway CA")


def _check_gateway_leaf(leaf: x509.Certificate, host: str) -> None:
    if not _has_usage(leaf, ExtendedKeyUsageOID.SERVER_AUTH):
        raise GatewayNotTrusted("the peer's certificate is not a gateway's")
    try:
        if _is_address(host):
            verify_certificate_ip_address(leaf, host)
        else:
            verify_certificate_hostname(leaf, host)
    except (VerificationError, CertificateError, ValueError):
        # ValueError: the host is neither a name nor an address
        raise GatewayNotTrusted(f"the gateway's certificate is not for {host!a}") from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _has_usage(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return usage in usages


def _use_certificate(
    context: SSL.Context, key: PrivateKey, chain: Sequence[x509.Certificate]
) -> None:
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)
    context.check_privatekey()


def _store_of(context: SSL.Context) -> crypto.X509Store:
    store = context.get_cert_store()
    if store is None:
        raise SSL.Error([("rshell", "", "OpenSSL has no certificate store")])
    return store
