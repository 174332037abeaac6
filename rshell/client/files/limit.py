"""RateLimit: a token bucket that makes a coroutine wait, on an injected clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["RateLimit"]

#: Tokens that may gather while nothing is sent: a limit of a rate, not of bursts longer than this.
BURST_SECONDS = 0.25
MIN_PIECE_BYTES = 4 * 1024


class RateLimit:
    """So many bytes a second, over everything that asks.

    A piece may be larger than what has gathered: then the debt is waited for before the next one,
    so the rate is kept whatever the pieces.

    Args:
        clock: Twisted's reactor, or a clock.
        bytes_per_second: None is without limit.
    """

    def __init__(self, clock: Any, bytes_per_second: int | None) -> None:
        self._clock = clock
        self._rate = bytes_per_second
        self._tokens = 0.0
        self._at: float = clock.seconds()

    def piece_bytes(self, most: int) -> int:
        """Return how large a piece should be for a smooth flow, ``most`` at most."""
        if self._rate is None:
            return most
        return min(most, max(MIN_PIECE_BYTES, int(self._rate * BURST_SECONDS)))

    @property
    def wait_seconds(self) -> float:
        """How long the next piece has to wait."""
        if self._rate is None:
            return 0.0
        now: float = self._clock.seconds()
        burst = self._rate * BURST_SECONDS
        self._tokens = min(burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def charge(self, size: int) -> None:
        """Count bytes that go now."""
        self._tokens -= size

    async def take(self, size: int) -> None:
        """Wait until bytes may go, and count them."""
        if self._rate is None:
            return
        while (seconds := self.wait_seconds) > 1e-6:
            waiting: Deferred[None] = Deferred()
            self._clock.callLater(seconds, waiting.callback, None)
            await waiting
        self.charge(size)
