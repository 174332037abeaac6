"""Roots, and the trail of folders that a walk has opened beneath one (see confined.py)."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ENAMETOOLONG, ENOENT

__all__ = ["Identity", "Names", "Root", "Seal", "Trail", "link_text", "split"]

MAX_DEPTH = 256  # folders of one walk, each a descriptor, of which a process has 1,024

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Of folders like /tmp: everybody may make names there, and remove none but his own.
_SHARED = stat.S_ISVTX | stat.S_IWOTH

Names = list[bytes]
Identity = tuple[int, int]  # device and inode


def split(path: bytes) -> Names:
    """Return the components of a path but for `.` and empty ones; `..` stays."""
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def identity(info: os.stat_result) -> Identity:
    """Return what tells a file from every other that exists now."""
    return info.st_dev, info.st_ino


def link_text(name: bytes, dir_fd: int) -> bytes | None:
    """Return a symbolic link's text; None if it is none, or not there.

    Raises:
        OSError: EACCES: it was put into a folder like /tmp by somebody else.
    """
    try:
        text = os.readlink(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (EINVAL, ENOENT):
            return None
        raise
    _check_owner(name, dir_fd)
    return text


def _check_owner(name: bytes, dir_fd: int) -> None:
    """Refuse what the system's own walk would by fs.protected_symlinks (proc(5)), always.

    Reading a link's text ourselves goes past that rule, and without it whoever may write to /tmp
    decides which file a root's upload to it replaces.
    """
    folder = os.fstat(dir_fd)
    if folder.st_mode & _SHARED == _SHARED:
        owner = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_uid
        if owner not in (os.geteuid(), folder.st_uid):
            raise PermissionError(EACCES, "a symbolic link of somebody else's in a shared folder")


def _where(fd: int) -> Names:
    return split(os.readlink(b"/proc/self/fd/%d" % fd))


class Root:
    """A folder that the policy names, opened as the login; if that fails, each use tries again."""

    def __init__(self, path: bytes, *, read: bool, write: bool) -> None:
        self.path, self.names = path, split(path)
        self.read, self.write = read, write
        self.identity: Identity | None = None
        self.real: Names = self.names  # where it is, without symbolic links
        self._fd = -1
        try:
            self._open()
        except OSError:
            pass  # said to whoever asks for something beneath it

    def _open(self) -> None:
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.close()
        self._fd, self.identity, self.real = fd, identity(os.fstat(fd)), _where(fd)

    def close(self) -> None:
        """Let go of the folder."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def descriptor(self) -> int:
        """Return a descriptor of its own for a walk; a root that was removed is looked for again.

        Raises:
            OSError: It is not there, or the login may not pass.
        """
        if self._fd < 0 or not os.fstat(self._fd).st_nlink:
            self._open()
        return os.dup(self._fd)


class Trail:
    """The folders from a root to where a walk has come; it owns their descriptors."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.names: Names = []
        self._fds = [root.descriptor()]

    @property
    def fd(self) -> int:
        """The folder reached."""
        return self._fds[-1]

    def enter(self, name: bytes) -> None:
        """Go into a folder that is no link.

        Raises:
            OSError: ENOTDIR if it is a link or no folder; or whatever the system says.
        """
        if len(self._fds) > MAX_DEPTH:
            raise OSError(ENAMETOOLONG, f"more than {MAX_DEPTH} folders deep")
        self._fds.append(os.open(name, _FOLDER, dir_fd=self.fd))
        self.names.append(name)

    def leave(self) -> bool:
        """Go back by one; False at the root."""
        if not self.names:
            return False
        os.close(self._fds.pop())
        self.names.pop()
        return True

    def take(self) -> int:
        """Return the folder reached, for the caller to own."""
        return self._fds.pop()

    def identities(self) -> set[Identity]:
        """Return what each folder passed is, the root included."""
        return {identity(os.fstat(fd)) for fd in self._fds}

    def close(self) -> None:
        """Let go of every folder."""
        while self._fds:
            os.close(self._fds.pop())


class Seal:
    """A place that a deny list names: by where it is and, while it exists, by what it is.

    The first holds when the file is replaced, the second when it is reached by another name.
    """

    def __init__(self, path: bytes) -> None:
        self.identity: Identity | None = None
        self.names = split(os.path.realpath(path))
        try:
            self.identity = identity(os.stat(path))
        except OSError:  # it is not there, or the login cannot see it
            pass

    def covers(self, names: Names) -> bool:
        """Whether a place is this one or in it."""
        return names[: len(self.names)] == self.names

    def is_in(self, names: Names) -> bool:
        """Whether this one is in a place."""
        return self.names[: len(names)] == names
