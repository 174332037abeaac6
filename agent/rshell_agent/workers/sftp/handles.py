"""What a client has open: files and folders, by handles that are never used twice.

A handle is a decimal number that only rises, so one that was closed can never mean another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.failures import Failed

__all__ = ["GROWTH_BYTES", "MAX_HANDLES", "Handles", "OpenFile", "OpenFolder"]

#: Open at once.  A folder takes two descriptors, and 1,024 is the usual limit of a process.
MAX_HANDLES = 256
#: Free space is looked at when a file has grown by so much: small files always go through, and
#: one system call in 4 MiB costs nothing.
GROWTH_BYTES = 4 * 1024 * 1024


class OpenFile:
    """A regular file.

    Attributes:
        fd: Its descriptor.
        writable: Whether it was opened for writing, and so policy allowed that.
        appends: Whether all that is written goes to its end.
        size: As it was when it was opened, or as this session made it since.
        allowance: Bytes it may grow by before free space is looked at again.
        path: Where it really is; for the audit log.
        moved: Bytes that were read, or written if it is writable.
    """

    __slots__ = ("allowance", "appends", "fd", "moved", "path", "size", "writable")

    def __init__(self, fd: int, *, writable: bool, appends: bool, size: int) -> None:
        self.fd = fd
        self.writable = writable
        self.appends = appends
        self.size = size
        self.allowance = GROWTH_BYTES
        self.path = os.readlink(b"/proc/self/fd/%d" % fd)
        self.moved = 0

    def close(self) -> None:
        """Close it; an error is that of what was written before."""
        os.close(self.fd)


class OpenFolder:
    """A folder that is listed, in the order of the file system.

    Attributes:
        fd: Its descriptor.
        path: As the client named it.
        started: Whether its own two names were told.
        entries: What is still to tell.
    """

    __slots__ = ("_scan", "entries", "fd", "path", "started")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        self.started = False
        self._scan = os.scandir(fd)  # has a descriptor of its own
        self.entries: Iterator[os.DirEntry[str]] = self._scan

    def close(self) -> None:
        """Close it."""
        self._scan.close()
        os.close(self.fd)


Open = TypeVar("Open", OpenFile, OpenFolder)


class Handles:
    """All that is open."""

    def __init__(self) -> None:
        self._open: dict[bytes, OpenFile | OpenFolder] = {}
        self._last = 0

    def check_room(self) -> None:
        """Fail before anything is opened, or created, for a client that has too much open.

        Raises:
            Failed: It has.
        """
        if len(self._open) >= MAX_HANDLES:
            raise Failed(wire.FAILURE, f"{MAX_HANDLES} files are open, and no more may be")

    def add(self, opened: OpenFile | OpenFolder) -> bytes:
        """Return a new handle."""
        self._last += 1
        handle = b"%d" % self._last
        self._open[handle] = opened
        return handle

    def any(self, handle: bytes) -> OpenFile | OpenFolder:
        """Return what a handle stands for.

        Raises:
            Failed: It stands for nothing, or no longer.
        """
        opened = self._open.get(handle)
        if opened is None:
            raise Failed(wire.FAILURE, "no such handle")
        return opened

    def file(self, handle: bytes) -> OpenFile:
        """Return the file of a handle.

        Raises:
            Failed: There is none.
        """
        opened = self.any(handle)
        if not isinstance(opened, OpenFile):
            raise Failed(wire.FAILURE, "the handle is a folder's")
        return opened

    def files(self) -> list[OpenFile]:
        """Return every file that is open."""
        return [opened for opened in self._open.values() if isinstance(opened, OpenFile)]

    def folder(self, handle: bytes) -> OpenFolder:
        """Return the folder of a handle.

        Raises:
            Failed: There is none.
        """
        opened = self.any(handle)
        if not isinstance(opened, OpenFolder):
            raise Failed(wire.FAILURE, "the handle is a file's")
        return opened

    def close(self, handle: bytes) -> None:
        """Close one; the handle is gone even if that fails.

        Raises:
            Failed: There is no such handle.
            OSError: What was written before could not be kept.
        """
        opened = self.any(handle)
        del self._open[handle]
        opened.close()
