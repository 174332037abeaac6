"""Names of files: what is safe to create, what a part file is called, how a name is shown."""

from __future__ import annotations

import hashlib
import os
import re
from fnmatch import fnmatchcase

from rshell.access.printable import printable

__all__ = [
    "PART_NAME",
    "UnsafeName",
    "checked_parts",
    "join",
    "last_name",
    "matches",
    "part_name",
    "shown",
    "transfer_id",
]

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
_DOTS = (b".", b"..")
PART_NAME = re.compile(rb"\.rshell-[a-z0-9]{8,32}\.part\Z")


class UnsafeName(ValueError):
    """A device named a file in a way that could lead outside of the destination."""


def checked_parts(path: bytes) -> list[bytes]:
    """Return the components of a path that a device gave, relative to what was asked for.

    Raises:
        UnsafeName: It is absolute, has ``.``, ``..``, an empty component or NUL, or is too long.
    """
    if path == b"":
        return []
    parts = path.split(b"/")
    bad = any(part in (b"", b".", b"..") or len(part) > MAX_NAME_BYTES for part in parts)
    if bad or b"\0" in path or len(path) > MAX_PATH_BYTES:
        raise UnsafeName(f"the device named a file {shown(path)}, which is not created")
    return parts


def matches(pattern: bytes, path: bytes) -> bool:
    """Whether a path that a device found is one that the operator's pattern asks for (FT19).

    The name that a file gets here is its last one: without this a device could answer ``*.log``
    with ``.profile``.
    """
    elsewhere = path.startswith(b"/") != pattern.startswith(b"/")
    if elsewhere or b"\0" in path or len(path) > MAX_PATH_BYTES:
        return False
    wanted, found = ([part for part in one.split(b"/") if part] for one in (pattern, path))
    # Of each beginning of the path, whether the pattern's parts so far match it.
    reached = [True] + [False] * len(found)
    for part in wanted:
        if part == b"**":
            for index, name in enumerate(found):
                reached[index + 1] |= reached[index] and not name.startswith(b".")
            continue
        after = [False]
        for index, name in enumerate(found):
            after.append(reached[index] and _matches_one(part, name))
        reached = after
    return reached[-1]


def _matches_one(pattern: bytes, name: bytes) -> bool:
    if pattern == name:
        return True
    if name in _DOTS or len(name) > MAX_NAME_BYTES:
        return False
    if name.startswith(b".") and not pattern.startswith(b"."):
        return False
    # By characters, or by bytes: the device's own locale decides what a character is.
    return fnmatchcase(os.fsdecode(name), os.fsdecode(pattern)) or fnmatchcase(name, pattern)


def join(*parts: bytes) -> bytes:
    """Join path components; empty ones are left out."""
    return os.path.join(b"", *[part for part in parts if part])


def last_name(path: bytes) -> bytes:
    """Return the name that a source gets within a directory, as cp(1) finds it.

    ``b""`` is for sources that have none of their own (``.``, ``..``, ``/``): their contents go
    into the directory itself.
    """
    name = path.rstrip(b"/").rpartition(b"/")[2]
    return b"" if name in (b"", b".", b"..", b"~") else name


def transfer_id(device: str, destination: bytes, *identity: object) -> str:
    """Return the name of a transfer, the same whenever the same file goes to the same place.

    Args:
        device: Where it comes from or goes to.
        destination: The file that will be.
        identity: What the source is: path, size, times, inode.
    """
    told = repr((device, destination, identity)).encode()
    return hashlib.blake2b(told, digest_size=12).hexdigest()


def part_name(transfer: str) -> bytes:
    """Return what an unfinished file is called, beside its destination."""
    return b".rshell-%s.part" % transfer.encode()


def shown(path: bytes) -> str:
    """Return a path for people: harmless, whatever is in it."""
    return printable(os.fsdecode(path), 300) or "."
