"""Where a measurement writes what it saw: raw samples by quantity and contestant, and notes.

A measurement loops over `Notebook.rounds` and visits every contestant in each round, so that what
else the machine does falls on all of them.  The first round is a warm-up: what is written down in
it is forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import attrs

__all__ = ["OURS", "Figure", "Goal", "Notebook"]

#: The contestant that ratios are taken of.
OURS: Final = "rshell"
#: The least that says anything of a spread; with --quick it only shows that a script works.
REPEATS, QUICK_REPEATS = 5, 2
#: Devices of the largest fleet, and how long it is watched.
MOST, QUICK_MOST, MINUTES = 20_000, 200, 10


@attrs.frozen
class Goal:
    """A promise about the median of a figure.

    Attributes:
        bound: in the figure's unit.
        at_most: whether the figure may not be above it; else it may not be below.
    """

    bound: float
    at_most: bool = True

    def held_by(self, value: float) -> bool:
        """Tell whether ``value`` keeps the promise."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@attrs.define
class Figure:
    """One quantity of one contestant.

    Attributes:
        what: the quantity, for people.
        who: the contestant.
        unit: of the samples.
        at: where on a curve, say the number of devices; None if it is on none.
        along: what ``at`` counts, the curve's other axis; "" if it is on none.
        goal: what was promised; None if nothing was.
        samples: one a round, in their order.
    """

    what: str
    who: str
    unit: str
    at: float | None = None
    along: str = ""
    goal: Goal | None = None
    samples: list[float] = attrs.Factory(list)


class Notebook:
    """The figures and notes of one measurement.

    Args:
        section: its short name.
        title: one line for people.
        quick: whether sizes and repeats are only to show that the script works.
        repeats: rounds after the warm-up; None for the usual number.
        most: how many devices the largest fleet may have.
        minutes: how long a soak lasts.
    """

    def __init__(
        self,
        section: str,
        title: str,
        *,
        quick: bool = False,
        repeats: int | None = None,
        most: int | None = None,
        minutes: int | None = None,
    ) -> None:
        self.section = section
        self.title = title
        self.quick = quick
        self.repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
        self.most = most or (QUICK_MOST if quick else MOST)
        self.minutes = minutes or (1 if quick else MINUTES)
        #: What it took, once it has ended.
        self.seconds = 0.0
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        self._figures: dict[tuple[str, str, float | None], Figure] = {}
        self._warming = False

    @property
    def figures(self) -> list[Figure]:
        """All that were written down, in the order of their first sample."""
        return list(self._figures.values())

    def rounds(self, *, warm_up: bool = True) -> Iterator[int]:
        """Yield 0 for the warm-up, then 1 to the number of repeats.

        Args:
            warm_up: False where every round begins with a new process anyway.
        """
        try:
            for number in range(0 if warm_up else 1, self.repeats + 1):
                self._warming = number == 0
                self.say(f"round {number} of {self.repeats}" if number else "warm-up")
                yield number
        finally:
            self._warming = False

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        who: str = OURS,
        *,
        at: float | None = None,
        along: str = "",
        goal: Goal | None = None,
    ) -> None:
        """Write one sample down; see `Figure`.  During the warm-up nothing is kept."""
        if self._warming:
            return
        key = (what, who, at)
        figure = self._figures.get(key)
        if figure is None:
            figure = self._figures[key] = Figure(what, who, unit, at, along, goal)
        figure.samples.append(value)

    def size(self, full: int, quick: int) -> int:
        """Return how much to do: ``quick`` with --quick."""
        return quick if self.quick else full

    def note(self, text: str) -> None:
        """Say once, beside the figures, how they came about."""
        if text not in self.notes:
            self.notes.append(text)

    def leave_out(self, who: str, why: str) -> None:
        """Name a contestant that cannot take part."""
        self.left_out.setdefault(who, why)

    def say(self, text: str) -> None:
        """Tell whoever waits what happens now."""
        sys.stderr.write(f"{self.section}: {text}\n")
        sys.stderr.flush()
