"""``remove``: by descriptors, so that no link and no renamed directory leads elsewhere (FT35)."""

from __future__ import annotations

import errno
import os
import stat

from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.faults import Fault, fault_of
from rshell_agent.workers.files.walking import DIRECTORY, names_in

__all__ = ["remove"]

#: Each level holds a descriptor; a login may usually have 1,024.
MAX_DEPTH = 500
_OPEN = DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(desk: Desk, request: Request) -> None:
    """Remove a file, a link, or with `recursive` a directory."""
    fields = request.fields
    path = fields.path()
    if path.rstrip(b"/").rpartition(b"/")[2] in (b"", b".", b"..", b"~"):
        # As rm does: too easily meant otherwise.
        raise Fault("bad-request", "this cannot be removed by that name")
    try:
        with desk.confined.at(path, write=True) as place:
            if place.name == b".":
                raise Fault("policy", "a root of the device's policy cannot be removed")
            removal = _Removal(desk, path, fields.flag("recursive", False))
            request.tell(place.path)
            try:
                removal.one(place.dir_fd, place.name, path)
            finally:
                request.tell(count=removal.count)
            count = removal.count
    except FileNotFoundError:
        if not fields.flag("missing_ok", False):
            raise
        count = 0
        request.unchanged()
    request.reply({"removed": count})


class _Removal:
    """One thing and all that is in it."""

    def __init__(self, desk: Desk, root: bytes, recursive: bool) -> None:
        self.count = 0
        self._desk = desk
        self._recursive = recursive

    def one(self, directory: int, name: bytes, path: bytes) -> None:
        """Remove one name from an open directory."""
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(name, dir_fd=directory)
            self.count += 1
            return
        if not self._recursive:
            raise Fault("is-a-directory", "is a directory")
        self._tree(directory, name, path, os.stat(b".", dir_fd=directory).st_dev)

    def _tree(self, directory: int, name: bytes, path: bytes, device: int) -> None:
        # (descriptor, names left, its name, its path); the last is the deepest.
        levels = [self._enter(directory, name, path, device)]
        try:
            while levels:
                fd, names, own, where = levels[-1]
                if names:
                    inner = names.pop()
                    below = where + b"/" + inner
                    if self._is_directory(fd, inner, below):
                        if len(levels) >= MAX_DEPTH:
                            raise Fault("name-too-long", "more than 500 levels deep", below)
                        levels.append(self._enter(fd, inner, below, device))
                    continue
                levels.pop()
                os.close(fd)
                parent = levels[-1][0] if levels else directory
                self._rmdir(parent, own, where)
        finally:
            for fd, *_ in levels:
                os.close(fd)

    def _enter(
        self, directory: int, name: bytes, path: bytes, device: int
    ) -> tuple[int, list[bytes], bytes, bytes]:
        try:
            fd = os.open(name, _OPEN, dir_fd=directory)
        except OSError as error:
            raise fault_of(error, path) from None
        try:
            if os.fstat(fd).st_dev != device:
                text = "another file system is mounted here"
                raise Fault("busy", text, path, errno.EBUSY)
            return fd, list(reversed(names_in(fd))), name, path
        except OSError as error:
            os.close(fd)
            raise fault_of(error, path) from None
        except BaseException:
            os.close(fd)
            raise

    def _is_directory(self, directory: int, name: bytes, path: bytes) -> bool:
        """Remove what is no directory; return whether it is one."""
        try:
            # Policy may deny a place within one that it allows.
            self._desk.confined.at(path, write=True).close()
            try:
                os.unlink(name, dir_fd=directory)
                self.count += 1
                return False
            except (IsADirectoryError, PermissionError):
                # Linux says EISDIR; what POSIX says, EPERM, may mean that it is not ours either.
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(info.st_mode):
                    raise
                return True
        except FileNotFoundError:
            return False  # somebody else was faster
        except OSError as error:
            raise fault_of(error, path) from None

    def _rmdir(self, directory: int, name: bytes, path: bytes) -> None:
        try:
            os.rmdir(name, dir_fd=directory)
            self.count += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            raise fault_of(error, path) from None
