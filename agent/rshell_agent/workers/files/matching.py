"""``glob``: paths by a pattern (docs/files.md FT19)."""

from __future__ import annotations

import fnmatch
import os
import re
import stat

from rshell_agent.workers.files.desk import Desk, Request, closing
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.fields import b64
from rshell_agent.workers.files.walking import DIRECTORY, Pages, names_in

__all__ = ["glob"]

#: More than anybody means; the memory to tell them apart is bounded by it.
MAX_MATCHES = 100_000
#: Each ``**`` may look into every directory below.
MAX_WILD = 8
MAX_COMPONENTS = 256

_MAGIC = re.compile(rb"[*?\[]")


def glob(desk: Desk, request: Request) -> None:
    """Send the paths that a pattern matches."""
    pattern = request.fields.path("pattern")
    _Match(desk, Pages(request, "paths")).run(pattern)


class _Match:
    def __init__(self, desk: Desk, pages: Pages) -> None:
        self._desk = desk
        self._pages = pages
        self._seen: set[bytes] = set()

    def run(self, pattern: bytes) -> None:
        # "a//b" is "a/b"; a slash at the end asks for directories and stays.
        start = b"/" if pattern.startswith(b"/") else b""
        parts = [part for part in pattern.split(b"/") if part]
        wild = sum(part == b"**" for part in parts)
        if len(parts) > MAX_COMPONENTS or wild > MAX_WILD:
            raise Fault("bad-request", f"a pattern of at most {MAX_WILD} ** and 256 parts", pattern)
        if pattern.endswith(b"/") and parts:
            parts.append(b"")
        self._expand(start, parts)
        self._pages.end()

    def _expand(self, base: bytes, parts: list[bytes]) -> None:
        """Add what `parts` match below `base` (which ends with a slash, or is empty)."""
        index = 0
        while index < len(parts) and not _MAGIC.search(parts[index]):
            index += 1
        if index == len(parts):
            self._add(base + b"/".join(parts))
            return
        base += b"".join(part + b"/" for part in parts[:index])
        part, rest = parts[index], parts[index + 1 :]
        if part == b"**":
            self._anywhere(base, rest)
            return
        for name in self._names(base, part):
            if not rest:
                self._add(base + name, known=True)
            else:
                self._expand(base + name + b"/", rest)

    def _anywhere(self, base: bytes, rest: list[bytes]) -> None:
        waiting = [base]
        while waiting:
            place = waiting.pop()
            if rest:
                self._expand(place, rest)
            elif place != base:
                self._add(place.rstrip(b"/"), known=True)
            directories = []
            for name, is_directory in self._children(place):
                if name.startswith(b"."):
                    continue
                if is_directory:
                    directories.append(place + name + b"/")
                elif not rest:
                    self._add(place + name, known=True)
            waiting.extend(reversed(directories))

    def _names(self, base: bytes, part: bytes) -> list[bytes]:
        matches = re.compile(fnmatch.translate(os.fsdecode(part))).match
        hidden = part.startswith(b".")
        try:
            with closing(self._desk.confined.open(base or b".", DIRECTORY)) as descriptor:
                names = names_in(descriptor)
        except OSError:
            return []  # no directory, or none that we may read: nothing matches there
        return [
            name
            for name in names
            if (hidden or not name.startswith(b".")) and matches(os.fsdecode(name))
        ]

    def _children(self, place: bytes) -> list[tuple[bytes, bool]]:
        found = []
        try:
            with closing(self._desk.confined.open(place or b".", DIRECTORY)) as descriptor:
                for name in names_in(descriptor):
                    try:
                        mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                    except FileNotFoundError:
                        continue
                    found.append((name, stat.S_ISDIR(mode)))
        except OSError:
            return []
        return found

    def _add(self, path: bytes, known: bool = False) -> None:
        if path in self._seen:
            return
        if not known:
            try:
                info = self._desk.confined.stat(path or b"/", follow=path.endswith(b"/"))
            except OSError:
                return
            if path.endswith(b"/") and not stat.S_ISDIR(info.st_mode):
                return
        if len(self._seen) >= MAX_MATCHES:
            raise Fault("bad-request", f"the pattern matches more than {MAX_MATCHES:,} paths")
        self._seen.add(path)
        self._pages.add(b64(path))
