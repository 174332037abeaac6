"""This machine's side of a copy, as its reactor sees it: all that blocks is sent to threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from rshell.client.files.device_end import MAX_ENTRIES
from rshell.client.files.landing import Folder
from rshell.client.files.local import Descent, LocalFile, entry_of, local_error, walk_local
from rshell.client.files.naming import join
from rshell.client.files.plan import Found, Problem, Step, Target
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import CopyState, stepped

__all__ = ["LocalEnd", "open_source"]

#: So many are looked at in one go in a thread.
LOT = 200


def open_source(descents: dict[bytes, Descent], step: Step) -> LocalFile:
    """Open a step's source.

    Args:
        descents: By root; grows.
        step: A file.

    Raises:
        FilesError: It cannot be opened.
    """
    try:
        if not step.source_path:
            # The operator named it: links on the way and at its end are meant.
            return LocalFile(None, step.source_root, b"", follow=True)
        descent = descents.get(step.source_root)
        if descent is None:
            descent = descents[step.source_root] = Descent(step.source_root)
        folder, name = descent.parent(step.source_path)
        return LocalFile(folder, name, step.source_path)
    except OSError as error:
        raise local_error(error, step.source) from None


class LocalEnd:
    """This machine in a copy.

    Args:
        state: Of the copy.
    """

    def __init__(self, state: CopyState) -> None:
        self._state = state
        self._folder: Folder | None = None
        self._descents: dict[bytes, Descent] = {}

    def close(self) -> None:
        """Close all descriptors."""
        if self._folder is not None:
            self._folder.close()
        for descent in self._descents.values():
            descent.close()

    # -- as a source -----------------------------------------------------------------------------

    async def find(self, path: bytes, *, recursive: bool) -> list[Found]:
        """Look a source up; the operator's shell has expanded patterns.

        Raises:
            FilesError: It is not there, or cannot be looked at.
        """
        found, notes = await self._state.in_thread(_find, path, recursive)
        for note in notes:
            self._state.problem(Problem(join(path, note.path or b""), note))
        return [found]

    @property
    def descents(self) -> dict[bytes, Descent]:
        """Ways down to sources, for `open_source`; used by one thread at a time."""
        return self._descents

    async def source_digests(self, steps: Sequence[Step]) -> list[str | None]:
        """Return the digests of sources; None where there is none to be had."""

        def opened(step: Step) -> LocalFile:
            return open_source(self._descents, step)

        return [await self._digest(opened, step) for step in steps]

    async def _digest(self, opened: Callable[[Step], LocalFile], step: Step) -> str | None:
        try:
            return await stepped(self._state, _digest(opened, step))
        except (FilesError, OSError):
            return None

    # -- as a destination ------------------------------------------------------------------------

    async def target(self, path: bytes) -> Target:
        """Look a destination up."""
        return await self._state.in_thread(_target, path)

    async def settle(self, root: bytes) -> Folder:
        """Open the folder below which everything lands.

        Raises:
            FilesError: There is none.
        """

        def opened() -> Folder:
            try:
                return Folder(root, lambda: self._state.stopped)
            except OSError as error:
                raise local_error(error, root or b".") from None

        self._folder = await self._state.in_thread(opened)
        return self._folder

    @property
    def folder(self) -> Folder:
        """Where everything lands; after `settle`."""
        assert self._folder is not None
        return self._folder

    async def survey(self, steps: Sequence[Step]) -> dict[bytes, Entry]:
        """Look up what is at all the steps' destinations, by their whole paths."""
        present: dict[bytes, Entry] = {}
        for start in range(0, len(steps), LOT):
            self._state.check()
            lot = steps[start : start + LOT]
            for step, entry in zip(
                lot, await self._state.in_thread(self._survey, lot), strict=True
            ):
                if entry is not None:
                    present[step.target] = entry
        return present

    def _survey(self, steps: Sequence[Step]) -> list[Entry | None]:
        found: list[Entry | None] = []
        for step in steps:
            try:
                found.append(self.folder.entry(step.target_path))
            except FilesError:
                found.append(None)  # whatever is done to it will tell why
        return found

    async def target_digests(self, steps: Sequence[Step]) -> list[str | None]:
        """Return the digests of what is at destinations; None where there is none to be had."""

        def opened(step: Step) -> LocalFile:
            folder, name = self.folder.open_file(step.target_path)
            return LocalFile(folder, name, step.target_path)

        return [await self._digest(opened, step) for step in steps]

    async def make(self, steps: Sequence[Step]) -> None:
        """Make folders and links."""
        for start in range(0, len(steps), LOT):
            self._state.check()
            lot = steps[start : start + LOT]
            for step, made in zip(lot, await self._state.in_thread(self._make, lot), strict=True):
                if isinstance(made, FilesError):
                    self._state.failed(step, made)
                else:
                    self._state.finished(step, "copied" if made else "unchanged")

    def _make(self, steps: Sequence[Step]) -> list[bool | FilesError]:
        made: list[bool | FilesError] = []
        for step in steps:
            try:
                if step.kind == "dir":
                    made.append(self.folder.make_folder(step.target_path))
                else:
                    made.append(self.folder.make_link(step.target_path, step.entry.target))
            except FilesError as error:
                made.append(error)
        return made

    async def dress(self, steps: Sequence[Step]) -> None:
        """Set mode and times, the innermost first; what cannot be set is told."""
        inward = list(reversed(steps))
        for start in range(0, len(inward), LOT):
            self._state.check()
            for problem in await self._state.in_thread(self._dress, inward[start : start + LOT]):
                self._state.problem(problem)

    def _dress(self, steps: Sequence[Step]) -> list[Problem]:
        problems: list[Problem] = []
        for step in steps:
            try:
                self.folder.dress(step.target_path, step.entry)
            except FilesError as error:
                if error.code != "not-found":
                    problems.append(Problem(step.source, error))
        return problems


def _find(path: bytes, recursive: bool) -> tuple[Found, list[FilesError]]:
    notes: list[FilesError] = []
    try:
        entry = entry_of(b"", os.stat(path or b"."))
        below: list[Entry] = []
        if entry.kind == "dir" and recursive:
            below = walk_local(path, notes, MAX_ENTRIES)
    except OSError as error:
        raise local_error(error, path) from None
    return Found(path, entry, below), notes


def _target(path: bytes) -> Target:
    try:
        entry: Entry | None = entry_of(b"", os.stat(path or b"."))
    except FileNotFoundError:
        entry = None
        if os.path.lexists(path):
            raise FilesError("loop", "it is a link that leads nowhere", path) from None
    except OSError as error:
        raise local_error(error, path) from None
    if entry is not None and entry.kind == "file" and os.path.islink(path):
        # What the operator named by a link is written where the link leads, as cp does.
        path = os.path.realpath(path)
    return Target(path, entry)


def _digest(opened: Callable[[Step], LocalFile], step: Step) -> Iterator[str]:
    file = opened(step)
    try:
        yield from file.hash_prefix(file.entry.size)
    finally:
        file.close()
