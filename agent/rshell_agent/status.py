"""HOME/status.json: what the running agent tells `rshell-agent status`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Status", "StatusFile", "read_status", "stamp"]

_EVERY_SECONDS = 60.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One state of the agent; times are RFC 3339, UTC.

    Attributes:
        state: ``connected``, ``connecting``, ``waiting`` or ``stopped``; ``pending``: it has not
            joined yet, and asks to be let in.
        gateway: Address in hand, or None.
        since: Begin of this state.
        name: The device's name as the gateway last told it.
        epoch: Of the link; 0 without one.
        last_error: Why the last attempt or link ended.
        keeper: The keeper's ``pid`` and ``version``; empty when there is none.
        keeper_sessions: Sessions it held when it was last asked.
        policy_error: Why the policy denies everything, or None.
        plugin_problems: Plug-ins that cannot be used, a line each.
        certificate_end: End of the device's certificate.
        revoked_gateways: Number of the list of revoked gateways that it keeps; 0 without one.
        fingerprint: Of the key that it joins with, while it is ``pending``.
        pid: The agent's.
        updated_at: When this was written.
    """

    state: str
    gateway: str | None = None
    since: str = ""
    name: str = ""
    epoch: int = 0
    last_error: str = ""
    keeper: dict[str, Any] = msgspec.field(default_factory=dict)
    keeper_sessions: int = 0
    policy_error: str | None = None
    plugin_problems: list[str] = msgspec.field(default_factory=list)
    certificate_end: str = ""
    revoked_gateways: int = 0
    fingerprint: str = ""
    pid: int = 0
    updated_at: str = ""


def stamp(moment: datetime | None = None) -> str:
    """Return a time as RFC 3339 in UTC, to the second; now if none is given."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def read_status(home: Path) -> Status | None:
    """Return what the agent of a home last wrote; None if it never did.

    Raises:
        OSError: The file cannot be read.
        msgspec.DecodeError: It is damaged.
    """
    try:
        return msgspec.json.decode((home / "status.json").read_bytes(), type=Status)
    except FileNotFoundError:
        return None


class StatusFile:
    """Writes the status after changes and every minute.

    Args:
        home: Where.
        clock: For timers.
        gather: Returns the status as of now, without ``since``, ``pid`` and ``updated_at``.
    """

    _log = Logger()

    def __init__(self, home: Path, clock: IReactorTime, gather: Callable[[], Status]) -> None:
        self._home = home
        self._clock = clock
        self._gather = gather
        self._soon: IDelayedCall | None = None
        self._later: IDelayedCall | None = None
        self._shown: tuple[str, str | None, int] = ("", None, 0)
        self._since = ""
        self._failed = False

    def changed(self) -> None:
        """Write in the next turn of the reactor, once for many changes."""
        if self._soon is None or not self._soon.active():
            self._soon = self._clock.callLater(0, self.write)

    def write(self) -> None:
        """Write now."""
        self._cancel()
        status = self._gather()
        shown = (status.state, status.gateway, status.epoch)
        if shown != self._shown:
            self._shown, self._since = shown, stamp()
        status = msgspec.structs.replace(
            status, since=self._since, pid=os.getpid(), updated_at=stamp()
        )
        try:
            self._store(msgspec.json.encode(status))
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._log.warn("status.json cannot be written: {error}", error=error)
            self._failed = True
        self._later = self._clock.callLater(_EVERY_SECONDS, self.write)

    def close(self) -> None:
        """Write a last time, and stop."""
        self.write()
        self._cancel()

    def stop(self) -> None:
        """Write no more: somebody else does from now on."""
        self._cancel()

    def _store(self, data: bytes) -> None:
        # no fsync: after a power cut this file is worth nothing, and flash wears out
        temporary = self._home / ".status.json.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + b"\n")
        temporary.rename(self._home / "status.json")

    def _cancel(self) -> None:
        for timer in (self._soon, self._later):
            if timer is not None and timer.active():
                timer.cancel()
        self._soon = self._later = None
