"""Reading the fields of SSH packets (RFC 4251 section 5).  What is wrong raises `BadPacket`.

And one packet that is written before there are keys, or a connection to have them.
"""

from __future__ import annotations

import struct

__all__ = ["BadPacket", "Fields", "clear_disconnect"]

_DISCONNECT = 1
#: RFC 4250 section 4.2.2: the nearest of its reasons.
_TOO_MANY_CONNECTIONS = 12
_BLOCK = 8
_MIN_PADDING = 4


class BadPacket(ValueError):
    """The peer sent a packet of the wrong shape, or at the wrong time."""


class Fields:
    """Takes one field after the other from a packet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise BadPacket("a packet is cut short")
        data, self._at = self._data[self._at : end], end
        return data

    def number(self) -> int:
        """Take a uint32."""
        return int(struct.unpack(">L", self._take(4))[0])

    def flag(self) -> bool:
        """Take a boolean."""
        return self._take(1) != b"\0"

    def string(self, limit: int = 256 * 1024) -> bytes:
        """Take a string of at most ``limit`` bytes."""
        size = self.number()
        if size > limit:
            raise BadPacket(f"a field of {size:,} bytes")
        return self._take(size)

    def text(self, limit: int = 1024) -> str:
        """Take a string that is text, whatever bytes it has."""
        return self.string(limit).decode("utf-8", "replace")

    def rest(self) -> bytes:
        """Take what is left."""
        return self._take(len(self._data) - self._at)


def clear_disconnect(why: bytes) -> bytes:
    """Return a DISCONNECT as it is before there are keys (RFC 4253 sections 6 and 11.1).

    Args:
        why: For people.
    """
    head = struct.pack(">BLL", _DISCONNECT, _TOO_MANY_CONNECTIONS, len(why))
    payload = head + why + struct.pack(">L", 0)
    padding = _MIN_PADDING + -(5 + len(payload) + _MIN_PADDING) % _BLOCK
    return struct.pack(">LB", 1 + len(payload) + padding, padding) + payload + bytes(padding)
