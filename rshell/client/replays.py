"""Replays: which of a session's output is older than our joining it (rule R8).  Pure counting."""

from __future__ import annotations

from collections import deque

__all__ = ["Replays"]


class Replays:
    """Places in the output, counted in bytes that were handed to the receiver."""

    def __init__(self) -> None:
        self._delivered = 0
        #: (begin, end) of each replay that is not delivered to its end, in order.
        self._parts: deque[tuple[int, int]] = deque()

    @property
    def left(self) -> int:
        """Bytes, from the next one on, that belong to a replay."""
        if not self._parts or self._parts[0][0] > self._delivered:
            return 0
        return self._parts[0][1] - self._delivered

    def expect(self, waiting: int, size: int) -> None:
        """Note that a replay begins.

        Args:
            waiting: Bytes that arrived before it and are still to be delivered.
            size: Of the replay, in bytes.
        """
        begin = self._delivered + waiting
        # What of an older replay had not arrived by now is in the new one, or gone.
        kept = ((start, min(end, begin)) for start, end in self._parts)
        self._parts = deque(part for part in kept if part[0] < part[1])
        if size:
            self._parts.append((begin, begin + size))

    def delivered(self, size: int) -> None:
        """Count bytes that were handed over."""
        self._delivered += size
        while self._parts and self._parts[0][1] <= self._delivered:
            self._parts.popleft()
