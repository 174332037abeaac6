"""``--grep`` on the device, with a limit on what one line may cost.

Python's patterns backtrack, and some take longer than the age of the device on an unlucky line.  A
timer of processor time (not of wall time: a busy machine is no reason) interrupts such a match.
"""

from __future__ import annotations

import re
import signal
from types import FrameType

__all__ = ["BadPattern", "Pattern"]

#: Processor seconds for one line of up to 64 KiB: a linear pattern takes milliseconds on the
#: slowest device.
LINE_SECONDS = 0.25
#: Characters.
MAX_PATTERN = 1000


class BadPattern(ValueError):
    """It cannot be used; the text is one line for a person."""


class _TooSlow(Exception):
    """The timer has gone off."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _TooSlow


class Pattern:
    """Tells which lines are wanted.

    Args:
        text: A regular expression of Python, searched for in each line's bytes.
        ignore_case: Of ASCII letters, and of others where the pattern has no bytes above them.
        invert: Want the other lines.

    Raises:
        BadPattern: It is none, or too long.
    """

    def __init__(self, text: str, ignore_case: bool = False, invert: bool = False) -> None:
        if len(text) > MAX_PATTERN:
            raise BadPattern(f"the pattern is longer than {MAX_PATTERN} characters")
        try:
            # Text, not bytes: "." is a character and "ü" one, also in a class.
            self._search = re.compile(text, re.IGNORECASE if ignore_case else 0).search
        except (re.error, OverflowError, RecursionError) as error:
            raise BadPattern(f"not a regular expression: {error}") from None
        self._invert = invert
        signal.signal(signal.SIGVTALRM, _interrupt)

    def wants(self, line: bytes) -> bool:
        """Whether a line is wanted.

        Raises:
            BadPattern: It takes too long on this line.
        """
        text = line.decode("utf-8", "replace")
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, LINE_SECONDS)
            try:
                found = self._search(text) is not None
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except (_TooSlow, RecursionError, MemoryError):
            raise BadPattern(
                f"the pattern takes more than {LINE_SECONDS:g} s for one line of {len(line):,} "
                "bytes; write it without nested repetition"
            ) from None
        return found != self._invert
