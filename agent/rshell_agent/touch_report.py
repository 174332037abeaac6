"""Telling the gateway which files were touched on this device (docs/keeper.md K54, K55).

The keeper has the names until the gateway has written them down: what is under way when a link, the
gateway or this process dies is told again, and the gateway leaves out what it has.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.handlers.touched import FEATURE
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.protocol import LinkProtocol
from rshell_agent.gateway_call import CallFailed, GatewayCall
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable

__all__ = ["TouchSender", "takes_touched"]

#: A gateway that is busy, or cannot write, is asked again after so long.
RETRY_SECONDS = 2.0
#: Between two rounds of eight batches, so that a backlog stays well below the 50 OPEN a second that
#: a device may send: some 2,500 names a second.
PACE_SECONDS = 0.3
#: With these it says that it will never take a batch: it would be in the way of all others.
_NEVER = frozenset({ErrorCode.BAD_REQUEST.value, ErrorCode.POLICY.value})


def takes_touched(link: LinkProtocol) -> bool:
    """Whether the gateway at a link's other end writes down which files were touched."""
    welcome = getattr(link.peer, "welcome", None)
    return welcome is not None and FEATURE in welcome.features


class TouchSender:
    """Sends batches over one link at a time.

    Args:
        keeper: Who has them.
        wheel: For waiting.
        clock: For the limit of each question.
    """

    _log = Logger()

    def __init__(self, keeper: KeeperClient, wheel: TimerWheel, clock: IReactorTime) -> None:
        self._keeper = keeper
        self._wheel = wheel
        self._clock = clock
        self._link: LinkProtocol | None = None
        self._timer: WheelTimer | None = None
        self._telling: Deferred[float | None] | None = None
        self._more = False
        keeper.touched = self.look

    def link_welcomed(self, link: LinkProtocol) -> None:
        """There is a link: tell what waits."""
        self.stop()
        if takes_touched(link):
            self._link = link
            self.look()

    def stop(self) -> None:
        """The link is gone."""
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()

    def look(self) -> None:
        """There may be something to tell."""
        self._more = True
        if self._link is None or self._telling is not None or self._timer is not None:
            return
        self._telling = telling = Deferred.fromCoroutine(self._tell(self._link))
        telling.addCallbacks(
            lambda seconds: self._told(telling, seconds),
            lambda failure: self._failed(telling, failure),
        )

    def _told(self, telling: Deferred[float | None], seconds: float | None) -> None:
        if self._telling is not telling:
            return
        self._telling = None
        if seconds is not None:
            self._timer = self._wheel.call_later(seconds, self._again)
        elif self._more:
            self.look()

    def _failed(self, telling: Deferred[float | None], failure: Any) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("touched files could not be told", failure)
        if self._telling is telling:
            self._telling = None

    def _again(self) -> None:
        self._timer = None
        self.look()

    async def _tell(self, link: LinkProtocol) -> float | None:
        """Tell what waits longest; return after how many seconds to go on, None if all is told."""
        if link.closed or link.core.goaway_received:
            return None
        self._more = False
        try:
            await self._keeper.ensure()
            if FEATURE not in (self._keeper.identity.get("features") or ()):
                return None  # an older keeper, which has nothing
            batches = (await self._keeper.call("touched")).get("touched") or []
            if not batches:
                return None
            noted = await self._ask_all(link, batches)
            if noted:
                await self._keeper.call("touches-noted", batches=noted)
        except KeeperUnavailable:
            return RETRY_SECONDS
        if len(noted) < len(batches):
            return RETRY_SECONDS
        self._more = True  # there may be others
        return PACE_SECONDS if len(batches) > 1 else None

    async def _ask_all(self, link: LinkProtocol, batches: list[dict[str, Any]]) -> list[Any]:
        """Tell batches at once; return those that need not be told again."""
        results = await DeferredList(
            [Deferred.fromCoroutine(self._ask(link, batch)) for batch in batches],
            consumeErrors=True,
        )
        return [
            [batch.get("session"), batch.get("n")]
            for batch, (succeeded, done) in zip(batches, results, strict=True)
            if succeeded and done
        ]

    async def _ask(self, link: LinkProtocol, batch: dict[str, Any]) -> bool:
        call = GatewayCall(link)
        try:
            call.ask("gateway.touched", batch, self._clock)
            await call.answer
        except CallFailed as error:
            if error.code not in _NEVER:
                self._log.debug("touched files were not taken: {why}", why=str(error))
                return False
            self._log.warn("the gateway refuses names of touched files: {why}", why=str(error))
        except LocalProtocolError as error:
            self._log.debug("touched files were not told: {why}", why=str(error))
            return False
        return True
