"""One turn of the reactor, as links see it: who writes at its end, and who has had enough of it.

A relay that gets twenty frames in one read has them for other links.  Each of those writes once,
when all were handed over, instead of a record for each frame (rule Q4).  All of it is synchronous:
when the read that began it is dealt with, everything has been written.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["ReadBudget", "Turn"]

#: What one link may use of a turn: thousands of others wait meanwhile (rule Q5).
READ_SECONDS: Final = 0.002


class Flushable(Protocol):
    """A link."""

    def flush(self) -> None:
        """Write what there is."""


class Turn:
    """Collects the links that have something to write; one for all links of a process.

    Attributes:
        now: Seconds at which the read that is being dealt with began.
    """

    __slots__ = ("_depth", "_waiting", "now")

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: dict[Flushable, None] = {}
        self.now = 0.0

    def begin(self, now: float) -> None:
        """A read begins; may be nested."""
        self._depth += 1
        self.now = now

    def postpone(self, link: Flushable) -> bool:
        """Note that ``link`` wants to write; False if it may do so at once."""
        if not self._depth:
            return False
        self._waiting[link] = None
        return True

    def end(self) -> None:
        """The read is dealt with: the links that waited write, when it was the outermost."""
        self._depth -= 1
        while self._waiting and not self._depth:
            waiting, self._waiting = self._waiting, {}
            for link in waiting:
                link.flush()


class ReadBudget:
    """What one link has used of the reactor's time lately.

    What several reads in one turn use adds up, and time in which the link did nothing is taken off.
    (Bytes need no budget: a read is 64 KiB.)
    """

    __slots__ = ("_began", "_ended", "_used")

    def __init__(self) -> None:
        self._began = 0.0
        self._ended = 0.0
        self._used = 0.0

    def begin(self, now: float, *, fresh: bool = False) -> None:
        """Work begins; with ``fresh``, in a turn of its own."""
        self._used = 0.0 if fresh else max(0.0, self._used - (now - self._ended))
        self._began = now

    def spent(self, now: float) -> bool:
        """Whether others should come first now."""
        return self._used + (now - self._began) >= READ_SECONDS

    def end(self, now: float) -> None:
        """Work ends."""
        self._used += now - self._began
        self._ended = now
