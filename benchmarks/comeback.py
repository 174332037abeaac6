"""The gateway is killed with SIGKILL and started again: how long until its fleet is back?"""

from __future__ import annotations

import sys
import time

from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site
from benchmarks.summary import quantile

TITLE = "a fleet returns after SIGKILL of its gateway"
ALONG = "devices"
#: A link of 60 s resets a device's back-off (rule C6): sooner, each round would wait for those
#: before it; and the gateway has told everybody how to return (rule L4).
REST_SECONDS = 65


def _strike(book: Notebook, site: Site, count: int) -> None:
    for child in site.crowd:
        child.ask("story")  # what was before does not count
    devices = sum(child.ask("times")["cpu_seconds"] for child in site.crowd)
    killed = time.monotonic()
    site.kill_gateway()
    site.restart_gateway()
    listening = time.monotonic() - killed
    site.wait_crowd(count, 300, killed)
    used = site.gateway_cpu()
    stories = [child.ask("story") for child in site.crowd]
    back = [at - killed for story in stories for at in story["welcomed"] if at is not None]
    for name, value, unit, goal in (
        ("back after SIGKILL, all", max(back), "s", Goal(30) if count >= 10_000 else None),
        ("back after SIGKILL, 99 %", quantile(back, 0.99), "s", None),
        ("back after SIGKILL, half", quantile(back, 0.5), "s", None),
        ("of that, until the gateway listens", listening, "s", None),
        ("dials a device needed", sum(s["dials"] for s in stories) / count, "dials", None),
        ("gateway's processor time a device", used / count * 1000, "ms", None),
        ("devices' processor time a device",
         (sum(c.ask("times")["cpu_seconds"] for c in site.crowd) - devices) / count * 1000,
         "ms", None),
    ):  # fmt: skip
        book.add(name, value, unit, goal=goal, at=count, along=ALONG)


def measure(book: Notebook) -> None:
    """Kill, start again, wait; with fleets of two sizes."""
    for count in (2_000, 10_000) if not book.quick else (100,):
        with Site() as site:
            site.enrol_crowd(count)
            site.start_gateway()
            site.start_crowd()
            site.grow_crowd(count, count / 200)
            for _ in book.rounds():
                site.rest(book.size(REST_SECONDS, 1))
                _strike(book, site, count)
    if book.quick:
        book.note("Killed again before the devices' back-off was reset: each time takes longer.")
    book.note("The devices' processes share the machine's cores with the gateway.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "comeback"))
