"""The key that signs checkpoints of the audit log, and what checks them.

It lies in the gateway's home and nowhere else (``audit.key``); its public half, for those who check
elsewhere, beside it (``audit.pub``).  It certifies nothing and opens nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rshell.identity.files import write_atomic

__all__ = ["AuditKey", "BadAuditKey", "fingerprint", "load_or_make", "read_public", "verifier"]

#: A PEM of an ed25519 key has 119 or 113 bytes.
MAX_PEM_BYTES = 4_096


class BadAuditKey(ValueError):
    """A file is no ed25519 key in PEM; the text is one line."""


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return 32 hexadecimal digits by which checkpoints name the key."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:32]


def verifier(key: Ed25519PublicKey) -> _Verifier:
    """Return a function of (signature, text) that tells whether the signature is the key's."""
    return _Verifier(key)


class _Verifier:
    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def __call__(self, signature: bytes, text: bytes) -> bool:
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


class AuditKey:
    """The private key.  Its repr shows nothing of it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.fingerprint = fingerprint(self.public)

    def __repr__(self) -> str:
        return f"AuditKey({self.fingerprint})"

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text."""
        return self._private.sign(text)

    def public_pem(self) -> str:
        """Return the public half, for those who check."""
        return self.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()


def load_or_make(home: Path) -> AuditKey:
    """Return the key of a gateway's home; make one if there is none.

    Raises:
        BadAuditKey: what is there is no such key.
        OSError: it cannot be read or written.
    """
    path = home / "audit.key"
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomic(path, pem)
    try:
        loaded = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise BadAuditKey(f"{path} is no ed25519 key")
    key = AuditKey(loaded)
    public, text = home / "audit.pub", key.public_pem().encode()
    if not public.exists() or public.read_bytes() != text:
        write_atomic(public, text)
    return key


def read_public(pem: str) -> Ed25519PublicKey:
    """Return the public key of a PEM.

    Raises:
        BadAuditKey: it is none.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise BadAuditKey("a public key in PEM is shorter")
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise BadAuditKey("this is no ed25519 public key in PEM")
    return key
