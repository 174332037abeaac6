"""Requests that list folders: OPENDIR and READDIR."""

from __future__ import annotations

import os
from itertools import islice

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.attributes import NOTHING, encode, long_name
from rshell_agent.workers.sftp.handles import OpenFolder
from rshell_agent.workers.sftp.state import State, local
from rshell_agent.workers.sftp.wire import Fields, Reply

__all__ = ["REQUESTS"]

#: Names in one answer: at 255 bytes each, twice, and what stands beside them, still no
#: more than half a packet.
PAGE_NAMES = 200

_END = wire.status(wire.EOF, "end of folder")

Entry = tuple[bytes, bytes, bytes]


def open_folder(state: State, fields: Fields) -> Reply:
    """OPENDIR."""
    path = fields.string()
    fd = state.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        opened = OpenFolder(fd, path)
    except OSError:
        os.close(fd)
        raise
    return wire.HANDLE, [wire.string(state.handles.add(opened))]


def read_folder(state: State, fields: Fields) -> Reply:
    """READDIR: the next page, first the folder's own two names."""
    opened = state.handles.folder(fields.string())
    page: list[Entry] = []
    if not opened.started:
        opened.started = True
        page += _own_names(state, opened)
    while True:
        taken = list(islice(opened.entries, PAGE_NAMES - len(page)))
        page += [entry for found in taken if (entry := _entry(state, found))]
        if page:
            return wire.names(page)
        if not taken:
            return _END  # else all of them vanished since they were read


def _own_names(state: State, opened: OpenFolder) -> list[Entry]:
    here = os.fstat(opened.fd)
    try:
        above = state.confined.stat(local(opened.path) + b"/..")
    except OSError:
        above = here  # beyond what the policy shows; at the top it is the folder itself
    return [_told(state, b".", here), _told(state, b"..", above)]


def _told(state: State, name: bytes, found: os.stat_result) -> Entry:
    return name, long_name(name, found, state.owners, state.clock()), encode(found)


def _entry(state: State, found: os.DirEntry[str]) -> Entry | None:
    name = os.fsencode(found.name)
    try:
        return _told(state, name, found.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError:  # a folder may be readable and yet tell nothing of what is in it
        return name, name, NOTHING


REQUESTS = {wire.OPENDIR: open_folder, wire.READDIR: read_folder}
