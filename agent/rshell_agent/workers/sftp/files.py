"""Requests on open files: OPEN, CLOSE, READ, WRITE, FSTAT, FSETSTAT."""

from __future__ import annotations

import os
import stat

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.attributes import Attributes, apply, encode, read_attributes
from rshell_agent.workers.sftp.failures import Failed
from rshell_agent.workers.sftp.handles import OpenFile, OpenFolder
from rshell_agent.workers.sftp.state import State
from rshell_agent.workers.sftp.wire import Fields, Reply
from rshell_agent.workers.touched import code_of

__all__ = ["REQUESTS", "mode_mask", "told", "write_all"]

_DONE = wire.status(wire.OK)
_END = wire.status(wire.EOF, "end of file")
_CHANGES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def open_file(state: State, fields: Fields) -> Reply:
    """OPEN: a regular file, never a device, FIFO or socket, and never so that it would wait."""
    path, wanted, attributes = fields.string(), fields.u32(), read_attributes(fields)
    flags = _flags(wanted)
    state.touch("put" if flags & _CHANGES else "get", path)
    permissions = 0o666 if attributes.permissions is None else attributes.permissions
    fd = state.open(path, flags, permissions)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise Failed(wire.FAILURE, "Is a directory")
    state.untouched()  # it is told of when it is closed
    writable = bool(flags & _CHANGES)
    appends = bool(flags & os.O_APPEND)
    opened = OpenFile(fd, writable=writable, appends=appends, size=found.st_size)
    return wire.HANDLE, [wire.string(state.handles.add(opened))]


def _flags(wanted: int) -> int:
    flags = os.O_RDONLY
    if wanted & wire.OPEN_WRITE:
        flags = os.O_RDWR if wanted & wire.OPEN_READ else os.O_WRONLY
    elif wanted & (wire.OPEN_TRUNCATE | wire.OPEN_APPEND):
        raise wire.BadPacket("to append or truncate, open for writing")
    if wanted & wire.OPEN_APPEND:
        flags |= os.O_APPEND
    if wanted & wire.OPEN_CREATE:
        flags |= os.O_CREAT
        if wanted & wire.OPEN_EXCLUSIVE:
            flags |= os.O_EXCL
    if wanted & wire.OPEN_TRUNCATE:
        flags |= os.O_TRUNC
    return flags


def close(state: State, fields: Fields) -> Reply:
    """CLOSE: a file or folder."""
    handle = fields.string()
    opened = state.handles.any(handle)
    code = None
    try:
        state.handles.close(handle)
    except OSError as error:
        code = code_of(error)
        raise
    finally:
        if isinstance(opened, OpenFile):
            state.closing(opened, code)
    return _DONE


def read(state: State, fields: Fields) -> Reply:
    """READ: fewer bytes than asked for only at the end of the file, or beyond `wire.MAX_DATA`."""
    handle, offset, size = fields.string(), fields.offset(), fields.u32()
    opened = state.handles.file(handle)
    data = os.pread(opened.fd, min(size, wire.MAX_DATA), offset)
    if not data and size:
        return _END
    if not opened.writable:
        opened.moved += len(data)
    return wire.DATA, [wire.u32(len(data)), data]


def write(state: State, fields: Fields) -> Reply:
    """WRITE: all of it, or it failed; in a file opened to append the offset does not matter."""
    handle, offset, data = fields.string(), fields.offset(), fields.view()
    opened = state.handles.file(handle)
    if not opened.writable:
        raise Failed(wire.PERMISSION_DENIED, "the file was opened for reading")
    if offset + len(data) > wire.MAX_OFFSET:
        raise wire.BadPacket("an offset beyond 2^63-1")
    state.check_room(opened, offset, len(data))
    write_all(opened.fd, data, offset)
    opened.moved += len(data)
    return _DONE


def write_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write bytes at an offset.

    Raises:
        OSError: Not all of them could be written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def fstat(state: State, fields: Fields) -> Reply:
    """FSTAT: of a file or folder."""
    return wire.ATTRS, [encode(os.fstat(state.handles.any(fields.string()).fd))]


def mode_mask(state: State, found: int) -> int:
    """Return the permission bits that a client may set on a file of a mode.

    A folder's set-group-id only says who owns what is made in it.
    """
    mask = state.confined.mode(0o7777)
    return mask | stat.S_ISGID if stat.S_ISDIR(found) else mask


def told(wanted: Attributes) -> dict[str, object]:
    """Return what is told of a change of attributes."""
    mode = wanted.permissions
    return {"mode": None if mode is None else f"{mode & 0o7777:04o}", "size": wanted.size}


def fsetstat(state: State, fields: Fields) -> Reply:
    """FSETSTAT: what was opened for reading was not checked for writing, so it is refused."""
    handle, wanted = fields.string(), read_attributes(fields)
    opened = state.handles.any(handle)
    if isinstance(opened, OpenFolder) or not opened.writable:
        raise Failed(wire.PERMISSION_DENIED, "it was opened for reading")
    if wanted.size is not None:
        state.confined.check_size(wanted.size)
        opened.size = wanted.size
    state.touch("setmeta", opened.path, real=True, more=told(wanted))
    apply(opened.fd, wanted, mode_mask(state, os.fstat(opened.fd).st_mode))
    return _DONE


REQUESTS = {
    wire.OPEN: open_file,
    wire.CLOSE: close,
    wire.READ: read,
    wire.WRITE: write,
    wire.FSTAT: fstat,
    wire.FSETSTAT: fsetstat,
}
