"""Which core runs what while a latency is measured.

A wake-up on another core costs tens of microseconds more than one on the same core, and the
kernel's choice between them changes from run to run.  So the gateway has the first core to itself,
whoever's gateway it is, and the operator's and the device's ends share the second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.notebook import Notebook
from benchmarks.proc import family

__all__ = ["Pins", "pinned"]


class Pins:
    """Puts processes on cores.

    Args:
        cores: that may be used; with fewer than two nothing is pinned.
    """

    def __init__(self, cores: Iterable[int]) -> None:
        self._cores = sorted(cores)

    @property
    def gateway_core(self) -> int | None:
        """The gateways' core; None if nothing is pinned."""
        return self._cores[0] if len(self._cores) > 1 else None

    @property
    def ends_core(self) -> int | None:
        """Everybody else's core; None if nothing is pinned."""
        return self._cores[1] if len(self._cores) > 1 else None

    def gateways(self, pids: Iterable[int]) -> None:
        """Put gateways, with all their threads and children, on their core.

        What they start later goes there by itself.
        """
        if self.gateway_core is not None:
            for pid in family(pids):
                _put(pid, self.gateway_core)


def _put(pid: int, core: int) -> None:
    """Pin each thread of a process: sched_setaffinity(2) is about one."""
    try:
        threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return  # it ended just now
    for thread in threads:
        try:
            os.sched_setaffinity(thread, {core})
        except ProcessLookupError:
            pass  # it ended just now


@contextmanager
def pinned(book: Notebook) -> Iterator[Pins]:
    """Pin ourselves, and so whatever we start, to the core of the ends; say so in the notes."""
    before = os.sched_getaffinity(0)
    pins = Pins(before)
    if pins.ends_core is None:
        book.note("Nothing is pinned: there is one core.")
    else:
        os.sched_setaffinity(0, {pins.ends_core})
        book.note(
            "Pinned (sched_setaffinity): every contestant's gateway to one core, its operator's "
            "and its device's ends to another."
        )
    try:
        yield pins
    finally:
        os.sched_setaffinity(0, before)
