"""Section *fairness*: what a keystroke waits for while a bulk transfer fills the same link.

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

import attrs

from bench.deployment import Deployment
from bench.network import FAR, GATEWAY, Wire, cannot_shape
from bench.report import Goal, Report, quantile, table

__all__ = ["run"]

TITLE = "fairness: keystroke echo beside a bulk transfer, ms"
KEYS = 200
#: Mbit/s of the link: by how much the 95th percentile may rise under load, ms.
ALLOWED_MS = {2: 100.0, 20: 15.0}


@attrs.frozen
class _Case:
    """One row: who is behind which link, and which way the bulk goes."""

    slow: str
    mbit: int
    direction: str
    idle: list[float]
    loaded: list[float]
    bytes_per_second: float

    @property
    def rise(self) -> float:
        return quantile(self.loaded, 0.95) - quantile(self.idle, 0.95)

    def cells(self) -> list[str]:
        figures = [quantile(which, q) for which in (self.idle, self.loaded) for q in (0.5, 0.95)]
        rate = f"{self.bytes_per_second * 8 / 1e6:.1f}"
        name = f"{self.slow}, {self.direction}"
        return [
            f"{self.mbit} Mbit/s",
            name,
            *(f"{f:.1f}" for f in figures),
            f"{self.rise:.1f}",
            rate,
        ]


def run(rates: tuple[int, ...] = (2, 20), keys: int = KEYS, congestion: str = "cubic") -> Report:
    """Measure; needs root."""
    reason = cannot_shape()
    if reason:
        return Report(TITLE, skipped=reason)
    cases: list[_Case] = []
    with _before_others(), Wire(congestion) as wire:
        for slow, device_at, operator_at in (
            ("device behind it", FAR, GATEWAY),
            ("operator behind it", GATEWAY, FAR),
        ):
            with Deployment(wire, device_at) as deployment:
                for mbit in rates:
                    wire.shape(mbit)
                    cases += _measure(deployment, slow, operator_at, mbit, keys)
                    wire.shape(0)
        used = wire.congestion
    return _judge(cases, used)


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
    deployment: Deployment, slow: str, operator_at: str, mbit: int, keys: int
) -> list[_Case]:
    words = (sys.executable, "-P", "-m", "bench.typist")
    arguments = (str(deployment.home), deployment.device, str(keys))
    said = deployment.command(operator_at, *words, *arguments, seconds=300)
    phases: dict[str, Any] = json.loads(said)
    return [
        _Case(
            slow,
            mbit,
            direction,
            phases["idle"]["ms"],
            phases[direction]["ms"],
            phases[direction]["bytes_per_second"],
        )
        for direction in ("download", "upload")
    ]


def _judge(cases: list[_Case], congestion: str) -> Report:
    head = ["link", "who, bulk", "idle p50", "p95", "loaded p50", "p95", "p95 rise", "bulk Mbit/s"]
    goals = []
    for mbit, allowed in ALLOWED_MS.items():
        of_rate = [case for case in cases if case.mbit == mbit]
        if of_rate:
            worst = max(case.rise for case in of_rate)
            text = f"at {mbit} Mbit/s the 95th percentile rises by at most {allowed:g} ms"
            goals.append(Goal(text, f"{worst:.1f} ms", worst <= allowed))
    return Report(
        f"{TITLE} (TCP: {congestion})",
        (table(head, [case.cells() for case in cases]),),
        tuple(goals),
    )
