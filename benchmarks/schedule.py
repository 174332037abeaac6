"""The measurements, in their order, and how long each takes; it measures nothing.

The times are of two quiet cores, rounded up; `make bench` says beside each what it took.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GROWN", "SECONDS", "SECTIONS", "clock", "in_order", "plan"]

#: Section to seconds, in the order in which they run: short ones first.
SECONDS = {
    "startup": 40,
    "device": 180,
    "command": 100,
    "forward": 60,
    "echo": 120,
    "audit": 60,
    "bulk": 220,
    "listing": 140,
    "going_live": 230,
    "comeback": 360,
    "fairness": 220,
    "fleet_size": 320,
    "echo_fleet": 50,
    "many": 40,
    "soak": 630,
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
