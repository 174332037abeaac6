"""How long `rshell devices` and selectors take with 100 to 100,000 devices in the store."""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import UTC, datetime

from benchmarks.fleet_keys import store_rows
from benchmarks.notebook import Notebook
from benchmarks.program import main
from benchmarks.site import Site
from benchmarks.stopwatch import run_ms
from rshell.gateway.home import prepare_home
from tests.functional.processes import environment

TITLE = "listings and selectors against the number of devices known"
ALONG = "devices known"
SELECTORS = {
    "all devices": "*",
    "one device by name": "sim-7",
    "a tenth by label": "site=s3",
    "a tenth by label and glob": "site=s3,sim-*",
    "none": "site=nowhere",
}


def _fill(site: Site, first: int, last: int) -> None:
    """Put rows into the store; these devices can never connect, and need no key."""
    home = prepare_home(site.home, ("localhost", "127.0.0.1"))
    rows = [(str(uuid.uuid4()), os.urandom(32)) for _ in range(first, last)]
    store_rows(home.database, rows, first, datetime.now(UTC))


def _one_size(book: Notebook, site: Site, count: int) -> None:
    site.start_gateway()
    operator = site.operator()
    command = site.cli("devices", "--json")
    for _ in book.rounds():
        for name, selector in SELECTORS.items():
            asked = {"do": "devices", "selector": selector, "count": 1}
            taken = operator.ask(json.dumps(asked))["ms"][0]
            book.add(f"selector: {name}, over an open link", taken, "ms", at=count, along=ALONG)
        before = site.gateway_cpu()
        taken = run_ms(command, environment(site.base), site.base)
        book.add("`rshell devices --json`, cold", taken, "ms", at=count, along=ALONG)
        used = (site.gateway_cpu() - before) * 1000
        book.add("gateway's processor time of that", used, "ms", at=count, along=ALONG)
    memory = site.gateway_memory().rss / 1024
    book.add("gateway's memory after it", memory, "MB", at=count, along=ALONG)
    site.kill_gateway()


def measure(book: Notebook) -> None:
    """Fill the store step by step; list at each."""
    sizes = (100, 1_000, 10_000, 100_000) if not book.quick else (100, 1_000)
    with Site() as site:
        known = 0
        for count in sizes:
            _fill(site, known, count)
            known = count
            _one_size(book, site, count)
    book.note("No device is connected; the rows are as of devices that have joined.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "listing"))
