"""RecordedStream: sits between a device's link and whoever speaks for the operator, and listens.

The gate puts it there, so that no door can forget it; of a session that is not recorded there is
none.  It counts the session's bytes (offsets are the two ends', rule R2), so what a resumed attempt
repeats is recorded once, and what was lost is marked.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from rshell.link.contracts import StreamReceiver
from rshell.link.core.errors import RemoteProtocolError
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.messages import Open, Opened, decode_event
from rshell.link.core.sources import OutData, OutEvent, OutLimit

__all__ = ["RecordedStream", "Recorder"]

#: Bytes that a resumed attempt may bring again: what a device may have in flight.  Positions that
#: go back further are made up, and nothing that an operator sees may hide behind them.
MAX_REPEATED = 4 * 1024 * 1024
_MAX_CELLS = 1_000


class Recorder(Protocol):
    """What a recording takes.

    Attributes:
        out: position in the session's output up to which it is recorded, or known to be missing.
        typed: likewise its input.
        takes_input: whether what is typed is recorded.
        full: nothing more can be taken now; `RecordedStream.go_on` is called later.
    """

    out: int
    typed: int
    takes_input: bool

    @property
    def full(self) -> bool:
        """Whether it has to catch up."""

    def add(self, code: str, data: bytes) -> None:
        """Take bytes of output ``o`` or input ``i``."""

    def mark(self, code: str, text: str) -> None:
        """Take a new size ``r``, or a marker ``m``."""


class RecordedStream:
    """Passes everything on, in order, and tells the recording.

    Args:
        recorder: Of the session.
        request: The OPEN that leaves for the device.
        inner: Whom it all is for.
    """

    def __init__(self, recorder: Recorder, request: Open, inner: StreamReceiver) -> None:
        self._recorder = recorder
        self._inner = inner
        self._out = request.start.consumed
        self._typed = 0
        #: What the recording has no room for yet, and what came after it.
        self._held: deque[DataReceived | EventReceived] = deque()

    # -- from the device -----------------------------------------------------------------------

    def stream_opened(self, opened: Opened) -> None:
        recorder = self._recorder
        self._out += opened.gap
        self._typed = opened.consumed
        if self._out > recorder.out:
            recorder.mark("m", f"{self._out - recorder.out:,} bytes of output are missing here")
            recorder.out = self._out
        elif recorder.out - self._out > MAX_REPEATED:
            recorder.mark("m", "the device's count of its output went back")
            recorder.out = self._out
        if abs(recorder.typed - self._typed) > MAX_REPEATED or self._typed > recorder.typed:
            recorder.typed = self._typed
        self._inner.stream_opened(opened)

    def data_received(self, event: DataReceived) -> None:
        if self._held or self._recorder.full:
            self._held.append(event)
        else:
            self._pass_data(event)

    def event_received(self, event: EventReceived) -> None:
        if self._held:
            self._held.append(event)
        else:
            self._pass_event(event)

    def go_on(self) -> None:
        """The recording has room again."""
        while self._held and not self._recorder.full:
            event = self._held.popleft()
            if isinstance(event, DataReceived):
                self._pass_data(event)
            else:
                self._pass_event(event)

    def _pass_data(self, event: DataReceived) -> None:
        recorder, data = self._recorder, event.data
        begin, self._out = self._out, self._out + len(data)
        if self._out > recorder.out:
            recorder.add("o", data[max(0, recorder.out - begin) :])
            recorder.out = self._out
        self._inner.data_received(event)

    def _pass_event(self, event: EventReceived) -> None:
        self._inner.event_received(event)

    def limit_received(self, event: LimitReceived) -> None:
        self._inner.limit_received(event)

    def stream_refused(self, code: str, message: str) -> None:
        self._inner.stream_refused(code, message)

    def stream_reset(self, code: str, message: str) -> None:
        self._drop_held()
        self._inner.stream_reset(code, message)

    def stream_finished(self) -> None:
        self._inner.stream_finished()

    def link_lost(self, reason: str) -> None:
        self._drop_held()
        self._inner.link_lost(reason)

    def _drop_held(self) -> None:
        # Nobody has seen it: the device sends it again when the session is resumed.
        self._held.clear()

    # -- to the device -------------------------------------------------------------------------

    def next_control(self) -> OutEvent | OutLimit | None:
        item = self._inner.next_control()
        if isinstance(item, OutEvent):
            self._look(item)
        return item

    def next_frame(self, room: int, credit: int) -> OutData | OutEvent | None:
        item = self._inner.next_frame(room, credit)
        if isinstance(item, OutEvent):
            self._look(item)
        elif item is not None and self._recorder.takes_input:
            recorder = self._recorder
            begin, self._typed = self._typed, self._typed + len(item.data)
            if self._typed > recorder.typed:
                recorder.add("i", bytes(item.data[max(0, recorder.typed - begin) :]))
                recorder.typed = self._typed
        return item

    def _look(self, item: OutEvent) -> None:
        """Find new sizes of the terminal among the events."""
        if b'"window"' not in item.payload:
            return
        try:
            event = decode_event(item.payload)
        except RemoteProtocolError:
            return
        rows, columns = event.body.get("rows"), event.body.get("columns")
        if event.kind == "window" and type(rows) is int and type(columns) is int:
            rows, columns = cells(rows, columns)
            self._recorder.mark("r", f"{columns}x{rows}")


def cells(rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns as the device takes them: 0 by 0 is 24 by 80."""
    if rows <= 0 or columns <= 0:
        return 24, 80
    return min(rows, _MAX_CELLS), min(columns, _MAX_CELLS)
