"""StreamChannel: one end of a stream as a Twisted transport, producer and consumer.

Any Twisted protocol runs over it unchanged: `StreamChannel.write` sends (with back-pressure
through `registerProducer`), `pauseProducing` stops delivery, and credit returns to the other end
only as the application takes the bytes.  Events and the outcome are the extra that a terminal
transport does not have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from zope.interface import implementer

from rshell.link.core.constants import DEFAULT_WINDOW, WEIGHT_NORMAL
from rshell.link.core.ends import StreamEnd
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Open, Opened, Outcome
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import LinkProtocol

__all__ = ["ChannelReceiver", "StreamAddress", "StreamChannel"]

#: A producer is paused while more than this waits to be sent.
SEND_BUFFER_BYTES = 64 * 1024


class ChannelReceiver(Protocol):
    """What uses a channel.  ``channel_closed`` comes last and exactly once."""

    def channel_opened(self, opened: Opened) -> None:
        """Only for streams asked for here: the other end accepted."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        """Bytes in order; they count as consumed when this returns."""

    def input_ended(self) -> None:
        """No byte follows; said once."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """An event, at its place among the bytes or, if urgent, at once."""

    def channel_closed(self, code: str, message: str) -> None:
        """The stream is over.

        Args:
            code: ``none`` after an acknowledged outcome, ``link-lost`` when the link broke,
                else the code of REFUSED or RESET.
            message: For people.
        """


class StreamAddress:
    """The address of a stream's end, for `ITransport`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<stream {self.text}>"


@implementer(ITransport, IConsumer, IPushProducer)
class StreamChannel:
    """One end of one stream.

    Args:
        link: The link that carries it.
        receiver: Whom to tell.
        window: Bytes the other end may be ahead of ``receiver``.

    Attributes:
        disconnecting: True once this end has said that it sends no more.
    """

    def __init__(
        self, link: LinkProtocol, receiver: ChannelReceiver, window: int = DEFAULT_WINDOW
    ) -> None:
        self.end = StreamEnd(window, link.receive_budget)
        self.disconnecting = False
        self.number = 0
        self._link = link
        self._receiver = receiver
        self._closed = False
        self._paused = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        self._pulling = False
        #: What arrived while delivery was paused: calls in order.
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._input_ended = False
        self._delivering = False

    # -- opening -----------------------------------------------------------------------------

    def request(self, request: Open, weight: int = WEIGHT_NORMAL) -> None:
        """Ask the peer for the stream; the end's first limit is filled in."""
        positions = self.end.positions()
        request = msgspec.structs.replace(request, limit=positions.limit)
        self.number = self._link.open_stream(request, self, weight)

    def accept(self, number: int, request: Open, weight: int = WEIGHT_NORMAL) -> None:
        """Accept a stream that the peer asked for; it is closed at once if the peer gave up."""
        if not self._link.waiting(number):
            self._close(ErrorCode.CANCELLED.value, "the other end gave up")
            return
        self.number = number
        positions = self.end.positions()
        opened = Opened(positions.consumed, positions.limit, positions.events)
        self._link.accept(number, request, opened, self, weight)
        self.end.attach(self._wake)

    def _wake(self) -> None:
        if not self._closed:
            self._link.wake(self.number)

    # -- ITransport and IConsumer --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes (to stdout, at a device's end)."""
        self._write(data, False)

    def write_stderr(self, data: bytes) -> None:
        """Send bytes on the second channel, in order with the first."""
        self._write(data, True)

    def _write(self, data: bytes, stderr: bool) -> None:
        if self._closed or (self.disconnecting and self._producer is None):
            return
        self.end.write(bytes(data), stderr=stderr)
        self._regulate()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Say that no byte follows what a producer still has; the other direction goes on."""
        if not self._closed and not self.disconnecting:
            self.disconnecting = True
            if self._producer is None:
                self.end.write_eof()

    def abortConnection(self) -> None:
        """End the stream at once, both ways."""
        self.reset(ErrorCode.CANCELLED, "")

    def getPeer(self) -> Any:
        return StreamAddress(f"{self.number} peer")

    def getHost(self) -> Any:
        return StreamAddress(f"{self.number} host")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take data from ``producer`` as fast as the other end consumes it."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if self._closed:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if streaming:
            self._regulate()
        else:
            self._pull()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.disconnecting and not self._closed:
            self.end.write_eof()

    def _regulate(self) -> None:
        """Pause or resume the producer by what waits to be sent."""
        if self._producer is None:
            return
        full = self.end.unsent > SEND_BUFFER_BYTES
        if self._streaming:
            if full and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()
            elif not full and self._producer_paused:
                self._producer_paused = False
                self._producer.resumeProducing()
        elif not full:
            self._pull()

    def _pull(self) -> None:
        """Ask a pull producer for more until enough waits; its writes do not ask again."""
        if self._pulling:
            return
        self._pulling = True
        try:
            while self._producer is not None and self.end.unsent <= SEND_BUFFER_BYTES:
                before = self.end.written
                self._producer.resumeProducing()
                if self.end.written == before:
                    break
        finally:
            self._pulling = False

    # -- more than a transport -----------------------------------------------------------------

    def send_event(self, kind: str, body: dict[str, Any], *, urgent: bool = False) -> None:
        """Send an event, in order or at once."""
        if not self._closed:
            self.end.send_event(kind, body, urgent=urgent)

    def finish(self, outcome: Outcome) -> None:
        """Send the outcome: the last word of a device's end."""
        body = {
            name: value
            for name in outcome.__struct_fields__
            if (value := getattr(outcome, name)) is not None
        }
        self.disconnecting = True
        self.send_event("outcome", body)

    def reset(self, code: ErrorCode | str, message: str) -> None:
        """End the stream at once, both ways."""
        if not self._closed:
            self._link.reset(self.number, code, message)
            self._close(str(code), message)

    # -- IPushProducer: delivery to the application ----------------------------------------------

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._deliver_waiting()

    def stopProducing(self) -> None:
        self.abortConnection()

    def _deliver(self, size: int, call: Callable[[], None]) -> None:
        self._waiting.append((size, call))
        self._deliver_waiting()

    def _deliver_waiting(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting and not self._paused:
                size, call = self._waiting.popleft()
                call()
                if size:
                    self._consumed(size)
        finally:
            self._delivering = False

    def _consumed(self, size: int) -> None:
        self.end.consumed(size)
        if self.end.unannounced and not self._closed:
            self._link.announce_later(self.number, self.end.announce)

    # -- StreamReceiver --------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        return self.end.next_control()

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        frame = self.end.next_frame(room, credit)
        if self._producer_paused or (self._producer is not None and not self._streaming):
            self._regulate()
        return frame

    def stream_opened(self, opened: Opened) -> None:
        self.end.attach(self._wake)
        self._receiver.channel_opened(opened)

    def stream_refused(self, code: str, message: str) -> None:
        self._deliver(0, lambda: self._close(code, message))

    def data_received(self, event: DataReceived) -> None:
        size = len(event.data)
        if size:
            self.end.received(size)
            self._deliver(size, lambda: self._receiver.data_received(event.data, event.stderr))
        if event.eof:
            self._deliver(0, self._end_input)

    def _end_input(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            self._receiver.input_ended()

    def event_received(self, event: EventReceived) -> None:
        note = event.event
        if event.urgent:
            self.end.event_seen(note.seq)
            self._receiver.event_received(note.kind, note.body, True)
        elif note.kind == "outcome":
            # Acknowledged only when the application has it: then the other end may forget it.
            self._deliver(0, lambda: self._outcome(note.seq, note.body))
        else:
            self.end.event_seen(note.seq)
            self._deliver(0, lambda: self._receiver.event_received(note.kind, note.body, False))

    def _outcome(self, seq: int, body: dict[str, Any]) -> None:
        self._end_input()
        self._receiver.event_received("outcome", body, False)
        self.end.event_seen(seq)

    def limit_received(self, event: LimitReceived) -> None:
        self.end.acknowledged(event.consumed, event.events)

    def stream_reset(self, code: str, message: str) -> None:
        self._deliver(0, lambda: self._close(code, message))

    def stream_finished(self) -> None:
        self._close(ErrorCode.NONE.value, "")

    def link_lost(self, reason: str) -> None:
        self._deliver(0, lambda: self._close(ErrorCode.LINK_LOST.value, reason))

    def _close(self, code: str, message: str) -> None:
        if self._closed:
            return
        self._closed = True
        self.disconnecting = True
        self.end.detach()
        self._waiting.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self._receiver.channel_closed(code, message)

    @property
    def closed(self) -> bool:
        """Whether the stream is over."""
        return self._closed
