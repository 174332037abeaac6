"""The verbs about roles and operators.  Importing this module registers them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.access.forward_rules import BadRule, place_of
from rshell.access.grants import (
    FORWARD,
    MAX_LIMIT_SECONDS,
    BadGrant,
    check_grant,
    check_role_name,
)
from rshell.access.printable import printable
from rshell.access.roles import ADMIN
from rshell.gateway.callers import OpenRefused
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.link.core.errors import ErrorCode
from rshell.store.records import Device, Grant, Operator, Role
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

Name = Annotated[str, Meta(max_length=64)]
Target = Annotated[str, Meta(max_length=1024)]
Seconds = Annotated[int, Meta(ge=0, le=MAX_LIMIT_SECONDS)]
#: As many as a role may have.
Grants = Annotated[list["GrantRequest"], Meta(min_length=1, max_length=64)]
Names = Annotated[list[Name], Meta(max_length=64)]


class GrantRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One grant, as `rshell.store.records.Grant` describes it."""

    select: Annotated[str, Meta(max_length=4096)] = "*"
    handlers: Names = msgspec.field(default_factory=list)
    logins: Names = msgspec.field(default_factory=list)
    forward: Annotated[list[Target], Meta(max_length=64)] = msgspec.field(default_factory=list)
    forward_back: Annotated[list[Target], Meta(max_length=64)] = msgspec.field(default_factory=list)
    watch: bool = False
    idle_limit: Seconds = 0
    time_limit: Seconds = 0
    record: Name | None = None
    admin: bool = False
    console: bool = False


class RolesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which role; None for all."""

    name: Name | None = None


class SetRoleRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A role and its grants, in place of those that it has or, with ``add``, besides them."""

    name: Name
    grants: Grants
    add: bool = False


class RemoveRoleRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which role; ``force`` takes it from the operators that have it, too."""

    name: Name
    force: bool = False


class AssignRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Roles that an operator gets and loses."""

    operator: Name
    add: Names = msgspec.field(default_factory=list)
    remove: Names = msgspec.field(default_factory=list)


class CheckRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """May this operator do that?  ``target``: of ``forward``, as ``localhost:80``."""

    operator: Name
    device: Name
    handler: Name
    login: Name | None = None
    target: Target | None = None


class OperatorsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


@verb("gateway.roles.list", RolesRequest)
async def list_roles(gateway: Gateway, asker: Asker, request: RolesRequest) -> Any:
    """List roles, what they grant, and who has them."""
    having: Counter[str] = Counter()
    for operator in await gateway.store.operators():
        having.update(operator.roles if operator.active else ())
    built_in = {
        "name": ADMIN,
        "built_in": True,
        "grants": [msgspec.to_builtins(Grant(admin=True, console=True))],
        "operators": having[ADMIN],
        "changed_at": None,
        "changed_by": None,
    }
    rows = [built_in, *(_role_row(role, having) for role in await gateway.store.roles())]
    if request.name is None:
        return rows
    found = [row for row in rows if row["name"] == request.name]
    if not found:
        raise OpenRefused(ErrorCode.NOT_FOUND, _no_role(request.name))
    return found


def _role_row(role: Role, having: Counter[str]) -> dict[str, Any]:
    return {
        "name": role.name,
        "built_in": False,
        "grants": [msgspec.to_builtins(grant) for grant in role.grants],
        "operators": having[role.name],
        "changed_at": rfc3339(role.changed_at),
        "changed_by": role.changed_by,
    }


def _no_role(name: str) -> str:
    return f"there is no role {printable(name, 64)!r} (see: rshell roles list)"


@verb("gateway.roles.set", SetRoleRequest, changes=True)
async def set_role(gateway: Gateway, asker: Asker, request: SetRoleRequest) -> Any:
    """Make a role, or change what it grants: that holds at once."""
    try:
        name = check_role_name(request.name)
        grants = [check_grant(_grant(one)) for one in request.grants]
    except BadGrant as error:
        raise BadRequest(str(error)) from None
    role = await gateway.rights.put_role(name, grants, asker.name, add=request.add)
    having: Counter[str] = Counter()
    for operator in await gateway.store.operators():
        having.update(operator.roles if operator.active else ())
    return _role_row(role, having) | {"unknown_handlers": _unknown(gateway, grants)}


def _grant(request: GrantRequest) -> Grant:
    return Grant(
        select=request.select,
        handlers=tuple(request.handlers),
        logins=tuple(request.logins),
        forward=tuple(request.forward),
        forward_back=tuple(request.forward_back),
        watch=request.watch,
        idle_limit=request.idle_limit,
        time_limit=request.time_limit,
        record=request.record,
        admin=request.admin,
        console=request.console,
    )


def _unknown(gateway: Gateway, grants: list[Grant]) -> list[str]:
    """Return handlers that are neither built in nor told by any device: misspelt, perhaps."""
    named = {name for grant in grants for name in grant.handlers} - {"*"} - BUILT_IN
    told = {
        entry.name
        for live in gateway.presence
        for entry in gateway.catalogues.get(live.hello.catalogue) or ()
    }
    return sorted(named - told)


#: The handlers that agents bring.
BUILT_IN = frozenset({"exec", "facts", "files", "forward", "reboot", "sftp", "shell", "tail"})


@verb("gateway.roles.remove", RemoveRoleRequest, changes=True)
async def remove_role(gateway: Gateway, asker: Asker, request: RemoveRoleRequest) -> Any:
    """Remove a role that nobody has, or take it from everybody."""
    if request.name == ADMIN:
        raise BadRequest(f"the role {ADMIN} is built in and stays")
    had = await gateway.rights.remove_role(request.name, force=request.force)
    return {"removed": request.name, "operators": had}


@verb("gateway.roles.assign", AssignRequest, changes=True)
async def assign(gateway: Gateway, asker: Asker, request: AssignRequest) -> Any:
    """Give an operator roles, or take them away: that holds at once."""
    if both := set(request.add) & set(request.remove):
        raise BadRequest(f"{printable(min(both), 64)} is both given and taken away")
    operator = await gateway.rights.assign(request.operator, request.add, request.remove)
    return {"name": operator.name, "roles": list(operator.roles)}


@verb("gateway.roles.check", CheckRequest, open_to_all=True)
async def check(gateway: Gateway, asker: Asker, request: CheckRequest) -> Any:
    """Tell whether an operator may do something, by which grant, or what is missing."""
    rights = gateway.rights
    operator: Operator | None = asker.operator
    if request.operator != asker.name:
        if not rights.is_admin(asker.operator):
            raise OpenRefused(
                ErrorCode.POLICY, f"only an administrator asks for others than {asker.name}"
            )
        operator = await gateway.store.operator(request.operator)
    if operator is None:
        raise OpenRefused(
            ErrorCode.NOT_FOUND,
            f"there is no operator {printable(request.operator, 64)!r} (see: rshell operators)",
        )
    device = await rights.device(asker.operator, request.device)
    asked = _forward_request(request)
    answer = rights.decide(operator, device, request.handler, request.login, asked)
    views = rights.explain(operator, device, request.handler, request.login, asked)
    return {
        "operator": operator.name,
        "roles": list(rights.current(operator).roles),
        "device": device.name,
        "handler": request.handler,
        "login": request.login,
        "allowed": answer.allowed,
        "reason": answer.reason,
        "rule": answer.rule,
        "grants": [
            {"rule": view.rule, "grant": view.grant, "missing": list(view.missing)}
            for view in views
        ],
        "terms": None if not answer else _terms(gateway, operator, device, request, asked),
        "watch_rule": rights.may_watch(operator, device),
    }


def _terms(
    gateway: Gateway,
    operator: Operator,
    device: Device,
    request: CheckRequest,
    asked: dict[str, Any] | None,
) -> dict[str, Any]:
    terms = gateway.rights.terms(operator, device, request.handler, request.login, asked)
    recorded, rule = terms.recording(gateway.recordings.policy.mode)
    return {
        "idle_limit": terms.idle_seconds,
        "time_limit": terms.time_seconds,
        "recorded": recorded,
        "idle_rule": terms.idle_rule,
        "time_rule": terms.time_rule,
        "record_rule": rule,
    }


def _forward_request(request: CheckRequest) -> dict[str, Any] | None:
    if request.target is None:
        return None
    if request.handler != FORWARD:
        raise BadRequest(f"a target goes with the handler {FORWARD}")
    target = request.target
    if target.startswith("unix:"):
        return {"path": target[5:]}
    host, _, port = target.rpartition(":")
    try:
        place_of(host, int(port), None)
    except (BadRule, ValueError):
        text = "a target is host:port, [IPv6]:port or unix:/path"
        raise BadRequest(f"{text}, not {printable(target, 80)!r}") from None
    return {"host": host, "port": int(port)}


@verb("gateway.operators", OperatorsRequest)
async def operators(gateway: Gateway, asker: Asker, request: OperatorsRequest) -> Any:
    """List operators, their roles, and when they were last seen."""
    seen = await gateway.store.operators_seen()
    return [
        {
            "name": one.name,
            "status": one.status,
            "roles": list(one.roles),
            "admin": gateway.rights.is_admin(one),
            "links": gateway.revocation.links_of(one.name),
            "last_seen": rfc3339(seen[one.name]) if one.name in seen else None,
            "created_at": rfc3339(one.created_at),
        }
        for one in await gateway.store.operators()
    ]
