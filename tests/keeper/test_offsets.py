"""Counting of bytes and events, without I/O."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants, wire
from rshell_agent.keeper.offsets import Incoming, Outgoing
from rshell_agent.keeper.wire import WireError

BIG = 1 << 40


def drain(out: Outgoing) -> list[tuple[int, int, bytes]]:
    frames: list[tuple[int, int, bytes]] = []
    while (frame := out.take()) is not None:
        frames.extend(wire.Decoder().feed(frame))
    return frames


def payload(frames: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(p for kind, _, p in frames if kind == wire.DATA)


class OutgoingTests(SynchronousTestCase):
    def filled(self, *pieces: bytes, limit: int = BIG) -> Outgoing:
        out = Outgoing()
        out.limit = limit
        for piece in pieces:
            out.add(0, piece)
        return out

    def test_limit(self) -> None:
        """Not a byte is sent beyond the limit, and a raised limit frees the next (K21)."""
        out = self.filled(b"abcdef", limit=4)
        self.assertEqual(payload(drain(out)), b"abcd")
        out.heard(0, 5, 0)
        self.assertEqual(payload(drain(out)), b"e")

    def test_limit_never_lowered(self) -> None:
        """A LIMIT lower than an earlier one changes nothing (K21)."""
        out = self.filled(b"abcdef", limit=4)
        out.heard(0, 2, 0)
        self.assertEqual(payload(drain(out)), b"abcd")

    def test_false_claims(self) -> None:
        """Consumption or events that were never sent are an error."""
        out = self.filled(b"abc", limit=2)
        drain(out)
        self.assertRaises(WireError, out.heard, 3, BIG, 0)
        self.assertRaises(WireError, out.heard, 1, BIG, 1)
        self.assertRaises(WireError, out.check, 3, 0)
        self.assertRaises(WireError, out.check, 0, 1)
        out.check(2, 0)

    def test_room(self) -> None:
        """Room is the window less what was not consumed."""
        out = self.filled(b"x" * constants.WINDOW)
        self.assertEqual(out.room, 0)
        drain(out)
        self.assertEqual(out.room, 0)
        out.heard(1000, BIG, 0)
        self.assertEqual(out.room, 1000)

    def test_many_pieces(self) -> None:
        """Output that changes between stdout and stderr at every byte is bounded in pieces."""
        out = Outgoing()
        count = 0
        while out.room:
            out.add(count % 2 * wire.STDERR, b"x")
            count += 1
        self.assertEqual(count, constants.MAX_CHUNKS)

    def test_end_and_event(self) -> None:
        """The end comes after the last byte, the outcome after the end (K28)."""
        out = self.filled(b"abc", limit=2)
        out.ended = True
        out.add_event({"kind": "outcome"})
        self.assertEqual([f[2] for f in drain(out)], [b"ab"])
        out.heard(2, 3, 0)
        kinds = [(kind, flags) for kind, flags, _ in drain(out)]
        self.assertEqual(kinds, [(wire.DATA, 0), (wire.DATA, wire.EOF), (wire.EVENT, 0)])

    def test_event_position(self) -> None:
        """An ordered event goes out exactly at its offset, before later bytes (K25)."""
        out = self.filled(b"ab")
        out.add_event({"kind": "progress"})
        out.add(0, b"cd")
        frames = drain(out)
        self.assertEqual([f[0] for f in frames], [wire.DATA, wire.EVENT, wire.DATA])
        self.assertEqual(json.loads(frames[1][2]), {"seq": 1, "at": 2, "kind": "progress"})

    def test_events_renumbered(self) -> None:
        """Unseen events are sent again with the numbers that follow the peer's (K25)."""
        out = Outgoing()
        for kind in ("a", "b", "c"):
            out.add_event({"kind": kind})
        drain(out)
        out.resume(0, BIG, 1)
        events = [json.loads(p) for _, _, p in drain(out)]
        self.assertEqual([(e["seq"], e["kind"]) for e in events], [(2, "b"), (3, "c")])

    def test_overwrite(self) -> None:
        """While nobody listens the oldest bytes make room, and the gap says how many (K32)."""
        out = self.filled(b"a" * 100)
        drain(out)
        out.recall()
        for _ in range(20):
            out.add(0, b"b" * 16000, overwrite=True)
        self.assertEqual(out.end - out.base, constants.WINDOW)
        gap = out.resume(40, 50, 0)
        self.assertEqual(gap, 320100 - constants.WINDOW - 40)
        self.assertEqual(out.sent, 40 + gap)
        self.assertEqual(payload(drain(out)), b"b" * 10)

    def test_gap_answer_lost(self) -> None:
        """When the answer that told of a gap is lost, the next attempt hears of it again."""
        out = Outgoing()
        out.add(0, b"x" * (constants.WINDOW + 7), overwrite=True)
        self.assertEqual(out.resume(0, BIG, 0), 7)
        out.check(0, 0)
        self.assertEqual(out.resume(0, BIG, 0), 7)
        out.check(7, 0)
        self.assertEqual(out.resume(7, BIG, 0), 0)

    def test_history(self) -> None:
        """The last of what was acknowledged stays for viewers, and for no resume (K38)."""
        out = Outgoing(history=4)
        out.limit = BIG
        out.add(0, b"abcdefgh")
        drain(out)
        out.heard(6, BIG, 0)
        self.assertEqual(b"cdefgh", b"".join(data for _, data in out.newest(100)))
        self.assertEqual(b"fgh", b"".join(data for _, data in out.newest(3)))
        self.assertEqual(6, out.resume(0, BIG, 0))
        self.assertEqual(b"gh", payload(drain(out)))
        self.assertEqual(0, out.resume(7, BIG, 0))
        self.assertEqual(b"defgh", b"".join(data for _, data in out.newest(100)))
        self.assertEqual(constants.WINDOW - 1, out.room)

    def test_history_is_forgotten(self) -> None:
        """A ring that is overwritten keeps no history: it would not join up (K38)."""
        out = Outgoing(history=4)
        out.limit = BIG
        out.add(0, b"abcdefgh")
        drain(out)
        out.heard(6, BIG, 0)
        out.recall()
        out.add(0, b"x" * constants.WINDOW, overwrite=True)
        self.assertEqual({b"x"}, {bytes([byte]) for _, data in out.newest(BIG) for byte in data})

    @given(
        st.lists(st.tuples(st.sampled_from([0, wire.STDERR]), st.binary(max_size=40)), max_size=12),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=6),
    )
    def test_cuts(self, pieces: list[tuple[int, bytes]], cuts: list[tuple[int, int]]) -> None:
        """However often it is cut and resumed, every byte arrives once, with its stderr flag."""
        out = Outgoing()
        for flags, data in pieces:
            if data:
                out.add(flags, data)
        want = [(flags, byte) for flags, data in pieces for byte in data]
        got: list[tuple[int, int]] = []

        def receive() -> None:
            for _, flags, data in drain(out):
                got.extend((flags, byte) for byte in data)

        for credit, loss in cuts:
            out.heard(len(got), len(got) + credit, 0)
            receive()
            del got[max(out.base, len(got) - loss) :]  # what was under way is gone
            out.check(len(got), 0)
            self.assertEqual(out.resume(len(got), len(got), 0), 0)
        out.heard(len(got), BIG, 0)
        receive()
        self.assertEqual(got, want)


class LargeFrameTests(SynchronousTestCase):
    def test_as_large_as_the_peer_takes(self) -> None:
        """Output comes in frames as large as the peer says that it takes (K11)."""
        for largest, sizes in (
            (wire.MAX_PAYLOAD, [16376, 16376, 16376, 872]),
            (wire.MAX_DATA, [50_000]),
        ):
            out = Outgoing()
            out.resume(0, BIG, 0)
            out.largest = largest
            out.add(0, bytes(50_000))
            frames = list(wire.Decoder().feed(b"".join(iter(out.take, None))))
            self.assertEqual([len(payload) for _, _, payload in frames], sizes)


class Sink:
    """Takes `room` bytes, then blocks."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def __call__(self, pieces: list[bytes]) -> int:
        data = b"".join(pieces)
        count = min(self.room, len(data))
        if not count:
            raise BlockingIOError
        self.taken += data[:count]
        self.room -= count
        return count


class IncomingTests(SynchronousTestCase):
    def test_consumed(self) -> None:
        """Only what the process took counts as consumed (K22)."""
        into, sink = Incoming(), Sink(3)
        into.accept(b"abcde", False)
        self.assertRaises(BlockingIOError, into.write_to, sink)
        self.assertEqual((into.consumed, into.received, sink.taken), (3, 5, b"abc"))
        self.assertTrue(into.waiting)

    def test_pieces_are_written_together(self) -> None:
        """What was taken may end anywhere, also within a later piece (K22)."""
        for room in range(1, 30):
            into, sink = Incoming(), Sink(room)
            for piece in (b"abc", b"d", b"efgh", *([b"xy"] * 20)):
                into.accept(piece, False)
            want = b"abcdefgh" + b"xy" * 20
            with self.assertRaises(BlockingIOError):
                into.write_to(sink)
            self.assertEqual((into.consumed, sink.taken), (room, want[:room]))
            sink.room = 99
            into.write_to(sink)
            self.assertEqual((into.consumed, sink.taken), (len(want), want))
            self.assertFalse(into.waiting)

    def test_overrun(self) -> None:
        """One byte beyond the limit is an error; the limit itself is not."""
        for wide, window in ((False, constants.WINDOW), (True, constants.WIDE_WINDOW)):
            into = Incoming(wide)
            into.accept(b"x" * window, False)
            self.assertRaises(WireError, into.accept, b"x", False)

    def test_wide_output(self) -> None:
        """Of files twice as much is kept as of other output, and no more (K21)."""
        for wide, window in ((False, constants.WINDOW), (True, constants.WIDE_WINDOW)):
            out = Outgoing(0, wide)
            self.assertEqual(out.room, window)
            out.add(0, b"x" * (window + 10), overwrite=True)
            self.assertEqual((out.end - out.base, out.room), (window, 0))

    def test_rewind(self) -> None:
        """An attach forgets bytes and end which were not consumed (K23)."""
        into = Incoming()
        into.accept(b"abcde", True)
        self.assertRaises(BlockingIOError, into.write_to, Sink(2))
        into.rewind()
        sink = Sink(9)
        into.accept(b"cde", True)
        into.write_to(sink)
        self.assertEqual((sink.taken, into.consumed, into.ended), (b"cde", 5, True))

    def test_end(self) -> None:
        """The end may be repeated, but nothing may follow it (K23)."""
        into = Incoming()
        into.accept(b"a", True)
        into.accept(b"", True)
        self.assertRaises(WireError, into.accept, b"b", False)

    def test_closed(self) -> None:
        """Input for a process that reads no more counts as consumed (K22)."""
        into = Incoming()
        into.accept(b"abc", False)
        into.close()
        into.accept(b"de", False)
        self.assertEqual((into.consumed, into.waiting), (5, False))

    def test_untold(self) -> None:
        """What the peer was not told is known, for bytes and for events."""
        into = Incoming()
        self.assertEqual(into.untold, 0)
        self.assertTrue(into.see(1))
        self.assertFalse(into.see(1))
        self.assertEqual(into.untold, 1)
        self.assertEqual(into.tell(), (0, constants.WINDOW, 1))
        self.assertEqual(into.untold, 0)


class WireTests(SynchronousTestCase):
    def test_byte_by_byte(self) -> None:
        """Frames survive arriving one byte at a time (K11)."""
        data = wire.encode(wire.DATA, b"abc", 2) + wire.encode(wire.LIMIT, bytes(24))
        decoder = wire.Decoder()
        frames = [f for i in range(len(data)) for f in decoder.feed(data[i : i + 1])]
        self.assertEqual(frames, [(wire.DATA, 2, b"abc"), (wire.LIMIT, 0, bytes(24))])

    def test_cut_anywhere(self) -> None:
        """Frames survive being cut into three reads anywhere, large ones too (K11)."""
        frames = [(wire.DATA, 0, b"a" * wire.MAX_DATA), (wire.LIMIT, 0, bytes(24))] * 2
        data = b"".join(wire.encode(kind, payload, flags) for kind, flags, payload in frames)
        whole = wire.HEADER.size + wire.MAX_DATA
        for first in (0, 1, 7, 8, 9, whole - 1, whole, whole + 1, whole + 32, whole + 33):
            for second in (first, first + 1, 2 * whole, len(data) - 1, len(data)):
                decoder = wire.Decoder()
                reads = (data[:first], data[first:second], data[second:])
                self.assertEqual([f for read in reads for f in decoder.feed(read)], frames)

    def test_malformed(self) -> None:
        """Unknown types, long payloads and stream numbers are refused; 0x80 excuses (K11)."""
        for fields in (
            (99, 0, 0, 0),
            (wire.EVENT, 0, 16377, 0),
            (wire.DATA, 0, 65505, 0),
            (wire.DATA, 0, 0, 1),
        ):
            with self.assertRaises(WireError):
                list(wire.Decoder().feed(struct.pack(">BBHI", *fields)))
        self.assertEqual(list(wire.Decoder().feed(struct.pack(">BBHI", 99, 0x80, 0, 0))), [])

    def test_json(self) -> None:
        """Payloads that are no UTF-8 JSON maps are refused (K12)."""
        for bad in (b"", b"[]", b"\xff", b"{", b"[" * 9000):
            with self.assertRaises(WireError):
                wire.parse_map(bad)

    def test_fields(self) -> None:
        """Numbers, texts and base64 are checked (K12)."""
        bad: list[Any] = [True, -1, 1 << 63, "1", 1.0, None]
        for value in bad:
            with self.assertRaises(WireError):
                wire.integer({"n": value}, "n")
        for value in ["", "a\n", "x" * 9, 1, None, "\x1b[2J"]:
            with self.assertRaises(WireError):
                wire.text({"t": value}, "t", 8)
        for value in ["AA=", "A A=", 5, "AAAA", wire.base64(bytes(15))]:
            with self.assertRaises(WireError):
                wire.unbase64(value, "session")
        with self.assertRaises(WireError):
            wire.unbase64(wire.base64(b"a\0b"), "argv")
