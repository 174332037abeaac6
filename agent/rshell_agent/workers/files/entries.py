"""What a file is, as an entry of docs/files.md FT12."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable

from rshell_agent.workers.files.fields import b64
from rshell_agent.workers.files.frames import Map

__all__ = ["Names", "entry_of", "identity"]

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
#: A tree may belong to very many users; only so many names are kept.
MAX_NAMES = 4096


class Names:
    """Names of users and groups, each looked up once."""

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def owner(self, uid: int) -> str:
        """Return a user's name, "" if there is none."""
        return _find(self._owners, uid, lambda: pwd.getpwuid(uid).pw_name)

    def group(self, gid: int) -> str:
        """Return a group's name, "" if there is none."""
        return _find(self._groups, gid, lambda: grp.getgrgid(gid).gr_name)


def _find(known: dict[int, str], number: int, look: Callable[[], str]) -> str:
    name = known.get(number)
    if name is None:
        try:
            name = look()
        except (KeyError, OSError):
            name = ""
        if len(known) < MAX_NAMES:
            known[number] = name
    return name


def entry_of(info: os.stat_result, names: Names, path: bytes = b"", target: bytes = b"") -> Map:
    """Return the entry of a file.

    Args:
        info: Of `os.stat`.
        names: Of users and groups.
        path: Relative to what was asked for.
        target: What a link says.
    """
    kind = _KINDS.get(stat.S_IFMT(info.st_mode), "other")
    entry: Map = {
        "path": b64(path),
        "kind": kind,
        "size": info.st_size,
        "mode": stat.S_IMODE(info.st_mode),
        "mtime_ns": info.st_mtime_ns,
        "uid": info.st_uid,
        "gid": info.st_gid,
        "owner": names.owner(info.st_uid),
        "group": names.group(info.st_gid),
        "nlink": info.st_nlink,
        "inode": info.st_ino,
        "dev": info.st_dev,
        "blocks": info.st_blocks,
    }
    if kind == "link":
        entry["target"] = b64(target)
    return entry


def identity(info: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes when a file's content does."""
    return info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns
