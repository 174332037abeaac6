"""Listings as tables: rich on a terminal, aligned plain text anywhere else."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from rshell.access.printable import printable

__all__ = ["format_plain", "print_table"]

MAX_CELL = 120


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; every cell is made safe to show."""
    safe = [[printable(cell, MAX_CELL) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        sys.stdout.write(format_plain(headings, safe))
        return
    # Late: a tenth of a second that only a person's eyes are worth.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in safe:
        # Text, so that nothing a device says is taken for markup.
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


def format_plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table with columns two spaces apart, without tabs and trailing spaces."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(headings))]
    shown = []
    for line in lines:
        cells = (cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(line))
        shown.append("  ".join(cells).rstrip() + "\n")
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
