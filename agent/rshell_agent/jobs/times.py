"""Moments that survive a reboot, for devices whose clock may not.

Within one boot the monotonic clock counts, which runs on through suspend (CLOCK_BOOTTIME,
clock_gettime(2)).  Across boots only the wall clock is left, and many devices begin each boot in
1970; then all that is certain is that at least the present boot's age has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "Moment", "passed", "read_boot_id"]

#: Before this was written; a wall clock that shows less is wrong.
_EARLIEST = 1_760_000_000.0


class Moment:
    """When something was: which boot, and seconds of two clocks."""

    __slots__ = ("boot", "mono", "wall")

    def __init__(self, boot: str, mono: float, wall: float) -> None:
        self.boot, self.mono, self.wall = boot, mono, wall

    @classmethod
    def read(cls, value: object) -> Moment:
        """Return what `plain` made.

        Raises:
            ValueError: It is something else.
        """
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
            mono, wall = value[1], value[2]
            if isinstance(mono, int | float) and isinstance(wall, int | float):
                return cls(value[0], float(mono), float(wall))
        raise ValueError("no moment")

    def plain(self) -> list[object]:
        """Return JSON values."""
        return [self.boot, round(self.mono, 3), round(self.wall, 3)]

    @property
    def trusted(self) -> bool:
        """Whether the wall clock can be true."""
        return self.wall >= _EARLIEST


def passed(then: Moment, now: Moment) -> float:
    """Return the seconds that have passed between two moments, at least."""
    if then.boot == now.boot:
        return max(0.0, now.mono - then.mono)
    if then.trusted and now.trusted:
        return max(now.mono, now.wall - then.wall)
    return now.mono


def read_boot_id(path: str) -> str:
    """Return what changes with every boot, at most 64 characters; "" if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(256).strip()
    except OSError:
        return ""
    return "".join(c if c.isprintable() else "?" for c in text)[:64]


class Clock:
    """Tells the present moment.

    Args:
        boot_id_file: What changes with every boot; looked at each time.
        mono: Seconds since boot, suspended time included.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        boot_id_file: str,
        mono: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._boot_id_file, self._mono, self._wall = boot_id_file, mono, wall

    def now(self) -> Moment:
        """Return it."""
        return Moment(read_boot_id(self._boot_id_file), self._mono(), self._wall())
