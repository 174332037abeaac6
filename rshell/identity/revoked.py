"""Gateway keys that nobody may believe any more: a numbered list, signed by the fleet's root.

What it is not: the revocation of devices and operators, which are rows in the store. A gateway is
what judges those, so it cannot judge itself: whoever dials keeps the newest list and refuses a
gateway whose key is on it during the TLS handshake, before anything is said to it. The gateways
only pass the list on (`revoked_gateways` in WELCOME and ADVICE); the root alone can change it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from twisted.logger import Logger

from rshell.identity.authority import CertificateAuthority
from rshell.identity.files import write_atomic
from rshell.identity.keys import signing_hash, spki_hash
from rshell.link.core.constants import MAX_OFFSET
from rshell.link.core.messages import RevokedGateways

__all__ = [
    "MAX_REVOKED",
    "REVOKED_FEATURE",
    "BadRevokedList",
    "RevokedGateways",
    "RevokedMemory",
    "check_revoked",
    "list_from_bytes",
    "list_to_bytes",
    "sign_revoked",
]

#: It travels in every WELCOME: 100 hashes are 6.7 KB of the 16 that a control message holds, and
#: stand for a century of gateways that are renewed each year and stolen each time.
MAX_REVOKED = 100
#: A hundred keys and the signature; a file given by mistake is not read whole.
MAX_LIST_BYTES = 16_384
#: In HELLO: this peer takes a list in ADVICE too, which an older one would take for an error.
REVOKED_FEATURE = "revoked-gateways"

# What the root signs besides certificates begins with words: no certificate does.
_CONTEXT = b"rshell revoked gateways 1\n"
_HASH = re.compile(r"[0-9a-f]{64}")


class BadRevokedList(ValueError):
    """A list is malformed or not signed by this fleet's root; the text is one line."""


def _signed_text(number: int, keys: Iterable[str]) -> bytes:
    return _CONTEXT + f"{number}\n".encode("ascii") + "".join(f"{key}\n" for key in keys).encode()


def sign_revoked(
    root: CertificateAuthority, number: int, spkis: Iterable[bytes]
) -> RevokedGateways:
    """Make a list.

    Args:
        root: the fleet's root, with its key.
        number: above that of every list before.
        spkis: SHA-256 of the public keys that are revoked, all of them, 32 bytes each.

    Raises:
        BadRevokedList: they are too many, or the number is none.
        KeyAbsent: the root's key is not here.
    """
    keys = sorted({spki.hex() for spki in spkis})
    if len(keys) > MAX_REVOKED:
        raise BadRevokedList(f"{len(keys)} gateway keys: a list holds at most {MAX_REVOKED}")
    if not 1 <= number <= MAX_OFFSET:
        raise BadRevokedList(f"{number} is no number of a list")
    key, text = root.signing_key(), _signed_text(number, keys)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(text)
    else:
        signature = key.sign(text, ec.ECDSA(hashes.SHA256()))
    return RevokedGateways(number=number, keys=keys, signature=signature)


def check_revoked(told: RevokedGateways, root: x509.Certificate) -> frozenset[bytes]:
    """Return the revoked keys' hashes, 32 bytes each, if the root has signed them.

    Raises:
        BadRevokedList: nothing of it may be believed.
    """
    if told.number < 1 or len(told.keys) > MAX_REVOKED:
        raise BadRevokedList("the list of revoked gateways has no proper number or is too long")
    # One text for one list: sorted, no key twice, lower case.
    if told.keys != sorted(set(told.keys)) or not all(map(_HASH.fullmatch, told.keys)):
        raise BadRevokedList("the list of revoked gateways is malformed")
    text = _signed_text(told.number, told.keys)
    public = root.public_key()
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(told.signature, text)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(told.signature, text, ec.ECDSA(signing_hash(public) or hashes.SHA256()))
        else:
            raise BadRevokedList("this fleet's root has a key of a kind that signs no lists")
    except InvalidSignature:
        message = "the list of revoked gateways is not signed by this fleet's root"
        raise BadRevokedList(message) from None
    return frozenset(bytes.fromhex(key) for key in told.keys)


def list_to_bytes(told: RevokedGateways) -> bytes:
    """Return a list as it lies in files: one line of JSON, as in WELCOME."""
    return msgspec.json.encode(told) + b"\n"


def list_from_bytes(data: bytes) -> RevokedGateways:
    """Read what `list_to_bytes` made; its signature is not judged here.

    Raises:
        BadRevokedList: it is no such list.
    """
    if len(data) > MAX_LIST_BYTES:
        raise BadRevokedList("this is no list of revoked gateways: it is too long")
    try:
        return msgspec.json.decode(data, type=RevokedGateways)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRevokedList("this is no list of revoked gateways") from None


@attrs.frozen
class _Kept:
    told: RevokedGateways
    keys: frozenset[bytes]


class RevokedMemory:
    """The newest list that this machine has seen, kept on disk.

    Whatever comes is checked against the root that this machine pinned when it joined; a lower
    number never replaces a higher one.
    """

    _log = Logger()

    def __init__(self, path: Path | None, root: x509.Certificate) -> None:
        """Read what is kept; what cannot be used counts as none, and is logged.

        Args:
            path: the file; its directory must exist when a list is first kept. None keeps the
                list in memory only.
            root: the fleet's root.
        """
        self._path = path
        self._root = root
        self._kept: _Kept | None = None
        self._refused: bytes = b""
        self.reload()

    @property
    def current(self) -> RevokedGateways | None:
        """The newest list, to be told to others; None if there never was one."""
        return None if self._kept is None else self._kept.told

    @property
    def number(self) -> int:
        """Its number; 0 if there never was one."""
        return 0 if self._kept is None else self._kept.told.number

    @property
    def keys(self) -> frozenset[bytes]:
        """SHA-256 of the public keys that are revoked, 32 bytes each."""
        return frozenset() if self._kept is None else self._kept.keys

    def lists(self, certificate: x509.Certificate | None) -> bool:
        """Tell whether a gateway's certificate is of a revoked key."""
        if certificate is None or self._kept is None:
            return False
        return spki_hash(certificate.public_key()) in self._kept.keys

    def learn(self, told: RevokedGateways | None) -> bool:
        """Take in what a gateway told, and keep it durably if it is newer.

        Nothing that a gateway says here can do harm: a list that is broken, foreign or older
        changes nothing and is logged.

        Returns:
            Whether it is news.
        """
        if told is None or (self._kept is not None and told == self._kept.told):
            return False
        try:
            keys = check_revoked(told, self._root)
        except BadRevokedList as error:
            self._complain(told, str(error))
            return False
        if told.number <= self.number:
            self._complain(told, f"its number {told.number} is not above {self.number}")
            return False
        self._kept = _Kept(told, keys)
        self._store()
        self._log.info(
            "list {number} of revoked gateways: {count} keys are refused from now on",
            number=told.number,
            count=len(keys),
        )
        return True

    def _complain(self, told: RevokedGateways, why: str) -> None:
        """Say it once for each list: the gateway that tells it does so at every link."""
        if self._refused != told.signature:
            self._refused = told.signature
            self._log.warn("a list of revoked gateways is ignored: {why}", why=why)

    def _store(self) -> None:
        if self._path is None:
            return
        try:
            with _locked(self._path.parent):
                self.reload()  # another command of this operator may have heard of a newer one
                assert self._kept is not None
                write_atomic(self._path, list_to_bytes(self._kept.told))
        except OSError as error:
            # It holds in this process; the next link tells it again.
            self._log.error("the list of revoked gateways cannot be kept: {error}", error=error)

    def reload(self) -> None:
        """Read the file again if another process keeps it too; an older one is ignored."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                told = list_from_bytes(file.read(MAX_LIST_BYTES + 1))
            keys = check_revoked(told, self._root)
        except FileNotFoundError:
            return
        except (OSError, BadRevokedList) as error:
            self._log.error("{path} cannot be used: {error}", path=str(self._path), error=error)
            return
        if told.number > self.number:
            self._kept = _Kept(told, keys)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time compare and replace; each holds it for one small write."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
