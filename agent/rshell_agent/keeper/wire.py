"""Frames between agent and keeper, and checked access to their JSON (docs/keeper.md K11, K12).

No I/O happens here.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Iterator

__all__ = ["Decoder", "Refused", "WireError", "encode"]

HELLO, WELCOME, OPEN, OPENED, REFUSED, DATA, LIMIT, RESET, EVENT = 1, 2, 16, 17, 18, 19, 20, 21, 22
CALL, REPLY = 48, 49
TOUCHED = 50  # always IGNORABLE: an agent that does not know it never asked for what it tells
TYPES = frozenset(
    [HELLO, WELCOME, OPEN, OPENED, REFUSED, DATA, LIMIT, RESET, EVENT, CALL, REPLY, TOUCHED]
)
EOF, STDERR, URGENT, IGNORABLE = 0x01, 0x02, 0x04, 0x80
MAX_PAYLOAD = 16376  # header and payload fill one TLS record on the link
MAX_DATA = 4 * MAX_PAYLOAD  # of DATA, to a peer that says `large`: four of the link's frames
LARGE = "large"  # what such a peer says: a keeper in WELCOME's features, an agent in HELLO
HEADER = struct.Struct(">BBHI")
OFFSETS = struct.Struct(">QQQ")
_JSON = json.JSONEncoder(separators=(",", ":"))  # once: json.dumps would make one for each frame

Map = dict[str, object]


class WireError(Exception):
    """The peer broke a rule: its connection is closed, nothing else happens."""


class Refused(Exception):  # named after the frame it becomes
    """An OPEN or HELLO is answered by REFUSED."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def encode(kind: int, payload: bytes, flags: int = 0) -> bytes:
    """Return one frame."""
    return HEADER.pack(kind, flags, len(payload), 0) + payload


def dump(value: object) -> bytes:
    """Return compact JSON."""
    return _JSON.encode(value).encode()


def encode_map(kind: int, value: Map, flags: int = 0) -> bytes:
    """Return one frame whose payload is JSON; overlong text in it is the caller's bug."""
    return encode(kind, dump(value), flags)


class Decoder:
    """Cuts received bytes into frames.

    What is read is cut where it lies, and only what is left of it is kept: bulk comes in whole
    frames, and would be copied twice otherwise.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield (type, flags, payload) of each complete frame.

        Raises:
            WireError: a length, type or stream that no frame may have.
        """
        kept = self._buffer
        if kept:
            kept += data
        source = kept or data
        start, size = 0, len(source)
        try:
            while size - start >= HEADER.size:
                kind, flags, length, stream = HEADER.unpack_from(source, start)
                if length > (MAX_DATA if kind == DATA else MAX_PAYLOAD) or stream:
                    raise WireError("malformed frame")
                if kind not in TYPES and not flags & IGNORABLE:
                    raise WireError(f"unknown frame type {kind}")
                end = start + HEADER.size + length
                if size < end:
                    return
                payload = bytes(memoryview(source)[start + HEADER.size : end])
                start = end
                if kind in TYPES:
                    yield kind, flags, payload
        finally:
            if source is kept:
                del kept[:start]
            else:
                kept += memoryview(source)[start:]


def parse_map(payload: bytes) -> Map:
    """Return a payload's JSON map.

    Raises:
        WireError: it is no UTF-8 JSON map.
    """
    try:
        value = json.loads(payload.decode())
    except (ValueError, RecursionError):
        raise WireError("payload is no JSON") from None
    if not isinstance(value, dict):
        raise WireError("payload is no map")
    return value


def integer(value: Map, key: str, default: int | None = None) -> int:
    """Return `value[key]`, 0 to 2**63-1; absent or null gives the default, if there is one."""
    found = value.get(key, default)
    if found is None:
        found = default
    if type(found) is not int or not 0 <= found < 1 << 63:
        raise WireError(f"{key}: not a number in range")
    return found


def text(value: Map, key: str, longest: int, default: str | None = None) -> str:
    """Return `value[key]`, printable text of 1 to `longest` characters."""
    found = value.get(key)
    if found is None and default is not None:
        return default
    if not isinstance(found, str) or not 0 < len(found) <= longest or not found.isprintable():
        raise WireError(f"{key}: not a printable text of 1 to {longest} characters")
    return found


def submap(value: Map, key: str) -> Map | None:
    """Return the map `value[key]`, or None if it is absent or null."""
    found = value.get(key)
    if found is None or isinstance(found, dict):
        return found
    raise WireError(f"{key}: not a map")


def array(value: Map, key: str) -> list[object]:
    """Return the list `value[key]`; absent or null gives an empty one."""
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise WireError(f"{key}: not a list")
    return found


def unbase64(value: object, what: str) -> bytes:
    """Return the bytes of base64 text, which may hold no NUL if `what` is no session."""
    try:
        if not isinstance(value, str):
            raise ValueError
        data = binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
    except ValueError:
        raise WireError(f"{what}: not base64") from None
    if what == "session":
        if len(data) != 16:
            raise WireError("session: not 16 bytes")
    elif b"\0" in data:
        raise WireError(f"{what}: holds a NUL byte")
    return data


def base64(data: bytes) -> str:
    """Return base64 text."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")
