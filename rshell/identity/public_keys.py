"""Public keys from a file: what a factory hands over so that its devices are let in.

Either PEM blocks one after another, or lines of ``name<TAB>key`` or just ``key``, the key being
base64 of the DER SubjectPublicKeyInfo (what is between the lines of a PEM block).  Empty lines and
those that begin with ``#`` are ignored; anything else is an error with the number of its line.
"""

from __future__ import annotations

import base64
import binascii

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rshell.identity.keys import is_accepted, spki_hash

__all__ = ["MAX_KEYS", "MAX_KEYS_BYTES", "BadPublicKeys", "NamedKey", "read_public_keys"]

#: Of one file: a pallet of devices; more is more files.
MAX_KEYS = 10_000
#: A P-384 key as PEM has 215 bytes; a file given by mistake is not read whole.
MAX_KEYS_BYTES = 4 * 1024 * 1024

_BEGIN = "-----BEGIN PUBLIC KEY-----"
_END = "-----END PUBLIC KEY-----"


class BadPublicKeys(ValueError):
    """A file of public keys cannot be used; the message names the line."""


@attrs.frozen
class NamedKey:
    """A public key and what its device shall be called.

    Attributes:
        spki: SHA-256 of the SubjectPublicKeyInfo.
        name: as the file has it, unchecked; None if it has none.
        line: where it began.
    """

    spki: bytes
    name: str | None
    line: int


def read_public_keys(data: bytes) -> list[NamedKey]:
    """Read a file of public keys.

    Raises:
        BadPublicKeys: something in it is no key that devices may have, or it has too many, none,
            or one twice.
    """
    if len(data) > MAX_KEYS_BYTES:
        raise BadPublicKeys(f"more than {MAX_KEYS_BYTES >> 20} MiB of keys: give fewer at once")
    found: list[NamedKey] = []
    block: list[str] | None = None
    begun = 0
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if block is not None:
            if text == _END:
                found.append(NamedKey(_read_key("".join(block), begun), None, begun))
                block = None
            else:
                block.append(text)
        elif text == _BEGIN:
            block, begun = [], number
        elif text and not text.startswith("#"):
            found.append(_read_line(text, number))
    if block is not None:
        raise BadPublicKeys(f"line {begun}: this key has no end")
    _check(found)
    return found


def _read_line(text: str, number: int) -> NamedKey:
    if text.startswith("-----"):
        raise BadPublicKeys(f"line {number}: this is not a public key (BEGIN PUBLIC KEY)")
    name, tab, key = text.partition("\t")
    if not tab:
        name, key = "", text
    return NamedKey(_read_key(key.strip(), number), name.strip() or None, number)


def _read_key(text: str, number: int) -> bytes:
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, TypeError, UnsupportedAlgorithm):
        raise BadPublicKeys(
            f"line {number}: this is no public key; write NAME<TAB>KEY or paste PEM"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) or not (
        is_accepted(key)
    ):
        raise BadPublicKeys(f"line {number}: the key is neither P-256, P-384 nor Ed25519")
    return spki_hash(key)


def _check(found: list[NamedKey]) -> None:
    if not found:
        raise BadPublicKeys("there is no public key in it")
    if len(found) > MAX_KEYS:
        raise BadPublicKeys(f"more than {MAX_KEYS:,} keys: give fewer at once")
    keys: dict[bytes, int] = {}
    names: dict[str, int] = {}
    for one in found:
        if (first := keys.setdefault(one.spki, one.line)) != one.line:
            raise BadPublicKeys(f"line {one.line}: the key of line {first} again")
        if one.name and (first := names.setdefault(one.name, one.line)) != one.line:
            raise BadPublicKeys(f"line {one.line}: the name of line {first} again")
