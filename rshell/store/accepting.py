"""Accepting a device that waits: the row that waited becomes a device, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from sqlalchemy import Connection

from rshell.store import devices, pending, tokens
from rshell.store.errors import NotFound
from rshell.store.pending_records import PendingDevice
from rshell.store.records import Device

__all__ = ["accept"]


def accept(
    connection: Connection, spki: bytes, name: str | None, labels: Mapping[str, str], now: int
) -> tuple[Device, PendingDevice]:
    """Make a device of the one that waits with this key.

    Its name is accepted with it, unless its invite has a pattern and the name is outside of that:
    then the device is in, and its name stays provisional.

    Args:
        spki: SHA-256 of its public key.
        name: what it is called instead of what it proposed; the caller checked it.
        labels: set besides those of its invite.
        now: microseconds UTC.

    Raises:
        NotFound: it does not wait (any more).
        NameTaken: there is another device of that name.
        StoreError: the invite is spent or revoked.
    """
    found = pending.one(connection, spki, now)
    if found is None:
        raise NotFound("no device with this key waits any more")
    grant = tokens.accept_use(connection, found.token_id, spki, now)
    fixed = name or (found.name if found.within else None)
    grant = attrs.evolve(grant, name=fixed, labels={**found.labels, **labels})
    device = devices.enrol_device(connection, grant, found.name, now)
    pending.forget(connection, spki)
    return device, found
