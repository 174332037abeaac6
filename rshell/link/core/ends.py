"""One end of a stream: absolute offsets, retained bytes, numbered events (sections 6 to 8).

An end outlives the link it speaks over.  It keeps every byte that the other end has not consumed
and every event that it has not seen, so `StreamEnd.resume` can go on over another link at exactly
the positions that the other end states.  It does no I/O: a link pulls frames from it
(sources.py), the owner hands it what arrived and says what the application consumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from rshell.link.core.constants import (
    ANNOUNCE_BYTES,
    DEFAULT_WINDOW,
    EVENTS_UNACKNOWLEDGED,
    WIDE_ANNOUNCE_BYTES,
)
from rshell.link.core.errors import LocalProtocolError
from rshell.link.core.limits import CreditBudget
from rshell.link.core.messages import Positions, encode_event
from rshell.link.core.sources import OutData, OutEvent, OutLimit

__all__ = ["ResumeLost", "StreamEnd"]


#: Of these urgent events a newer one that waits makes an older one needless.
_NEWEST_ONLY = frozenset({"window", "cancel"})


class ResumeLost(Exception):
    """The other end states positions from which this end cannot go on."""


class _Note(NamedTuple):
    """An event that is queued (seq 0) or on the wire and not yet acknowledged."""

    seq: int
    at: int
    kind: str
    body: dict[str, Any]
    urgent: bool


def _nothing() -> None:
    """Stand in for the wake call while there is no link."""


class StreamEnd:
    """A conversation's state at one of its two ends.

    Args:
        window: Bytes the other end may be ahead of this application.
        budget: Shared by the streams of one link; shrinks the window when there are many.
    """

    def __init__(self, window: int = DEFAULT_WINDOW, budget: CreditBudget | None = None) -> None:
        self._window = window
        self._budget = budget
        self._wake: Callable[[], None] = _nothing
        self._retained: deque[tuple[bytes, bool]] = deque()
        self._retained_start = 0
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._sent = 0
        self._written = 0
        self._eof_written = False
        self._eof_sent = False
        self._ordered: deque[_Note] = deque()
        self._urgent: deque[_Note] = deque()
        self._unacknowledged: deque[_Note] = deque()
        self._next_seq = 1
        self._outcome_written = False
        self._received = 0
        self._consumed = 0
        self._events_seen = 0
        #: Numbers of events that wait for the application.
        self._events_held: deque[int] = deque()
        self._limit = 0
        self._announced_consumed = 0
        self._announced_events = 0
        self._announce_now = False
        wide = window > DEFAULT_WINDOW
        self._announce_bytes = WIDE_ANNOUNCE_BYTES if wide else ANNOUNCE_BYTES

    # -- the link under it ---------------------------------------------------------------------

    def attach(self, wake: Callable[[], None]) -> None:
        """Use a link: ``wake`` is called whenever there may be something to send."""
        self._wake = wake
        wake()

    def detach(self) -> None:
        """The link is gone: keep everything."""
        self._wake = _nothing

    def use_budget(self, budget: CreditBudget) -> None:
        """Share the budget of another link from now on; limits that were given stay given."""
        self._budget = budget

    def positions(self) -> Positions:
        """Return what to state in ``resume`` or OPENED (rule R2).

        All that arrived counts as taken, because this end keeps it.
        """
        self._limit = max(self._limit, self._consumed + self._current_window())
        self._announced_consumed = self._consumed
        self._announced_events = self._events_seen
        return Positions(self._received, self._limit, self._events_seen)

    def resume(self, peer: Positions, gap: int = 0) -> None:
        """Go on from the other end's stated positions (rule R2).

        Args:
            peer: What the other end stated.
            gap: Bytes of the other end's output that are lost; its offsets count on after them.

        Raises:
            ResumeLost: They are outside what this end has sent and kept.
        """
        self.check(peer)
        self.acknowledged(peer.consumed, peer.events)
        self._unsent.extendleft(reversed(self._retained))
        self._retained.clear()
        self._sent = self._retained_start = peer.consumed
        self._eof_sent = False
        self._requeue_events()
        self._next_seq = peer.events + 1
        self._skip(gap)

    def check(self, peer: Positions) -> None:
        """Judge stated positions, and change nothing.

        Raises:
            ResumeLost: They are outside what this end has sent and kept.
        """
        if not self._retained_start <= peer.consumed <= self._sent:
            raise ResumeLost(
                f"the other end is at {peer.consumed}, "
                f"kept are {self._retained_start} to {self._sent}"
            )
        if peer.events >= self._next_seq:
            raise ResumeLost(
                f"the other end saw event {peer.events}, sent are {self._next_seq - 1}"
            )
        for note in self._unacknowledged:
            if note.seq > peer.events and not note.urgent and note.at < peer.consumed:
                raise ResumeLost(f"the other end missed the event at {note.at}")

    def join(self, peer: Positions, gap: int = 0) -> None:
        """Begin where the other end is: it may have a past with somebody else (rule R8).

        Args:
            peer: What the other end stated; what was written here so far follows it.
            gap: As in `resume`.

        Raises:
            LocalProtocolError: This end has sent something already.
        """
        if self._sent or self._next_seq > 1:
            raise LocalProtocolError("join is for an end that has sent nothing")
        self._written += peer.consumed
        self._sent = self._retained_start = peer.consumed
        self._ordered = deque(note._replace(at=note.at + peer.consumed) for note in self._ordered)
        self._next_seq = peer.events + 1
        self._skip(gap)

    def _skip(self, gap: int) -> None:
        """Count lost bytes of the other end as taken, and tell so."""
        self._received += gap
        self._consumed += gap
        self._announce_now = gap > 0

    def _requeue_events(self) -> None:
        urgent = [note for note in self._unacknowledged if note.urgent]
        ordered = [note for note in self._unacknowledged if not note.urgent]
        self._unacknowledged.clear()
        self._ordered.extendleft(reversed(ordered))
        queue = [*urgent, *self._urgent]
        windows = [note for note in queue if note.kind == "window"]
        self._urgent = deque(note for note in queue if note.kind != "window" or note is windows[-1])

    # -- sending -------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """Bytes written in all: the offset of the next one."""
        return self._written

    @property
    def unsent(self) -> int:
        """Bytes written and not yet handed to a link."""
        return self._written - self._sent

    @property
    def retained(self) -> int:
        """Bytes kept in memory: written and not consumed by the other end."""
        return self._written - self._retained_start

    @property
    def kept_from(self) -> int:
        """The offset of the oldest byte that can still be sent again."""
        return self._retained_start

    @property
    def urgent_waiting(self) -> int:
        """Urgent events that are not on the wire yet."""
        return len(self._urgent)

    @property
    def ordered_waiting(self) -> int:
        """Ordered events that are not on the wire yet."""
        return len(self._ordered)

    @property
    def event_due(self) -> bool:
        """Whether the next frame is an ordered event other than the outcome."""
        if not self._ordered or len(self._unacknowledged) >= EVENTS_UNACKNOWLEDGED:
            return False
        return self._ordered[0].at == self._sent and self._ordered[0].kind != "outcome"

    @property
    def drained(self) -> bool:
        """Whether everything written was consumed and every event seen by the other end."""
        return not (self.retained or self._ordered or self._urgent or self._unacknowledged)

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        """Send bytes, after all that was written before.

        Raises:
            LocalProtocolError: After `write_eof` or the outcome.
        """
        if not data:
            return
        if self._eof_written:
            raise LocalProtocolError("write after the end of the stream")
        self._unsent.append((data, stderr))
        self._written += len(data)
        self._wake()

    def write_eof(self) -> None:
        """Say that no byte follows in this direction; saying it again does nothing."""
        if not self._eof_written:
            self._eof_written = True
            self._wake()

    def send_event(self, kind: str, body: dict[str, Any], *, urgent: bool = False) -> None:
        """Send an event: behind all bytes written so far, or at once if ``urgent``.

        Of window events that wait only the newest is kept, and of cancel events one.

        Raises:
            LocalProtocolError: After the outcome, or the event does not fit into a frame.
        """
        if self._outcome_written:
            raise LocalProtocolError("event after the outcome")
        encode_event(2**62, 2**62, kind, body)
        if kind == "outcome":
            self._outcome_written = self._eof_written = True
        if urgent:
            if kind in _NEWEST_ONLY:
                self._urgent = deque(note for note in self._urgent if note.kind != kind)
            self._urgent.append(_Note(0, 0, kind, body, True))
        else:
            self._ordered.append(_Note(0, self._written, kind, body, False))
        self._wake()

    def acknowledged(self, consumed: int, events: int) -> None:
        """Free what the other end has consumed and seen."""
        while self._retained and self._retained_start < consumed:
            data, stderr = self._retained[0]
            if self._retained_start + len(data) <= consumed:
                self._retained.popleft()
                self._retained_start += len(data)
            else:
                self._retained[0] = (data[consumed - self._retained_start :], stderr)
                self._retained_start = consumed
        while self._unacknowledged and self._unacknowledged[0].seq <= events:
            self._unacknowledged.popleft()

    # -- FrameSource -----------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        """Return an urgent event, or a LIMIT that is due."""
        if self._urgent and len(self._unacknowledged) < EVENTS_UNACKNOWLEDGED:
            return self._emit(self._urgent.popleft())
        window = self._current_window()
        unannounced = self._consumed - self._announced_consumed
        if (
            unannounced >= min(window // 2, self._announce_bytes)
            or self._events_taken > self._announced_events
            or (self._announce_now and unannounced)
        ):
            self._announce_now = False
            self._announced_consumed = self._consumed
            self._announced_events = max(self._announced_events, self._events_taken)
            self._limit = max(self._limit, self._consumed + window)
            return OutLimit(self._consumed, self._limit, self._announced_events)
        return None

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        """Return the next ordered event or bytes."""
        size = min(room, credit)
        if self._ordered:
            distance = self._ordered[0].at - self._sent
            if distance == 0:
                if len(self._unacknowledged) >= EVENTS_UNACKNOWLEDGED:
                    return None
                return self._emit(self._ordered.popleft())
            size = min(size, distance)
        if self._unsent and size > 0:
            data, stderr = self._take(size)
            eof = self._eof_written and not self._unsent
            self._eof_sent = eof
            return OutData(data, stderr, eof)
        if self._eof_written and not self._eof_sent and not self._unsent:
            self._eof_sent = True
            return OutData(b"", False, True)
        return None

    def _emit(self, note: _Note) -> OutEvent:
        note = note._replace(seq=self._next_seq)
        self._next_seq += 1
        self._unacknowledged.append(note)
        payload = encode_event(note.seq, note.at, note.kind, note.body)
        return OutEvent(payload, note.seq, note.urgent, note.kind == "outcome")

    def _take(self, size: int) -> tuple[bytes, bool]:
        """Move up to ``size`` bytes of one channel from unsent to retained; join small writes."""
        stderr = self._unsent[0][1]
        taken: list[bytes] = []
        while self._unsent and size and self._unsent[0][1] is stderr:
            data = self._unsent.popleft()[0]
            if len(data) > size:
                self._unsent.appendleft((data[size:], stderr))
                data = data[:size]
            taken.append(data)
            size -= len(data)
        joined = taken[0] if len(taken) == 1 else b"".join(taken)
        self._retained.append((joined, stderr))
        self._sent += len(joined)
        return joined, stderr

    # -- receiving -----------------------------------------------------------------------------

    @property
    def unconsumed(self) -> int:
        """Bytes that arrived and were not consumed by the application."""
        return self._received - self._consumed

    def received(self, size: int) -> None:
        """Count bytes that arrived."""
        self._received += size

    def event_seen(self, seq: int) -> None:
        """Count an event that arrived; it is acknowledged at once."""
        self._events_seen = max(self._events_seen, seq)
        self._wake()

    def event_held(self, seq: int) -> None:
        """Count an event that waits for the application, and is acknowledged by `event_taken`.

        So rule V4 bounds what waits, as credit bounds bytes.
        """
        self._events_seen = max(self._events_seen, seq)
        self._events_held.append(seq)

    def event_taken(self) -> None:
        """The application has the event that was held for longest."""
        self._events_held.popleft()
        self._wake()

    @property
    def _events_taken(self) -> int:
        """The highest number that may be acknowledged."""
        return self._events_held[0] - 1 if self._events_held else self._events_seen

    def consumed(self, size: int) -> None:
        """Give credit for bytes that the application has taken (rule F3)."""
        self._consumed += size
        if self._consumed > self._received:
            raise LocalProtocolError("consumed more than arrived")
        self._wake()

    @property
    def unannounced(self) -> bool:
        """Whether there is consumption the other end has not been told of."""
        return self._consumed > self._announced_consumed

    def announce(self) -> None:
        """Tell any unannounced consumption now; called a second after it (rule F3)."""
        if self.unannounced:
            self._announce_now = True
            self._wake()

    def _current_window(self) -> int:
        return self._window if self._budget is None else self._budget.window(self._window)
