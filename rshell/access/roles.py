"""May this operator do that?  One book of roles that every door's every request is judged by.

Default deny: the grants of an operator's roles add up, and nothing else is granted.  The role
``admin`` is built in and grants everything.  The device's own policy comes on top.

Pure: no store, no clock; ``rshell.gateway.rights`` keeps the book up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from rshell.access.grants import BACK, FORWARD, CompiledGrant, forward_option, grant_words
from rshell.access.terms import SessionTerms, terms_of
from rshell.store.records import Device, Grant, Operator, Role

__all__ = ["ADMIN", "CONSOLE", "Decision", "GrantView", "RoleBook"]

ADMIN = "admin"
#: What the console is asked for by, in a handler's place.
CONSOLE = "console"


@attrs.frozen
class Decision:
    """The answer, with the reason an operator is shown and the audit keeps.

    Attributes:
        rule: what granted it, ``admin`` or ``ROLE/NUMBER``; None if nothing did.
        seen: whether the operator may know of the device; else it does not exist for them.
    """

    allowed: bool
    reason: str
    rule: str | None = None
    seen: bool = True

    def __bool__(self) -> bool:
        return self.allowed


@attrs.frozen
class GrantView:
    """One grant as an explanation shows it.

    Attributes:
        rule: ``ROLE/NUMBER``.
        grant: in words.
        missing: what keeps it from granting what was asked; nothing if it does.
    """

    rule: str
    grant: str
    missing: tuple[str, ...]


@attrs.frozen
class _Compiled:
    grants: tuple[CompiledGrant, ...]
    admin: str | None
    console: str | None
    #: The grants that are everything: they too say something of sessions' terms.
    everything: tuple[tuple[str, Grant], ...]
    #: Of its time limits, in seconds; 0 if it has none.
    shortest: int

    @classmethod
    def new(cls, role: Role) -> _Compiled:
        rules = [(f"{role.name}/{number}", one) for number, one in enumerate(role.grants, 1)]
        console = next((rule for rule, one in rules if one.console), None)
        admin = next((rule for rule, one in rules if one.admin), None)
        usual = [CompiledGrant.new(r, one) for r, one in rules if not (one.admin or one.console)]
        # Whoever has the console has Python in the gateway, and so everything.
        everything = tuple((rule, one) for rule, one in rules if one.admin or one.console)
        shortest = min((one.time_limit for _, one in rules if one.time_limit), default=0)
        return cls(tuple(usual), admin or console, console, everything, shortest)


class RoleBook:
    """All roles, compiled once for each change.

    Args:
        roles: But the built-in one.
    """

    def __init__(self, roles: Iterable[Role] = ()) -> None:
        self._roles = {role.name: _Compiled.new(role) for role in roles}

    def changed(self, name: str, role: Role | None) -> RoleBook:
        """Return the book with another role of that name, or without it; the rest is shared."""
        book = RoleBook()
        book._roles = {kept: one for kept, one in self._roles.items() if kept != name}
        if role is not None:
            book._roles[name] = _Compiled.new(role)
        return book

    def __contains__(self, name: str) -> bool:
        return name == ADMIN or name in self._roles

    def decide(
        self,
        operator: Operator,
        device: Device | None,
        handler: str,
        login: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Decide whether *operator* may use *handler* on *device*.

        Args:
            operator: as the store has it now, not as it was when the link began.
            device: None for what concerns no single device (``gateway.invite``, ``console``).
            handler: a handler's name, or the verb where there is no handler.
            login: the login asked for on the device; None for its default.
            request: what is asked of the handler; None asks about the handler as such.
        """
        if not operator.active:
            return Decision(False, f"operator {operator.name} is revoked", seen=False)
        everything = self._everything(operator, handler)
        if device is not None and not device.active:
            # Who may see all devices is told; to others it is not there.
            seen = everything is not None
            return Decision(False, f"device {device.name} is revoked", seen=seen)
        if everything is not None:
            return Decision(True, f"role {everything}", everything)
        if device is not None:
            for grant in self._grants(operator):
                if grant.admits(device, handler, login, request):
                    return Decision(True, f"role {grant.rule}", grant.rule)
        return self._denied(operator, device, handler, login, request)

    def admin_rule(self, operator: Operator) -> str | None:
        """Return the rule that grants an operator everything, or None."""
        return self._everything(operator, "") if operator.active else None

    @property
    def shortest_time_limit(self) -> int:
        """The shortest time limit of any role, in seconds; 0 if none has one."""
        return min(filter(None, (role.shortest for role in self._roles.values())), default=0)

    def is_admin(self, operator: Operator) -> bool:
        """Whether the operator may everything but, perhaps, use the console."""
        return operator.active and self._everything(operator, "") is not None

    def grants_admin(self, name: str) -> bool:
        """Whether a role makes an administrator."""
        role = self._roles.get(name)
        return name == ADMIN or (role is not None and role.admin is not None)

    def may_watch(self, operator: Operator, device: Device) -> str | None:
        """Return the rule by which an operator looks on at others' sessions there, or None."""
        if not operator.active or not device.active:
            return None
        if (everything := self._everything(operator, "")) is not None:
            return everything
        for grant in self._grants(operator):
            if grant.grant.watch and grant.covers(device):
                return grant.rule
        return None

    def may_watch_any(self, operator: Operator) -> bool:
        """Whether there may be sessions of others that an operator looks on at."""
        if not operator.active:
            return False
        if self._everything(operator, "") is not None:
            return True
        return any(grant.grant.watch for grant in self._grants(operator))

    def terms(
        self,
        operator: Operator,
        device: Device | None,
        handler: str,
        login: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> SessionTerms:
        """Return what holds for a session that `decide` grants: every grant of it has a say.

        Without a device it is the console.
        """
        granting: list[tuple[str, Grant]] = []
        for name in operator.roles:
            if name == ADMIN:
                granting.append((ADMIN, Grant(admin=True)))
            elif (role := self._roles.get(name)) is not None:
                granting += [
                    (rule, grant) for rule, grant in role.everything if device or grant.console
                ]
                granting += [
                    (one.rule, one.grant)
                    for one in role.grants
                    if device is not None and one.admits(device, handler, login, request)
                ]
        return terms_of(granting)

    def sees(self, operator: Operator, device: Device) -> bool:
        """Whether a device exists for an operator: a role grants something on it."""
        if not operator.active:
            return False
        if self._everything(operator, "") is not None:
            return True
        return any(grant.covers(device) for grant in self._grants(operator))

    def explain(
        self,
        operator: Operator,
        device: Device,
        handler: str,
        login: str | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> list[GrantView]:
        """Return every grant of the operator, and what it lacks for this."""
        return [
            GrantView(
                one.rule,
                grant_words(one.grant),
                tuple(one.missing(device, handler, login, request)),
            )
            for one in self._grants(operator)
        ]

    def _grants(self, operator: Operator) -> Iterator[CompiledGrant]:
        for name in operator.roles:
            role = self._roles.get(name)
            if role is not None:
                yield from role.grants

    def _everything(self, operator: Operator, handler: str) -> str | None:
        """Return the rule that grants everything, or None."""
        for name in operator.roles:
            if name == ADMIN:
                return ADMIN
            role = self._roles.get(name)
            if role is not None and (rule := role.console if handler == CONSOLE else role.admin):
                return rule
        return None

    def _denied(
        self,
        operator: Operator,
        device: Device | None,
        handler: str,
        login: str | None,
        request: Mapping[str, Any] | None,
    ) -> Decision:
        if not operator.roles:
            return Decision(False, f"operator {operator.name} has no role", seen=device is None)
        several = len(operator.roles) > 1
        roles = f"role{'s' * several} {', '.join(operator.roles)} grant{'s' * (not several)}"
        who = f" as {login}" if login is not None else ""
        if device is None:
            return Decision(False, f"{roles} no {handler} on the fleet")
        nearly = [
            one for one in self._grants(operator) if one.covers(device) and one.names(handler)
        ]
        what = f"no {handler} on {device.name}{who}"
        option = forward_option(request) if handler == FORWARD else ""
        if any(one.admits_login(handler, login) for one in nearly):
            there = "listening there" if option.startswith(BACK) else f"{handler} to that target"
            what = f"no {there} on {device.name}"
        elif nearly and login is None:
            logins = dict.fromkeys(name for one in nearly for name in one.grant.logins)
            what = f"{handler} on {device.name} only with --as {' or '.join(logins)}"
        if option:
            what += f"; it takes: rshell roles set ... {option}"
        return Decision(False, f"{roles} {what}", seen=self.sees(operator, device))
