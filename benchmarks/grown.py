"""One fleet that grows step by step, and the measurements that look at it at each size.

Growing 20,000 devices takes longer than most that is measured of them, so sections that need
many live devices share one fleet.  Each is a module with ``TITLE``, ``sizes(book)`` and
``visit(book, grown, count)``; run alone it has a fleet of its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from benchmarks import proc
from benchmarks.machine import descriptors
from benchmarks.notebook import Notebook
from benchmarks.site import Child, Site, most_devices

__all__ = ["DEVICE", "SETTLE_SECONDS", "Done", "Grown", "run_alone", "sizes_of", "walk"]

#: A real device among the simulated ones: with a keeper, and a terminal that is typed at.
DEVICE = "bench-real"
#: Facts and flight records are told by then, and the longest heartbeat has come.
SETTLE_SECONDS = 20
#: So many dial at once and are all served before the first gives up; more come so many a second.
BURST, SPREAD_RATE = 1_000, 300


class Grown:
    """A gateway, a fleet of simulated devices that grows, a real device, and an operator.

    Args:
        site: gateway and devices, none of which dials yet.
        operator: has a terminal of the real device open.
        empty_kb: what the gateway had allocated before the first simulated device came.
        slab_kb: what the kernel had allocated then.

    Attributes:
        count: how many simulated devices are live.
    """

    def __init__(self, site: Site, operator: Child, empty_kb: float, slab_kb: float) -> None:
        self.site = site
        self.operator = operator
        self._empty_kb = empty_kb
        self._slab_kb = slab_kb
        self.count = 0

    def grow(self, count: int) -> tuple[float, bool]:
        """Let the fleet grow; return the seconds it took, and whether all dialled at once."""
        new = count - self.count
        at_once = new <= BURST
        seconds = self.site.grow_crowd(count, 0.0 if at_once else new / SPREAD_RATE)
        self.count = count
        return seconds, at_once

    def memory_kb(self) -> float:
        """Return what the gateway has allocated for each live device."""
        return (self.site.gateway_memory().own - self._empty_kb) / max(1, self.count)

    def kernel_kb(self) -> float:
        """Return what the kernel has allocated for each connection's gateway end.

        Both ends are on this machine, so it is half of what a device added.
        """
        return (proc.slab_kb() - self._slab_kb) / max(1, self.count) / 2

    def type(self, keys: int, pause_seconds: float) -> list[float]:
        """Type at the real device; return the milliseconds of each key."""
        asked = {"do": "type", "keys": keys, "pause": pause_seconds}
        taken: list[float] = self.operator.ask(json.dumps(asked))["ms"]
        return taken


def _modules(books: Mapping[str, Notebook]) -> dict[str, Any]:
    return {name: importlib.import_module(f"benchmarks.{name}") for name in books}


def _sizes(modules: Mapping[str, Any], books: Mapping[str, Notebook]) -> dict[int, list[str]]:
    """Return which sections look at the fleet at which size."""
    wanted: dict[int, list[str]] = {}
    for name, module in modules.items():
        for size in module.sizes(books[name]):
            at = most_devices(size)
            if at < size:
                books[name].note(
                    f"{at:,} devices at most: a process may open {descriptors():,} descriptors "
                    "here (`ulimit -Hn`), of which the gateway keeps a tenth free."
                )
            wanted.setdefault(at, []).append(name)
    return dict(sorted(wanted.items()))


@attrs.frozen
class Done:
    """A section that needs to see no more.

    Attributes:
        name: of the section.
        error: why it broke off; None if it is complete.
    """

    name: str
    error: Exception | None = None


def walk(books: Mapping[str, Notebook], say: Callable[[str], None]) -> Iterator[Done]:
    """Grow a fleet; yield each section as soon as it is complete or has broken off.

    Args:
        books: by section, in the order in which they look at each size.
        say: tells whoever waits what happens now.
    """
    modules = _modules(books)
    sizes = _sizes(modules, books)
    largest = max(sizes)
    with Site() as site:
        say(f"keys of {largest:,} simulated devices")
        grown = _new(site, largest)
        left = {name: [size for size in sizes if name in sizes[size]] for name in books}
        for size in sizes:
            if size > grown.count:
                say(f"the fleet grows to {size:,}")
                grown.grow(size)
                Site.rest(SETTLE_SECONDS if size >= BURST else 1)
            for name in [name for name in books if size in left.get(name, ())]:
                books[name].say(f"at {size:,} devices")
                try:
                    modules[name].visit(books[name], grown, size)
                except Exception as error:  # the others can still be measured
                    del left[name]
                    yield Done(name, error)
                    continue
                left[name].remove(size)
                if not left[name]:
                    yield Done(name)


def _new(site: Site, largest: int) -> Grown:
    """Return a fleet of which nobody is live yet but a real device."""
    site.enrol_crowd(largest)
    site.start_gateway()
    site.add(DEVICE)
    site.start_crowd()
    operator = site.operator()
    operator.ask(json.dumps({"do": "terminal", "device": DEVICE}))
    Site.rest(5 if largest >= BURST else 1)
    return Grown(site, operator, site.gateway_memory().own, proc.slab_kb())


def run_alone(name: str) -> int:
    """Be the program of one section that needs such a fleet."""
    from benchmarks.program import main  # it imports us

    return main(sys.argv[1:], name)


def sizes_of(book: Notebook, full: Sequence[int], quick: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes at which a section looks, as far as the largest that is wanted allows."""
    return tuple(sorted({min(size, book.most) for size in (quick if book.quick else full)}))
