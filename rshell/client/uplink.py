"""Uplink: one link to a gateway at a time, dialled again while something needs it.

::

    IDLE --needed--> WAITING --timer--> DIALLING --WELCOME--> CONNECTED
     ^                  ^                  |                      |
     |                  +---- failed ------+                      |
     +------------------- lost, or told to leave -----------------+
    any --> CLOSED: by `Uplink.close`, or a gateway that refuses us for good

A link that nobody uses is not dialled again when it breaks; whoever asks next (`Uplink.need`) has
it dialled.  A link that was told GOAWAY takes no new streams; those it carries may finish.

What it is not: it knows no sessions, only who waits for a link and whom to tell of the end.  How
long somebody waits is their own decision.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.client.dialling import GatewayLink
from rshell.client.errors import ConnectionFailed
from rshell.client.notices import Notices
from rshell.link.clock import TimerWheel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway, Welcome
from rshell.link.protocol import LinkProtocol

__all__ = ["GRACE_SECONDS", "LinkUser", "Uplink", "UplinkState"]

#: How long a session waits for its link to come back (rule R7).
GRACE_SECONDS = 60.0
#: The first attempt after a loss: a gateway that restarts has not let go of its port before.
BASE_SECONDS = 0.2
#: Somebody looks at the screen: neither our own back-off nor a gateway's hint waits longer.
CAP_SECONDS = 5.0
#: A link that lived this long proves that the trouble before it is over.
STABLE_SECONDS = 5.0
#: While a terminal is open a dead path is noticed within this and the 15 s of rule L2.
INTERACTIVE_HEARTBEAT_SECONDS = 10.0
#: Who waits is served in lots: a gateway admits 5,000 OPENs a second of one operator.
LOT = 100
LOT_SECONDS = 0.05

#: Answers that only a person can change.
_FOR_GOOD = frozenset(
    {ErrorCode.AUTH, ErrorCode.REVOKED, ErrorCode.EXPIRED, ErrorCode.VERSION},
)


class UplinkState(Enum):
    """Where an uplink stands."""

    IDLE = auto()
    WAITING = auto()
    DIALLING = auto()
    CONNECTED = auto()
    CLOSED = auto()


class LinkUser(Protocol):
    """Who uses an uplink: a session."""

    def link_ready(self, link: LinkProtocol) -> None:
        """The link that was asked for by `Uplink.need` is there; said once for each asking."""

    def link_refused(self, error: ConnectionFailed) -> None:
        """There will be no link any more; said once."""


class Uplink:
    """Keeps one link to a gateway.

    Args:
        reactor: For the delays between attempts.
        wheel: Monotonic seconds.
        dial: Makes one attempt at all the gateways there are; raises `ConnectionFailed`.  Its
            coroutine or Deferred is cancelled when nobody needs the link any more.
        grace_seconds: How long sessions wait for a link that broke.
        uniform: Random numbers for jitter: (low, high) -> float.

    Attributes:
        state: Where it stands.
        grace_seconds: As given.
        last_error: Why there is no link, one line; "" at first.
        notices: What the gateway tells of sessions.
        refusal: Why it is closed; None before.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        dial: Callable[[], Awaitable[GatewayLink]],
        *,
        grace_seconds: float = GRACE_SECONDS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.state = UplinkState.IDLE
        self.grace_seconds = grace_seconds
        self.last_error = ""
        self.notices = Notices()
        self.refusal: ConnectionFailed | None = None
        self.reactor = reactor
        self.wheel = wheel
        self._dial = dial
        self._uniform = uniform
        self._current: GatewayLink | None = None
        self._latest: GatewayLink | None = None
        #: Every link that is not gone: the current one, and those that drain.
        self._links: list[GatewayLink] = []
        #: In order, as everything here: the same history twice gives the same calls.
        self._users: dict[LinkUser, None] = {}
        self._interactive: set[LinkUser] = set()
        self._waiting: dict[LinkUser, None] = {}
        self._refused: list[Deferred[ConnectionFailed]] = []
        self._attempt: Deferred[GatewayLink] | None = None
        self._timer: IDelayedCall | None = None
        self._lot: IDelayedCall | None = None
        self._failures = 0
        self._welcomed_at = 0.0
        self._not_before = 0.0

    # -- what there is -----------------------------------------------------------------------

    @property
    def link(self) -> LinkProtocol | None:
        """The link that takes new streams now, if there is one."""
        link = None if self._current is None else self._current.link
        return None if link is None or link.closed or link.core.goaway_received else link

    @property
    def latest(self) -> LinkProtocol | None:
        """The newest link that was welcomed, dead or alive; None before the first."""
        return None if self._latest is None else self._latest.link

    @property
    def welcome(self) -> Welcome | None:
        """What the gateway said on the newest link; None before the first."""
        return None if self._latest is None else self._latest.welcome

    def when_refused(self) -> Deferred[ConnectionFailed]:
        """Return what fires with the reason once there will be no link any more.

        Other than `join`, it does not make anybody dial.
        """
        refused: Deferred[ConnectionFailed] = Deferred()
        if self.refusal is not None:
            refused.callback(self.refusal)
        else:
            self._refused.append(refused)
        return refused

    # -- from outside ------------------------------------------------------------------------

    async def connect(self) -> None:
        """Dial once, now.

        Raises:
            ConnectionFailed: No gateway welcomed us, or `close` was called.
        """
        self._check_open()
        link = await self._dial()
        if self.refusal is not None:
            link.end()
            raise self.refusal
        self._adopt(link)

    def join(self, user: LinkUser, *, interactive: bool = False) -> None:
        """Count a user: it hears of the end.  ``interactive`` ones make the heartbeat faster.

        Raises:
            ConnectionFailed: There will be no link any more.
        """
        self._check_open()
        self._users[user] = None
        if interactive:
            self._interactive.add(user)
            self._set_heartbeat()

    def part(self, user: LinkUser) -> None:
        """The user is done; what it asked for is forgotten."""
        self.forget(user)
        self._users.pop(user, None)
        if user in self._interactive:
            self._interactive.remove(user)
            self._set_heartbeat()

    def need(self, user: LinkUser) -> None:
        """Tell ``user`` once there is a link, in a later turn; dial if there is none."""
        self._waiting[user] = None
        if self.link is not None:
            self._serve_soon(0.0)
        elif self.state is UplinkState.IDLE:
            self._wait()
        # else: an attempt is under way, or the loss of the current link is just being told

    def forget(self, user: LinkUser) -> None:
        """The user waits for no link any more."""
        self._waiting.pop(user, None)
        if not self._waiting:
            self._rest()

    def close(self, reason: str = "closed by this end") -> Deferred[Any]:
        """Give everything up and say goodbye.

        Returns:
            A Deferred that fires when every link is gone.
        """
        self._refuse(ConnectionFailed(ErrorCode.LINK_LOST.value, reason, ""))
        links = list(self._links)
        lost = gatherResults([link.when_lost() for link in links])
        for link in links:
            link.end()
        return lost

    def abort(self) -> None:
        """Cut off every link that did not end by `close`."""
        for gateway in list(self._links):
            if gateway.link is not None:
                gateway.link.abort("closed")

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row: full jitter, doubling."""
        if failures <= 0:
            return 0.0
        if failures == 1:
            return BASE_SECONDS
        return self._uniform(0.0, min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(failures - 1, 16)))

    def _check_open(self) -> None:
        if self.refusal is not None:
            raise ConnectionFailed(self.refusal.code, self.refusal.message, self.refusal.hint)

    # -- one link after the other ------------------------------------------------------------

    def _adopt(self, gateway: GatewayLink) -> None:
        self._enter(UplinkState.CONNECTED)
        self._current = self._latest = gateway
        self._links.append(gateway)
        self._welcomed_at = self.wheel.seconds()
        gateway.notified = self.notices.arrived
        gateway.leaving = lambda goaway: self._told_to_leave(gateway, goaway)
        gateway.when_lost().addCallback(lambda _: self._lost(gateway))
        self._set_heartbeat()
        if self._waiting:
            self._serve_soon(0.0)

    def _told_to_leave(self, gateway: GatewayLink, goaway: GoAway) -> None:
        if gateway is self._current:
            hint = self._uniform(0.0, float(goaway.retry_spread_ms)) + goaway.retry_min_ms
            reason = f"the gateway goes away: {goaway.message or goaway.code}"
            self._without_link(reason, min(CAP_SECONDS, hint / 1000))

    def _lost(self, gateway: GatewayLink) -> None:
        self._links.remove(gateway)
        goaway = gateway.goaway
        if goaway is not None and ErrorCode.read(goaway.code) in _FOR_GOOD:
            message = f"the gateway ended the link: {goaway.message or goaway.code}"
            self._refuse(ConnectionFailed(goaway.code, message))
        elif gateway is self._current:
            self._without_link(gateway.lost_reason or "lost", 0.0)

    def _without_link(self, reason: str, hint_seconds: float) -> None:
        now = self.wheel.seconds()
        if now - self._welcomed_at >= STABLE_SECONDS:
            self._failures = 0
        self._failures += 1
        self._current = None
        self._not_before = now + max(hint_seconds, self.delay(self._failures))
        self._enter(UplinkState.IDLE)
        self.last_error = reason
        if self._waiting:
            self._wait()

    # -- dialling ----------------------------------------------------------------------------

    def _enter(self, state: UplinkState) -> None:
        """Change the state; what belonged to the old one is undone."""
        self.state = state
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    def _rest(self) -> None:
        """Nobody needs a link that is not there."""
        if self.state in (UplinkState.WAITING, UplinkState.DIALLING):
            self._enter(UplinkState.IDLE)

    def _wait(self) -> None:
        self._enter(UplinkState.WAITING)
        delay = max(0.0, self._not_before - self.wheel.seconds())
        self._timer = self.reactor.callLater(delay, self._try)

    def _try(self) -> None:
        self._enter(UplinkState.DIALLING)
        attempt = self._attempt = Deferred.fromCoroutine(self._dial_once())
        attempt.addCallbacks(
            self._dialled, self._dial_failed, callbackArgs=(attempt,), errbackArgs=(attempt,)
        )

    async def _dial_once(self) -> GatewayLink:
        return await self._dial()

    def _dialled(self, gateway: GatewayLink, attempt: Deferred[GatewayLink]) -> None:
        if self._attempt is not attempt:
            gateway.end()
            return
        self._attempt = None
        self._adopt(gateway)

    def _dial_failed(self, failure: Failure, attempt: Deferred[GatewayLink]) -> None:
        if self._attempt is not attempt:
            return
        self._attempt = None
        error = failure.value
        if not isinstance(error, ConnectionFailed):
            if not isinstance(error, CancelledError | OSError):
                self._log.failure("dialling failed", failure)
            error = ConnectionFailed("unreachable", str(error) or type(error).__name__)
        self.last_error = error.message
        if ErrorCode.read(error.code) in _FOR_GOOD:
            self._refuse(error)
            return
        self._failures += 1
        self._not_before = self.wheel.seconds() + self.delay(self._failures)
        self._wait()

    # -- users -------------------------------------------------------------------------------

    def _serve_soon(self, delay_seconds: float) -> None:
        if self._lot is None:
            self._lot = self.reactor.callLater(delay_seconds, self._serve)

    def _serve(self) -> None:
        self._lot = None
        for user in list(self._waiting)[:LOT]:
            link = self.link
            if link is None:
                return  # those who still wait are served after its successor's WELCOME
            if user in self._waiting:
                del self._waiting[user]
                user.link_ready(link)
        if self._waiting:
            self._serve_soon(LOT_SECONDS)

    def _refuse(self, error: ConnectionFailed) -> None:
        if self.refusal is not None:
            return
        self.refusal = error
        self._enter(UplinkState.CLOSED)
        self._current = None
        if self._lot is not None:
            self._lot.cancel()
            self._lot = None
        self._waiting.clear()
        users, self._users = self._users, {}
        for user in users:
            user.link_refused(error)
        refused, self._refused = self._refused, []
        for deferred in refused:
            deferred.callback(error)

    def _set_heartbeat(self) -> None:
        """Beat faster while somebody looks at a terminal."""
        link = self.link
        if link is not None:
            link.hurry_heartbeat(INTERACTIVE_HEARTBEAT_SECONDS if self._interactive else None)
