"""Part files: where an upload goes until it is whole (docs/files.md FT26, FT30 to FT32).

Two uploads of the same transfer may meet: the older one's operator has gone, and its session is
still waiting for him.  The younger one must win, and the older one must never rename what the
younger one writes.  Locks on single bytes of the part file see to that; they go with the process:

* byte 0 is held as long as a part is written to: who cannot get it writes elsewhere, into a copy;
* byte 1 is held while the name is taken away from a part, or while it is renamed over the
  destination: so a worker that has seen its name in place can rely on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time

from rshell_agent.workers.crash import crash_point
from rshell_agent.workers.files.desk import MAX_SWEPT, Desk, closing
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.sending import BLOCK_BYTES, Digest

__all__ = ["Part", "part_name", "read_digest", "sweep_directory"]

#: How long an unfinished upload may be gone on with.
KEEP_SECONDS = 24 * 3600
_TRANSFER = re.compile(r"[a-z0-9]{8,32}", re.ASCII)
_PART = re.compile(rb"\.rshell-[a-z0-9]{8,32}\.part")
_IN_USE, _NAME = 0, 1
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: Somebody else may be taking the same name again and again.
_TRIES = 10
#: What a file system says that has no locks.
_LOCKLESS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def part_name(transfer: str) -> bytes:
    """Return the name of a transfer's part file.

    Raises:
        Fault: It is no id of a transfer.
    """
    if not _TRANSFER.fullmatch(transfer):
        raise Fault("bad-request", "transfer must be 8 to 32 of a-z and 0-9")
    return f".rshell-{transfer}.part".encode()


def _lock(fd: int, byte: int, wait: bool = False) -> bool:
    """Lock a byte of a file; return whether it is ours now."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in _LOCKLESS:
            raise
    return True


def _unlock(fd: int, byte: int) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, byte)
    except OSError:
        pass  # a file system without locks


class Part:
    """The part file of an upload that is going on.

    Args:
        directory: Descriptor of the directory; it must stay open.
        name: Of `part_name`.

    Attributes:
        fd: Open for reading and writing.
        size: What is in it; 0 unless an earlier upload is gone on with.
        committed: Whether it has become the destination.
    """

    def __init__(self, directory: int, name: bytes) -> None:
        self.fd = -1
        self.size = 0
        self.committed = False
        self._directory = directory
        self.name = name

    def create(self) -> None:
        """Begin anew; one that was left behind is dropped.

        Raises:
            Fault: Something else has that name, and it cannot be removed.
        """
        for _ in range(_TRIES):
            try:
                self._make()
                return
            except FileExistsError:
                self._take_name()
        raise Fault("busy", "another session writes the same file again and again")

    def resume(self, size: int, digest: Digest) -> None:
        """Go on after the first bytes of the part that was left behind.

        Args:
            size: How many.
            digest: Takes them.

        Raises:
            Fault: Code ``changed``: there is no such part, or it is shorter.
        """
        try:
            fd = os.open(self.name, _FLAGS, dir_fd=self._directory)
        except (FileNotFoundError, OSError):
            raise _nothing_there() from None
        try:
            info = os.fstat(fd)
            if not _is_ours(info) or info.st_size < size:
                raise _nothing_there()
            if _lock(fd, _IN_USE) and self._named(info):
                self.fd, fd = fd, -1
                _digest_of(self.fd, size, digest)
                os.ftruncate(self.fd, size)
                crash_point("part.resume")
            else:
                self._copy(fd, size, digest)
            self.size = size
        finally:
            if fd >= 0:
                os.close(fd)

    def commit(self, destination: bytes) -> None:
        """Rename it over the destination, in the same directory.

        Raises:
            Fault: Code ``changed``: somebody else has taken the transfer over.
        """
        _lock(self.fd, _NAME, wait=True)
        if not self._named(os.fstat(self.fd)):
            raise Fault("changed", "another session has taken this transfer over")
        crash_point("put.rename")
        os.rename(self.name, destination, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.committed = True
        crash_point("put.renamed")

    def remove(self) -> None:
        """Remove it, if it still is ours."""
        if self.fd >= 0 and self.name and self._named(os.fstat(self.fd)):
            try:
                os.unlink(self.name, dir_fd=self._directory)
            except OSError:
                pass  # it will be swept one day

    def close(self) -> None:
        """Let it go as it is."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _make(self) -> None:
        flags = _FLAGS | os.O_CREAT | os.O_EXCL
        self.fd = os.open(self.name, flags, 0o600, dir_fd=self._directory)
        _lock(self.fd, _IN_USE)
        crash_point("put.created")

    def _named(self, info: os.stat_result) -> bool:
        """Whether the name still leads to this very file."""
        try:
            found = os.stat(self.name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (info.st_dev, info.st_ino)

    def _take_name(self) -> None:
        """Remove what has our name, unless it is being renamed at this very moment."""
        try:
            fd = os.open(self.name, _FLAGS, dir_fd=self._directory)
        except FileNotFoundError:
            return
        except OSError:
            fd = -1  # a link, a device, somebody else's
        try:
            info = os.stat(self.name, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                raise Fault("exists", "a directory has the name of the part file")
            if fd >= 0 and stat.S_ISREG(info.st_mode):
                _lock(fd, _NAME, wait=True)
                if not self._named(os.fstat(fd)):
                    return
            os.unlink(self.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)

    def _copy(self, old: int, size: int, digest: Digest) -> None:
        """Take a part over that another worker still holds: it may still write to it."""
        self.create()
        position = 0
        while position < size:
            data = os.pread(old, min(BLOCK_BYTES, size - position), position)
            if not data:
                raise _nothing_there()
            digest.data(data)
            os.pwrite(self.fd, data, position)
            position += len(data)
        crash_point("part.takeover")


def _is_ours(info: os.stat_result) -> bool:
    """Whether a part can be trusted to be what this login wrote."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1


def _nothing_there() -> Fault:
    return Fault("changed", "there is no such part file to go on with")


def _digest_of(fd: int, size: int, digest: Digest) -> None:
    position = 0
    while position < size:
        data = os.pread(fd, min(BLOCK_BYTES, size - position), position)
        if not data:
            raise _nothing_there()
        digest.data(data)
        position += len(data)


def read_digest(directory: int, name: bytes) -> tuple[int, str]:
    """Return size and digest of a part file that was left behind; 0 and "" without one."""
    try:
        fd = os.open(name, (_FLAGS & ~os.O_RDWR) | os.O_RDONLY, dir_fd=directory)
    except OSError:
        return 0, ""
    with closing(fd):
        info = os.fstat(fd)
        if not _is_ours(info) or not info.st_size:
            return 0, ""
        digest = Digest()
        _digest_of(fd, info.st_size, digest)
        return info.st_size, digest.hexdigest()


def sweep_directory(desk: Desk, directory: int, now: float | None = None) -> int:
    """Remove old part files from a directory.

    Args:
        desk: The session's; it remembers where this was done.
        directory: Its descriptor.
        now: Seconds since 1970.

    Returns:
        How many were removed.
    """
    info = os.stat(b".", dir_fd=directory)
    if len(desk.swept) >= MAX_SWEPT:
        desk.swept.clear()
    desk.swept.add((info.st_dev, info.st_ino))
    limit = (time.time() if now is None else now) - KEEP_SECONDS
    removed = 0
    opened = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    with closing(opened) as descriptor:
        # Ours that wait must not be opened: closing them would give up their locks.
        ours = desk.group.part_names
        for text in os.listdir(descriptor):
            name = os.fsencode(text)
            if _PART.fullmatch(name) and name not in ours:
                removed += _sweep_one(descriptor, name, limit)
    return removed


def _sweep_one(directory: int, name: bytes, limit: float) -> int:
    try:
        fd = os.open(name, _FLAGS, dir_fd=directory)
    except OSError:
        return 0
    with closing(fd):
        info = os.fstat(fd)
        if not _is_ours(info) or info.st_mtime > limit:
            return 0
        if not _lock(fd, _IN_USE) or not _lock(fd, _NAME):
            return 0
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:
            return 0
        return 1
