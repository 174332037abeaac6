"""Curves of results.json as SVG files; without matplotlib nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.summary import summarise

__all__ = ["Curve", "curves_of", "draw"]


#: From this span on an axis is logarithmic.
WIDE = 50


@attrs.frozen
class Curve:
    """One quantity against a count, a line a contestant.

    Attributes:
        name: of the file.
        what: the quantity with its unit.
        along: what is counted.
        lines: contestant to (count, median, least, most), sorted.
    """

    name: str
    what: str
    along: str
    lines: dict[str, list[tuple[float, float, float, float]]]


def curves_of(section: dict[str, Any]) -> list[Curve]:
    """Return the curves of one section: quantities with at least two points."""
    grouped: dict[tuple[str, str, str], dict[str, list[tuple[float, float, float, float]]]] = {}
    for figure in section["figures"]:
        if figure["at"] is not None and figure["samples"]:
            told = summarise(figure["samples"])
            key = (figure["what"], figure["unit"], figure["along"])
            line = grouped.setdefault(key, {}).setdefault(figure["who"], [])
            line.append((figure["at"], told.median, told.low, told.high))
    curves = []
    for (what, unit, along), lines in grouped.items():
        if max(len(points) for points in lines.values()) > 1:
            words = "".join(c if c.isalnum() else "-" for c in what.lower())
            name = f"{section['name']}-{'-'.join(filter(None, words.split('-')))}"
            ordered = {who: sorted(points) for who, points in lines.items()}
            curves.append(Curve(name, f"{what}, {unit}", along, ordered))
    return curves


def draw(sections: Sequence[dict[str, Any]], directory: Path) -> list[Path] | None:
    """Draw every curve; return the files, None without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "rshell"  # the same figures give the same file
    directory.mkdir(parents=True, exist_ok=True)
    return [
        _draw(curve, section["machine"], directory)
        for section in sections
        for curve in curves_of(section)
    ]


def _draw(curve: Curve, machine: dict[str, Any], directory: Path) -> Path:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axes = canvas.subplots()
    for who, points in curve.lines.items():
        at, medians, lows, highs = zip(*points, strict=True)
        below = [median - low for median, low in zip(medians, lows, strict=True)]
        above = [high - median for median, high in zip(medians, highs, strict=True)]
        axes.errorbar(at, medians, yerr=(below, above), marker="o", capsize=3, label=who)
    counts = [point[0] for points in curve.lines.values() for point in points]
    if min(counts) > 0 and max(counts) / min(counts) >= WIDE:
        axes.set_xscale("log")
    costs = [point[1] for points in curve.lines.values() for point in points]
    if axes.get_xscale() == "log" and min(costs) > 0 and max(costs) / min(costs) >= WIDE:
        axes.set_yscale("log")  # what is linear is a straight line here, too
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(curve.along)
    axes.set_ylabel(curve.what)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(
        f"{machine['cores']} × {machine['model']}, commit {machine['commit']}", fontsize=8
    )
    path = directory / f"{curve.name}.svg"
    canvas.savefig(path, metadata={"Date": None})
    return path
