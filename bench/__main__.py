"""``python -m bench [SECTION…]``: run sections, print them, fail if a goal is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Final

from bench import fairness, storm
from bench.report import Report

__all__ = ["SECTIONS", "main"]

SECTIONS: Final[dict[str, Callable[[], Report]]] = {
    "fairness": fairness.run,
    "storm": storm.run,
}


def main(arguments: list[str]) -> int:
    """Run; return the exit status: 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    wanted = parser.parse_args(arguments).sections or list(SECTIONS)
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}")
    held = True
    for name in wanted:
        report = SECTIONS[name]()
        sys.stdout.write(report.text() + "\n")
        sys.stdout.flush()
        held = held and report.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
