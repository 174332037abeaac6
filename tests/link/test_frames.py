"""The frame codec: rules W1 and W3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import (
    ALLOWED_FLAGS,
    MAX_PAYLOAD,
    RECORD_SIZE,
    RUN_FRAMES,
    FrameFlag,
    FrameType,
)
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.frames import Frame, FrameReader, encode_frame, frames_in, pack_header

KNOWN = sorted(ALLOWED_FLAGS)
UNKNOWN = [number for number in range(256) if number not in ALLOWED_FLAGS]


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(KNOWN))
    flags = draw(st.integers(0, 255)) & ALLOWED_FLAGS[kind]
    payload = draw(st.binary(max_size=200))
    if draw(st.booleans()):
        payload *= draw(st.integers(1, MAX_PAYLOAD // 200))
    return Frame(kind, flags, draw(st.integers(0, 2**32 - 1)), payload)


def chunked(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut ``data`` by ``sizes``, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
        turn += 1
    return pieces


def drain(reader: FrameReader) -> list[Frame]:
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    return found


class FrameTests(SynchronousTestCase):
    """One frame at a time."""

    @given(st.lists(frames(), max_size=6), st.lists(st.integers(1, 5000), min_size=1, max_size=4))
    def test_round_trip_in_any_chunking(self, sent: list[Frame], sizes: list[int]) -> None:
        """Frames arrive as they were sent, however the bytes are cut."""
        wire = b"".join(encode_frame(f.type, f.stream, f.payload, f.flags) for f in sent)
        reader, got = FrameReader(), []
        for piece in chunked(wire, sizes):
            reader.feed(piece)
            got += drain(reader)
            self.assertLessEqual(reader.buffered, RECORD_SIZE)
        self.assertEqual(got, sent)
        self.assertEqual(reader.buffered, 0)

    @given(st.binary(max_size=2000), st.lists(st.integers(1, 300), min_size=1, max_size=4))
    def test_any_bytes(self, data: bytes, sizes: list[int]) -> None:
        """Arbitrary bytes give frames or RemoteProtocolError, and bounded memory."""
        reader = FrameReader()
        try:
            for piece in chunked(data, sizes):
                reader.feed(piece)
                drain(reader)
                self.assertLessEqual(reader.buffered, RECORD_SIZE)
        except RemoteProtocolError as error:
            self.assertIn(error.code, (ErrorCode.PROTOCOL, ErrorCode.FRAME_SIZE))

    @given(st.binary(max_size=400), st.integers(1, 50))
    def test_chunking_changes_nothing(self, data: bytes, size: int) -> None:
        """The same bytes give the same frames and the same error in one piece and in many."""

        def read(pieces: list[bytes]) -> tuple[list[Frame], str]:
            reader, got = FrameReader(), []
            try:
                for piece in pieces:
                    reader.feed(piece)
                    while (frame := reader.next_frame()) is not None:
                        got.append(frame)
            except RemoteProtocolError as error:
                return got, str(error)
            return got, ""

        self.assertEqual(read(chunked(data, [size])), read([data]))

    def test_longest(self) -> None:
        """A payload of 16,376 bytes passes, and with its header fills one TLS record."""
        wire = encode_frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
        self.assertEqual(len(wire), 16_384)
        reader = FrameReader()
        reader.feed(wire[:-1])
        self.assertIsNone(reader.next_frame())
        self.assertEqual(reader.buffered, 16_383)
        reader.feed(wire[-1:])
        self.assertEqual(drain(reader), [Frame(FrameType.DATA, 0, 1, bytes(MAX_PAYLOAD))])

    def test_too_long_is_seen_at_the_header(self) -> None:
        """One byte too many is frame-size as soon as the eighth header byte is there (W1)."""
        header = pack_header(FrameType.DATA, 0, MAX_PAYLOAD + 1, 1)
        reader = FrameReader()
        reader.feed(header[:7])
        self.assertIsNone(reader.next_frame())
        reader.feed(header[7:])
        error = self.assertRaises(RemoteProtocolError, reader.next_frame)
        self.assertIs(error.code, ErrorCode.FRAME_SIZE)

    def test_too_long_to_send(self) -> None:
        """We never send what the peer would refuse."""
        self.assertRaises(
            LocalProtocolError, encode_frame, FrameType.DATA, 1, bytes(MAX_PAYLOAD + 1)
        )

    def test_unknown_and_ignorable(self) -> None:
        """Every unknown type with flag 0x80 is skipped, whatever its other flags (W3)."""
        follower = Frame(FrameType.PING, 0, 0, b"12345678")
        for kind in UNKNOWN:
            reader = FrameReader()
            reader.feed(encode_frame(kind, 7, b"future", 0x80 | kind & 0x7F))
            reader.feed(encode_frame(FrameType.PING, 0, b"12345678"))
            self.assertEqual(drain(reader), [follower])

    def test_unknown_and_not_ignorable(self) -> None:
        """Every unknown type without 0x80 is a protocol error, before its payload arrives."""
        for kind in UNKNOWN:
            reader = FrameReader()
            reader.feed(pack_header(kind, 0x7F, 5, 1))
            error = self.assertRaises(RemoteProtocolError, reader.next_frame)
            self.assertIs(error.code, ErrorCode.PROTOCOL)

    def test_every_flag_of_every_type(self) -> None:
        """A flag that the table does not give for a type is a protocol error, 0x80 included."""
        for kind in KNOWN:
            for flags in range(256):
                reader = FrameReader()
                reader.feed(encode_frame(kind, 1, b"", flags))
                if flags & ~ALLOWED_FLAGS[kind]:
                    self.assertRaises(RemoteProtocolError, reader.next_frame)
                else:
                    self.assertEqual(reader.next_frame(), Frame(kind, flags, 1, b""))

    def test_memory_is_given_back(self) -> None:
        """A link that read a megabyte of frames keeps none of it."""
        reader = FrameReader()
        reader.feed(encode_frame(FrameType.DATA, 1, bytes(1000)) * 1000 + b"\x13")
        self.assertEqual(len(drain(reader)), 1000)
        self.assertEqual(reader.buffered, 1)
        self.assertLess(reader._data.__sizeof__(), 1000)

    def test_clear(self) -> None:
        """After clear nothing that arrived before is acted upon (W4)."""
        reader = FrameReader()
        reader.feed(encode_frame(FrameType.PING, 0, b"12345678"))
        reader.clear()
        self.assertIsNone(reader.next_frame())
        self.assertEqual(reader.buffered, 0)


BULK = st.tuples(st.integers(1, 2), st.sampled_from([0, FrameFlag.STDERR, FrameFlag.EOF]),
                 st.sampled_from([MAX_PAYLOAD, MAX_PAYLOAD, MAX_PAYLOAD, 0, 77]))  # fmt: skip


def cut_up(found: list[Frame]) -> list[Frame]:
    """Return the frames of which runs were made."""
    return [
        Frame(frame.type, frame.flags, frame.stream, frame.payload[at : at + MAX_PAYLOAD])
        for frame in found
        for at in range(0, max(1, len(frame.payload)), MAX_PAYLOAD)
    ]


class RunTests(SynchronousTestCase):
    """Consecutive full DATA frames of one stream, as one."""

    @given(st.lists(BULK, max_size=12), st.lists(st.integers(1, 90_000), min_size=1, max_size=3))
    def test_same_bytes_in_any_cut(self, kinds: list[tuple[int, int, int]], cut: list[int]) -> None:
        """A run is frames of one stream with the same flags; nothing moves from frame to frame."""
        sent = [
            Frame(FrameType.DATA, flags, stream, bytes([number]) * size)
            for number, (stream, flags, size) in enumerate(kinds)
        ]
        wire = b"".join(encode_frame(f.type, f.stream, f.payload, f.flags) for f in sent)
        for sizes in (cut, [len(wire) or 1]):
            reader, got = FrameReader(RUN_FRAMES), []
            for piece in chunked(wire, sizes):
                reader.feed(piece)
                got += drain(reader)
                self.assertLessEqual(reader.buffered, RECORD_SIZE)
            self.assertEqual(cut_up(got), sent)
            for frame in got:
                self.assertLessEqual(frames_in(len(frame.payload)), RUN_FRAMES)
                if frame.flags & FrameFlag.EOF:
                    self.assertLessEqual(len(frame.payload), MAX_PAYLOAD)

    def test_whole_runs(self) -> None:
        """Ten full frames are runs of four, four and two; what is taken back comes once more."""
        wire = encode_frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD)) * 10
        reader = FrameReader(RUN_FRAMES)
        reader.feed(wire)
        self.assertEqual([frames_in(len(f.payload)) for f in drain(reader)], [4, 4, 2])
        reader.feed(wire)
        reader.next_frame()
        reader.take_back(3)
        self.assertEqual([frames_in(len(f.payload)) for f in drain(reader)], [4, 4, 1])

    def test_not_asked_for(self) -> None:
        """A reader that was not told to makes no runs."""
        reader = FrameReader()
        reader.feed(encode_frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD)) * 3)
        self.assertEqual([len(frame.payload) for frame in drain(reader)], [MAX_PAYLOAD] * 3)

    def test_bad_header_behind_a_run(self) -> None:
        """What follows a run is judged as ever: too long, of no type, with a flag too many."""
        full = encode_frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD))
        for bad in (
            pack_header(FrameType.DATA, 0, MAX_PAYLOAD + 1, 1),
            pack_header(99, 0, 0, 1),
            pack_header(FrameType.DATA, 8, MAX_PAYLOAD, 1),
        ):
            reader = FrameReader(RUN_FRAMES)
            reader.feed(full * 2 + bad)
            frame = reader.next_frame()
            assert frame is not None
            self.assertEqual(len(frame.payload), 2 * MAX_PAYLOAD)
            self.assertRaises(RemoteProtocolError, reader.next_frame)
