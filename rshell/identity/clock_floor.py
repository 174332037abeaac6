"""The newest time a machine has reason to believe.

Many small devices start in 1970. The floor is the newest of: when this software was built, the
last time a gateway told us (kept on disk), and the begin of our own certificate. A system clock
below the floor is wrong for certain, and is called untrusted; then certificates are judged at
the floor, and "not yet valid" is forgiven, never anything but time.

This never sets the system clock, and no gateway uses a device's time for a decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.logger import Logger

from rshell.identity.files import write_atomic

__all__ = ["BUILD_TIME", "ClockFloor"]

# Raised with each release; no machine can run this code before it.
BUILD_TIME = datetime(2026, 11, 1, tzinfo=UTC)

# Flash wears out, and an hour of certificate life more or less decides nothing.
_SAVE_EVERY_SECONDS = 3600.0
_FILE = "clock"


class ClockFloor:
    """The clock against which a device or operator judges certificates."""

    _log = Logger()

    def __init__(
        self,
        home: Path | None,
        build_time: datetime = BUILD_TIME,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start from the build time and what an earlier run stored.

        Args:
            home: an existing private directory for the file ``clock``; None keeps nothing.
            build_time: when this software was built, aware.
            wall: the system clock, seconds since 1970.
            monotonic: a clock that never jumps, seconds.
        """
        self._path = None if home is None else home / _FILE
        self._wall = wall
        self._monotonic = monotonic
        self._stored = self._read_stored()
        self._floor = max(build_time, self._stored)
        self._saved_at: float | None = None
        # (time told by a gateway, our monotonic clock at that moment)
        self._anchor: tuple[datetime, float] | None = None

    @property
    def floor(self) -> datetime:
        """The time before which it cannot be, aware."""
        return self._floor

    @property
    def trusted(self) -> bool:
        """Whether the system clock is at or after the floor."""
        return self._system() >= self._floor

    def effective_now(self) -> datetime:
        """Return the time to judge certificates at: the system's, but never below the floor."""
        return max(self._system(), self._floor)

    def logical_now(self) -> datetime:
        """Return the best guess at the true time, for logs, expiry and renewal.

        Once a gateway told the time, this runs on from there on the monotonic clock, whatever
        becomes of the system clock; before, it is `effective_now`.
        """
        if self._anchor is None:
            return self.effective_now()
        told, at = self._anchor
        return told + timedelta(seconds=self._monotonic() - at)

    def at_least(self, moment: datetime) -> None:
        """Raise the floor, in memory only: for the begin of our own certificate."""
        self._floor = max(self._floor, moment)

    def learn(self, server_time: datetime, not_after: datetime | None = None) -> None:
        """Take in the time an authenticated gateway told; call it for each WELCOME.

        Raises the floor, never lowers it, and stores it at most once an hour.

        Args:
            server_time: what it told, aware.
            not_after: the end of the gateway's own certificate. A time beyond it is not
                believed: a gateway whose clock is decades ahead would otherwise lock its
                devices out for good.
        """
        if not_after is not None and server_time > not_after:
            self._log.warn(
                "the gateway's clock says {told}, after the end of its own certificate; ignored",
                told=server_time.isoformat(),
            )
            return
        self._anchor = (server_time, self._monotonic())
        self._floor = max(self._floor, server_time)
        now = self._monotonic()
        if self._saved_at is None or now - self._saved_at >= _SAVE_EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Store the newest time known from a gateway; call it at shutdown.

        A failure is logged and otherwise ignored: a full disk must not stop the agent.
        """
        if self._anchor is None or self._path is None:
            return
        self._floor = max(self._floor, self.logical_now())
        self._saved_at = self._monotonic()
        if self._floor <= self._stored:
            return
        try:
            write_atomic(self._path, b"%d\n" % int(self._floor.timestamp()))
        except OSError as error:
            self._log.warn("the last known time could not be stored: {error}", error=error)
            return
        self._stored = self._floor

    def _system(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _read_stored(self) -> datetime:
        never = datetime.fromtimestamp(0, UTC)
        if self._path is None:
            return never
        try:
            return datetime.fromtimestamp(int(self._path.read_bytes()[:32]), UTC)
        except FileNotFoundError:
            return never
        except (OSError, ValueError, OverflowError) as error:
            self._log.warn("the stored time cannot be used: {error}", error=error)
            return never
