"""How often one peer may make us write something that stays: a token bucket for each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

__all__ = ["Throttle"]

#: The key that was quiet for longest is forgotten first; it starts anew with a full bucket.
MAX_KEYS = 10_000


class Throttle:
    """Lets each key do something ``burst`` times at once and ``rate`` times a second for long.

    A bucket is kept as one number, when it will be full again (the virtual scheduling of ITU-T
    I.371, known as GCRA): several of these know every device of the fleet.

    Args:
        clock: Seconds that never go back.
        rate: A second.
        burst: At once.
    """

    def __init__(self, clock: Callable[[], float], rate: float, burst: int) -> None:
        self._clock = clock
        self._each_seconds = 1 / rate
        #: A full bucket is empty when it takes so long to be full again; a hundredth of a turn
        #: more, because sums of fractions round, and the more the longer the machine is up.
        self._most_seconds = (burst + 0.01) / rate
        #: When the bucket of a key is full again.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        #: How many were refused since the last one admitted; only keys that have some.
        self._refused: dict[Hashable, int] = {}

    def admit(self, key: Hashable) -> int | None:
        """Take one turn of a key.

        Returns:
            None if it has none left; else how many were refused since the last one admitted.
        """
        now = self._clock()
        full_at = max(now, self._full_at.pop(key, now))
        if len(self._full_at) >= MAX_KEYS:
            oldest, _ = self._full_at.popitem(last=False)
            self._refused.pop(oldest, None)
        after = full_at + self._each_seconds
        if after - now <= self._most_seconds:
            self._full_at[key] = after
            return self._refused.pop(key, 0)
        self._full_at[key] = full_at
        self._refused[key] = self._refused.get(key, 0) + 1
        return None

    def exhausted(self, key: Hashable) -> bool:
        """Say whether a key has no turn left; takes none."""
        now = self._clock()
        full_at = max(now, self._full_at.get(key, now))
        return full_at + self._each_seconds - now > self._most_seconds
