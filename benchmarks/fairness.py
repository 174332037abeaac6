"""What a keystroke waits for while a bulk transfer fills the same link.

A device behind a slow link, then an operator behind one; the link is 2 and 20 Mbit/s, with 50 ms
of queue.  Terminal and transfer share one link protocol connection on each hop.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.deployment import DEVICE, Deployment
from benchmarks.network import FAR, GATEWAY, Wire, cannot_shape
from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.summary import quantile

TITLE = "keystroke echo beside a bulk transfer on a slow link"
#: Mbit/s of the link: by how much the 95th percentile may rise under load, ms.
ALLOWED_MS = {2: 100.0, 20: 15.0}


def measure(book: Notebook) -> None:
    """Measure; needs root."""
    reason = cannot_shape()
    if reason:
        book.leave_out("all of it", reason)
        return
    rates = tuple(ALLOWED_MS) if not book.quick else (20,)
    with _before_others(), Wire("cubic") as wire:
        for slow, device_at, operator_at in (
            ("device behind it", FAR, GATEWAY),
            ("operator behind it", GATEWAY, FAR),
        ):
            with Deployment(wire, device_at) as deployment:
                # The typist warms each transfer up itself.
                for _ in book.rounds(warm_up=False):
                    for mbit in rates:
                        wire.shape(mbit)
                        _measure(book, deployment, slow, operator_at, mbit)
                        wire.shape(0)
        book.note(f"Congestion control is {wire.congestion}; 50 ms of queue at each end.")
    book.note("All run at real-time priority, so that other work is not taken for latency.")


@contextmanager
def _before_others() -> Iterator[None]:
    """Run before all else on this machine: its other work would be measured as our latency.

    Children inherit it; the kernel leaves 5 % of the processor to the others (sched(7)).
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _measure(
    book: Notebook, deployment: Deployment, slow: str, operator_at: str, mbit: int
) -> None:
    words = (sys.executable, "-P", "-m", "benchmarks.typist")
    keys = book.size(30, 10)
    arguments = (str(deployment.home), DEVICE, str(keys))
    said = deployment.program(operator_at, *words, *arguments, seconds=300)
    phases: dict[str, Any] = json.loads(said)
    where = f"{mbit} Mbit/s, {slow}"
    idle = quantile(phases["idle"]["ms"], 0.95)
    book.add(f"echo p95, {where}, idle", idle, "ms")
    for direction in ("download", "upload"):
        loaded = quantile(phases[direction]["ms"], 0.95)
        goal = Goal(ALLOWED_MS[mbit])
        book.add(f"echo p95, {where}, {direction}", loaded, "ms")
        book.add(f"rise of p95, {where}, {direction}", loaded - idle, "ms", goal=goal)
        rate = phases[direction]["bytes_per_second"] * 8 / 1e6
        book.add(f"bulk, {where}, {direction}", rate, "Mbit/s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "fairness"))
