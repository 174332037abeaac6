"""A touched file in one line, safe to show; the names are a device's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rshell.access.printable import printable
from rshell.handlers.touched import path_text

__all__ = ["touched_line"]

MAX_LINE = 240


def touched_line(entry: Mapping[str, Any]) -> str:
    """Return one touched file in a few words, safe to show."""
    words = [str(entry.get("op")), path_text(entry)]
    to = path_text(entry, "to")
    if to:
        words += ["->", to]
    if entry.get("code"):
        words.append(f"({entry['code']})")
    return printable(" ".join(words), MAX_LINE)
