"""What one side of a link has to send, record by record (rule Q1).

Frames of the link itself come first, in order; then LIMITs and urgent events of streams; then the
streams' own frames, as the scheduler says.  Nothing of a stream is queued here: its source is
asked when its turn has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final

from rshell.link.core.constants import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    RECORD_SIZE,
    FrameFlag,
    FrameType,
)
from rshell.link.core.figures import CONTROL, Traffic, class_of
from rshell.link.core.frames import encode_frame, frames_in, pack_header
from rshell.link.core.scheduler import Flow, Scheduler
from rshell.link.core.sources import OutData, OutEvent, OutLimit
from rshell.link.core.streams import LinkStream

__all__ = ["LIMIT_FIELDS", "Outgoing"]

LIMIT_FIELDS: Final = Struct(">QQQ")
#: Less room than this at the end of a record is left unused rather than sent as crumbs.
_MIN_ROOM: Final = 64
#: What control frames may add to several records at once: a LIMIT of each of 16 streams.
_CONTROL_ROOM: Final = 512
#: As numbers: arithmetic of enum members calls Python code, here for each frame.
_DATA: Final = int(FrameType.DATA)
_EOF: Final = int(FrameFlag.EOF)
_STDERR: Final = int(FrameFlag.STDERR)
_URGENT: Final = int(FrameFlag.URGENT)


class Outgoing:
    """Fills records.

    Args:
        streams: Those of the link, by number; the link owns it.
        sent: Called with the number of frames of a stream that are sent; the peer may answer each
            with LIMITs.

    Attributes:
        pong: The payload of the newest PING that waits for its PONG (rule L3).
        queued_bytes: Frames of the link that wait.
        traffic: Counts what is sent; the link counts what it receives.
    """

    __slots__ = (
        "_attention",
        "_frames",
        "_scheduler",
        "_sent",
        "_streams",
        "pong",
        "queued_bytes",
        "traffic",
    )

    def __init__(self, streams: Mapping[int, LinkStream], sent: Callable[[int], None]) -> None:
        self._streams = streams
        self._sent = sent
        self.pong: bytes | None = None
        self.queued_bytes = 0
        self.traffic = Traffic()
        # Made when there is something for them, and dropped when they are empty: thousands of
        # idle links have nothing to send, and an empty deque takes 600 bytes.
        self._frames: deque[bytes] | None = None
        self._scheduler: Scheduler | None = None
        #: Streams that may have a LIMIT or an urgent event.
        self._attention: dict[int, LinkStream] = {}

    def __bool__(self) -> bool:
        return bool(self._frames or self.pong or self._attention or self._scheduler)

    def queue(self, frame: bytes) -> None:
        """Add a frame of the link."""
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self.queued_bytes += len(frame)

    def clear(self) -> None:
        """Drop what waits: the link has failed."""
        self._frames = None
        self.queued_bytes = 0
        self.pong = None

    def wake(self, stream: LinkStream, now: float = 0.0) -> None:
        """A stream's source may have something."""
        self._attention[stream.number] = stream
        if self._scheduler is None:
            self._scheduler = Scheduler()
        self._scheduler.wake(stream.flow, now)

    def forget(self, stream: LinkStream) -> None:
        """A stream is over."""
        self._attention.pop(stream.number, None)
        if self._scheduler is not None:
            self._scheduler.remove(stream.flow)
            if not self._streams:
                self._scheduler = None

    def next_record(self, size: int, now: float = 0.0) -> tuple[bytes, list[LinkStream]]:
        """Return up to ``size`` bytes, and the streams whose outcome this acknowledges.

        A record is longer only by an event that did not fit any more; several at once also by a
        few control frames.
        """
        parts: list[bytes | memoryview] = []
        room = size
        if self.pong is not None:
            frame = encode_frame(FrameType.PONG, 0, self.pong)
            self.pong = None
            parts.append(frame)
            room -= len(frame)
        frames = self._frames
        while frames and (len(frames[0]) <= room or not parts):
            frame = frames.popleft()
            self.queued_bytes -= len(frame)
            parts.append(frame)
            room -= len(frame)
        told: list[LinkStream] = []
        if not frames:
            self._frames = None
            if self._attention:
                room = self._collect_attention(parts, room, told)
            self.traffic.sent[CONTROL] += size - room
            if size > RECORD_SIZE:
                # Control must not cut the last of several full frames: each relay would pass the
                # pieces on, and cut anew.
                room = min(size, room + _CONTROL_ROOM)
            if self._scheduler is not None:
                self._collect_streams(parts, room, now)
        else:
            self.traffic.sent[CONTROL] += size - room
        return b"".join(parts), told

    def _collect_attention(
        self, parts: list[bytes | memoryview], room: int, told: list[LinkStream]
    ) -> int:
        while self._attention and room >= HEADER_SIZE + LIMIT_FIELDS.size:
            number, stream = next(iter(self._attention.items()))
            item = None if stream.source is None else stream.source.next_control()
            if item is None:
                self._attention.pop(number, None)
                continue
            frame = self._encode_control(stream, item)
            parts.append(frame)
            room -= len(frame)
            if stream.outcome_told:
                self.forget(stream)
                told.append(stream)
        return room

    def _encode_control(self, stream: LinkStream, item: OutEvent | OutLimit) -> bytes:
        self._sent(1)
        if isinstance(item, OutLimit):
            stream.limit_sent(item)
            header = pack_header(FrameType.LIMIT, 0, LIMIT_FIELDS.size, stream.number)
            return header + LIMIT_FIELDS.pack(*item)
        return self._encode_event(stream, item)

    @staticmethod
    def _encode_event(stream: LinkStream, item: OutEvent) -> bytes:
        stream.event_sent(item)
        flags = _URGENT if item.urgent else 0
        return encode_frame(FrameType.EVENT, stream.number, item.payload, flags)

    def _collect_streams(self, parts: list[bytes | memoryview], room: int, now: float) -> None:
        scheduler = self._scheduler
        while scheduler is not None and room >= _MIN_ROOM:
            flow = scheduler.current()
            if flow is None:
                return
            stream = self._streams[flow.key]
            item = (
                stream.source.next_frame(_payload_room(room, scheduler), stream.credit)
                if stream.source is not None and not stream.outcome_sent
                else None
            )
            if item is None:
                self._idle(scheduler, flow, now)
                continue
            if isinstance(item, OutData):
                used = self._add_data(parts, stream, item)
                self.traffic.sent[class_of(flow.weight)] += used
            else:
                self._sent(1)
                frame = self._encode_event(stream, item)
                parts.append(frame)
                used = len(frame)
                self.traffic.sent[CONTROL] += used
            room -= used
            flow.sent_at = now
            scheduler.sent(flow, used)
            if type(item) is OutData and item.last and scheduler.current() is flow:
                self._idle(scheduler, flow, now)

    def _idle(self, scheduler: Scheduler, flow: Flow, now: float) -> None:
        """The flow whose turn it is has nothing to send."""
        if scheduler.idle(flow):
            self.traffic.sparse_sent(now, max(0.0, flow.sent_at - flow.woken_at))

    def _add_data(self, parts: list[bytes | memoryview], stream: LinkStream, item: OutData) -> int:
        size = len(item.data)
        stream.data_sent(size, item.eof)
        frames = frames_in(size)
        self._sent(frames)
        self.traffic.data_frames_sent += frames
        flags, number = (_STDERR if item.stderr else 0), stream.number
        last = (frames - 1) * MAX_PAYLOAD
        if last:
            view = memoryview(item.data)
            header = pack_header(_DATA, flags, MAX_PAYLOAD, number)
            for at in range(0, last, MAX_PAYLOAD):
                parts += (header, view[at : at + MAX_PAYLOAD])
        flags |= _EOF if item.eof else 0
        parts.append(pack_header(_DATA, flags, size - last, number))
        parts.append(view[last:] if last else item.data)
        return frames * HEADER_SIZE + size


def _payload_room(room: int, scheduler: Scheduler) -> int:
    """Return what to offer a source: a frame, or several while no other stream waits."""
    if room >= 2 * RECORD_SIZE and scheduler.alone:
        return room // RECORD_SIZE * MAX_PAYLOAD
    return min(room - HEADER_SIZE, MAX_PAYLOAD)
