"""Who uses an end of a stream: what a channel (channel.py) calls, and how it names addresses."""

from __future__ import annotations

from typing import Any, Protocol

from rshell.link.core.messages import Opened

__all__ = ["ChannelReceiver", "ResumableReceiver", "StreamAddress"]


class ChannelReceiver(Protocol):
    """What uses a channel.  ``channel_closed`` comes last and exactly once."""

    def channel_opened(self, opened: Opened) -> None:
        """Only for streams asked for here: the other end accepted.

        Said at once, also while delivery is paused, and again after each resume.  A ``gap`` is
        also told as an ordered event ``gap`` {"bytes"}, at its place among the bytes.
        """

    def data_received(self, data: bytes, stderr: bool) -> None:
        """Bytes in order; they count as consumed when this returns."""

    def input_ended(self) -> None:
        """No byte follows; said once."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """An event, at its place among the bytes or, if urgent, at once."""

    def channel_closed(self, code: str, message: str) -> None:
        """The stream is over.

        Args:
            code: ``none`` after an acknowledged outcome, ``link-lost`` when the link broke,
                else the code of REFUSED or RESET.
            message: For people.
        """


class ResumableReceiver(ChannelReceiver, Protocol):
    """What uses a resumable channel."""

    def channel_detached(self, reason: str) -> None:
        """The link is gone; ask again with `StreamChannel.request`, or `StreamChannel.abandon`.

        Said at once, also while delivery is paused: what arrived is still delivered.

        Args:
            reason: For people; `StreamChannel.detached_by` has the code.
        """


class StreamAddress:
    """The address of a stream's end, for `ITransport`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<stream {self.text}>"
