"""Text that came from elsewhere, made safe to show on a terminal or in a log line.

Device names, facts, error messages and listings are chosen by devices; raw, they could
move the cursor, retitle the window, answer for the terminal or reverse the reading order.
Not for terminal sessions themselves, whose bytes are passed on untouched.
"""

from __future__ import annotations

__all__ = ["printable"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str, limit: int = 200) -> str:
    """Return *text* on one line without anything a terminal would act on.

    Control characters (C0, C1, DEL), bidirectional and other invisible format
    characters, lone surrogates and unassigned code points each become one U+FFFD, so that
    an attack is seen and positions stay true; white space of any kind becomes a space.

    Args:
        text: anything.
        limit: at most this many characters are returned; a cut is marked by an ellipsis.

    Raises:
        ValueError: *limit* is less than 1.
    """
    if limit < 1:
        raise ValueError("a limit of at least one character")
    if len(text) > limit:
        text = text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if text.isprintable():
        return text
    return "".join(_safe(character) for character in text)


def _safe(character: str) -> str:
    if character.isprintable():
        return character
    # str.isspace() also holds for the separators FS, GS, RS and US, which are controls
    if character in "\t\n\r" or (character.isspace() and ord(character) > 0x9F):
        return " "
    return REPLACEMENT
