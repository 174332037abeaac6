"""A clock of one process that can be set, by libfaketime: its wall clock, and nothing else of it.

What Python, OpenSSL and SQLite read as the time of day follows `SteppedClock.set` at once;
CLOCK_MONOTONIC and CLOCK_BOOTTIME stay the machine's, as they do when somebody runs ``date -s``.
"""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.functional.processes import REQUIRE_ALL

__all__ = [
    "BACK",
    "FORWARD",
    "NINETEEN_SEVENTY",
    "RIGHT",
    "SteppedClock",
    "faketime",
    "require",
    "sweep",
]

#: What a clock may be set to.
RIGHT, BACK, FORWARD = "+0", "-3600s", "+3600s"
#: A day after the epoch: time zones lie around it, and no time before it is ever shown.
NINETEEN_SEVENTY = "@1970-01-02 00:00:00"

_numbers = itertools.count(1)


@functools.cache
def faketime() -> Path | None:
    """Return the library; None if it is not installed."""
    # The folder between is the machine's architecture; libfaketimeMT.so.1 is for old threads.
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def require() -> None:
    """Skip the test without libfaketime, or fail under RSHELL_REQUIRE_ALL."""
    if faketime() is None:
        if REQUIRE_ALL:
            raise AssertionError("libfaketime is not installed")
        raise SkipTest("libfaketime is not installed")


def sweep() -> None:
    """Remove what the library leaves in /dev/shm of processes that were killed.

    Another process with such a pid would not start.
    """
    for path in Path("/dev/shm").glob("*faketime_*_*"):
        pid = path.name.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)


class SteppedClock:
    """The clock of the process that is started with `prefix`.

    Args:
        folder: Where its file may lie.

    Attributes:
        shows: What it was set to last.
    """

    def __init__(self, folder: Path) -> None:
        sweep()
        self._file = folder / f"clock-{next(_numbers)}"
        self.set(RIGHT)

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command; its pid stays its own."""
        return (
            "env",
            f"LD_PRELOAD={faketime()}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            # A step leaves the times of files as they are.
            "NO_FAKE_STAT=1",
        )

    def set(self, to: str) -> None:
        """Set it, relative to the machine's clock (`BACK`) or at a moment (`NINETEEN_SEVENTY`)."""
        # Renamed: it is read at every look at the clock, never half written.
        new = self._file.with_suffix(".new")
        new.write_text(f"{to}\n")
        os.replace(new, self._file)
        self.shows = to
