"""The frames of the files protocol (docs/files.md FT6).  Pure; threads use it too."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

__all__ = [
    "ABORT",
    "COPY",
    "DATA",
    "DATA_OUT",
    "END",
    "END_OUT",
    "ERROR",
    "HEADER_BYTES",
    "HOLE",
    "HOLE_OUT",
    "MAX_PAYLOAD",
    "MAX_PLAIN",
    "NOTE",
    "REPLY",
    "REQUEST",
    "BadFrame",
    "FrameReader",
    "copy_frame",
    "frame",
    "frame_head",
    "hole_frame",
    "map_frame",
    "request_frame",
]

REQUEST: Final = 1
DATA: Final = 2
HOLE: Final = 3
COPY: Final = 4
END: Final = 5
ABORT: Final = 6
REPLY: Final = 16
DATA_OUT: Final = 17
HOLE_OUT: Final = 18
END_OUT: Final = 19
ERROR: Final = 20
NOTE: Final = 21

#: Plain bytes of one block.
MAX_PLAIN: Final = 1 << 20
#: With room for a block that compression made larger.
MAX_PAYLOAD: Final = MAX_PLAIN + (1 << 16)
HEADER_BYTES: Final = 9

_HEADER = struct.Struct(">IBI")
#: Pieces up to this are joined: a device that sends single bytes must not cost an object for each.
_SMALL_BYTES: Final = 4096
_FROM_DEVICE = frozenset({REPLY, DATA_OUT, HOLE_OUT, END_OUT, ERROR, NOTE})


class BadFrame(ValueError):
    """What a device sent is no frame of this protocol."""


def frame(kind: int, number: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """Return a frame.

    Args:
        kind: One of the types above.
        number: The request's id.
        payload: At most `MAX_PAYLOAD` bytes.
    """
    return b"".join((_HEADER.pack(len(payload), kind, number), payload))


def frame_head(kind: int, number: int, size: int) -> bytes:
    """Return what comes before a payload of ``size`` bytes; see `frame`."""
    return _HEADER.pack(size, kind, number)


def map_frame(kind: int, number: int, value: dict[str, Any]) -> bytes:
    """Return a frame with a map; bytes in it become base64."""
    return frame(kind, number, msgspec.json.encode(value))


def request_frame(number: int, op: str, fields: dict[str, Any]) -> bytes:
    """Return a REQUEST; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return map_frame(REQUEST, number, {"op": op, **given})


def hole_frame(number: int, length: int) -> bytes:
    """Return a HOLE of so many zero bytes."""
    return frame(HOLE, number, struct.pack(">Q", length))


def copy_frame(number: int, offset: int, length: int) -> bytes:
    """Return a COPY of a range of the basis."""
    return frame(COPY, number, struct.pack(">QQ", offset, length))


class FrameReader:
    """Cuts a device's bytes into frames; holds at most one that is not complete.

    Bytes are kept as they came, and joined once, into the payload.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._at = 0  # bytes of the first piece that are in a frame
        self._size = 0

    @property
    def waiting(self) -> int:
        """Bytes that are in no frame yet."""
        return self._size

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._size += len(data)
        if self._pieces and len(self._pieces[-1]) + len(data) <= _SMALL_BYTES:
            self._pieces[-1] += data
        elif data:
            self._pieces.append(data)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (type, id, payload) of what is complete; may be left and entered again.

        Raises:
            BadFrame: A length or type that this protocol does not have.
        """
        while self._size >= HEADER_BYTES:
            length, kind, number = _HEADER.unpack(self._head())
            if length > MAX_PAYLOAD or kind not in _FROM_DEVICE:
                raise BadFrame(f"a frame of type {kind} and {length:,} bytes")
            if self._size < HEADER_BYTES + length:
                return
            self._take(HEADER_BYTES)
            yield kind, number, self._take(length)

    def _head(self) -> bytes:
        first = self._pieces[0][self._at : self._at + HEADER_BYTES]
        if len(first) < HEADER_BYTES:  # it is cut
            self._pieces = deque([b"".join(self._pieces)[self._at :]])
            self._at = 0
            first = self._pieces[0][:HEADER_BYTES]
        return first

    def _take(self, size: int) -> bytes:
        """Return the next bytes, of which there are as many."""
        parts: list[memoryview] = []
        self._size -= size
        while size:
            part = memoryview(self._pieces[0])[self._at : self._at + size]
            parts.append(part)
            size -= len(part)
            self._at += len(part)
            if self._at == len(self._pieces[0]):
                self._pieces.popleft()
                self._at = 0
        return b"".join(parts)
