"""Where a gateway keeps its fleet's authorities and its own certificate.

    HOME/ca/{root,device-ca,operator-ca,gateway-ca}.{key,pem}
    HOME/ca/gateways.pem         every certificate of a gateway that was used here, newest last
    HOME/ca/revoked.json         the list of revoked gateways, if there is one (see `revoked`)
    HOME/gateway.key             HOME/gateway.pem = leaf, gateway CA, root
    HOME/gateway.request.key     the key of a certificate that was asked for elsewhere
    HOME/ca.lock                 held by whoever changes these files

The chain ends with the root so that a joining machine, which knows only the root's hash, sees
it. A running gateway needs the leaf, the certificates, and the device and operator keys with
which it admits new machines; root and gateway CA keys may be moved away. It never reads the root's
key, and the gateway CA's only in the moment in which it issues a leaf.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rshell.identity.authority import CertificateAuthority, FleetKeys, fleet_of
from rshell.identity.files import sync_dir, write_atomic
from rshell.identity.keys import (
    BadKey,
    PrivateKey,
    key_to_pem,
    load_key,
    new_key,
    save_key,
    spki_hash,
)

__all__ = [
    "DamagedHome",
    "FleetHome",
    "GatewayLeaf",
    "HomeBusy",
    "certificates_from_pem",
    "chain_to_pem",
]

# file name -> attribute of FleetKeys
_AUTHORITIES = {
    "root": "root",
    "device-ca": "device",
    "operator-ca": "operator",
    "gateway-ca": "gateway",
}
# What a thief of the gateway must not find: with these he makes gateways of his own.
_EXPORTED = ("root", "gateway-ca")
# Of these so many are remembered, and reread at each renewal: twice as many as can be revoked.
_MAX_REMEMBERED = 200


class HomeBusy(Exception):
    """Another process changes the certificates of this home."""


class DamagedHome(Exception):
    """Stored authorities or certificates are missing, unreadable or do not fit together."""


@attrs.frozen
class GatewayLeaf:
    """A gateway's own key and the chain it presents.

    Attributes:
        key: the private key of `chain[0]`.
        chain: leaf, gateway CA, root.
    """

    key: PrivateKey = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...]


@attrs.frozen
class FleetHome:
    """The certificates under one home directory.

    Attributes:
        home: the gateway's home; it must exist and be private (`files.make_private_dir`).
    """

    home: Path

    @property
    def _authorities(self) -> Path:
        return self.home / "ca"

    def exists(self) -> bool:
        """Tell whether authorities were stored here."""
        return self._authorities.is_dir()

    def create(self, keys: FleetKeys) -> None:
        """Store a new fleet's authorities: all of them or, whatever happens, none.

        Raises:
            FileExistsError: there is a fleet here already; it is left alone.
            OSError: the files could not be written.
        """
        if self.exists():
            raise FileExistsError(errno.EEXIST, "there is a fleet here already", self._authorities)
        building = Path(tempfile.mkdtemp(prefix=".ca.", dir=self.home))
        try:
            for name, attribute in _AUTHORITIES.items():
                authority: CertificateAuthority = getattr(keys, attribute)
                pem = authority.certificate.public_bytes(Encoding.PEM)
                write_atomic(building / f"{name}.pem", pem)
                write_atomic(building / f"{name}.key", key_to_pem(authority.signing_key()))
            # rename refuses a target directory with content: two starters cannot both win
            os.rename(building, self._authorities)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        sync_dir(self.home)

    @contextmanager
    def locked(self, seconds: float = 0.0) -> Iterator[None]:
        """Be the only one who changes, or rereads, these files.

        Args:
            seconds: how long to wait for another process; this blocks.

        Raises:
            HomeBusy: it still holds the lock.
            OSError: the lock cannot be made.
        """
        descriptor = os.open(
            self.home / "ca.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise HomeBusy(f"another process works on {self.home}/ca") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def load(self, *, issuing: bool = False, root: bool = False) -> FleetKeys:
        """Read the authorities; keys which were moved away are None.

        A process that lives long asks for the keys that make gateways only when it needs them,
        and does not keep them.

        Args:
            issuing: read the gateway CA's key too.
            root: read the root's key too.

        Raises:
            DamagedHome: a certificate is missing, or something does not fit together.
            OSError: a file could not be read.
        """
        left_out = {
            name for name, wanted in zip(_EXPORTED, (root, issuing), strict=True) if not wanted
        }
        found = {
            attribute: self._load(name, with_key=name not in left_out)
            for name, attribute in _AUTHORITIES.items()
        }
        top = found["root"].certificate
        fleet = fleet_of(top)
        for name, attribute in _AUTHORITIES.items():
            certificate = found[attribute].certificate
            try:
                certificate.verify_directly_issued_by(top)
            except Exception:  # each kind of mismatch has its own exception type
                raise DamagedHome(f"ca/{name}.pem is not of the root in ca/root.pem") from None
            if fleet_of(certificate) != fleet:
                raise DamagedHome(f"ca/{name}.pem is of another fleet")
        return FleetKeys(fleet=fleet, **found)

    def key_path(self, name: str) -> Path:
        """Return where the key of ``root``, ``device-ca``, ``operator-ca``, ``gateway-ca`` lies."""
        return self._authorities / f"{name}.key"

    @property
    def revoked_path(self) -> Path:
        """Where the list of revoked gateways lies."""
        return self._authorities / "revoked.json"

    def remove_exported(self) -> None:
        """Remove the keys of the root and of the gateway CA: a copy must exist, and be proven.

        Raises:
            OSError: they could not be removed; one of them may be.
        """
        for name in _EXPORTED:
            self.key_path(name).unlink(missing_ok=True)
        sync_dir(self._authorities)

    def request_key(self, *, fresh: bool = False) -> PrivateKey:
        """Return the key of the certificate that is asked for elsewhere, made if need be.

        Args:
            fresh: make another one, although one waits for its certificate.

        Raises:
            DamagedHome: there is one that cannot be used.
            OSError: it could not be stored.
        """
        key = None if fresh else self.pending_request()
        if key is None:
            key = new_key()
            save_key(self._leaf("request.key"), key)
        return key

    def pending_request(self) -> PrivateKey | None:
        """Return that key if a certificate was asked for, and none has come.

        Raises:
            DamagedHome: there is one that cannot be used.
        """
        try:
            return load_key(self._leaf("request.key"))
        except FileNotFoundError:
            return None
        except BadKey as error:
            raise DamagedHome(str(error)) from None

    def answered(self) -> None:
        """Forget that key: its certificate is in place."""
        self._leaf("request.key").unlink(missing_ok=True)
        sync_dir(self.home)

    def leaves(self) -> tuple[x509.Certificate, ...]:
        """Return every certificate that a gateway had with this home, oldest first.

        For listings and revocation; what cannot be read is left out.
        """
        found: dict[bytes, x509.Certificate] = {}
        for path in (self._authorities / "gateways.pem", self._leaf("pem")):
            try:
                certificates = certificates_from_pem(path.read_bytes())
            except (OSError, ValueError):
                continue
            # the second is a chain
            for certificate in certificates[: 1 if path.name == "gateway.pem" else None]:
                found[spki_hash(certificate.public_key())] = certificate
        return tuple(found.values())[-_MAX_REMEMBERED:]

    def save_leaf(self, leaf: GatewayLeaf) -> None:
        """Store the gateway's own key and chain, replacing older ones.

        Both files are complete under temporary names before the first is renamed, so that
        `load_leaf` can finish what a power cut interrupted.

        Raises:
            OSError: they could not be written.
        """
        if self.exists():
            known = [found for found in self.leaves() if found != leaf.chain[0]]
            # before it is used: no certificate that may be stolen from here is missing in it
            write_atomic(
                self._authorities / "gateways.pem",
                chain_to_pem((*known, leaf.chain[0])[-_MAX_REMEMBERED:]),
            )
        write_atomic(self._next("pem"), chain_to_pem(leaf.chain))
        write_atomic(self._next("key"), key_to_pem(leaf.key))
        for suffix in ("key", "pem"):
            os.rename(self._next(suffix), self._leaf(suffix))
            sync_dir(self.home)

    def load_leaf(self) -> GatewayLeaf | None:
        """Read the gateway's own key and chain; None if it has none yet.

        Raises:
            DamagedHome: key and certificate are damaged or do not belong together.
            OSError: a file could not be read.
        """
        if not self._leaf("key").exists():
            return None
        try:
            key = load_key(self._leaf("key"))
        except BadKey as error:
            raise DamagedHome(str(error)) from None
        chain = self._fitting_chain("pem", key)
        if chain is None:
            chain = self._fitting_chain("next.pem", key)
            if chain is None:
                raise DamagedHome("gateway.pem is not a certificate of gateway.key")
            os.rename(self._next("pem"), self._leaf("pem"))
            sync_dir(self.home)
        return GatewayLeaf(key, chain)

    def _load(self, name: str, *, with_key: bool) -> CertificateAuthority:
        try:
            (certificate,) = certificates_from_pem((self._authorities / f"{name}.pem").read_bytes())
        except (FileNotFoundError, ValueError):
            raise DamagedHome(f"ca/{name}.pem is missing or damaged") from None
        if not with_key:
            return CertificateAuthority(None, certificate)
        try:
            key = load_key(self._authorities / f"{name}.key")
        except FileNotFoundError:
            return CertificateAuthority(None, certificate)
        except BadKey as error:
            raise DamagedHome(str(error)) from None
        if spki_hash(key.public_key()) != spki_hash(certificate.public_key()):
            raise DamagedHome(f"ca/{name}.key is not the key of ca/{name}.pem")
        return CertificateAuthority(key, certificate)

    def _leaf(self, suffix: str) -> Path:
        return self.home / f"gateway.{suffix}"

    def _next(self, suffix: str) -> Path:
        return self.home / f"gateway.next.{suffix}"

    def _fitting_chain(self, suffix: str, key: PrivateKey) -> tuple[x509.Certificate, ...] | None:
        try:
            chain = certificates_from_pem(self._leaf(suffix).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        fits = spki_hash(chain[0].public_key()) == spki_hash(key.public_key())
        return chain if fits else None


def certificates_from_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    """Decode one certificate or several.

    Raises:
        ValueError: there is none, or one is malformed.
    """
    return tuple(x509.load_pem_x509_certificates(data))


def chain_to_pem(chain: tuple[x509.Certificate, ...]) -> bytes:
    """Encode certificates one after the other, leaf first."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
