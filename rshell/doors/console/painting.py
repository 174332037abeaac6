"""What is drawn: colours of Python source, neutralised text, tables.  Pure."""

from __future__ import annotations

import io
import keyword
import tokenize
import unicodedata
from collections.abc import Sequence

from rshell.access.printable import printable

__all__ = ["BOLD", "DIM", "RED", "RESET", "cells", "colour_source", "safe_text", "table", "tint"]

RESET, BOLD, DIM, RED = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"
_KEYWORD, _STRING, _NUMBER, _COMMENT = "\x1b[35m", "\x1b[32m", "\x1b[36m", "\x1b[2m"
#: Characters of source that are coloured at each key; more would be felt.
MAX_COLOURED = 4096
#: Characters of one line that are shown.
MAX_LINE = 10_000
#: Characters of one value that are shown; all of it is still there as ``_``.
MAX_SHOWN = 256 * 1024
#: A column of a table.
MAX_CELL = 120


def safe_text(text: str, limit: int = MAX_SHOWN) -> str:
    """Return text of several lines without anything that a terminal would act on."""
    left_out = len(text) - limit
    lines = text[:limit].expandtabs().split("\n")
    shown = "\n".join(printable(line.rstrip("\r"), MAX_LINE) for line in lines)
    if left_out > 0:
        shown += f"\n… {left_out:,} more characters"
    return shown


def tint(colour: str, text: str) -> str:
    """Return safe text in a colour."""
    return f"{colour}{text}{RESET}"


def cells(character: str) -> int:
    """Return the columns that a character takes on a terminal."""
    if character.isascii():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def colour_source(before: str, line: str) -> list[str]:
    """Return the colour of each character of a line, "" for none.

    Args:
        before: The lines of the statement before it, with their newlines; it may be incomplete,
            and it may be no Python at all.
        line: The line.
    """
    colours = [""] * len(line)
    if len(before) + len(line) > MAX_COLOURED:
        return colours
    row = before.count("\n") + 1
    try:
        for token in tokenize.generate_tokens(io.StringIO(before + line).readline):
            colour = _colour_of(token)
            if not colour or not token.start[0] <= row <= token.end[0]:
                continue
            begin = token.start[1] if token.start[0] == row else 0
            end = token.end[1] if token.end[0] == row else len(line)
            colours[begin:end] = [colour] * len(line[begin:end])
    except Exception:  # noqa: S110  # half a statement; what was recognised is coloured
        pass
    return colours[: len(line)]


def _colour_of(token: tokenize.TokenInfo) -> str:
    match token.type:
        case tokenize.STRING:
            return _STRING
        case tokenize.NUMBER:
            return _NUMBER
        case tokenize.COMMENT:
            return _COMMENT
        case tokenize.NAME if keyword.iskeyword(token.string):
            return _KEYWORD
        case _:
            return ""


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, colours: bool = True
) -> str:
    """Return an aligned table; cells are made safe, lines cut to the width."""
    safe = [[printable(cell or "", MAX_CELL) for cell in row] for row in rows]
    lines = [list(headings), *safe]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headings))]
    shown = []
    for number, line in enumerate(lines):
        text = "  ".join(
            cell + " " * (widths[column] - _width(cell)) for column, cell in enumerate(line)
        ).rstrip()
        text = _clip(text, width)
        shown.append(tint(BOLD, text) if colours and number == 0 else text)
    return "\n".join(shown)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(cells(character) for character in text)


def _clip(text: str, width: int) -> str:
    if width <= 1 or _width(text) <= width:
        return text
    while text and _width(text) >= width:
        text = text[:-1]
    return text + "…"
