"""What a wire finds out about TLS beside OpenSSL: how many records came, and what an error means.

OpenSSL returns one record for each read, and an exception for the one read too many; who knows how
many there are, by their headers, which are in clear, need not ask once too often.  It is a count
and no check: OpenSSL judges the records.
"""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

__all__ = ["MANY", "RecordCount", "is_end_of_file"]

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
        if self._head:
            data = self._head + data
            self._head = b""
        size, count = len(data), 0
        at, begun = self._left, self._left > 0
        while at <= size:
            count += begun
            if at + _HEADER_SIZE > size:
                self._head, self._left = data[at:], 0
                return count
            length = data[at + 3] << 8 | data[at + 4]
            if length > _LONGEST:
                self._left = 0
                return MANY
            at += _HEADER_SIZE + length
            begun = True
        self._left = at - size
        return count


def is_end_of_file(error: BaseException | None) -> bool:
    """Say whether OpenSSL means that TCP ended without the goodbye of TLS."""
    if isinstance(error, SSL.SysCallError):
        return str(error.args[-1]).casefold().startswith("unexpected eof")
    queue = error.args[0] if error is not None and error.args else ()
    if not queue:
        return True  # so OpenSSL 4 says it
    return str(queue[-1][-1]).casefold().startswith("unexpected eof")
