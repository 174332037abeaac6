"""The streams of one link: their numbers, and which frame belongs to which (rules W2 and W8)."""

from __future__ import annotations

from rshell.link.core.constants import MAX_STREAM, FrameType
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.frames import Frame
from rshell.link.core.streams import LinkStream, StreamState

__all__ = ["StreamTable"]


class StreamTable:
    """Numbers and finds streams.

    Args:
        dialler: Whether this side dialled: then its own streams are odd.

    Attributes:
        streams: Those that are not over, by number.
        opened_here: How many of them this side opened.
        opened_there: How many the peer did.
    """

    __slots__ = ("_highest_remote", "_local_parity", "_next_local", "opened_here",
                 "opened_there", "streams")  # fmt: skip

    def __init__(self, *, dialler: bool) -> None:
        self.streams: dict[int, LinkStream] = {}
        self.opened_here = 0
        self.opened_there = 0
        self._local_parity = 1 if dialler else 0
        self._next_local = 1 if dialler else 2
        self._highest_remote = 0

    def next_number(self) -> int:
        """Return the number for a stream of this side's; it counts as used.

        Raises:
            LocalProtocolError: There is none left on this link.
        """
        number = self._next_local
        if number > MAX_STREAM:
            raise LocalProtocolError("stream numbers are used up: dial anew")
        self._next_local += 2
        return number

    def check_remote(self, number: int) -> None:
        """Refuse an OPEN's number before anything is charged for it.

        Raises:
            RemoteProtocolError: It has the wrong parity, does not rise, or is too high.
        """
        if (
            number % 2 == self._local_parity
            or number <= self._highest_remote
            or number > MAX_STREAM
        ):
            raise RemoteProtocolError(ErrorCode.PROTOCOL, f"OPEN of stream {number}")

    def claim_remote(self, number: int) -> None:
        """Note the number of an OPEN that `check_remote` let pass."""
        self._highest_remote = number

    def add(self, stream: LinkStream) -> None:
        """Count a new stream."""
        self.streams[stream.number] = stream
        if stream.local:
            self.opened_here += 1
        else:
            self.opened_there += 1

    def remove(self, stream: LinkStream) -> bool:
        """Forget a stream that is over; say whether it was known."""
        if self.streams.pop(stream.number, None) is None:
            return False
        if stream.local:
            self.opened_here -= 1
        else:
            self.opened_there -= 1
        return True

    def find(self, frame: Frame, state: StreamState | None = None) -> LinkStream | None:
        """Return the frame's stream, or None if it is over.

        Args:
            frame: Any frame of a stream but OPEN.
            state: What the stream must be in, if that matters.

        Raises:
            RemoteProtocolError: The stream never was (rule W8), or is in another state.
        """
        stream = self.streams.get(frame.stream)
        if stream is None:
            local = frame.stream % 2 == self._local_parity
            if frame.stream > (self._next_local - 2 if local else self._highest_remote):
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL,
                    f"{FrameType(frame.type).name} on stream {frame.stream}, never opened",
                )
            return None
        if state is not None and stream.state is not state:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL,
                f"{FrameType(frame.type).name} on stream {frame.stream} before OPENED",
            )
        return stream
