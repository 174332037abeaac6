"""Operators' SSH public keys: read from authorized_keys lines, named by fingerprint, verified.

What it is not: who may log in with them; the store knows whose they are, and the SSH door asks it.
Formats: RFC 4253 section 6.6, RFC 5656, RFC 8332 (RSA with SHA-2), RFC 8709 (Ed25519), and
OpenSSH's PROTOCOL.u2f for keys that live in a security key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable
from typing import Final

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

__all__ = [
    "SIGNATURE_ALGORITHMS",
    "BadSshKey",
    "SshPublicKey",
    "fingerprint_of",
    "read_blob",
    "read_lines",
    "take_string",
]

#: Below this an RSA key is no longer good enough (NIST SP 800-57: 128 bits of strength).
MIN_RSA_BITS: Final = 3072
#: More makes each verification slow enough to be an attack.
MAX_RSA_BITS: Final = 16384
#: An RSA key of that size, with room.
MAX_BLOB_BYTES: Final = 8192
#: Keys in one file: a person has a handful.
MAX_KEYS: Final = 64
MAX_COMMENT: Final = 200
#: In a security key's signature: somebody touched it (PROTOCOL.u2f).
_USER_PRESENT: Final = 0x01

_SK_ED25519: Final = b"sk-ssh-ed25519@openssh.com"
_SK_ECDSA: Final = b"sk-ecdsa-sha2-nistp256@openssh.com"
_CURVES: Final[dict[bytes, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]]] = {
    b"nistp256": (ec.SECP256R1, hashes.SHA256),
    b"nistp384": (ec.SECP384R1, hashes.SHA384),
    b"nistp521": (ec.SECP521R1, hashes.SHA512),
}
_RSA_HASHES: Final[dict[bytes, type[hashes.HashAlgorithm]]] = {
    b"rsa-sha2-512": hashes.SHA512,
    b"rsa-sha2-256": hashes.SHA256,
}

#: What a client may sign a login with, best first; for ``server-sig-algs`` (RFC 8308).
SIGNATURE_ALGORITHMS: Final[tuple[bytes, ...]] = (
    b"ssh-ed25519",
    _SK_ED25519,
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    _SK_ECDSA,
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)

_Verify = Callable[[bytes, bytes, bytes], bool]


class BadSshKey(ValueError):
    """This is no public key that is accepted; the text says why."""


@attrs.frozen
class SshPublicKey:
    """One public key that may log in.

    Attributes:
        type: As the format calls it, such as ``ssh-ed25519``.
        blob: The key as it is on the wire.
        comment: The rest of its line; not to be trusted.
    """

    type: str
    blob: bytes
    comment: str = ""
    _verify: _Verify = attrs.field(repr=False, eq=False, default=lambda *_: False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the blob as ``ssh-keygen -l`` shows it."""
        return fingerprint_of(self.blob)

    def verify(self, algorithm: bytes, signature: bytes, data: bytes) -> bool:
        """Whether ``signature``, an SSH signature blob, is this key's over ``data``.

        Args:
            algorithm: What the client said it would sign with; the blob must say the same.
        """
        try:
            name, rest = take_string(signature)
            if name != algorithm or name not in SIGNATURE_ALGORITHMS:
                return False
            return self._verify(name, rest, data)
        except (BadSshKey, InvalidSignature, ValueError):
            return False


def fingerprint_of(blob: bytes) -> str:
    """Return the fingerprint of a key: ``SHA256:`` and base64 without padding."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def read_lines(text: str) -> list[SshPublicKey]:
    """Return the keys of a ``.pub`` or ``authorized_keys`` file.

    Raises:
        BadSshKey: A line is no key that is accepted, or has options, or there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [_read_line(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise BadSshKey("there is no public key in it: give what ssh-keygen wrote to a .pub file")
    if len(found) > MAX_KEYS:
        raise BadSshKey(f"{len(found)} keys at once; at most {MAX_KEYS}")
    return found


def _read_line(line: str) -> SshPublicKey:
    if "PRIVATE KEY" in line:
        raise BadSshKey("this is a private key: keep it secret, and give the .pub file")
    words = line.split(None, 2)
    known = {name.decode() for name in _READERS} | {"ssh-rsa"}
    if len(words) < 2 or words[0] not in known:
        kinds = "ed25519, ecdsa, rsa, or a security key's"
        raise BadSshKey(f"not an OpenSSH public key ({kinds}) without options: {line[:40]!r}")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise BadSshKey(f"the {words[0]} key is damaged: not base64") from None
    key = read_blob(blob, words[2][:MAX_COMMENT] if len(words) > 2 else "")
    if key.type != words[0]:
        raise BadSshKey(f"the line says {words[0]}, the key in it is {key.type}")
    return key


def read_blob(blob: bytes, comment: str = "") -> SshPublicKey:
    """Return the key in a wire blob.

    Raises:
        BadSshKey: It is none that is accepted.
    """
    if len(blob) > MAX_BLOB_BYTES:
        raise BadSshKey("the key is too long")
    kind, rest = take_string(blob)
    reader = _READERS.get(kind)
    if reader is None:
        name = kind[:40].decode("ascii", "replace")
        raise BadSshKey(f"keys of type {name!r} are not accepted: use ed25519 (ssh-keygen)")
    try:
        verify = reader(rest)
    except (ValueError, UnsupportedAlgorithm, struct.error) as error:
        if isinstance(error, BadSshKey):
            raise
        raise BadSshKey(f"the {kind.decode()} key is damaged") from None
    return SshPublicKey(kind.decode("ascii"), blob, comment, verify)


# -- the kinds ---------------------------------------------------------------------------------


def _read_ed25519(rest: bytes) -> _Verify:
    point, rest = take_string(rest)
    _nothing_follows(rest)
    key = ed25519.Ed25519PublicKey.from_public_bytes(point)

    def verify(_name: bytes, signature: bytes, data: bytes) -> bool:
        raw, left = take_string(signature)
        _nothing_follows(left)
        key.verify(raw, data)
        return True

    return verify


def _read_ecdsa(rest: bytes) -> _Verify:
    curve, rest = take_string(rest)
    point, rest = take_string(rest)
    _nothing_follows(rest)
    kind, hashing = _curve(curve)
    key = ec.EllipticCurvePublicKey.from_encoded_point(kind(), point)

    def verify(name: bytes, signature: bytes, data: bytes) -> bool:
        if name != b"ecdsa-sha2-" + curve:
            return False
        pair, left = take_string(signature)
        _nothing_follows(left)
        key.verify(_dss(pair), data, ec.ECDSA(hashing()))
        return True

    return verify


def _read_rsa(rest: bytes) -> _Verify:
    exponent, rest = take_string(rest)
    modulus, rest = take_string(rest)
    _nothing_follows(rest)
    bits = int.from_bytes(modulus, "big").bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise BadSshKey(f"an RSA key of {bits} bits; at least {MIN_RSA_BITS}, or use ed25519")
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    key = numbers.public_key()

    def verify(name: bytes, signature: bytes, data: bytes) -> bool:
        hashing = _RSA_HASHES.get(name)  # never ssh-rsa, which is SHA-1
        if hashing is None:
            return False
        raw, left = take_string(signature)
        _nothing_follows(left)
        # RFC 8332 forgives no length; some agents drop leading zeros, which OpenSSH pads.
        key.verify(raw.rjust((bits + 7) // 8, b"\0"), data, padding.PKCS1v15(), hashing())
        return True

    return verify


def _read_sk_ed25519(rest: bytes) -> _Verify:
    point, rest = take_string(rest)
    application, rest = take_string(rest)
    _nothing_follows(rest)
    key = ed25519.Ed25519PublicKey.from_public_bytes(point)

    def verify(name: bytes, signature: bytes, data: bytes) -> bool:
        if name != _SK_ED25519:
            return False
        raw, signed = _of_security_key(application, signature, data)
        key.verify(raw, signed)
        return True

    return verify


def _read_sk_ecdsa(rest: bytes) -> _Verify:
    curve, rest = take_string(rest)
    point, rest = take_string(rest)
    application, rest = take_string(rest)
    _nothing_follows(rest)
    if curve != b"nistp256":
        raise BadSshKey("a security key's ECDSA is of nistp256")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    def verify(name: bytes, signature: bytes, data: bytes) -> bool:
        if name != _SK_ECDSA:
            return False
        raw, signed = _of_security_key(application, signature, data)
        key.verify(_dss(raw), signed, ec.ECDSA(hashes.SHA256()))
        return True

    return verify


def _of_security_key(application: bytes, signature: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return a security key's inner signature and the bytes that it signs (PROTOCOL.u2f)."""
    raw, rest = take_string(signature)
    if len(rest) != 5:
        raise BadSshKey("a security key's signature ends with flags and a counter")
    if not rest[0] & _USER_PRESENT:
        raise BadSshKey("nobody touched the security key")
    signed = hashlib.sha256(application).digest() + rest + hashlib.sha256(data).digest()
    return raw, signed


_READERS: Final[dict[bytes, Callable[[bytes], _Verify]]] = {
    b"ssh-ed25519": _read_ed25519,
    b"ecdsa-sha2-nistp256": _read_ecdsa,
    b"ecdsa-sha2-nistp384": _read_ecdsa,
    b"ecdsa-sha2-nistp521": _read_ecdsa,
    b"ssh-rsa": _read_rsa,
    _SK_ED25519: _read_sk_ed25519,
    _SK_ECDSA: _read_sk_ecdsa,
}


def _curve(name: bytes) -> tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]:
    found = _CURVES.get(name)
    if found is None:
        raise BadSshKey("an unknown elliptic curve")
    return found


def _dss(pair: bytes) -> bytes:
    """Return an SSH pair (r, s) as cryptography wants it."""
    r, rest = take_string(pair)
    s, rest = take_string(rest)
    _nothing_follows(rest)
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def take_string(data: bytes) -> tuple[bytes, bytes]:
    """Return the first SSH string of ``data``, and what follows it.

    Raises:
        BadSshKey: It is cut short.
    """
    if len(data) < 4:
        raise BadSshKey("the key or signature is cut short")
    (size,) = struct.unpack_from(">L", data)
    if size > len(data) - 4:
        raise BadSshKey("the key or signature is cut short")
    return data[4 : 4 + size], data[4 + size :]


def _nothing_follows(rest: bytes) -> None:
    if rest:
        raise BadSshKey("something follows the key or signature")
