"""The delta search: what is found, where, and what leads it astray."""

from __future__ import annotations

import hashlib
import random
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.client.files.delta import (
    MAX_BLOCK,
    MAX_BLOCKS,
    MIN_BLOCK,
    RECORD,
    Signature,
    block_size_for,
    matches,
    worth_a_delta,
)

BLOCK = MIN_BLOCK


def records(data: bytes, block: int = BLOCK) -> bytes:
    """Describe data as a device does."""
    described = b""
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        strong = hashlib.blake2b(piece, digest_size=16).digest()
        described += RECORD.pack(zlib.adler32(piece), strong, piece[:15].ljust(15, b"\0"))
    return described


def signature(data: bytes, block: int = BLOCK) -> Signature:
    made = Signature(block, len(data))
    made.add(records(data, block))
    made.seal()
    return made


def found(ours: bytes, theirs: bytes, start: int = 0) -> list[tuple[int, int]]:
    return list(matches(lambda at, size: ours[at : at + size], len(ours), signature(theirs), start))


def rebuilt(ours: bytes, theirs: bytes) -> tuple[bytes, int]:
    """Put ours together from theirs and what is missing; return it and how much was missing."""
    described = signature(theirs)
    parts, position, missing = [], 0, 0
    for offset, number in found(ours, theirs):
        parts += [ours[position:offset], theirs[number * BLOCK :][: described.length(number)]]
        missing += offset - position
        position = offset + described.length(number)
    return b"".join(parts) + ours[position:], missing + len(ours) - position


class MatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.old = random.Random(1).randbytes(50 * BLOCK + 77)

    def test_same(self) -> None:
        """Of an unchanged file every block is found where it is, the short last one too."""
        self.assertEqual([(n * BLOCK, n) for n in range(51)], found(self.old, self.old))

    def test_inserted(self) -> None:
        """What is inserted shifts all that follows by any number of bytes, and costs a block."""
        for size in range(1, 18):
            new = self.old[:5000] + bytes(range(size)) + self.old[5000:]
            again, missing = rebuilt(new, self.old)
            self.assertEqual(new, again)
            self.assertLessEqual(missing, BLOCK + size)

    def test_removed(self) -> None:
        """What was removed costs at most the two blocks that it cut."""
        new = self.old[:7001] + self.old[20_000:]
        again, missing = rebuilt(new, self.old)
        self.assertEqual(new, again)
        self.assertLessEqual(missing, 2 * BLOCK)

    def test_moved(self) -> None:
        """Parts that changed places are found."""
        new = self.old[60_000:] + self.old[:60_000]
        again, missing = rebuilt(new, self.old)
        self.assertEqual(new, again)
        self.assertLessEqual(missing, 3 * BLOCK)

    def test_edited(self) -> None:
        """One byte here and there costs its block."""
        new = bytearray(self.old)
        for place in (100, 40_000, 40_001, 90_000):
            new[place] ^= 1
        again, missing = rebuilt(bytes(new), self.old)
        self.assertEqual(bytes(new), again)
        self.assertEqual(3 * BLOCK, missing)

    def test_nothing_in_common(self) -> None:
        """Of strangers nothing is found."""
        self.assertEqual([], found(random.Random(2).randbytes(30 * BLOCK), self.old))

    def test_zeros(self) -> None:
        """Zeros, which have no landmark, are followed where they are."""
        zeros = bytes(40 * BLOCK)
        self.assertEqual((zeros, 0), rebuilt(zeros, zeros))

    def test_repetitive(self) -> None:
        """A text that repeats itself ends in time and comes out right."""
        old = b"the same line again and again\n" * 4000
        new = b"a new first line\n" + old
        self.assertEqual(new, rebuilt(new, old)[0])

    def test_from_a_place(self) -> None:
        """A search that begins later finds what is behind that place."""
        self.assertEqual((10 * BLOCK, 10), found(self.old, self.old, 10 * BLOCK)[0])
        self.assertEqual((11 * BLOCK, 11), found(self.old, self.old, 10 * BLOCK + 1)[0])

    def test_shrank(self) -> None:
        """A file that is shorter than it was said to be ends the search."""
        short = self.old[: 10 * BLOCK]
        got = list(matches(lambda at, size: short[at : at + size], 10**6, signature(self.old)))
        self.assertEqual([(n * BLOCK, n) for n in range(10)], got)

    def test_false_landmarks(self) -> None:
        """Blocks with the same beginning and the same Adler-32 are told apart by their digest."""
        head = b"landmark of fifteen"
        tails = [b"\1\0\0\1", b"\0\1\1\0"]  # the same sums, other bytes
        first, second = (head + bytes(BLOCK - len(head) - 4) + tail for tail in tails)
        self.assertEqual(zlib.adler32(first), zlib.adler32(second))
        self.assertEqual([(0, 0)], found(second, second))
        self.assertEqual([], found(first, second))

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.data())
    def test_any_edit(self, data: st.DataObject) -> None:
        """Whatever is cut out and put in, the file comes out right."""
        new = bytearray(self.old)
        for _ in range(data.draw(st.integers(0, 4))):
            start = data.draw(st.integers(0, len(new)))
            end = min(len(new), start + data.draw(st.integers(0, 9000)))
            new[start:end] = data.draw(st.binary(max_size=40))
        self.assertEqual(bytes(new), rebuilt(bytes(new), self.old)[0])


class SignatureTests(SynchronousTestCase):
    def test_cut_anywhere(self) -> None:
        """Records may arrive cut at any byte."""
        data = random.Random(3).randbytes(5 * BLOCK + 1)
        described = records(data)
        for size in (1, 34, 36, 1000):
            made = Signature(BLOCK, len(data))
            for start in range(0, len(described), size):
                made.add(described[start : start + size])
            made.seal()
            self.assertEqual(
                6, len(list(matches(lambda at, n: data[at : at + n], len(data), made)))
            )

    def test_wrong(self) -> None:
        """Too few records, too many, half ones and impossible sizes are refused."""
        described = records(bytes(3 * BLOCK))
        for wrong in (described[:-1], described[: RECORD.size], described + b"x"):
            made = Signature(BLOCK, 3 * BLOCK)
            made.add(wrong)
            self.assertRaises(ValueError, made.seal)
        made = Signature(BLOCK, 3 * BLOCK)
        self.assertRaises(ValueError, made.add, described + described)
        for block, size in ((0, 1), (MIN_BLOCK, -1), (MIN_BLOCK, MIN_BLOCK * (MAX_BLOCKS + 1))):
            self.assertRaises(ValueError, Signature, block, size)

    def test_block_sizes(self) -> None:
        """A block is near the square root of the file, and there are not too many."""
        for size in (0, 1, 10**5, 10**7, 10**9, 10**11, MAX_BLOCK * MAX_BLOCKS):
            block = block_size_for(size)
            self.assertLessEqual(-(-size // block), MAX_BLOCKS)
            self.assertTrue(block == MIN_BLOCK or (block // 2) ** 2 < size or size > 2**30)

    def test_worth(self) -> None:
        """Small files, and files of very different sizes, are not described."""
        self.assertTrue(worth_a_delta(10**6, 2 * 10**6))
        for ours, theirs in ((1000, 10**6), (10**6, 1000), (10**6, 10**7), (0, 0)):
            self.assertFalse(worth_a_delta(ours, theirs), (ours, theirs))
