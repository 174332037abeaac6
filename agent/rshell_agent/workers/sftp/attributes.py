"""File attributes: from and to the wire, the line that ``ls -l`` shows, and changing them.

Version 3 counts times in whole seconds of 32 bits; what is outside is told as the nearest of them.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.wire import Fields

__all__ = ["NOTHING", "Attributes", "Owners", "apply", "encode", "long_name", "read_attributes"]

SIZE, OWNER, PERMISSIONS, TIMES, EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000
_KNOWN = SIZE | OWNER | PERMISSIONS | TIMES | EXTENDED

_FULL = struct.Struct(">IQIIIII")
#: Attributes of which nothing is known.
NOTHING = wire.u32(0)

#: Names of users and groups that are remembered; a listing asks for few, again and again.
MAX_OWNERS = 1000
#: ``ls -l`` tells the time of day of what is younger than this, and the year of all else.
RECENT_SECONDS = 365 * 86400 // 2
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONTROL = bytes(63 if code < 32 or code == 127 else code for code in range(256))


class Attributes(NamedTuple):
    """What a client wants a file to have; None is left as it is."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None


def read_attributes(fields: Fields) -> Attributes:
    """Read attributes; the extended ones are read over, for none are defined.

    Raises:
        BadPacket: They are cut short, or have fields that version 3 does not know.
    """
    flags = fields.u32()
    if flags & ~_KNOWN:
        raise wire.BadPacket(f"unknown attributes {flags & ~_KNOWN:#x}")
    size = fields.offset() if flags & SIZE else None
    owner = (fields.u32(), fields.u32()) if flags & OWNER else None
    permissions = fields.u32() if flags & PERMISSIONS else None
    times = (fields.u32(), fields.u32()) if flags & TIMES else None
    if flags & EXTENDED:
        for _ in range(fields.u32()):  # ends at the packet's end at the latest
            fields.view()
            fields.view()
    return Attributes(size, owner, permissions, times)


def _seconds(value: int) -> int:
    return min(max(value, 0), 0xFFFFFFFF)


def encode(found: os.stat_result) -> bytes:
    """Build the attributes of a file."""
    return _FULL.pack(
        SIZE | OWNER | PERMISSIONS | TIMES,
        found.st_size,
        found.st_uid & 0xFFFFFFFF,
        found.st_gid & 0xFFFFFFFF,
        found.st_mode,
        _seconds(found.st_atime_ns // 1_000_000_000),
        _seconds(found.st_mtime_ns // 1_000_000_000),
    )


class Owners:
    """Names of users and groups, remembered: a directory service may take its time."""

    def __init__(self) -> None:
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, number: int) -> bytes:
        """Return a user's name, b"" if there is none."""
        return _remember(self._users, number, lambda: pwd.getpwuid(number).pw_name)

    def group(self, number: int) -> bytes:
        """Return a group's name, b"" if there is none."""
        return _remember(self._groups, number, lambda: grp.getgrgid(number).gr_name)


def _remember(known: dict[int, bytes], number: int, find: Callable[[], str]) -> bytes:
    name = known.get(number)
    if name is None:
        try:
            name = os.fsencode(find())
        except (KeyError, OverflowError):  # ids of 32 bits may be none of the system's
            name = b""
        if len(known) < MAX_OWNERS:
            known[number] = name
    return name


def long_name(name: bytes, found: os.stat_result, owners: Owners, now: float) -> bytes:
    """Return a line as of ``ls -l``, in local time, without control characters.

    Args:
        name: The file's.
        found: What is known of it.
        owners: For names of user and group.
        now: Wall clock, seconds since 1970.
    """
    user = owners.user(found.st_uid) or b"%d" % found.st_uid
    group = owners.group(found.st_gid) or b"%d" % found.st_gid
    line = b"%s %3d %-8s %-8s %8d %s %s" % (
        stat.filemode(found.st_mode).encode(),
        found.st_nlink,
        user,
        group,
        found.st_size,
        _when(found.st_mtime_ns // 1_000_000_000, now),
        name,
    )
    return line.translate(_CONTROL)


def _when(seconds: int, now: float) -> bytes:
    try:
        local = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):  # a file system may hold any number
        return b"Jan  1  1970"
    month = _MONTHS[local.tm_mon - 1]
    if now - RECENT_SECONDS <= seconds <= now + 3600:  # an hour ahead: clocks differ
        return f"{month} {local.tm_mday:2d} {local.tm_hour:02d}:{local.tm_min:02d}".encode()
    return f"{month} {local.tm_mday:2d}  {local.tm_year:4d}".encode()


def apply(target: int | bytes, wanted: Attributes, mode_mask: int) -> None:
    """Change a file's attributes: all that is possible, even if one of them is not.

    Args:
        target: An open file, or a path that leads to exactly one inode, so that no link is
            followed: ``/proc/self/fd/N``.
        wanted: What to change.
        mode_mask: The bits of permissions that a client may set.

    Raises:
        OSError: The first thing that was not possible.
    """
    steps: list[Callable[[], None]] = []
    size, owner, permissions, times = wanted
    if size is not None:
        steps.append(lambda: os.truncate(target, size))
    if owner is not None:
        # -1 means unchanged, to chown(2) as to clients that know one of the two only.
        uid, gid = (-1 if number == 0xFFFFFFFF else number for number in owner)
        steps.append(lambda: os.chown(target, uid, gid))
    if permissions is not None:
        # After the owner: changing that clears setuid and setgid.
        steps.append(lambda: os.chmod(target, permissions & mode_mask))
    if times is not None:
        steps.append(lambda: os.utime(target, times))
    first: OSError | None = None
    for step in steps:
        try:
            step()
        except OSError as error:
            first = first or error
    if first is not None:
        raise first
