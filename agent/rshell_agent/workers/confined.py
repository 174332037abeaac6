"""Confined: the only way of a worker to a path (docs/policy.md, "Paths").

The device's policy names roots. Each is opened once, as the login, and every path is walked beneath
one of them by descriptor: a component is opened with O_PATH and O_NOFOLLOW, a symbolic link is read
and its text walked like a path, `..` goes back on the stack of opened folders. So

* what decides is the place that was reached, never the text that was asked for: rights are
  compared with the folders that were really passed;
* whoever swaps a component between two steps changes where a walk goes, but not what it may reach;
* magic links of /proc are text like any other and lead nowhere but where their text says.

Not here: what the login may do (the system decides that), and what is done at a place (place.py).

openat2(RESOLVE_BENEATH) was weighed: it refuses the absolute links that a root of `/` is full of,
does not tell which folders it passed, and the standard library has no call for it.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from errno import EFBIG, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from types import TracebackType

from rshell_agent.workers.place import Denied, Place, Rights, shown
from rshell_agent.workers.touched import Touches
from rshell_agent.workers.trail import (
    Identity,
    Names,
    Root,
    Seal,
    Trail,
    identity,
    link_text,
    split,
)

__all__ = ["Confined", "Denied", "Place", "shown"]

MAX_PATH = 4096  # bytes of a path, as the system's PATH_MAX
MAX_NAME = 255  # bytes of a component, as every file system's
MAX_LINKS = 40  # symbolic links that one path may lead through, as the system's

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _nothing(name: bytes) -> None:
    """Take a step of which nobody wants to know."""


class _Request:
    """One path that is being resolved, and how many links it may still lead through."""

    __slots__ = ("follow", "links", "path", "seals", "write")

    def __init__(self, path: bytes, write: bool, follow: bool, seals: list[Seal]) -> None:
        self.path, self.write, self.follow, self.seals = path, write, follow, seals
        self.links = MAX_LINKS

    def link(self) -> None:
        self.links -= 1
        if self.links < 0:
            raise OSError(ELOOP, f"{shown(self.path)} leads through too many symbolic links")


class Confined:
    """What one worker may reach.

    Args:
        read: Roots beneath which may be looked and read, absolute or beginning with `~`.
        write: Roots beneath which may be written, made, moved and removed.
        deny_read: Places that must not be read, nor what is in them; this wins over `read`.
        deny_write: Likewise for writing.
        max_file_size: Bytes that a file may have that a worker writes; 0 is no limit.
        setid: Whether files may get the set-user-id and set-group-id bits.
        home: Where relative paths begin; by default the environment's HOME.
        step: Called with each name before it is looked up; tests change the world there.

    Attributes:
        touches: Where a worker tells what it did.
    """

    def __init__(
        self,
        read: Iterable[str],
        write: Iterable[str],
        *,
        deny_read: Iterable[str] = (),
        deny_write: Iterable[str] = (),
        max_file_size: int = 0,
        setid: bool = False,
        home: bytes | None = None,
        step: Callable[[bytes], None] = _nothing,
    ) -> None:
        self.home = os.environb.get(b"HOME", b"/") if home is None else home
        self.max_file_size, self.setid = max_file_size, setid
        self.touches = Touches()  # another where the keeper wants to hear of them
        self._step = step
        rights: dict[bytes, list[bool]] = {}
        for right, paths in enumerate((read, write)):
            for path in paths:
                rights.setdefault(self.absolute(os.fsencode(path)), [False, False])[right] = True
        roots = [Root(path, read=r, write=w) for path, (r, w) in rights.items()]
        self._roots = sorted(roots, key=lambda root: len(root.names))  # the outermost first
        self._unread = [Seal(self.absolute(os.fsencode(path))) for path in deny_read]
        self._unwritten = [Seal(self.absolute(os.fsencode(path))) for path in deny_write]

    def __enter__(self) -> Confined:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the roots."""
        for root in self._roots:
            root.close()

    # -- what workers ask for ------------------------------------------------------------------

    def at(self, path: bytes, *, write: bool = False, follow: bool = False) -> Place:
        """Return the folder that holds `path`, opened, and the name in it.

        The name itself need not exist. A root, and what ends in `..`, is `.` in itself.

        Args:
            path: Absolute, or relative to the login's home, as are `~` and `~/x`.
            write: Ask for the right to write there, instead of to read.
            follow: Walk on if the last component is a symbolic link.

        Raises:
            Denied: The policy does not allow it.
            OSError: The system does not: no such folder, no permission, a name too long.
        """
        seals = self._unwritten if write else self._unread
        place = self._resolve(_Request(path, write, follow, seals), self._names(path))
        if not (place.rights.write if write else place.rights.read):
            place.close()
            raise Denied(path)
        return place

    def open(
        self,
        path: bytes,
        flags: int,
        mode: int = 0o666,
        *,
        write: bool = False,
        follow: bool = True,
    ) -> int:
        """Open a regular file or a folder; nothing else is opened, not even for a moment.

        Args:
            path: As for `at`.
            flags: As for `os.open`. What writes or makes needs the right to write, O_RDONLY and
                O_RDWR that to read. O_NONBLOCK, O_NOCTTY and O_CLOEXEC are always added.
            mode: Of a new file.
            write: Ask for the right to write in any case.
            follow: Walk on if the last component is a symbolic link.

        Returns:
            The descriptor, which the caller closes.

        Raises:
            Denied: The policy does not allow it.
            OSError: The system does not; ELOOP for a link that is not followed, EOPNOTSUPP for
                devices, FIFOs and sockets.
        """
        reads = flags & os.O_ACCMODE != os.O_WRONLY
        with self.at(path, write=write or bool(flags & _WRITES), follow=follow) as place:
            if reads and not place.rights.read:
                raise Denied(path)
            self._step(place.name)
            return place.open(flags, mode, self._forbidden(flags))

    def _forbidden(self, flags: int) -> frozenset[Identity | None]:
        """Return what a file must not be that is opened so, under whatever name."""
        seals = self._unread if flags & os.O_ACCMODE != os.O_WRONLY else []
        seals = [*seals, *self._unwritten] if flags & _WRITES else seals
        return frozenset(seal.identity for seal in seals)

    def stat(self, path: bytes, *, follow: bool = True, write: bool = False) -> os.stat_result:
        """Return what is known of a place; with `write` by the right to write there.

        Raises:
            Denied: The policy does not allow it.
            OSError: It is not there, or the login may not look.
        """
        with self.at(path, write=write, follow=follow) as place:
            return place.stat()

    def may(self, path: bytes, *, write: bool = False) -> bool:
        """Whether the policy has nothing against it; the system still may.

        Of what cannot be walked, because it is not there or the login may not pass, the text alone
        is judged. That is no promise for when it can.
        """
        try:
            self.at(path, write=write, follow=True).close()
        except Denied:
            return False
        except OSError:
            return self._may_by_text(path, write)
        return True

    def roots(self, *, write: bool = False) -> list[bytes]:
        """Return where it may be read, or written; what is denied within is not told."""
        allowed = [root for root in self._roots if (root.write if write else root.read)]
        return [b"/" + b"/".join(root.names) for root in allowed]

    def mode(self, mode: int) -> int:
        """Return the permission bits that a file may get: set-id only if the policy says so."""
        return stat.S_IMODE(mode) & (0o7777 if self.setid else 0o1777)

    def check_size(self, size: int) -> None:
        """Refuse a file that would be larger than the policy allows, before it is begun.

        Raises:
            OSError: EFBIG, as from a write beyond it (docs/keeper.md K46).
        """
        if self.max_file_size and size > self.max_file_size:
            most = f"the device's policy allows files of {self.max_file_size} bytes"
            raise OSError(EFBIG, f"{most}, not of {size}")

    # -- the walk --------------------------------------------------------------------------------

    def absolute(self, path: bytes) -> bytes:
        """Return what a path means as text; nothing is looked up."""
        if path == b"~" or path.startswith(b"~/"):
            path = path[2:]
        return os.path.join(self.home, path)

    def _names(self, path: bytes) -> Names:
        if not path:
            raise FileNotFoundError(ENOENT, "the path is empty")
        if b"\0" in path:
            raise OSError(EINVAL, "the path holds a NUL byte")
        if len(path) > MAX_PATH:
            raise OSError(ENAMETOOLONG, f"the path is longer than {MAX_PATH} bytes")
        names = split(self.absolute(path))
        if any(len(name) > MAX_NAME for name in names):
            raise OSError(ENAMETOOLONG, f"a name in the path is longer than {MAX_NAME} bytes")
        return names

    def _may_by_text(self, path: bytes, write: bool) -> bool:
        try:
            names = self._names(path)
        except OSError:
            return False
        roots = [root for root in self._roots if (root.write if write else root.read)]
        seals = self._unwritten if write else self._unread
        held = any(names[: len(root.names)] == root.names for root in roots)
        return held and not any(seal.covers(names) for seal in seals)

    def _resolve(self, request: _Request, names: Names) -> Place:
        """Walk beneath each root that the text begins with, until one grants the right.

        The outermost comes first: only from there `..` and links go as far as they may.
        """
        denied = Denied(request.path)
        failure: OSError = denied
        found = False
        for root in self._roots:
            if names[: len(root.names)] != root.names:
                continue
            try:
                place = self._walk(root, request, names[len(root.names) :])
            except OSError as error:
                failure = error if failure is denied and not found else failure
                continue
            if place.rights.write if request.write else place.rights.read:
                return place
            place.close()
            found, failure = True, denied  # it is there, and that is all that may be known
        raise failure

    def _walk(self, root: Root, request: _Request, names: Names) -> Place:
        pending = deque(names)
        trail = Trail(root)
        try:
            while pending:
                name = pending.popleft()
                if name == b"..":
                    if not trail.leave() and root.real:  # what is above / is / again
                        raise Denied(request.path)
                    continue
                self._step(name)
                if request.seals:
                    self._check_seals(request, trail, name)
                if not pending:
                    text = link_text(name, trail.fd) if request.follow else None
                    if text is None:
                        return self._place(trail, name)
                else:
                    text = self._enter(trail, name)
                    if text is None:
                        continue
                request.link()
                if text.startswith(b"/"):  # asked anew: it may lie beneath another root
                    trail.close()
                    return self._resolve(request, [*split(text), *pending])
                pending.extendleft(reversed(split(text)))
            return self._place(trail, b".")
        finally:
            trail.close()

    def _check_seals(self, request: _Request, trail: Trail, name: bytes) -> None:
        """Go into nothing that is denied, so as not to tell what is in there."""
        names = [*trail.root.real, *trail.names, name]
        if any(seal.covers(names) for seal in request.seals):
            raise Denied(request.path)

    def _enter(self, trail: Trail, name: bytes) -> bytes | None:
        """Go into a folder; return the text if it is a symbolic link."""
        try:
            trail.enter(name)
            return None
        except OSError as error:
            text = link_text(name, trail.fd) if error.errno in (ENOTDIR, ELOOP) else None
            if text is None:
                raise
            return text

    def _place(self, trail: Trail, name: bytes) -> Place:
        names = [*trail.root.real, *trail.names]
        if name != b".":
            names.append(name)
        rights = self._rights(trail, name, names)
        return Place(trail.take(), name, b"/" + b"/".join(names), rights, self.setid)

    def _rights(self, trail: Trail, name: bytes, names: Names) -> Rights:
        """Compare what was passed with the roots, and what was reached with what is denied."""
        read, write = trail.root.read, trail.root.write
        if _is_own_process(names):
            return Rights(read=False, write=False, move=False)
        seals = [*self._unread, *self._unwritten]
        if (read and write) or len(self._roots) == 1:
            passed = trail.identities() if seals else set()
        else:
            passed = trail.identities()
            read = read or any(root.read and root.identity in passed for root in self._roots)
            write = write or any(root.write and root.identity in passed for root in self._roots)
        if seals:
            try:
                found = os.stat(name, dir_fd=trail.fd, follow_symlinks=False)
                passed.add(identity(found))
            except OSError:  # it is still to be made
                pass
        read = read and not any(s.covers(names) or s.identity in passed for s in self._unread)
        write = write and not any(s.covers(names) or s.identity in passed for s in self._unwritten)
        move = read and write and not any(seal.is_in(names) for seal in seals)
        return Rights(read=read, write=write, move=move)


def _is_own_process(names: Names) -> bool:
    """Whether a place is about the worker's own process.

    It began as a copy of the keeper, so that its memory holds what other sessions wrote.
    """
    if names[:1] != [b"proc"] or len(names) < 2 or not names[1].isdigit():
        return False
    return os.path.lexists(b"/proc/self/task/" + names[1])
