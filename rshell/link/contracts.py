"""What a link asks of its owner and of the receivers of its streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.core.sources import FrameSource

if TYPE_CHECKING:
    from rshell.link.protocol import LinkProtocol

__all__ = ["LinkOwner", "StreamReceiver"]


class StreamReceiver(FrameSource, Protocol):
    """What a link wants of each of its streams: frames to send, and a place for what arrives.

    Calls come in this order: ``stream_opened`` (streams that were asked for here), any number of
    ``data_received``, ``event_received`` and ``limit_received``, then exactly one of
    ``stream_refused``, ``stream_reset``, ``stream_finished`` and ``link_lost``.
    """

    def stream_opened(self, opened: Opened) -> None:
        """The peer accepted."""

    def stream_refused(self, code: str, message: str) -> None:
        """The peer refused; the stream is over."""

    def data_received(self, event: DataReceived) -> None:
        """Bytes arrived, within the limit that was given."""

    def event_received(self, event: EventReceived) -> None:
        """An event arrived."""

    def limit_received(self, event: LimitReceived) -> None:
        """The peer's positions moved."""

    def stream_reset(self, code: str, message: str) -> None:
        """The peer ended the stream at once."""

    def stream_finished(self) -> None:
        """The outcome was acknowledged; the stream is over."""

    def link_lost(self, reason: str) -> None:
        """The link under the stream is gone."""


class LinkOwner(Protocol):
    """Decides what a link may do.  All calls come from the reactor's thread."""

    def link_handshaken(self, link: LinkProtocol) -> None:
        """TLS is up; the peer's certificate can be read."""

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        """Gateway: judge, then call `LinkProtocol.welcome` or `LinkProtocol.go_away`."""

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        """Dialler: the link is connected."""

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """A list of sessions or its answer arrived."""

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        """The peer takes no new streams; the link may end at any moment."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        """Answer with `LinkProtocol.accept` or `LinkProtocol.refuse`, now or later."""

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        """The link is gone; said once, after every stream was told."""
