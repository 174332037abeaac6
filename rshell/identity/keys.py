"""Private keys, the hash that registers a public key, and certificate requests.

A request contributes its public key and the proof that its sender holds the private one;
every name and extension in it is thrown away.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from rshell.identity.files import write_atomic

__all__ = [
    "MAX_REQUEST_BYTES",
    "BadCertificateRequest",
    "BadKey",
    "PrivateKey",
    "PublicKey",
    "fingerprint",
    "is_accepted",
    "key_from_pem",
    "key_to_pem",
    "load_key",
    "make_csr",
    "new_key",
    "public_key_to_pem",
    "read_csr",
    "read_fingerprint",
    "save_key",
    "signing_hash",
    "spki_hash",
]

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

# A P-384 request without names is under 300 bytes; 4 KiB leaves room for careless tools
# while an unauthenticated peer cannot make us parse anything large.
MAX_REQUEST_BYTES = 4096

_CURVES = ("secp256r1", "secp384r1")
# 80 bits: short enough to be read out, and making another key with the same is out of reach.
_FINGERPRINT_BYTES = 10


class BadCertificateRequest(ValueError):
    """A certificate request is malformed, unproven, or for a kind of key we do not accept."""


class BadKey(ValueError):
    """A stored private key is unreadable or of a kind we do not use."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a fresh ECDSA P-256 key, the kind secure elements and TPMs have too."""
    return ec.generate_private_key(ec.SECP256R1())


def spki_hash(public_key: PublicKeyTypes) -> bytes:
    """Hash a public key the way it is registered and pinned.

    Returns:
        32 bytes: SHA-256 of the DER SubjectPublicKeyInfo (RFC 7469 section 2.4).
    """
    encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def fingerprint(spki: bytes) -> str:
    """Return what people compare: ``ABCD-EFGH-IJKL-MNOP``, base32 of the hash's first 80 bits.

    Args:
        spki: as of `spki_hash`.
    """
    text = base64.b32encode(spki[:_FINGERPRINT_BYTES]).decode("ascii")
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def read_fingerprint(text: str) -> bytes | None:
    """Return the 10 bytes that a fingerprint stands for, or None if it is none.

    Case does not count, nor whether its groups are separated.
    """
    plain = text.strip().upper().replace("-", "").replace(" ", "")
    try:
        data = base64.b32decode(plain)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == _FINGERPRINT_BYTES else None


def public_key_to_pem(public_key: PublicKey) -> str:
    """Encode a public key as PEM of its SubjectPublicKeyInfo."""
    encoded = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode("ascii")


def is_accepted(public_key: PublicKey) -> bool:
    """Say whether a device or operator may have such a key: Ed25519, or on P-256 or P-384."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.curve.name in _CURVES
    return True


def signing_hash(key: PrivateKey | PublicKey) -> hashes.SHA256 | None:
    """Return the hash to sign with: SHA-256, or None for Ed25519, which has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return None
    return hashes.SHA256()


def key_to_pem(key: PrivateKey) -> bytes:
    """Encode a private key as unencrypted PKCS #8 PEM; the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(data: bytes) -> PrivateKey:
    """Decode a private key.

    Raises:
        BadKey: it is no unencrypted PEM key, or neither P-256, P-384 nor Ed25519.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # neither message nor cause is passed on: they may quote the data
        raise BadKey("not an unencrypted PEM private key") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    raise BadKey("the key is neither P-256, P-384 nor Ed25519")


def load_key(path: Path) -> PrivateKey:
    """Read a private key from a file.

    Raises:
        BadKey: the content is no usable key, or others than the owner can read the file.
        OSError: the file could not be read.
    """
    with path.open("rb") as file:
        data = file.read()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise BadKey(f"{path} is open to others (mode {mode:04o}); it should be 0600")
    try:
        return key_from_pem(data)
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


def save_key(path: Path, key: PrivateKey) -> None:
    """Write a private key to a file of mode 0600, atomically.

    Raises:
        OSError: the file could not be written.
    """
    write_atomic(path, key_to_pem(key), 0o600)


def make_csr(key: PrivateKey) -> bytes:
    """Make a certificate request with an empty subject.

    Returns:
        The DER bytes (RFC 2986).
    """
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, signing_hash(key)).public_bytes(Encoding.DER)


def read_csr(der: bytes) -> PublicKey:
    """Take the public key out of a certificate request from an untrusted peer.

    Args:
        der: the request, at most `MAX_REQUEST_BYTES`.

    Returns:
        The proven public key: P-256, P-384 or Ed25519.

    Raises:
        BadCertificateRequest: too long, malformed, wrongly signed, or another kind of key.
    """
    if len(der) > MAX_REQUEST_BYTES:
        raise BadCertificateRequest(f"the request is longer than {MAX_REQUEST_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BadCertificateRequest("this is not a certificate request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise BadCertificateRequest("the key is neither P-256, P-384 nor Ed25519")
    if isinstance(key, ec.EllipticCurvePublicKey) and not is_accepted(key):
        raise BadCertificateRequest(f"keys on the curve {key.curve.name} are not accepted")
    try:
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        proven = False
    if not proven:
        raise BadCertificateRequest("the request is not signed by its own key")
    return key
