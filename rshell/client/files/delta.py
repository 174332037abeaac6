"""What of one file is already in another: the rolling search of rsync, in pure Python at speed.

The device describes its file block by block (`Signature`); the search runs here, at the
operator's machine, over our file.  rsync rolls a weak sum over every offset, which costs an
interpreter some 300 ns a byte.  Here the description of a block has its first `HEAD_BYTES` bytes
besides, which hold eight 64-bit words, one for each phase.  Wherever a block begins in our file,
one of its eight words is one of our *aligned* words, so one look into a dict for every eight bytes
finds every block, and that loop runs in C: some 100 MB/s over data that is all new.  What matches
is followed block by block, at the speed of the digests.

Candidates are checked by Adler-32, then by BLAKE2b; the digest of the whole file, which each copy
ends with, has the last word.

What it is not: I/O.  Files are read through a callable.  Source of the method: A. Tridgell and
P. Mackerras, "The rsync algorithm", 1996; C. Phipps's zsync for searching at the receiver.
Libraries for it (librsync's and zsync's bindings) were weighed: they are unmaintained or want MD4.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from itertools import compress, count

__all__ = [
    "HEAD_BYTES",
    "MAX_BLOCKS",
    "MIN_DELTA_BYTES",
    "RECORD",
    "Signature",
    "block_size_for",
    "matches",
    "worth_a_delta",
]

#: Adler-32, BLAKE2b-128 and the first bytes of one block.
RECORD = struct.Struct(">I16s15s")
HEAD_BYTES = 15
#: What two phases of a 64-bit word are apart.
WORD = 8
PHASES = HEAD_BYTES - WORD + 1

MIN_BLOCK = 2048
MAX_BLOCK = 16 * 1024 * 1024
#: More would make the dict of words take more than some 40 MB here.
MAX_BLOCKS = 32_768
#: A smaller file is sent sooner than it is described.
MIN_DELTA_BYTES = 64 * 1024
#: Files whose sizes differ by more than this have little in common.
MAX_RATIO = 8
#: How much of our file is in memory at once, at least.
WINDOW_BYTES = 4 * 1024 * 1024
#: A word with more places than this is no landmark (zeros, spaces), and is not looked for.
MAX_PLACES = 4
#: Nor is one that led astray so often.
MAX_MISSES = 16


def worth_a_delta(ours: int, theirs: int) -> bool:
    """Whether a description may save more than it costs, by the sizes of both files in bytes."""
    low, high = sorted((ours, theirs))
    return low >= MIN_DELTA_BYTES and high <= low * MAX_RATIO and high <= MAX_BLOCKS * MAX_BLOCK


def block_size_for(size: int) -> int:
    """Return the block size for a file of so many bytes: near its square root, a power of two."""
    block = MIN_BLOCK
    while block < MAX_BLOCK and (block * block < size or block * MAX_BLOCKS < size):
        block *= 2
    return block


class Signature:
    """The description of a file by its blocks.

    Args:
        block: Bytes of each block but the last.
        size: Bytes of the file.

    Attributes:
        block: As given.
        size: As given.
        blocks: How many there are, a short last one included.
    """

    def __init__(self, block: int, size: int) -> None:
        if not MIN_BLOCK <= block <= MAX_BLOCK or size < 0:
            raise ValueError("no block size, or no file size")
        self.block = block
        self.size = size
        self.blocks = -(-size // block)
        if self.blocks > MAX_BLOCKS:
            raise ValueError(f"more than {MAX_BLOCKS:,} blocks")
        self._weak = array("I")
        self._strong = bytearray()
        self._rest = b""
        #: A word -> places, each a block's number times eight plus the word's phase.
        self._places: dict[int, tuple[int, ...]] = {}
        self._misses: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """Whether every block was described."""
        return len(self._weak) == self.blocks and not self._rest

    def add(self, records: bytes) -> None:
        """Take in records as they arrive, cut anywhere.

        Raises:
            ValueError: There are more than blocks.
        """
        data = self._rest + records
        whole = len(data) - len(data) % RECORD.size
        self._rest = data[whole:]
        for weak, strong, head in RECORD.iter_unpack(data[:whole]):
            number = len(self._weak)
            if number >= self.blocks:
                raise ValueError("more records than blocks")
            self._weak.append(weak)
            self._strong += strong
            if self.length(number) == self.block:
                self._add_places(number, head)

    def _add_places(self, number: int, head: bytes) -> None:
        if head.count(head[:1]) == len(head):
            return  # a run of one byte begins anywhere
        for phase in range(PHASES):
            word = int.from_bytes(head[phase : phase + WORD], sys.byteorder)
            known = self._places.get(word, ())
            if len(known) <= MAX_PLACES:
                self._places[word] = (*known, number * PHASES + phase)

    def seal(self) -> None:
        """Say that all records were added: words in too many places are dropped.

        Raises:
            ValueError: Some are missing.
        """
        if not self.complete:
            raise ValueError(f"{len(self._weak)} of {self.blocks} blocks were described")
        common = [word for word, places in self._places.items() if len(places) > MAX_PLACES]
        for word in common:
            del self._places[word]

    def length(self, number: int) -> int:
        """Return the bytes of a block."""
        return min(self.block, self.size - number * self.block)

    def is_block(self, number: int, data: memoryview) -> bool:
        """Whether bytes are those of a block."""
        if self._weak[number] != zlib.adler32(data):
            return False
        strong = hashlib.blake2b(data, digest_size=16).digest()
        return self._strong[number * 16 : number * 16 + 16] == strong

    def find(self, data: memoryview, start: int) -> tuple[int, int] | None:
        """Search for any whole block.

        Args:
            data: Where; a block must lie in it as a whole.
            start: The first place to look at.

        Returns:
            Its place and number; None if there is none.
        """
        words = data[: len(data) // WORD * WORD].cast("Q")
        first = -(-start // WORD)
        last = len(data) - self.block
        places = self._places
        for index in compress(count(first), map(places.__contains__, words[first:])):
            word = words[index]
            for packed in places[word]:
                number, phase = divmod(packed, PHASES)
                place = index * WORD - phase
                if not start <= place <= last:
                    continue
                if self.is_block(number, data[place : place + self.block]):
                    return place, number
                self._missed(word)
        return None

    def _missed(self, word: int) -> None:
        misses = self._misses[word] = self._misses.get(word, 0) + 1
        if misses >= MAX_MISSES:
            self._places.pop(word, None)


def matches(
    read: Callable[[int, int], bytes], size: int, signature: Signature, start: int = 0
) -> Iterator[tuple[int, int]]:
    """Find the blocks of a described file in ours.

    Args:
        read: (offset, length) -> bytes of our file, fewer only at its end.
        size: Bytes of our file.
        signature: Sealed.
        start: Where to begin in ours.

    Yields:
        (offset in our file, block number), by rising offsets, never overlapping.
    """
    block = signature.block
    whole = signature.size // block
    position, expected = start, start // block
    base, view = 0, memoryview(b"")
    while position + block <= size:
        if position + block > base + len(view):
            base, view = position, memoryview(read(position, _window(block)))
            if len(view) < block:
                return  # it shrank
        if expected < whole and _is_at(signature, view, position - base, expected):
            yield position, expected
            position, expected = position + block, expected + 1
            continue
        # Most changes lie within one block: the next one is where it was.
        ahead = position + block - base
        if expected + 1 < whole and _is_at(signature, view, ahead, expected + 1):
            position, expected = position + block, expected + 1
            continue
        found = signature.find(view, position - base)
        if found is None:
            position, expected = max(position, base + len(view) - block) + 1, whole
        else:
            yield base + found[0], found[1]
            position, expected = base + found[0] + block, found[1] + 1
    yield from _tail(read, size, signature, position)


def _window(block: int) -> int:
    return max(WINDOW_BYTES, 4 * block)


def _is_at(signature: Signature, view: memoryview, place: int, number: int) -> bool:
    end = place + signature.block
    return end <= len(view) and signature.is_block(number, view[place:end])


def _tail(
    read: Callable[[int, int], bytes], size: int, signature: Signature, position: int
) -> Iterator[tuple[int, int]]:
    """The short last block is looked for at the end only."""
    length = signature.size % signature.block
    start = size - length
    if length and start >= position:
        data = memoryview(read(start, length))
        if len(data) == length and signature.is_block(signature.blocks - 1, data):
            yield start, signature.blocks - 1
