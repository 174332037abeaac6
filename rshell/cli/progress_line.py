"""How far handlers are, in one line of the terminal that gives way to their output.

What devices tell is made safe, cut to the terminal's width, and never more than one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rshell.access.printable import printable
from rshell.cli.presenting import Write
from rshell.cli.times import span

__all__ = ["ProgressLine", "progress_text"]

#: More often than an eye can see is only work.
EVERY_SECONDS = 0.1
_CLEAR = b"\r\x1b[K"


class ProgressLine:
    """Shows the newest progress of any device.

    Args:
        seconds: A clock.
        write: Our outputs.
        stderr: On which of them the terminal is.
        columns: Its width now.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        write: Write,
        stderr: bool,
        columns: Callable[[], int],
    ) -> None:
        self._seconds = seconds
        self._write = write
        self._stderr = stderr
        self._columns = columns
        self._shown = False
        self._shown_at = -math.inf
        self._began: dict[str, tuple[float, float]] = {}

    def write(self, data: bytes, stderr: bool) -> None:
        """Write output, in the line's place."""
        if self._shown:
            self._shown = False
            self._write(_CLEAR, self._stderr)
        self._write(data, stderr)

    def event(self, device: str, kind: str, body: dict[str, Any]) -> None:
        """Take an event of a device; other kinds than progress are not for this line."""
        if kind != "progress":
            return
        now, done = self._seconds(), _number(body.get("done"))
        began, first = self._began.setdefault(device, (now, done or 0))
        if now - self._shown_at < EVERY_SECONDS:
            return
        rate = None
        if done is not None and now - began >= 1:
            rate = (done - first) / (now - began)
        text = f"{printable(device, 64)}: {progress_text(body, rate)}"
        self._shown, self._shown_at = True, now
        # one column less: in the last one some terminals wrap
        self._write(_CLEAR + text[: max(1, self._columns() - 1)].encode(), self._stderr)

    def ended(self) -> None:
        """Take the line back."""
        self.write(b"", self._stderr)


def progress_text(body: dict[str, Any], rate: float | None) -> str:
    """Return ``45 % (450 of 1,000), 12/s, 45 s left  the note``.

    Args:
        body: Of the event, whatever a device put into it.
        rate: How much is done a second, if that is known.
    """
    done, total = _number(body.get("done")), _number(body.get("total"))
    words = []
    if done is not None and total is not None and total > 0:
        words.append(f"{min(100.0, max(0.0, 100 * done / total)):.0f} % ({done:,} of {total:,})")
    elif done is not None:
        words.append(f"{done:,}")
    if rate is not None and rate > 0:
        words.append(f"{rate:,.3g}/s" if rate < 1000 else f"{rate:,.0f}/s")
        if done is not None and total is not None and total > done:
            left = (total - done) / rate
            words.append(f"{span(left)} left" if left < 1e7 else "long")
    note = body.get("note")
    text = ", ".join(words)
    if isinstance(note, str) and note:
        text = f"{text}  {printable(note)}".strip()
    return text or "working"


def _number(value: Any) -> int | float | None:
    """Return a number that can be shown; a device may send any JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) and abs(value) < 2**63 else None
