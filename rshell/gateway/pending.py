"""Devices that asked to join and wait: how often they ask, how many they are, when they expire.

The rows are in the store, so they survive this process.  Deciding about them is the operators'
part: `rshell.gateway.pending_services`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.gateway.metrics import Metrics
from rshell.identity.keys import fingerprint
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.store.errors import StoreError
from rshell.store.pending_records import PendingDevice
from rshell.store.store import Store

__all__ = ["Pending", "poll_seconds"]

#: While somebody may sit beside the device and wait.
MIN_POLL_SECONDS = 10.0
#: What a forgotten device costs: one handshake in ten minutes.
MAX_POLL_SECONDS = 600.0
#: A device that has waited for an hour asks every six minutes.
AGE_SHARE = 10
#: Devices that wait ask so often, all together, at most: a small part of the usual admission rate.
POLLS_A_SECOND = 50
#: How late an expiry may be noticed; it is days that are counted.
SWEEP_SECONDS = 600.0


def poll_seconds(age_seconds: float, count: int) -> float:
    """Return how long a device that waits is asked to stay away.

    Args:
        age_seconds: since it asked first.
        count: how many wait.
    """
    least = max(MIN_POLL_SECONDS, count / POLLS_A_SECOND)
    return max(least, min(MAX_POLL_SECONDS, age_seconds / AGE_SHARE))


class Pending:
    """Watches over the devices that wait.

    Args:
        store: Where they are.
        wheel: The process's timers.
        metrics: What is counted.

    Attributes:
        count: How many wait, as of the last change.
    """

    _log = Logger()

    def __init__(self, store: Store, wheel: TimerWheel, metrics: Metrics) -> None:
        self._store = store
        self._wheel = wheel
        self._metrics = metrics
        self._timer: WheelTimer | None = None
        self._stopped = False
        self.count = 0

    async def start(self) -> None:
        """Forget what expired while no gateway ran, and look again from time to time."""
        await self.sweep()
        self._arm()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def refresh(self) -> None:
        """Count anew, after an operator decided."""
        self.count = await self._store.count_pending()

    def _arm(self) -> None:
        if not self._stopped:
            self._timer = self._wheel.call_later(SWEEP_SECONDS, self._due)

    def _due(self) -> None:
        sweeping = Deferred.fromCoroutine(self.sweep())
        sweeping.addErrback(self._failed)
        sweeping.addBoth(lambda _: self._arm())

    def _failed(self, failure: Failure) -> None:
        if failure.check(StoreError):  # a full disk: tried again at the next turn
            self._log.error("devices cannot expire: {why}", why=failure.getErrorMessage())
        else:
            self._log.failure("devices cannot expire", failure)

    async def sweep(self) -> None:
        gone = await self._store.expire_pending()
        if gone:
            self._metrics.joins.labels("expired").inc(len(gone))
            # At once: they share a few commits, of which a thousand would take seconds.
            rows = [self._store.append_audit(_expired(one)) for one in gone]
            try:
                await gatherResults(rows, consumeErrors=True)
            except FirstError as error:
                error.subFailure.raiseException()
            self._log.info("{count} devices wait no more to be accepted", count=len(gone))
        await self.refresh()


def _expired(device: PendingDevice) -> AuditRecord:
    return AuditRecord(
        kind="join.expired",
        address=device.address,
        details={
            "invite": device.token_id.hex(),
            "fingerprint": fingerprint(device.spki),
            "name": device.name,
        },
    )
