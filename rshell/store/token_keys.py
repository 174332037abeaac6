"""Queries about public keys that are known before their devices join.

Such a device needs no secret: it proves that it has the key.  The right is the key's alone, so the
answer may be repeated until the device was seen, and nobody else can make use of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from rshell.identity.keys import fingerprint
from rshell.store import keys
from rshell.store.errors import NO_SUCH_INVITE, LimitReached, NameTaken, NotFound, StoreError
from rshell.store.pending_records import KnownKey
from rshell.store.schema import devices, token_keys, tokens

__all__ = ["MAX_OF_INVITE", "add", "mark_used", "named", "of_invite", "remove"]

#: Of one invite: as many as a file of them may have.
MAX_OF_INVITE = 10_000
_HASH_BYTES = 32


def add(connection: Connection, token_id: bytes, known: Sequence[KnownKey], now: int) -> int:
    """Add keys to an invite, all or none; return how many it has.

    Raises:
        NotFound: there is no such invite, or it is revoked.
        LimitReached: it would have more than ``MAX_OF_INVITE``.
        NameTaken: a name is another's.
        StoreError: a key is registered, or known by an invite, already.
    """
    token = connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
    if token is None or token.revoked or token.mode != "keys":
        raise NotFound(NO_SUCH_INVITE)
    if token.uses_max + len(known) > MAX_OF_INVITE:
        raise LimitReached(f"an invite has at most {MAX_OF_INVITE} keys: make another one")
    taken = _taken_names(connection, [one.name for one in known if one.name is not None])
    for one in known:
        _check(connection, one, taken)
        connection.execute(delete(token_keys).where(token_keys.c.spki == one.spki))
        values = {"spki": one.spki, "token_id": token_id, "name": one.name, "added_at": now}
        connection.execute(insert(token_keys).values(**values))
    total: int = token.uses_max + len(known)
    connection.execute(update(tokens).where(tokens.c.id == token_id).values(uses_max=total))
    return total


def named(connection: Connection, spki: bytes) -> Row[Any] | None:
    """Return the row of a known key."""
    return connection.execute(select(token_keys).where(token_keys.c.spki == spki)).one_or_none()


def mark_used(connection: Connection, spki: bytes, now: int) -> None:
    """Note that the device of a known key has joined."""
    connection.execute(update(token_keys).where(token_keys.c.spki == spki).values(used_at=now))


def of_invite(connection: Connection, token_id: bytes) -> list[KnownKey]:
    """Return the keys of an invite that have not joined yet."""
    query = (
        select(token_keys.c.spki, token_keys.c.name)
        .where(token_keys.c.token_id == token_id, token_keys.c.used_at.is_(None))
        .order_by(token_keys.c.name, token_keys.c.spki)
    )
    return [KnownKey(spki=row.spki, name=row.name) for row in connection.execute(query)]


def remove(connection: Connection, prefix: bytes) -> KnownKey:
    """Forget a key that has not joined yet.

    Args:
        prefix: the first bytes of its hash.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(
        select(token_keys, tokens.c.uses_max)
        .join(tokens, tokens.c.id == token_keys.c.token_id)
        .where(
            token_keys.c.spki.between(
                prefix.ljust(_HASH_BYTES, b"\0"), prefix.ljust(_HASH_BYTES, b"\xff")
            ),
            token_keys.c.used_at.is_(None),
            tokens.c.revoked.is_(False),
        )
    ).first()
    if row is None:
        raise NotFound("no key with that fingerprint is invited (see: rshell invites ID)")
    connection.execute(delete(token_keys).where(token_keys.c.spki == row.spki))
    connection.execute(
        update(tokens).where(tokens.c.id == row.token_id).values(uses_max=row.uses_max - 1)
    )
    return KnownKey(spki=row.spki, name=row.name)


def _check(connection: Connection, one: KnownKey, taken: dict[str, str]) -> None:
    """Raise if a key or its name is known; note its name in *taken*."""
    if len(one.spki) != _HASH_BYTES:
        raise StoreError("a key is known by its SHA-256, 32 bytes")
    shown = one.name or fingerprint(one.spki)
    registered = keys.find_key(connection, one.spki)
    if registered is not None and registered.status != "active":
        raise StoreError(f"the key of {shown} was revoked or replaced: its device needs a new one")
    if registered is not None:
        raise StoreError(f"the key of {shown} is registered already: its device has joined")
    before = connection.execute(
        select(tokens.c.id)
        .join(token_keys, token_keys.c.token_id == tokens.c.id)
        .where(token_keys.c.spki == one.spki, tokens.c.revoked.is_(False))
    ).first()
    if before is not None:
        raise StoreError(f"the key of {shown} is in invite {before.id.hex()} already")
    if one.name is None:
        return
    if one.name in taken:
        raise NameTaken(taken[one.name])
    taken[one.name] = f"the name {one.name} is another invited key's already"


def _taken_names(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Return those of the names that are in use, and by what: one scan for all of a request."""
    active = select(devices.c.name).where(devices.c.name.in_(names), devices.c.status == "active")
    invited = (
        select(token_keys.c.name)
        .join(tokens, tokens.c.id == token_keys.c.token_id)
        .where(
            token_keys.c.name.in_(names),
            token_keys.c.used_at.is_(None),
            tokens.c.revoked.is_(False),
        )
    )
    taken = {
        name: f"the name {name} is another invited key's already"
        for (name,) in connection.execute(invited)
    }
    return taken | {
        name: f"there is a device {name} already: revoke or rename it first"
        for (name,) in connection.execute(active)
    }
