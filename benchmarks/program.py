"""Running measurements: their common options, and where their results go.

Every measurement is a module with ``TITLE`` and ``measure(book)``, and can be run alone, as in
``python -m benchmarks.echo --quick``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks.machine import ROOT, describe_machine
from benchmarks.notebook import Notebook
from benchmarks.plots import draw
from benchmarks.results import section_of, write_results
from benchmarks.summary import summarise
from benchmarks.tables import text_section

__all__ = ["SECTIONS", "main"]

#: In the order in which they run: short ones first.
SECTIONS = (
    "startup",
    "device",
    "command",
    "echo",
    "bulk",
    "audit",
    "listing",
    "many",
    "fleet_size",
    "comeback",
    "fairness",
    "soak",
)


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
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds after the warm-up")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="for results.json, results.md and plots (default: benchmarks and docs/plots; "
        "with --quick nothing is written)",
    )  # fmt: skip
    return parser


def _measure(name: str, quick: bool, repeats: int | None) -> Notebook:
    module = importlib.import_module(f"benchmarks.{name}")
    book = Notebook(name, module.TITLE, quick=quick, repeats=repeats)
    module.measure(book)
    return book


def main(arguments: list[str], only: str = "") -> int:
    """Run sections; return the exit status: 1 if one failed or, in a full run, missed a goal.

    Args:
        arguments: of the command line.
        only: the one section of the module that was called.
    """
    parser = _options(only)
    given = parser.parse_args(arguments)
    wanted = [only] if only else (given.sections or list(SECTIONS))
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}")
    if given.repeats is not None and given.repeats < 1:
        parser.error("--repeats: at least 1")
    out = given.out or (None if given.quick else ROOT / "benchmarks")
    plots = ROOT / "docs" / "plots" if given.out is None else given.out / "plots"
    held, failed = True, False
    for name in wanted:
        machine = describe_machine(quick=given.quick)
        if machine["load_before"] > QUIET_LOAD * machine["cores"]:
            sys.stderr.write(f"{name}: other work runs here, load {machine['load_before']:.1f}\n")
        try:
            book = _measure(name, given.quick, given.repeats)
        except KeyboardInterrupt:
            sys.stderr.write(f"{name}: stopped; sections that had ended are kept\n")
            return 130
        except Exception:  # the others can still be measured; the status tells
            traceback.print_exc()
            sys.stderr.write(f"{name}: failed, see above\n")
            failed = True
            continue
        sys.stdout.write(text_section(book) + "\n")
        sys.stdout.flush()
        held = held and _held(book)
        if out is not None:
            # at once: a run of an hour that is broken off has measured something
            written = write_results(out, [section_of(book, machine)])
            if draw(written, plots) is None:
                sys.stderr.write("no plots: matplotlib is not installed (the extra `bench`)\n")
    return 1 if failed or not (held or given.quick) else 0


def _held(book: Notebook) -> bool:
    return all(
        figure.goal is None or figure.goal.held_by(summarise(figure.samples).median)
        for figure in book.figures
        if figure.samples
    )
