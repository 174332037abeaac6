"""How long a gateway takes to start, with few and with many devices in its store.

From the start of the process to the file that says that every door listens.
"""

from __future__ import annotations

import sys
import time

from benchmarks.notebook import Notebook
from benchmarks.program import main
from benchmarks.site import Site

TITLE = "start-up of the gateway"


def measure(book: Notebook) -> None:
    """Start and stop gateways."""
    sizes = (0, 1_000, book.size(20_000, 2_000))
    for count in sizes:
        with Site() as site:
            site.fill(0, count)
            for _ in book.rounds():
                began = time.monotonic()
                site.start_gateway()
                taken = time.monotonic() - began
                book.add("until every door listens", taken, "s", at=count, along="known devices")
                book.add(
                    "processor time of that", site.gateway_cpu(), "s", at=count,
                    along="known devices",
                )  # fmt: skip
                book.add(
                    "memory, nobody connected", site.gateway_memory().rss / 1024, "MB", at=count,
                    along="known devices",
                )  # fmt: skip
                site.kill_gateway()
    book.note("Looked for every 50 ms, so a start is told up to 0.05 s too long.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "startup"))
