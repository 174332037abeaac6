"""Queries about registered public keys, of devices and operators alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from rshell.store.errors import NotFound, StoreError
from rshell.store.records import Key, OwnerKind
from rshell.store.schema import keys, token_uses
from rshell.store.times import DAY

__all__ = [
    "KEY_COLUMNS",
    "find_key",
    "key_from_row",
    "keys_of",
    "register",
    "renew_key",
    "revoke_all",
    "revoke_key",
]

# A renewed key's predecessor still connects for this long: the reply that carried the new
# certificate may have been lost.
PREDECESSOR_ACCEPTED = DAY

# Labelled, because a join brings other columns of the same names.
KEY_COLUMNS = tuple(column.label(f"key_{column.name}") for column in keys.c)
_FIELDS = tuple((column.name, f"key_{column.name}") for column in keys.c)


def key_from_row(row: Row[Any]) -> Key:
    """Return the key in a row selected with ``KEY_COLUMNS``."""
    values = row._mapping
    return Key(**{name: values[label] for name, label in _FIELDS})


def find_key(connection: Connection, spki: bytes) -> Key | None:
    """Return the registered key of that hash, or None."""
    row = connection.execute(select(*KEY_COLUMNS).where(keys.c.spki == spki)).one_or_none()
    return None if row is None else key_from_row(row)


def keys_of(connection: Connection, kind: OwnerKind, owner: str) -> list[Key]:
    """Return all keys of a device id or operator name, oldest first."""
    query = (
        select(*KEY_COLUMNS)
        .where(keys.c.kind == kind, keys.c.owner == owner)
        .order_by(keys.c.created_at, keys.c.spki)
    )
    return [key_from_row(row) for row in connection.execute(query)]


def register(
    connection: Connection,
    kind: OwnerKind,
    owner: str,
    spki: bytes,
    now: int,
    *,
    not_after: int | None = None,
    comment: str = "",
) -> Key:
    """Insert an active key.

    Raises:
        StoreError: the key is registered already, for anyone and in any state.
    """
    if len(spki) != 32:
        raise StoreError("a key is registered by its SHA-256, 32 bytes")
    if find_key(connection, spki) is not None:
        raise StoreError("this key is registered already; make a new one")
    connection.execute(
        insert(keys).values(
            spki=spki,
            kind=kind,
            owner=owner,
            status="active",
            created_at=now,
            not_after=not_after,
            comment=comment,
        )
    )
    return _must_find(connection, spki)


def renew_key(connection: Connection, old: bytes, new: bytes, not_after: int, now: int) -> Key:
    """Put *new* in the place of *old*, which is accepted for another 24 hours.

    With ``new == old`` (a key that cannot rotate) only *not_after* moves.  Asking again
    with the same pair changes nothing else: the reply may have been lost.  A device has
    one current key, so all its others retire; an operator's other machines keep theirs.

    Raises:
        NotFound: *old* is not registered.
        StoreError: *old* may not be used any more, or *new* belongs to someone else.
    """
    before = _must_find(connection, old)
    if before.refusal(now) is not None:
        raise StoreError("a revoked or retired key cannot be renewed")
    known = find_key(connection, new)
    if known is None:
        register(connection, before.kind, before.owner, new, now, comment=before.comment)
    elif (known.kind, known.owner, known.status) != (before.kind, before.owner, "active") and (
        new != old
    ):
        raise StoreError("the new key is registered already; make another one")
    if new != old:
        retire = update(keys).where(
            keys.c.kind == before.kind,
            keys.c.owner == before.owner,
            keys.c.status == "active",
            keys.c.spki != new,
        )
        if before.kind == "operator":
            retire = retire.where(keys.c.spki == old)
        connection.execute(
            retire.values(status="retired", accepted_until=now + PREDECESSOR_ACCEPTED)
        )
    connection.execute(update(keys).where(keys.c.spki == new).values(not_after=not_after))
    return _must_find(connection, new)


def revoke_key(connection: Connection, spki: bytes) -> Key:
    """Revoke one key for good.

    Raises:
        NotFound: it is not registered.
    """
    _must_find(connection, spki)
    connection.execute(update(keys).where(keys.c.spki == spki).values(status="revoked"))
    # a certificate kept for a lost reply must not be handed out again
    connection.execute(update(token_uses).where(token_uses.c.spki == spki).values(certificate=None))
    return _must_find(connection, spki)


def revoke_all(connection: Connection, kind: OwnerKind, owner: str) -> None:
    """Revoke every key of an owner."""
    for key in keys_of(connection, kind, owner):
        revoke_key(connection, key.spki)


def _must_find(connection: Connection, spki: bytes) -> Key:
    key = find_key(connection, spki)
    if key is None:
        raise NotFound("this key is not registered")
    return key
