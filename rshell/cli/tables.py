"""Listings as tables: rich on a terminal, aligned plain text anywhere else."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from rshell.access.printable import printable
from rshell.cli.pipes import say

__all__ = ["clip_column", "format_plain", "print_table"]

MAX_CELL = 120
GAP = "  "
#: A clipped column keeps this many columns of the terminal, even if others have to fold.
MIN_CLIPPED = 16


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], clipped: str | None = None
) -> None:
    """Print a table to stdout; every cell is made safe to show.

    Args:
        headings: One for each column.
        rows: The cells.
        clipped: The heading of the column that gives way on a terminal that is too narrow.
    """
    safe = [[printable(cell, MAX_CELL) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        say(format_plain(headings, safe))
        return
    # Late: a tenth of a second that only a person's eyes are worth.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    if clipped is not None:
        safe = clip_column(headings, safe, list(headings).index(clipped), console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in safe:
        # Text, so that nothing a device says is taken for markup.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def clip_column(
    headings: Sequence[str], rows: Sequence[Sequence[str]], index: int, width: int
) -> list[list[str]]:
    """Return the rows with one column clipped so that the table fits.

    Args:
        headings: One for each column.
        rows: The cells.
        index: Of the column.
        width: Of the terminal, in columns; the column is left at least `MIN_CLIPPED`.
    """
    lines = [headings, *rows]
    others = [max(_width(line[i]) for line in lines) for i in range(len(headings)) if i != index]
    room = max(MIN_CLIPPED, width - sum(others) - len(GAP) * len(others))
    return [[*row[:index], _clip(row[index], room), *row[index + 1 :]] for row in rows]


def _clip(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text) >= width:
        text = text[:-1]
    return text + "…"


def format_plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table with columns two spaces apart, without tabs and trailing spaces."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(headings))]
    shown = []
    for line in lines:
        cells = (cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(line))
        shown.append(GAP.join(cells).rstrip() + "\n")
    return "".join(shown)


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
