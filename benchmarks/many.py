"""One command on many devices: devices a second, and what it costs the gateway and the operator."""

from __future__ import annotations

import json
import sys
import time

from benchmarks import proc
from benchmarks.grown import Grown, run_alone, sizes_of
from benchmarks.notebook import Goal, Notebook

TITLE = "one command on many devices"
#: How many devices are under way at a time; all of them, as far as an operator's link may.
AT_ONCE = 5_000
ALONG = "devices"
#: A gateway is at rest that uses less than this share of a core between two looks: heartbeats of
#: 5,000 devices are 5 %.  It is not waited for any longer than that many looks.
LOOK_SECONDS, AT_REST, MOST_LOOKS = 0.1, 0.15, 100


def sizes(book: Notebook) -> tuple[int, ...]:
    """Return at which sizes of the fleet this looks."""
    return sizes_of(book, (5_000,), (200,))


def visit(book: Notebook, grown: Grown, count: int) -> None:
    """Call ``noop`` once on each of some devices, all numbers of them in turn."""
    some = sorted({min(count, one) for one in (100, 1_000, count)})
    for _ in book.rounds():
        for one in some:
            _once(book, grown, one)
    book.note("A no-op of simulated devices; each is judged, audited and routed as any command.")
    book.note(f"{count:,} devices are live, however many of them the command is for.")
    book.note("The simulated devices run on the same machine and take processor time themselves.")


def _once(book: Notebook, grown: Grown, count: int) -> None:
    operator, gateway = grown.operator, grown.site.gateway_pid
    before = proc.busy_seconds(gateway), proc.busy_seconds(operator.pid)
    asked = {"do": "many", "prefix": "sim-", "count": count, "at_once": AT_ONCE}
    told = operator.ask(json.dumps(asked))
    if told["statuses"] != {"ok": count}:
        raise OSError(f"not all were done: {told['statuses']}")
    goal = Goal(2_500, at_most=False) if count >= 1_000 else None
    _settle(gateway)  # ends are written after their outcomes were passed on: a part of it, too
    rate = count / told["seconds"]
    book.add("no-op on devices", rate, "devices/s", at=count, along=ALONG, goal=goal)
    used = (proc.busy_seconds(gateway) - before[0]) / count * 1000
    book.add("gateway's processor time a device", used, "ms", at=count, along=ALONG)
    used = (proc.busy_seconds(operator.pid) - before[1]) / count * 1000
    book.add("operator's processor time a device", used, "ms", at=count, along=ALONG)


def _settle(gateway: int) -> None:
    """Wait until the gateway has done what it had put off."""
    used = proc.busy_seconds(gateway)
    for _ in range(MOST_LOOKS):
        time.sleep(LOOK_SECONDS)
        before, used = used, proc.busy_seconds(gateway)
        if used - before < LOOK_SECONDS * AT_REST:
            return


if __name__ == "__main__":
    sys.exit(run_alone("many"))
