"""Frames in and out (docs/files.md FT6 to FT10): blocking reads and writes, bounded buffers."""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rshell_agent.workers.files.faults import Violation

__all__ = [
    "ABORT",
    "COPY",
    "DATA",
    "END",
    "ERROR",
    "HOLE",
    "MAX_PLAIN",
    "NOTE",
    "OUT_DATA",
    "OUT_END",
    "OUT_HOLE",
    "REPLY",
    "REQUEST",
    "Frame",
    "Input",
    "Map",
    "Output",
]

Map = dict[str, object]

REQUEST, DATA, HOLE, COPY, END, ABORT = range(1, 7)
REPLY, OUT_DATA, OUT_HOLE, OUT_END, ERROR, NOTE = range(16, 22)

#: Plain bytes of one block; both ends hold a few of them.
MAX_PLAIN = 1 << 20
#: A block that does not compress is a little larger than what is in it.
MAX_PAYLOAD = MAX_PLAIN + (1 << 16)
#: The longest request is a list of 2,000 ranges.
MAX_MAP = 1 << 16
#: A larger read would cost more for its memory than it spares of system calls.
READ_BYTES = 1 << 16
#: Answers are collected up to this, or until there is nothing left to do.
COLLECT_BYTES = 1 << 16

_HEADER = struct.Struct(">IBI")
#: Pieces up to this are joined: a client that sends single bytes must not cost an object for each.
_SMALL_BYTES = 4096
_MAPS = frozenset({REQUEST, END, ABORT})
_FROM_CLIENT = frozenset({REQUEST, DATA, HOLE, COPY, END, ABORT})


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    id: int
    payload: bytes


class Input:
    """Reads frames.

    Args:
        read: Returns up to so many bytes, ``b""`` at the end; it may wait.
        ready: Whether `read` would not wait.

    Attributes:
        before_wait: Called before a `read` that may wait: what is owed goes out now.
    """

    def __init__(
        self, read: Callable[[int], bytes], ready: Callable[[], bool] = lambda: False
    ) -> None:
        self.before_wait: Callable[[], None] = lambda: None
        self._read = read
        self._ready = ready
        #: What was read and is in no frame yet, as it came: a block is joined once.
        self._pieces: deque[bytes] = deque()
        self._at = 0  # bytes of the first piece that are in a frame
        self._size = 0

    def next(self) -> Frame | None:
        """Return the next frame, None at a clean end.

        Raises:
            Violation: It is too long, of no known type, or cut off.
        """
        if not self._fill(_HEADER.size):
            return None
        length, kind, number = _HEADER.unpack(self._head())
        if kind not in _FROM_CLIENT:
            raise Violation(f"a frame of the unknown type {kind}")
        if length > (MAX_MAP if kind in _MAPS else MAX_PAYLOAD):
            raise Violation(f"a frame of {length:,} bytes, type {kind}")
        whole = _HEADER.size + length
        if not self._fill(whole):
            raise Violation("the input ends within a frame")
        self._take(_HEADER.size)
        return Frame(kind, number, self._take(length))

    def _head(self) -> bytes:
        first = self._pieces[0][self._at : self._at + _HEADER.size]
        if len(first) < _HEADER.size:  # it is cut
            self._pieces = deque([b"".join(self._pieces)[self._at :]])
            self._at = 0
            first = self._pieces[0][: _HEADER.size]
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

    def _fill(self, size: int) -> bool:
        """Wait until there are `size` bytes; False if the input has ended with nothing."""
        while self._size < size:
            if not self._ready():
                self.before_wait()
            got = self._read(READ_BYTES)
            if not got:
                if self._size:
                    raise Violation("the input ends within a frame")
                return False
            self._size += len(got)
            if self._pieces and len(self._pieces[-1]) + len(got) <= _SMALL_BYTES:
                self._pieces[-1] += got
            else:
                self._pieces.append(got)
        return True


class Output:
    """Writes frames, small ones several at a time.

    Args:
        write: Writes some of the buffers given and returns how many bytes, as `os.writev` does.
        first: Called before anything is written.
    """

    def __init__(
        self,
        write: Callable[[list[bytes | memoryview]], int],
        first: Callable[[], None] = lambda: None,
    ) -> None:
        self._write = write
        self._first = first
        self._waiting: list[bytes | memoryview] = []
        self._size = 0

    @classmethod
    def to(cls, descriptor: int, first: Callable[[], None] = lambda: None) -> Output:
        """Return one that writes to a descriptor."""
        return cls(lambda buffers: os.writev(descriptor, buffers), first)

    def send(self, kind: int, number: int, *parts: bytes | memoryview) -> None:
        """Send a frame whose payload is `parts` joined."""
        length = sum(len(part) for part in parts)
        self._waiting.append(_HEADER.pack(length, kind, number))
        self._waiting.extend(part for part in parts if part)
        self._size += _HEADER.size + length
        if self._size >= COLLECT_BYTES:
            self.flush()

    def send_map(self, kind: int, number: int, value: Map) -> None:
        """Send a frame with a map."""
        self.send(kind, number, json.dumps(value, separators=(",", ":")).encode())

    def flush(self) -> None:
        """Write all that waits, however long the other side takes."""
        self._first()
        waiting, self._waiting, self._size = self._waiting, [], 0
        while waiting:
            done = self._write(waiting[:_IOV])
            while waiting and done >= len(waiting[0]):
                done -= len(waiting.pop(0))
            if waiting and done:
                waiting[0] = memoryview(waiting[0])[done:]


#: Buffers in one writev(2); Linux takes 1,024.
_IOV = 512
