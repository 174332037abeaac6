"""The blocks of docs/handlers.md, and how what a console block shows is compared with what came."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import attrs

__all__ = ["EXAMPLE", "PAGE", "Command", "blocks", "files", "matches", "sessions"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "handlers.md"
EXAMPLE = ROOT / "examples" / "handler-diskusage"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RUN = re.compile(r"^<!-- run ?(.*?) -->\n```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@attrs.frozen
class Command:
    """One line behind a prompt, and what it shall print; ``...`` stands for anything."""

    line: str
    expected: str


def blocks(language: str) -> list[str]:
    """Return all blocks of a language."""
    return [text for found, text in _BLOCK.findall(PAGE.read_text()) if found == language]


def files() -> dict[str, str]:
    """Return the files that the page shows, by their path in the example."""
    return dict(_FILE.findall(PAGE.read_text()))


def sessions(where: str) -> list[list[Command]]:
    """Return the console blocks that are marked to be run there."""
    found = []
    for marked, text in _RUN.findall(PAGE.read_text()):
        if marked == where:
            parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
            found.append([Command(*part.partition("\n")[::2]) for part in parts])
    return found


def matches(command: Command, got: str) -> bool:
    """Whether a command printed what the page shows."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(command.expected, got, flags)
