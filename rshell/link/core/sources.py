"""What the link asks of whatever feeds a stream: an end, or one direction of a relay."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["FrameSource", "OutData", "OutEvent", "OutFrame", "OutLimit"]


class OutData(NamedTuple):
    """Bytes to send; at most the room and the credit that were offered.

    Attributes:
        data: The bytes.
        stderr: Whether they belong to the second channel.
        eof: Whether none follow.
        last: Whether nothing waits behind them, so that the source need not be asked before it
            wakes the link again.
    """

    data: bytes | memoryview
    stderr: bool
    eof: bool
    last: bool = False


class OutEvent(NamedTuple):
    """An encoded event to send."""

    payload: bytes
    seq: int
    urgent: bool
    outcome: bool


class OutLimit(NamedTuple):
    """Positions to announce, absolute."""

    consumed: int
    limit: int
    events: int


OutFrame = OutData | OutEvent | OutLimit


class FrameSource(Protocol):
    """Feeds one stream of one link.  The link pulls; nothing is queued below the source.

    A source whose state changed calls ``connection.wake(stream)``; the link then asks, control
    first, until it hears None.
    """

    def next_control(self) -> OutEvent | OutLimit | None:
        """Return an urgent event or a LIMIT that is due, or None."""

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        """Return the next frame in order, or None when nothing can be sent now.

        Args:
            room: Payload bytes that fit, at least 1; those of several frames if nobody else waits.
            credit: Data bytes that the peer's limit still allows, at least 0.
        """
