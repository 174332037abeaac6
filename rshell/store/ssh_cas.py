"""Certificate authorities for SSH logins, and which of their certificates were revoked.

What it is not: reading certificates (``rshell.identity.ssh_certificates``).  Revocations belong to
the CA's key, not to its name, and are kept when it is removed: who registers it again does not let
back in what was revoked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import attrs
from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from rshell.store import operators
from rshell.store.errors import LimitReached, NameTaken, NotFound, StoreError
from rshell.store.records import Operator, SshCa
from rshell.store.schema import operator_keys
from rshell.store.schema import ssh_ca_revocations as revoked_table
from rshell.store.schema import ssh_cas as table

__all__ = [
    "CaVerdict",
    "RevokedBy",
    "RevokedCertificate",
    "add",
    "cas",
    "judge",
    "remove",
    "revocations",
    "revoke",
    "used",
]

#: Each can let in anybody: a fleet has one or two, and a new one for a while beside the old.
MAX_CAS = 16
#: Of one CA; whoever comes near this needs certificates that expire sooner.
MAX_REVOCATIONS = 10_000

RevokedBy = Literal["serial", "id"]


@attrs.frozen(kw_only=True)
class RevokedCertificate:
    """What no longer lets in, of one CA.

    Attributes:
        ca: the fingerprint of its key.
        by: what ``value`` is: a serial number in decimal, or a key id.
    """

    ca: str
    by: RevokedBy
    value: str
    revoked_at: int


@attrs.frozen
class CaVerdict:
    """What the store says to a certificate.

    Attributes:
        ca: who signed it.
        revoked: whether it is revoked.
        operators: the active operators whom its principals name.
    """

    ca: SshCa
    revoked: bool
    operators: tuple[Operator, ...]


def add(connection: Connection, ca: SshCa) -> SshCa:
    """Register a CA; the same key under the same name once more changes only the comment.

    Raises:
        NameTaken: another key has the name.
        StoreError: the key has another name, or is an operator's.
        LimitReached: there are too many.
    """
    present = _named(connection, ca.name)
    if present is not None and present.fingerprint != ca.fingerprint:
        raise NameTaken(f"there is another CA {ca.name}: remove it, or choose another name")
    if present is not None:
        change = update(table).where(table.c.name == ca.name).values(comment=ca.comment)
        connection.execute(change)
    else:
        other = _one(connection, ca.fingerprint)
        if other is not None:
            raise StoreError(f"this key is the CA {other.name} already")
        whose = select(operator_keys.c.operator).where(
            operator_keys.c.fingerprint == ca.fingerprint
        )
        operator = connection.execute(whose).scalar_one_or_none()
        if operator is not None:
            raise StoreError(
                f"operator {operator} logs in with this key: a CA's is used for nothing else"
            )
        count = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if count >= MAX_CAS:
            raise LimitReached(f"there are {MAX_CAS} CAs: remove one first")
        connection.execute(insert(table).values(**attrs.asdict(ca)))
    found = _named(connection, ca.name)
    assert found is not None
    return found


def cas(connection: Connection) -> list[SshCa]:
    """Return all, by name."""
    query = select(table).order_by(table.c.name)
    return [SshCa(**row._mapping) for row in connection.execute(query)]


def revocations(connection: Connection) -> list[RevokedCertificate]:
    """Return what is revoked of the CAs that are registered, oldest first."""
    query = (
        select(revoked_table)
        .join(table, table.c.fingerprint == revoked_table.c.ca)
        .order_by(revoked_table.c.revoked_at, revoked_table.c.by, revoked_table.c.value)
    )
    return [RevokedCertificate(**row._mapping) for row in connection.execute(query)]


def remove(connection: Connection, name: str) -> SshCa:
    """Forget a CA, not what was revoked of it.

    Raises:
        NotFound: there is none of that name.
    """
    ca = _must_find(connection, name)
    connection.execute(delete(table).where(table.c.name == name))
    return ca


def revoke(connection: Connection, name: str, by: RevokedBy, value: str, now: int) -> SshCa:
    """Revoke certificates of a CA; a second time is no error.

    Raises:
        NotFound: there is no such CA.
        LimitReached: too many are revoked.
    """
    ca = _must_find(connection, name)
    same = and_(
        revoked_table.c.ca == ca.fingerprint,
        revoked_table.c.by == by,
        revoked_table.c.value == value,
    )
    if connection.execute(select(revoked_table.c.ca).where(same)).first() is None:
        count = (
            select(func.count())
            .select_from(revoked_table)
            .where(revoked_table.c.ca == ca.fingerprint)
        )
        if connection.execute(count).scalar_one() >= MAX_REVOCATIONS:
            raise LimitReached(
                f"{MAX_REVOCATIONS:,} certificates of {name} are revoked: use another CA key"
            )
        values = {"ca": ca.fingerprint, "by": by, "value": value, "revoked_at": now}
        connection.execute(insert(revoked_table).values(**values))
    return ca


def judge(
    connection: Connection,
    fingerprint: str,
    serial: int,
    key_id: str,
    principals: Collection[str],
) -> CaVerdict | None:
    """Return what is known to a certificate; None if its CA is not registered."""
    ca = _one(connection, fingerprint)
    if ca is None:
        return None
    query = select(revoked_table.c.ca).where(
        revoked_table.c.ca == fingerprint,
        or_(
            and_(revoked_table.c.by == "serial", revoked_table.c.value == str(serial)),
            and_(revoked_table.c.by == "id", revoked_table.c.value == key_id),
        ),
    )
    revoked = connection.execute(query.limit(1)).first() is not None
    named = operators.find_named(connection, principals)
    return CaVerdict(ca, revoked, tuple(one for one in named if one.active))


def used(connection: Connection, fingerprint: str, now: int) -> None:
    """Note that somebody logged in by it."""
    connection.execute(
        update(table).where(table.c.fingerprint == fingerprint).values(last_used=now)
    )


def _named(connection: Connection, name: str) -> SshCa | None:
    row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
    return None if row is None else SshCa(**row._mapping)


def _one(connection: Connection, fingerprint: str) -> SshCa | None:
    query = select(table).where(table.c.fingerprint == fingerprint)
    row = connection.execute(query).one_or_none()
    return None if row is None else SshCa(**row._mapping)


def _must_find(connection: Connection, name: str) -> SshCa:
    ca = _named(connection, name)
    if ca is None:
        raise NotFound(f"there is no CA {name} (see: rshell keys list --ca)")
    return ca
