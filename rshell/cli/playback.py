"""Playback: where in a recording we are, what is to be shown, and when.  Pure: time is given.

What it is not: the terminal (`play`).  Questions are taken out of what is shown, because our
terminal would answer them, and the answers would be taken for keys.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from rshell.access.asciicast import CastEvent
from rshell.cli.replay import QuestionFilter

__all__ = ["Playback"]

#: Puts a terminal into its first state, before it is shown an earlier place.
RESET = b"\x1b[!p\x1b[?1049l\x1b[?25h\x1b[0m\x1b[H\x1b[2J\x1b[3J"


class Playback:
    """Plays events.

    Args:
        events: In order.
        speed: Times faster than it was.
        idle_limit: Seconds that a pause lasts at most; None keeps them.
        start: Seconds into the recording at which to begin.
        now: Seconds of any clock.

    Attributes:
        paused: Whether time stands still.
        position: Seconds into what is played (pauses shortened), as of the last call.
    """

    def __init__(
        self,
        events: Iterable[CastEvent],
        *,
        speed: float,
        idle_limit: float | None,
        start: float,
        now: float,
    ) -> None:
        self.paused = False
        self.position = 0.0
        self._speed = speed
        self._shown: list[bytes] = []
        self._times: list[float] = []
        self._next = 0
        self._now = now
        self._questions = QuestionFilter()
        before = played = began = 0.0
        for event in events:
            gap = event.seconds - before
            played += gap if idle_limit is None else min(gap, idle_limit)
            before = event.seconds
            if before <= start:
                began = played
            if event.code == "o":
                self._times.append(played)
                self._shown.append(event.text.encode())
        self.length = played
        self._skip_to = began if start else 0.0

    @property
    def over(self) -> bool:
        """Whether everything was shown."""
        return self._next >= len(self._shown) and self.position >= self.length

    def begin(self) -> bytes:
        """Return what is shown at first."""
        self.position = self._skip_to
        return self._due()

    def advance(self, now: float) -> bytes:
        """Let time pass; return what is to be shown."""
        passed, self._now = now - self._now, now
        if not self.paused:
            self.position = min(self.length, self.position + max(0.0, passed) * self._speed)
        return self._due()

    def wait(self) -> float | None:
        """Return the seconds until something is to be shown; None for never."""
        if self.paused or self.over:
            return None
        until = self._times[self._next] if self._next < len(self._times) else self.length
        return max(0.0, (until - self.position) / self._speed)

    def toggle(self) -> None:
        """Pause, or go on."""
        self.paused = not self.paused

    def seek(self, seconds: float) -> bytes:
        """Go forward or back by so much; return what is to be shown."""
        wanted = min(self.length, max(0.0, self.position + seconds))
        shown = b""
        if wanted < self.position:
            shown, self._next = RESET, 0
            self._questions = QuestionFilter()
        self.position = wanted
        return shown + self._due()

    def _due(self) -> bytes:
        end = bisect_right(self._times, self.position, self._next)
        data = b"".join(self._shown[self._next : end])
        self._next = end
        return self._questions.feed(data)
