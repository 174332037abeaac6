"""Writing files which must survive a power cut, into directories nobody else can read.

Not a general file library: only what keys and credentials need.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["UnsafeDirectory", "make_private_dir", "sync_dir", "write_atomic"]


class UnsafeDirectory(PermissionError):
    """A directory meant for secrets belongs to somebody else or is open to others."""


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a machine after a power cut, sees all of it or none.

    Writes a temporary file beside it, syncs it, renames it over `path`, syncs the directory.

    Args:
        path: the file to create or replace; its directory must exist.
        data: the whole content.
        mode: the permission bits of the file, set before any byte is written.

    Raises:
        OSError: the file could not be written; `path` is then what it was before.
    """
    # mkstemp creates with 0600 and O_EXCL: no moment at which others can open it
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make renames and removals in a directory durable.

    Raises:
        OSError: the directory could not be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_dir(path: Path) -> Path:
    """Create a directory (and its parents) which only this user can enter, or check it.

    An existing directory is never changed: whoever made it open may have read it already,
    so that is for a person to look at.

    Args:
        path: the directory; a symbolic link is refused.

    Returns:
        The same path.

    Raises:
        UnsafeDirectory: it is another user's, open to group or others, or no real directory.
        OSError: it could not be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        sync_dir(path.parent)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeDirectory(f"{path} is not a directory")
    if status.st_uid != os.geteuid():
        raise UnsafeDirectory(f"{path} belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o077:
        loose = stat.S_IMODE(status.st_mode)
        raise UnsafeDirectory(f"{path} is open to others (mode {loose:04o}); run: chmod 700 {path}")
    return path
