"""Where a gateway keeps its fleet's authorities and its own certificate.

    HOME/ca/{root,device-ca,operator-ca,gateway-ca}.{key,pem}
    HOME/gateway.key    HOME/gateway.pem = leaf, gateway CA, root

The chain ends with the root so that a joining machine, which knows only the root's hash, sees
it. A running gateway needs the leaf, the certificates, and the device and operator keys with
which it admits new machines; root and gateway CA keys may be moved away.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rshell.identity.authority import CertificateAuthority, FleetKeys, fleet_of
from rshell.identity.files import make_private_dir, sync_dir, write_atomic
from rshell.identity.keys import BadKey, PrivateKey, key_to_pem, load_key, spki_hash

__all__ = ["DamagedHome", "FleetHome", "GatewayLeaf", "certificates_from_pem", "chain_to_pem"]

# file name -> attribute of FleetKeys
_AUTHORITIES = {
    "root": "root",
    "device-ca": "device",
    "operator-ca": "operator",
    "gateway-ca": "gateway",
}
# What a thief of the gateway must not find: with these he makes gateways of his own.
_EXPORTED = ("root", "gateway-ca")


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

    def load(self) -> FleetKeys:
        """Read the authorities; keys which were moved away are None.

        Raises:
            DamagedHome: a certificate is missing, or something does not fit together.
            OSError: a file could not be read.
        """
        found = {attribute: self._load(name) for name, attribute in _AUTHORITIES.items()}
        root = found["root"].certificate
        fleet = fleet_of(root)
        for name, attribute in _AUTHORITIES.items():
            certificate = found[attribute].certificate
            try:
                certificate.verify_directly_issued_by(root)
            except Exception:  # each kind of mismatch has its own exception type
                raise DamagedHome(f"ca/{name}.pem is not of the root in ca/root.pem") from None
            if fleet_of(certificate) != fleet:
                raise DamagedHome(f"ca/{name}.pem is of another fleet")
        return FleetKeys(fleet=fleet, **found)

    def export_keys(self, target: Path) -> tuple[Path, ...]:
        """Move the keys of the root and of the gateway CA away from this machine's home.

        Args:
            target: a directory, created private if absent; best on a removable disk.

        Returns:
            The files written.

        Raises:
            FileExistsError: a key of that name is there already.
            OSError: writing failed; every key not yet written is still in the home.
        """
        make_private_dir(target)
        written = []
        for name in _EXPORTED:
            source = self._authorities / f"{name}.key"
            if not source.exists():
                continue
            copy = target / source.name
            if copy.exists():
                raise FileExistsError(errno.EEXIST, "will not replace a key", str(copy))
            write_atomic(copy, source.read_bytes())
            source.unlink()
            sync_dir(self._authorities)
            written.append(copy)
        return tuple(written)

    def save_leaf(self, leaf: GatewayLeaf) -> None:
        """Store the gateway's own key and chain, replacing older ones.

        Both files are complete under temporary names before the first is renamed, so that
        `load_leaf` can finish what a power cut interrupted.

        Raises:
            OSError: they could not be written.
        """
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

    def _load(self, name: str) -> CertificateAuthority:
        try:
            (certificate,) = certificates_from_pem((self._authorities / f"{name}.pem").read_bytes())
        except (FileNotFoundError, ValueError):
            raise DamagedHome(f"ca/{name}.pem is missing or damaged") from None
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
