"""One who watches a session: a stream of its own, which the session never waits for (R9).

A viewer has its own count from 0, its own credit, and a bounded place for what waits. Nothing that
it sends reaches the process, and nothing here is kept for it once its connection is gone.
"""

from __future__ import annotations

from collections import deque

from rshell_agent.keeper import constants as c
from rshell_agent.keeper import wire
from rshell_agent.keeper.offsets import Piece, cut, join
from rshell_agent.keeper.wire import Map, WireError

TYPE_CHECKING = False  # as typing's, whose import costs memory
if TYPE_CHECKING:
    from rshell_agent.keeper.loop import Timer
    from rshell_agent.keeper.server import Connection
    from rshell_agent.keeper.session import Session
    from rshell_agent.keeper.sessions import Sessions

__all__ = ["Viewer"]


class Viewer:
    """Made for an OPEN that was allowed; `begin` answers it.

    Output waits in two parts: the replay, which is sent whole, and what was produced since. Of the
    second the oldest makes room, so that what is missing is always missing at its very beginning:
    one number says how much.
    """

    def __init__(
        self, sessions: Sessions, session: Session, connection: Connection, limit: int
    ) -> None:
        self.connection: Connection | None = connection
        self._session = session
        self._loop, self._times = sessions.loop, sessions.times
        self._limit = limit
        self._replay: deque[Piece] = deque()
        self._live: deque[Piece] = deque()
        self._held = 0  # bytes in _live
        self._missing = 0  # bytes left out just before _live
        self._sent = self._sent_events = self._seen_events = 0
        self._heard = self._told = 0  # the viewer's own events: without effect, but counted
        self._outcome: Map | None = None
        self._end_sent = self._outcome_sent = False
        self._announcing: Timer | None = None
        self._leaving: Timer | None = None

    def begin(self) -> None:
        """Answer OPENED, then what is still here of the output so far."""
        if self.connection is None:
            return
        self._replay = self._session.out.newest(c.VIEW_BYTES)
        opened: Map = {"consumed": 0, "limit": 0, "events": 0, "attached": True}
        replay = sum(len(data) for _, data in self._replay)
        if replay:
            opened["replay"] = replay
        self.connection.send(
            wire.encode_map(wire.OPENED, {**opened, "pid": self._session.process.pid})
        )
        self.pump()

    # -- from the session ----------------------------------------------------------------------

    def add(self, flags: int, data: bytes) -> None:
        """Show output; what does not fit makes the oldest that waits go."""
        join(self._live, flags, data)
        self._held += len(data)
        while len(self._live) > c.MAX_CHUNKS:
            self._leave_out(len(self._live[0][1]))
        self._leave_out(self._held - c.VIEW_BYTES)
        self.pump()

    def _leave_out(self, count: int) -> None:
        if count > 0:
            cut(self._live, count)
            self._held -= count
            self._missing += count

    def finish(self, outcome: Map) -> None:
        """The session is over: the rest, the end, the outcome, and some time to take them."""
        self._outcome = outcome
        self._leaving = self._loop.after(self._times.viewing, self._too_slow)
        self.pump()

    def _too_slow(self) -> None:
        if self.connection is not None:
            message = f"the session is over; its end was not taken for {self._times.viewing:g} s"
            self.connection.send(
                wire.encode_map(wire.RESET, {"code": "timeout", "message": message})
            )
            self.connection.flush()
        self._leave()

    def _leave(self) -> None:
        if self.connection is not None:
            self.connection.close("")
        self.detached()

    # -- from its connection -------------------------------------------------------------------

    def received(self, kind: int, flags: int, payload: bytes) -> None:
        """Take a frame after OPEN.

        Raises:
            WireError: it breaks a rule. Input does: no credit was given for any.
        """
        if kind == wire.LIMIT:
            self._hear(payload)
        elif kind == wire.EVENT:
            self._heard = max(self._heard, wire.integer(wire.parse_map(payload), "seq"))
            if self._heard > self._told and self._announcing is None:
                self._announcing = self._loop.after(self._times.announce, self._tell)
        elif kind == wire.RESET:
            self._leave()
        elif kind != wire.DATA:
            raise WireError(f"frame type {kind} on an open stream")
        elif payload:
            raise WireError("input from a viewer")

    def _hear(self, payload: bytes) -> None:
        if len(payload) != wire.OFFSETS.size:
            raise WireError("LIMIT: wrong length")
        consumed, limit, events = wire.OFFSETS.unpack(payload)
        if consumed > self._sent or events > self._sent_events:
            raise WireError("LIMIT names what was not sent")
        self._limit = max(self._limit, limit)
        self._seen_events = max(self._seen_events, events)
        if self._outcome_sent and self._seen_events == self._sent_events:
            self._leave()
        else:
            self.pump()

    def _tell(self) -> None:
        self._announcing = None
        if self.connection is not None:
            self._told = self._heard
            self.connection.send(wire.encode(wire.LIMIT, wire.OFFSETS.pack(0, 0, self._told)))
            self.connection.flush()

    def detached(self) -> None:
        """The connection is gone, and this with it."""
        self.connection = None
        if self in self._session.viewers:
            self._session.viewers.remove(self)
        for timer in (self._announcing, self._leaving):
            if timer is not None:
                timer.cancel()
        self._replay.clear()
        self._live.clear()

    # -- to its connection ---------------------------------------------------------------------

    def pump(self) -> None:
        """Send what its credit allows and its connection takes soon."""
        connection = self.connection
        if connection is None:
            return
        while connection.pending < c.VIEW_AHEAD:
            frame = self._take()
            if frame is None:
                break
            connection.send(frame)
            if connection.pending >= c.VIEW_AHEAD:
                connection.flush()  # on a full socket it stays high, and pumps us when ready
        connection.flush()

    def _take(self) -> bytes | None:
        credit = self._limit - self._sent
        if self._replay:
            return self._take_bytes(self._replay, credit)
        if self._missing:  # told when the bytes after it can follow, so that one number does
            if credit <= 0 or not self._may_tell:
                return None
            gap: Map = {"kind": "gap", "bytes": self._missing}
            self._missing = 0
            return self._event(gap)
        if self._live:
            return self._take_bytes(self._live, credit)
        if self._outcome is None or self._outcome_sent:
            return None
        if not self._end_sent:
            self._end_sent = True
            return wire.encode(wire.DATA, b"", wire.EOF)
        if not self._may_tell:
            return None
        self._outcome_sent = True
        return self._event(self._outcome)

    def _take_bytes(self, pieces: deque[Piece], credit: int) -> bytes | None:
        count = min(credit, wire.MAX_PAYLOAD, len(pieces[0][1]))
        if count <= 0:
            return None
        ((flags, data),) = cut(pieces, count)
        self._sent += count
        if pieces is self._live:
            self._held -= count
        return wire.encode(wire.DATA, data, flags)

    @property
    def _may_tell(self) -> bool:
        return self._sent_events - self._seen_events < c.MAX_EVENTS

    def _event(self, fields: Map) -> bytes:
        self._sent_events += 1
        return wire.encode_map(wire.EVENT, {"seq": self._sent_events, "at": self._sent, **fields})
