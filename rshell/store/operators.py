"""Queries about operators."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, insert, select, update

from rshell.store import keys, tokens
from rshell.store.errors import NameTaken, NotFound, StoreError
from rshell.store.records import Key, Operator, OperatorKey, TokenGrant
from rshell.store.schema import keys as key_table
from rshell.store.schema import operator_keys
from rshell.store.schema import operators as table

__all__ = [
    "add_key",
    "add_operator",
    "enrol_operator",
    "find_operator",
    "find_operators",
    "operator_by_spki",
    "revoke_operator",
]


def find_operator(connection: Connection, name: str) -> Operator | None:
    """Return the operator of that name, also a revoked one, or None."""
    row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
    return None if row is None else Operator(**row._mapping)


def find_operators(connection: Connection) -> list[Operator]:
    """Return all operators by name, revoked ones too."""
    query = select(table).order_by(table.c.name)
    return [Operator(**row._mapping) for row in connection.execute(query)]


def add_operator(
    connection: Connection,
    name: str,
    role: str,
    now: int,
    *,
    spki: bytes | None = None,
    not_after: int | None = None,
) -> Operator:
    """Create an operator, or bring a revoked one back with a new role; old keys stay revoked.

    Raises:
        NameTaken: an active operator has the name.
        StoreError: the key is registered already.
    """
    present = find_operator(connection, name)
    if present is None:
        connection.execute(
            insert(table).values(name=name, role=role, status="active", created_at=now)
        )
    elif present.active:
        raise NameTaken(f"there is an operator {name} already")
    else:
        connection.execute(
            update(table).where(table.c.name == name).values(role=role, status="active")
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
        StoreError: the invite is not for an operator, or names another role than the
            operator has by now.
    """
    if grant.kind != "operator" or grant.name is None or grant.role is None:
        raise StoreError("this invite is not for an operator")
    current = tokens.current_use(connection, grant)
    if current.owner is not None:
        return _must_find(connection, current.owner)
    present = find_operator(connection, grant.name)
    if present is None or not present.active:
        add_operator(connection, grant.name, grant.role, now)
    elif present.role != grant.role:
        raise StoreError(
            f"operator {grant.name} has the role {present.role}, the invite says {grant.role}"
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
    values = {column.name: row._mapping[column.name] for column in table.c}
    return OperatorKey(key=keys.key_from_row(row), operator=Operator(**values))


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


def _must_find(connection: Connection, name: str) -> Operator:
    operator = find_operator(connection, name)
    if operator is None:
        raise NotFound(f"there is no operator {name}")
    return operator
