"""Place: a folder that is open and a name in it, and what may be done there.

What a worker does to a name it does here, relative to the folder that the walk reached: nobody who
swaps a folder or a link meanwhile can lead it elsewhere. The name itself is never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from errno import EACCES, EEXIST, ELOOP, EOPNOTSUPP
from types import TracebackType

from rshell_agent.workers.trail import Identity, identity

__all__ = ["Denied", "Place", "Rights", "shown"]

INSIDE = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # of every descriptor: FIFOs must not block
_REFER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # to what is there, without opening it
_CREATE_TURNS = 16  # how often a name may vanish and come back while it is opened


def shown(path: bytes) -> str:
    """Return a path for people: one line, without control sequences, 256 characters at most."""
    text = path[:1024].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:256]


class Denied(OSError):
    """The device's policy does not allow it; the system was not asked."""

    def __init__(self, path: bytes) -> None:
        super().__init__(EACCES, f"the device's policy does not allow {shown(path)}")


class Rights:
    """What the policy allows at one place.

    Attributes:
        read: It may be read and looked at.
        write: It may be made, written and removed.
        move: It may get another name: it may be read and written, and nothing in it is denied.
            Otherwise what is denied here could be had under the other name.
    """

    __slots__ = ("move", "read", "write")

    def __init__(self, *, read: bool, write: bool, move: bool) -> None:
        self.read, self.write, self.move = read, write, move


class Place:
    """A folder and a name in it; a context manager that closes the folder.

    Attributes:
        dir_fd: The folder, opened with O_PATH; for the `dir_fd` arguments of `os`.
        name: The name; `.` for a root itself. It need not exist, and may be a symbolic link.
        path: Absolute, without symbolic links but perhaps the name; as it was when walked.
        rights: What the policy allows.
    """

    __slots__ = ("_setid", "dir_fd", "name", "path", "rights")

    def __init__(self, dir_fd: int, name: bytes, path: bytes, rights: Rights, setid: bool) -> None:
        self.dir_fd, self.name, self.path, self.rights = dir_fd, name, path, rights
        self._setid = setid

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; harmless when that has been done."""
        fd, self.dir_fd = self.dir_fd, -1
        if fd >= 0:
            os.close(fd)

    # -- looking -------------------------------------------------------------------------------

    def stat(self) -> os.stat_result:
        """Return what is known of the name, a link's own if it is one."""
        return os.stat(self.name, dir_fd=self.dir_fd, follow_symlinks=False)

    def readlink(self) -> bytes:
        """Return a symbolic link's text."""
        return os.readlink(self.name, dir_fd=self.dir_fd)

    def open(self, flags: int, mode: int = 0o666, never: Collection[Identity | None] = ()) -> int:
        """Open a regular file or a folder; nothing else is opened, not even for a moment.

        Rights are the caller's to look at (`Confined.open` does).

        Args:
            flags: As for `os.open`.
            mode: Of a new file; set-id bits only where the policy allows them.
            never: What it must not be: the file may have got another name since it was looked at.

        Raises:
            Denied: It is one of `never`.
            OSError: ELOOP for a symbolic link, EOPNOTSUPP for devices, FIFOs and sockets, and
                whatever the system says.
        """
        making = bool(flags & os.O_CREAT)
        for _ in range(_CREATE_TURNS):
            try:
                fd = os.open(
                    self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.dir_fd
                )
            except FileNotFoundError:
                if not making:
                    raise
                try:
                    return self._make(flags, mode)
                except FileExistsError:
                    if flags & os.O_EXCL:
                        raise
                    continue  # it has just come
            try:
                return self._open_found(fd, flags, never)
            finally:
                os.close(fd)
        raise FileExistsError(EEXIST, f"{shown(self.path)} comes and goes")

    def _make(self, flags: int, mode: int) -> int:
        mode &= 0o7777 if self._setid else 0o1777
        flags |= INSIDE | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self.name, flags, mode, dir_fd=self.dir_fd)

    def _open_found(self, fd: int, flags: int, never: Collection[Identity | None]) -> int:
        """Open what `fd` refers to, which is neither looked up again nor followed."""
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(EEXIST, os.strerror(EEXIST))
        info = os.fstat(fd)
        if identity(info) in never:
            raise Denied(self.path)
        kind = info.st_mode
        if stat.S_ISLNK(kind):
            raise OSError(ELOOP, f"{shown(self.path)} is a symbolic link")
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OSError(EOPNOTSUPP, f"{shown(self.path)} is neither a file nor a folder")
        flags = (flags | INSIDE) & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        return os.open(b"/proc/self/fd/%d" % fd, flags)

    # -- changing; each asks for the right that `at(write=True)` found --------------------------

    def mkdir(self, mode: int = 0o777) -> None:
        """Make a folder."""
        os.mkdir(self.name, mode & 0o1777, dir_fd=self.dir_fd)

    def unlink(self) -> None:
        """Remove what is no folder."""
        os.unlink(self.name, dir_fd=self.dir_fd)

    def rmdir(self) -> None:
        """Remove an empty folder."""
        os.rmdir(self.name, dir_fd=self.dir_fd)

    def symlink(self, target: bytes) -> None:
        """Make a symbolic link; its text is free, for whoever follows it is checked again."""
        os.symlink(target, self.name, dir_fd=self.dir_fd)

    def rename_to(self, other: Place) -> None:
        """Give it the other's name, replacing what is there.

        Raises:
            Denied: It must not get another name, or not that one.
        """
        self._check_move(other)
        os.rename(self.name, other.name, src_dir_fd=self.dir_fd, dst_dir_fd=other.dir_fd)

    def link_to(self, other: Place) -> None:
        """Give it the other's name as well.

        Raises:
            Denied: It must not get another name, or not that one.
        """
        self._check_move(other)
        os.link(
            self.name,
            other.name,
            src_dir_fd=self.dir_fd,
            dst_dir_fd=other.dir_fd,
            follow_symlinks=False,
        )

    def _check_move(self, other: Place) -> None:
        if not self.rights.move:
            raise Denied(self.path)
        if not other.rights.write:
            raise Denied(other.path)

    def chmod(self, mode: int) -> None:
        """Set the permission bits of what is no link; set-id only where the policy allows it."""
        fd = os.open(self.name, _REFER, dir_fd=self.dir_fd)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(EOPNOTSUPP, f"{shown(self.path)} is a symbolic link")
            os.chmod(b"/proc/self/fd/%d" % fd, mode & (0o7777 if self._setid else 0o1777))
        finally:
            os.close(fd)

    def chown(self, uid: int, gid: int) -> None:
        """Set owner and group, of a link itself; -1 leaves one as it is."""
        os.chown(self.name, uid, gid, dir_fd=self.dir_fd, follow_symlinks=False)

    def utime(self, accessed_ns: int, modified_ns: int) -> None:
        """Set the times, of a link itself; in nanoseconds since 1970."""
        times = (accessed_ns, modified_ns)
        os.utime(self.name, ns=times, dir_fd=self.dir_fd, follow_symlinks=False)

    def sync_folder(self) -> None:
        """Have the folder's names on disk when this returns."""
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.dir_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
