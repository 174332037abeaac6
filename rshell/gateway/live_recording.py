"""LiveRecording: one session's recording while it may still grow.

The reactor's side: it collects what passes, hands it to a thread every second or 64 KiB, and says
when there is too much on the way.  What it is not: the file (`recording_files`), or who decides
that there is one (`recordings`).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from rshell.gateway.recording_files import CastFile, Item, Mark, Position
from rshell.gateway.recording_tap import RecordedStream
from rshell.store.recordings import Recording
from rshell.store.threads import Threads

__all__ = ["FLUSH_BYTES", "MAX_ON_THE_WAY", "LiveRecording"]

#: Written at once when so much has come together.
FLUSH_BYTES = 64 * 1024
#: Of one session, collected or being written: half a second of the fastest terminal.  Beyond it
#: the session waits for the disk.
MAX_ON_THE_WAY = 1024 * 1024
#: Output within so many milliseconds is one event: eyes see no difference, files halve.
_TOGETHER_MS = 10
#: Small pieces cost more than their bytes.
_OVERHEAD = 64


@attrs.define
class _Piece:
    at: int
    code: str
    data: bytearray


class LiveRecording:
    """Collects and writes.

    Args:
        row: Of the index.
        file: Its file, not open yet.
        threads: Where it is written.
        elapsed_ms: Milliseconds since the recording began, by the wall clock.
        dirty: Called when something is there to be written within a second.
        failed: Called with the reason of each write that did not happen.

    Attributes:
        row: as given.
        stream: what feeds it now.
        out, typed: positions, see `Recorder`.
        position: what is in the file.
        owner: the attempt that is recorded now, or was last.
        missing: bytes that could not be written since the last that could.
        damaged: whether anything could not be written.
        detached_at: seconds of the wheel's clock when its last attempt ended; None while one is on.
        told: whether the session's outcome has passed by.
    """

    def __init__(
        self,
        row: Recording,
        file: CastFile,
        threads: Threads,
        elapsed_ms: Callable[[], int],
        dirty: Callable[[LiveRecording], None],
        failed: Callable[[LiveRecording, str], None],
    ) -> None:
        self.row = row
        self.stream: RecordedStream | None = None
        self.out = 0
        self.typed = 0
        self.position = Position()
        self.owner: object = None
        self.missing = 0
        self.damaged = False
        self.detached_at: float | None = None
        self.told = False
        self.takes_input = row.mode == "input"
        self._file = file
        self._threads = threads
        self._elapsed_ms = elapsed_ms
        self._dirty = dirty
        self._failed = failed
        self._pieces: list[_Piece | Mark] = []
        self._collected = 0
        self._writing = 0
        self._busy = False
        self._idle: list[Deferred[None]] = []

    # -- what the stream tells -----------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the disk has to catch up before more may come."""
        return self._collected + self._writing >= MAX_ON_THE_WAY

    def add(self, code: str, data: bytes) -> None:
        """Take bytes of output ``o`` or input ``i``."""
        now = self._elapsed_ms()
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, _Piece) and last.code == code and now - last.at < _TOGETHER_MS:
            last.data += data
            self._collected += len(data)
        else:
            self._pieces.append(_Piece(now, code, bytearray(data)))
            self._collected += len(data) + _OVERHEAD
        if self._collected >= FLUSH_BYTES:
            self.flush()
        else:
            self._dirty(self)

    def mark(self, code: str, text: str) -> None:
        """Take a new size ``r``, or a marker ``m``."""
        self._pieces.append(Mark(self._elapsed_ms(), code, text))
        self._collected += len(text) + _OVERHEAD
        self._dirty(self)

    # -- writing -------------------------------------------------------------------------------

    def open(self) -> Deferred[Position]:
        """Open the file, or see that it can be written.

        Returns:
            A Deferred that fails with OSError if it cannot be written.
        """
        done: Deferred[Position] = Deferred()

        def work() -> None:
            try:
                position = self._file.open()
            except OSError as error:
                problem = error
                self._threads.in_reactor(lambda: done.errback(problem))
            else:
                self._threads.in_reactor(lambda: self._opened(position, done))

        self._threads.in_writer(work)
        return done

    def _opened(self, position: Position, done: Deferred[Position]) -> None:
        self.position = position
        self.out = max(self.out, position.out)
        self.typed = max(self.typed, position.typed)
        done.callback(position)

    def measure(self) -> None:
        """Find out how far a file has come that an earlier run of this gateway left open.

        Nothing is changed: its session may be resumed, and then the file is opened.  A file that
        cannot be read has no length, and `open` says why.
        """

        def work() -> None:
            try:
                position = self._file.measure()
            except OSError:
                return
            self._threads.in_reactor(lambda: self._measured(position))

        self._threads.in_writer(work)

    def _measured(self, position: Position) -> None:
        if self.position.size == 0:  # else it was opened meanwhile
            self.position = position

    def flush(self) -> None:
        """Hand over what has come together, unless the last of it is still being written."""
        if self._busy or not self._pieces:
            return
        items: list[Item | Mark] = [
            Item(piece.at, piece.code, bytes(piece.data)) if isinstance(piece, _Piece) else piece
            for piece in self._pieces
        ]
        if self.missing:
            text = f"{self.missing:,} bytes could not be recorded before this"
            items.insert(0, Mark(items[0].at, "m", text))
        size, out, typed = self._collected, self.out, self.typed
        self._pieces = []
        self._collected, self._writing, self._busy = 0, size, True
        self._threads.in_writer(lambda: self._write(items, out, typed))

    def _write(self, items: list[Item | Mark], out: int, typed: int) -> None:
        try:
            position = self._file.append(items, out, typed)
        except OSError as error:
            reason = error.strerror or str(error)
            self._threads.in_reactor(lambda: self._not_written(items, reason))
        else:
            self._threads.in_reactor(lambda: self._written(position))

    def _written(self, position: Position) -> None:
        self.position = position
        self.missing = 0
        self._go_on()

    def _not_written(self, items: list[Item | Mark], reason: str) -> None:
        self.damaged = True
        self.missing += sum(len(item.data) for item in items if isinstance(item, Item))
        self._failed(self, reason)
        self._go_on()

    def _go_on(self) -> None:
        self._writing, self._busy = 0, False
        if self._collected >= FLUSH_BYTES or (self._idle and self._pieces):
            self.flush()
        if self.stream is not None and not self.full:
            self.stream.go_on()
        if not self._busy:
            waiting, self._idle = self._idle, []
            for deferred in waiting:
                deferred.callback(None)

    def drained(self) -> Deferred[None]:
        """Write all there is; fires when nothing is under way."""
        done: Deferred[None] = Deferred()
        self.flush()
        if self._busy:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    def close(self) -> Deferred[None]:
        """Write all there is and let go of the file; it can be opened again."""
        done: Deferred[None] = Deferred()

        def closed() -> None:
            try:
                self._file.pause()
            except OSError as error:
                reason = error.strerror or str(error)
                self._threads.in_reactor(lambda: self._failed(self, reason))
            position = self._file.position
            self._threads.in_reactor(lambda: self._closed(position, done))

        self.drained().addCallback(lambda _: self._threads.in_writer(closed))
        return done

    def _closed(self, position: Position, done: Deferred[None]) -> None:
        self.position = position
        done.callback(None)
