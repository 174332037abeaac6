"""A large fleet stays live for ten minutes while somebody works at a shell of one device.

Nothing may get slower or larger meanwhile, and no link may be lost.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Child, Site, most_devices
from benchmarks.summary import quantile

TITLE = "a fleet of 20,000 for ten minutes"
DEVICE = "bench-soak"
#: Ten rounds of a minute; each ends with one sample of everything.
MINUTES, MINUTE_SECONDS = 10, 60.0
#: Between keys, after the echo: a person at work.
PAUSE_SECONDS = 0.1
SPREAD_RATE, SETTLE_SECONDS = 250, 60


def _minute(book: Notebook, site: Site, operator: Child, first: float) -> list[float]:
    """Type for a minute; return what each key took."""
    ask = json.dumps({"do": "type", "keys": 50, "pause": PAUSE_SECONDS})
    cpu, began = site.gateway_cpu(), time.monotonic()
    taken: list[float] = []
    while time.monotonic() - began < book.size(int(MINUTE_SECONDS), 3):
        taken += operator.ask(ask)["ms"]
    seconds = time.monotonic() - began
    book.add("echo, p50", quantile(taken, 0.5), "ms")
    book.add("echo, p99", quantile(taken, 0.99), "ms")
    book.add("echo, longest of a minute", max(taken), "ms")
    grown = (site.gateway_memory().own - first) / first * 100
    book.add("gateway's memory, grown since the first minute", grown, "%")
    used = (site.gateway_cpu() - cpu) / seconds * 100
    book.add("gateway's processor use", used, "% of a core")
    return taken


def measure(book: Notebook) -> None:
    """Let a fleet live."""
    count = most_devices(book.size(20_000, 100))
    with Site() as site:
        site.enrol_crowd(count)
        site.start_gateway()
        site.add(DEVICE)
        site.start_crowd()
        site.grow_crowd(count, count / SPREAD_RATE)
        operator = site.operator()
        operator.ask(json.dumps({"do": "terminal", "device": DEVICE}))
        site.rest(book.size(SETTLE_SECONDS, 1))
        for child in site.crowd:
            child.ask("story")  # what was before does not count
        first = site.gateway_memory().own
        taken: list[float] = []
        for _ in range(book.size(MINUTES, 2)):
            taken += _minute(book, site, operator, first)
        # Over all of it: the median of ten minutes would forgive four bad ones.
        lost = sum(child.ask("story")["losses"] for child in site.crowd)
        grown = (site.gateway_memory().own - first) / first * 100
        book.add("all minutes: echo, p99", quantile(taken, 0.99), "ms", goal=Goal(10))
        book.add("all minutes: links lost", lost, "links", goal=Goal(0))
        book.add("all minutes: gateway's memory, grown", grown, "%", goal=Goal(2))
        if site.crowd_live() != count:
            raise OSError(f"{site.crowd_live()} of {count} devices are live at the end")
    book.note(f"{count:,} simulated devices and a real one, whose terminal is typed at.")
    book.note("A sample is a minute; the median of the minutes is told, and their least and most.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "soak"))
