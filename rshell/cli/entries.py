"""Entries of a device's directory as lines, as ls shows them, and as JSON.  Pure."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rshell.access.printable import printable
from rshell.cli.visiting import json_path
from rshell.client.files import Entry

__all__ = ["entry_json", "long_lines", "shown_name"]

_TYPES = {"dir": stat.S_IFDIR, "link": stat.S_IFLNK, "file": stat.S_IFREG}
#: Of a time that no calendar has, such as a damaged file system's.
_NO_TIME = "-" * 16


def shown_name(path: bytes) -> str:
    """Return a name without anything that a terminal would act on."""
    return printable(os.fsdecode(path), 4096)


def _mode(entry: Entry) -> str:
    text = stat.filemode(_TYPES.get(entry.kind, 0) | entry.mode)
    return text if entry.kind in _TYPES else "?" + text[1:]


def _time(entry: Entry) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime_ns // 10**9))
    except (OverflowError, ValueError, OSError):
        return _NO_TIME


def long_lines(entries: Sequence[tuple[bytes, Entry]]) -> list[str]:
    """Return a line for each entry, in columns as with ``ls -l``; times are this machine's zone.

    Args:
        entries: With the names to show.
    """
    rows = [
        (
            _mode(entry),
            str(entry.nlink),
            printable(entry.owner or str(entry.uid), 32),
            printable(entry.group or str(entry.gid), 32),
            str(entry.size),
            _time(entry),
            shown_name(name) + (f" -> {shown_name(entry.target)}" if entry.kind == "link" else ""),
        )
        for name, entry in entries
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    lines = []
    for mode, links, owner, group, size, when, name in rows:
        lines.append(
            f"{mode} {links:>{widths[1]}} {owner:<{widths[2]}} {group:<{widths[3]}} "
            f"{size:>{widths[4]}} {when} {name}"
        )
    return lines


def entry_json(device: str | None, path: bytes, entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values.

    Args:
        device: Where it is.
        path: As one may ask for it again.
        entry: What it is.
    """
    shown: dict[str, Any] = {
        "device": device,
        **json_path(path),
        "kind": entry.kind,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime": _rfc3339(entry.mtime_ns),
        "mtime_ns": entry.mtime_ns,
        "uid": entry.uid,
        "gid": entry.gid,
        "owner": entry.owner,
        "group": entry.group,
        "links": entry.nlink,
        "inode": entry.inode,
    }
    if entry.kind == "link":
        shown.update(json_path(entry.target, "target"))
    return shown


def _rfc3339(mtime_ns: int) -> str | None:
    try:
        moment = datetime.fromtimestamp(mtime_ns // 10**9, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
