"""Waiting until a file or folder may have changed: inotify if there is one, else a short sleep.

Events are a reason to look and nothing more: what happened is found by looking.  So a lost event, a
network file system that sends none, or a full queue cost a second at most.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

try:
    import ctypes
except ImportError:  # a Python built without libffi, on a small device
    ctypes = None  # type: ignore[assignment]  # looked at before each use

__all__ = ["ReaderGone", "Wakeups"]

#: Looked at so often when events tell of changes.
EVENTS_SECONDS = 1.0
#: And when nothing does.
POLL_SECONDS = 0.25
#: A log written line by line is read in portions of this time, not line by line.
COALESCE_SECONDS = 0.01
#: Watches of one worker: of its files and their folders.
MAX_WATCHES = 1024

# linux/inotify.h
_CLOEXEC, _NONBLOCK = 0o2000000, 0o4000
_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_IN_FILES = _MODIFY | _ATTRIB | _MOVE_SELF | _DELETE_SELF
_IN_FOLDERS = _CREATE | _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024


class ReaderGone(Exception):
    """Nobody will read our output any more."""


class Wakeups:
    """Waits for changes, and for the end of whoever reads us.

    Args:
        output: Our output; its reader's end ends the waiting.
    """

    def __init__(self, output: int = 1) -> None:
        self._output = output
        self._libc: Any = None
        self._inotify = -1
        self._folders: set[int] = set()
        self._files: set[int] = set()
        self._complete = False
        self._poll = select.poll()
        self._poll.register(output, 0)
        if ctypes is not None:
            self._libc = ctypes.CDLL(None, use_errno=True)
            if hasattr(self._libc, "inotify_init1"):
                self._inotify = self._libc.inotify_init1(_CLOEXEC | _NONBLOCK)
        if self._inotify >= 0:
            self._complete = True
            self._poll.register(self._inotify, select.POLLIN)

    def watch_file(self, descriptor: int) -> int:
        """Wake up when an open file changes; return what `unwatch` takes."""
        return self._add(descriptor, _IN_FILES, self._files)

    def unwatch(self, watch: int) -> None:
        """Let go of a file: it may be there for long after its rotation."""
        if watch in self._files:
            self._files.discard(watch)
            self._libc.inotify_rm_watch(self._inotify, watch)

    def watch_folder(self, descriptor: int) -> None:
        """Wake up when something comes into an open folder, or goes."""
        self._add(descriptor, _IN_FOLDERS, self._folders)

    def _add(self, descriptor: int, mask: int, known: set[int]) -> int:
        if self._inotify < 0:
            return -1
        if len(self._files) + len(self._folders) >= MAX_WATCHES:
            self._complete = False
            return -1
        # A magic link: no path is walked again that somebody could change.
        name = b"/proc/self/fd/%d" % descriptor
        watch: int = self._libc.inotify_add_watch(self._inotify, name, mask)
        if watch >= 0:
            known.add(watch)
        else:  # no /proc, or the system's own limit
            self._complete = False
        return watch

    def wait(self) -> bool:
        """Wait for a change, for as long as is right; whether a folder has changed.

        Raises:
            ReaderGone: Nobody reads any more.
        """
        seconds = EVENTS_SECONDS if self._complete else POLL_SECONDS
        for descriptor, events in self._poll.poll(seconds * 1000):
            if descriptor == self._output and events & (select.POLLERR | select.POLLHUP):
                raise ReaderGone
            if descriptor == self._inotify:
                time.sleep(COALESCE_SECONDS)
                return self._drain()
        return False

    def _drain(self) -> bool:
        try:
            data = os.read(self._inotify, _READ_BYTES)
        except BlockingIOError:
            return False
        changed = False
        place = 0
        while place + _EVENT.size <= len(data):
            watch, mask, _cookie, size = _EVENT.unpack_from(data, place)
            place += _EVENT.size + size
            changed = changed or watch in self._folders or watch < 0 or mask & ~_MODIFY != 0
            if mask & 0x8000:  # IN_IGNORED: it is gone, and its number may come again
                self._folders.discard(watch)
                self._files.discard(watch)
        return changed
