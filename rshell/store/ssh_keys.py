"""Queries about operators' SSH public keys (table ``operator_keys``).

A key is an operator's or a CA's, never both: a CA's key that also lies about as somebody's login
key is one that can let in anybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from rshell.store import operators
from rshell.store.errors import LimitReached, NotFound, StoreError
from rshell.store.records import Operator, SshKey
from rshell.store.schema import operator_keys as table
from rshell.store.schema import ssh_cas

__all__ = ["add", "add_all", "find", "keys_of", "remove", "used"]

#: Of one operator: a person has a handful, a pipeline a few more.
MAX_KEYS_EACH = 200


def add_all(connection: Connection, keys: Sequence[SshKey]) -> list[SshKey]:
    """Register keys, all or none; raises as `add` does."""
    return [add(connection, key) for key in keys]


def add(connection: Connection, key: SshKey) -> SshKey:
    """Register a key; the same key of the same operator once more changes only the comment.

    Raises:
        NotFound: there is no such active operator.
        StoreError: the key is another operator's, or a CA's.
        LimitReached: the operator has too many.
    """
    operator = operators.find_operator(connection, key.operator)
    if operator is None or not operator.active:
        raise NotFound(f"there is no active operator {key.operator} (see: rshell operators)")
    present = _one(connection, key.fingerprint)
    if present is not None and present.operator != key.operator:
        raise StoreError(f"{key.fingerprint} is another operator's already; make a new one")
    named = select(ssh_cas.c.name).where(ssh_cas.c.fingerprint == key.fingerprint)
    ca = connection.execute(named).scalar_one_or_none()
    if ca is not None:
        raise StoreError(f"{key.fingerprint} is the key of the CA {ca}: log in with another")
    if present is not None:
        connection.execute(
            update(table).where(table.c.fingerprint == key.fingerprint).values(comment=key.comment)
        )
    else:
        count = select(func.count()).select_from(table).where(table.c.operator == key.operator)
        if connection.execute(count).scalar_one() >= MAX_KEYS_EACH:
            raise LimitReached(f"{key.operator} has {MAX_KEYS_EACH} keys: remove old ones first")
        connection.execute(
            insert(table).values(
                fingerprint=key.fingerprint,
                operator=key.operator,
                type=key.type,
                blob=key.blob,
                comment=key.comment,
                added_at=key.added_at,
            )
        )
    return _must_find(connection, key.fingerprint)


def keys_of(connection: Connection, operator: str | None = None) -> list[SshKey]:
    """Return the keys of an operator, or all, oldest first by operator."""
    query = select(table).order_by(table.c.operator, table.c.added_at, table.c.fingerprint)
    if operator is not None:
        query = query.where(table.c.operator == operator)
    return [SshKey(**row._mapping) for row in connection.execute(query)]


def find(connection: Connection, fingerprint: str) -> tuple[SshKey, Operator] | None:
    """Return a key and whose it is, also a revoked operator's, or None."""
    key = _one(connection, fingerprint)
    if key is None:
        return None
    operator = operators.find_operator(connection, key.operator)
    return None if operator is None else (key, operator)


def used(connection: Connection, fingerprint: str, now: int) -> None:
    """Note that somebody logged in with it."""
    connection.execute(
        update(table).where(table.c.fingerprint == fingerprint).values(last_used=now)
    )


def remove(connection: Connection, operator: str, fingerprint: str) -> SshKey:
    """Forget a key.

    Raises:
        NotFound: the operator has no such key.
    """
    key = _one(connection, fingerprint)
    if key is None or key.operator != operator:
        raise NotFound(f"operator {operator} has no such key (see: rshell keys list {operator})")
    connection.execute(delete(table).where(table.c.fingerprint == fingerprint))
    return key


def _one(connection: Connection, fingerprint: str) -> SshKey | None:
    query = select(table).where(table.c.fingerprint == fingerprint)
    row = connection.execute(query).one_or_none()
    return None if row is None else SshKey(**row._mapping)


def _must_find(connection: Connection, fingerprint: str) -> SshKey:
    key = _one(connection, fingerprint)
    if key is None:
        raise NotFound("no such key")
    return key
