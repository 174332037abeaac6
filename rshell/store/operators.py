"""Queries about operators."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from rshell.store import keys, tokens
from rshell.store.errors import NameTaken, NotFound, StoreError
from rshell.store.records import Key, Operator, OperatorKey, TokenGrant
from rshell.store.schema import audit, operator_keys
from rshell.store.schema import keys as key_table
from rshell.store.schema import operators as table

__all__ = [
    "add_key",
    "add_operator",
    "drop_role",
    "enrol_operator",
    "find_named",
    "find_operator",
    "find_operators",
    "last_seen",
    "operator_by_spki",
    "revoke_operator",
    "set_operator_roles",
]


def find_operator(connection: Connection, name: str) -> Operator | None:
    """Return the operator of that name, also a revoked one, or None."""
    row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
    return None if row is None else _operator(row)


def find_operators(connection: Connection) -> list[Operator]:
    """Return all operators by name, revoked ones too."""
    query = select(table).order_by(table.c.name)
    return [_operator(row) for row in connection.execute(query)]


def find_named(connection: Connection, names: Collection[str]) -> list[Operator]:
    """Return the operators of these names, by name, revoked ones too."""
    query = select(table).where(table.c.name.in_(sorted(set(names)))).order_by(table.c.name)
    return [_operator(row) for row in connection.execute(query)]


def last_seen(connection: Connection) -> dict[str, int]:
    """Return when operators last did something that the audit log tells of, microseconds UTC.

    The newest row of each is found by the index; nothing is scanned.
    """
    last = select(func.max(audit.c.seq)).where(audit.c.operator == table.c.name)
    newest = select(table.c.name, last.correlate(table).scalar_subquery().label("seq")).subquery()
    query = select(newest.c.name, audit.c.at).join(audit, audit.c.seq == newest.c.seq)
    return {row.name: row.at for row in connection.execute(query)}


def add_operator(
    connection: Connection,
    name: str,
    roles: Collection[str],
    now: int,
    *,
    spki: bytes | None = None,
    not_after: int | None = None,
) -> Operator:
    """Create an operator, or bring a revoked one back with new roles; old keys stay revoked.

    Raises:
        NameTaken: an active operator has the name.
        StoreError: the key is registered already.
    """
    present = find_operator(connection, name)
    if present is None:
        connection.execute(
            insert(table).values(name=name, roles=_names(roles), status="active", created_at=now)
        )
    elif present.active:
        raise NameTaken(f"there is an operator {name} already")
    else:
        connection.execute(
            update(table).where(table.c.name == name).values(roles=_names(roles), status="active")
        )
    if spki is not None:
        keys.register(connection, "operator", name, spki, now, not_after=not_after)
    return _must_find(connection, name)


def add_key(
    connection: Connection, name: str, spki: bytes, now: int, *, not_after: int | None, comment: str
) -> Key:
    """Give an operator one more key, beside those there are.

    Raises:
        NotFound: there is no such active operator.
        StoreError: the key is registered already.
    """
    if not _must_find(connection, name).active:
        raise NotFound(f"operator {name} is revoked")
    return keys.register(
        connection, "operator", name, spki, now, not_after=not_after, comment=comment
    )


def enrol_operator(connection: Connection, grant: TokenGrant, now: int) -> Operator:
    """Make the operator an invite names; an active one gets the key as one more machine.

    Raises:
        StoreError: the invite is not for an operator, or names other roles than the
            operator has by now.
    """
    if grant.kind != "operator" or grant.name is None or not grant.roles:
        raise StoreError("this invite is not for an operator")
    current = tokens.current_use(connection, grant)
    if current.owner is not None:
        return _must_find(connection, current.owner)
    present = find_operator(connection, grant.name)
    if present is None or not present.active:
        add_operator(connection, grant.name, grant.roles, now)
    elif set(present.roles) != set(grant.roles):
        raise StoreError(
            f"operator {grant.name} has the roles {', '.join(present.roles) or 'none'}, "
            f"the invite says {', '.join(grant.roles)}"
        )
    keys.register(connection, "operator", grant.name, grant.spki, now)
    tokens.set_owner(connection, grant, grant.name)
    return _must_find(connection, grant.name)


def operator_by_spki(connection: Connection, spki: bytes) -> OperatorKey | None:
    """Return the operator who registered that key, by one indexed query, or None."""
    query = (
        select(table, *keys.KEY_COLUMNS)
        .join(key_table, and_(key_table.c.owner == table.c.name, key_table.c.kind == "operator"))
        .where(key_table.c.spki == spki)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return OperatorKey(key=keys.key_from_row(row), operator=_operator(row))


def set_operator_roles(
    connection: Connection, name: str, put: Collection[str], remove: Collection[str]
) -> Operator:
    """Give an operator roles and take others away; what is so already is no error.

    Raises:
        NotFound: there is no such active operator.
    """
    operator = _must_find(connection, name)
    if not operator.active:
        raise NotFound(f"operator {name} is revoked")
    _write_roles(connection, name, (set(operator.roles) - set(remove)) | set(put))
    return _must_find(connection, name)


def drop_role(connection: Connection, operator: Operator, role: str) -> None:
    """Take a role from an operator, also from a revoked one, whom an invite may bring back."""
    _write_roles(connection, operator.name, set(operator.roles) - {role})


def _write_roles(connection: Connection, name: str, roles: Collection[str]) -> None:
    connection.execute(update(table).where(table.c.name == name).values(roles=_names(roles)))


def revoke_operator(connection: Connection, name: str) -> Operator:
    """Revoke an operator, all keys, and all invites for or by them.

    Raises:
        NotFound: there is none of that name.
    """
    _must_find(connection, name)
    connection.execute(update(table).where(table.c.name == name).values(status="revoked"))
    keys.revoke_all(connection, "operator", name)
    connection.execute(delete(operator_keys).where(operator_keys.c.operator == name))
    tokens.revoke_for(connection, "operator", name)
    # an invite they made before would let them, or a friend, back in
    tokens.revoke_created_by(connection, name)
    return _must_find(connection, name)


def _names(roles: Collection[str]) -> str:
    return msgspec.json.encode(sorted(set(roles))).decode()


def _operator(row: Row[Any]) -> Operator:
    values = {column.name: row._mapping[column.name] for column in table.c}
    return Operator(**{**values, "roles": tuple(msgspec.json.decode(row.roles))})


def _must_find(connection: Connection, name: str) -> Operator:
    operator = find_operator(connection, name)
    if operator is None:
        raise NotFound(f"there is no operator {name} (see: rshell operators)")
    return operator
