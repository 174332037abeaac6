"""Cores joined in memory: `ConnectionPair` for one link, `Talker` for one end of a stream.

Nothing here does I/O or knows time: `ConnectionPair.now` is a number that tests set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rshell.link.core.connection import LinkConnection
from rshell.link.core.ends import StreamEnd
from rshell.link.core.events import (
    DataReceived,
    EventReceived,
    LimitReceived,
    LinkEvent,
    StreamOpened,
    StreamRequested,
)
from rshell.link.core.frames import Frame, FrameReader
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_OPERATOR, CreditBudget, LinkLimits
from rshell.link.core.messages import Hello, Open, Opened, Positions, VersionRange, Welcome
from rshell.link.core.sources import OutData, OutEvent, OutLimit

SESSION = bytes(range(16))


def hello(low: int = 1, high: int = 1, **more: Any) -> Hello:
    """Return a dialler's introduction."""
    return Hello(
        protocol=VersionRange(low, high),
        software="test/1",
        instance=bytes(16),
        dial=1,
        features=["resume"],
        max_streams=more.pop("max_streams", 256),
        window=262144,
        **more,
    )


def welcome(**more: Any) -> Welcome:
    """Return a gateway's acceptance."""
    fields: dict[str, Any] = {
        "protocol": 1,
        "software": "test/1",
        "features": ["resume"],
        "name": "pump-1",
        "time_ms": 1,
        "heartbeat_ms": 25_000,
        "max_streams": 8192,
        "window": 262144,
    }
    return Welcome(**(fields | more))


def request(limit: int = 262144, **more: Any) -> Open:
    """Return an OPEN."""
    return Open(handler="exec", session=SESSION, limit=limit, **more)


def frames_of(wire: bytes) -> list[Frame]:
    """Cut recorded bytes into frames."""
    reader = FrameReader()
    reader.feed(wire)
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    assert not reader.buffered, "a recording ends with a whole frame"
    return frames


class Party(Protocol):
    """What a `Side` tells about one stream, and asks for frames."""

    def next_control(self) -> OutEvent | OutLimit | None:
        """See FrameSource."""

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        """See FrameSource."""

    def opened(self, opened: Opened) -> None:
        """The peer said OPENED."""

    def data(self, event: DataReceived) -> None:
        """Bytes arrived."""

    def event(self, event: EventReceived) -> None:
        """An event arrived."""

    def limit(self, event: LimitReceived) -> None:
        """Positions arrived."""


class Side:
    """One core with what it told, what it sent, and who uses its streams."""

    def __init__(self, core: LinkConnection) -> None:
        self.core = core
        self.events: list[LinkEvent] = []
        self.wire = bytearray()
        self.parties: dict[int, Party] = {}
        self.on_request: Callable[[StreamRequested], None] | None = None

    def told(self, kind: type[LinkEvent]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes and dispatch what they mean."""
        for event in self.core.receive_data(data, now):
            self._dispatch(event)

    def record(self) -> bytes:
        """Return the next record to send."""
        record, finished = self.core.next_record()
        for event in finished:
            self._dispatch(event)
        self.wire += record
        return record

    def _dispatch(self, event: LinkEvent) -> None:
        self.events.append(event)
        match event:
            case StreamRequested() if self.on_request is not None:
                self.on_request(event)
            case StreamOpened(stream=number, opened=opened) if number in self.parties:
                self.parties[number].opened(opened)
            case DataReceived(stream=number) if number in self.parties:
                self.parties[number].data(event)
            case EventReceived(stream=number) if number in self.parties:
                self.parties[number].event(event)
            case LimitReceived(stream=number) if number in self.parties:
                self.parties[number].limit(event)
            case _:
                pass


class ConnectionPair:
    """A dialler's and a gateway's core, joined.

    Args:
        chunk: Bytes are handed over in pieces of this size; None: whole records.
        greet: Exchange HELLO and WELCOME first.
    """

    def __init__(
        self,
        *,
        gateway: LinkLimits = AT_GATEWAY_FROM_OPERATOR,
        dialler: LinkLimits = AT_AGENT,
        chunk: int | None = None,
        greet: bool = True,
    ) -> None:
        self.dialler = Side(LinkConnection(dialler=True, limits=dialler))
        self.gateway = Side(LinkConnection(dialler=False, limits=gateway))
        self.chunk = chunk
        self.now = 0.0
        if greet:
            self.dialler.core.send_hello(hello(max_streams=dialler.max_streams))
            self.run()
            self.gateway.core.send_welcome(welcome(max_streams=gateway.max_streams))
            self.run()

    def other(self, side: Side) -> Side:
        """Return who is across."""
        return self.gateway if side is self.dialler else self.dialler

    def step(self, side: Side) -> int:
        """Carry one record from ``side`` across; return its size."""
        record = side.record()
        size = self.chunk or len(record)
        for start in range(0, len(record), max(1, size)):
            self.other(side).receive(record[start : start + size], self.now)
        return len(record)

    def run(self) -> None:
        """Carry records until both sides are silent."""
        while self.dialler.core.has_output or self.gateway.core.has_output:
            self.step(self.dialler)
            self.step(self.gateway)


class Talker:
    """One end of a stream and a small application on it.

    Attributes:
        got: All bytes delivered, over all links.
        notes: (kind, bytes delivered before it, body, urgent) of each event delivered.
        consuming: Whether bytes are consumed as they arrive.
    """

    def __init__(self, window: int = 262144, budget: CreditBudget | None = None) -> None:
        self.end = StreamEnd(window, budget)
        self.window = window
        self.got = bytearray()
        self.stderr = bytearray()
        self.notes: list[tuple[str, int, dict[str, Any], bool]] = []
        self.eofs = 0
        self.consuming = True

    # -- joining a link ----------------------------------------------------------------------

    def call(self, side: Side, *, resume: bool = False, attempt: int = 1) -> int:
        """Open a stream on a link."""
        start = self.end.positions()
        opening = request(start.limit, attempt=attempt).starting(start, resuming=resume)
        number = side.core.open_stream(opening, self)
        side.parties[number] = self
        self._attach_later = lambda: self.end.attach(lambda: side.core.wake(number))
        return number

    def answer(self, side: Side, number: int, opening: Open, gap: int = 0) -> None:
        """Accept a stream on a link."""
        if opening.resume is not None:
            self.end.resume(opening.resume)
        start = self.end.positions()
        side.parties[number] = self
        side.core.accept(
            number, opening, Opened(start.consumed, start.limit, start.events, gap), self
        )
        self.end.attach(lambda: side.core.wake(number))

    def opened(self, opened: Opened) -> None:
        self.end.resume(Positions(opened.consumed, opened.limit, opened.events), opened.gap)
        self._attach_later()

    # -- the stream --------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        return self.end.next_control()

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        return self.end.next_frame(room, credit)

    def data(self, event: DataReceived) -> None:
        self.end.received(len(event.data))
        self.got += event.data
        if event.stderr:
            self.stderr += event.data
        self.eofs += event.eof
        assert self.end.unconsumed <= self.window, "an obeying peer never exceeds the window"
        if self.consuming:
            self.consume()

    def event(self, event: EventReceived) -> None:
        note = event.event
        self.end.event_seen(note.seq)
        self.notes.append((note.kind, len(self.got), note.body, event.urgent))

    def limit(self, event: LimitReceived) -> None:
        self.end.acknowledged(event.consumed, event.events)

    def consume(self, size: int | None = None) -> None:
        """Take what arrived, or ``size`` bytes of it."""
        waiting = self.end.unconsumed
        self.end.consumed(waiting if size is None else min(size, waiting))


def converse(pair: ConnectionPair, window: int = 262144) -> tuple[Talker, Talker, int]:
    """Open one stream from the dialler to the gateway; return both talkers and its number."""
    caller, answerer = Talker(window), Talker(window)
    pair.gateway.on_request = lambda event: answerer.answer(pair.gateway, event.stream, event.open)
    number = caller.call(pair.dialler)
    pair.run()
    return caller, answerer, number
