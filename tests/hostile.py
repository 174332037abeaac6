"""Text that acts on terminals and misleads eyes, records full of it, and how to find it."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

__all__ = ["EVIL", "acting", "hostile"]

LIVE = "2026-01-01T00:00:00Z"
#: Clears the screen, sets the clipboard and a title, links, answers for the terminal (CSI and its
#: C1 form), NUL, DEL, turns the order of reading, breaks lines, hides itself.
EVIL = (
    "e\x1b[2J\x1b]52;c;ZWNobw==\x07\x1b]8;;http://x\x1b\\\x9b6n\x90+q\x9c\x85\x00\x08\x7f"
    "\u202ex\u2066\u200f\u061c\u2028\u200b\ufeff\r\nrshell: all is well"
)
#: What turns the order of reading (Unicode's UAX 9), and separators that are line ends to some.
BIDI = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
)
#: Keys whose values programs read: a hostile one is an error, and would hide what else is shown.
PLAUSIBLE: dict[str, Any] = {
    **dict.fromkeys(
        ("at", "started_at", "ended_at", "connected_at", "last_seen", "created_at", "changed_at",
         "received_at", "added_at", "last_used", "expires_at", "quarantined"), LIVE
    ),
    "session": "ab" * 16,
}  # fmt: skip


def hostile(kind: Any, key: str = "") -> Any:
    """Return a value of a type whose every text is hostile."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if key in PLAUSIBLE and (kind is str or str in arguments):
        return PLAUSIBLE[key]
    if origin in (types.UnionType, typing.Union):
        return hostile(next(one for one in arguments if one is not type(None)), key)
    if origin is typing.Literal:
        return arguments[0]
    if origin is list:
        return [hostile(arguments[0])]
    if origin is dict:
        return {EVIL: hostile(arguments[1]), "os": hostile(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return {name: hostile(hints[name], name) for name in kind.__struct_fields__}
    if kind is Any:
        return {EVIL: [EVIL]}
    return {str: EVIL, int: 7, float: 1.5, bool: True}[kind]


def acting(shown: bytes) -> list[str]:
    """Return what of an output a terminal would act on, with what stands around it."""
    text = shown.decode("utf-8", "surrogateescape")
    return [
        f"{c!r} in {text[max(0, place - 40) : place + 10]!r}"
        for place, c in enumerate(text)
        if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) <= 0x9F or c in BIDI
        or "\ud800" <= c <= "\udfff"
    ][:3]  # fmt: skip
