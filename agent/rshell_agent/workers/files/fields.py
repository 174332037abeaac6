"""The fields of a request, checked one by one: nothing of a client's map is used unlooked at."""

from __future__ import annotations

import base64
import binascii
import json

from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.frames import Map

__all__ = ["Fields", "b64", "parse_map"]

#: Offsets and sizes: what the kernel's off_t holds.
MAX_OFFSET = (1 << 63) - 1
#: Nanoseconds since 1970 that a file's time may be set to: the years 1678 to 2261.
MAX_TIME = (1 << 63) - 1


def b64(path: bytes) -> str:
    """Return bytes as they go into a map."""
    return base64.b64encode(path).decode()


def parse_map(payload: bytes) -> Fields:
    """Return the map in a payload.

    Raises:
        Fault: It is none.
    """
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        raise Fault("bad-request", "this is not a map in JSON") from None
    if not isinstance(value, dict):
        raise Fault("bad-request", "this is not a map in JSON")
    return Fields(value)


class Fields:
    """A map's values, by name and type; a wrong one is a `Fault` that names it."""

    def __init__(self, value: Map) -> None:
        self._value = value

    def has(self, name: str) -> bool:
        """Whether it is given, and not null."""
        return self._value.get(name) is not None

    def text(self, name: str, most: int = 200, default: str | None = None) -> str:
        """Return a text."""
        value = self._value.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise self._wrong(name, f"a text of at most {most} characters")
        return value

    def path(self, name: str = "path") -> bytes:
        """Return a path; what is wrong with its text as a path is said by whoever walks it."""
        value = self._value.get(name)
        try:
            if not isinstance(value, str):
                raise ValueError
            path = base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise self._wrong(name, "base64") from None
        if not path or b"\0" in path:
            raise Fault("bad-request", f"{name} is empty or has a NUL", path.replace(b"\0", b"?"))
        return path

    def integer(
        self, name: str, default: int | None = None, most: int = MAX_OFFSET, least: int = 0
    ) -> int:
        """Return a whole number."""
        value = self._value.get(name)
        if value is None:
            value = default
        return self._number(value, name, most, least)

    def _number(self, value: object, name: str, most: int, least: int = 0) -> int:
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least} to {most}")
        return value

    def optional(self, name: str, most: int = MAX_OFFSET, least: int = 0) -> int | None:
        """Return a whole number or None."""
        return self.integer(name, None, most, least) if self.has(name) else None

    def time_ns(self, name: str = "mtime_ns") -> int | None:
        """Return a time in nanoseconds since 1970, or None."""
        return self.optional(name, MAX_TIME, -MAX_TIME)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value.get(name)
        if value is None:
            value = default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def inner(self, name: str) -> Fields | None:
        """Return a map within the map, or None."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "a map")
        return Fields(value)

    def ranges(self, name: str, most: int) -> list[tuple[int, int]]:
        """Return pairs of offset and length."""
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"a list of at most {most:,} pairs")
        pairs = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise self._wrong(name, "a list of pairs")
            offset, length = (self._number(item, name, MAX_OFFSET) for item in pair)
            if offset + length > MAX_OFFSET:
                raise self._wrong(name, "ranges within a file")
            pairs.append((offset, length))
        return pairs

    def _wrong(self, name: str, what: str) -> Fault:
        return Fault("bad-request", f"{name} must be {what}")
