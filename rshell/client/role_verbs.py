"""Roles and operators, as methods: a part of `rshell.client.verbs.GatewayVerbs`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rshell.client.records import Grant, OperatorInfo, Role, RoleCheck

__all__ = ["RoleVerbs"]


class RoleVerbs:
    """Asks a gateway about roles; all but `check_role` of oneself need an administrator."""

    @abstractmethod
    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        """Ask the gateway: `GatewayVerbs` does."""

    async def roles(self, name: str | None = None) -> list[Role]:
        """Return all roles, or the one of that name.

        Raises:
            Refused: There is none of that name, or the role forbids it.
        """
        found: list[Role] = await self._ask("roles.list", list[Role], {"name": name})
        return found

    async def set_role(self, name: str, grants: Sequence[Grant], *, add: bool = False) -> Role:
        """Make a role, or change what one grants; that holds at once, for open sessions too.

        Args:
            name: Of the role.
            grants: In place of those that it has.
            add: Besides those that it has.

        Raises:
            Refused: A grant is wrong (code ``bad-request``), or the role forbids it.
        """
        request = {"name": name, "grants": msgspec.to_builtins(list(grants)), "add": add}
        made: Role = await self._ask("roles.set", Role, request)
        return made

    async def remove_role(self, name: str, *, force: bool = False) -> list[str]:
        """Remove a role, and return the operators who had it.

        Args:
            name: Of the role.
            force: Also if operators have it: it is taken from them, and invites are void.

        Raises:
            Refused: There is none, it is in use (code ``in-use``), or the role forbids it.
        """
        answer: dict[str, Any] = await self._ask(
            "roles.remove", dict[str, Any], {"name": name, "force": force}
        )
        return [str(one) for one in answer.get("operators", ())]

    async def assign_roles(
        self, operator: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> list[str]:
        """Give an operator roles, take others away, and return those of now.

        Raises:
            Refused: There is no such operator or role, or the role forbids it.
        """
        request = {"operator": operator, "add": list(add), "remove": list(remove)}
        answer: dict[str, Any] = await self._ask("roles.assign", dict[str, Any], request)
        return [str(one) for one in answer.get("roles", ())]

    async def check_role(
        self,
        operator: str,
        device: str,
        handler: str,
        *,
        login: str | None = None,
        target: str | None = None,
    ) -> RoleCheck:
        """Return whether an operator may do something, and why (not).

        Args:
            operator: Name.
            device: Name or id.
            handler: Name.
            login: The account on the device; None for its default.
            target: Of ``forward``: ``host:port`` or ``unix:/path``.

        Raises:
            Refused: There is no such operator or device, or the role forbids asking.
        """
        request = {
            "operator": operator,
            "device": device,
            "handler": handler,
            "login": login,
            "target": target,
        }
        answer: RoleCheck = await self._ask("roles.check", RoleCheck, request)
        return answer

    async def operators(self) -> list[OperatorInfo]:
        """Return all operators, revoked ones too.

        Raises:
            Refused: The role forbids it.
        """
        found: list[OperatorInfo] = await self._ask("operators", list[OperatorInfo], {})
        return found
