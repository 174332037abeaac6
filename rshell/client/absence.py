"""Absence: the time in which a session has no stream, from a loss to the next OPENED.

It decides when to ask again and when to give up; `rshell.client.session` asks.  Where the link to
the gateway is gone, the uplink's own pace counts; where only the way to the device broke, the
session asks again at once, and waits longer each time that this breaks again soon.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall

from rshell.client.uplink import STABLE_SECONDS, LinkUser, Uplink
from rshell.link.clock import WheelTimer

__all__ = ["Absence", "Away"]


@attrs.frozen
class Away:
    """A session whose link is away.

    Attributes:
        since_seconds: When that was noticed, in seconds of the reactor's clock.
        until_seconds: When the session is given up.
        reason: What broke, for people.
    """

    since_seconds: float
    until_seconds: float
    reason: str


class Absence:
    """What one session does without its stream.

    Args:
        uplink: Asked for a link.
        user: The session; its ``link_ready`` is called when it is time to ask again.
        expired: Called when the grace is over.
        grace_seconds: How long to try.

    Attributes:
        away: Since when, until when, and why; None while there is a stream.
    """

    def __init__(
        self,
        uplink: Uplink,
        user: LinkUser,
        expired: Callable[[], None],
        grace_seconds: float,
    ) -> None:
        self.away: Away | None = None
        self._uplink = uplink
        self._user = user
        self._expired = expired
        self._grace_seconds = grace_seconds
        self._grace: WheelTimer | None = None
        self._again: IDelayedCall | None = None
        self._failures = 0
        self._opened_at: float | None = None

    def lost(self, reason: str) -> None:
        """There is no stream (any more): ask again in time.

        The grace counts from the first loss since there was one.
        """
        now = self._uplink.wheel.seconds()
        if self.away is None:
            until = now + self._grace_seconds
            self.away = Away(now, until, reason)
            self._grace = self._uplink.wheel.call_later(self._grace_seconds, self._expired)
        else:
            self.away = attrs.evolve(self.away, reason=reason)
        delay = 0.0
        if self._uplink.link is not None:
            if self._opened_at is not None and now - self._opened_at >= STABLE_SECONDS:
                self._failures = 0
            delay = self._uplink.delay(self._failures)
            self._failures += 1
        self._opened_at = None
        self._cancel_asking()
        if delay > 0:
            self._again = self._uplink.reactor.callLater(delay, self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        self._again = None
        self._uplink.need(self._user)

    def _cancel_asking(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            again.cancel()

    def over(self) -> None:
        """There is a stream, or none is needed any more."""
        self.away = None
        self._opened_at = self._uplink.wheel.seconds()
        self._cancel_asking()
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.cancel()
