"""Looking without reading: hello, stat, statvfs, walk (docs/files.md FT16 to FT18, FT21)."""

from __future__ import annotations

import json
import os
import stat as modes

from rshell_agent.workers.files import compression, space
from rshell_agent.workers.files.desk import Desk, Request, closing
from rshell_agent.workers.files.entries import entry_of
from rshell_agent.workers.files.faults import fault_of
from rshell_agent.workers.files.fields import b64
from rshell_agent.workers.files.frames import REPLY

__all__ = ["DIRECTORY", "Pages", "hello", "names_in", "stat", "statvfs", "walk"]

#: One page: what a client decodes in a few milliseconds.
PAGE_ENTRIES = 500
PAGE_BYTES = 1 << 18
#: Deeper than any path of 4,096 bytes can be.
MAX_DEPTH = 2048
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def hello(desk: Desk, request: Request) -> None:
    """Tell what this worker is."""
    try:
        with closing(desk.confined.open(b"~", DIRECTORY)) as descriptor:
            floor = space.Space.at(descriptor).floor
    except OSError:
        floor = 0  # a home that policy hides, or none at all
    old = os.umask(0o022)
    os.umask(old)
    request.reply(
        {
            "version": 1,
            "home": b64(desk.confined.home),
            "login": desk.login,
            "compress": list(compression.available()),
            "umask": old,
            "read": [root.decode("utf-8", "replace") for root in desk.confined.roots()],
            "write": [root.decode("utf-8", "replace") for root in desk.confined.roots(write=True)],
            "free_floor": floor,
        }
    )


def stat(desk: Desk, request: Request) -> None:
    """Tell what one path is."""
    path, follow = request.fields.path(), request.fields.flag("follow", True)
    info = desk.confined.stat(path, follow=follow)
    target = _target(desk, path) if modes.S_ISLNK(info.st_mode) else b""
    request.reply({"entry": entry_of(info, desk.names, target=target)})


def _target(desk: Desk, path: bytes) -> bytes:
    with desk.confined.at(path) as place:
        return place.readlink()


def statvfs(desk: Desk, request: Request) -> None:
    """Tell what room there is."""
    path = request.fields.path()
    info = desk.confined.stat(path)
    if modes.S_ISDIR(info.st_mode):
        with closing(desk.confined.open(path, DIRECTORY)) as descriptor:
            found = space.Space.at(descriptor)
    else:
        with desk.confined.at(path, follow=True) as place:
            found = space.Space.at(place.dir_fd)
    request.reply(
        {
            "free": found.free,
            "size": found.size,
            "files_free": found.files_free,
            "floor": found.floor,
        }
    )


class Pages:
    """Collects items and sends them by the page.

    Args:
        request: Whose answer they are.
        key: What a page calls them.
    """

    def __init__(self, request: Request, key: str) -> None:
        self._request = request
        self._key = key
        self._items: list[str] = []
        self._size = 0

    def add(self, item: object) -> None:
        """Add an item; a full page is sent."""
        encoded = json.dumps(item, separators=(",", ":"))
        self._items.append(encoded)
        self._size += len(encoded) + 1
        if len(self._items) >= PAGE_ENTRIES or self._size >= PAGE_BYTES:
            self._send(',"more":true')
            self._items, self._size = [], 0

    def end(self) -> None:
        """Send the last page, be it empty."""
        self._send("")

    def _send(self, rest: str) -> None:
        page = f'{{"{self._key}":[{",".join(self._items)}]{rest}}}'
        self._request.send(REPLY, page.encode())


def names_in(descriptor: int) -> list[bytes]:
    """Return the names in an open directory, sorted by bytes."""
    return sorted(os.fsencode(name) for name in os.listdir(descriptor))


def walk(desk: Desk, request: Request) -> None:
    """List what lies below a path."""
    fields = request.fields
    path = fields.path()
    depth = fields.integer("max_depth", MAX_DEPTH, MAX_DEPTH)
    if not fields.flag("recursive", False):
        depth = min(depth, 1)
    info = desk.confined.stat(path, follow=fields.flag("follow_root", True))
    target = _target(desk, path) if modes.S_ISLNK(info.st_mode) else b""
    pages = Pages(request, "entries")
    pages.add(entry_of(info, desk.names, target=target))
    if modes.S_ISDIR(info.st_mode) and depth:
        _Walk(desk, request, pages, path, depth).run()
    pages.end()


class _Walk:
    """A tree, directories before their content, without recursion."""

    def __init__(self, desk: Desk, request: Request, pages: Pages, root: bytes, depth: int) -> None:
        self._desk = desk
        self._request = request
        self._pages = pages
        self._root = root
        self._depth = depth

    def run(self) -> None:
        """Add everything below the root."""
        # The root's own failure is the request's; those below are notes.
        with closing(self._desk.confined.open(self._root, DIRECTORY)) as descriptor:
            levels = [self._list(descriptor, b"")]
        while levels:
            if not levels[-1]:
                levels.pop()
                continue
            path = levels[-1].pop()
            levels.append(self._enter(path) if len(levels) < self._depth else [])

    def _enter(self, relative: bytes) -> list[bytes]:
        # From the top again, so that policy is asked and no descriptor is held.
        try:
            place = self._root + b"/" + relative
            opened = self._desk.confined.open(place, DIRECTORY, follow=False)
            with closing(opened) as descriptor:
                return self._list(descriptor, relative)
        except OSError as error:
            self._request.note(fault_of(error).message, relative)
            return []

    def _list(self, descriptor: int, relative: bytes) -> list[bytes]:
        """Add what is in an open directory; return the directories in it, last first."""
        inner = []
        for name in names_in(descriptor):
            path = relative + b"/" + name if relative else name
            try:
                info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                link = modes.S_ISLNK(info.st_mode)
                target = os.readlink(name, dir_fd=descriptor) if link else b""
            except FileNotFoundError:
                continue  # it went meanwhile
            except OSError as error:
                self._request.note(fault_of(error).message, path)
                continue
            self._pages.add(entry_of(info, self._desk.names, path, target))
            if modes.S_ISDIR(info.st_mode):
                inner.append(path)
        inner.reverse()
        return inner
