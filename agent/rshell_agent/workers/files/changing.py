"""Changes without content: mkdir, symlink, setmeta, rename (docs/files.md FT34)."""

from __future__ import annotations

import os
import stat
import time

from rshell_agent.workers.confined import Place
from rshell_agent.workers.crash import crash_point
from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.entries import entry_of
from rshell_agent.workers.files.faults import Fault

__all__ = ["make_parents", "mkdir", "rename", "setmeta", "symlink"]

#: A path of 4,096 bytes has no more components.
MAX_COMPONENTS = 2048


def mkdir(desk: Desk, request: Request) -> None:
    """Make a directory."""
    fields = request.fields
    path = fields.path().rstrip(b"/") or b"/"
    mode = fields.optional("mode", 0o7777)
    if fields.flag("parents", False):
        make_parents(desk, path)
    request.tell(mode=None if mode is None else f"{mode:04o}")
    created = _make(desk, path, 0o777 if mode is None else mode & 0o777)
    if not created and not fields.flag("exist_ok", False):
        raise Fault("exists", "exists already")
    if created and mode is not None:
        # The umask does not count for a mode that was asked for.
        with desk.confined.at(path, write=True, follow=False) as place:
            place.chmod(mode)
    if not created:
        request.unchanged()
    request.reply({"created": created})


def _make(desk: Desk, path: bytes, mode: int) -> bool:
    """Make a directory; return False if there was one.  It may be behind a link."""
    try:
        with desk.confined.at(path, write=True) as place:
            _check_name(place)
            os.mkdir(place.name, mode, dir_fd=place.dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(desk.confined.stat(path).st_mode):
            raise
        return False
    return True


def make_parents(desk: Desk, path: bytes) -> None:
    """Make the directories that a path needs."""
    parts = [part for part in path.split(b"/") if part]
    if len(parts) > MAX_COMPONENTS:
        raise Fault("name-too-long", "the path has too many components")
    prefix = b"/" if path.startswith(b"/") else b""
    missing: list[bytes] = []
    # From the end: what is there needs not be writable, nor even allowed to be listed.
    for count in range(len(parts) - 1, 0, -1):
        parent = prefix + b"/".join(parts[:count])
        try:
            if not stat.S_ISDIR(desk.confined.stat(parent).st_mode):
                raise Fault("not-a-directory", "is no directory", parent)
            break
        except FileNotFoundError:
            missing.append(parent)
    for parent in reversed(missing):
        _make(desk, parent, 0o777)


def _check_name(place: Place) -> None:
    if place.name in (b"", b".", b".."):
        raise FileExistsError(17, os.strerror(17))


def symlink(desk: Desk, request: Request) -> None:
    """Make a symbolic link; where it points to does not matter."""
    fields = request.fields
    target = fields.path("target")
    with desk.confined.at(fields.path(), write=True) as place:
        _check_name(place)
        request.tell(place.path, target)
        try:
            place.symlink(target)
        except FileExistsError:
            if not fields.flag("replace", False):
                raise
            _replace_by_link(place, target)
    request.reply({})


def _replace_by_link(place: Place, target: bytes) -> None:
    if stat.S_ISDIR(place.stat().st_mode):
        raise Fault("is-a-directory", "is a directory")
    # In the shape of a part file, so that one that is left behind is known for what it is.
    name = b".rshell-" + os.urandom(8).hex().encode() + b".part"
    os.symlink(target, name, dir_fd=place.dir_fd)
    crash_point("link.rename")
    try:
        os.rename(name, place.name, src_dir_fd=place.dir_fd, dst_dir_fd=place.dir_fd)
    except OSError:
        os.unlink(name, dir_fd=place.dir_fd)
        raise


def setmeta(desk: Desk, request: Request) -> None:
    """Set mode and time of a file or directory."""
    fields = request.fields
    mode, mtime = fields.optional("mode", 0o7777), fields.time_ns()
    follow = fields.flag("follow", False)
    with desk.confined.at(fields.path(), write=True, follow=follow) as place:
        request.tell(place.path, mode=None if mode is None else f"{mode:04o}")
        info = place.stat()
        kind = stat.S_IFMT(info.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise Fault("not-a-file", "neither a file nor a directory")
        if mode is not None and kind != stat.S_IFLNK:
            place.chmod(mode)
        if mtime is not None:
            place.utime(time.time_ns(), mtime)
        info = place.stat()
    request.reply({"entry": entry_of(info, desk.names)})


def rename(desk: Desk, request: Request) -> None:
    """Rename or move within one file system."""
    fields = request.fields
    source, target = fields.path("from"), fields.path("to")
    request.tell(to=desk.confined.absolute(target))
    with (
        desk.confined.at(source, write=True) as old,
        desk.confined.at(target, write=True) as new,
    ):
        if not fields.flag("replace", False):
            try:
                new.stat()
            except FileNotFoundError:
                pass
            else:
                raise Fault("exists", "exists already", target)
        old.rename_to(new)
        request.tell(old.path, new.path)
    request.reply({})
