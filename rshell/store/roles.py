"""Queries about roles.  What a grant may say is checked by ``rshell.access.grants`` before."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from rshell.store import operators, tokens
from rshell.store.errors import InUse, LimitReached, NotFound
from rshell.store.records import Grant, Role
from rshell.store.schema import role_grants, roles

__all__ = ["MAX_GRANTS", "MAX_ROLES", "find_roles", "put_role", "remove_role"]

#: Every decision may have to look at all grants of an operator's roles.
MAX_GRANTS = 64
#: They are all kept in the gateway's memory, compiled.
MAX_ROLES = 1_000
#: Operators that a refusal names.
_NAMED = 5


def find_roles(connection: Connection) -> list[Role]:
    """Return all roles by name, their grants in the order in which they were made."""
    grants: dict[str, list[Grant]] = {}
    ordered = select(role_grants).order_by(role_grants.c.role, role_grants.c.number)
    for row in connection.execute(ordered):
        grants.setdefault(row.role, []).append(_grant(row.body))
    return [
        Role(
            name=row.name,
            grants=tuple(grants.get(row.name, ())),
            changed_at=row.changed_at,
            changed_by=row.changed_by,
        )
        for row in connection.execute(select(roles).order_by(roles.c.name))
    ]


def put_role(
    connection: Connection,
    name: str,
    grants: Sequence[Grant],
    by: str,
    now: int,
    *,
    add: bool,
) -> Role:
    """Make a role, or replace the grants of one; with *add* they are added to those there are.

    Raises:
        LimitReached: too many grants, or roles.
    """
    present = _find(connection, name)
    if present is None:
        if len(connection.execute(select(roles.c.name)).all()) >= MAX_ROLES:
            raise LimitReached(f"a fleet has at most {MAX_ROLES} roles")
        connection.execute(insert(roles).values(name=name, changed_at=now, changed_by=by))
    else:
        connection.execute(
            update(roles).where(roles.c.name == name).values(changed_at=now, changed_by=by)
        )
    kept = list(present.grants) if present is not None and add else []
    # The same grant twice would be the same role with more work.
    kept += [grant for grant in grants if grant not in kept]
    if len(kept) > MAX_GRANTS:
        raise LimitReached(f"a role has at most {MAX_GRANTS} grants")
    connection.execute(delete(role_grants).where(role_grants.c.role == name))
    rows = [
        {"role": name, "number": number, "body": msgspec.json.encode(attrs.asdict(grant)).decode()}
        for number, grant in enumerate(kept, 1)
    ]
    if rows:
        connection.execute(insert(role_grants), rows)
    return Role(name=name, grants=tuple(kept), changed_at=now, changed_by=by)


def remove_role(connection: Connection, name: str, now: int, *, force: bool) -> list[str]:
    """Remove a role.

    With *force* it is taken from the operators that have it, and invites that give it are void:
    a role of that name made later must not be theirs.

    Returns:
        The operators it was taken from.

    Raises:
        NotFound: there is no such role.
        InUse: operators have it or invites give it, and *force* was not said.
    """
    if _find(connection, name) is None:
        raise NotFound(f"there is no role {name}")
    having = [one for one in operators.find_operators(connection) if name in one.roles]
    active = [one.name for one in having if one.active]
    invites = tokens.still_open(connection, name, now)
    if not force and (active or invites):
        raise InUse(f"role {name} is in use: {_users(active, len(invites))}")
    for one in having:
        operators.drop_role(connection, one, name)
    tokens.revoke_with_role(connection, name)
    connection.execute(delete(role_grants).where(role_grants.c.role == name))
    connection.execute(delete(roles).where(roles.c.name == name))
    return active


def _users(having: Sequence[str], invites: int) -> str:
    words = []
    if having:
        more = f" and {len(having) - _NAMED} more" if len(having) > _NAMED else ""
        words.append(f"{', '.join(having[:_NAMED])}{more} have it")
    if invites:
        words.append("an invite gives it" if invites == 1 else f"{invites} invites give it")
    return ", ".join(words)


def _find(connection: Connection, name: str) -> Role | None:
    return next((role for role in find_roles(connection) if role.name == name), None)


def _grant(body: str) -> Grant:
    return msgspec.json.decode(body, type=Grant)
