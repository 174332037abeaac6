"""Parking: attempts of sessions whose device is away wait here for its next link (rule R10).

A place costs a few kilobytes of this process and nothing on disk.  It ends when the device comes,
when the attempt is ended by whoever may (its operator, a higher attempt, a revocation), or with
the grace.
"""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred

from rshell.gateway.callers import OpenRefused
from rshell.gateway.live_sessions import LiveSession
from rshell.link.clock import TimerWheel
from rshell.link.core.errors import ErrorCode

__all__ = ["GRACE_SECONDS", "Parking"]

#: Rule R7: operators' ends give up after as long.
GRACE_SECONDS = 60.0
#: What one operator's link may have open: a command on many devices, when the gateway restarts.
MAX_PER_OPERATOR = 8_192
#: Of all operators; about 5 KB each, so 100 MB.
MAX_PARKED = 20_000


class Parking:
    """Holds attempts until their devices come.

    Args:
        wheel: The process's timers.
        in_all: Places.
        per_operator: Places that one operator may take.
    """

    def __init__(
        self,
        wheel: TimerWheel,
        in_all: int = MAX_PARKED,
        per_operator: int = MAX_PER_OPERATOR,
    ) -> None:
        self._wheel = wheel
        self._in_all = in_all
        self._per_operator = per_operator
        self._places: dict[LiveSession, Deferred[None]] = {}
        self._by_device: dict[str, dict[LiveSession, None]] = {}
        self._by_operator: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    async def wait(self, session: LiveSession, until: float) -> None:
        """Return when the device came, the attempt was ended, or it is ``until``.

        Args:
            session: Not joined yet.
            until: Seconds of the wheel's clock.

        Raises:
            OpenRefused: All places are taken.
        """
        operator = session.caller.operator.name
        if len(self._places) >= self._in_all or self._by_operator[operator] >= self._per_operator:
            raise OpenRefused(
                ErrorCode.OVERLOAD, "too many sessions wait for absent devices: try again later"
            )
        woken: Deferred[None] = Deferred()
        self._places[session] = woken
        self._by_device.setdefault(session.device.id, {})[session] = None
        self._by_operator[operator] += 1
        session.woken = lambda: self._wake(session)
        timer = self._wheel.call_later(until - self._wheel.seconds(), session.woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._leave(session, operator)

    def device_came(self, device_id: str) -> None:
        """Let those go on that wait for this device."""
        for session in list(self._by_device.get(device_id, ())):
            self._wake(session)

    def _wake(self, session: LiveSession) -> None:
        woken = self._places.get(session)
        if woken is not None and not woken.called:
            woken.callback(None)

    def _leave(self, session: LiveSession, operator: str) -> None:
        del self._places[session]
        same = self._by_device[session.device.id]
        del same[session]
        if not same:
            del self._by_device[session.device.id]
        self._by_operator[operator] -= 1
        if not self._by_operator[operator]:
            del self._by_operator[operator]
