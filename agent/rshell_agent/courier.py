"""Courier: carries one stream between the link and the keeper, frame by frame.

The keeper is the device's end of the stream; nothing here matters when it is lost.  Output that
waits for the link is bounded by not reading the keeper's socket; input is bounded by the limit
that the keeper gave, which is passed on unchanged.

::

    link --DATA, EVENT, LIMIT--> written to the keeper's socket at once
    link <--next_control, next_frame-- [ queue ] <--DATA, EVENT, LIMIT-- keeper's socket
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.handlers import Outcome, ProcessRequest
from rshell.handlers.confirm import GUARD
from rshell.link.core.errors import ErrorCode, RemoteProtocolError
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Open, Opened, decode_event
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.protocol import StreamReceiver
from rshell.link.unix_sockets import write_at_once
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import frame_of, hello_frame

__all__ = ["Courier", "StreamLink", "open_frame", "outcome_of"]

#: The keeper's socket is not read while more than this waits for the link.
QUEUE_BYTES = 64 * 1024
#: What is read of it at once: a whole frame of bulk.
_READ_BYTES = wire.HEADER.size + wire.MAX_DATA
#: To an older keeper a viewer's OPEN would read as an attach, and displace who is there; a command
#: with a rollback would run without one.
_OLD_KEEPER = (
    "the device's keeper is older than its agent and cannot {what}; "
    "it is replaced when it has no session left"
)
_WHAT = {"view": "show sessions", "confirm": "undo what is not confirmed"}


class StreamLink(Protocol):
    """What a courier needs of `rshell.link.protocol.LinkProtocol`."""

    def waiting(self, number: int) -> bool:
        """Whether the peer waits for the answer to its OPEN."""

    def watch(self, number: int, receiver: StreamReceiver) -> None:
        """Tell ``receiver`` if the peer gives up."""

    def accept(
        self, number: int, request: Open, opened: Opened, receiver: StreamReceiver, weight: int
    ) -> None:
        """Answer OPENED."""

    def refuse(self, number: int, code: str, message: str) -> None:
        """Answer REFUSED."""

    def reset(self, number: int, code: str, message: str) -> None:
        """End the stream."""

    def wake(self, number: int) -> None:
        """There may be something to send."""


def open_frame(
    request: Open,
    process: ProcessRequest | None,
    link_dialled_at: float | None = None,
    *,
    touched: bool = False,
) -> bytes:
    """Return the keeper's OPEN for a link's OPEN, built field by field (docs/keeper.md K14).

    Args:
        request: The peer's OPEN.
        process: What to run; None for who joins or watches what runs already.
        link_dialled_at: When the link that brought it was dialled, in seconds of CLOCK_MONOTONIC.
            Not an age: that would be younger than it is by the time that the keeper hears of it.
        touched: A worker shall tell of the files it touches: the gateway takes such reports.

    Raises:
        ValueError: It does not fit into a frame.
    """
    body: dict[str, Any] = {
        "session": wire.base64(request.session),
        "attempt": request.attempt,
        "age_ms": request.age_ms,
        "operator": request.operator,
        "handler": request.handler,
        "login": request.login,
        "limit": request.start.limit,
    }
    if link_dialled_at is not None:
        body["link_dialled_ms"] = math.floor(link_dialled_at * 1000)
    if process is not None:
        body["detach"] = process.detach
        body["process"] = _process_map(process)
        if touched and process.kind == "worker":
            body["process"]["touched"] = True
    if request.view:
        body["view"] = True
    if request.resume is not None:
        body["resume"] = msgspec.to_builtins(request.resume)
    return frame_of(wire.OPEN, body)


def _process_map(process: ProcessRequest) -> dict[str, Any]:
    if process.kind == "worker":
        return {
            "kind": "worker",
            "worker": process.worker,
            "argument": process.argument,
            "timeout_ms": process.timeout_ms,
        }
    terminal = process.terminal
    body: dict[str, Any] = {
        "kind": process.kind,
        "env": [[wire.base64(name), wire.base64(text)] for name, text in process.environment],
        "timeout_ms": process.timeout_ms,
        "cwd": None if process.directory is None else wire.base64(process.directory),
        "pty": None
        if terminal is None
        else {"rows": terminal.rows, "columns": terminal.columns, "term": terminal.term},
    }
    if process.argv is not None:
        body["argv"] = [wire.base64(argument) for argument in process.argv]
    if process.line is not None:
        body["line"] = wire.base64(process.line)
    if process.confirm is not None:
        body["confirm"] = {
            "seconds": process.confirm.seconds,
            "rollback": wire.base64(process.confirm.rollback),
            "keep_failed": process.confirm.keep_failed,
        }
    return body


def feature_of(request: Open, process: ProcessRequest | None) -> str | None:
    """Return the feature that a keeper must have for this: an older one would ignore the key."""
    if request.view:
        return "view"
    return "confirm" if process is not None and process.confirm is not None else None


def outcome_of(body: dict[str, Any]) -> Outcome:
    """Return a keeper's outcome; one that is malformed reads as an error of the device."""
    try:
        return msgspec.convert(body, Outcome)
    except msgspec.ValidationError:
        return Outcome(status="error", code=ErrorCode.INTERNAL.value)


class KeeperSide(TwistedProtocol):
    """The courier's connection to the keeper."""

    def __init__(self, courier: Courier, opening: bytes, needs: str | None) -> None:
        self._courier = courier
        self._opening = opening
        self.needs = needs
        self.largest = wire.MAX_PAYLOAD
        self._decoder = wire.Decoder()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._courier.over:
            transport.abortConnection()
        else:
            transport.bufferSize = _READ_BYTES
            opening = b"" if self.needs else self._opening  # no need to wait for WELCOME
            write_at_once(transport, hello_frame("stream") + opening)

    def welcomed(self, body: wire.Map) -> bool:
        """Send the OPEN that needs a feature; say whether the keeper has it."""
        told = body.get("features")
        features = told if isinstance(told, list) else []
        if wire.LARGE in features:
            self.largest = wire.MAX_DATA
        if self.needs is None:
            return True
        if self.needs not in features:
            return False
        transport: Any = self.transport
        transport.write(self._opening)
        return True

    def dataReceived(self, data: bytes) -> None:
        try:
            for kind, flags, payload in self._decoder.feed(data):
                self._courier.keeper_said(kind, flags, payload)
        except (wire.WireError, RemoteProtocolError, msgspec.ValidationError) as error:
            self._courier.keeper_broke(f"the keeper broke the protocol: {error}")
        self._courier.wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._courier.keeper_gone()


class Courier:
    """One spliced stream.

    Args:
        link: The link that carries it.
        number: Its stream number; the peer waits for an answer.
        request: The peer's OPEN.
        opening: The keeper's, from `open_frame`.
        weight: The stream's share of the link.
        ended: Called once: (outcome or None, code, message).
        needs: A feature that the keeper must have.

    Attributes:
        keeper_side: The Twisted protocol to connect to the keeper.
        over: Whether the stream has ended on the link.
        displaced: Set by whoever starts a newer courier for the same session: the keeper closes
            this one then, and the operator shall read ``duplicate`` instead of ``link-lost``.
        unproved: Called when a change waits to be confirmed, and this link was dialled before it.
    """

    _log = Logger()

    def __init__(
        self,
        link: StreamLink,
        number: int,
        request: Open,
        opening: bytes,
        weight: int,
        ended: Callable[[Outcome | None, str, str], None],
        needs: str | None = None,
    ) -> None:
        self.keeper_side = KeeperSide(self, opening, needs or feature_of(request, None))
        self.unproved: Callable[[], None] | None = None
        self.over = False
        self.displaced = False
        self._link = link
        self._number = number
        self._request = request
        self._weight = weight
        self._ended = ended
        self._opened = False
        self._outcome: Outcome | None = None
        self._queue: deque[OutData | OutEvent] = deque()
        self._queued = 0
        self._taken = 0  # bytes of the queue's first that the link has already
        self._urgent: deque[OutEvent] = deque()
        self._limit: OutLimit | None = None
        self._reading = True
        link.watch(number, self)

    # -- from the keeper -----------------------------------------------------------------------

    def keeper_said(self, kind: int, flags: int, payload: bytes) -> None:
        """Act on a frame.

        Raises:
            WireError, RemoteProtocolError, msgspec.ValidationError: The keeper broke a rule.
        """
        if self.over:
            return
        if kind == wire.WELCOME:
            if not self.keeper_side.welcomed(wire.parse_map(payload)):
                what = _WHAT.get(self.keeper_side.needs or "", "do that")
                self.end(ErrorCode.VERSION.value, _OLD_KEEPER.format(what=what))
                self._drop_keeper()
        elif kind == wire.DATA and self._opened:
            self._queue.append(OutData(payload, bool(flags & wire.STDERR), bool(flags & wire.EOF)))
            self._queued += len(payload)
            self._regulate()
        elif kind == wire.LIMIT and self._opened:
            if len(payload) != wire.OFFSETS.size:
                raise wire.WireError("LIMIT: wrong length")
            self._limit = OutLimit(*wire.OFFSETS.unpack(payload))
        elif kind == wire.EVENT and self._opened:
            self._event(payload, bool(flags & wire.URGENT))
        elif kind == wire.OPENED and not self._opened:
            self._accept(wire.parse_map(payload))
        elif kind in (wire.REFUSED, wire.RESET):
            body = wire.parse_map(payload)
            self.end(str(body.get("code", "internal")), str(body.get("message", "")))
        else:
            raise wire.WireError(f"frame type {kind} is not expected here")

    def _accept(self, body: wire.Map) -> None:
        opened = Opened(
            wire.integer(body, "consumed"),
            wire.integer(body, "limit"),
            wire.integer(body, "events"),
            wire.integer(body, "gap", 0),
            wire.integer(body, "replay", 0),
        )
        if not self._link.waiting(self._number):  # the link is ending, and will say so
            self._leave(ErrorCode.LINK_LOST.value, "the link is ending")
            return
        self._opened = True
        self._link.accept(self._number, self._request, opened, self, self._weight)

    def _event(self, payload: bytes, urgent: bool) -> None:
        event = decode_event(payload)
        last = event.kind == "outcome"
        if last:
            self._outcome = outcome_of(event.body)
        elif event.kind == GUARD and event.body.get("fresh") is False and self.unproved:
            self.unproved()
        # an urgent one overtakes bytes, but no event: numbers stay in order (rule V1)
        overtakes = urgent and not any(isinstance(item, OutEvent) for item in self._queue)
        item = OutEvent(payload, event.seq, urgent, last)
        (self._urgent if overtakes else self._queue).append(item)

    def keeper_broke(self, reason: str) -> None:
        """The keeper cannot be understood: end the stream."""
        self._log.error("{reason}", reason=reason)
        self.end(ErrorCode.LOST.value, "the device's keeper failed")
        self._drop_keeper()

    def keeper_gone(self) -> None:
        """The connection to the keeper is closed.

        That is one more hop broken: if the keeper lives the session does, and else the next keeper
        tells who asks again that it is lost.
        """
        if self.over or self._outcome is not None:
            return  # all is said; the link delivers it
        if self.displaced:
            self.end(ErrorCode.DUPLICATE.value, "a higher attempt of the session took over")
        else:
            self.end(ErrorCode.LINK_LOST.value, "the connection to the device's keeper broke")

    def end(self, code: str, message: str) -> None:
        """Tell the peer that the stream is over, as an answer to its OPEN or as RESET."""
        if self.over:
            return
        if self._opened:
            self._link.reset(self._number, code, message)
        else:
            self._link.refuse(self._number, code, message)
        self._finish(code, message)

    def wake(self) -> None:
        """Let the link ask for what is queued."""
        if not self.over and self._opened:
            self._link.wake(self._number)

    def _regulate(self) -> None:
        transport: Any = self.keeper_side.transport
        if transport is None:
            return
        if self._reading and self._queued > QUEUE_BYTES:
            self._reading = False
            transport.pauseProducing()
        elif not self._reading and self._queued <= QUEUE_BYTES // 2:
            self._reading = True
            transport.resumeProducing()

    # -- FrameSource: what the link sends ------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        if self._urgent:
            return self._urgent.popleft()
        limit, self._limit = self._limit, None
        return limit

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        if not self._queue:
            return None
        head = self._queue[0]
        if isinstance(head, OutEvent):
            self._queue.popleft()
            return head
        size, begin = min(room, credit), self._taken
        if len(head.data) - begin > size:
            if size <= 0:
                return None
            self._taken = begin + size
            head = OutData(head.data[begin : begin + size], head.stderr, False)
        else:
            self._queue.popleft()
            self._taken = 0
            if begin:
                head = OutData(head.data[begin:], head.stderr, head.eof)
        self._queued -= len(head.data)
        self._regulate()
        return head if self._queue else OutData(head.data, head.stderr, head.eof, last=True)

    # -- StreamReceiver: what arrives on the link ----------------------------------------------

    def stream_opened(self, opened: Opened) -> None:
        """Not for streams that the peer opened."""

    def stream_refused(self, code: str, message: str) -> None:
        """Not for streams that the peer opened."""

    def data_received(self, event: DataReceived) -> None:
        data, largest = event.data, self.keeper_side.largest
        while len(data) > largest:
            self._to_keeper(wire.DATA, data[:largest])
            data = data[largest:]
        self._to_keeper(wire.DATA, data, wire.EOF if event.eof else 0)

    def event_received(self, event: EventReceived) -> None:
        self._to_keeper(wire.EVENT, event.payload, wire.URGENT if event.urgent else 0)

    def limit_received(self, event: LimitReceived) -> None:
        positions = wire.OFFSETS.pack(event.consumed, event.limit, event.events)
        self._to_keeper(wire.LIMIT, positions)

    def stream_reset(self, code: str, message: str) -> None:
        self._leave(code, message)

    def link_lost(self, reason: str) -> None:
        self._leave(ErrorCode.LINK_LOST.value, reason)

    def stream_finished(self) -> None:
        # the LIMIT that acknowledges the outcome has just been passed on
        transport: Any = self.keeper_side.transport
        if transport is not None:
            transport.loseConnection()
        self._finish(ErrorCode.NONE.value, "")

    def _to_keeper(self, kind: int, payload: bytes, flags: int = 0) -> None:
        transport: Any = self.keeper_side.transport
        if transport is not None and not self.over:
            write_at_once(transport, wire.encode(kind, payload, flags))

    def _leave(self, code: str, message: str) -> None:
        """The operator's side is gone: the keeper detaches for link-lost, else cancels."""
        if self.over:
            return
        self._to_keeper(wire.RESET, wire.dump({"code": code, "message": message[:256]}))
        self._finish(code, message)
        transport: Any = self.keeper_side.transport
        if transport is not None:
            transport.resumeProducing()
            transport.loseConnection()

    def _drop_keeper(self) -> None:
        transport: Any = self.keeper_side.transport
        if transport is not None:
            transport.abortConnection()

    def _finish(self, code: str, message: str) -> None:
        self.over = True
        self._queue.clear()
        self._urgent.clear()
        self._ended(self._outcome if code == ErrorCode.NONE else None, code, message)
