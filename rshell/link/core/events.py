"""What a link tells its owner, in the order in which it happened.  Names are past tense."""

from __future__ import annotations

import msgspec

from rshell.link.core.errors import RemoteProtocolError
from rshell.link.core.messages import (
    Advice,
    Event,
    GoAway,
    Hello,
    Open,
    Opened,
    Refused,
    Sessions,
    Welcome,
)

__all__ = [
    "AdviceReceived",
    "DataReceived",
    "EventReceived",
    "GoAwayReceived",
    "HelloReceived",
    "LimitReceived",
    "LinkEvent",
    "LinkFailed",
    "PongReceived",
    "SessionsReceived",
    "StreamFinished",
    "StreamOpened",
    "StreamRefused",
    "StreamRequested",
    "StreamReset",
    "WelcomeReceived",
]


class LinkEvent(msgspec.Struct, frozen=True):
    """Something that received bytes brought about."""


class HelloReceived(LinkEvent, frozen=True):
    """The dialler introduced itself; the gateway judges and answers WELCOME or GOAWAY."""

    hello: Hello


class WelcomeReceived(LinkEvent, frozen=True):
    """The gateway accepted this dialler: the link is connected."""

    welcome: Welcome


class PongReceived(LinkEvent, frozen=True):
    """The answer to the outstanding PING."""

    payload: bytes


class GoAwayReceived(LinkEvent, frozen=True):
    """The peer ends the link, or will."""

    goaway: GoAway


class AdviceReceived(LinkEvent, frozen=True):
    """The gateway steers the next mass reconnect (rule L4)."""

    advice: Advice


class SessionsReceived(LinkEvent, frozen=True):
    """A list of sessions, or the answer to one (section 9)."""

    sessions: Sessions


class StreamRequested(LinkEvent, frozen=True):
    """The peer asks for a stream; answer with accept or refuse."""

    stream: int
    open: Open


class StreamOpened(LinkEvent, frozen=True):
    """The peer accepted a stream that this side opened."""

    stream: int
    opened: Opened


class StreamRefused(LinkEvent, frozen=True):
    """The peer refused a stream that this side opened; it is over."""

    stream: int
    refused: Refused


class DataReceived(LinkEvent, frozen=True):
    """Bytes of a stream, within the limit that was given."""

    stream: int
    data: bytes
    stderr: bool
    eof: bool


class EventReceived(LinkEvent, frozen=True):
    """A new numbered event of a stream, at its place among the bytes.

    ``payload`` is the frame's payload, for a relay to pass on unchanged.
    """

    stream: int
    event: Event
    urgent: bool
    payload: bytes


class LimitReceived(LinkEvent, frozen=True):
    """The peer consumed bytes, saw events, or allows more bytes; all absolute, none ever falls.

    ``finished``: it acknowledged the outcome, so the stream is over at both ends.
    """

    stream: int
    consumed: int
    limit: int
    events: int
    finished: bool


class StreamReset(LinkEvent, frozen=True):
    """The peer ended a stream at once."""

    stream: int
    code: str
    message: str


class StreamFinished(LinkEvent, frozen=True):
    """This side has acknowledged the outcome of a stream: it is over at both ends."""

    stream: int


class LinkFailed(LinkEvent, frozen=True):
    """The peer broke a rule.  GOAWAY is queued; flush it, then abort.  Always the last event."""

    error: RemoteProtocolError
