"""How long `rshell devices` and selectors take with 100 to 100,000 devices in the store."""

from __future__ import annotations

import json
import sys

from benchmarks import proc
from benchmarks.notebook import Notebook
from benchmarks.program import main
from benchmarks.site import Child, Site
from benchmarks.stopwatch import run_ms
from tests.functional.processes import environment

TITLE = "listings and selectors against the number of devices known"
ALONG = "devices known"
CLI = "`rshell devices --json`"
#: From so many on a listing takes seconds: the warm-up asks for one device, and all are listed
#: by the command only.
LARGE = 100_000
SELECTORS = {
    "all devices": "*",
    "one device by name": "sim-7",
    "a tenth by label": "site=s3",
    "a tenth by label and glob": "site=s3,sim-*",
    "none": "site=nowhere",
}


def _select(
    book: Notebook, site: Site, operator: Child, count: int, name: str, selector: str
) -> None:
    asked = {"do": "devices", "selector": selector, "count": 1}
    before = proc.busy_seconds(site.gateway_pid)
    taken = operator.ask(json.dumps(asked))["ms"][0]
    used = (proc.busy_seconds(site.gateway_pid) - before) * 1000
    title = f"selector: {name}"
    book.add(f"{title}, over an open link", taken, "ms", at=count, along=ALONG)
    book.add(f"{title}: gateway's processor time", used, "ms", at=count, along=ALONG)


def _list(book: Notebook, site: Site, count: int) -> None:
    before = proc.busy_seconds(site.gateway_pid)
    taken = run_ms(site.cli("devices", "--json"), environment(site.base), site.base)
    used = (proc.busy_seconds(site.gateway_pid) - before) * 1000
    book.add(f"{CLI}, cold", taken, "ms", at=count, along=ALONG)
    book.add(f"{CLI}: gateway's processor time", used, "ms", at=count, along=ALONG)
    memory = site.gateway_memory().rss / 1024
    book.add("gateway's memory after it", memory, "MB", at=count, along=ALONG)


def _one_size(book: Notebook, site: Site, count: int) -> None:
    site.start_gateway()
    operator = site.operator()
    for number in book.rounds():
        if number == 0 and count >= LARGE:
            operator.ask(json.dumps({"do": "devices", "selector": "sim-7", "count": 5}))
            continue
        for name, selector in SELECTORS.items():
            if selector == "*" and count >= LARGE:
                continue  # the command does the same
            _select(book, site, operator, count, name, selector)
        _list(book, site, count)
    site.end_operators()
    site.kill_gateway()


def measure(book: Notebook) -> None:
    """Fill the store step by step; list at each."""
    sizes = (100, 1_000, 10_000, 100_000) if not book.quick else (100, 1_000)
    with Site() as site:
        known = 0
        for count in sizes:
            site.fill(known, count)
            known = count
            _one_size(book, site, count)
    book.note("No device is connected; the rows are as of devices that have joined.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "listing"))
