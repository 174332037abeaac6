"""Counting of bytes and events for one session, without any I/O (docs/keeper.md K20 to K25)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import wire
from rshell_agent.keeper.wire import Map, WireError

__all__ = ["Incoming", "Outgoing", "Piece", "cut", "join"]

_VECTORS = 16  # pieces of input written at once: a window of the link's frames
_SMALL = 4096  # pieces up to this are joined, so that keystrokes do not cost an object each

Piece = tuple[int, bytes]  # flags, data


def join(pieces: deque[Piece], flags: int, data: bytes) -> None:
    """Append data; small pieces of one kind become one."""
    if pieces:
        last_flags, last = pieces[-1]
        if last_flags == flags and len(last) + len(data) <= _SMALL:
            pieces[-1] = (flags, last + data)
            return
    pieces.append((flags, data))


def cut(pieces: deque[Piece], count: int) -> deque[Piece]:
    """Take the first `count` bytes out of `pieces`, which hold as many."""
    taken: deque[Piece] = deque()
    while count > 0:
        flags, data = pieces.popleft()
        if len(data) > count:
            pieces.appendleft((flags, data[count:]))
            data = data[:count]
        taken.append((flags, data))
        count -= len(data)
    return taken


class Outgoing:
    """Output on its way to the operator: everything from `base`, what was consumed, to `end`.

    Args:
        history: Bytes before `base` to be kept for viewers. They are no part of the counting.
        wide: Whether a wide window is kept, not the usual one.
    """

    def __init__(self, history: int = 0, wide: bool = False) -> None:
        self._window = c.WIDE_WINDOW if wide else c.WINDOW
        self.largest = wire.MAX_PAYLOAD  # bytes of one DATA to who is attached
        self._history: deque[Piece] = deque()  # [base - _remembered, base)
        self._remembered, self._memory = 0, history
        self.base = self.sent = self.end = self.limit = 0
        self.highest_sent = 0  # ever, over all connections
        self.ended = False
        self._end_sent = False
        self._waiting: deque[Piece] = deque()  # [sent, end)
        self._unread: deque[Piece] = deque()  # [base, sent)
        self._events: deque[tuple[int, Map]] = deque()  # not sent on this connection: (at, fields)
        self._unseen: deque[tuple[int, int, Map]] = deque()  # sent: (seq, at, fields)
        self._seq = 0

    @property
    def room(self) -> int:
        """Bytes that may be added without overwriting."""
        if len(self._waiting) + len(self._unread) >= c.MAX_CHUNKS:
            return 0
        return max(0, self._window - (self.end - self.base))

    def add(self, flags: int, data: bytes, overwrite: bool = False) -> None:
        """Append output; with `overwrite` (only while detached) the oldest makes room."""
        join(self._waiting, flags, data)
        self.end += len(data)
        if overwrite:
            while len(self._waiting) > c.MAX_CHUNKS:
                self.drop(len(self._waiting[0][1]))
            self.drop(max(0, self.end - self.base - self._window))

    def drop(self, count: int) -> None:
        """Forget the oldest `count` bytes; only while detached, when nothing is unread."""
        if count > 0:
            cut(self._waiting, count)
            self.base += count
            self.sent = self.base
            self._history.clear()  # it would no longer join up with what is kept
            self._remembered = 0

    def _consume(self, pieces: deque[Piece], count: int) -> None:
        """Let go of what was acknowledged; the newest of it becomes history."""
        if count <= 0:
            return
        self.base += count
        for flags, data in cut(pieces, count):
            if self._memory:
                join(self._history, flags, data)
                self._remembered += len(data)
        excess = self._remembered - self._memory
        if excess > 0:
            cut(self._history, excess)
            self._remembered = self._memory

    def newest(self, most: int) -> deque[Piece]:
        """Return the last `most` bytes that are still here, acknowledged or not."""
        pieces = deque((*self._history, *self._unread, *self._waiting))
        cut(pieces, max(0, self._remembered + self.end - self.base - most))
        return pieces

    def add_event(self, fields: Map) -> None:
        """Append an ordered event at the present end."""
        self._events.append((self.end, fields))

    def drop_events(self, kind: str) -> None:
        """Forget unacknowledged events of a kind; only before an attachment, which counts anew."""
        self._events = deque(e for e in self._events if e[1].get("kind") != kind)
        self._unseen = deque(e for e in self._unseen if e[2].get("kind") != kind)

    def begin_at(self, consumed: int, events: int) -> None:
        """Count from where somebody says that he is; only while nothing was ever sent."""
        shift = consumed - self.base
        self.base = self.sent = self.highest_sent = consumed
        self.end += shift
        self._events = deque((at + shift, fields) for at, fields in self._events)
        self._seq = events

    def take(self) -> bytes | None:
        """Return the next frame to send, or None until there is output, credit or an event."""
        end_due = self.ended and not self._end_sent and self.sent == self.end
        if self._events and self._events[0][0] <= self.sent and not end_due:
            at, fields = self._events.popleft()
            self._seq += 1
            self._unseen.append((self._seq, at, fields))
            return wire.encode_map(wire.EVENT, {"seq": self._seq, "at": at, **fields})
        if self._waiting:
            stop = min(self.limit, self._events[0][0]) if self._events else self.limit
            count = min(stop - self.sent, self.largest)
            if count <= 0:
                return None
            flags, data = self._waiting.popleft()
            if len(data) > count:
                self._waiting.appendleft((flags, data[count:]))
                data = data[:count]
            join(self._unread, flags, data)
            self.sent += len(data)
            self.highest_sent = max(self.highest_sent, self.sent)
            return wire.encode(wire.DATA, data, flags)
        if end_due:
            self._end_sent = True
            return wire.encode(wire.DATA, b"", wire.EOF)
        return None

    def heard(self, consumed: int, limit: int, events: int) -> bool:
        """Take a LIMIT; return whether an event was newly seen.

        Raises:
            WireError: it claims bytes or events that were never sent.
        """
        if consumed > self.sent or events > self._seq:
            raise WireError("LIMIT names what was not sent")
        self._consume(self._unread, consumed - self.base)
        self.limit = max(self.limit, limit)
        before = len(self._unseen)
        while self._unseen and self._unseen[0][0] <= events:
            self._unseen.popleft()
        return len(self._unseen) < before

    @property
    def all_seen(self) -> bool:
        """Whether every event was sent and seen."""
        return not self._events and not self._unseen

    def recall(self) -> None:
        """Take back what the gone connection carried; nothing counts as sent any more."""
        for flags, data in reversed(self._unread):
            self._waiting.appendleft((flags, data))
        self._unread.clear()
        self.sent = self.base
        self._end_sent = False

    def check(self, consumed: int, events: int) -> None:
        """Refuse a `resume` that claims bytes or events which were never sent.

        Raises:
            WireError: so it is.
        """
        if consumed > max(self.highest_sent, self.base) or events > self._seq:
            raise WireError("resume names what was not sent")

    def resume(self, consumed: int, limit: int, events: int) -> int:
        """Go on where a new, checked attachment says; return the gap in bytes."""
        self.recall()
        gap = max(0, self.base - consumed)
        self._consume(self._waiting, consumed - self.base)
        self.sent = self.base
        self.limit = limit + gap
        while self._unseen and self._unseen[0][0] <= events:
            self._unseen.popleft()
        self._events.extendleft((at, fields) for _, at, fields in reversed(self._unseen))
        self._unseen.clear()
        self._seq = events
        return gap


class Incoming:
    """Input on its way to the process: `consumed` is what it took, `received` what is here.

    Args:
        wide: Whether a wide window is granted, not the usual one.
    """

    def __init__(self, wide: bool = False) -> None:
        self.announce = c.WIDE_ANNOUNCE if wide else c.ANNOUNCE  # so much untold is told at once
        self._window = c.WIDE_WINDOW if wide else c.WINDOW
        self.consumed = self.received = self.events = 0
        self.ended = False  # the end flag came
        self.closed = False  # the process's side is closed: by that end, or it reads no more
        self._end_passed = -1  # where the end was typed to a terminal, which can be read on
        self._told = (0, 0)  # consumed and events as the peer knows them
        self._pieces: deque[bytes] = deque()

    @property
    def limit(self) -> int:
        """The offset up to which the peer may send."""
        return self.consumed + self._window

    def accept(self, data: bytes, end: bool) -> None:
        """Take DATA.

        Raises:
            WireError: more than was granted, or after the end.
        """
        if self.ended and data:
            raise WireError("input after its end")
        if self.received + len(data) > self.limit:
            raise WireError("input beyond its limit")
        self.received += len(data)
        self.ended = self.ended or end
        if self.closed:
            self.consumed = self.received
        elif data:
            self._pieces.append(data)

    def write_to(self, write: Callable[[list[bytes]], int]) -> None:
        """Pass on what is here; what `write` raises stops it, nothing is lost."""
        while self._pieces:
            count = write(list(islice(self._pieces, _VECTORS)))
            self.consumed += count
            while self._pieces and count >= len(self._pieces[0]):
                count -= len(self._pieces.popleft())
            if count:
                self._pieces[0] = self._pieces[0][count:]

    def close(self) -> None:
        """The process reads no more: what is here and what comes counts as consumed."""
        self.closed = True
        self._pieces.clear()
        self.consumed = self.received

    def pass_end(self) -> None:
        """Note that the end was typed: repeated at the same offset it is not typed again."""
        self._end_passed = self.received

    def rewind(self) -> None:
        """Forget what was not consumed, and the end: a new attachment sends them again.

        Another one than before may have input of its own; a closed process takes none of it.
        """
        self._pieces.clear()
        self.received = self.consumed
        self.ended = False

    def see(self, seq: int) -> bool:
        """Count an event; return whether it is new."""
        if seq <= self.events:
            return False
        self.events = seq
        return True

    @property
    def waiting(self) -> bool:
        """Whether bytes are to be written, or an end is to be passed on."""
        end_due = self.ended and not self.closed and self._end_passed != self.received
        return bool(self._pieces) or end_due

    @property
    def untold(self) -> int:
        """How urgently a LIMIT is due: bytes, and 1 for events only; 0 is nothing."""
        consumed, events = self._told
        return (self.consumed - consumed) or (1 if self.events != events else 0)

    def tell(self) -> tuple[int, int, int]:
        """Return consumed, limit and events, and remember that the peer knows them."""
        self._told = (self.consumed, self.events)
        return self.consumed, self.limit, self.events
