"""How much a link's socket is read at once: ``bufferSize`` of its TCP transport.

Python takes memory for all that a read may bring, and gives back what it did not bring: for each
heartbeat of an idle link a block of 67 KB, searched for in a heap full of holes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LARGE", "SMALL"]


class _AnyByteIsFull(int):
    """A ``bufferSize`` that reads a burst at once and yet calls one record a full send buffer.

    Twisted's TCP transports use the one attribute for both: ``recv(bufferSize)``, and
    ``queued > bufferSize`` to pause the producer.  A plain 1 would read byte by byte.  Python asks
    the right side of a comparison first when its class is a subclass of the left side's.
    """

    __slots__ = ()

    def __lt__(self, queued: int) -> bool:
        return queued > 1


#: The most that a fast link hands over at once (rule Q1): four records of 16 KiB, what TLS adds to
#: each, and a few control frames.  With 64 KiB the last bytes of each would cost a wake-up.
LARGE: Final = _AnyByteIsFull(4 * (16_384 + 256) + 1024)
#: Of a link that was silent, until a read is as long: heartbeats, keys and what answers them are
#: shorter.  Python's own allocator has such blocks at hand (up to 512 bytes, its header included).
SMALL: Final = _AnyByteIsFull(472)
