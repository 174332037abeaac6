"""What an agent looks at once a minute while a link is welcomed.

Two things change on a device without the gateway hearing of it: a session ends with nobody
attached, and the policy is edited.  The first is told by SESSIONS (rule S1); the second was part of
HELLO and is told by ``gateway.report``, at once when the agent itself comes across it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.protocol import LinkProtocol

__all__ = ["LOOK_SECONDS", "LinkWatch"]

#: A minute is soon enough for an audit row, and a keeper is asked from memory.
LOOK_SECONDS = 60.0


class LinkWatch:
    """Looks after one link, from its WELCOME until `stop`.

    Args:
        link: Welcomed, and not for renewal only.
        wheel: For the timer.
        refresh: Asks the keeper, and tells the gateway what of HELLO is not true any more.
        report: Tells the gateway of sessions that are over.
    """

    _log = Logger()

    def __init__(
        self,
        link: LinkProtocol,
        wheel: TimerWheel,
        refresh: Callable[[LinkProtocol], Awaitable[None]],
        report: Callable[[LinkProtocol], Awaitable[None]],
    ) -> None:
        self._link = link
        self._wheel = wheel
        self._refresh = refresh
        self._report = report
        self._stopped = False
        self._timer: WheelTimer = wheel.call_later(LOOK_SECONDS, self._due)

    def stop(self) -> None:
        """The link is gone, or another one took its place."""
        self._stopped = True
        self._timer.cancel()

    def look_soon(self) -> None:
        """Something has changed: look now rather than in a minute."""
        if not self._over and self._timer.active:
            self._timer.cancel()
            self._timer = self._wheel.call_later(0, self._due)

    @property
    def _over(self) -> bool:
        """Whether the link is ending; a gateway that goes away is told by the next link."""
        return self._stopped or self._link.closed or self._link.core.goaway_received

    def _due(self) -> None:
        looked: Deferred[None] = Deferred.fromCoroutine(self._look())
        looked.addErrback(self._failed)
        looked.addCallback(lambda _: self._again())

    async def _look(self) -> None:
        await self._refresh(self._link)
        if not self._over:
            await self._report(self._link)

    def _again(self) -> None:
        if not self._over:
            self._timer = self._wheel.call_later(LOOK_SECONDS, self._due)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the look of every minute failed", failure)
