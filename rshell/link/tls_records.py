"""RecordCount: how many whole TLS records have come in, by their headers, which are in clear.

OpenSSL returns one record for each read, and an exception for the one read too many; who knows how
many there are need not ask once too often.  It is a count and no check: OpenSSL judges them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MANY", "RecordCount"]

#: More than any read brings: nothing is known, so OpenSSL is to be asked until it says no.
MANY: Final = 1 << 30
_HEADER_SIZE: Final = 5
#: RFC 8446 section 5.2: a longer one is an error, which OpenSSL tells without waiting for its end.
_LONGEST: Final = 16_384 + 256


class RecordCount:
    """Counts the records of one direction of one connection, fed from its first byte on."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        #: Of the record that is not whole yet: bytes to come, when its header is known,
        self._left = 0
        #: or as much of its header as came.
        self._head = b""

    def whole(self, data: bytes) -> int:
        """Return how many records these bytes complete; `MANY` if one is none of TLS 1.3."""
        count, at, size = 0, self._left, len(data)
        if self._head:
            missing = _HEADER_SIZE - len(self._head)
            self._head += data[:missing]
            if len(self._head) < _HEADER_SIZE:
                return 0
            at = missing + int.from_bytes(self._head[3:])
        elif not at and not size:
            return 0
        begun = bool(self._head or at)
        self._head = b""
        while True:
            if begun:
                if at > size:
                    self._left = at - size
                    return MANY if self._left > _LONGEST else count
                count += 1
            if at + _HEADER_SIZE > size:
                self._head, self._left = bytes(data[at:]), 0
                return count
            length = data[at + 3] << 8 | data[at + 4]
            if length > _LONGEST:
                self._left = 0
                return MANY
            at += _HEADER_SIZE + length
            begun = True
