"""Ends what is no longer allowed: live links and sessions, within a second, and for good.

The row in the store is what counts and survives restarts; this also remembers what this process
revoked, so that a peer whose row was read just before cannot slip in just after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway
from rshell.link.protocol import LinkProtocol
from rshell.store.records import OwnerKind

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Revocation"]


class Revocation:
    """Revokes devices and operators on one gateway."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._revoked: set[tuple[str, str]] = set()
        self._operators: dict[str, set[LinkProtocol]] = {}

    def is_revoked(self, kind: OwnerKind, owner: str) -> bool:
        """Whether this process revoked a device id or operator name."""
        return (kind, owner) in self._revoked

    def readmit(self, kind: OwnerKind, owner: str) -> None:
        """An operator's name was invited again."""
        self._revoked.discard((kind, owner))

    def operator_came(self, name: str, link: LinkProtocol) -> None:
        """Note an operator's link, to be ended with its operator."""
        self._operators.setdefault(name, set()).add(link)

    def operator_went(self, name: str, link: LinkProtocol) -> None:
        """Forget an operator's link."""
        links = self._operators.get(name, set())
        links.discard(link)
        if not links:
            self._operators.pop(name, None)

    async def revoke_device(self, name_or_id: str) -> tuple[str, int]:
        """Revoke a device and end its link and sessions.

        Returns:
            Its name, and how many links were closed.

        Raises:
            NotFound: There is no such device.
        """
        device = await self._gateway.store.revoke_device(name_or_id)
        self._revoked.add(("device", device.id))
        text = f"device {device.name} is revoked"
        self._gateway.switchboard.end_where(
            lambda session: session.device.id == device.id, ErrorCode.REVOKED, text
        )
        live = self._gateway.presence.find(device.id)
        if live is not None:
            self._close(live.link, text)
        self._log.info("{text}", text=text)
        return device.name, int(live is not None)

    async def revoke_operator(self, name: str) -> tuple[str, int]:
        """Revoke an operator and end their links and sessions, on the devices too."""
        operator = await self._gateway.store.revoke_operator(name)
        self._revoked.add(("operator", operator.name))
        text = f"operator {operator.name} is revoked"
        self._gateway.switchboard.end_where(
            lambda session: session.caller.operator.name == operator.name,
            ErrorCode.REVOKED,
            text,
        )
        links = self._operators.pop(operator.name, set())
        for link in links:
            self._close(link, text)
        self._log.info("{text}", text=text)
        return operator.name, len(links)

    @staticmethod
    def _close(link: LinkProtocol, text: str) -> None:
        link.go_away(
            GoAway(code=ErrorCode.REVOKED.value, message=text), close=True, reason="revoked"
        )
