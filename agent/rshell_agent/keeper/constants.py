"""Every number of the keeper, each with its reason. Nothing is computed here."""

from __future__ import annotations

__all__ = ["Times"]

WINDOW = (
    16 * 16376
)  # bytes kept per direction and session: 20 ms at 100 Mbit/s, little for a device; whole frames
WIDE_WINDOW = 2 * WINDOW  # the same for files: both ends read and write them as fast as disks do
ANNOUNCE = 64 * 1024  # consumed input told at once: each 5th frame, or every second run of four
WIDE_ANNOUNCE = 12 * 16376  # the same of a wide window: every third run
MAX_CHUNKS = 4096  # pieces kept per session: alternating 1-byte stdout and stderr stay cheap
SEND_HIGH = 128 * 1024  # bytes handed to a connection ahead of the kernel
READ_PAUSE = 256 * 1024  # answers a peer does not read: then it is not read either
READS_PER_TURN = 2  # reads of 64 KiB from a process before others get their turn
PIPE_MAX = 1 << 20  # no pipe holds more (fs.pipe-max-size): after this much, old output is read
MAX_ARGUMENT = 8 * 1024  # JSON for a worker: half a frame, the rest is for the other fields
HEAP_STEP = 512 * 1024  # of the heap comes and goes in bulk: two windows; twice that may stay free
WORKER_PIPE = 256 * 1024  # a pipe to or from a worker: a window, so that bulk needs few wake-ups
MAX_TOLD = 512  # bytes of a child's story why it could not start

HISTORY = 16 * 1024  # acknowledged output of a terminal kept for viewers: some screens full
VIEW_BYTES = 64 * 1024  # kept for one viewer; what it is too slow for beyond that is left out
VIEW_AHEAD = (
    16 * 1024
)  # given to a viewer's connection ahead of the kernel: what waits can be left out
MAX_VIEWERS = 4  # of one session
MAX_EVENTS = 64  # unacknowledged in one direction of a stream (V4)

TOUCHED_LINE = 12 * 1024  # of names in one batch, and of one line: it fits a frame of the link
TOUCHED_FILES = 100  # of one batch: one row of the audit log
TOUCHED_NAMES = 10_000  # of one session; beyond that operations are counted
TOUCHED_OPS = 30  # kinds of operations that are counted apart
TOUCHED_SPARE = 128  # what a batch takes beside its names
TOUCHED_SESSION = 256 * 1024  # that one session may have waiting, some 2,500 names
TOUCHED_TOTAL = 1 << 20  # that all of them may: it must not crowd a small device
TOUCHED_BATCHES = 8  # told at once

MAX_CONNECTIONS = 512  # max_sessions, each with its old and new connection, and room to spare
MAX_FINISHED = 256  # outcomes nobody has collected
MAX_FINISHED_BYTES = 16 << 20  # their output: it must not crowd a small device
TOMBSTONES = 1000  # always kept
MAX_TOMBSTONES = 20_000  # never more: five sessions a second for an hour
LOG_BYTES = 1 << 20
MAX_TEXT = 256  # characters of an operator's, handler's or login's name


class Times:
    """Waits in seconds; a test passes shorter ones by name."""

    kill = 5.0  # between TERM and KILL
    drain = 1.0  # for what background children write after their parent's end
    announce = 1.0  # any consumption is told within this time
    hello = 10.0  # for HELLO, and for OPEN
    backpressure = 60.0  # nobody attached: so long the program waits, then output is overwritten
    viewing = 60.0  # after a session's end, for a viewer to take the rest
    repaint = 0.1  # between two sizes; programs see two changes, not none, and people no flicker
    finished = 3600.0  # an outcome nobody collects
    tombstone = 3600.0  # an ended id is remembered at least this long
    idle = 60.0  # neither agent nor session
    tell = 0.5  # a name waits so long for others
    stall = 10.0  # a worker waits so long for the gateway to note names; then they are counted
    touched = 86_400.0  # names that nobody fetches
    tick = 5.0  # is HOME still there, is anything old

    def __init__(self, **changes: float) -> None:
        for name, seconds in changes.items():
            if not hasattr(Times, name):
                raise TypeError(f"no such time: {name}")
            setattr(self, name, seconds)
