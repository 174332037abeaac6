"""Rates, compression and names: the small pure parts of a copy."""

from __future__ import annotations

import os
import zlib

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import RshellError
from rshell.client.files.compression import (
    MAX_PLAIN_BYTES,
    RAW,
    ZLIB,
    Compression,
    negotiate,
    unpack,
)
from rshell.client.files.frames import (
    DATA_OUT,
    END_OUT,
    MAX_PAYLOAD,
    BadFrame,
    FrameReader,
    frame,
)
from rshell.client.files.limit import BURST_SECONDS, MIN_PIECE_BYTES, RateLimit
from rshell.client.files.naming import (
    PART_NAME,
    UnsafeName,
    checked_parts,
    join,
    last_name,
    matches,
    part_name,
    shown,
    transfer_id,
)


class FrameTests(SynchronousTestCase):
    def test_cut(self) -> None:
        """Frames come out as they went in, however they are cut."""
        sent = [(END_OUT, 7, b""), (DATA_OUT, 8, os.urandom(70_000)), (END_OUT, 9, b"{}")] * 3
        data = b"".join(frame(*one) for one in sent)
        for size in (1, 7, 9, 4096, 16_376, 65_504, len(data)):
            reader = FrameReader()
            got = []
            for at in range(0, len(data), size):
                reader.feed(data[at : at + size])
                got += list(reader.frames())
            self.assertEqual(sent, got)
            self.assertEqual(0, reader.waiting)

    def test_left_and_entered_again(self) -> None:
        """Who stops after a frame gets the next one later."""
        reader = FrameReader()
        reader.feed(frame(DATA_OUT, 1, b"one") + frame(DATA_OUT, 2, b"two"))
        self.assertEqual((DATA_OUT, 1, b"one"), next(iter(reader.frames())))
        self.assertEqual([(DATA_OUT, 2, b"two")], list(reader.frames()))

    def test_single_bytes(self) -> None:
        """A device that sends a block in single bytes costs no object for each."""
        reader = FrameReader()
        block = frame(DATA_OUT, 1, bytes(40_000))
        for at in range(len(block) - 1):
            reader.feed(block[at : at + 1])
        self.assertEqual([], list(reader.frames()))
        self.assertLess(len(reader._pieces), 12)

    def test_no_frame(self) -> None:
        """A length or type that there is not is refused as soon as it is here."""
        for bad in (
            frame(1, 1),
            (MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes([DATA_OUT, 0, 0, 0, 1]),
        ):
            reader = FrameReader()
            reader.feed(bad)
            self.assertRaises(BadFrame, list, reader.frames())


class RateTests(SynchronousTestCase):
    def test_kept(self) -> None:
        """Whatever the pieces, the rate is kept over time."""
        for piece in (100, 1000, 5000):
            clock = Clock()
            limit = RateLimit(clock, 1000)
            passed: list[float] = []

            async def send(
                limit: RateLimit = limit, piece: int = piece, passed: list[float] = passed
            ) -> None:
                for _ in range(20_000 // piece):
                    await limit.take(piece)
                    passed.append(piece)

            done = Deferred.fromCoroutine(send())
            for _ in range(10 * 100):
                clock.advance(0.01)
            self.assertNoResult(done)
            self.assertLessEqual(abs(sum(passed) - 10_000), piece + 1000 * BURST_SECONDS)
            clock.pump([0.01] * 1500)
            self.successResultOf(done)
            self.assertEqual([], clock.getDelayedCalls())

    def test_no_saving_up(self) -> None:
        """A pause earns no more than a short burst."""
        clock = Clock()
        limit = RateLimit(clock, 1000)
        clock.advance(3600)
        self.successResultOf(Deferred.fromCoroutine(limit.take(1000)))
        self.assertGreater(limit.wait_seconds, 0.7)

    def test_without(self) -> None:
        """Without a limit nobody waits, and pieces are as large as they like."""
        limit = RateLimit(Clock(), None)
        self.successResultOf(Deferred.fromCoroutine(limit.take(10**12)))
        self.assertEqual((0.0, 999), (limit.wait_seconds, limit.piece_bytes(999)))

    def test_pieces(self) -> None:
        """Pieces are small for a small rate, and never tiny."""
        self.assertEqual(MIN_PIECE_BYTES, RateLimit(Clock(), 10).piece_bytes(10**6))
        self.assertEqual(250_000, RateLimit(Clock(), 10**6).piece_bytes(10**6))


class CompressionTests(SynchronousTestCase):
    TEXT = b"a line of text that is much like the next one\n" * 1000

    def test_round_trip(self) -> None:
        """What is packed is unpacked to the same, and is smaller."""
        for name in ("zlib", "zstd"):
            if negotiate("auto", [name]) is None:
                continue  # no zstd in this Python
            packed = Compression(name, False).pack(b"\0" + self.TEXT)
            self.assertLess(len(packed), len(self.TEXT) / 10)
            self.assertEqual(self.TEXT, bytes(unpack(packed)))

    def test_sample(self) -> None:
        """The beginning of a file decides whether the rest is tried."""
        noise = os.urandom(50_000)
        packing = Compression("zlib", True)
        self.assertEqual(b"\0" + noise, packing.pack(b"\0" + noise))
        self.assertEqual(RAW, packing.pack(b"\0" + self.TEXT)[0])
        packing = Compression("zlib", True)
        self.assertEqual(ZLIB, packing.pack(b"\0" + self.TEXT)[0])
        self.assertEqual(RAW, packing.pack(b"\0" + noise)[0])  # it did not shrink

    def test_bad(self) -> None:
        """Damaged, cut, unknown, empty and exploding pieces are refused."""
        packed = bytes([ZLIB]) + zlib.compress(self.TEXT)
        bomb = bytes([ZLIB]) + zlib.compress(bytes(MAX_PLAIN_BYTES + 1))
        large = bytes(MAX_PLAIN_BYTES + 2)
        cases = [b"", b"\x09abc", packed[:-10], packed[:1] + b"junk", bomb, large, b"\x02junk"]
        for payload in cases:
            self.assertRaises(ValueError, unpack, payload)

    def test_negotiation(self) -> None:
        """What both sides have is used; what is asked for by name must be there."""
        self.assertIsNone(negotiate("none", ["zstd", "zlib"]))
        self.assertIsNone(negotiate("auto", ["lzma"]))
        self.assertEqual("zlib", negotiate("auto", ["zlib"]))
        self.assertEqual("zlib", negotiate("zlib", ["zstd", "zlib"]))
        error = self.assertRaises(RshellError, negotiate, "zstd", ["zlib"])
        self.assertEqual("unsupported", error.code)


class NameTests(SynchronousTestCase):
    def test_unsafe(self) -> None:
        """No name that a device gives leads out of the destination."""
        for path in (
            b"..", b"../x", b"a/../../x", b"/etc/passwd", b"a//b", b"a/", b"/", b".", b"a/./b",
            b"a\0b", b"x" * 256, b"/".join([b"x" * 200] * 30),
        ):  # fmt: skip
            self.assertRaises(UnsafeName, checked_parts, path)

    def test_safe(self) -> None:
        """Odd names are names all the same."""
        self.assertEqual([], checked_parts(b""))
        for path in (b"...", b"-rf", b"a b", b"\xff\n", b"..x/y..", b"~"):
            self.assertEqual(path, b"/".join(checked_parts(path)))

    def test_matches(self) -> None:
        """A path that a device found must be one that the pattern asks for."""
        good = [
            (b"*.log", b"a.log"), (b"/var//log/*", b"/var/log/x"), (b"~/x?", b"~/xy"),
            (b"d/", b"d/"), (b"**/*.c", b"a.c"), (b"**/*.c", b"a/b/x.c"), (b"a/**", b"a/b/c"),
            (b"../[ab]*", b"../bx"), (b".*", b".x"), (b"x?", b"x\xff"), (b"x?", "x\u20ac".encode()),
            (b"a*/[x", b"ab/[x"),
        ]  # fmt: skip
        bad = [
            (b"*.log", b".log"), (b"*.log", b"d/a.log"), (b"*", b".."), (b"*", b"."), (b"*", b""),
            (b"*", b"/x"), (b"/*", b"x"), (b"**/x", b"../x"), (b"**", b".ssh/x"), (b"*", b"a\0b"),
            (b".*", b".."), (b"*", b"x" * 256), (b"d/*", b"d"), (b"d/*", b"d/a/b"),
        ]  # fmt: skip
        for pattern, path in good:
            self.assertTrue(matches(pattern, path), (pattern, path))
        for pattern, path in bad:
            self.assertFalse(matches(pattern, path), (pattern, path))

    def test_last_names(self) -> None:
        """A source has the name that cp gives it; some stand for their contents."""
        for path, name in (
            (b"/a/b", b"b"), (b"a/b/", b"b"), (b"b", b"b"), (b"a/.", b""), (b"..", b""),
            (b"/", b""), (b".", b""), (b"~", b""), (b"", b""), (b"~/x", b"x"),
        ):  # fmt: skip
            self.assertEqual(name, last_name(path), path)

    def test_parts(self) -> None:
        """A part's name is the same for the same transfer and another for any other."""
        one = transfer_id("pump-1", b"/a", 1, 2)
        self.assertEqual(one, transfer_id("pump-1", b"/a", 1, 2))
        others = [("pump-2", b"/a", 1, 2), ("pump-1", b"/b", 1, 2), ("pump-1", b"/a", 1, 3)]
        self.assertNotIn(one, [transfer_id(*other) for other in others])  # type: ignore[arg-type]  # tuples
        self.assertIsNotNone(PART_NAME.match(part_name(one)))
        self.assertIsNone(PART_NAME.match(b"x.rshell-abcdefgh.part"))
        self.assertIsNone(PART_NAME.match(part_name(one) + b"\n"))

    def test_shown(self) -> None:
        """Names are shown without what a terminal would act on."""
        self.assertEqual("a\N{REPLACEMENT CHARACTER}[2J b", shown(b"a\x1b[2J\nb"))
        self.assertEqual(b"/a/b", join(b"/a", b"", b"b"))
