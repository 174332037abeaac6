"""results.json and results.md: every raw sample, with the machine and commit of its section.

A section that is measured again replaces its own entry only; each entry says where it comes from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from benchmarks.notebook import Notebook
from benchmarks.tables import markdown_section

__all__ = ["section_of", "write_results"]

_INTRODUCTION = """\
# Measured by `make bench`

Medians of interleaved rounds after a warm-up; every raw sample is in `results.json`. TLS 1.3 with
certificates on both sides, the audit log, flow control, limits and fairness are on in every
measurement of rshell. Compare figures of one section with each other, not with those of another
machine.
"""


def section_of(book: Notebook, machine: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement as results.json has it."""
    return {
        "name": book.section,
        "title": book.title,
        "machine": machine,
        "seconds": round(book.seconds),
        "figures": [attrs.asdict(figure) for figure in book.figures],
        "left_out": dict(book.left_out),
        "notes": list(book.notes),
    }


def write_results(directory: Path, sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add sections to the files in ``directory``; return all that are in them now."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.json"
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        known = {one["name"]: one for one in json.loads(path.read_text())["sections"]}
    known.update({one["name"]: one for one in sections})
    everything = list(known.values())
    path.write_text(json.dumps({"sections": everything}, indent=1) + "\n")
    pages = [_INTRODUCTION, *(markdown_section(one) for one in everything)]
    (directory / "results.md").write_text("\n".join(pages))
    return everything
