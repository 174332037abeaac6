"""What becomes of what: from sources and a destination to single steps, by the rules of cp(1).

Pure: what is where was looked up before.  The rules, which docs/operators.md tells in full:

* a destination that is a folder, or several sources: each source goes into it, under its name;
* else the source becomes the destination;
* a source that ends in ``/.`` (or names none of its own) stands for its contents;
* a folder needs ``-r``; symbolic links below it are copied as links; devices, sockets and FIFOs
  are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import attrs

from rshell.client.files.naming import PART_NAME, UnsafeName, checked_parts, join, last_name, shown
from rshell.client.files.records import Entry, FilesError

__all__ = ["Found", "Place", "PlaceLike", "Plan", "Problem", "Step", "Target", "plan_copies"]


class PlaceLike(Protocol):
    """A path on a device, or on this machine."""

    @property
    def device(self) -> str | None:
        """The device's name or id; None for this machine."""

    @property
    def path(self) -> bytes:
        """As it was typed; relative ones begin at the login's home, or here."""


@attrs.frozen
class Place:
    """A path on a device, or on this machine.

    Attributes:
        device: Name or id; None for this machine.
        path: Bytes, since names need not be UTF-8.
    """

    device: str | None
    path: bytes


@attrs.frozen
class Found:
    """A source, looked up.

    Attributes:
        path: As it was typed, or found by a pattern.
        entry: What it is; a link was followed.
        below: What is in it, if it is a folder that is copied as a whole.
    """

    path: bytes
    entry: Entry
    below: Sequence[Entry] = ()


@attrs.frozen
class Target:
    """The destination, looked up.

    Attributes:
        path: As it was typed.
        entry: What is there; a link was followed.  None if nothing.
    """

    path: bytes
    entry: Entry | None

    @property
    def is_folder(self) -> bool:
        """Whether things go into it."""
        return self.entry is not None and self.entry.kind == "dir"


@attrs.frozen
class Step:
    """One thing to make at the destination.

    Attributes:
        kind: ``dir``, ``file`` or ``link``.
        entry: What the source is.
        source_root: As the operator named it.
        source_path: Below that; empty for itself.
        target_root: A folder as the operator named it.
        target_path: Below that, never empty.
        named: Whether the operator named the destination itself: a link there is followed.
    """

    kind: str
    entry: Entry
    source_root: bytes
    source_path: bytes
    target_root: bytes
    target_path: bytes
    named: bool = False

    @property
    def source(self) -> bytes:
        """The whole path at the source."""
        return join(self.source_root, self.source_path)

    @property
    def target(self) -> bytes:
        """The whole path at the destination."""
        return join(self.target_root, self.target_path)


@attrs.frozen
class Problem:
    """Something that is not copied.

    Attributes:
        source: Its path.
        error: Why not.
        failure: Whether the copy has failed; else it is only told.
    """

    source: bytes
    error: FilesError
    failure: bool = True


@attrs.frozen
class Plan:
    """Steps in their order, folders before what is in them, and what is not copied."""

    steps: Sequence[Step]
    problems: Sequence[Problem]


def plan_copies(
    found: Sequence[Found],
    target: Target,
    *,
    recursive: bool,
    many: bool,
    taken: set[bytes] | None = None,
) -> Plan:
    """Plan all copies to one destination.

    Args:
        found: The sources.
        target: The destination.
        recursive: Whether folders are copied.
        many: Whether several sources were asked for, even if fewer were found.
        taken: Destinations that earlier plans have given away; grows.

    Raises:
        FilesError: The destination does not do for that.
    """
    if not target.is_folder:
        _check_no_folder(found, target, many)
    planner = _Planner(target, recursive, set() if taken is None else taken)
    for source in found:
        planner.add(source)
    return Plan(planner.steps, planner.problems)


def _check_no_folder(found: Sequence[Found], target: Target, many: bool) -> None:
    absent = target.entry is None
    slash = target.path.endswith(b"/")
    folder = len(found) == 1 and found[0].entry.kind == "dir"
    if many or (slash and not (absent and folder)):
        text = "there is no such folder to copy into" if absent else "it is no folder"
        raise FilesError("not-a-directory", text, target.path)


class _Planner:
    def __init__(self, target: Target, recursive: bool, taken: set[bytes]) -> None:
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self._target = target
        self._recursive = recursive
        self._taken = taken

    def add(self, source: Found) -> None:
        """Plan one source."""
        kind = source.entry.kind
        if kind == "dir" and not self._recursive:
            self._refuse(source.path, "is-a-directory", "a folder is copied with -r")
        elif kind not in ("dir", "file"):
            self._refuse(source.path, "not-a-file", "it is no file and no folder")
        else:
            self._add_found(source)

    def _add_found(self, source: Found) -> None:
        root, path, named = self._destination(source)
        if source.entry.kind == "dir":
            entry = self._target.entry
            if named and entry is not None:
                self._refuse(source.path, "not-a-directory", "a folder cannot replace a file")
                return
            if path and not self._take("dir", source.entry, source.path, b"", root, path, named):
                return
            for below in source.below:
                self._add_below(source, below, root, path)
        else:
            self._take("file", source.entry, source.path, b"", root, path, named)

    def _destination(self, source: Found) -> tuple[bytes, bytes, bool]:
        """Return root and path of what a source becomes, and whether the operator named it."""
        target = self._target
        if target.is_folder:
            root = target.path.rstrip(b"/") or target.path[:1]
            root = b"" if root == b"." else root
            return root, last_name(source.path), False
        head, name = os.path.split(target.path.rstrip(b"/"))
        return head, name, True

    def _add_below(self, source: Found, entry: Entry, root: bytes, path: bytes) -> None:
        try:
            relative = b"/".join(checked_parts(entry.path))
        except UnsafeName as error:
            self._refuse(source.path, "bad-name", str(error))
            return
        whole = join(source.path, relative)
        if entry.kind == "other":
            self._pass_over(whole)
        elif not PART_NAME.match(relative.rpartition(b"/")[2]):
            self._take(entry.kind, entry, source.path, relative, root, join(path, relative), False)

    def _take(
        self, kind: str, entry: Entry, source_root: bytes, source_path: bytes,
        root: bytes, path: bytes, named: bool,
    ) -> bool:  # fmt: skip
        """Add a step, unless its place is taken by an earlier one."""
        if path in self._taken:
            text = f"another source has become {shown(join(root, path))} already"
            self._refuse(join(source_root, source_path), "exists", text)
            return False
        self._taken.add(path)
        step = Step(kind, entry, source_root, source_path, root, path, named)
        self.steps.append(step)
        return True

    def _refuse(self, path: bytes, code: str, text: str) -> None:
        self.problems.append(Problem(path, FilesError(code, text, path)))

    def _pass_over(self, path: bytes) -> None:
        text = "passed over: neither file, folder nor link"
        self.problems.append(Problem(path, FilesError("not-a-file", text, path), failure=False))
