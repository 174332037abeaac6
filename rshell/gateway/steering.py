"""How many devices may come back at once, and telling the live ones before it happens.

A gateway that dies says nothing any more.  So every link was told, in WELCOME or since, over how
long to spread its return (rules C6, L4); this keeps that number true as the fleet grows.

The first listing after a crash must also know who was there: `Fleet` writes the last proof of life
of every live device to the store now and then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.gateway.presence import LiveDevice
from rshell.link.clock import WheelTimer
from rshell.link.core.messages import Advice
from rshell.store.devices import Heard

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Fleet"]

#: Devices that were heard within a day are expected back.
EXPECTED_WITHIN_US = 24 * 3600 * 1_000_000
EXPECTED_EVERY_SECONDS = 60.0
#: What a crash forgets of "last seen"; one batch of small writes.
HEARD_EVERY_SECONDS = 600.0
HEARD_A_WRITE = 500
ADVISE_EVERY_SECONDS = 5.0
#: 300 links a second: ten thousand writes in one turn would be a lag of their own.
PACE_SECONDS = 0.25
LINKS_A_STEP = 75
#: Below this a dialler's own jitter spreads enough (rule C6).
LEAST_SPREAD_MS = 1_000


class Fleet:
    """The fleet's size, kept up to date in the store's and the devices' minds.

    Args:
        gateway: Whose presence, store and admission count.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._expected = 0
        self._to_tell: deque[LiveDevice] = deque()
        self._to_write: deque[LiveDevice] = deque()
        self._timers: dict[str, WheelTimer] = {}

    def size(self) -> int:
        """Return how many devices may come back at once."""
        return max(self._expected, len(self._gateway.presence))

    async def start(self) -> None:
        """Learn how many devices to expect, and begin to keep that true."""
        await self._count()
        self._again("count", EXPECTED_EVERY_SECONDS, self._recount)
        self._again("advise", ADVISE_EVERY_SECONDS, self._advise)
        self._again("heard", HEARD_EVERY_SECONDS, self._remember)

    def stop(self) -> None:
        """Leave no timer behind."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _again(self, what: str, delay_seconds: float, call: Callable[[], None]) -> None:
        self._timers[what] = self._gateway.wheel.call_later(delay_seconds, call)

    # -- how many ------------------------------------------------------------------------------

    def _recount(self) -> None:
        self._again("count", EXPECTED_EVERY_SECONDS, self._recount)
        self._quietly(Deferred.fromCoroutine(self._count()))

    async def _count(self) -> None:
        since = self._gateway.now_us() - EXPECTED_WITHIN_US
        self._expected = await self._gateway.store.count_seen_since(since)

    def _quietly(self, done: Deferred[None]) -> None:
        done.addErrback(
            lambda failure: self._log.warn(
                "the store failed: {reason}", reason=failure.getErrorMessage()
            )
        )

    # -- telling (rule L4) ---------------------------------------------------------------------

    def _advise(self) -> None:
        self._again("advise", ADVISE_EVERY_SECONDS, self._advise)
        spread = self._gateway.admission.spread_ms()
        if spread < LEAST_SPREAD_MS or self._to_tell:
            return
        # Outgrown by half or more.
        self._to_tell.extend(
            live for live in self._gateway.presence if live.told_ms * 3 <= spread * 2
        )
        self._tell()

    def _tell(self) -> None:
        spread = self._gateway.admission.spread_ms()
        for _ in range(min(LINKS_A_STEP, len(self._to_tell))):
            live = self._to_tell.popleft()
            if not live.link.closed:
                live.told_ms = spread
                live.link.advise(Advice(retry_spread_ms=spread))
                self._gateway.metrics.advices.inc()
        if self._to_tell:
            self._again("tell", PACE_SECONDS, self._tell)

    # -- remembering ---------------------------------------------------------------------------

    def _remember(self) -> None:
        self._again("heard", HEARD_EVERY_SECONDS, self._remember)
        if not self._to_write:
            self._to_write.extend(self._gateway.presence)
            self._write()

    def _write(self) -> None:
        now, now_us = self._gateway.wheel.seconds(), self._gateway.now_us()
        batch = [
            Heard(live.device.id, live.epoch, now_us - int(live.silent(now) * 1_000_000))
            for live in (
                self._to_write.popleft() for _ in range(min(HEARD_A_WRITE, len(self._to_write)))
            )
            if not live.link.closed
        ]
        if batch:
            self._quietly(self._gateway.store.record_heard(batch))
        if self._to_write:
            self._again("write", PACE_SECONDS, self._write)
