"""What the worker was asked for, out of the plain map that came through the keeper."""

from __future__ import annotations

from base64 import b64decode

from rshell_agent.workers.tail.pattern import Pattern

__all__ = ["BadArgument", "Request"]

#: Lines shown of each file if nothing else was said, as tail(1).
DEFAULT_LINES = 10


class BadArgument(ValueError):
    """The argument is not what the handler sends."""


class Request:
    """One call of tail; the fields are those of the handler's request type.

    Args:
        argument: Of the keeper.
        wall: The device's time, seconds since 1970.

    Attributes:
        lines: The last so many of each file, None for all that ``since`` leaves.
        since: Seconds since 1970, None for any time.
        resume: Whether marks of an earlier worker come on standard input.

    Raises:
        BadArgument: It is malformed.
        BadPattern: The pattern cannot be used.
    """

    def __init__(self, argument: dict[str, object], wall: float) -> None:
        self.paths = [_path(item) for item in _list(argument, "paths")]
        self.units = [str(item) for item in _list(argument, "units")]
        self.journal = argument.get("journal") is True or bool(self.units)
        self.follow = argument.get("follow") is True
        self.first = _number(argument, "first")
        self.since = _number(argument, "since")
        ago = _number(argument, "since_ago")
        if ago is not None:
            self.since = wall - ago
        lines = _number(argument, "lines")
        if lines is None and self.since is None:
            lines = DEFAULT_LINES
        self.lines = None if lines is None else int(lines)
        self.rate = int(_number(argument, "rate") or 0)
        self.resume = argument.get("resume") is True
        cursor = argument.get("cursor")
        self.cursor = cursor if isinstance(cursor, str) else None
        self.pattern: Pattern | None = None
        text = argument.get("pattern")
        if isinstance(text, str):
            ignore, invert = argument.get("ignore_case") is True, argument.get("invert") is True
            self.pattern = Pattern(text, ignore, invert)
        if bool(self.paths) == self.journal:
            raise BadArgument("either paths or the journal")


def _list(argument: dict[str, object], key: str) -> list[object]:
    value = argument.get(key, [])
    if not isinstance(value, list):
        raise BadArgument(f"{key}: not a list")
    return value


def _path(item: object) -> bytes:
    try:
        return b64decode(str(item), validate=True)
    except ValueError:
        raise BadArgument("paths: not base64") from None


def _number(argument: dict[str, object], key: str) -> float | None:
    value = argument.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise BadArgument(f"{key}: not a number")
    return value
