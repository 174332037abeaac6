"""Runs of full DATA frames on a link: credit, order and fairness are those of single frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import (
    MAX_PAYLOAD,
    RECORD_SIZE,
    RUN_FRAMES,
    WEIGHT_BULK,
    FrameType,
)
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import DataReceived, LinkEvent, LinkFailed
from rshell.link.core.frames import encode_frame
from rshell.link.core.sources import OutData
from tests.link.pairs import ConnectionPair, Talker, converse, frames_of

FULL = bytes(MAX_PAYLOAD)


class RunTests(SynchronousTestCase):
    """What arrives together."""

    def received(
        self, wire: bytes, size: int, window: int, *, dialler: bool = False
    ) -> tuple[int, list[LinkEvent]]:
        """Feed one side by pieces; return how many bytes of data it told, and the rest."""
        pair = ConnectionPair()
        converse(pair, window)
        core = (pair.dialler if dialler else pair.gateway).core
        events: list[LinkEvent] = []
        for at in range(0, len(wire), size):
            events += core.receive_data(wire[at : at + size], 0)
        told = sum(len(event.data) for event in events if isinstance(event, DataReceived))
        return told, [event for event in events if not isinstance(event, DataReceived)]

    @given(st.integers(0, 6 * MAX_PAYLOAD), st.integers(1, 12), st.integers(3000, 150_000))
    def test_overrun(self, window: int, frames: int, size: int) -> None:
        """Frames within the limit are delivered, the one beyond it is fatal, in any cut (F1).

        So it is at either side of a link.
        """
        window = max(window, 2048)
        wire = encode_frame(FrameType.DATA, 1, FULL) * frames
        fit = min(frames, window // MAX_PAYLOAD)
        for piece, dialler in ((size, False), (len(wire), False), (size, True), (len(wire), True)):
            told, rest = self.received(wire, piece, window, dialler=dialler)
            self.assertEqual(told, fit * MAX_PAYLOAD)
            if frames <= fit:
                self.assertEqual(rest, [])
                continue
            (failed,) = rest
            assert isinstance(failed, LinkFailed)
            self.assertIs(failed.error.code, ErrorCode.FLOW_CONTROL)

    def test_together(self) -> None:
        """Eight full frames of one read are two events of four; their headers count."""
        for dialler in (False, True):
            pair = ConnectionPair()
            converse(pair)
            core = (pair.dialler if dialler else pair.gateway).core
            before = sum(core.traffic.received)
            wire = encode_frame(FrameType.DATA, 1, FULL) * 8
            events = core.receive_data(wire, 0)
            sizes = [len(event.data) for event in events if isinstance(event, DataReceived)]
            self.assertEqual(sizes, [RUN_FRAMES * MAX_PAYLOAD] * 2)
            self.assertEqual(sum(core.traffic.received) - before, 8 * RECORD_SIZE)

    @given(
        st.lists(st.tuples(st.booleans(), st.integers(1, 40_000)), max_size=12),
        st.integers(1, 70_000),
        st.integers(0, 3 * RECORD_SIZE),
    )
    def test_same_bytes_both_ways(
        self, writes: list[tuple[bool, int]], chunk: int, cut: int
    ) -> None:
        """Whatever is written, and wherever it is cut, either end gets it whole and in order."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair)
        for sender, receiver in ((caller, answerer), (answerer, caller)):
            side = pair.dialler if sender is caller else pair.gateway
            want = bytearray()
            for number, (stderr, size) in enumerate(writes):
                piece = bytes([number]) * size
                want += piece
                sender.end.write(piece, stderr=stderr)
            while side.core.has_output:
                wire = b"".join(side.core.next_record(RUN_FRAMES * RECORD_SIZE)[0] for _ in "12")
                other = pair.other(side)
                for piece in (wire[:cut], *_pieces(wire[cut:], chunk)):
                    other.receive(piece, 0)
                pair.step(other)
            pair.run()
            self.assertEqual(receiver.got, want)


def _pieces(wire: bytes, size: int) -> list[bytes]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]


class Asked(Talker):
    """Notes what room it was offered."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[int] = []

    def next_frame(self, room: int, credit: int) -> OutData | None:
        self.rooms.append(room)
        item = super().next_frame(room, credit)
        assert not isinstance(item, tuple) or isinstance(item, OutData)
        return item


class SendingTests(SynchronousTestCase):
    """What leaves together."""

    def setUp(self) -> None:
        self.pair = ConnectionPair()
        self.talkers = [Asked(), Asked()]
        for talker in self.talkers:
            answerer = Talker()
            self.pair.gateway.on_request = lambda event, end=answerer: end.answer(
                self.pair.gateway, event.stream, event.open
            )
            number = talker.call(self.pair.dialler)
            self.pair.dialler.core.streams[number].flow.weight = WEIGHT_BULK
            self.pair.run()
            talker.rooms.clear()

    def record(self) -> list[int]:
        """Take four records' worth; return the streams of its frames, all of which are full."""
        record, _ = self.pair.dialler.core.next_record(RUN_FRAMES * RECORD_SIZE)
        found = frames_of(record)
        for frame in found:
            self.assertEqual((frame.type, len(frame.payload)), (FrameType.DATA, MAX_PAYLOAD))
        return [frame.stream for frame in found]

    def test_alone(self) -> None:
        """A stream that is alone is asked once for several frames; each has its header."""
        self.talkers[0].end.write(bytes(200_000))
        core = self.pair.dialler.core
        before = core.traffic.data_frames_sent
        self.assertEqual(self.record(), [1] * RUN_FRAMES)
        self.assertEqual(self.talkers[0].rooms, [RUN_FRAMES * MAX_PAYLOAD])
        self.assertEqual(core.traffic.data_frames_sent - before, RUN_FRAMES)

    def test_with_another(self) -> None:
        """While another stream waits each is asked for a frame: they alternate as ever (Q1)."""
        for talker in self.talkers:
            talker.end.write(bytes(200_000))
        found = self.record() + self.record()
        self.assertEqual(found.count(1), found.count(3))
        for talker in self.talkers:
            self.assertLessEqual(max(talker.rooms), MAX_PAYLOAD)

    def test_small_records(self) -> None:
        """Where one record is handed over at a time, a frame is asked for."""
        self.talkers[0].end.write(bytes(50_000))
        self.pair.dialler.core.next_record(RECORD_SIZE)
        self.assertEqual(self.talkers[0].rooms[0], MAX_PAYLOAD)

    def test_late_comer(self) -> None:
        """Who comes behind a run goes first, and the run's bytes are made up for."""
        self.talkers[0].end.write(bytes(200_000))
        self.record()
        self.talkers[1].end.write(bytes(120_000))
        self.assertEqual(self.record(), [3] * RUN_FRAMES)
