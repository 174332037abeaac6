"""Every number of the protocol, with its reason."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

__all__ = [
    "ALLOWANCE",
    "BULK_WINDOW",
    "EVENTS_UNACKNOWLEDGED",
    "HEADER_SIZE",
    "MAX_OFFSET",
    "MAX_PAYLOAD",
    "PROTOCOL_MAX",
    "PROTOCOL_MIN",
    "RECORD_SIZE",
    "RELAY_BUDGET",
    "RUN_FRAMES",
    "WIDE_ALLOWANCE",
    "WIDE_ANNOUNCE_BYTES",
    "FrameFlag",
    "FrameType",
]

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1

HEADER_SIZE: Final = 8
#: Header and payload fill exactly one TLS record (RFC 8446 section 5.1).
MAX_PAYLOAD: Final = 16_376
RECORD_SIZE: Final = HEADER_SIZE + MAX_PAYLOAD
#: Consecutive full DATA frames of one stream are taken in, and given out, together: as many as one
#: write of a fast link holds (pace.py), so a stream is never ahead of others by more than that.
RUN_FRAMES: Final = 4

#: Positions are u64 on the wire; half of that is plenty and fits every language's signed 64 bits.
MAX_OFFSET: Final = 2**63 - 1
#: JSON deeper than this is no request of ours but an attack on a parser (rule W6).
MAX_DEPTH: Final = 16
#: A side that has used up its stream numbers says GOAWAY and dials anew (rule W2).
MAX_STREAM: Final = 2**31 - 1

#: What an end lets the other be ahead: enough for 100 Mbit/s at 20 ms, and the keeper's ring size.
#: 256 KiB, in whole frames: who uses up its credit would send a crumb for the rest, which costs
#: each hop what a full frame costs, and moves all that follows out of step with runs.
DEFAULT_WINDOW: Final = 16 * MAX_PAYLOAD
#: The same for files, whose ends have memory for it: 100 Mbit/s at 40 ms, and half as many LIMITs.
BULK_WINDOW: Final = 2 * DEFAULT_WINDOW
#: Below this a window costs more in LIMIT frames than it saves in memory (rule F8).
MIN_WINDOW: Final = 2_048
#: The largest window a receiver may grant at once; more is a broken peer (rule F2).
MAX_WINDOW: Final = 16 * 1024 * 1024
#: What a relay holds of one direction of one stream (rule F7): 64 KiB, in whole frames likewise.
ALLOWANCE: Final = 4 * MAX_PAYLOAD
#: The same for a stream that nobody types on: a whole window, so that bulk need not stop and wait
#: at each hop.  Who types waits for less to drain after ^C.
WIDE_ALLOWANCE: Final = BULK_WINDOW
#: What all relays of a process may allow beyond the narrow allowance: of 128 streams, both ways.
RELAY_BUDGET: Final = 128 * 1024 * 1024
#: A LIMIT is due when this much consumption, or half a window, waits to be told (rule F3).  A run
#: is a little less: where bulk comes in runs every second one is told of, which is half a window;
#: on slower links each fifth frame.
ANNOUNCE_BYTES: Final = 64 * 1024
#: Likewise of a window that is larger than usual: every third run of four.  No more: what a peer
#: with the usual window sent before must not be all that it may send until it hears of it.
WIDE_ANNOUNCE_BYTES: Final = 12 * MAX_PAYLOAD
#: Unannounced consumption is told after this long at the latest (rule F3).
ANNOUNCE_SECONDS: Final = 1.0

GATEWAY_LINK_BUDGET: Final = 16 * 1024 * 1024
AGENT_LINK_BUDGET: Final = 4 * 1024 * 1024

#: One quantum for a stream that was idle: a screenful of keystroke echo, not a file (rule Q1).
SPARSE_QUANTUM: Final = 2_048
#: Deficit round robin adds this times the stream's weight in each round.
QUANTUM: Final = 16 * 1024
WEIGHT_INTERACTIVE: Final = 8
WEIGHT_NORMAL: Final = 4
WEIGHT_BULK: Final = 1

#: Unacknowledged events of one direction of one stream (rule V4).
EVENTS_UNACKNOWLEDGED: Final = 64
#: Frames we owe a peer that does not read: beyond this the link ends (rule F9).
CONTROL_QUEUE_BYTES: Final = 1024 * 1024

#: TLS and HELLO must be complete this long after accept (rule P7).
HELLO_SECONDS: Final = 10.0
#: A dialler gives a busy gateway longer than the gateway gives it (rule P7).
WELCOME_SECONDS: Final = 30.0
#: NATs forget idle TCP after about four minutes at worst, load balancers after 60 s or more.
HEARTBEAT_SECONDS: Final = 25.0
HEARTBEAT_JITTER: Final = 0.2
PONG_SECONDS: Final = 15.0
#: Two missed heartbeats and the jitter (rule L2).
SILENCE_SECONDS: Final = 60.0

SESSION_BYTES: Final = 16
INSTANCE_BYTES: Final = 16


class FrameType(IntEnum):
    """Frame types (section 2 of docs/protocol.md)."""

    HELLO = 1
    WELCOME = 2
    PING = 3
    PONG = 4
    GOAWAY = 5
    SESSIONS = 6
    ADVICE = 7
    OPEN = 16
    OPENED = 17
    REFUSED = 18
    DATA = 19
    LIMIT = 20
    RESET = 21
    EVENT = 22
    JOIN = 32
    JOINED = 33


class FrameFlag(IntFlag):
    """Flag bits; each belongs to one frame type, except IGNORABLE."""

    EOF = 0x01
    STDERR = 0x02
    URGENT = 0x04
    IGNORABLE = 0x80


#: The flags a known type may carry; every other bit must be 0 (rule W3).
ALLOWED_FLAGS: Final[dict[int, int]] = {int(kind): 0 for kind in FrameType} | {
    FrameType.DATA: FrameFlag.EOF | FrameFlag.STDERR,
    FrameType.EVENT: int(FrameFlag.URGENT),
}
