"""Telling the gateway what the flight recorder kept: after WELCOME, and now and then.

Not at once: when a whole fleet returns, its gateway has handshakes to do first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rshell.handlers.flight import FlightReport as Report
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.errors import LocalProtocolError
from rshell.link.protocol import LinkProtocol
from rshell_agent.flight_recorder import FlightRecorder
from rshell_agent.gateway_call import CallFailed, GatewayCall

__all__ = ["FlightSender"]

#: After WELCOME: soon enough for the operator who asks why, spread like the reconnect itself.
FIRST_SECONDS = (1.0, 4.0)
EVERY_SECONDS = 600.0
#: Between two reports of one backlog; a gateway takes a burst and then one a minute.
NEXT_SECONDS = 2.0


class _Answer(msgspec.Struct, frozen=True):
    through: int


class FlightSender:
    """Sends reports over one link at a time.

    Args:
        recorder: What there is to tell.
        wheel: For waiting.
        clock: For the limit of each question.
        uniform: Random numbers: (low, high) -> float.
    """

    _log = Logger()

    def __init__(
        self,
        recorder: FlightRecorder,
        wheel: TimerWheel,
        clock: IReactorTime,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._recorder = recorder
        self._wheel = wheel
        self._clock = clock
        self._uniform = uniform
        self._timer: WheelTimer | None = None
        self._asking: Deferred[None] | None = None

    def link_welcomed(self, link: LinkProtocol, spread_seconds: float) -> None:
        """There is a link: tell over it, within ``spread_seconds`` and a few more."""
        self.stop()
        low, high = FIRST_SECONDS
        self._later(link, self._uniform(low, high + spread_seconds))

    def stop(self) -> None:
        """The link is gone."""
        if self._timer is not None:
            self._timer.cancel()
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def _later(self, link: LinkProtocol, seconds: float) -> None:
        self._timer = self._wheel.call_later(seconds, lambda: self._tell(link))

    def _tell(self, link: LinkProtocol) -> None:
        if link.closed or link.core.goaway_received:
            return
        self._asking = asking = Deferred.fromCoroutine(self._report(link))
        asking.addErrback(lambda failure: self._log.failure("a flight report failed", failure))

    async def _report(self, link: LinkProtocol) -> None:
        records = self._recorder.unsent()
        wait = EVERY_SECONDS
        if records:
            report = Report(
                boot_id=self._recorder.boot_id, mono_ms=self._recorder.mono_ms, records=records
            )
            try:
                through = await self._ask(link, msgspec.to_builtins(report))
            except CancelledError:
                return
            except (CallFailed, LocalProtocolError, msgspec.MsgspecError) as error:
                # an older gateway does not know the question; a busy one takes it later
                self._log.debug("the flight record was not taken: {why}", why=str(error))
            else:
                self._recorder.acknowledged(through)
                if self._recorder.unsent():
                    wait = NEXT_SECONDS
        self._asking = None
        self._later(link, wait)

    async def _ask(self, link: LinkProtocol, request: dict[str, Any]) -> int:
        call = GatewayCall(link)
        call.ask("gateway.flight", request, self._clock)
        return msgspec.json.decode(await call.answer, type=_Answer).through
