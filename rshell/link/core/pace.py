"""How much to hand over at once: less on a slow link while somebody types (rule Q3).

A record that the kernel has taken cannot be overtaken, so on a slow link it is what a keystroke
waits for: 16 KiB are 65 ms at 2 Mbit/s.  Small records cost processor time, so they are used only
where the link is measured to be slow and a sparse stream was active just now.  What is measured
is the kernel's delivery rate, which excludes the time in which *we* were the slow part: a busy
process would otherwise take its own lag for a slow link, and make it worse.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rshell.link.core.constants import RECORD_SIZE, RUN_FRAMES

__all__ = ["LOW_WATER", "Pace", "Step"]


class Step(NamedTuple):
    """Below ``bits_per_second`` records have ``size`` bytes, and the kernel holds about as many."""

    bits_per_second: float
    size: int


#: Each record takes some milliseconds at most; below 2 KiB the headers would show.
STEPS: Final = (
    Step(float("inf"), RECORD_SIZE),
    Step(40e6, 8192),
    Step(25e6, 4096),
    Step(4e6, 2048),
)
#: What the kernel may hold unsent at full size.
LOW_WATER: Final = RECORD_SIZE
#: A step is left only at twice the rate at which it was entered.
LEAVE_FACTOR: Final = 2.0
#: How long after its last bytes a sparse stream counts as active.
SPARSE_SECONDS: Final = 10.0
#: The weight of the newest sample.
_NEWEST: Final = 0.5
#: A sample counts as this many times the estimate at most (and a little more, so that even
#: nothing can grow): a burst that a queue let through at once is no faster link.
_BURST_FACTOR: Final = 2.0
_BURST_BITS: Final = 100_000.0
#: More than one record is handed over at once where the link carries each in so many bits a
#: second: all of them together take it 2.6 ms, which is what a keystroke may wait for.
RECORD_BITS_PER_SECOND: Final = 50e6
#: Four records are what one read of the other end takes; more do not make it cheaper.
MAX_RECORDS: Final = RUN_FRAMES


class Pace:
    """The size of the next record of one link.

    Attributes:
        size: Bytes of a record, now.
        bits_per_second: What the link delivers; None while it was never the limit.
        records: How many records of full size may be handed over at once.
        slow: Whether records are small, or would be if somebody typed: else there is nothing to
            `judge`.
    """

    __slots__ = ("_step", "bits_per_second", "records", "size", "slow")

    def __init__(self) -> None:
        self.size = RECORD_SIZE
        self.bits_per_second: float | None = None
        self.records = 1
        self.slow = False
        self._step = 0

    def measured(
        self,
        bits_per_second: float,
        *,
        limited_by_us: bool = False,
        sent_bits_per_second: float = 0,
    ) -> None:
        """Take a sample.

        Args:
            bits_per_second: How fast the newest data was delivered.
            limited_by_us: We had not more to send.  Such a sample may be anything (a keystroke
                passes a slow link's queue at the speed of the cable), so it is not believed.
            sent_bits_per_second: What we sent since the last sample: the link can do at least
                that.
        """
        self._take(bits_per_second, limited_by_us, sent_bits_per_second)
        carries = max(self.bits_per_second or 0.0, sent_bits_per_second)
        self.records = max(1, min(MAX_RECORDS, int(carries / RECORD_BITS_PER_SECOND)))

    def _take(
        self, bits_per_second: float, limited_by_us: bool, sent_bits_per_second: float
    ) -> None:
        known = self.bits_per_second
        if limited_by_us:
            if known is None or sent_bits_per_second <= known:
                return
            bits_per_second = sent_bits_per_second
        if known is None:
            self.bits_per_second = bits_per_second
        else:
            sample = min(bits_per_second, _BURST_FACTOR * known + _BURST_BITS)
            self.bits_per_second = known + _NEWEST * (sample - known)
        self._walk(self.bits_per_second)

    def _walk(self, rate: float) -> None:
        while self._step + 1 < len(STEPS) and rate < STEPS[self._step + 1].bits_per_second:
            self._step += 1
        while self._step and rate > LEAVE_FACTOR * STEPS[self._step].bits_per_second:
            self._step -= 1
        self.slow = self._step > 0 or self.size != RECORD_SIZE

    def judge(self, sparse_ago: float) -> bool:
        """Set `size`; say whether it changed.

        Args:
            sparse_ago: Seconds since a sparse stream sent something.
        """
        size = STEPS[self._step].size if sparse_ago <= SPARSE_SECONDS else RECORD_SIZE
        changed = size != self.size
        self.size = size
        self.slow = self._step > 0
        return changed
