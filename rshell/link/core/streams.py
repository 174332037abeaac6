"""What one link knows of one stream: its state, and the positions of both directions on it."""

from __future__ import annotations

from enum import Enum, auto

from rshell.link.core.constants import (
    EVENTS_UNACKNOWLEDGED,
    MAX_OFFSET,
    MAX_WINDOW,
    WEIGHT_NORMAL,
)
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.messages import Event, Opened, Positions
from rshell.link.core.scheduler import Flow
from rshell.link.core.sources import FrameSource, OutEvent, OutLimit

__all__ = ["LinkStream", "StreamState", "check_window"]


class StreamState(Enum):
    """A stream is asked for, then open, then forgotten."""

    ASKED = auto()
    OPEN = auto()


def check_window(consumed: int, limit: int) -> None:
    """Refuse a window that no honest receiver grants (rule F2).

    Raises:
        RemoteProtocolError: It is larger than 16 MiB.
    """
    if limit - consumed > MAX_WINDOW:
        raise RemoteProtocolError(ErrorCode.FLOW_CONTROL, "a window of more than 16 MiB")


class LinkStream:
    """The bookkeeping of one stream on one link (sections 5 to 7 of docs/protocol.md).

    Receiving: ``receive_offset`` never passes ``receive_limit``, which is what we last announced.
    Sending: ``send_offset`` never passes ``send_limit``, which is what the peer last announced.
    """

    __slots__ = (
        "announced_events",
        "eof_received",
        "eof_sent",
        "flow",
        "local",
        "number",
        "outcome_received",
        "outcome_sent",
        "peer_consumed",
        "peer_events",
        "receive_events",
        "receive_limit",
        "receive_offset",
        "send_events",
        "send_limit",
        "send_offset",
        "source",
        "state",
    )

    def __init__(self, number: int, *, local: bool, weight: int = WEIGHT_NORMAL) -> None:
        self.number = number
        self.local = local
        self.state = StreamState.ASKED
        self.flow = Flow(number, weight)
        self.source: FrameSource | None = None
        self.receive_offset = 0
        self.receive_limit = 0
        self.receive_events = 0
        self.announced_events = 0
        self.eof_received = False
        self.send_offset = 0
        self.send_limit = 0
        self.send_events = 0
        self.peer_consumed = 0
        self.peer_events = 0
        self.eof_sent = False
        #: The number of the outcome event, 0 while there is none.
        self.outcome_received = 0
        self.outcome_sent = 0

    # -- opening -----------------------------------------------------------------------------

    def accepted_by_peer(self, opened: Opened) -> None:
        """Set the positions of a stream that this side opened."""
        self._set_send(opened.consumed, opened.limit, opened.events)
        if self.receive_offset + opened.gap > MAX_OFFSET:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "a gap beyond 2^63")
        self.receive_offset += opened.gap
        self.announced_events = self.receive_events
        self.state = StreamState.OPEN

    def accepted_here(self, start: Positions, opened: Opened) -> None:
        """Set the positions of a stream that the peer opened."""
        self.receive_offset = opened.consumed
        self.receive_limit = opened.limit
        self.receive_events = self.announced_events = opened.events
        self._set_send(start.consumed + opened.gap, start.limit, start.events)
        self.state = StreamState.OPEN

    def _set_send(self, consumed: int, limit: int, events: int) -> None:
        check_window(consumed, limit)
        self.send_offset = self.peer_consumed = consumed
        self.send_limit = limit
        self.send_events = self.peer_events = events

    # -- receiving ---------------------------------------------------------------------------

    def data_received(self, size: int, eof: bool) -> None:
        """Check and count received bytes (rules F1 and F6)."""
        if not size and not eof:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "DATA without bytes")
        if size and (self.eof_received or self.outcome_received):
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "DATA after the end")
        self.receive_offset += size
        # A gap may leave the offset beyond the limit: an EOF there overruns nothing.
        if size and self.receive_offset > self.receive_limit:
            raise RemoteProtocolError(
                ErrorCode.FLOW_CONTROL,
                f"stream {self.number}: {self.receive_offset - self.receive_limit} bytes too many",
            )
        self.eof_received = self.eof_received or eof

    def event_received(self, event: Event, urgent: bool) -> bool:
        """Check and count an event; say whether it is new (rules V1 to V4)."""
        if urgent and event.at:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL, f"stream {self.number}: urgent event at {event.at}"
            )
        if not urgent and event.at != self.receive_offset:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL,
                f"stream {self.number}: event at {event.at}, "
                f"received after {self.receive_offset} bytes",
            )
        if event.seq <= self.receive_events:
            return False
        if self.outcome_received:
            raise RemoteProtocolError(ErrorCode.PROTOCOL, "EVENT after the outcome")
        if event.seq - self.announced_events > EVENTS_UNACKNOWLEDGED:
            raise RemoteProtocolError(
                ErrorCode.OVERLOAD, f"more than {EVENTS_UNACKNOWLEDGED} unacknowledged events"
            )
        if event.kind == "outcome":
            if not self.local or urgent:
                raise RemoteProtocolError(
                    ErrorCode.PROTOCOL, "the answering end sends the outcome, in order"
                )
            self.outcome_received = event.seq
            self.eof_received = True
        self.receive_events = event.seq
        return True

    def limit_received(self, consumed: int, limit: int, events: int) -> bool:
        """Take the peer's positions; say whether any of them is news (rule F2)."""
        if consumed > self.send_offset:
            raise RemoteProtocolError(
                ErrorCode.FLOW_CONTROL, f"stream {self.number}: consumed more than was sent"
            )
        if events > self.send_events:
            raise RemoteProtocolError(
                ErrorCode.PROTOCOL, f"stream {self.number}: saw more events than were sent"
            )
        check_window(max(consumed, self.peer_consumed), limit)
        news = consumed > self.peer_consumed or limit > self.send_limit or events > self.peer_events
        self.peer_consumed = max(self.peer_consumed, consumed)
        self.send_limit = max(self.send_limit, limit)
        self.peer_events = max(self.peer_events, events)
        return news

    @property
    def outcome_acknowledged(self) -> bool:
        """Whether the peer has seen the outcome that this side sent."""
        return bool(self.outcome_sent) and self.peer_events >= self.outcome_sent

    # -- sending -----------------------------------------------------------------------------

    @property
    def credit(self) -> int:
        """Bytes that the peer's limit still allows."""
        return max(0, self.send_limit - self.send_offset)

    def data_sent(self, size: int, eof: bool) -> None:
        """Count bytes that go onto the wire now."""
        if size > self.credit:
            raise LocalProtocolError(f"stream {self.number}: a source overran its credit")
        self.send_offset += size
        self.eof_sent = self.eof_sent or eof

    def event_sent(self, item: OutEvent) -> None:
        """Note the number of an event that goes onto the wire now."""
        self.send_events = max(self.send_events, item.seq)
        if item.outcome:
            self.outcome_sent = item.seq

    def limit_sent(self, item: OutLimit) -> None:
        """Note what this side announces now."""
        self.receive_limit = max(self.receive_limit, item.limit)
        self.announced_events = max(self.announced_events, item.events)

    @property
    def outcome_told(self) -> bool:
        """Whether this side has acknowledged the outcome that it received."""
        return bool(self.outcome_received) and self.announced_events >= self.outcome_received
