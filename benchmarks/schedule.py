"""The measurements, in their order, and how long each takes; it measures nothing.

The times are of two quiet cores, rounded up; `make bench` says beside each what it took.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GROWN", "SECONDS", "SECTIONS", "clock", "in_order", "plan"]

#: Section to seconds, in the order in which they run: short ones first.
SECONDS = {
    "startup": 20,
    "device": 160,
    "command": 90,
    "forward": 40,
    "echo": 110,
    "audit": 60,
    "bulk": 210,
    "listing": 80,
    "going_live": 170,
    "comeback": 460,
    "fairness": 190,
    "fleet_size": 210,
    "echo_fleet": 110,
    "many": 20,
    "soak": 610,
}
SECTIONS = tuple(SECONDS)
#: Those that look at the same fleet, which grows once for all of them; the last ones.
GROWN = ("fleet_size", "echo_fleet", "many", "soak")
#: What growing takes if `fleet_size`, whose time it is, does not run.
GROWING_SECONDS = 130


def in_order(wanted: Iterable[str]) -> list[str]:
    """Return sections in the order in which they run, each once; all of them if none is wanted."""
    found = set(wanted)
    return [name for name in SECTIONS if name in found or not found]


def plan(wanted: Iterable[str]) -> float:
    """Return how many seconds sections will take."""
    names = set(wanted)
    seconds = float(sum(SECONDS[name] for name in names))
    if names & set(GROWN) and "fleet_size" not in names:
        seconds += GROWING_SECONDS
    return seconds


def clock(seconds: float) -> str:
    """Return a duration for people: minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"
