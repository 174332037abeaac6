"""A gateway against the number of its live devices: memory, and what doing nothing costs."""

from __future__ import annotations

import sys
import time

from benchmarks import proc
from benchmarks.grown import Grown, run_alone, sizes_of
from benchmarks.notebook import Goal, Notebook
from benchmarks.site import Site

TITLE = "memory and heartbeats against live devices"
ALONG = "live devices"
MEMORY = "gateway's memory an idle live device"
KERNEL = "kernel's memory a connection, one end"
IDLE = "gateway's processor use, fleet idle"
#: A window: so many heartbeats come in it that one more or less says nothing.
IDLE_SECONDS = 8


def sizes(book: Notebook) -> tuple[int, ...]:
    """Return at which sizes of the fleet this looks."""
    return sizes_of(book, (1_000, 5_000, 20_000), (100, 200))


def visit(book: Notebook, grown: Grown, count: int) -> None:
    """Look at an idle fleet, window by window."""
    pid = grown.site.gateway_pid
    for _ in book.rounds(warm_up=False):  # that it settled was the warm-up
        before, began = proc.busy_seconds(pid), time.monotonic()
        Site.rest(book.size(IDLE_SECONDS, 2))
        share = (proc.busy_seconds(pid) - before) / (time.monotonic() - began) * 100
        goal = Goal(3) if count == 5_000 else None
        book.add(IDLE, share, "% of a core", goal=goal, at=count, along=ALONG)
        goal = Goal(40) if count >= 1_000 else None
        book.add(MEMORY, grown.memory_kb(), "KB", goal=goal, at=count, along=ALONG)
        book.add(KERNEL, grown.kernel_kb(), "KB", at=count, along=ALONG)
    book.note(
        "One gateway whose fleet grows; a sample is a window of "
        f"{IDLE_SECONDS} s at that size. `comeback` has the memory of gateways that start anew."
    )
    book.note(
        "The gateway's memory is what the process has allocated (Pss_Anon) above what it had "
        "before the first device came, divided by the devices; the kernel's is the growth of Slab "
        "(/proc/meminfo), whatever else grew included, and is not in the gateway's."
    )
    book.note("The simulated devices share the machine's cores with the gateway.")


if __name__ == "__main__":
    sys.exit(run_alone("fleet_size"))
