"""Queries about devices that asked to join and wait until an operator accepts them.

A row is made by whoever holds a join string, which may be public, so rows are bounded in every
direction and vanish when their device asks no more.  What is in them is the device's word.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, or_, select, update

from rshell.store.pending_records import Applicant, PendingDevice, Waiting
from rshell.store.records import Refusal, TokenRefused
from rshell.store.schema import devices, tokens
from rshell.store.schema import pending_devices as table
from rshell.store.times import DAY

__all__ = [
    "EXPIRES_AFTER",
    "MAX_FROM_SOURCE",
    "MAX_OF_INVITE",
    "MAX_PENDING",
    "REJECTED_FOR",
    "ask",
    "count",
    "counts",
    "expire",
    "find",
    "forget",
    "one",
    "reject",
    "waits",
]

#: In all: some MB in the store, and more than anybody compares by eye.
MAX_PENDING = 5_000
#: Of one invite: a large site in one go; a public string that got around fills no more.
MAX_OF_INVITE = 1_000
#: From one source, because a stranger has one: a hall of devices behind one NAT.
MAX_FROM_SOURCE = 250
#: A device that has not asked for so long is off, or gone.
EXPIRES_AFTER = 7 * DAY
#: So long a rejected key is refused without anybody being asked again.
REJECTED_FOR = DAY
#: Rejected keys that are remembered; the oldest are forgotten first.
MAX_REJECTED = 5_000

_WAITING = table.c.status == "waiting"


def ask(
    connection: Connection, token: Row[Any], spki: bytes, applicant: Applicant, now: int
) -> Waiting | TokenRefused:
    """Note that a device asks to join by an invite that holds, for the first time or again.

    Args:
        token: the invite's row; its secret, kind and range were checked.
        spki: SHA-256 of the public key whose possession was proved; registered nowhere.
        applicant: where it asks from.
        now: microseconds UTC.
    """
    row = connection.execute(select(table).where(table.c.spki == spki)).one_or_none()
    if row is not None and row.status == "rejected":
        if now < row.rejected_at + REJECTED_FOR:
            return TokenRefused(reason=Refusal.REJECTED)
        forget(connection, spki)
        row = None
    if token.uses >= token.uses_max:
        return TokenRefused(reason=Refusal.REPLAY)
    # Only where it waits already does it outlive the invite; it cannot get to better terms so.
    if token.expires_at <= now and (row is None or row.token_id != token.id):
        return TokenRefused(reason=Refusal.EXPIRED)
    if row is not None:
        values = {"last_seen": now, "address": applicant.address, "token_id": token.id}
        connection.execute(update(table).where(table.c.spki == spki).values(**values))
        total = count(connection)
        return Waiting(first=False, name=row.name, first_seen=row.first_seen, count=total)
    if _full(connection, token.id, applicant.source):
        return TokenRefused(reason=Refusal.FULL)
    name = _free_name(connection, applicant.proposed)
    connection.execute(
        insert(table).values(
            spki=spki,
            token_id=token.id,
            status="waiting",
            name=name,
            source=applicant.source,
            address=applicant.address,
            first_seen=now,
            last_seen=now,
        )
    )
    return Waiting(first=True, name=name, first_seen=now, count=count(connection))


def count(connection: Connection) -> int:
    """Return how many devices wait."""
    return connection.execute(select(func.count()).select_from(table).where(_WAITING)).scalar_one()


def counts(connection: Connection) -> dict[bytes, int]:
    """Return how many devices wait, by invite."""
    query = select(table.c.token_id, func.count().label("waiting")).where(_WAITING)
    return {
        row.token_id: row.waiting for row in connection.execute(query.group_by(table.c.token_id))
    }


def find(connection: Connection, now: int) -> list[PendingDevice]:
    """Return the devices that wait, the newest last; those of a revoked invite wait in vain."""
    query = _that_wait(now).order_by(table.c.first_seen, table.c.spki)
    return [_pending(row) for row in connection.execute(query)]


def one(connection: Connection, spki: bytes, now: int) -> PendingDevice | None:
    """Return the device with that key if it waits."""
    row = connection.execute(_that_wait(now).where(table.c.spki == spki)).one_or_none()
    return None if row is None else _pending(row)


def waits(connection: Connection, spki: bytes) -> bool:
    """Say whether the device with that key waits."""
    query = select(table.c.spki).where(table.c.spki == spki, _WAITING)
    return connection.execute(query).first() is not None


def reject(connection: Connection, spki: bytes, now: int) -> PendingDevice | None:
    """Refuse a device that waits, for ``REJECTED_FOR``; None if it does not wait (any more)."""
    found = one(connection, spki, now)
    if found is None:
        return None
    connection.execute(
        update(table).where(table.c.spki == spki).values(status="rejected", rejected_at=now)
    )
    rejected = select(table.c.spki).where(~_WAITING).order_by(table.c.rejected_at.desc())
    for (old,) in connection.execute(rejected.offset(MAX_REJECTED)).all():
        forget(connection, old)
    return found


def forget(connection: Connection, spki: bytes) -> None:
    """Remove the row of a key."""
    connection.execute(delete(table).where(table.c.spki == spki))


def expire(connection: Connection, now: int) -> list[PendingDevice]:
    """Remove what has waited or was remembered for long enough; return the devices that waited."""
    query = (
        select(table, *_OF_INVITE)
        .join(tokens, tokens.c.id == table.c.token_id)
        .where(
            _WAITING,
            or_(table.c.last_seen <= now - EXPIRES_AFTER, tokens.c.revoked.is_(True)),
        )
    )
    gone = [_pending(row) for row in connection.execute(query)]
    for device in gone:
        forget(connection, device.spki)
    connection.execute(
        delete(table).where(and_(~_WAITING, table.c.rejected_at <= now - REJECTED_FOR))
    )
    return gone


_OF_INVITE = (tokens.c.name_pattern, tokens.c.labels, tokens.c.created_by)


def _that_wait(now: int) -> Select[Any]:
    return (
        select(table, *_OF_INVITE)
        .join(tokens, tokens.c.id == table.c.token_id)
        .where(_WAITING, tokens.c.revoked.is_(False), table.c.last_seen > now - EXPIRES_AFTER)
    )


def _full(connection: Connection, token_id: bytes, source: str) -> bool:
    def waiting(*which: Any) -> int:
        query = select(func.count()).select_from(table).where(_WAITING, *which)
        return connection.execute(query).scalar_one()

    return (
        waiting(table.c.source == source) >= MAX_FROM_SOURCE
        or waiting(table.c.token_id == token_id) >= MAX_OF_INVITE
        or waiting() >= MAX_PENDING
    )


def _free_name(connection: Connection, proposed: str) -> str:
    """Return the name, or it with a number: what is shown is what the device will be called."""
    first = 1
    while True:
        run = [_numbered(proposed, number) for number in range(first, first + 256)]
        taken = _taken(connection, run)
        free = next((name for name in run if name not in taken), None)
        if free is not None:
            return free
        first += 256


def _taken(connection: Connection, names: Collection[str]) -> set[str]:
    active = select(devices.c.name).where(devices.c.name.in_(names), devices.c.status == "active")
    waiting = select(table.c.name).where(table.c.name.in_(names), _WAITING)
    return {name for (name,) in connection.execute(active.union(waiting))}


def _numbered(name: str, number: int) -> str:
    suffix = "" if number == 1 else f"-{number}"
    return name[: 63 - len(suffix)] + suffix


def _pending(row: Row[Any]) -> PendingDevice:
    pattern = row.name_pattern
    return PendingDevice(
        spki=row.spki,
        token_id=row.token_id,
        name=row.name,
        name_pattern=pattern,
        within=pattern is None or fnmatchcase(row.name, pattern),
        labels=msgspec.json.decode(row.labels),
        invited_by=row.created_by,
        address=row.address,
        source=row.source,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
    )
