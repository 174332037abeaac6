"""CAs of SSH certificates, as methods: a part of `rshell.client.verbs.GatewayVerbs`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

__all__ = ["RevokedSshCertificate", "SshCa", "SshCaVerbs"]


class RevokedSshCertificate(Struct, frozen=True, kw_only=True):
    """What a CA signed and lets nobody in any more, by ``serial`` (in decimal) or by key ``id``."""

    serial: str | None = None
    id: str | None = None
    revoked_at: str = ""


class SshCa(Struct, frozen=True, kw_only=True):
    """A key whose certificates let operators in at the SSH door; times are RFC 3339, UTC."""

    name: str
    fingerprint: str
    type: str = ""
    comment: str = ""
    added_at: str = ""
    last_used: str | None = None
    revoked: list[RevokedSshCertificate] = field(default_factory=list)


class SshCaVerbs:
    """Asks a gateway about CAs of SSH certificates; all of it needs an administrator."""

    @abstractmethod
    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        """Ask the gateway: `GatewayVerbs` does."""

    async def add_ssh_ca(self, name: str, key: str) -> SshCa:
        """Let in, at the SSH door, the operators whom certificates of a CA name.

        Args:
            name: What to call it.
            key: Its public key, as ``ssh-keygen`` wrote it to a ``.pub`` file.

        Raises:
            Refused: It is no key that is accepted, name or key is taken, or the role forbids it.
        """
        added: SshCa = await self._ask("keys.add-ca", SshCa, {"name": name, "key": key})
        return added

    async def ssh_cas(self) -> list[SshCa]:
        """Return all of them, each with what is revoked of it.

        Raises:
            Refused: The role forbids it.
        """
        found: list[SshCa] = await self._ask("keys.list-cas", list[SshCa], {})
        return found

    async def remove_ssh_ca(self, name: str) -> int:
        """Forget a CA; return how many connections that ended.

        What was revoked of it stays revoked, if its key is registered again.

        Raises:
            Refused: There is none, or the role forbids it.
        """
        return _closed(await self._ask("keys.remove-ca", dict[str, Any], {"name": name}))

    async def revoke_ssh_certificates(
        self, name: str, *, serial: int | None = None, id: str | None = None
    ) -> int:
        """Revoke a CA's certificates; return how many connections that ended.

        Args:
            name: The CA's.
            serial: Those with this serial number, 1 and more.
            id: Those with this key id; give one of both.

        Raises:
            Refused: There is no such CA, or the role forbids it.
        """
        request: dict[str, Any] = {"name": name}
        request |= {"id": id} if serial is None else {"serial": str(serial)}
        return _closed(await self._ask("keys.revoke", dict[str, Any], request))


def _closed(answer: dict[str, Any]) -> int:
    closed = answer.get("connections_closed", 0)
    return closed if isinstance(closed, int) else 0
