"""OpenSSH user certificates made by hand, right or wrong as a test wants them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from rshell.identity.ssh_keys import read_lines

__all__ = ["FOREVER", "Private", "blob_of", "certificate", "option", "sign", "string"]

FOREVER = 2**64 - 1
Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_SUFFIX = b"-cert-v01@openssh.com"


def string(data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + data


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def option(name: bytes, value: bytes | None = None) -> bytes:
    """Return a critical option or an extension: a flag, or one with a value."""
    return string(name) + string(b"" if value is None else string(value))


def blob_of(private: Private) -> bytes:
    """Return the public key as it is on the wire."""
    line = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return read_lines(line.decode())[0].blob


def sign(private: Private, data: bytes, algorithm: bytes = b"rsa-sha2-512") -> bytes:
    """Return an SSH signature blob; ``algorithm`` is for RSA."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return string(b"ssh-ed25519") + string(private.sign(data))
    if isinstance(private, rsa.RSAPrivateKey):
        kinds = {b"rsa-sha2-512": hashes.SHA512, b"rsa-sha2-256": hashes.SHA256}
        hashing = kinds.get(algorithm, hashes.SHA1)()
        return string(algorithm) + string(private.sign(data, padding.PKCS1v15(), hashing))
    hashing = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[private.key_size]()
    r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashing)))
    name = f"ecdsa-sha2-nistp{private.key_size}".encode()
    return string(name) + string(mpint(r) + mpint(s))


def certificate(
    key: bytes,
    ca: Private,
    *,
    role: int = 1,
    serial: int = 7,
    key_id: bytes = b"ann-laptop",
    principals: Sequence[bytes] = (b"ann",),
    after: int = 0,
    before: int = FOREVER,
    critical: bytes = b"",
    extensions: bytes = option(b"permit-port-forwarding") + option(b"permit-pty"),
    ca_blob: bytes | None = None,
    signed: Callable[[bytes], bytes] | None = None,
    tail: bytes = b"",
) -> bytes:
    """Return the wire blob of a certificate.

    Args:
        key: What is certified, as it is on the wire.
        ca: Who signs.
        ca_blob: What stands for the CA's key, if it is another.
        signed: Makes the signature, if it is another.
        tail: What follows the signature.
    """
    (size,) = struct.unpack_from(">L", key)
    plain, fields = key[4 : 4 + size], key[4 + size :]
    name = plain.removesuffix(b"@openssh.com") + _SUFFIX
    body = string(name) + string(b"n" * 32) + fields
    body += struct.pack(">QL", serial, role) + string(key_id)
    body += string(b"".join(string(one) for one in principals))
    body += struct.pack(">QQ", after, before)
    body += string(critical) + string(extensions) + string(b"")
    body += string(blob_of(ca) if ca_blob is None else ca_blob)
    made = sign(ca, body) if signed is None else signed(body)
    return body + string(made) + tail
