"""What a section of the benchmark hands back, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["Goal", "Report", "quantile", "table"]


@attrs.frozen
class Goal:
    """A promise and what was measured.

    Attributes:
        text: The promise, with its number.
        measured: What came out, in the same unit, ready to print.
        held: Whether the promise was kept.
    """

    text: str
    measured: str
    held: bool


@attrs.frozen
class Report:
    """The result of one section.

    Attributes:
        title: One line.
        tables: Printed as they are.
        goals: Judged one by one.
        skipped: Why nothing was measured; empty if something was.
    """

    title: str
    tables: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    skipped: str = ""

    @property
    def held(self) -> bool:
        """Whether every goal was met; a skipped section misses none."""
        return all(goal.held for goal in self.goals)

    def text(self) -> str:
        """Return the report as text."""
        lines = [f"== {self.title}", ""]
        if self.skipped:
            return "\n".join([*lines, f"skipped: {self.skipped}", ""])
        for one in self.tables:
            lines += [one, ""]
        for goal in self.goals:
            verdict = "PASS" if goal.held else "FAIL"
            lines.append(f"{verdict}  {goal.text}: {goal.measured}")
        return "\n".join([*lines, ""])


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of ``values`` lie, by nearest rank.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
