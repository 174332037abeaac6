"""Budgets and rates: what a peer may cost us."""

from __future__ import annotations

import attrs

from rshell.link.core.constants import (
    AGENT_LINK_BUDGET,
    CONTROL_QUEUE_BYTES,
    GATEWAY_LINK_BUDGET,
    MIN_WINDOW,
)
from rshell.link.core.errors import ErrorCode, RemoteProtocolError

__all__ = [
    "AT_AGENT",
    "AT_CLIENT",
    "AT_GATEWAY_FROM_DEVICE",
    "AT_GATEWAY_FROM_OPERATOR",
    "CreditBudget",
    "LinkLimits",
    "Quotas",
    "TokenBucket",
]


class TokenBucket:
    """Allows ``rate`` a second on average and ``burst`` at once.

    Time is whatever rising seconds the caller passes; a clock that stands still allows the burst.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take ``count`` tokens if there are that many; say whether there were."""
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def has(self, now: float, count: float = 1.0) -> bool:
        """Say whether there are ``count`` tokens, and take none."""
        self.take(now, 0.0)
        return self._tokens >= count


class CreditBudget:
    """Bounds what the peers of one link may have in flight towards us (rule F8).

    Every receiving stream registers; `window` gives each its fair share of the total, so memory
    stays bounded however many streams are open, and no stream depends on another's reader.
    """

    __slots__ = ("_streams", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self._streams = 0

    def join(self) -> None:
        """Count one more receiving stream."""
        self._streams += 1

    def leave(self) -> None:
        """Count one stream less."""
        self._streams = max(0, self._streams - 1)

    def window(self, wanted: int) -> int:
        """Return how many bytes a stream may be ahead now: ``wanted``, or its share if less."""
        return max(MIN_WINDOW, min(wanted, self.total // max(1, self._streams)))


@attrs.frozen(kw_only=True)
class LinkLimits:
    """What one side of a link accepts from the other (section 13 of docs/protocol.md).

    Rates are per second.  None switches a rate off: a dialler trusts the gateway it chose with
    rates, never with memory.
    """

    max_streams: int
    open_rate: float | None
    open_burst: float
    reset_rate: float | None
    ping_rate: float | None
    event_rate: float | None
    limit_floor: int | None
    receive_budget: int
    control_queue_bytes: int = CONTROL_QUEUE_BYTES


class Quotas:
    """What the peer of one link may still ask of us, by the rates of its `LinkLimits`.

    Args:
        limits: Those of this side.
    """

    # The buckets are made when they are first asked: most peers only ever send a PING.
    __slots__ = ("_events", "_limits", "_limits_left", "_opens", "_pings", "_resets")

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._limits_left = limits.limit_floor
        self._opens: TokenBucket | None = None
        self._resets: TokenBucket | None = None
        self._pings: TokenBucket | None = None
        self._events: TokenBucket | None = None

    def open(self, now: float) -> None:
        """Charge an OPEN; this and the others raise RemoteProtocolError when it is too much."""
        if self._limits.open_rate is not None:
            if self._opens is None:
                self._opens = _bucket(self._limits.open_rate, self._limits.open_burst)
            _spend(self._opens, now, "OPEN")

    def reset(self, now: float) -> None:
        """Charge a RESET."""
        if self._limits.reset_rate is not None:
            if self._resets is None:
                self._resets = _bucket(self._limits.reset_rate)
            _spend(self._resets, now, "RESET")

    def ping(self, now: float) -> None:
        """Charge a PING."""
        if self._limits.ping_rate is not None:
            if self._pings is None:
                self._pings = _bucket(self._limits.ping_rate)
            if not self._pings.take(now):
                raise _too_many(self._pings, "PING")

    def event(self, now: float) -> None:
        """Charge an EVENT."""
        if self._limits.event_rate is not None:
            if self._events is None:
                self._events = _bucket(self._limits.event_rate)
            _spend(self._events, now, "EVENT")

    def limit(self) -> None:
        """Charge a LIMIT: by what we sent, not by time."""
        if self._limits_left is not None:
            self._limits_left -= 1
            if self._limits_left < 0:
                raise RemoteProtocolError(ErrorCode.OVERLOAD, "too many LIMIT frames")

    def grant_limits(self, frames: int) -> None:
        """Let the peer send LIMITs for frames that we send it (section 13)."""
        if self._limits_left is not None:
            self._limits_left += 4 * frames


def _bucket(rate: float, burst: float = 0.0) -> TokenBucket:
    return TokenBucket(rate, burst or rate)


def _spend(bucket: TokenBucket, now: float, what: str) -> None:
    if not bucket.take(now):
        raise _too_many(bucket, what)


def _too_many(bucket: TokenBucket, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        ErrorCode.OVERLOAD, f"more than {bucket.rate:g} {what} frames a second"
    )


AT_GATEWAY_FROM_DEVICE = LinkLimits(
    max_streams=64,
    open_rate=50,
    open_burst=100,
    reset_rate=50,
    ping_rate=4,
    event_rate=200,
    limit_floor=1000,
    receive_budget=GATEWAY_LINK_BUDGET,
)
#: One command on many devices is one stream per device on the operator's link.
AT_GATEWAY_FROM_OPERATOR = LinkLimits(
    max_streams=8192,
    open_rate=5000,
    open_burst=8192,
    reset_rate=5000,
    ping_rate=4,
    event_rate=5000,
    limit_floor=20_000,
    receive_budget=GATEWAY_LINK_BUDGET,
)
AT_AGENT = LinkLimits(
    max_streams=256,
    open_rate=None,
    open_burst=0,
    reset_rate=None,
    ping_rate=None,
    event_rate=None,
    limit_floor=None,
    receive_budget=AGENT_LINK_BUDGET,
)
#: An operator's client holds the output of many devices at once.
AT_CLIENT = attrs.evolve(AT_AGENT, max_streams=0, receive_budget=4 * GATEWAY_LINK_BUDGET)
