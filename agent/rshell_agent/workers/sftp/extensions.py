"""Extended requests: those that OpenSSH's clients use, as its PROTOCOL file describes them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.attributes import read_attributes
from rshell_agent.workers.sftp.failures import Failed
from rshell_agent.workers.sftp.files import write_all
from rshell_agent.workers.sftp.handles import MAX_HANDLES, OpenFile
from rshell_agent.workers.sftp.paths import change, hard_link, one_name, posix_rename, real_path
from rshell_agent.workers.sftp.state import State, way_to
from rshell_agent.workers.sftp.wire import Fields, Reply

__all__ = ["VERSIONS", "extended"]

_DONE = wire.status(wire.OK)
#: Users, and groups, whose names one request may ask for: a listing has few.
MAX_IDS = 4096
#: One step of copy-data.
COPY_BYTES = 256 * 1024


def fsync(state: State, fields: Fields) -> Reply:
    """fsync@openssh.com: a file's content is on the disk."""
    os.fsync(state.handles.file(fields.string()).fd)
    return _DONE


def statvfs(state: State, fields: Fields) -> Reply:
    """statvfs@openssh.com: of the file system that holds a path."""
    with state.place(fields.string(), follow=True) as place:
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.dir_fd)
    try:
        return _space(os.statvfs(way_to(fd)))
    finally:
        os.close(fd)


def fstatvfs(state: State, fields: Fields) -> Reply:
    """fstatvfs@openssh.com: of the file system that holds an open file."""
    return _space(os.fstatvfs(state.handles.any(fields.string()).fd))


def _space(found: os.statvfs_result) -> Reply:
    numbers = (
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid,
        found.f_flag & (os.ST_RDONLY | os.ST_NOSUID),  # 1 and 2, as the extension has them
        found.f_namemax,
    )
    return wire.EXTENDED_REPLY, [wire.u64(number & (2**64 - 1)) for number in numbers]


def limits(state: State, fields: Fields) -> Reply:
    """limits@openssh.com: clients choose their packets by it."""
    numbers = (wire.MAX_PACKET, wire.MAX_DATA, wire.MAX_DATA, MAX_HANDLES)
    return wire.EXTENDED_REPLY, [wire.u64(number) for number in numbers]


def lsetstat(state: State, fields: Fields) -> Reply:
    """lsetstat@openssh.com: attributes of a link itself."""
    change(state, fields.string(), read_attributes(fields), follow=False)
    return _DONE


def expand_path(state: State, fields: Fields) -> Reply:
    """expand-path@openssh.com: as REALPATH, with ``~`` and ``~user`` for homes."""
    path = fields.string()
    if path.startswith(b"~"):
        user, _, rest = path[1:].partition(b"/")
        path = os.path.join(_home(state, user), rest)
    return one_name(real_path(state, path))


def home_directory(state: State, fields: Fields) -> Reply:
    """home-directory: a user's home, by default the login's."""
    return one_name(_home(state, fields.string()))


def _home(state: State, user: bytes) -> bytes:
    if not user:
        return state.confined.home
    try:
        return os.fsencode(pwd.getpwnam(os.fsdecode(user)).pw_dir)
    except (KeyError, ValueError):  # ValueError: a NUL byte in it
        raise Failed(wire.FAILURE, "no such user") from None


def owners_by_id(state: State, fields: Fields) -> Reply:
    """users-groups-by-id@openssh.com: names, empty where there is none."""
    users, groups = _numbers(fields), _numbers(fields)
    return wire.EXTENDED_REPLY, [
        wire.string(b"".join(wire.string(state.owners.user(number)) for number in users)),
        wire.string(b"".join(wire.string(state.owners.group(number)) for number in groups)),
    ]


def _numbers(fields: Fields) -> list[int]:
    inner = Fields(fields.view())
    if inner.left % 4 or inner.left > 4 * MAX_IDS:
        raise wire.BadPacket(f"not a list of at most {MAX_IDS} numbers")
    return [inner.u32() for _ in range(inner.left // 4)]


def copy_data(state: State, fields: Fields) -> Reply:
    """copy-data: from one open file to another, on the device; length 0 is up to the end."""
    source_handle, start, length = fields.string(), fields.offset(), fields.offset()
    target_handle, at = fields.string(), fields.offset()
    source, target = state.handles.file(source_handle), state.handles.file(target_handle)
    if not target.writable:
        raise Failed(wire.PERMISSION_DENIED, "the file was opened for reading")
    if os.path.sameopenfile(source.fd, target.fd):
        # Reading what was just written would never end, or depend on the size of a step.
        end = start + (length or wire.MAX_OFFSET)
        if start < at + (length or wire.MAX_OFFSET) and at < end:
            raise Failed(wire.FAILURE, "the ranges overlap")
    _copy(state, source, target, start, at, length or wire.MAX_OFFSET)
    return _DONE


def _copy(
    state: State, source: OpenFile, target: OpenFile, start: int, at: int, length: int
) -> None:
    while length:
        data = os.pread(source.fd, min(length, COPY_BYTES), start)
        if not data:
            return
        if at + len(data) > wire.MAX_OFFSET:
            raise wire.BadPacket("an offset beyond 2^63-1")
        state.check_room(target, at, len(data))
        write_all(target.fd, data, at)
        target.moved += len(data)
        source.moved += 0 if source.writable else len(data)
        start, at, length = start + len(data), at + len(data), length - len(data)


_EXTENSIONS: dict[bytes, tuple[bytes, Callable[[State, Fields], Reply]]] = {
    b"posix-rename@openssh.com": (b"1", posix_rename),
    b"statvfs@openssh.com": (b"2", statvfs),
    b"fstatvfs@openssh.com": (b"2", fstatvfs),
    b"hardlink@openssh.com": (b"1", hard_link),
    b"fsync@openssh.com": (b"1", fsync),
    b"lsetstat@openssh.com": (b"1", lsetstat),
    b"limits@openssh.com": (b"1", limits),
    b"expand-path@openssh.com": (b"1", expand_path),
    b"copy-data": (b"1", copy_data),
    b"home-directory": (b"1", home_directory),
    b"users-groups-by-id@openssh.com": (b"1", owners_by_id),
}

#: What VERSION announces: pairs of name and version.
VERSIONS = b"".join(
    wire.string(name) + wire.string(version) for name, (version, _) in _EXTENSIONS.items()
)


def extended(state: State, fields: Fields) -> Reply:
    """EXTENDED: by its name."""
    name = fields.string()
    known = _EXTENSIONS.get(name)
    if known is None:
        raise Failed(wire.OP_UNSUPPORTED, f"no extension {ascii(name[:64])[2:-1]}")
    return known[1](state, fields)
