"""Work of ``rshell ca`` on the list of revoked gateways: making it, and putting it in place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import attrs
from cryptography import x509

from rshell.cli.ca_home import LOCK_SECONDS, failing, noted
from rshell.client.errors import RshellError
from rshell.identity.bundle import Bundle
from rshell.identity.files import write_atomic
from rshell.identity.fleet_home import FleetHome, certificates_from_pem
from rshell.identity.gateway_leaf import MAX_CHAIN_BYTES, fingerprint
from rshell.identity.keys import spki_hash
from rshell.identity.revoked import (
    MAX_LIST_BYTES,
    BadRevokedList,
    RevokedGateways,
    check_revoked,
    list_from_bytes,
    list_to_bytes,
    sign_revoked,
)

__all__ = ["Placed", "install_list", "kept_beside", "read_list", "revoke_in", "revoked_keys"]

#: Two gateways of one fleet do not share so many digits by chance.
MIN_PREFIX = 8
_HEX = re.compile(r"[0-9a-f]+")
#: Every leaf that a home remembers; what is longer is refused, since its end would stay believed.
_MAX_PEM_BYTES = 20 * MAX_CHAIN_BYTES


@attrs.frozen
class Placed:
    """A list, and whether it is news where it was put."""

    told: RevokedGateways
    news: bool


def kept_beside(bundle: Path) -> Path:
    """Return where the newest list made with a bundle is kept: it is no secret."""
    return bundle.with_name(bundle.name + ".revoked")


def read_list(data: bytes, root: x509.Certificate) -> RevokedGateways:
    """Read and check a list.

    Raises:
        RshellError: It is none, or not signed by this root.
    """
    try:
        told = list_from_bytes(data)
        check_revoked(told, root)
    except BadRevokedList as error:
        raise RshellError("bad-list", str(error), "the list before stays as it is") from None
    return told


def list_at(path: Path, root: x509.Certificate) -> RevokedGateways | None:
    """Return the list in a file, None if there is no such file."""
    with failing():
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except FileNotFoundError:
            return None
    return read_list(data, root)


def revoked_keys(words: Iterable[str], home: FleetHome | None) -> set[bytes]:
    """Return the hashes that words stand for.

    Args:
        words: Fingerprints (64 hexadecimal digits; of a gateway that the home knows the first 8
            suffice), or files with certificates in PEM, of which CAs are left out.
        home: Knows certificates.
    """
    known = [] if home is None else [fingerprint(leaf) for leaf in home.leaves()]
    found: set[bytes] = set()
    for word in words:
        digits = word.lower().removeprefix("sha256:").replace(":", "")
        if _HEX.fullmatch(digits) and not Path(word).exists():
            found.add(bytes.fromhex(_whole(word, digits, known)))
        else:
            found.update(_keys_in(Path(word)))
    return found


def _whole(word: str, digits: str, known: Sequence[str]) -> str:
    if len(digits) == 64:
        return digits
    matching = [key for key in known if key.startswith(digits)]
    if len(digits) < MIN_PREFIX or len(matching) != 1:
        raise RshellError(
            "bad-request",
            f"{word} is no fingerprint of a gateway that is known here",
            "give all 64 digits as rshell ca show prints them, or a file with its certificate",
        )
    return matching[0]


def _keys_in(path: Path) -> list[bytes]:
    with failing(), path.open("rb") as file:
        data = file.read(_MAX_PEM_BYTES + 1)
    if len(data) > _MAX_PEM_BYTES:
        raise RshellError("bad-request", f"{path} is longer than {_MAX_PEM_BYTES:,} bytes", "")
    try:
        leaves = [found for found in certificates_from_pem(data) if not _is_ca(found)]
    except ValueError:
        leaves = []
    if not leaves:
        raise RshellError("bad-request", f"{path} holds no certificate of a gateway", "")
    return [spki_hash(leaf.public_key()) for leaf in leaves]


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca


def revoke_in(
    authorities: Bundle,
    before: Sequence[RevokedGateways | None],
    keys: Iterable[bytes],
    now: datetime,
) -> Placed:
    """Sign a list that holds these keys and all that were revoked before.

    The number rises with the clock too: should every list before be lost, the next one still
    replaces them everywhere.

    Args:
        authorities: With the root's key.
        before: Lists that may be the newest.
        keys: SHA-256 of what is to be revoked.
        now: The time, aware.
    """
    lists = [told for told in before if told is not None]
    newest = max(lists, key=lambda told: told.number, default=None)
    old = {bytes.fromhex(key) for told in lists for key in told.keys}
    wanted = old | set(keys)
    if newest is not None and {bytes.fromhex(key) for key in newest.keys} == wanted:
        return Placed(newest, False)
    number = max(0 if newest is None else newest.number, int(now.timestamp()) - 1, 0) + 1
    with failing():
        try:
            return Placed(sign_revoked(authorities.root, number, wanted), True)
        except BadRevokedList as error:
            raise RshellError("bad-list", str(error), "the list before stays as it is") from None


def install_list(home: FleetHome, told: RevokedGateways, force: bool, now: datetime) -> Placed:
    """Put a list, which was checked, in place.

    Raises:
        RshellError: It is older than the one in place, or would readmit somebody, or names the
            key in use and ``force`` is not given.
    """
    with failing(), home.locked(LOCK_SECONDS):
        current = list_at(home.revoked_path, home.load().root.certificate)
        if current == told:
            return Placed(told, False)
        if current is not None:
            if told.number <= current.number:
                raise RshellError(
                    "older",
                    f"list {told.number} is not newer than list {current.number} in place",
                    "nobody would take it",
                )
            again = set(current.keys) - set(told.keys)
            if again and not force:
                raise RshellError(
                    "readmits",
                    f"the list leaves out {len(again)} keys that are revoked now",
                    "make it with --previous and the list in place, or install --force",
                )
        leaf = home.load_leaf()
        if leaf is not None and fingerprint(leaf.chain[0]) in told.keys and not force:
            raise RshellError(
                "in-use",
                "the list revokes the key that this gateway uses: nobody would come any more",
                "replace it first (rshell ca request, certify, install), or give --force",
            )
        noted(home, "revoke-gateway", now, number=told.number, keys=told.keys)
        write_atomic(home.revoked_path, list_to_bytes(told))
        return Placed(told, True)
