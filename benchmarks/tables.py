"""Figures as tables: aligned text for a terminal, Markdown for pages.  It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.notebook import OURS, Figure, Notebook
from benchmarks.summary import ratio, summarise

__all__ = ["markdown_section", "number", "rows_of", "text_section", "text_table"]

HEAD = ("what", "who", "median", "least – most", "n", "× rshell", "goal")


def number(value: float) -> str:
    """Return a figure with three digits that mean something."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def rows_of(figures: Sequence[Figure], *, judge: bool = True) -> list[list[str]]:
    """Return the cells of one line a figure, those of the same quantity together.

    Args:
        figures: in the order of their first sample.
        judge: whether goals are said to be kept or missed.
    """
    told = [figure for figure in figures if figure.samples]
    order = list(dict.fromkeys((figure.what, figure.at) for figure in told))
    told.sort(key=lambda figure: order.index((figure.what, figure.at)))
    return [_row(figure, _base(figure, told), judge) for figure in told]


def _base(figure: Figure, figures: Sequence[Figure]) -> Figure | None:
    """Return what a figure is told as a multiple of: ours, at the same or the nearest place."""
    ours = [one for one in figures if one.what == figure.what and one.who.startswith(OURS)]
    if figure.at is None:
        return next((one for one in ours if one.at is None), None)
    at = figure.at
    placed = [(abs(one.at - at), one) for one in ours if one.at is not None]
    return min(placed, key=lambda pair: pair[0])[1] if placed else None


def _row(figure: Figure, base: Figure | None, judge: bool) -> list[str]:
    told = summarise(figure.samples)
    what = figure.what if figure.at is None else f"{figure.what}, {figure.at:,.0f} {figure.along}"
    times = None
    if base is not None and figure.who != base.who:
        times = ratio(told.median, summarise(base.samples).median)
    goal = ""
    if figure.goal is not None:
        held = "kept" if figure.goal.held_by(told.median) else "MISSED"
        goal = f"{figure.goal} {held if judge else ''}".rstrip()
    return [
        f"{what}, {figure.unit}",
        figure.who,
        number(told.median),
        f"{number(told.low)} – {number(told.high)}",
        str(told.count),
        "" if times is None else f"{number(times)}",
        goal,
    ]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first two columns to the left, the others to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        put = [
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(put).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def text_section(book: Notebook) -> str:
    """Return a measurement as text for a terminal."""
    lines = [f"== {book.section}: {book.title}", ""]
    rows = rows_of(book.figures, judge=not book.quick)
    if rows:
        lines += [text_table(HEAD, rows), ""]
    lines += [f"left out: {who}: {why}" for who, why in book.left_out.items()]
    lines += [f"note: {text}" for text in book.notes]
    return "\n".join([*lines, ""])


def markdown_section(section: dict[str, Any]) -> str:
    """Return one section of results.json as Markdown.

    Args:
        section: as `benchmarks.results` writes it.
    """
    figures = [Figure(**{**one, "goal": None}) for one in section["figures"]]
    rows = [row[:-1] for row in rows_of(figures)]
    lines = [f"## {section['name']}: {section['title']}", "", _stamp(section["machine"]), ""]
    lines += [_line(HEAD[:-1]), "|---|---|" + "---:|" * (len(HEAD) - 3)]
    lines += [_line(row) for row in rows]
    lines.append("")
    lines += [f"* Left out: {who}: {why}." for who, why in section["left_out"].items()]
    lines += [f"* {text}" for text in section["notes"]]
    return "\n".join([*lines, ""])


def _stamp(machine: dict[str, Any]) -> str:
    quick = " (quick: shows that it runs, no figure to quote)" if machine.get("quick") else ""
    return (
        f"{machine['cores']} × {machine['model']}, Linux {machine['kernel']}, Python "
        f"{machine['python']}, {machine['openssl']}; commit {machine['commit']}, "
        f"{machine['date']}, load before {machine['load_before']:.2f}{quick}"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
