"""RecordCount: TLS records, counted by their headers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.tls_records import MANY, RecordCount

SIZES = st.lists(st.sampled_from([0, 1, 4, 5, 22, 300, 16_384, 16_640]), max_size=8)


def record(size: int) -> bytes:
    """Return a record; what it holds looks like headers, which nobody may take for some."""
    return (
        b"\x17\x03\x03" + size.to_bytes(2) + b"\x17\x03\x03\x00\x00" * (size // 5) + bytes(size % 5)
    )


class CountTests(SynchronousTestCase):
    """Whole records, however they are cut."""

    @given(SIZES, st.lists(st.integers(1, 20_000), min_size=1, max_size=4))
    def test_any_cut(self, sizes: list[int], cuts: list[int]) -> None:
        """Each record is counted with its last byte, and once."""
        wire = b"".join(map(record, sizes))
        ends = [sum(len(record(size)) for size in sizes[: n + 1]) for n in range(len(sizes))]
        count, at, turn, found = RecordCount(), 0, 0, 0
        while at < len(wire):
            step = cuts[turn % len(cuts)]
            found += count.whole(wire[at : at + step])
            at, turn = at + step, turn + 1
            self.assertEqual(found, sum(end <= at for end in ends))

    def test_byte_by_byte(self) -> None:
        """A byte at a time, also within a header."""
        count = RecordCount()
        wire = record(7) * 3
        found = [count.whole(wire[at : at + 1]) for at in range(len(wire))]
        self.assertEqual([at for at, one in enumerate(found) if one], [11, 23, 35])

    def test_nothing(self) -> None:
        """No bytes are no record, at any place."""
        count = RecordCount()
        self.assertEqual(count.whole(b""), 0)
        count.whole(record(9)[:3])
        self.assertEqual(count.whole(b""), 0)
        self.assertEqual(count.whole(record(9)[3:]), 1)

    def test_too_long(self) -> None:
        """A length that TLS does not allow is told at the header: OpenSSL shall judge it now."""
        for length in (16_641, 65_535):
            header = b"\x17\x03\x03" + length.to_bytes(2)
            self.assertEqual(RecordCount().whole(header), MANY)
            self.assertEqual(RecordCount().whole(record(3) + header + b"more"), MANY)

    @given(st.lists(st.binary(max_size=64), max_size=20))
    def test_garbage(self, pieces: list[bytes]) -> None:
        """Any bytes give a count, and nothing is kept but less than a header."""
        count = RecordCount()
        for piece in pieces:
            self.assertGreaterEqual(count.whole(piece), 0)
            self.assertLess(len(count._head), 5)
