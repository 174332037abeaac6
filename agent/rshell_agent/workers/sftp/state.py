"""What one SFTP session has and may: the way to paths, open handles, remembered names.

Every path goes through here to `rshell_agent.workers.confined`, which decides by the place that was
reached.  A path is never opened before it is known to be a regular file or a folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rshell_agent.workers.confined import Confined, Place
from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.attributes import Owners
from rshell_agent.workers.sftp.failures import Failed
from rshell_agent.workers.sftp.handles import GROWTH_BYTES, Handles, OpenFile

__all__ = ["State", "way_to"]

#: What bulk uploads leave free: so much, or a twentieth of a file system that is smaller.
FLOOR_BYTES = 64 * 1024 * 1024
FLOOR_SHARE = 20


#: What a request touches: operation, path, the other path, and more.
Touching = tuple[str, bytes, bytes | None, dict[str, object]]


def way_to(fd: int) -> bytes:
    """Return a path that leads to exactly the inode of a descriptor, opened by O_PATH or not.

    chmod(2) and truncate(2) have no form for an O_PATH descriptor, and would follow a link that
    somebody put in a name's place.
    """
    return b"/proc/self/fd/%d" % fd


class State:
    """Of one session.

    Args:
        confined: The device's policy.
        read_only: The operator wants to change nothing.
        clock: Wall clock, seconds since 1970, for listings.
    """

    def __init__(
        self, confined: Confined, read_only: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.confined = confined
        self.read_only = read_only
        self.clock = clock
        self.handles = Handles()
        self.owners = Owners()
        self.touches = confined.touches
        self._touching: Touching | None = None
        self.touches.before_end = self.abandon

    def touch(
        self,
        op: str,
        path: bytes,
        to: bytes | None = None,
        *,
        real: bool = False,
        more: dict[str, object] | None = None,
    ) -> None:
        """Say what this request touches, for the audit log; `answered` says how it went.

        Args:
            op: What is done: one word.
            path: As the client named it, or where it really is.
            to: Likewise, or what a link says.
            real: Both are as they shall be told.
            more: What else is known.
        """
        if self.touches.wanted:
            if not real:
                absolute = self.confined.absolute
                path, to = absolute(local(path)), None if to is None else absolute(local(to))
            self._touching = (op, path, to, more or {})

    def untouched(self) -> None:
        """Take back what `touch` said."""
        self._touching = None

    def answered(self, code: str | None = None) -> None:
        """Note what the request touched, and why it failed if it did."""
        touching, self._touching = self._touching, None
        if touching is not None:
            op, path, to, more = touching
            self.touches.note(op, path, to, **more, code=code)

    def closing(self, opened: OpenFile, code: str | None = None) -> None:
        """Note what was done with a file that is closed, or left open at the end."""
        if self.touches.wanted:
            op = "put" if opened.writable else "get"
            self.touches.note(op, opened.path, size=opened.moved, code=code)

    def abandon(self) -> None:
        """Note the files that are still open: the session is over."""
        for opened in self.handles.files():
            self.closing(opened, "unfinished")

    def place(self, path: bytes, *, write: bool = False, follow: bool = False) -> Place:
        """Return the folder that holds a path, opened, and the name in it.

        Raises:
            OSError: Policy or system do not allow it.
            Failed: The session is read-only.
        """
        self.check_writing(write)
        return self.confined.at(local(path), write=write, follow=follow)

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int:
        """Open a regular file or a folder.

        Raises:
            OSError: Policy or system do not allow it.
            Failed: The session is read-only, or too much is open.
        """
        self.check_writing(bool(flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND)))
        self.handles.check_room()
        return self.confined.open(local(path), flags, mode)

    def check_writing(self, write: bool) -> None:
        """Refuse what changes something in a read-only session.

        Raises:
            Failed: It is one.
        """
        if write and self.read_only:
            raise Failed(wire.PERMISSION_DENIED, "this session was opened for reading only")

    def check_room(self, opened: OpenFile, offset: int, count: int) -> None:
        """Refuse to let a file become too large, or the file system too full.

        Args:
            opened: What is written to.
            offset: Where, unless it is opened to append.
            count: Bytes that follow.

        Raises:
            OSError: The policy does not allow so large a file.
            Failed: The file system would be too full.
        """
        if opened.appends:
            offset = opened.size = os.fstat(opened.fd).st_size
        end = offset + count
        self.confined.check_size(end)
        added = min(count, end - opened.size)  # what a file skips is a hole and takes no room
        if added <= 0:
            return
        if added > opened.allowance:
            opened.allowance = min(_room(opened.fd), GROWTH_BYTES)
            if added > opened.allowance:
                raise Failed(wire.FAILURE, "No space left on device but what it keeps free")
        opened.allowance -= added
        opened.size = end


def _room(fd: int) -> int:
    """Return how many bytes may still be written to the file system of a descriptor."""
    found = os.fstatvfs(fd)
    if not found.f_blocks:
        return GROWTH_BYTES  # one that does not count, as some in user space
    floor = min(FLOOR_BYTES, found.f_blocks * found.f_frsize // FLOOR_SHARE)
    return found.f_bavail * found.f_frsize - floor


def local(path: bytes) -> bytes:
    """Return what `Confined` calls a path of a client.

    To SFTP the empty path is the login's home, and a tilde is a letter like any other.
    """
    if path.startswith(b"~"):
        return b"./" + path
    return path or b"."
