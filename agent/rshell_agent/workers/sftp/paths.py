"""Requests on paths: looking, making, moving, removing, links, attributes, real paths."""

from __future__ import annotations

import errno
import os
import stat

from rshell_agent.workers.confined import Denied, Place
from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.attributes import (
    NOTHING,
    Attributes,
    apply,
    encode,
    read_attributes,
)
from rshell_agent.workers.sftp.failures import Failed
from rshell_agent.workers.sftp.files import mode_mask, told
from rshell_agent.workers.sftp.state import State, local, way_to
from rshell_agent.workers.sftp.wire import Fields, Reply

__all__ = ["REQUESTS", "change", "one_name", "real_path"]

_DONE = wire.status(wire.OK)
#: Why a hard link may be impossible where a plain rename is possible: FAT, another owner's file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES)


def one_name(path: bytes) -> Reply:
    """Return the NAME of a path, which has no attributes."""
    return wire.names([(path, path, NOTHING)])


def stat_path(state: State, fields: Fields) -> Reply:
    """STAT."""
    return wire.ATTRS, [encode(state.confined.stat(local(fields.string())))]


def lstat(state: State, fields: Fields) -> Reply:
    """LSTAT."""
    return wire.ATTRS, [encode(state.confined.stat(local(fields.string()), follow=False))]


def setstat(state: State, fields: Fields) -> Reply:
    """SETSTAT: of what a link leads to."""
    change(state, fields.string(), read_attributes(fields), follow=True)
    return _DONE


def change(state: State, path: bytes, wanted: Attributes, follow: bool) -> None:
    """Change the attributes of a path, or of a link itself.

    Raises:
        OSError: The first thing that was not possible.
        Failed: The session or the policy does not allow it.
    """
    state.touch("setmeta", path, more=told(wanted))
    with state.place(path, write=True, follow=follow) as place:
        state.touch("setmeta", place.path, real=True, more=told(wanted))
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.dir_fd)
    try:
        found = os.fstat(fd)
        if wanted.size is not None:
            state.confined.check_size(wanted.size)
        apply(way_to(fd), wanted, mode_mask(state, found.st_mode))
    finally:
        os.close(fd)


def remove(state: State, fields: Fields) -> Reply:
    """REMOVE: a file or link, no folder."""
    path = fields.string()
    state.touch("remove", path)
    with state.place(path, write=True) as place:
        state.touch("remove", place.path, real=True)
        place.unlink()
    return _DONE


def make_folder(state: State, fields: Fields) -> Reply:
    """MKDIR."""
    path, wanted = fields.string(), read_attributes(fields).permissions
    state.touch("mkdir", path)
    with state.place(path, write=True) as place:
        state.touch("mkdir", place.path, real=True)
        place.mkdir(0o777 if wanted is None else wanted & 0o777)
    return _DONE


def remove_folder(state: State, fields: Fields) -> Reply:
    """RMDIR: an empty folder."""
    path = fields.string()
    state.touch("remove", path)
    with state.place(path, write=True) as place:
        state.touch("remove", place.path, real=True)
        place.rmdir()
    return _DONE


def real_path(state: State, path: bytes) -> bytes:
    """Return a path without links and dots; its last name need not exist.

    Raises:
        OSError: Its folder is not there, or beyond what the policy shows.
    """
    path = local(path)
    with state.place(path, follow=True) as place:
        found = place.path
    if state.confined.may(found):
        return found
    # The policy names a root by way of a link, and what is asked for next must begin as it does.
    return b"/" + os.path.normpath(os.path.join(state.confined.home, path)).lstrip(b"/")


def realpath(state: State, fields: Fields) -> Reply:
    """REALPATH: clients begin with that of ``.``, which must be somewhere."""
    path = fields.string()
    try:
        return one_name(real_path(state, path))
    except (Denied, FileNotFoundError):
        if path not in (b"", b"."):
            raise
    # The home is outside of the policy's roots, or was never made.
    return one_name(state.confined.home)


def rename(state: State, fields: Fields) -> Reply:
    """RENAME: never onto something that is there, as the draft demands."""
    old, new = fields.string(), fields.string()
    state.touch("rename", old, new)
    with state.place(old, write=True) as source, state.place(new, write=True) as target:
        state.touch("rename", source.path, target.path, real=True)
        if stat.S_ISREG(source.stat().st_mode) and _link_over(source, target):
            return _DONE
        if _exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        source.rename_to(target)
    return _DONE


def _link_over(source: Place, target: Place) -> bool:
    """Rename by linking, which cannot replace anything; False if there can be no such link."""
    try:
        source.link_to(target)
    except Denied:
        raise
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    source.unlink()
    return True


def _exists(place: Place) -> bool:
    try:
        place.stat()
    except FileNotFoundError:
        return False
    return True


def posix_rename(state: State, fields: Fields) -> Reply:
    """posix-rename@openssh.com: replaces what is there, at once."""
    old, new = fields.string(), fields.string()
    state.touch("rename", old, new)
    with state.place(old, write=True) as source, state.place(new, write=True) as target:
        state.touch("rename", source.path, target.path, real=True)
        source.rename_to(target)
    return _DONE


def hard_link(state: State, fields: Fields) -> Reply:
    """hardlink@openssh.com: of what may be written, for a link to it may be written through."""
    old, new = fields.string(), fields.string()
    state.touch("link", old, new)
    with state.place(old, write=True) as source, state.place(new, write=True) as target:
        state.touch("link", source.path, target.path, real=True)
        source.link_to(target)
    return _DONE


def readlink(state: State, fields: Fields) -> Reply:
    """READLINK."""
    with state.place(fields.string()) as place:
        target = place.readlink()
    return one_name(target)


def symlink(state: State, fields: Fields) -> Reply:
    """SYMLINK: the target comes first, as OpenSSH sends it, against the draft.

    Where it points to is not checked here: whoever follows it is.
    """
    target, path = fields.string(), fields.string()
    if b"\0" in target:
        raise Failed(wire.FAILURE, "the link's target holds a NUL byte")
    state.touch("symlink", state.confined.absolute(local(path)), target, real=True)
    with state.place(path, write=True) as place:
        state.touch("symlink", place.path, target, real=True)
        place.symlink(target)
    return _DONE


REQUESTS = {
    wire.STAT: stat_path,
    wire.LSTAT: lstat,
    wire.SETSTAT: setstat,
    wire.REMOVE: remove,
    wire.MKDIR: make_folder,
    wire.RMDIR: remove_folder,
    wire.REALPATH: realpath,
    wire.RENAME: rename,
    wire.READLINK: readlink,
    wire.SYMLINK: symlink,
}
