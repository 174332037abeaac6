"""Absences: the one line by which the gate says that a device is away, whatever door asked.

When it was seen last, for how long it has been away and why (in the words of `gateway.why`), and
whether it checks in.  What it is not: the time line of ``rshell why``, which is `why_services`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred

from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.parking import GRACE_SECONDS
from rshell.gateway.why_services import absence
from rshell.store.errors import StoreError
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["ABSENCE_SECONDS", "Absences", "offline_text"]

#: Whoever calls a device that is away has an answer within a second, though the store is slow.
ABSENCE_SECONDS = 0.8
#: Looked up at once: of a fleet that is away as a whole, the rest is told without the reason
#: rather than that thousands of look-ups keep the store from its other readers.
MAX_LOOKING = 64
#: What REFUSED holds (docs/protocol.md section 3).
MAX_TEXT = 256
#: A reason that is cut to less says nothing.
MIN_REASON = 16
#: Devices hold a link as long as they can; none comes by the clock.
CHECKS_IN = "it does not check in, it dials by itself"


def offline_text(device: Device, *, was_live: bool, parked: bool) -> str:
    """Say that a device is away, by what is known without asking anybody.

    Args:
        device: As the store had it a moment ago.
        was_live: Whether it had a link then.
        parked: Whether the session waited for it.
    """
    if parked:
        return f"{device.name} is offline: it did not come back within {GRACE_SECONDS:.0f} s"
    if was_live:
        return f"{device.name} is offline: it disconnected just now"
    if device.last_seen is None:
        return f"{device.name} is offline: it has never connected"
    seen = datetime.fromtimestamp(device.last_seen / 1_000_000, UTC)
    return f"{device.name} is offline: last seen {seen:%Y-%m-%d %H:%M:%S} UTC"


class Absences:
    """Finds out why devices are away, for those who called them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._looking = 0

    async def explain(self, operator: Operator, device: Device, text: str) -> str:
        """Return a line with the reason behind it, or without if that cannot be had in time.

        Args:
            operator: Who asked; what is not theirs to see is not told.
            device: Which.
            text: Of `offline_text`.
        """
        if self._looking >= MAX_LOOKING:
            return text
        self._looking += 1
        looking = Deferred.fromCoroutine(absence(self._gateway, operator, device.id))
        timer = self._gateway.wheel.call_later(ABSENCE_SECONDS, looking.cancel)
        try:
            found = await looking
        except (CancelledError, OpenRefused, StoreError):
            return text
        finally:
            timer.cancel()
            self._looking -= 1
        return text if found is None else _joined(text, *found)


def _joined(text: str, away: str, reason: str) -> str:
    """Join what fits into a REFUSED; the reason is cut, which may be a device's own words."""
    room = MAX_TEXT - len("; ".join(filter(None, (text, away, "", CHECKS_IN)))) - len("; ")
    if reason:
        reason = printable(reason, room) if room >= MIN_REASON else ""
    return "; ".join(filter(None, (text, away, reason, CHECKS_IN)))[:MAX_TEXT]
