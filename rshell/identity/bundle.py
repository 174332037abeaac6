"""The bundle: root key and gateway CA key, sealed with a passphrase, for a machine without network.

    {"rshell_bundle": 1, "fleet": ..., "kdf": {"name": "scrypt", "n", "r", "p", "salt"},
     "cipher": {"name": "aes-256-gcm", "nonce"}, "certificates": {"root": PEM, ...}, "sealed": b64}

``sealed`` holds the two private keys as PKCS #8 PEM. Everything before it is bound to it as
associated data, so that a bundle whose certificates were exchanged does not open. Whoever guesses
passphrases pays scrypt for each guess: 128 MiB and about half a second.

What it is not: a backup of the home. The other keys stay where the gateway needs them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import attrs
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta, Struct

from rshell.identity.authority import CertificateAuthority, fleet_of
from rshell.identity.files import sync_dir
from rshell.identity.fleet_home import certificates_from_pem
from rshell.identity.keys import BadKey, key_from_pem, key_to_pem, spki_hash

__all__ = [
    "MIN_PASSPHRASE",
    "BadBundle",
    "Bundle",
    "WrongPassphrase",
    "open_bundle",
    "read_bundle",
    "seal_bundle",
    "write_new",
]

#: Shorter ones are guessed, scrypt or not.
MIN_PASSPHRASE = 10
MAX_PASSPHRASE = 1024
#: Two certificates and two keys are 4 KB; a file given by mistake is not read whole.
MAX_BUNDLE_BYTES = 65_536
#: RFC 7914: 128 * r * n bytes. What is read may be harder by four times, not by more: a crafted
#: bundle shall not take the machine's memory.
SCRYPT_N = 2**17
_SCRYPT_R, _SCRYPT_P = 8, 1
_SCRYPT_MAX_N = 2**19


class BadBundle(ValueError):
    """A file is no bundle, is damaged, or does not fit together; the text is one line."""


class WrongPassphrase(BadBundle):
    """The passphrase does not open it: or one byte of the file is not as it was written."""


class _Kdf(Struct, frozen=True, forbid_unknown_fields=True):
    name: Literal["scrypt"]
    n: Annotated[int, Meta(ge=2, le=_SCRYPT_MAX_N)]
    r: Annotated[int, Meta(ge=1, le=8)]
    p: Annotated[int, Meta(ge=1, le=4)]
    salt: Annotated[bytes, Meta(min_length=16, max_length=64)]


class _Cipher(Struct, frozen=True, forbid_unknown_fields=True):
    name: Literal["aes-256-gcm"]
    nonce: Annotated[bytes, Meta(min_length=12, max_length=12)]


class _Certificates(Struct, frozen=True, forbid_unknown_fields=True):
    root: Annotated[str, Meta(max_length=8192)]
    gateway_ca: Annotated[str, Meta(max_length=8192)]


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    rshell_bundle: Literal[1]
    fleet: Annotated[str, Meta(max_length=64)]
    kdf: _Kdf
    cipher: _Cipher
    certificates: _Certificates


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    header: _Header
    sealed: Annotated[bytes, Meta(max_length=8192)]


class _Secrets(Struct, frozen=True, forbid_unknown_fields=True):
    root: str
    gateway_ca: str

    def __repr__(self) -> str:
        return "_Secrets(...)"


@attrs.frozen
class Bundle:
    """What can make gateways: both authorities with their keys."""

    fleet: str
    root: CertificateAuthority
    gateway: CertificateAuthority


def seal_bundle(bundle: Bundle, passphrase: str, n: int | None = None) -> bytes:
    """Return a bundle's file.

    Args:
        bundle: with both keys.
        passphrase: at least `MIN_PASSPHRASE` characters.
        n: scrypt's cost, `SCRYPT_N` if None; smaller for tests only.

    Raises:
        BadBundle: the passphrase is too short or too long.
        KeyAbsent: a key is not here.
    """
    if not MIN_PASSPHRASE <= len(passphrase) <= MAX_PASSPHRASE:
        raise BadBundle(f"a passphrase has {MIN_PASSPHRASE} to {MAX_PASSPHRASE:,} characters")
    header = _Header(
        rshell_bundle=1,
        fleet=bundle.fleet,
        kdf=_Kdf("scrypt", n or SCRYPT_N, _SCRYPT_R, _SCRYPT_P, os.urandom(16)),
        cipher=_Cipher("aes-256-gcm", os.urandom(12)),
        certificates=_Certificates(_pem(bundle.root), _pem(bundle.gateway)),
    )
    secrets = _Secrets(
        key_to_pem(bundle.root.signing_key()).decode("ascii"),
        key_to_pem(bundle.gateway.signing_key()).decode("ascii"),
    )
    cipher = AESGCM(_key(passphrase, header.kdf))
    sealed = cipher.encrypt(
        header.cipher.nonce, msgspec.json.encode(secrets), msgspec.json.encode(header)
    )
    return msgspec.json.format(msgspec.json.encode(_File(header, sealed)), indent=1) + b"\n"


def open_bundle(data: bytes, passphrase: str) -> Bundle:
    """Open what `seal_bundle` made, and check that keys and certificates belong together.

    Raises:
        WrongPassphrase: it does not open.
        BadBundle: it is no bundle, or its content does not fit together.
    """
    file = _parse(data)
    try:
        cipher = AESGCM(_key(passphrase, file.header.kdf))
        text = cipher.decrypt(
            file.header.cipher.nonce, file.sealed, msgspec.json.encode(file.header)
        )
    except (InvalidTag, ValueError):
        raise WrongPassphrase("the passphrase is wrong, or the bundle is damaged") from None
    try:
        secrets = msgspec.json.decode(text, type=_Secrets)
        root = _authority(secrets.root, file.header.certificates.root)
        gateway = _authority(secrets.gateway_ca, file.header.certificates.gateway_ca)
        gateway.certificate.verify_directly_issued_by(root.certificate)
    except Exception:  # each kind of mismatch has its own type, and none may quote a key
        raise BadBundle("the keys and certificates in the bundle do not fit together") from None
    return Bundle(fleet_of(root.certificate), root, gateway)


def read_bundle(path: Path) -> bytes:
    """Read a file that should be a bundle, without opening it.

    Raises:
        BadBundle: it is none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BUNDLE_BYTES + 1)
    _parse(data)
    return data


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, and sync it.

    Not by link or rename: a removable disk may know neither. A power cut may leave a part of the
    file; what it is a copy of still exists then.

    Raises:
        FileExistsError: something is there; it is left alone.
        OSError: it could not be written; nothing of it is left.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_dir(path.parent)
    except BaseException:
        os.unlink(path)
        raise


def _parse(data: bytes) -> _File:
    if len(data) > MAX_BUNDLE_BYTES:
        raise BadBundle("this is no bundle: it is too long")
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # not the decoder's words: they may quote the file
        raise BadBundle("this is no bundle, or it is cut short") from None


def _key(passphrase: str, kdf: _Kdf) -> bytes:
    scrypt = Scrypt(salt=kdf.salt, length=32, n=kdf.n, r=kdf.r, p=kdf.p)
    return scrypt.derive(passphrase.encode("utf-8", "surrogateescape"))


def _pem(authority: CertificateAuthority) -> str:
    return authority.certificate.public_bytes(Encoding.PEM).decode("ascii")


def _authority(key_pem: str, certificate_pem: str) -> CertificateAuthority:
    certificate: x509.Certificate
    (certificate,) = certificates_from_pem(certificate_pem.encode("ascii"))
    key = key_from_pem(key_pem.encode("ascii"))
    if spki_hash(key.public_key()) != spki_hash(certificate.public_key()):
        raise BadKey("not the key of this certificate")
    return CertificateAuthority(key, certificate)
