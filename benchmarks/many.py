"""One command on many devices: devices a second, and what it costs the gateway and the operator."""

from __future__ import annotations

import json
import sys

from benchmarks import proc
from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Child, Site

TITLE = "one command on many devices"
#: How many devices are under way at a time; all of them, as far as an operator's link may.
AT_ONCE = 5_000
ALONG = "devices"


def measure(book: Notebook) -> None:
    """Call ``noop`` once on each device of fleets of several sizes."""
    sizes = (100, 1_000, 5_000) if not book.quick else (50, 100)
    with Site() as site:
        site.enrol_crowd(sizes[-1])
        site.start_gateway()
        site.start_crowd()
        site.grow_crowd(sizes[-1], sizes[-1] / 200)
        site.rest(book.size(15, 1))
        operator = site.operator()
        for _ in book.rounds():
            for count in sizes:
                _once(book, site, operator, count)
    book.note("A no-op of simulated devices; each is judged, audited and routed as any command.")
    book.note("The simulated devices run on the same machine and take processor time themselves.")


def _once(book: Notebook, site: Site, operator: Child, count: int) -> None:
    before = site.gateway_cpu(), proc.cpu_of([operator.pid])
    asked = {"do": "many", "prefix": "sim-", "count": count, "at_once": AT_ONCE}
    told = operator.ask(json.dumps(asked))
    if told["statuses"] != {"ok": count}:
        raise OSError(f"not all were done: {told['statuses']}")
    goal = Goal(2_500, at_most=False) if count >= 1_000 else None
    rate = count / told["seconds"]
    book.add("no-op on devices", rate, "devices/s", at=count, along=ALONG, goal=goal)
    used = (site.gateway_cpu() - before[0]) / count * 1000
    book.add("gateway's processor time a device", used, "ms", at=count, along=ALONG)
    used = (proc.cpu_of([operator.pid]) - before[1]) / count * 1000
    book.add("operator's processor time a device", used, "ms", at=count, along=ALONG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "many"))
