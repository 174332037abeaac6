"""How many lines may pass: a token bucket that forgives time in which nobody read.

Tokens come with time.  While there is nothing to say they gather up to `BURST_SECONDS` worth; while
output is blocked (no link, a slow operator) they gather without a limit, because the lines of that
time wait in the file and none of them may be dropped for the operator's absence.
"""

from __future__ import annotations

__all__ = ["BURST_SECONDS", "Rate"]

#: A quiet log may burst for this long at once: a stack trace, a start-up.
BURST_SECONDS = 5.0
#: Once lines are dropped, so much has to gather first: one notice a second, not one a line.
RECOVER_SECONDS = 1.0


class Rate:
    """Grants lines.

    Args:
        per_second: Lines a second; 0 is no limit.
        now: Monotonic seconds.
    """

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._cap = per_second * BURST_SECONDS
        self._tokens = self._cap
        self._at = now
        self._blocked = 0.0
        self._dropping = False

    def blocked(self, seconds: float) -> None:
        """Say that output could not be written for so long."""
        self._blocked += seconds

    def advance(self, now: float) -> None:
        """Let time pass."""
        elapsed = max(0.0, now - self._at)
        blocked, self._blocked = min(self._blocked, elapsed), 0.0
        self._at = now
        gathered = self._tokens + (elapsed - blocked) * self._per_second
        self._tokens = min(gathered, max(self._cap, self._tokens)) + blocked * self._per_second

    def caught_up(self) -> None:
        """Say that nothing waits in any file: what gathered beyond a burst is not needed."""
        self._tokens = min(self._tokens, self._cap)

    @property
    def closed(self) -> bool:
        """Whether nothing at all would be granted now."""
        if not self._per_second:
            return False
        if self._dropping:
            return self._tokens < self._per_second * RECOVER_SECONDS
        return self._tokens < 1

    def grant(self, wanted: int) -> int:
        """Return how many of so many lines may pass; the rest is to be dropped."""
        if not self._per_second:
            return wanted
        if self.closed:
            self._dropping = self._dropping or wanted > 0
            return 0
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        self._dropping = granted < wanted
        return granted
