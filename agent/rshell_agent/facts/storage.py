"""File systems that hold data, with their size and what is free.

Network file systems are left out: asking one whose server is away blocks for minutes.  So are
those without a device behind them (tmpfs, proc, …), but for the root and a few real ones.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

__all__ = ["MAX_DISKS", "disks"]

#: A device with more has its data elsewhere; the rest is left out.
MAX_DISKS = 16
#: Lines of a mount table that are looked at; containers' hosts have hundreds.
MAX_MOUNTS = 4_096
#: The kernel calls these "nodev", and they hold data.
_REAL = frozenset({"bcachefs", "ubifs", "zfs"})
#: Images, always full: nobody wants to hear of them, except as the root.
_IMAGES = frozenset({"cramfs", "erofs", "iso9660", "romfs", "squashfs", "udf"})
#: May block for as long as their servers are away, even as the root.
_REMOTE = frozenset({"9p", "afs", "ceph", "cifs", "glusterfs", "nfs", "nfs4", "smb3", "smbfs"})
_OCTAL = re.compile(r"\\([0-7]{3})")


def disks(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Return the file systems: ``mount``, ``device``, ``type``, ``size_bytes``, ``free_bytes``.

    ``free_bytes`` is what others than root may still fill.  ``read_only`` is told where it is so.
    """
    nodev = _nodev(root)
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    for device, mount, kind, options in _mounts(root):
        if len(found) == MAX_DISKS:
            break
        if not _holds_data(mount, kind, nodev):
            continue
        try:
            number = os.stat(mount).st_dev
            figures = os.statvfs(mount)
        except (OSError, ValueError):
            continue
        if number in seen or not figures.f_blocks:
            continue  # a bind mount of what was seen, or nothing at all
        seen.add(number)
        entry: dict[str, Any] = {
            "mount": mount,
            "device": device,
            "type": kind,
            "size_bytes": figures.f_blocks * figures.f_frsize,
            "free_bytes": figures.f_bavail * figures.f_frsize,
        }
        if "ro" in options:
            entry["read_only"] = True
        found.append(entry)
    return found


def _holds_data(mount: str, kind: str, nodev: frozenset[str]) -> bool:
    if kind in _REMOTE or kind.startswith("fuse"):
        return False
    if mount == "/":
        return True
    return kind in _REAL or kind not in (nodev | _IMAGES)


def _nodev(root: Path) -> frozenset[str]:
    try:
        lines = (root / "proc/filesystems").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return frozenset(line.split()[1] for line in lines if line.startswith("nodev\t"))


def _mounts(root: Path) -> list[tuple[str, str, str, list[str]]]:
    """Return (device, mount point, type, options), the root first, short paths before long."""
    try:
        text = (root / "proc/self/mounts").read_text(errors="surrogateescape")
    except OSError:
        return []
    rows = []
    for line in text.splitlines()[:MAX_MOUNTS]:
        words = line.split(" ")
        if len(words) >= 4:
            device, mount = (_unescaped(word) for word in words[:2])
            rows.append((device, mount, words[2], words[3].split(",")))
    return sorted(rows, key=lambda row: (len(row[1]), row[1]))


def _unescaped(word: str) -> str:
    """Resolve what getmntent(3) escapes: blanks and backslashes, as octal."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
