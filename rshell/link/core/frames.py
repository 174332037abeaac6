"""The frame codec: eight bytes of header, then the payload (rules W1 to W3)."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from rshell.link.core.constants import (
    ALLOWED_FLAGS,
    HEADER_SIZE,
    MAX_PAYLOAD,
    RECORD_SIZE,
    FrameFlag,
    FrameType,
)
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

__all__ = ["Frame", "FrameReader", "encode_frame", "frames_in", "pack_header"]

_HEADER: Final = Struct(">BBHI")
pack_header: Final = _HEADER.pack
#: As numbers: arithmetic of enum members calls Python code, here for each frame.
_DATA: Final = int(FrameType.DATA)
_EOF: Final = int(FrameFlag.EOF)
_ALLOWED: Final = {int(type_): int(flags) for type_, flags in ALLOWED_FLAGS.items()}


class Frame(NamedTuple):
    """One frame of a known type.

    Attributes:
        type: A value of FrameType.
        flags: Checked against the bits that the type allows.
        stream: 0 for the link itself.
        payload: At most 16,376 bytes; those of several frames where runs are asked for.
    """

    type: int
    flags: int
    stream: int
    payload: bytes


def encode_frame(type_: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return the bytes of one frame.

    Raises:
        LocalProtocolError: The payload is longer than a frame may be.
    """
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(
            f"a payload of {len(payload):,} bytes; a frame holds at most {MAX_PAYLOAD:,}"
        )
    return _HEADER.pack(type_, flags, len(payload), stream) + payload


class FrameReader:
    """Cuts a byte stream into frames, holding at most one incomplete frame between calls.

    Bytes are copied once, into the payload: what was fed is kept as it came, and only the rest of
    an incomplete frame is joined to what follows.

    Args:
        run_frames: So many DATA frames at most are returned as one, if they follow each other in
            what was fed at once, are full, and have the same stream and flags (but not EOF).
            Bulk then costs what a frame costs once for all of them.
    """

    __slots__ = ("_data", "_longest_run", "_position")

    def __init__(self, run_frames: int = 1) -> None:
        self._longest_run = run_frames * RECORD_SIZE
        self._data = b""
        self._position = 0

    @property
    def buffered(self) -> int:
        """Bytes received that do not make a whole frame yet (or were not asked for)."""
        return len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        """Add received bytes; ask for them with `next_frame` until it returns None."""
        rest = self._data
        if rest:
            data = rest[self._position :] + data
        self._data = data
        self._position = 0

    def clear(self) -> None:
        """Drop everything: nothing after a fatal frame is acted upon (rule W4)."""
        self._data = b""
        self._position = 0

    def next_frame(self) -> Frame | None:
        """Return the next whole frame of a known type, or None when more bytes are needed.

        Raises:
            RemoteProtocolError: The header breaks rule W1 or W3.
        """
        data = self._data
        position = self._position
        while len(data) - position >= HEADER_SIZE:
            type_, flags, length, stream = _HEADER.unpack_from(data, position)
            allowed = _ALLOWED.get(type_)
            if length > MAX_PAYLOAD or allowed is None or flags & ~allowed:
                _check_header(type_, flags, length)
            start = position + HEADER_SIZE
            end = start + length
            if len(data) < end:
                break
            self._position = position = end
            if allowed is not None:
                if length == MAX_PAYLOAD and type_ == _DATA and not flags & _EOF:
                    return Frame(type_, flags, stream, self._run(start - HEADER_SIZE))
                # Its own constructor would be a call of Python code for each frame.
                return tuple.__new__(Frame, (type_, flags, stream, data[start:end]))
        # An idle link must not keep the memory of its last large read.
        self._data = data[position:]
        self._position = 0
        return None

    def _run(self, begin: int) -> bytes:
        """Return the payload of the full frame at ``begin`` and of those that are like it."""
        data = self._data
        header = data[begin : begin + HEADER_SIZE]
        last = min(len(data), begin + self._longest_run) - RECORD_SIZE
        end = begin + RECORD_SIZE
        while end <= last and data.startswith(header, end):
            end += RECORD_SIZE
        self._position = end
        if end == begin + RECORD_SIZE:
            return data[begin + HEADER_SIZE : end]
        view = memoryview(data)
        return b"".join(
            [view[at + HEADER_SIZE : at + RECORD_SIZE] for at in range(begin, end, RECORD_SIZE)]
        )

    def take_back(self, frames: int) -> None:
        """Return the last ``frames`` of the run that `next_frame` returned just now once more."""
        self._position -= frames * RECORD_SIZE


def frames_in(size: int) -> int:
    """Return how many frames so many bytes of payload are, when each but the last is full."""
    return max(1, -(-size // MAX_PAYLOAD))


def _check_header(type_: int, flags: int, length: int) -> None:
    """Judge a header that is not plainly good.

    Raises:
        RemoteProtocolError: It breaks rule W1 or W3.
    """
    if length > MAX_PAYLOAD:
        raise RemoteProtocolError(
            ErrorCode.FRAME_SIZE, f"a frame of {length} bytes; at most {MAX_PAYLOAD}"
        )
    allowed = _ALLOWED.get(type_)
    if allowed is None and not flags & FrameFlag.IGNORABLE:
        raise RemoteProtocolError(ErrorCode.PROTOCOL, f"unknown frame type {type_}")
    if allowed is not None and flags & ~allowed:
        raise RemoteProtocolError(
            ErrorCode.PROTOCOL, f"{FrameType(type_).name} with flags 0x{flags:02x}"
        )
