"""Figures of results.json in pages for people: README.md and docs/scaling.md.

``python -m benchmarks.pages`` writes what stands between the markers of each page; `make bench`
does it by itself.  Whoever edits a figure by hand is found by the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.performance import missing_picks, performance_table
from benchmarks.plots import PLOTS, curve_of
from benchmarks.results import read_results
from benchmarks.schedule import SECTIONS, clock
from benchmarks.sizing import constants_of, constants_table, size_table

__all__ = ["NOTHING", "PAGES", "fill", "write_pages"]

NOTHING = "No figures yet: a full `make bench` on a quiet machine writes them here."
END = "<!-- end of figures -->"

Sections = Sequence[dict[str, Any]]
#: What makes the lines between the markers of each name.
Parts = Mapping[str, Callable[[Sections], list[str]]]


def _begin(name: str) -> str:
    return f"<!-- figures: {name} -->"


def _quotable(sections: Sections) -> list[dict[str, Any]]:
    """Return the sections of full runs: what --quick measures is no figure."""
    return [one for one in sections if not one["machine"].get("quick")]


def _machine(sections: Sections) -> str:
    """Return where it was measured; several runs are told one by one."""
    told: dict[str, list[str]] = {}
    for one in sections:
        machine = one["machine"]
        where = (
            f"{machine['cores']} × {machine['model']}, {machine['memory']} of memory, Linux "
            f"{machine['kernel']}, Python {machine['python']}, {machine['openssl']}, commit "
            f"`{machine['commit']}`, {machine['date'][:10]}"
        )
        told.setdefault(where, []).append(one["name"])
    if len(told) == 1:
        return f"Measured on {next(iter(told))}."
    return " ".join(f"{', '.join(names)}: measured on {where}." for where, names in told.items())


def _performance(sections: Sections) -> list[str]:
    table = performance_table(sections)
    if len(table) <= 2:
        return [NOTHING]
    return [*table, "", _machine(sections)]


def _sizes(sections: Sections) -> list[str]:
    each = constants_of(sections)
    return [NOTHING] if each is None else size_table(each)


def _constants(sections: Sections) -> list[str]:
    each = constants_of(sections)
    return [NOTHING] if each is None else [*constants_table(each), "", _machine(sections)]


def _times(sections: Sections) -> list[str]:
    taken = {one["name"]: one.get("seconds", 0) for one in sections}
    told = [f"`{name}` {clock(taken[name])}" for name in SECTIONS if name in taken]
    return [f"Took, in minutes: {', '.join(told)}."] if told else [NOTHING]


def _plots(sections: Sections) -> list[str]:
    shown = [plot for plot in PLOTS if curve_of(plot, sections) is not None]
    return [f"![{plot.what}](plots/{plot.name}.svg)" for plot in shown] or [NOTHING]


#: Page to its parts.
PAGES: dict[str, Parts] = {
    "README.md": {"performance": _performance},
    "docs/scaling.md": {
        "constants": _constants, "sizes": _sizes, "plots": _plots, "times": _times,
    },
}  # fmt: skip


def fill(text: str, parts: Parts, sections: Sections) -> str:
    """Return a page with its figures as results.json has them.

    Raises:
        ValueError: A part has no markers.
    """
    told = _quotable(sections)
    for name, make in parts.items():
        head, begin, rest = text.partition(f"{_begin(name)}\n")
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"no markers for {name}")
        text = "".join([head, begin, "\n".join(make(told)), "\n", end, tail])
    return text


def write_pages(root: Path, sections: Sections) -> list[Path]:
    """Fill all pages; return those that changed."""
    changed = []
    for name, parts in PAGES.items():
        page = root / name
        before = page.read_text("utf-8")
        after = fill(before, parts, sections)
        if after != before:
            page.write_text(after, "utf-8")
            changed.append(page)
    return changed


if __name__ == "__main__":
    for page in write_pages(ROOT, read_results(ROOT / "benchmarks")):
        sys.stdout.write(f"{page.relative_to(ROOT)}: written\n")
    for pick in missing_picks(read_results(ROOT / "benchmarks")):
        sys.stderr.write(f"not in README's table: {pick.section}: {pick.what}, {pick.who}\n")
