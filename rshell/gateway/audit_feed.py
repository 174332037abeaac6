"""AuditFeed: who waits for new rows of the audit log hears of them; and checkpoints are signed.

What it is not: it reads no rows.  Whoever is woken asks the store, by number, and so misses and
doubles nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit_key import AuditKey
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.store.errors import StoreError
from rshell.store.store import Store

__all__ = ["AuditFeed"]

#: Rows that a checkpoint covers at most, about: what somebody with the database could still
#: rewrite is never more.  A signature takes 0.1 ms, so even a storm of rows does not feel it.
EVERY_ROWS = 1_000
#: On a quiet day they wait so long for one.
EVERY_SECONDS = 3_600.0
#: The timer's step: a wheel keeps a cancelled timer until its time.
_STEP_SECONDS = 30.0


class AuditFeed:
    """Told of every commit of rows.

    Args:
        store: Open.
        key: Signs checkpoints.
        wheel: Timers.
    """

    _log = Logger()

    def __init__(self, store: Store, key: AuditKey, wheel: TimerWheel) -> None:
        self._store = store
        self._key = key
        self._wheel = wheel
        #: Called with the newest number after each commit.
        self.followers: list[Callable[[int], None]] = []
        self._waiting: dict[Deferred[None], WheelTimer] = {}
        self._newest = 0
        self._signed = 0
        self._signing = False
        self._timer: WheelTimer | None = None
        self._due_at = 0.0
        self._stopped = False
        store.watch_audit(self._appended)

    async def start(self) -> None:
        """Begin to count from what is there."""
        self._newest, _ = await self._store.audit_head()
        self._signed = self._newest

    async def stop(self) -> None:
        """Sign what is left, and let nobody wait any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        try:
            await self.sign()
        except StoreError as error:
            self._log.warn("the audit's last checkpoint is missing: {why}", why=str(error))

    def wait(self, seconds: float) -> Deferred[None]:
        """Return a Deferred that fires at the next commit of rows, or after so long."""
        waiting: Deferred[None] = Deferred()
        self._waiting[waiting] = self._wheel.call_later(seconds, lambda: self._over(waiting))
        return waiting

    async def sign(self) -> int | None:
        """Write a checkpoint; return its number, None if nothing is new.

        Raises:
            StoreError: It could not be written.
        """
        number = await self._store.checkpoint_audit(self._key.fingerprint, self._key.sign)
        self._signed = max(self._signed, self._newest, number or 0)
        return number

    def _appended(self, newest: int) -> None:
        self._newest = max(newest, self._newest)
        if self._newest - self._signed >= EVERY_ROWS:
            self._sign_soon()
        elif self._timer is None and not self._stopped:
            self._due_at = self._wheel.seconds() + EVERY_SECONDS
            self._arm()
        self._wake()
        for follower in list(self.followers):
            follower(self._newest)

    def _sign_soon(self) -> None:
        if self._signing:
            return
        self._signing = True
        Deferred.fromCoroutine(self.sign()).addBoth(self._sign_tried)

    def _sign_tried(self, result: object) -> None:
        self._signing = False
        if isinstance(result, Failure):
            # Tried again with the next row; a failing store is told of everywhere else.
            self._log.warn("no checkpoint: {why}", why=result.getErrorMessage())

    def _arm(self) -> None:
        self._timer = self._wheel.call_later(_STEP_SECONDS, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._newest <= self._signed:
            return
        if self._wheel.seconds() < self._due_at:
            self._arm()
        else:
            self._sign_soon()

    def _wake(self) -> None:
        for waiting in list(self._waiting):
            self._over(waiting)

    def _over(self, waiting: Deferred[None]) -> None:
        timer = self._waiting.pop(waiting, None)
        if timer is not None:
            timer.cancel()
            waiting.callback(None)
