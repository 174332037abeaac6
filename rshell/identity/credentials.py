"""What a joined machine keeps: its key, its certificate and the root it trusts.

    HOME/identity/current         "a" or "b": which slot counts
    HOME/identity/{a,b}/          key.pem, chain.pem, root.pem, gateways.json
    HOME/identity/pending.key     the key of a join or renewal whose answer is still due

New credentials go into the slot that does not count, then the pointer flips: a power cut at any
moment leaves the old ones or the new ones, never none. The old slot stays until the new one has
connected once.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import msgspec
from cryptography import x509
from twisted.logger import Logger

from rshell.identity.files import make_private_dir, sync_dir, write_atomic
from rshell.identity.fleet_home import certificates_from_pem
from rshell.identity.keys import (
    BadKey,
    PrivateKey,
    key_to_pem,
    load_key,
    new_key,
    save_key,
    spki_hash,
)
from rshell.identity.names import BadPeerName, PeerName, peer_name_of

__all__ = ["CredentialStore", "Credentials", "CredentialsDamaged"]

_POINTER = "current"
_PENDING = "pending.key"
_SLOTS = ("a", "b")
_FILES = ("key.pem", "chain.pem", "root.pem", "gateways.json")


class CredentialsDamaged(Exception):
    """Credentials are there, but no slot of them can be used; the message says why."""


class _Gateways(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    gateways: tuple[str, ...]


@attrs.frozen
class Credentials:
    """What proves who this machine is, and whom it believes.

    Attributes:
        key: the private key.
        certificate_chain_pem: its certificate, then the CA which issued it.
        root_pem: the fleet's root, the only certificate a gateway's may lead to.
        name: who the certificate says this machine is.
        gateways: where gateways are dialled, "host:port" each.
    """

    key: PrivateKey = attrs.field(repr=False)
    certificate_chain_pem: bytes
    root_pem: bytes
    name: PeerName
    gateways: tuple[str, ...]

    @classmethod
    def new(
        cls,
        key: PrivateKey,
        certificate_chain_pem: bytes,
        root_pem: bytes,
        gateways: tuple[str, ...],
    ) -> Credentials:
        """Put credentials together; the name is taken from the certificate.

        Raises:
            CredentialsDamaged: key, certificate and root do not fit together.
        """
        try:
            leaf = certificates_from_pem(certificate_chain_pem)[0]
            certificates_from_pem(root_pem)
            name = peer_name_of(leaf)
        except (ValueError, BadPeerName) as error:
            raise CredentialsDamaged(f"the certificate cannot be used: {error}") from None
        if spki_hash(leaf.public_key()) != spki_hash(key.public_key()):
            raise CredentialsDamaged("the certificate is not of this key")
        return cls(key, certificate_chain_pem, root_pem, name, gateways)

    @property
    def certificate(self) -> x509.Certificate:
        """The machine's own certificate."""
        return certificates_from_pem(self.certificate_chain_pem)[0]

    @property
    def root(self) -> x509.Certificate:
        """The fleet's root certificate."""
        return certificates_from_pem(self.root_pem)[0]


class CredentialStore:
    """The two slots on disk.

    One process writes at a time (the agent, or `join` while no agent runs).
    """

    _log = Logger()

    def __init__(self, home: Path) -> None:
        """Use the directory ``identity`` under `home`, made on the first write."""
        self._directory = home / "identity"

    def load(self) -> Credentials | None:
        """Read the credentials that count; None if this machine never joined.

        If their slot is damaged, the other slot is used and the fact is logged.

        Raises:
            CredentialsDamaged: there are credentials, but neither slot is usable.
            OSError: the directory could not be read.
        """
        found = self._find()
        return None if found is None else found[1]

    def previous(self) -> Credentials | None:
        """Read the other slot: the credentials before the last `save`, None if unusable.

        For the machine whose new certificate the gateway refuses.
        """
        found = self._find()
        if found is None:
            return None
        try:
            return self._read(_other(found[0]))
        except (CredentialsDamaged, OSError):
            return None

    def save(self, credentials: Credentials) -> None:
        """Store new credentials and make them count; the old ones stay until `confirm`.

        Also forgets the pending key: its answer has come.

        Raises:
            UnsafeDirectory: the directory is not private to this user.
            OSError: writing failed; the old credentials still count.
        """
        self._prepare()
        try:
            found = self._find()
        except CredentialsDamaged:
            found = None
        slot = "a" if found is None else _other(found[0])
        directory = make_private_dir(self._directory / slot)
        write_atomic(directory / "key.pem", key_to_pem(credentials.key))
        write_atomic(directory / "chain.pem", credentials.certificate_chain_pem)
        write_atomic(directory / "root.pem", credentials.root_pem)
        body = msgspec.json.encode(_Gateways(gateways=credentials.gateways))
        write_atomic(directory / "gateways.json", body)
        write_atomic(self._directory / _POINTER, slot.encode("ascii") + b"\n")
        self._forget(self._directory, (_PENDING,))

    def confirm(self) -> None:
        """Forget the old slot: the credentials that count have connected once.

        Does nothing when there is no old slot.

        Raises:
            OSError: its files could not be removed.
        """
        found = self._find()
        if found is None:
            return
        directory = self._directory / _other(found[0])
        if directory.is_dir():
            self._forget(directory, _FILES)

    def pending_key(self) -> PrivateKey:
        """Return the key of the join or renewal in progress, making and storing one if need be.

        It is on disk before it is used, so that a lost answer can be asked for again with the
        same key, even after a power cut. `save` ends it.

        Raises:
            UnsafeDirectory: the directory is not private to this user.
            OSError: it could not be stored.
        """
        self._prepare()
        path = self._directory / _PENDING
        try:
            pending = load_key(path)
            if not self._in_use(pending):
                return pending
        except FileNotFoundError:
            pass
        except BadKey as error:
            self._log.warn("a pending key cannot be used, making another: {reason}", reason=error)
        key = new_key()
        save_key(path, key)
        return key

    def _in_use(self, key: PrivateKey) -> bool:
        """Tell whether a pending key was in fact stored: a power cut came before its removal."""
        try:
            found = self._find()
        except CredentialsDamaged:
            return False
        return found is not None and (
            spki_hash(found[1].key.public_key()) == spki_hash(key.public_key())
        )

    def _prepare(self) -> None:
        make_private_dir(self._directory.parent)
        make_private_dir(self._directory)

    def _find(self) -> tuple[str, Credentials] | None:
        """Return the slot that counts and its content, falling back to the other one."""
        first = self._pointed()
        if first is None:
            return self._find_unpointed()
        try:
            return first, self._read(first)
        except (CredentialsDamaged, OSError) as error:
            reason = str(error)
        try:
            fallback = self._read(_other(first))
        except (CredentialsDamaged, OSError):
            raise CredentialsDamaged(f"the stored credentials cannot be used: {reason}") from None
        self._log.warn(
            "credentials in slot {slot} cannot be used ({reason}); using the other slot",
            slot=first,
            reason=reason,
        )
        return _other(first), fallback

    def _pointed(self) -> str | None:
        try:
            pointer = (self._directory / _POINTER).read_bytes().strip()
        except FileNotFoundError:
            return None
        return "b" if pointer == b"b" else "a"

    def _find_unpointed(self) -> tuple[str, Credentials] | None:
        """Look for a slot which a power cut completed but left without a pointer.

        A half-written one is no damage: the join it belongs to starts again.
        """
        for slot in _SLOTS:
            try:
                return slot, self._read(slot)
            except (CredentialsDamaged, OSError):
                continue
        return None

    def _read(self, slot: str) -> Credentials:
        directory = self._directory / slot
        try:
            key = load_key(directory / "key.pem")
            body = (directory / "gateways.json").read_bytes()
            gateways = msgspec.json.decode(body, type=_Gateways).gateways
        except (BadKey, msgspec.DecodeError) as error:
            raise CredentialsDamaged(str(error)) from None
        chain = (directory / "chain.pem").read_bytes()
        root = (directory / "root.pem").read_bytes()
        return Credentials.new(key, chain, root, gateways)

    @staticmethod
    def _forget(directory: Path, names: tuple[str, ...]) -> None:
        for name in names:
            try:
                os.unlink(directory / name)
            except FileNotFoundError:
                pass
        sync_dir(directory)


def _other(slot: str) -> str:
    return "b" if slot == "a" else "a"
