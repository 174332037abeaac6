"""How long a keystroke takes with thousands of other devices live."""

from __future__ import annotations

import sys

from benchmarks.echo import PAUSE_SECONDS, tell
from benchmarks.grown import Grown, run_alone, sizes_of
from benchmarks.notebook import OURS, Goal, Notebook

TITLE = "keystroke echo against the number of other devices"


def sizes(book: Notebook) -> tuple[int, ...]:
    """Return at which sizes of the fleet this looks."""
    return (0, *sizes_of(book, (1_000, 5_000, 20_000), (200,)))


def visit(book: Notebook, grown: Grown, count: int) -> None:
    """Type at a device among ``count`` others."""
    keys = book.size(300, 30)
    for _ in book.rounds():
        goals = {"p99": Goal(10.0)} if count else {}
        tell(book, "echo among others", OURS, grown.type(keys, PAUSE_SECONDS), goals, count)
    book.note(
        f"A round is {keys} keys, each {PAUSE_SECONDS * 1000:g} ms after the echo of the one "
        "before; its median and 99th percentile are one sample each."
    )
    book.note(
        "Nothing is pinned, and the simulated devices run on the same machine and take "
        "processor time themselves: what a larger fleet adds is theirs, too."
    )


if __name__ == "__main__":
    sys.exit(run_alone("echo_fleet"))
