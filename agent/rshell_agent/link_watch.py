"""What an agent looks at once a minute while a link is welcomed.

Two things change on a device without the gateway hearing of it: a session ends with nobody
attached, and the policy is edited.  The first is told by SESSIONS (rule S1); the second is part of
HELLO, so it takes a new link.
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
        outdated: Asks the keeper whether this link's HELLO still tells the truth.
        redial: Ends the link and dials at once; takes the reason.
        report: Tells the gateway of sessions that are over.
    """

    _log = Logger()

    def __init__(
        self,
        link: LinkProtocol,
        wheel: TimerWheel,
        outdated: Callable[[LinkProtocol], Awaitable[bool]],
        redial: Callable[[str], None],
        report: Callable[[LinkProtocol], Awaitable[None]],
    ) -> None:
        self._link = link
        self._wheel = wheel
        self._outdated = outdated
        self._redial = redial
        self._report = report
        self._stopped = False
        self._timer: WheelTimer = wheel.call_later(LOOK_SECONDS, self._due)

    def stop(self) -> None:
        """The link is gone, or another one took its place."""
        self._stopped = True
        self._timer.cancel()

    @property
    def _over(self) -> bool:
        """Whether the link is ending; a gateway that goes away is told by the next link."""
        return self._stopped or self._link.closed or self._link.core.goaway_received

    def _due(self) -> None:
        looked: Deferred[None] = Deferred.fromCoroutine(self._look())
        looked.addErrback(self._failed)
        looked.addCallback(lambda _: self._again())

    async def _look(self) -> None:
        outdated = await self._outdated(self._link)
        if self._over:
            return
        # A stream would be cut; it can wait, for the device itself obeys the new policy already.
        if outdated and not self._link.core.streams:
            self._redial("what HELLO told has changed")
            return
        await self._report(self._link)

    def _again(self) -> None:
        if not self._over:
            self._timer = self._wheel.call_later(LOOK_SECONDS, self._due)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the look of every minute failed", failure)
