"""What one link counts about itself: bytes by class, and how long sparse streams waited."""

from __future__ import annotations

from typing import Final

import attrs

from rshell.link.core.constants import WEIGHT_BULK, WEIGHT_INTERACTIVE, WEIGHT_NORMAL

__all__ = ["CLASSES", "CONTROL", "DelayWindow", "LinkFigures", "Traffic", "class_of"]

#: Frames of the link, LIMITs and events are control; data counts by its stream's weight.
CLASSES: Final = ("control", "interactive", "normal", "bulk")
CONTROL: Final = 0
_BY_WEIGHT: Final = {WEIGHT_INTERACTIVE: 1, WEIGHT_NORMAL: 2, WEIGHT_BULK: 3}
#: Samples over which the 95th percentile is taken: a minute or so of typing.
_WINDOW: Final = 128
_NEWEST: Final = 1 / 8


def class_of(weight: int) -> int:
    """Return the place of a stream's class in `CLASSES`."""
    return _BY_WEIGHT.get(weight, 2)


class DelayWindow:
    """Waiting times: a moving average, and the last ones for a percentile.

    Attributes:
        average: Seconds; None before the first.
    """

    __slots__ = ("_count", "_last", "average")

    def __init__(self) -> None:
        self.average: float | None = None
        # Thousands of idle links have none, or one; a deque takes 600 bytes for that.
        self._last: list[float] | None = None
        self._count = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        if self._last is None or self.average is None:
            self._last = []
            self.average = seconds
        if len(self._last) < _WINDOW:
            self._last.append(seconds)
        else:
            self._last[self._count % _WINDOW] = seconds
        self._count += 1
        self.average += (seconds - self.average) * _NEWEST

    def p95(self) -> float | None:
        """Return the 95th percentile of the last samples in seconds; None without any."""
        if not self._last:
            return None
        ordered = sorted(self._last)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


class Traffic:
    """What went over one link so far.

    Attributes:
        received: Bytes of frames, headers included, by class; they only rise.
        sent: Likewise.
        data_frames_sent: DATA frames.
        sparse_sent_at: When a sparse stream last sent something; minus infinity before.
        sparse_delays: What frames of sparse streams waited since their stream woke.
    """

    __slots__ = ("data_frames_sent", "received", "sent", "sparse_delays", "sparse_sent_at")

    def __init__(self) -> None:
        self.received = [0] * len(CLASSES)
        self.sent = [0] * len(CLASSES)
        self.data_frames_sent = 0
        self.sparse_sent_at = float("-inf")
        self.sparse_delays = DelayWindow()

    def sparse_sent(self, now: float, waited_seconds: float) -> None:
        """Count what a sparse stream sent."""
        self.sparse_sent_at = now
        self.sparse_delays.add(waited_seconds)


@attrs.frozen(kw_only=True)
class LinkFigures:
    """One link, measured.

    Attributes:
        rtt_ms: The last PING's round trip, else the kernel's estimate; None if neither is known.
        queue_delay_ms: What frames of sparse streams (keystrokes, prompts) waited in our queue,
            moving average; None while there was none.
        queue_delay_p95_ms: The 95th percentile of the last 128.
        delivery_bits_per_second: What the link delivers; None while it was never the limit.
        record_bytes: What is handed over at once, now.
        received: Bytes of frames by class (`CLASSES`).
        sent: Likewise.
    """

    rtt_ms: float | None
    queue_delay_ms: float | None
    queue_delay_p95_ms: float | None
    delivery_bits_per_second: float | None
    record_bytes: int
    received: dict[str, int]
    sent: dict[str, int]
