"""How often one peer may make us write something that stays: a token bucket for each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from rshell.link.core.limits import TokenBucket

__all__ = ["Throttle"]

#: The key that was quiet for longest is forgotten first; it starts anew with a full bucket.
MAX_KEYS = 10_000


class Throttle:
    """Lets each key do something ``burst`` times at once and ``rate`` times a second for long.

    Args:
        clock: Seconds that never go back.
        rate: A second.
        burst: At once.
    """

    def __init__(self, clock: Callable[[], float], rate: float, burst: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._keys: OrderedDict[Hashable, tuple[TokenBucket, int]] = OrderedDict()

    def admit(self, key: Hashable) -> int | None:
        """Take one turn of a key.

        Returns:
            None if it has none left; else how many were refused since the last one admitted.
        """
        fresh = (TokenBucket(self._rate, self._burst), 0)
        bucket, refused = self._keys.pop(key, fresh)
        if len(self._keys) >= MAX_KEYS:
            self._keys.popitem(last=False)
        admitted = bucket.take(self._clock())
        self._keys[key] = (bucket, 0 if admitted else refused + 1)
        return refused if admitted else None

    def exhausted(self, key: Hashable) -> bool:
        """Say whether a key has no turn left; takes none."""
        known = self._keys.get(key)
        return known is not None and not known[0].has(self._clock())
