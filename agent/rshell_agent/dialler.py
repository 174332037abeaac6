"""When to dial which address: the retry rules of docs/protocol.md (C6, H3, L4, P7 and GOAWAY).

It opens no socket and speaks no protocol: it is given `resolve` and `dial`, a clock and a source
of randomness, and is told how each link fared.

::

    STOPPED --start--> WAITING --timer--> RESOLVING --> CONNECTING --> GREETING --> CONNECTED
                          ^                   |              |             |            |
                          +--- a delay that depends on what went wrong ----+--- lost ---+

CONNECTING races all addresses of all gateways (`targets.py` says in which order); what takes the
connection first must also give a WELCOME.  A link that was told GOAWAY lives on until its streams
are done or its successor is welcomed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.identity.refusals import explain_tls_failure
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway
from rshell.link.dialling import connect_first
from rshell.link.proxy import ProxyFailed
from rshell_agent.journal import Journal, Unheard
from rshell_agent.targets import Randomness, Target, Targets

__all__ = ["DialledLink", "Dialler", "DiallerState", "Randomness", "Target"]

BASE_SECONDS = 1.0
CAP_SECONDS = 120.0
#: Never hammer: even a random delay of zero waits this long.
MIN_SECONDS = 0.2
#: Lookup, TCP, TLS and WELCOME together; each has its own shorter limit too.
WATCHDOG_SECONDS = 45.0
#: A welcomed link of this age proves that the trouble is over (rule C6).
STABLE_SECONDS = 60.0
#: Of the spread: who is cut off at its end may wait for so much, not for all of it again.
AGAIN_SHARE = 0.25
#: After an answer that only a person can change: 15 to 60 min (rule C6).
REFUSED_SECONDS = (900.0, 3600.0)
#: Told ``duplicate`` on the current link: 60 s, doubling to 15 min (rule H3).
DUPLICATE_SECONDS = 60.0
DUPLICATE_CAP_SECONDS = 900.0
#: Two clones that displace each other live at most the cap each; longer means there is one.
DUPLICATE_FORGOTTEN_SECONDS = 1800.0
#: What a gateway may ask us to wait; a broken one must not put a device to sleep for weeks.
MAX_HINT_SECONDS = 3600.0
#: A machine that woke up dials at once, but not together with all that woke at the same hour.
RESUME_SECONDS = 3.0

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


class DialledLink(Protocol):
    """What the dialler needs of a link."""

    def abort(self, reason: str) -> None:
        """End it at once."""

    def go_away(self, goaway: GoAway, *, close: bool, reason: str = "") -> None:
        """Say goodbye; with ``close``, end it."""


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
        journal: Is told what went wrong.

    Attributes:
        state: Where it stands.
        target: The address of the attempt or link in hand; None while waiting.
        last_error: Why the last attempt or link ended, one line; "" at first.
        useless_since: Clock seconds since which addresses are found and none gives a WELCOME;
            None if that is not so.
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
        journal: Journal | None = None,
    ) -> None:
        self.state = DiallerState.STOPPED
        self.target: Target | None = None
        self.last_error = ""
        self.useless_since: float | None = None
        self._clock = clock
        self._gateways = gateways
        self._dial = dial
        self._random = random
        self._changed = changed
        self._journal: Journal = journal or Unheard()
        self._targets = Targets(clock, gateways, resolve, random, self._journal)
        self._link: DialledLink | None = None
        self._leaving: list[DialledLink] = []
        self._groups: list[list[Target]] = []
        self._reasons: list[str] = []
        self._preferred: list[str] = []
        self._avoided: Target | None = None
        self._pending: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._watchdog: IDelayedCall | None = None
        self._dials = 0
        self._failures = 0
        self._duplicates = 0
        self._welcomed_at: float | None = None
        self._retry_spread = 0.0
        #: What the upper bound is at least, from an unexpected loss to the next WELCOME (C6).
        self._loss_spread = 0.0
        #: Clock seconds by which all have come who draw from the same spread; None: none of ours
        #: may be shorter.
        self._spread_ends: float | None = None
        #: Whether the wait in hand is one that a gateway asked for.
        self._told = False
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

    def renew(self, link: DialledLink, reason: str) -> None:
        """Dial anew, to see that it can be done; the current link stays until that is welcomed."""
        if link is not self._link or self.state is not DiallerState.CONNECTED:
            return
        self._log.info("dialling anew: {reason}", reason=reason)
        self._link = None
        self._leaving.append(link)
        self._wait(MIN_SECONDS)

    def resumed(self, reason: str) -> None:
        """The machine slept: what was connected is dead, and what waits shall try again soon.

        A wait that a gateway asked for is kept.
        """
        if self.state is DiallerState.STOPPED:
            return
        delay = max(MIN_SECONDS, self._random.uniform(0.0, RESUME_SECONDS))
        if self.state is DiallerState.WAITING:
            assert self._timer is not None
            if not self._told and self._timer.getTime() - self._clock.seconds() > delay:
                self._wait(delay)
            return
        link, self._link = self._link, None
        pending, self._pending = self._pending, None
        leaving, self._leaving = self._leaving, []
        self._failures = 0
        self.last_error = reason
        self._wait(delay)
        if pending is not None:
            pending.cancel()
        for dead in [*leaving, *([link] if link else [])]:
            dead.abort(reason)

    def welcomed(self, link: DialledLink, retry_spread_seconds: float) -> None:
        """The gateway accepted this link."""
        if link is not self._link:
            return
        self._cancel_timers()
        self._welcomed_at = self._clock.seconds()
        self._retry_spread = min(retry_spread_seconds, MAX_HINT_SECONDS)
        self._loss_spread = 0.0
        self._spread_ends = None
        self._avoided = None
        self.useless_since = None
        if self.target is not None:
            self._targets.welcomed(self.target)
        self._enter(DiallerState.CONNECTED, self.target)
        leaving, self._leaving = self._leaving, []
        for old in leaving:
            old.go_away(GoAway(code=ErrorCode.NONE.value), close=True, reason="replaced")

    def advised(self, link: DialledLink, retry_spread_seconds: float) -> None:
        """The gateway steers anew (rule L4)."""
        if link is self._link:
            self._retry_spread = min(retry_spread_seconds, MAX_HINT_SECONDS)

    def goaway_received(self, link: DialledLink, goaway: GoAway) -> None:
        """The gateway ends this link, or lets it drain while we dial anew."""
        if link is not self._link:
            return
        self._goaway = goaway
        self._preferred = [name for name in goaway.alternatives if name in self._gateways()]
        if self.state is DiallerState.CONNECTED and not self._ends_at_once(goaway):
            # its place is taken elsewhere first, if there is an elsewhere
            self._leaving.append(link)
            self._avoided = self.target
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
        self._reasons = []
        self._enter(DiallerState.RESOLVING, None)
        preferred, self._preferred = self._preferred, []
        search = self._targets.find(preferred, self._avoided)
        self._pending = Deferred.fromCoroutine(search)
        self._pending.addCallbacks(self._resolved, self._failed)

    def _resolved(self, groups: list[list[Target]]) -> None:
        if self.state is DiallerState.RESOLVING:
            if self.useless_since is None:
                self.useless_since = self._clock.seconds()
            self._groups = groups
            self._connect()

    def _connect(self) -> None:
        targets = self._groups.pop(0)
        self._enter(DiallerState.CONNECTING, targets[0])
        attempts = [partial(self._try, target) for target in targets]
        self._pending = connect_first(self._clock, attempts, _unwanted)
        self._pending.addCallbacks(self._connected, self._not_connected)

    def _try(self, target: Target) -> Deferred[tuple[Target, DialledLink]]:
        """Dial one address of those that race."""
        self._dials += 1
        dialled = maybeDeferred(self._dial, target, self._dials)

        def failed(failure: Failure) -> Failure:
            if not failure.check(CancelledError, ConnectingCancelledError):
                self._note_unreachable(target, failure)
            return failure

        return dialled.addCallbacks(lambda link: (target, link), failed)

    def _note_unreachable(self, target: Target, failure: Failure) -> None:
        by_proxy = failure.check(ProxyFailed) is not None
        reason = failure.getErrorMessage() if by_proxy else explain_tls_failure(failure)
        self._reasons.append(f"{target}: {reason}")
        self._journal.note("proxy" if by_proxy else "tcp", reason, target=str(target))

    def _connected(self, won: tuple[Target, DialledLink]) -> None:
        self._pending = None
        target, link = won
        if self.state is not DiallerState.CONNECTING:
            link.abort("not wanted any more")
            return
        self._link = link
        self._enter(DiallerState.GREETING, target)

    def _not_connected(self, failure: Failure) -> None:
        if (
            self.state is DiallerState.CONNECTING
            and self._groups
            and not failure.check(CancelledError)
        ):
            self._connect()
        else:
            self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        if self.state not in (DiallerState.RESOLVING, DiallerState.CONNECTING):
            return
        self._pending = None
        if failure.check(CancelledError):
            reason = f"no answer within {WATCHDOG_SECONDS:g} s"
            self._journal.note("tcp", reason, target=str(self.target or ""))
        elif self.state is DiallerState.RESOLVING:
            self.useless_since = None
            reason = f"no address: {failure.getErrorMessage()}"
        else:
            # each says which address it is about
            self.target = None
            reason = "; ".join(dict.fromkeys(self._reasons))
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
        if target is not None:
            if self.state is DiallerState.GREETING:
                self._targets.failed(target)
            elif self._welcomed_at is not None:
                lived = self._clock.seconds() - self._welcomed_at
                self._targets.lived(target, healthy=lived >= STABLE_SECONDS)
        greeting = self.state is DiallerState.GREETING
        delay = self._delay(cut_off=greeting and self._goaway is None)
        self.last_error = f"{target}: {reason}" if target is not None else reason
        self._log.warn(
            "no link to {target}: {reason}; next attempt in {delay:.1f} s",
            target=str(target or "any gateway"),
            reason=reason,
            delay=delay,
        )
        told = self._told
        self._wait(delay)
        self._told = told

    def _wait(self, delay: float) -> None:
        self._cancel_timers()
        self._told = False
        self._groups = []
        self._welcomed_at = None
        self._goaway = None
        self._timer = self._clock.callLater(delay, self._attempt)
        self._enter(DiallerState.WAITING, None)

    def _delay(self, cut_off: bool) -> float:
        """Return how long to wait, in seconds, and count what happened.

        Args:
            cut_off: Whether a gateway was there, and ended the attempt before its WELCOME without
                a word.
        """
        lived = None if self._welcomed_at is None else self._clock.seconds() - self._welcomed_at
        if lived is not None and lived >= STABLE_SECONDS:
            self._failures = 0
        if lived is not None and lived >= DUPLICATE_FORGOTTEN_SECONDS:
            self._duplicates = 0
        self._told = False
        if self._goaway is not None:
            told = self._delay_told(self._goaway, lived is not None)
            if told is not None:
                self._told = True
                return told
        if lived is not None:
            # the gateway steers a mass reconnect even if it died without a word
            self._loss_spread = max(self._loss_spread, self._retry_spread)
        upper = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(self._failures, 16))
        now, ends = self._clock.seconds(), self._spread_ends
        if cut_off and ends is not None:
            # The gateway serves others, and whom it expects comes until then: all of them but few
            # that are cut off.  Only once, and no failure: something in between may end connections
            # for a gateway that is away, and then the whole fleet comes anew.
            self._spread_ends = None
            spread = max(ends - now, self._loss_spread * AGAIN_SHARE)
        else:
            self._failures += 1
            spread = self._loss_spread
            self._spread_ends = now + spread if spread and not cut_off else None
        return self._random.uniform(MIN_SECONDS, max(upper, spread))

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
            spread = min(goaway.retry_spread_ms / 1000, MAX_HINT_SECONDS)
            self._loss_spread = max(self._loss_spread, spread)
            # another gateway does not restart: nothing but the spread holds us back from it
            elsewhere = self._avoided is not None and len(self._gateways()) > 1
            least = 0.0 if elsewhere else goaway.retry_min_ms / 1000
            self._failures += 1
            if was_welcomed:
                self._spread_ends = self._clock.seconds() + least + spread
            delay = least + self._random.uniform(0.0, spread)
            return min(MAX_HINT_SECONDS, max(MIN_SECONDS, delay))
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


def _unwanted(won: tuple[Target, DialledLink]) -> None:
    won[1].abort("another address was faster")
