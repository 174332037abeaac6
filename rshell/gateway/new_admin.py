"""A new key for the local administrator, and the end of those before: for a home that was copied.

Whoever has a copy of a gateway's home has ``HOME/admin`` too. With the gateway stopped this makes
that copy worthless at the gateway that takes its place.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.gateway.home import ADMIN_NAME, HomeError, lock_home
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.files import make_private_dir
from rshell.identity.fleet_home import FleetHome, chain_to_pem
from rshell.identity.keys import new_key, spki_hash
from rshell.store.errors import StoreError
from rshell.store.store import Store
from rshell.store.threads import InlineThreads

__all__ = ["replace_admin"]


def replace_admin(path: Path, now: datetime) -> int:
    """Give the local administrator a new key and revoke all others of the operator ``admin``.

    Args:
        path: of the home; its gateway must be stopped.
        now: the time, aware.

    Returns:
        How many keys were revoked.

    Raises:
        HomeError: the gateway runs, or the home cannot be used.
    """
    lock = lock_home(path)
    try:
        store = Store.open(path / "rshell.sqlite", InlineThreads())
        outcome: list[object] = []
        # InlineThreads: everything has happened when this returns.
        Deferred.fromCoroutine(_replace(path, store, now)).addBoth(outcome.append)
        store.close()
    except StoreError as error:
        raise HomeError(str(error)) from None
    finally:
        os.close(lock)
    (result,) = outcome
    if isinstance(result, Failure):
        if result.check(StoreError, CredentialsDamaged, OSError):
            raise HomeError(f"{path}: {result.getErrorMessage()}")
        result.raiseException()
    assert isinstance(result, int)
    return result


async def _replace(path: Path, store: Store, now: datetime) -> int:
    operator = await store.operator(ADMIN_NAME)
    if operator is None or not operator.active:
        raise HomeError(
            f"the operator {ADMIN_NAME} is revoked, or was never made: start the gateway"
        )
    credentials = CredentialStore(make_private_dir(path / "admin"))
    # Not the pending key of a renewal: whoever copied the home has that too.
    key = new_key()
    spki = spki_hash(key.public_key())
    keys = FleetHome(path).load()
    certificate = keys.issue_operator(key.public_key(), ADMIN_NAME, keys.moment(now))
    # Cut off after this, the next run revokes it with the others.
    not_after = int(certificate.not_valid_after_utc.timestamp() * 1_000_000)
    await store.add_key(ADMIN_NAME, spki, not_after, "made again on the gateway")
    chain = chain_to_pem((certificate, keys.operator.certificate))
    root = chain_to_pem((keys.root.certificate,))
    credentials.save(Credentials.new(key, chain, root, ()))
    credentials.confirm()
    revoked = 0
    for known in await store.keys_of("operator", ADMIN_NAME):
        if known.spki != spki and known.status != "revoked":
            await store.revoke_key(known.spki)
            revoked += 1
    await store.append_audit(
        AuditRecord(
            kind="ca.new-admin", operator=ADMIN_NAME, door="local", details={"revoked": revoked}
        )
    )
    return revoked
