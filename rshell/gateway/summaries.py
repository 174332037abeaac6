"""What a request asked for, in one line safe to show; and what of it may be kept for ever."""

from __future__ import annotations

import base64
import binascii
import shlex
from typing import Any

import msgspec

from rshell.access.printable import printable
from rshell.access.touched import touched_line

__all__ = ["kept", "summary"]

MAX_SUMMARY = 240
#: Of a hundred, a few show what it is about.
MAX_SHOWN_FILES = 3


def kept(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request as the audit log keeps it: of an environment only the names.

    Values of variables are where people put passwords, and the log cannot be edited.
    """
    environment = request.get("environment")
    if isinstance(environment, dict):
        names = list(environment)
    elif isinstance(environment, list):
        names = [pair[0] for pair in environment if isinstance(pair, list) and pair]
    else:
        return request
    return {**request, "environment": names}


def summary(
    details: dict[str, Any], attempt: int | None = None, handler: str | None = None
) -> str | None:
    """Return what an audit row's request asked for, and which attempt or view of it this is."""
    words = []
    if details.get("view") is True:
        words.append("view")
    elif isinstance(details.get("session_of"), str):
        words.append("takes over")
    elif attempt is not None and attempt > 1:
        words.append(f"attempt {attempt}")
    if isinstance(whose := details.get("session_of"), str):
        of = " of" if words[-1] == "view" else ""
        words[-1] += f"{of} {printable(whose, 64)}'s session"
    asked = _asked(details, handler)
    if asked:
        words.append(asked)
    return ": ".join(words) or None


def _asked(details: dict[str, Any], handler: str | None) -> str | None:
    """Return the command line, or the parameters, of a request; or a line of the console.

    Of a login by SSH it is the key or certificate.
    """
    if isinstance(details.get("files"), list):
        return _touched(details["files"], details.get("left_out"))
    if isinstance(details.get("line"), str):
        return printable(details["line"], MAX_SUMMARY)
    if isinstance(details.get("certificate"), dict):
        told = details["certificate"]
        by = f"by certificate {told.get('id')} (serial {told.get('serial')})"
        return printable(f"{by} of CA {told.get('ca')}", MAX_SUMMARY)
    if isinstance(details.get("key"), str):
        return printable(f"by key {details['key']}", MAX_SUMMARY)
    request = details.get("request")
    if not isinstance(request, dict) or not request:
        return _joiner(details)
    argv, line = request.get("argv"), request.get("line")
    if isinstance(argv, list):
        return printable(shlex.join(_text(word) for word in argv), MAX_SUMMARY)
    if isinstance(line, str):
        return printable(_text(line), MAX_SUMMARY)
    words = []
    if handler == "tail" and isinstance(paths := request.get("paths"), list):
        # Only here are these known to be bytes: text may look like base64, too.
        request = {**request, "paths": [_text(path) for path in paths]}
    for key, value in request.items():
        if value not in (None, [], {}, ""):
            shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(f"{key}={shown}")
    return printable(" ".join(words), MAX_SUMMARY) or None


def _joiner(details: dict[str, Any]) -> str | None:
    """Return whose key a row about joining is of, and what it wants to be called."""
    key, name = details.get("fingerprint"), details.get("name") or details.get("proposed")
    if not isinstance(key, str):
        return None
    return printable(f"key {key} as {name}" if name else f"key {key}", MAX_SUMMARY)


def _touched(files: list[Any], left_out: Any) -> str | None:
    """Return the first of the files that a device told of, and how many there are."""
    words, rest = [], len(files)
    for entry in files[:MAX_SHOWN_FILES]:
        words.append(touched_line(entry))
        rest -= 1
        if sum(map(len, words)) > MAX_SUMMARY // 2:
            break
    if rest:
        words.append(f"{rest} more")
    if isinstance(left_out, dict) and left_out:
        counts = ", ".join(f"{count} {op}" for op, count in left_out.items())
        words.append(f"not named: {counts}")
    return printable("; ".join(words), MAX_SUMMARY) or None


def _text(value: object) -> str:
    """Return what a base64 field says, as far as it is text."""
    try:
        return base64.b64decode(str(value), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return str(value)
