"""Who may join, as methods: a part of `rshell.client.verbs.GatewayVerbs`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rshell.client.errors import RshellError
from rshell.client.join_records import Decision, Invitation, Invite, PendingDevice
from rshell.identity.public_keys import NamedKey

__all__ = ["JoinVerbs"]

#: What a gateway takes in one request.
_KEYS_AT_ONCE = 100
_DEVICES_AT_ONCE = 100


class JoinVerbs:
    """Asks a gateway about invites and devices that wait; all need an administrator."""

    @abstractmethod
    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        """Ask the gateway: `GatewayVerbs` does."""

    async def invite_device(
        self,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_seconds: int = 3600,
        uses: int = 1,
        pattern: str | None = None,
        sources: Iterable[str] = (),
        public: bool = False,
        wait: bool | None = None,
    ) -> Invitation:
        """Make a join string for devices; it is a secret until it is used or expires.

        Args:
            name: What the device will be called; None lets it propose its host name.
            labels: What it will be labelled with.
            ttl_seconds: How long the string is good for.
            uses: How many devices may join by it.
            pattern: A glob that proposed names have to match, else they are provisional.
            sources: Ranges of addresses (CIDR) that it may be used from; none: any.
            public: The string holds no secret: devices may ask by it, and wait.
            wait: Whether devices wait until somebody accepts them; None: those of a string for
                several, with a pattern or ranges, and no name, or without a secret, do.

        Raises:
            Refused: The role forbids it, or a value is wrong.
        """
        request: dict[str, Any] = {
            "kind": "device",
            "name": name,
            "labels": dict(labels or {}),
            "ttl_s": ttl_seconds,
            "uses": uses,
        }
        more = {
            "pattern": pattern,
            "sources": list(sources) or None,
            "public": public or None,
            "wait": wait,
        }
        # An older gateway does not know these.
        request |= {key: value for key, value in more.items() if value is not None}
        invitation: Invitation = await self._ask("invite", Invitation, request)
        return invitation

    async def invite_keys(
        self,
        keys: Sequence[NamedKey],
        *,
        labels: Mapping[str, str] | None = None,
        ttl_seconds: int = 30 * 86_400,
        pattern: str | None = None,
        sources: Iterable[str] = (),
    ) -> Invitation:
        """Let devices join that have these keys, by a join string without a secret.

        All of them or none: what was begun is revoked if the gateway takes not all.

        Args:
            keys: As `rshell.identity.public_keys.read_public_keys` returns them; at least one.
            labels: What the devices will be labelled with.
            ttl_seconds: For how long.
            pattern: A glob that names of devices without one have to match.
            sources: Ranges of addresses that they may join from; none: any.

        Raises:
            Refused: The role forbids it, or a key or name is in use already.
        """
        parts = [keys[at : at + _KEYS_AT_ONCE] for at in range(0, len(keys), _KEYS_AT_ONCE)]
        request: dict[str, Any] = {
            "kind": "device",
            "labels": dict(labels or {}),
            "ttl_s": ttl_seconds,
            "keys": _told(parts[0]),
            "sources": list(sources),
            "pattern": pattern,
        }
        invitation: Invitation = await self._ask("invite", Invitation, request)
        try:
            for part in parts[1:]:
                more = {"invite": invitation.id, "keys": _told(part)}
                await self._ask("invite-keys", dict[str, Any], more)
        except RshellError:
            await self._ask("revoke", dict[str, Any], {"kind": "invite", "name": invitation.id})
            raise
        return msgspec.structs.replace(invitation, uses=len(keys))

    async def invite_operator(self, name: str, *roles: str, ttl_seconds: int = 3600) -> Invitation:
        """Make a join string for a new operator; it is a secret until it is used or expires.

        Raises:
            Refused: The role forbids it, or there is no such role.
        """
        request = {
            "kind": "operator",
            "name": name,
            "roles": list(roles),
            "ttl_s": ttl_seconds,
        }
        invitation: Invitation = await self._ask("invite", Invitation, request)
        return invitation

    async def invites(self, *, everything: bool = False) -> list[Invite]:
        """Return the invites that hold, newest first; with ``everything`` the others too.

        Raises:
            Refused: The role forbids it.
        """
        found: list[Invite] = await self._ask("invites", list[Invite], {"all": everything})
        return found

    async def invite(self, invite: str) -> Invite:
        """Return one invite, with the keys in it whose devices have not joined yet.

        Raises:
            Refused: There is none of that id, or the role forbids it.
        """
        found: list[Invite] = await self._ask("invites", list[Invite], {"invite": invite})
        return found[0]

    async def pending(self) -> list[PendingDevice]:
        """Return the devices that wait to be accepted, the newest last.

        Raises:
            Refused: The role forbids it.
        """
        found: list[PendingDevice] = await self._ask("pending", list[PendingDevice], {})
        return found

    async def accept(
        self,
        *devices: str,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[Decision]:
        """Let in devices that wait; each on its own.

        Args:
            devices: Fingerprints, or names; a name is only what the device says of itself.
            name: What the one device is called instead.
            labels: Set besides those of its invite.

        Returns:
            For each what became of it.

        Raises:
            Refused: The role forbids it, or a value is wrong.
        """
        request = {"name": name, "labels": dict(labels or {})}
        return await self._decide("accept", devices, request)

    async def reject(self, *devices: str) -> list[Decision]:
        """Refuse devices that wait, and their keys for a day; as `accept`.

        Raises:
            Refused: The role forbids it.
        """
        return await self._decide("reject", devices, {})

    async def _decide(
        self, verb: str, devices: Sequence[str], request: Mapping[str, Any]
    ) -> list[Decision]:
        decided: list[Decision] = []
        for at in range(0, max(1, len(devices)), _DEVICES_AT_ONCE):
            part = {"devices": list(devices[at : at + _DEVICES_AT_ONCE])}
            decided += await self._ask(verb, list[Decision], {**part, **request})
        return decided


def _told(keys: Sequence[NamedKey]) -> list[dict[str, Any]]:
    return [{"spki": key.spki, "name": key.name} for key in keys]
