"""Ends what is no longer allowed: live links and sessions, within a second, and for good.

The row in the store is what counts and survives restarts; this also remembers what this process
revoked, so that a peer whose row was read just before cannot slip in just after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.logger import Logger

from rshell.gateway.callers import OpenRefused
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway, Sessions
from rshell.store.records import OwnerKind

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["CertificateUse", "OperatorConnection", "Revocation"]

#: No session that nobody is attached to lives longer (rule R7).
LONGEST_SESSION_US = 24 * 3600 * 1_000_000
PAGE_ROWS = 10_000
#: Ids that fit one SESSIONS frame.
SESSIONS_A_FRAME = 500


class OperatorConnection(Protocol):
    """What an operator came in by: a link, or a connection of another door."""

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Tell the operator why, and end it."""


@attrs.frozen
class CertificateUse:
    """By which SSH certificate somebody came in.

    Attributes:
        ca: The fingerprint of the CA's key.
    """

    ca: str
    serial: int
    key_id: str


class Revocation:
    """Revokes devices and operators on one gateway."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._revoked: set[tuple[str, str]] = set()
        #: Of each operator, with the SSH key's fingerprint or the certificate if that is how they
        #: came in.
        self._operators: dict[str, dict[OperatorConnection, str | CertificateUse]] = {}

    def is_revoked(self, kind: OwnerKind, owner: str) -> bool:
        """Whether this process revoked a device id or operator name."""
        return (kind, owner) in self._revoked

    def readmit(self, kind: OwnerKind, owner: str) -> None:
        """An operator's name was invited again."""
        self._revoked.discard((kind, owner))

    def operator_came(
        self, name: str, link: OperatorConnection, key: str | CertificateUse = ""
    ) -> None:
        """Note an operator's link or connection, to be ended with its operator, or its SSH key."""
        self._operators.setdefault(name, {})[link] = key

    def operator_went(self, name: str, link: OperatorConnection) -> None:
        """Forget it."""
        links = self._operators.get(name, {})
        links.pop(link, None)
        if not links:
            self._operators.pop(name, None)

    def links_of(self, name: str) -> int:
        """Return how many links an operator has to this gateway."""
        return len(self._operators.get(name, ()))

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
        self._gateway.sessions.forget_device(device.id)
        closed = self._gateway.devices.close_all(device.id, ErrorCode.REVOKED, text)
        self._log.info("{text}", text=text)
        return device.name, closed

    async def revoke_operator(self, name: str) -> tuple[str, int]:
        """Revoke an operator and end their links and sessions, on the devices too.

        Returns:
            The name, and how many links were closed.

        Raises:
            NotFound: There is no such operator.
            OpenRefused: It is the last administrator.
        """
        # Two administrators who revoke each other must not both succeed.
        async with self._gateway.rights.changing():
            await self._keep_one_admin(name)
            return await self._revoke_operator(name)

    async def _keep_one_admin(self, name: str) -> None:
        admins = [
            operator.name
            for operator in await self._gateway.store.operators()
            if self._gateway.rights.is_admin(operator)
        ]
        if admins == [name]:
            raise OpenRefused(
                ErrorCode.POLICY, f"{name} is the last administrator: invite another one first"
            )

    async def _revoke_operator(self, name: str) -> tuple[str, int]:
        operator = await self._gateway.store.revoke_operator(name)
        self._revoked.add(("operator", operator.name))
        self._gateway.rights.forget(operator.name)
        text = f"operator {operator.name} is revoked"
        self._gateway.switchboard.end_where(
            lambda session: session.owner.name == operator.name, ErrorCode.REVOKED, text
        )
        for session in self._gateway.switchboard.sessions():
            if session.caller.operator.name == operator.name:
                session.part(ErrorCode.REVOKED.value, text)
        links = self._operators.pop(operator.name, {})
        for link in links:
            self._close(link, text)
        self._log.info("{text}", text=text)
        await self._end_detached(operator.name)
        return operator.name, len(links)

    def key_removed(self, name: str, fingerprint: str) -> int:
        """End the connections that came in by an SSH key; return how many."""
        ended = [link for link, key in self._operators.get(name, {}).items() if key == fingerprint]
        for link in ended:
            self._close(link, "this key was removed")
        return len(ended)

    def certificates_ended(self, matches: Callable[[CertificateUse], bool], text: str) -> int:
        """End the connections that came in by such SSH certificates; return how many."""
        ended = [
            link
            for links in self._operators.values()
            for link, key in links.items()
            if isinstance(key, CertificateUse) and matches(key)
        ]
        for link in ended:
            self._close(link, text)
        return len(ended)

    async def _end_detached(self, operator: str) -> None:
        """Tell the live devices to end sessions of an operator that nobody is attached to.

        First those that are known, at once; then whatever the log of a day tells of, because what
        is known is bounded.  Devices that are away are told when they list theirs (rule S2).
        """
        known: dict[str, set[bytes]] = {}
        for entry in self._gateway.sessions.entries():
            if entry.operator == operator:
                known.setdefault(entry.device_id, set()).add(entry.session)
        self._end_on_devices(known)
        since = self._gateway.now_us() - LONGEST_SESSION_US
        before: int | None = None
        told: set[bytes] = set().union(*known.values())
        while True:
            rows = await self._gateway.store.audit_rows(
                operator=operator, since=since, before=before, limit=PAGE_ROWS
            )
            by_device: dict[str, set[bytes]] = {}
            for row in rows:
                record = row.record
                # Joined as a viewer or administrator, it was not theirs.
                joined = "session_of" in record.details
                if record.opens and record.device and record.session and not joined:
                    session = bytes.fromhex(record.session)
                    # Somebody may have asked for a session that is another's, in vain.
                    owner = self._gateway.sessions.owner(record.device, session)
                    if session not in told and owner in (None, operator):
                        told.add(session)
                        by_device.setdefault(record.device, set()).add(session)
            self._end_on_devices(by_device)
            if len(rows) < PAGE_ROWS:
                break
            before = rows[-1].seq

    def _end_on_devices(self, by_device: dict[str, set[bytes]]) -> None:
        for device_id, sessions in by_device.items():
            live = self._gateway.presence.find(device_id)
            if live is None or live.link.closed:
                continue
            ids = sorted(sessions)
            for start in range(0, len(ids), SESSIONS_A_FRAME):
                # A device ignores what it does not have (any more).
                live.link.sessions(Sessions(end=ids[start : start + SESSIONS_A_FRAME]))
            for session in ids:
                self._gateway.sessions.forget(device_id, session)

    @staticmethod
    def _close(link: OperatorConnection, text: str) -> None:
        link.go_away(
            GoAway(code=ErrorCode.REVOKED.value, message=text), close=True, reason="revoked"
        )
