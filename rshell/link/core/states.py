"""Where a link stands, and which frames may arrive there (rules W2, W5 and H1)."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from rshell.link.core.constants import PROTOCOL_MAX, PROTOCOL_MIN, FrameType
from rshell.link.core.errors import ErrorCode, RemoteProtocolError
from rshell.link.core.frames import Frame
from rshell.link.core.messages import VersionRange

__all__ = ["STREAM_FRAMES", "LinkState", "check_frame", "choose_version"]


class LinkState(Enum):
    """Where a link stands."""

    AWAITING_HELLO = auto()
    JUDGING = auto()
    AWAITING_WELCOME = auto()
    OPEN = auto()
    CLOSED = auto()


#: Frames that may arrive in a state; what is absent is a protocol error (rule W5).
_ALLOWED: Final[dict[LinkState, frozenset[int]]] = {
    LinkState.AWAITING_HELLO: frozenset({FrameType.HELLO}),
    LinkState.JUDGING: frozenset({FrameType.GOAWAY}),
    LinkState.AWAITING_WELCOME: frozenset({FrameType.WELCOME, FrameType.GOAWAY}),
    LinkState.OPEN: frozenset(FrameType)
    - {FrameType.HELLO, FrameType.WELCOME, FrameType.JOIN, FrameType.JOINED},
    LinkState.CLOSED: frozenset(),
}
_LINK_FRAMES: Final = frozenset(
    {
        FrameType.HELLO,
        FrameType.WELCOME,
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
        FrameType.SESSIONS,
        FrameType.ADVICE,
    }
)


#: Frames of streams that an open link takes: nearly all there are, so they are judged first.
STREAM_FRAMES: Final = frozenset(
    int(type_) for type_ in _ALLOWED[LinkState.OPEN] if type_ not in _LINK_FRAMES
)
#: What else passes while nothing happens.
BEAT_FRAMES: Final = frozenset({int(FrameType.PING), int(FrameType.PONG)})


def check_frame(frame: Frame, state: LinkState) -> None:
    """Refuse a frame that has no place in this state or on its stream.

    Raises:
        RemoteProtocolError: It has not.
    """
    if frame.type not in _ALLOWED[state]:
        raise RemoteProtocolError(
            ErrorCode.PROTOCOL,
            f"{FrameType(frame.type).name} while {state.name.lower().replace('_', ' ')}",
        )
    if (frame.type in _LINK_FRAMES) != (frame.stream == 0):
        raise RemoteProtocolError(
            ErrorCode.PROTOCOL, f"{FrameType(frame.type).name} on stream {frame.stream}"
        )


def choose_version(theirs: VersionRange) -> int:
    """Return the highest version both sides speak.

    Raises:
        RemoteProtocolError: There is none; the text names the side that must be upgraded.
    """
    if theirs.max < PROTOCOL_MIN or theirs.max < theirs.min:
        raise RemoteProtocolError(
            ErrorCode.VERSION,
            f"the dialler speaks link protocol {theirs.min} to {theirs.max}, this gateway "
            f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the dialler",
        )
    if theirs.min > PROTOCOL_MAX:
        raise RemoteProtocolError(
            ErrorCode.VERSION,
            f"the dialler speaks link protocol {theirs.min} to {theirs.max}, this gateway "
            f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the gateway",
        )
    return min(theirs.max, PROTOCOL_MAX)
