"""Telling the gateway the facts: once by each agent process, and then what has changed.

A gateway keeps the newest facts of each device over its restarts, so a link that is new brings
nothing new by itself: a fleet that returns after a restart tells nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.errors import LocalProtocolError
from rshell.link.protocol import LinkProtocol
from rshell_agent.facts.record import stable_digest
from rshell_agent.gateway_call import CallFailed, GatewayCall

__all__ = ["AGAIN_SECONDS", "FIRST_SECONDS", "LOOK_SECONDS", "FactsSender"]

#: After WELCOME, spread like the reconnect itself: the gateway has handshakes to do first.
FIRST_SECONDS = (0.5, 3.0)
#: Soon enough for an address that changed; a look takes a few milliseconds.
LOOK_SECONDS = 60.0
#: Told again so often, unchanged: a gateway's store may have been restored from a backup.
AGAIN_SECONDS = 24 * 3600.0


class FactsSender:
    """Tells facts over one link at a time.

    Args:
        collect: Returns all facts as they are now.
        allowed: Whether the device's policy allows the handler ``facts``; else nothing is told.
        wheel: For waiting.
        clock: For the limit of each question.
        uniform: Random numbers: (low, high) -> float.
    """

    _log = Logger()

    def __init__(
        self,
        collect: Callable[[], dict[str, Any]],
        allowed: Callable[[], bool],
        wheel: TimerWheel,
        clock: IReactorTime,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._collect = collect
        self._allowed = allowed
        self._wheel = wheel
        self._clock = clock
        self._uniform = uniform
        self._link: LinkProtocol | None = None
        self._timer: WheelTimer | None = None
        self._asking: Deferred[None] | None = None
        #: What the gateway has taken, and when; a digest.
        self._told = ""
        self._told_at = 0.0

    def link_welcomed(self, link: LinkProtocol, spread_seconds: float) -> None:
        """There is a link: tell over it, within ``spread_seconds`` and a few more."""
        self.stop()
        self._link = link
        low, high = FIRST_SECONDS
        self._later(self._uniform(low, high + spread_seconds))

    def stop(self) -> None:
        """The link is gone."""
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def look_soon(self) -> None:
        """Somebody has just looked at the facts: let the gateway have what they saw."""
        if self._link is not None and self._asking is None and self._timer is not None:
            self._timer.cancel()
            self._later(0)

    def _later(self, seconds: float) -> None:
        self._timer = self._wheel.call_later(seconds, self._look)

    def _look(self) -> None:
        link = self._link
        if link is None or link.closed or link.core.goaway_received:
            return
        asking = Deferred.fromCoroutine(self._tell(link))
        asking.addErrback(lambda failure: self._log.failure("telling facts failed", failure))
        if not asking.called:
            self._asking = asking

    async def _tell(self, link: LinkProtocol) -> None:
        try:
            if self._allowed():
                await self._report(link, self._collect())
        except CancelledError:
            return
        finally:
            self._asking = None
            if link is self._link:
                self._later(LOOK_SECONDS)

    async def _report(self, link: LinkProtocol, facts: dict[str, Any]) -> None:
        digest, now = stable_digest(facts), self._clock.seconds()
        if digest == self._told and now - self._told_at < AGAIN_SECONDS:
            return
        call = GatewayCall(link)
        try:
            call.ask("gateway.report-facts", {"facts": facts}, self._clock)
            await call.answer
        except (CallFailed, LocalProtocolError) as error:
            # an older gateway does not know the question; a busy one takes it later
            self._log.debug("the facts were not taken: {why}", why=str(error))
        else:
            self._told, self._told_at = digest, now
