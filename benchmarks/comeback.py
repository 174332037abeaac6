"""The gateway is killed with SIGKILL and started again: how long until its fleet is back?"""

from __future__ import annotations

import sys
import time

from benchmarks import proc
from benchmarks.grown import SETTLE_SECONDS, SPREAD_RATE
from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site, most_devices
from benchmarks.summary import quantile

TITLE = "a fleet returns after SIGKILL of its gateway"
ALONG = "devices"
#: Until the gateway has told everybody over how long to spread a return (rule L4), and until what
#: a device tells after its WELCOME is told.
REST_SECONDS = 12
#: A link of 60 s resets a device's back-off (rule C6): devices are made to believe in so much.
AGE_SECONDS = 65
LIMIT_SECONDS = 300
#: Shares of the fleet of which it is told when they were back, for the curve.
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def _strike(book: Notebook, site: Site, count: int, empty_kb: float) -> None:
    site.age_crowd(AGE_SECONDS)
    for child in site.crowd:
        child.ask("story")  # what was before does not count
    devices = sum(child.ask("times")["cpu_seconds"] for child in site.crowd)
    killed = time.monotonic()
    site.kill_gateway()
    site.restart_gateway()
    listening = time.monotonic() - killed
    site.wait_crowd(count, LIMIT_SECONDS, killed)
    used = proc.busy_seconds(site.gateway_pid)
    stories = [child.ask("story") for child in site.crowd]
    devices = sum(child.ask("times")["cpu_seconds"] for child in site.crowd) - devices
    back = [at - killed for story in stories for at in story["welcomed"] if at is not None]
    for name, value, unit, goal in (
        ("back after SIGKILL, all", max(back), "s", Goal(30) if count >= 10_000 else None),
        ("back after SIGKILL, 99 %", quantile(back, 0.99), "s", None),
        ("back after SIGKILL, half", quantile(back, 0.5), "s", None),
        ("of that, until the gateway listens", listening, "s", None),
        ("dials a device needed", sum(s["dials"] for s in stories) / count, "dials", None),
        ("gateway's processor time a device", used / count * 1000, "ms", None),
        ("devices' processor time a device", devices / count * 1000, "ms", None),
    ):
        book.add(name, value, unit, goal=goal, at=count, along=ALONG)
    for share in SHARES:
        title = f"seconds until this share of {count:,} devices is back"
        book.add(title, quantile(back, share), "s", at=share * 100, along="% of the fleet")
    Site.rest(book.size(REST_SECONDS, 1))
    grown = (site.gateway_memory().own - empty_kb) / count
    book.add("gateway's memory a device, after the return", grown, "KB", at=count, along=ALONG)


def measure(book: Notebook) -> None:
    """Kill, start again, wait; with fleets of two sizes."""
    wanted = (2_000, 10_000) if not book.quick else (100,)
    sizes = sorted({most_devices(min(book.most, count)) for count in wanted})
    with Site() as site:
        site.enrol_crowd(sizes[-1])
        site.start_gateway()
        site.start_crowd()
        Site.rest(book.size(3, 1))
        empty_kb = site.gateway_memory().own
        known = 0
        for count in sizes:
            site.grow_crowd(count, (count - known) / SPREAD_RATE)
            known = count
            Site.rest(book.size(SETTLE_SECONDS, 1))
            # A new process each time; that the fleet grew was the devices' warm-up.
            for _ in book.rounds(warm_up=False):
                _strike(book, site, count, empty_kb)
    book.note(
        f"The devices' clocks are moved on by {AGE_SECONDS} s before each kill, so that their "
        "back-off is that of links which lasted a minute; all else is in real time."
    )
    book.note("Processor time is from the start of the new gateway until its last device is back.")
    book.note(
        f"Memory: {REST_SECONDS} s later, above what the first gateway had when nobody was live."
    )
    book.note("The devices' processes share the machine's cores with the gateway.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "comeback"))
