"""Where to begin in a file, found from its end: what is not asked for is not read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from rshell_agent.workers.tail.cutting import MAX_LINE_BYTES
from rshell_agent.workers.tail.stamps import SEARCH_BYTES, stamp_of

__all__ = ["lines_backwards", "since_offset", "start_of_last", "start_of_line"]

BLOCK = 64 * 1024
#: A file in whose last lines no time stamp can be read has none.
STAMPLESS_BYTES = 1024 * 1024


def start_of_last(
    descriptor: int, size: int, count: int, wants: Callable[[bytes], bool] | None = None
) -> int:
    """Return where the last lines begin.

    Args:
        descriptor: A regular file.
        size: Where to look back from.
        count: How many lines; an unfinished last one counts.
        wants: Count only lines that it wants.
    """
    if count <= 0:
        return size
    if wants is None:
        return _start_of_last_any(descriptor, size, count)
    found = size
    for offset, line in lines_backwards(descriptor, size, MAX_LINE_BYTES):
        if wants(line):
            found = offset
            count -= 1
            if not count:
                break
    return found


def _start_of_last_any(descriptor: int, size: int, count: int) -> int:
    # The newline at the very end ends the last line and begins none.
    end = size
    if size and os.pread(descriptor, 1, size - 1) == b"\n":
        end -= 1
    while end > 0:
        begin = max(0, end - BLOCK)
        block = os.pread(descriptor, end - begin, begin)
        here = block.count(b"\n")
        if here >= count:
            place = len(block)
            for _ in range(count):
                place = block.rfind(b"\n", 0, place)
            return begin + place + 1
        count -= here
        end = begin
    return 0


def start_of_line(descriptor: int, size: int, number: int) -> int:
    """Return where the line of that number begins, counted from 1; the end if there is none."""
    left = number - 1
    begin = 0
    while left > 0 and begin < size:
        block = os.pread(descriptor, min(BLOCK, size - begin), begin)
        if not block:
            break
        here = block.count(b"\n")
        if here >= left:
            place = -1
            for _ in range(left):
                place = block.find(b"\n", place + 1)
            return begin + place + 1
        left -= here
        begin += len(block)
    return begin


def lines_backwards(descriptor: int, size: int, keep: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, beginning of the line) from the last line to the first.

    Args:
        descriptor: A regular file.
        size: Where to look back from.
        keep: Bytes of a line that are given.
    """
    end = size
    if size and os.pread(descriptor, 1, size - 1) == b"\n":
        end -= 1
    if size == 0:
        return
    later = b""  # what is known of the line that began before the block after this one
    while end > 0:
        begin = max(0, end - BLOCK)
        block = os.pread(descriptor, end - begin, begin)
        place = len(block)
        while (newline := block.rfind(b"\n", 0, place)) >= 0:
            yield begin + newline + 1, (block[newline + 1 : place] + later)[:keep]
            later = b""
            place = newline
        later = (block[:place] + later)[:keep]
        end = begin
    yield 0, later


def since_offset(descriptor: int, size: int, since: float, now: float) -> int | None:
    """Return where the lines begin that are not older than a moment.

    It is assumed that a log is in order of time, and that a line without a time stamp belongs to
    the one before it.

    Args:
        descriptor: A regular file.
        size: Where to look back from.
        since: Seconds since 1970.
        now: The device's time.

    Returns:
        The offset; None if no time stamp could be read in the last `STAMPLESS_BYTES`.
    """
    found: int | None = None
    for offset, line in lines_backwards(descriptor, size, SEARCH_BYTES):
        stamp = stamp_of(line, now)
        if stamp is not None:
            if stamp < since:
                return size if found is None else found
            found = offset
        elif found is None and size - offset > STAMPLESS_BYTES:
            return None
    return found
