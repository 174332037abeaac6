"""Curves of results.json as SVG files; without matplotlib nothing is drawn.

Cost has to stay flat or linear against each of the counts.  The same figures give the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.results import Figures, Found

__all__ = ["PLOTS", "Curve", "Plot", "curve_of", "draw"]

#: From this span on an axis is logarithmic.
WIDE = 50


@attrs.frozen
class Plot:
    """A picture that is wanted.

    Attributes:
        name: of the file.
        section: where its figures are.
        starts: quantities whose names begin so; each is a line.
        along: what is counted.
        what: the quantity, with its unit.
        ends: and end so.
        swapped: whether the quantity is told along the lower axis.
        linear: whether a line shows what is linear.
    """

    name: str
    section: str
    starts: tuple[str, ...]
    along: str
    what: str
    ends: tuple[str, ...] = ("",)
    swapped: bool = False
    linear: bool = False


PLOTS = (
    Plot("echo", "echo_fleet", ("echo among others",), "other devices live", "keystroke echo, ms"),
    Plot("memory", "fleet_size", ("gateway's memory", "kernel's memory"), "live devices",
         "memory a live device, KB"),
    Plot("idle", "fleet_size", ("gateway's processor use",), "live devices",
         "gateway, fleet idle, % of a core"),
    Plot("many", "many", ("no-op on devices",), "devices of the command", "devices/s"),
    Plot("listing", "listing", ("selector", "`rshell devices --json`"), "devices known", "ms",
         ends=(", over an open link", ", cold"), linear=True),
    Plot("startup", "startup", ("until every door listens", "processor time of that"),
         "devices known", "start of a gateway, s"),
    Plot("comeback", "comeback", ("seconds until this share",), "% of the fleet",
         "s after SIGKILL of the gateway", swapped=True),
)  # fmt: skip


@attrs.frozen
class Curve:
    """What a picture shows.

    Attributes:
        plot: which it is.
        lines: label to points, sorted.
        goals: what was promised of any of them.
        machine: where it was measured.
    """

    plot: Plot
    lines: dict[str, list[Figures]]
    goals: list[float]
    machine: dict[str, Any]


def curve_of(plot: Plot, sections: Sequence[dict[str, Any]]) -> Curve | None:
    """Return a picture; None if there are no two points to draw a line between."""
    found = Found(sections)
    section = next((one for one in sections if one["name"] == plot.section), None)
    if section is None:
        return None
    lines: dict[str, list[Figures]] = {}
    for figure in section["figures"]:
        what, who = figure["what"], figure["who"]
        wanted = what.startswith(plot.starts) and what.endswith(plot.ends)
        if wanted and figure["at"] is not None:
            points = [one for one in found.all(plot.section, what, who) if one.at is not None]
            if len(points) > 1:
                lines[what] = points
    if not lines:
        return None
    goals = {one.goal.bound for points in lines.values() for one in points if one.goal is not None}
    return Curve(plot, lines, sorted(goals), section["machine"])


def draw(sections: Sequence[dict[str, Any]], directory: Path) -> list[Path] | None:
    """Draw every picture that there are figures for; return the files, None without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("svg")
    # Letters as text: small files, and the page's own fonts.
    mpl.rcParams.update({"svg.hashsalt": "rshell", "svg.fonttype": "none", "font.size": 9})
    directory.mkdir(parents=True, exist_ok=True)
    curves = [curve_of(plot, sections) for plot in PLOTS]
    return [_draw(curve, directory) for curve in curves if curve is not None]


def _draw(curve: Curve, directory: Path) -> Path:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axes = canvas.subplots()
    for label, points in curve.lines.items():
        at = [one.at or 0.0 for one in points]
        medians = [one.median for one in points]
        below = [one.median - one.low for one in points]
        above = [one.high - one.median for one in points]
        if curve.plot.swapped:
            axes.errorbar(medians, at, xerr=(below, above), marker="o", capsize=3, label=label)
        else:
            axes.errorbar(at, medians, yerr=(below, above), marker="o", capsize=3, label=label)
    for goal in curve.goals:
        line = axes.axvline if curve.plot.swapped else axes.axhline
        line(goal, color="black", linestyle="--", linewidth=1, label=f"goal: {goal:g}")
    if curve.plot.linear:
        _linear(axes, curve)
    _scale(axes, curve)
    names = (curve.plot.along, curve.plot.what)
    below_axis, beside_axis = reversed(names) if curve.plot.swapped else names
    axes.set_xlabel(below_axis)
    axes.set_ylabel(beside_axis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    machine = curve.machine
    axes.set_title(
        f"{machine['cores']} × {machine['model']}, commit {machine['commit']}", fontsize=8
    )
    path = directory / f"{curve.plot.name}.svg"
    canvas.savefig(path, metadata={"Date": None})
    return path


def _linear(axes: Any, curve: Curve) -> None:
    """Show what is linear: a cost of nothing but rows, through the dearest point."""
    points = [one for line in curve.lines.values() for one in line if one.at]
    dearest = max(points, key=lambda one: one.median)
    least = min(one.at or 0 for one in points)
    at = [least, dearest.at or 0]
    cost = [dearest.median * least / at[1], dearest.median]
    axes.plot(at, cost, color="gray", linestyle=":", label="linear")


def _scale(axes: Any, curve: Curve) -> None:
    """Choose axes: what is linear is a straight line in both forms."""
    if curve.plot.swapped:
        axes.set_xlim(left=0)
        return
    counts = [one.at or 0 for points in curve.lines.values() for one in points]
    costs = [one.median for points in curve.lines.values() for one in points]
    if min(counts) > 0 and max(counts) / min(counts) >= WIDE:
        axes.set_xscale("log")
        if min(costs) > 0 and max(costs) / min(costs) >= WIDE:
            axes.set_yscale("log")
            return
    axes.set_ylim(bottom=0)
