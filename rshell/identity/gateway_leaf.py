"""A gateway's certificate without the key that signs it: request, issue elsewhere, put in place.

The gateway makes the key and a request; whoever has the gateway CA's key, on a machine without
network perhaps, answers with a chain; `judge_chain` says whether that may be put in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from rshell.identity.authority import CertificateAuthority, general_name, issue_gateway
from rshell.identity.clock_floor import BUILD_TIME
from rshell.identity.fleet_home import certificates_from_pem
from rshell.identity.keys import (
    MAX_REQUEST_BYTES,
    BadCertificateRequest,
    PrivateKey,
    PublicKey,
    read_csr,
    signing_hash,
    spki_hash,
)

__all__ = [
    "BadLeaf",
    "LeafRequest",
    "answer",
    "fingerprint",
    "judge_chain",
    "make_request",
    "names_of",
    "read_chain",
    "read_request",
]

#: A chain of ours is three certificates, 2 KB.
MAX_CHAIN_BYTES = 32_768
#: More would not fit into a request; a gateway has a name and an address or two.
MAX_NAMES = 50
_CHAIN = 3


class BadLeaf(ValueError):
    """A chain cannot be put in place; the text is one line."""


@attrs.frozen
class LeafRequest:
    """What a gateway asks for.

    Attributes:
        public_key: proven to be the asker's.
        names: what it would like to be called; whoever signs decides.
    """

    public_key: PublicKey
    names: tuple[str, ...]


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the hash by which a gateway's key is named and revoked: 64 hexadecimal digits."""
    return spki_hash(certificate.public_key()).hex()


def names_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, ...]:
    """Return the DNS names and addresses a gateway's certificate, or request, is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def make_request(key: PrivateKey, names: Sequence[str]) -> bytes:
    """Return a request in PEM (RFC 2986) that proves the key and proposes names.

    Raises:
        ValueError: a name is neither a DNS name nor an address, or there are too many.
    """
    if not 1 <= len(names) <= MAX_NAMES:
        raise ValueError(f"a gateway has between 1 and {MAX_NAMES} names")
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False
    )
    return builder.sign(key, signing_hash(key)).public_bytes(Encoding.PEM)


def read_request(data: bytes) -> LeafRequest:
    """Read a request in PEM.

    Raises:
        BadCertificateRequest: malformed, unproven, too long, or for another kind of key.
    """
    if len(data) > 2 * MAX_REQUEST_BYTES:
        raise BadCertificateRequest("this is no certificate request: it is too long")
    try:
        request = x509.load_pem_x509_csr(data)
        der = request.public_bytes(Encoding.DER)
        names = names_of(request)
    except ValueError:
        raise BadCertificateRequest("this is not a certificate request in PEM") from None
    return LeafRequest(read_csr(der), names)


def answer(
    authority: CertificateAuthority,
    root: x509.Certificate,
    request: LeafRequest,
    names: Sequence[str],
    life: timedelta,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Issue what a request asks for.

    Args:
        authority: the gateway CA, with its key.
        root: it is the end of the chain that gateways show.
        request: whose key.
        names: what it may be called.
        life: how long.
        now: the time, aware.

    Returns:
        Leaf, gateway CA, root.

    Raises:
        ValueError: no name, or one that is neither a DNS name nor an address; or the clock stands
            before the fleet began or after the CA ended, so that the leaf would be of no use.
        KeyAbsent: the key is not here.
    """
    ca = authority.certificate
    if not ca.not_valid_before_utc <= now < ca.not_valid_after_utc:
        raise ValueError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but the gateway CA is valid "
            f"from {ca.not_valid_before_utc:%Y-%m-%d} to {ca.not_valid_after_utc:%Y-%m-%d}: "
            "set the clock"
        )
    leaf = issue_gateway(authority, request.public_key, names, now, life)
    return leaf, ca, root


def read_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read a chain in PEM.

    Raises:
        BadLeaf: it is none, or longer than ours.
    """
    if len(data) > MAX_CHAIN_BYTES:
        raise BadLeaf("this is no certificate of a gateway: it is too long")
    try:
        chain = certificates_from_pem(data)
    except ValueError:
        raise BadLeaf("this is no certificate in PEM") from None
    if len(chain) != _CHAIN:
        raise BadLeaf(f"{len(chain)} certificates: leaf, gateway CA and root are wanted")
    return chain


def judge_chain(
    chain: Sequence[x509.Certificate],
    key: PrivateKey,
    authority: x509.Certificate,
    root: x509.Certificate,
    now: datetime,
) -> None:
    """Check that a chain may be shown by this gateway from now on.

    Args:
        chain: leaf, gateway CA, root.
        key: the leaf has to be of it.
        authority: this fleet's gateway CA.
        root: this fleet's root.
        now: the time, aware; before this software was built it is wrong, and not asked.

    Raises:
        BadLeaf: peers would refuse it, or it is another fleet's or another gateway's.
    """
    leaf = chain[0]
    if (chain[1], chain[2]) != (authority, root):
        raise BadLeaf("the certificate is of another fleet, or of another gateway CA")
    try:
        leaf.verify_directly_issued_by(authority)
    except Exception:  # each kind of mismatch has its own exception type
        raise BadLeaf("the certificate is not signed by the gateway CA beside it") from None
    if spki_hash(leaf.public_key()) != spki_hash(key.public_key()):
        raise BadLeaf("the certificate is not of the key that was asked for here")
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    if ExtendedKeyUsageOID.SERVER_AUTH not in usages or not names_of(leaf):
        raise BadLeaf("the certificate is not a gateway's")
    if now >= BUILD_TIME and now >= leaf.not_valid_after_utc:
        raise BadLeaf(f"the certificate ended on {leaf.not_valid_after_utc:%Y-%m-%d}")
