"""A gateway's directory: what the first start makes, and what every start reads.

::

    HOME/ca/              root, device, operator and gateway CA
    HOME/gateway.key .pem the gateway's own certificate and chain
    HOME/certificates.json what of these it uses, while it runs
    HOME/rshell.sqlite    the store
    HOME/audit.key .pub   what signs checkpoints of the audit log, and what checks them
    HOME/recordings/      of terminals, by day
    HOME/admin/           credentials of the local administrator, operator ``admin``
    HOME/endpoints.json   where the doors listen, while they do
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.access.audit_key import AuditKey, BadAuditKey, load_or_make
from rshell.identity.authority import FleetKeys, KeyAbsent, new_fleet, renewal_time
from rshell.identity.ca_journal import note
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.files import make_private_dir, write_atomic
from rshell.identity.fleet_home import (
    DamagedHome,
    FleetHome,
    GatewayLeaf,
    HomeBusy,
    chain_to_pem,
)
from rshell.identity.gateway_leaf import fingerprint, names_of
from rshell.identity.keys import new_key, spki_hash
from rshell.store.errors import StoreError
from rshell.store.store import Store
from rshell.store.threads import InlineThreads

__all__ = ["ADMIN_NAME", "GatewayHome", "HomeError", "lock_home", "prepare_home"]

ADMIN_NAME = "admin"
#: A local command (`rshell ca`) may be about to finish.
_LOCK_SECONDS = 10.0


class HomeError(Exception):
    """The home cannot be used; the text is one line that says what to do."""


@attrs.frozen
class GatewayHome:
    """A directory that is ready to run a gateway from.

    Attributes:
        path: absolute.
        keys: the fleet's authorities, without the keys of root and gateway CA, wherever these are.
        leaf: the gateway's own key and chain at the start; later see `Certificates`.
        audit_key: signs checkpoints of the audit log.
    """

    path: Path
    keys: FleetKeys
    leaf: GatewayLeaf
    audit_key: AuditKey

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.path / "rshell.sqlite"

    @property
    def root_pin(self) -> bytes:
        """SHA-256 of the root's public key: what a join string carries."""
        return spki_hash(self.keys.root.certificate.public_key())

    def write_endpoints(self, endpoints: dict[str, object]) -> None:
        """Tell local programs where the doors listen."""
        data = msgspec.json.format(msgspec.json.encode(endpoints), indent=2) + b"\n"
        write_atomic(self.path / "endpoints.json", data, 0o644)

    def remove_endpoints(self) -> None:
        """No door listens (any more)."""
        (self.path / "endpoints.json").unlink(missing_ok=True)


def lock_home(path: Path) -> int:
    """Take a home for this process, and for the daemon that it may become.

    Two gateways on one store would end each other's sessions in the audit and overwrite each
    other's endpoints.

    Args:
        path: absolute; made if absent.

    Returns:
        A descriptor that holds the lock until the last process that has it is gone.

    Raises:
        HomeError: Another gateway runs on it, or it cannot be used.
    """
    try:
        make_private_dir(path)
        lock = os.open(path / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        where = error.filename or path
        raise HomeError(
            f"cannot use {where}: {error.strerror or error}; choose another place with --home"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise HomeError(
            f"a gateway runs on {path} already; stop it, or choose another --home"
        ) from None
    return lock


def prepare_home(path: Path, names: Sequence[str], now: datetime | None = None) -> GatewayHome:
    """Set up an empty home, or check an existing one.

    Args:
        path: absolute; made if absent.
        names: hosts the gateway's certificate has to name.
        now: aware; the system's time if None.

    Raises:
        HomeError: It cannot be read or written, or is damaged.
    """
    now = now or datetime.now(UTC)
    try:
        make_private_dir(path)
        fleet_home = FleetHome(path)
        if not fleet_home.exists():
            fleet_home.create(new_fleet(now))
        with fleet_home.locked(_LOCK_SECONDS):
            keys = fleet_home.load()
            leaf = _leaf(fleet_home, names, now)
        home = GatewayHome(path, keys, leaf, load_or_make(path))
        _prepare_store(home, now)
    except OSError as error:
        where = error.filename or path
        raise HomeError(
            f"cannot use {where}: {error.strerror or error}; choose another place with --home"
        ) from None
    except HomeBusy as error:
        raise HomeError(f"{error}; try again when it is done") from None
    except (DamagedHome, CredentialsDamaged, KeyAbsent, BadAuditKey) as error:
        raise HomeError(f"the home {path} is damaged: {error}; restore it from a backup") from None
    return home


def _leaf(fleet_home: FleetHome, names: Sequence[str], now: datetime) -> GatewayLeaf:
    """Return the gateway's certificate, issued anew if it is old or lacks a name.

    Only then is the gateway CA's key read, and forgotten on return; the root's never is.
    """
    leaf = fleet_home.load_leaf()
    if leaf is not None:
        certificate = leaf.chain[0]
        known = names_of(certificate)
        if now < renewal_time(certificate) and set(names) <= set(known):
            return leaf
        names = [*names, *(name for name in known if name not in names)]
    keys = fleet_home.load(issuing=True)
    if leaf is not None and keys.gateway.key is None:
        return leaf
    key = new_key()
    certificate = keys.issue_gateway(key.public_key(), names, keys.moment(now))
    if leaf is not None:
        end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        details = {"gateway": fingerprint(certificate), "valid_until": end}
        note(fleet_home.home, "ca.leaf-renewed", int(now.timestamp() * 1_000_000), details)
    leaf = GatewayLeaf(key, (certificate, keys.gateway.certificate, keys.root.certificate))
    fleet_home.save_leaf(leaf)
    return leaf


def _prepare_store(home: GatewayHome, now: datetime) -> None:
    """Make the store and the administrator; an open store is not carried across a fork."""
    try:
        store = Store.open(home.database, InlineThreads())
    except StoreError as error:
        raise HomeError(f"{error}") from None
    outcome: list[object] = []
    # InlineThreads: everything has happened when this returns.
    Deferred.fromCoroutine(_fill_store(home, store, now)).addBoth(outcome.append)
    store.close()
    failure = outcome[0]
    if isinstance(failure, Failure):
        if isinstance(failure.value, StoreError):
            raise HomeError(f"the store of {home.path}: {failure.value}")
        failure.raiseException()


async def _fill_store(home: GatewayHome, store: Store, now: datetime) -> None:
    """Name the fleet, and issue the local administrator's credentials if need be.

    Whoever can read this directory owns the fleet's keys anyway, so no invite is needed.
    """
    await store.set_fleet(home.keys.fleet)
    credentials = CredentialStore(make_private_dir(home.path / "admin"))
    present = credentials.load()
    if present is not None and now < renewal_time(present.certificate):
        return
    key = credentials.pending_key()
    certificate = home.keys.issue_operator(key.public_key(), ADMIN_NAME, home.keys.moment(now))
    not_after = int(certificate.not_valid_after_utc.timestamp() * 1_000_000)
    spki = spki_hash(key.public_key())
    if not await _register(store, present, spki, not_after, now):
        return
    chain = chain_to_pem((certificate, home.keys.operator.certificate))
    root = chain_to_pem((home.keys.root.certificate,))
    credentials.save(Credentials.new(key, chain, root, ()))


async def _register(
    store: Store, present: Credentials | None, spki: bytes, not_after: int, now: datetime
) -> bool:
    """Register the administrator's key; say whether it admits.

    A start that was cut off may have done it already: the pending key is kept on disk.  An
    administrator who was revoked must neither come back by itself nor keep the gateway from
    starting.
    """
    operator = await store.operator(ADMIN_NAME)
    if operator is None:
        await store.add_operator(ADMIN_NAME, ("admin",), spki, not_after)
        return True
    if not operator.active:
        return False
    now_us = int(now.timestamp() * 1_000_000)
    done = await store.operator_by_spki(spki)
    if done is not None:
        return done.refusal(now_us) is None
    if present is None:
        await store.add_key(ADMIN_NAME, spki, not_after, "made again on the gateway")
        return True
    old = spki_hash(present.key.public_key())
    known = await store.operator_by_spki(old)
    if known is None or known.refusal(now_us) is not None:
        return False
    await store.renew_key(old, spki, not_after)
    return True
