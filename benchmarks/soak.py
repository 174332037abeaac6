"""A large fleet stays live for ten minutes while somebody works at a shell of one device.

Nothing may get slower or larger meanwhile, and no link may be lost.
"""

from __future__ import annotations

import sys
import time

from benchmarks.grown import Grown, run_alone, sizes_of
from benchmarks.notebook import Goal, Notebook
from benchmarks.summary import quantile

TITLE = "a fleet of 20,000 for ten minutes"
#: Each minute ends with one sample of everything.
MINUTE_SECONDS = 60.0
#: Between keys, after the echo: a person at work.
PAUSE_SECONDS = 0.1


def sizes(book: Notebook) -> tuple[int, ...]:
    """Return at which sizes of the fleet this looks."""
    return sizes_of(book, (20_000,), (200,))


def _minute(book: Notebook, grown: Grown, first_kb: float) -> list[float]:
    """Type for a minute; return what each key took."""
    site = grown.site
    cpu, began = site.gateway_cpu(), time.monotonic()
    taken: list[float] = []
    while time.monotonic() - began < book.size(int(MINUTE_SECONDS), 5):
        taken += grown.type(20, PAUSE_SECONDS)
    seconds = time.monotonic() - began
    book.add("echo, p50", quantile(taken, 0.5), "ms")
    book.add("echo, p99", quantile(taken, 0.99), "ms")
    book.add("echo, longest of a minute", max(taken), "ms")
    grew = (site.gateway_memory().own - first_kb) / first_kb * 100
    book.add("gateway's memory, grown since the start", grew, "%")
    used = (site.gateway_cpu() - cpu) / seconds * 100
    book.add("gateway's processor use", used, "% of a core")
    return taken


def visit(book: Notebook, grown: Grown, count: int) -> None:
    """Let the fleet live."""
    site = grown.site
    for child in site.crowd:
        child.ask("story")  # what was before does not count
    first_kb = site.gateway_memory().own
    taken: list[float] = []
    for minute in range(book.minutes):
        book.say(f"minute {minute + 1} of {book.minutes}")
        taken += _minute(book, grown, first_kb)
    # Over all of it: the median of ten minutes would forgive four bad ones.
    lost = sum(child.ask("story")["losses"] for child in site.crowd)
    grew = (site.gateway_memory().own - first_kb) / first_kb * 100
    book.add("all minutes: echo, p99", quantile(taken, 0.99), "ms", goal=Goal(10))
    book.add("all minutes: links lost", lost, "links", goal=Goal(0))
    book.add("all minutes: gateway's memory, grown", grew, "%", goal=Goal(2))
    live = site.crowd_live()
    book.note(f"{count:,} simulated devices and a real one, whose terminal is typed at.")
    book.note("A sample is a minute; the median of the minutes is told, and their least and most.")
    if live != count:
        raise OSError(f"{live} of {count} devices are live at the end")


if __name__ == "__main__":
    sys.exit(run_alone("soak"))
