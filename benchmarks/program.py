"""Running measurements: their common options, their order, and where their results go.

Every measurement is a module with ``TITLE``; it can be run alone, as in
``python -m benchmarks.echo --quick``.  Most have ``measure(book)``; those of
`benchmarks.schedule.GROWN` share one fleet and have ``visit`` (`benchmarks.grown`).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from benchmarks.grown import Done, walk
from benchmarks.machine import ROOT, describe_machine
from benchmarks.notebook import Notebook
from benchmarks.pages import write_pages
from benchmarks.plots import draw
from benchmarks.results import section_of, write_results
from benchmarks.schedule import GROWN, SECONDS, SECTIONS, clock, in_order, plan
from benchmarks.summary import summarise
from benchmarks.tables import text_section

__all__ = ["main"]

#: A share of the cores: with more other work than this, figures say more of that than of us.
QUIET_LOAD = 0.25


def _options(only: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks{f'.{only}' if only else ''}",
        description="Measure; print medians, spreads and ratios; write results.json and plots.",
    )
    if not only:
        parser.add_argument(
            "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}"
        )
    parser.add_argument("--quick", action="store_true", help="small: shows that the script works")
    parser.add_argument("--repeats", type=_count, metavar="N", help="rounds after the warm-up")
    parser.add_argument(
        "--devices", type=_count, metavar="N", help="no fleet larger than this (default: 20000)"
    )
    parser.add_argument("--minutes", type=_count, metavar="N", help="of the soak (default: 10)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="for results.json, results.md and plots (default: benchmarks and docs/plots; with "
        "--quick, --repeats, --devices or --minutes nothing is written)",
    )  # fmt: skip
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


@attrs.define
class _Run:
    """One call of this program.

    Attributes:
        given: its options.
        failed: sections that broke off.
        missed: sections that missed a goal.
    """

    given: argparse.Namespace
    failed: list[str] = attrs.Factory(list)
    missed: list[str] = attrs.Factory(list)

    @property
    def full(self) -> bool:
        """Tell whether sizes and repeats are those that figures may be quoted from."""
        given = self.given
        return not (given.quick or given.repeats or given.devices or given.minutes)

    def book(self, name: str) -> Notebook:
        """Return an empty notebook for a section."""
        given = self.given
        return Notebook(
            name,
            importlib.import_module(f"benchmarks.{name}").TITLE,
            quick=given.quick,
            repeats=given.repeats,
            most=given.devices,
            minutes=given.minutes,
        )

    def finish(self, book: Notebook, machine: dict[str, Any], seconds: float) -> None:
        """Print a section's table, and write it down at once: a run may be broken off later."""
        book.seconds = seconds
        sys.stdout.write(text_section(book) + "\n")
        sys.stdout.flush()
        if not _held(book):
            self.missed.append(book.section)
        out = self.given.out or (ROOT / "benchmarks" if self.full else None)
        if out is not None:
            plots = ROOT / "docs" / "plots" if self.given.out is None else out / "plots"
            written = write_results(out, [section_of(book, machine)])
            if draw(written, plots) is None:
                book.say("no plots: matplotlib is not installed (the extra `bench`)")
            if self.given.out is None:
                write_pages(ROOT, written)

    def fail(self, name: str, error: Exception) -> None:
        """Say why a section broke off; the others can still be measured."""
        traceback.print_exception(error)
        _say(f"{name}: failed, see above")
        self.failed.append(name)


def main(arguments: list[str], only: str = "") -> int:
    """Run sections; return the exit status: 1 if one failed or, in a full run, missed a goal.

    Args:
        arguments: of the command line.
        only: the one section of the module that was called.
    """
    parser = _options(only)
    given = parser.parse_args(arguments)
    wanted = [only] if only else given.sections
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}")
    names = in_order(wanted)
    run = _Run(given)
    if run.full:
        each = ", ".join(f"{name} {clock(SECONDS[name])}" for name in names)
        _say(f"about {clock(plan(names))} min on two quiet cores: {each}")
    began, finished = time.monotonic(), 0
    before = signal.signal(signal.SIGTERM, _interrupt)  # as ^C: gateways are ended, too
    try:
        for _ in _all(run, names):
            finished += 1
            left = f"{finished} of {len(names)} done in {clock(time.monotonic() - began)}"
            _say(left)
    except KeyboardInterrupt:
        _say("stopped; sections that had ended are kept")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    for verdict, which in (("failed", run.failed), ("missed a goal", run.missed)):
        if which and (run.full or which is run.failed):
            _say(f"{verdict}: {', '.join(which)}")
    return 1 if run.failed or (run.missed and run.full) else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    # timeout(1) sends it to its child and to the group: the second one shall not stop the tidying.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _all(run: _Run, names: list[str]) -> Iterator[str]:
    """Run sections; yield each that has ended, well or not."""
    for name in [name for name in names if name not in GROWN]:
        machine, began = _look(name, run), time.monotonic()
        book = run.book(name)
        try:
            importlib.import_module(f"benchmarks.{name}").measure(book)
        except Exception as error:
            run.fail(name, error)
        else:
            run.finish(book, machine, time.monotonic() - began)
        yield name
    if grown := [name for name in names if name in GROWN]:
        yield from _grown(run, grown)


def _grown(run: _Run, names: list[str]) -> Iterator[str]:
    """Run the sections that share a fleet.  A section's time is until it had seen enough."""
    machine, began = _look(names[0], run), time.monotonic()
    books = {name: run.book(name) for name in names}
    left = dict(books)
    try:
        for done in walk(books, lambda text: _say(f"fleet: {text}")):
            book = left.pop(done.name)
            _judge(run, done, book, machine, time.monotonic() - began)
            yield done.name
    except Exception as error:  # the fleet itself: nobody can be measured any more
        for name in left:
            run.fail(name, error)


def _judge(run: _Run, done: Done, book: Notebook, machine: dict[str, Any], seconds: float) -> None:
    if done.error is not None:
        run.fail(done.name, done.error)
    else:
        run.finish(book, machine, seconds)


def _look(name: str, run: _Run) -> dict[str, Any]:
    """Describe the machine as it is before a section."""
    machine = describe_machine(quick=not run.full)
    _say(f"== {name} begins at {machine['date']}")
    if machine["load_before"] > QUIET_LOAD * machine["cores"] and not run.given.quick:
        _say(f"{name}: load {machine['load_before']:.1f}; our own last section's, or other work")
    return machine


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def _held(book: Notebook) -> bool:
    return all(
        figure.goal is None or figure.goal.held_by(summarise(figure.samples).median)
        for figure in book.figures
        if figure.samples
    )
