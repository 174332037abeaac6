"""Durations as people say them."""

from __future__ import annotations

__all__ = ["span"]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def span(seconds: float) -> str:
    """Return a duration with its two largest units: ``3 h 12 min``, ``45 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s".replace(".0 ", " ")
    left = round(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        if left >= size:
            text = f"{left // size} {unit}"
            if index + 1 < len(_UNITS):
                smaller, name = _UNITS[index + 1]
                rest = left % size // smaller
                text += f" {rest} {name}" if rest else ""
            return text
    return "0 s"
