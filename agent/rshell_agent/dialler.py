"""When to dial which address: the retry rules of docs/protocol.md (C6, H3, P7 and GOAWAY).

It opens no socket and speaks no protocol: it is given `resolve` and `dial`, a clock and a source
of randomness, and is told how each link fared.

::

    STOPPED --start--> WAITING --timer--> RESOLVING --> CONNECTING --> GREETING --> CONNECTED
                          ^                   |              |             |            |
                          +--- a delay that depends on what went wrong ----+--- lost ---+

A link that was told GOAWAY lives on until its streams are done or its successor is welcomed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.identity.refusals import explain_tls_failure
from rshell.link.addresses import split_address
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway

__all__ = ["DialledLink", "Dialler", "DiallerState", "Randomness", "Target"]

BASE_SECONDS = 1.0
CAP_SECONDS = 120.0
#: Never hammer: even a random delay of zero waits this long.
MIN_SECONDS = 0.2
#: Lookup, TCP, TLS and WELCOME together; each has its own shorter limit too.
WATCHDOG_SECONDS = 45.0
#: A welcomed link of this age proves that the trouble is over (rule C6).
STABLE_SECONDS = 60.0
#: After an answer that only a person can change: 15 to 60 min (rule C6).
REFUSED_SECONDS = (900.0, 3600.0)
#: Told ``duplicate`` on the current link: 60 s, doubling to 15 min (rule H3).
DUPLICATE_SECONDS = 60.0
DUPLICATE_CAP_SECONDS = 900.0
#: Two clones that displace each other live at most the cap each; longer means there is one.
DUPLICATE_FORGOTTEN_SECONDS = 1800.0
#: What a gateway may ask us to wait; a broken one must not put a device to sleep for weeks.
MAX_HINT_SECONDS = 3600.0

_FOR_A_PERSON = frozenset(
    {ErrorCode.AUTH, ErrorCode.REVOKED, ErrorCode.VERSION, ErrorCode.CLONE_SUSPECTED}
)


class DiallerState(Enum):
    """Where the dialler stands."""

    STOPPED = auto()
    WAITING = auto()
    RESOLVING = auto()
    CONNECTING = auto()
    GREETING = auto()
    CONNECTED = auto()


@attrs.frozen
class Target:
    """One address of one gateway: ``host`` is the name that its certificate must carry."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        return self.host if self.host == self.address else f"{self.host} ({self.address})"


class DialledLink(Protocol):
    """What the dialler needs of a link."""

    def abort(self, reason: str) -> None:
        """End it at once."""

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Say goodbye; with ``close``, end it."""


class Randomness(Protocol):
    """What the dialler needs of `random.Random`."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""

    def shuffle(self, x: list[Any]) -> None:
        """Put the list into random order."""


class Dialler:
    """Keeps one link to one of the gateways, for as long as it takes.

    Args:
        clock: For all waiting.
        gateways: Returns the "host:port" of every gateway, asked for at each lookup.
        resolve: (host, port) -> Deferred of addresses.
        dial: (target, dial number from 1) -> Deferred that fires with the link when TCP is up.
            Cancelling it gives the attempt up.
        random: For jitter and the order of addresses.
        changed: Called after every change of state, with nothing.

    Attributes:
        state: Where it stands.
        target: The address of the attempt or link in hand; None while waiting.
        last_error: Why the last attempt or link ended, one line; "" at first.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        gateways: Callable[[], tuple[str, ...]],
        resolve: Callable[[str, int], Deferred[list[str]]],
        dial: Callable[[Target, int], Deferred[DialledLink]],
        random: Randomness,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = DiallerState.STOPPED
        self.target: Target | None = None
        self.last_error = ""
        self._clock = clock
        self._gateways = gateways
        self._resolve = resolve
        self._dial = dial
        self._random = random
        self._changed = changed
        self._link: DialledLink | None = None
        self._leaving: list[DialledLink] = []
        self._targets: list[Target] = []
        self._preferred: list[str] = []
        self._pending: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._watchdog: IDelayedCall | None = None
        self._dials = 0
        self._failures = 0
        self._duplicates = 0
        self._welcomed_at: float | None = None
        self._retry_spread = 0.0
        self._goaway: GoAway | None = None

    # -- from outside ------------------------------------------------------------------------

    def start(self) -> None:
        """Dial, now and whenever there is no link."""
        if self.state is DiallerState.STOPPED:
            self._attempt()

    def stop(self, goaway: GoAway) -> None:
        """Give up everything; links are told why."""
        self._cancel_timers()
        pending, self._pending = self._pending, None
        links, self._leaving = [*self._leaving, *([self._link] if self._link else [])], []
        self._link = None
        self._enter(DiallerState.STOPPED, None)
        if pending is not None:
            pending.cancel()
        for link in links:
            link.go_away(goaway, close=True)

    def redial(self, reason: str) -> None:
        """Close the current link on purpose and dial again at once, with a new HELLO."""
        link, self._link = self._link, None
        if link is None:
            return
        self._wait(MIN_SECONDS)
        link.go_away(GoAway(code=ErrorCode.NONE.value), close=True, reason=reason)

    def welcomed(self, link: DialledLink, retry_spread_seconds: float) -> None:
        """The gateway accepted this link."""
        if link is not self._link:
            return
        self._cancel_timers()
        self._targets.clear()
        self._welcomed_at = self._clock.seconds()
        self._retry_spread = min(retry_spread_seconds, MAX_HINT_SECONDS)
        self._enter(DiallerState.CONNECTED, self.target)
        leaving, self._leaving = self._leaving, []
        for old in leaving:
            old.go_away(GoAway(code=ErrorCode.NONE.value), close=True, reason="replaced")

    def goaway_received(self, link: DialledLink, goaway: GoAway) -> None:
        """The gateway ends this link, or lets it drain while we dial anew."""
        if link is not self._link:
            return
        self._goaway = goaway
        self._preferred = [name for name in goaway.alternatives if name in self._gateways()]
        if self.state is DiallerState.CONNECTED and not self._ends_at_once(goaway):
            self._leaving.append(link)
            self._ended(f"the gateway goes away ({_told(goaway)})")

    def lost(self, link: DialledLink, reason: str) -> None:
        """The link is gone."""
        if link in self._leaving:
            self._leaving.remove(link)
        if link is self._link:
            self._ended(reason)

    # -- attempts ----------------------------------------------------------------------------

    def _attempt(self) -> None:
        self._timer = None
        self._watchdog = self._clock.callLater(WATCHDOG_SECONDS, self._too_slow)
        if self._targets:
            self._connect()
            return
        self._enter(DiallerState.RESOLVING, None)
        self._pending = Deferred.fromCoroutine(self._find_targets())
        self._pending.addCallbacks(lambda _: self._resolved(), self._failed)

    async def _find_targets(self) -> None:
        """Look up all gateways; those that cannot be resolved do not hinder the others."""
        gateways, reasons = self._gateways(), []
        preferred = {name for name in self._preferred if name in gateways}
        first: list[Target] = []
        rest: list[Target] = []
        for name in gateways:
            try:
                host, port = split_address(name)
                addresses = await self._resolve(host, port)
            except (OSError, ValueError) as error:
                reasons.append(f"{name}: {getattr(error, 'strerror', None) or error}")
                continue
            found = [Target(host, address, port) for address in addresses]
            (first if name in preferred else rest).extend(found)
        self._random.shuffle(first)
        self._random.shuffle(rest)
        self._preferred = []
        self._targets = [*first, *rest]
        if not self._targets:
            raise OSError("; ".join(reasons)[:200] or "no gateway is configured")

    def _resolved(self) -> None:
        if self.state is DiallerState.RESOLVING:
            self._connect()

    def _connect(self) -> None:
        target = self._targets.pop(0)
        self._dials += 1
        self._enter(DiallerState.CONNECTING, target)
        self._pending = maybeDeferred(self._dial, target, self._dials)
        self._pending.addCallbacks(self._connected, self._failed)

    def _connected(self, link: DialledLink) -> None:
        self._pending = None
        if self.state is not DiallerState.CONNECTING:
            link.abort("not wanted any more")
            return
        self._link = link
        self._enter(DiallerState.GREETING, self.target)

    def _failed(self, failure: Failure) -> None:
        if self.state not in (DiallerState.RESOLVING, DiallerState.CONNECTING):
            return
        if failure.check(CancelledError):
            reason = f"no answer within {WATCHDOG_SECONDS:g} s"
        elif self.state is DiallerState.RESOLVING:
            reason = f"no address: {failure.getErrorMessage()}"
        else:
            reason = explain_tls_failure(failure)
        self._pending = None
        self._ended(reason)

    def _too_slow(self) -> None:
        self._watchdog = None
        if self._link is not None:
            self._link.abort(f"no WELCOME within {WATCHDOG_SECONDS:g} s")
        elif self._pending is not None:
            self._pending.cancel()

    # -- what next ---------------------------------------------------------------------------

    def _ended(self, reason: str) -> None:
        """The attempt or link in hand is over: wait as long as the rules say."""
        target, self._link = self.target, None
        delay = self._delay()
        self.last_error = f"{target}: {reason}" if target is not None else reason
        self._log.warn(
            "no link to {target}: {reason}; next attempt in {delay:.1f} s",
            target=str(target or "any gateway"),
            reason=reason,
            delay=delay,
        )
        self._wait(delay)

    def _wait(self, delay: float) -> None:
        self._cancel_timers()
        self._welcomed_at = None
        self._goaway = None
        self._timer = self._clock.callLater(delay, self._attempt)
        self._enter(DiallerState.WAITING, None)

    def _delay(self) -> float:
        """Return how long to wait, in seconds, and count what happened."""
        lived = None if self._welcomed_at is None else self._clock.seconds() - self._welcomed_at
        if lived is not None and lived >= STABLE_SECONDS:
            self._failures = 0
        if lived is not None and lived >= DUPLICATE_FORGOTTEN_SECONDS:
            self._duplicates = 0
        if self._goaway is not None:
            told = self._delay_told(self._goaway, lived is not None)
            if told is not None:
                return told
        upper = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(self._failures, 16))
        if lived is not None:
            # the gateway steers a mass reconnect even if it died without a word
            upper = max(upper, self._retry_spread)
        self._failures += 1
        return max(MIN_SECONDS, self._random.uniform(0.0, upper))

    def _delay_told(self, goaway: GoAway, was_welcomed: bool) -> float | None:
        """Return the delay that a GOAWAY asks for; None if it leaves it to the back-off."""
        code = ErrorCode.read(goaway.code)
        if code in _FOR_A_PERSON:
            return self._random.uniform(*REFUSED_SECONDS)
        if code is ErrorCode.DUPLICATE and was_welcomed:
            delay: float = DUPLICATE_SECONDS * 2.0 ** min(self._duplicates, 8)
            self._duplicates += 1
            return min(DUPLICATE_CAP_SECONDS, delay)
        if goaway.retry_min_ms or goaway.retry_spread_ms:
            spread = self._random.uniform(0.0, goaway.retry_spread_ms / 1000)
            self._failures += 1
            return min(MAX_HINT_SECONDS, max(MIN_SECONDS, goaway.retry_min_ms / 1000 + spread))
        return None

    @staticmethod
    def _ends_at_once(goaway: GoAway) -> bool:
        """Tell whether the gateway aborts after this GOAWAY: then `lost` follows."""
        return goaway.code not in (ErrorCode.NONE, ErrorCode.SHUTDOWN)

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._watchdog):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._watchdog = None

    def _enter(self, state: DiallerState, target: Target | None) -> None:
        self.state, self.target = state, target
        self._changed()


def _told(goaway: GoAway) -> str:
    text = "".join(c if c.isprintable() else "?" for c in goaway.message)
    return f"{goaway.code}: {text}" if text else goaway.code
