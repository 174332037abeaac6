"""results.json and results.md: every raw sample, with the machine and commit of its section.

A section that is measured again replaces its own entry only; each entry says where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.summary import summarise
from benchmarks.tables import markdown_section

__all__ = ["Figures", "Found", "read_results", "section_of", "write_results"]

_INTRODUCTION = """\
# Measured by `make bench`

Medians of interleaved rounds after a warm-up; every raw sample is in `results.json`. TLS 1.3 with
certificates on both sides, the audit log, flow control, limits and fairness are on in every
measurement of rshell. Compare figures of one section with each other, not with those of another
machine.
"""


@attrs.frozen
class Figures:
    """What was measured of one quantity and contestant, at one place of a curve.

    Attributes:
        median: of its samples.
        low: the least of them.
        high: the greatest.
        at: the place; None if it is on no curve.
        goal: what was promised; None if nothing was.
    """

    median: float
    low: float
    high: float
    at: float | None
    goal: Goal | None


class Found:
    """Looks quantities up in sections of results.json.

    Args:
        sections: of it.
    """

    def __init__(self, sections: Sequence[dict[str, Any]]) -> None:
        self._sections = {one["name"]: one for one in sections}

    def machine(self, section: str) -> dict[str, Any] | None:
        """Return where a section was measured; None if it was not."""
        told = self._sections.get(section)
        return None if told is None else told["machine"]

    def all(self, section: str, what: str, who: str = OURS) -> list[Figures]:
        """Return a quantity at all its places, the least first."""
        found = []
        for one in self._sections.get(section, {}).get("figures", ()):
            if (one["what"], one["who"]) == (what, who) and one["samples"]:
                told = summarise(one["samples"])
                goal = None if one["goal"] is None else Goal(**one["goal"])
                found.append(Figures(told.median, told.low, told.high, one["at"], goal))
        return sorted(found, key=lambda one: one.at or 0)

    def first(self, section: str, what: str, who: str = OURS) -> Figures | None:
        """Return a quantity at its least place; None if it was not measured."""
        return next(iter(self.all(section, what, who)), None)

    def last(self, section: str, what: str, who: str = OURS) -> Figures | None:
        """Return a quantity at its greatest place; None if it was not measured."""
        return next(iter(reversed(self.all(section, what, who))), None)

    def near(self, section: str, what: str, at: float, who: str = OURS) -> Figures | None:
        """Return a quantity at the place nearest to ``at``; None if it was not measured."""
        found = [one for one in self.all(section, what, who) if one.at is not None]
        return min(found, key=lambda one: abs((one.at or 0) - at), default=None)


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Return the sections in ``directory``; none if nothing was measured yet."""
    path = directory / "results.json"
    if not path.exists():
        return []
    sections: list[dict[str, Any]] = json.loads(path.read_text())["sections"]
    return sections


def section_of(book: Notebook, machine: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement as results.json has it."""
    return {
        "name": book.section,
        "title": book.title,
        "machine": machine,
        "seconds": round(book.seconds),
        "figures": [attrs.asdict(figure) for figure in book.figures],
        "left_out": dict(book.left_out),
        "notes": list(book.notes),
    }


def write_results(directory: Path, sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add sections to the files in ``directory``; return all that are in them now."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.json"
    known = {one["name"]: one for one in read_results(directory)}
    known.update({one["name"]: one for one in sections})
    everything = list(known.values())
    path.write_text(json.dumps({"sections": everything}, indent=1) + "\n")
    pages = [_INTRODUCTION, *(markdown_section(one) for one in everything)]
    (directory / "results.md").write_text("\n".join(pages))
    return everything
