"""A device's side of a copy: what is there, and everything but the content of files.

Requests are pipelined: whatever need not wait for an answer does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList

from rshell.client.files.connection import FilesConnection
from rshell.client.files.frames import NOTE, REPLY
from rshell.client.files.naming import PART_NAME, join, matches, shown
from rshell.client.files.pages import decoded_note, decoded_paths
from rshell.client.files.plan import Found, Problem, Step, Target
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import CopyState

__all__ = ["MAX_ENTRIES", "DeviceEnd", "Present", "has_pattern"]

#: What is planned at once: each takes some 500 bytes here.
MAX_ENTRIES = 1_000_000
#: Requests without an answer; the device serves them one by one.
MAX_ASKED = 500
#: A folder with more of our names than this is listed instead of asked for each.
MAX_STATS = 16
_WILD = b"*?["


def has_pattern(path: bytes) -> bool:
    """Whether a path on a device is a pattern."""
    return any(character in path for character in _WILD)


class Present:
    """What is at a destination already.

    Attributes:
        entries: By the whole path.
        parts: Paths of unfinished files.
        listed: Folders whose parts are all known.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.parts: set[bytes] = set()
        self.listed: set[bytes] = set()

    def may_have_part(self, step: Step, part: bytes) -> bool:
        """Whether an unfinished file may be beside a destination."""
        folder = os.path.dirname(step.target)
        return folder not in self.listed or join(folder, part) in self.parts


class _Listing:
    """Takes the pages of a walk or a glob."""

    def __init__(self, key: str) -> None:
        self.items: list[Any] = []
        self.notes: list[FilesError] = []
        self._key = key

    def __call__(self, kind: int, payload: bytes) -> None:
        if kind == REPLY:
            self.add(msgspec.json.decode(payload, type=dict[str, Any]))
        elif kind == NOTE:
            if len(self.notes) >= MAX_ENTRIES:
                raise FilesError("too-large", f"more than {MAX_ENTRIES:,} remarks", b"")
            text, path = decoded_note(payload)
            self.notes.append(FilesError("not-a-file", text, path))

    def add(self, page: dict[str, Any]) -> None:
        """Take in one page."""
        items = page.get(self._key)
        if not isinstance(items, list):
            raise FilesError("protocol", "the device sent a page that cannot be read", b"")
        if len(self.items) + len(items) > MAX_ENTRIES:
            raise FilesError("too-large", f"there are more than {MAX_ENTRIES:,} files", b"")
        self.items += items


class DeviceEnd:
    """One device in a copy.

    Args:
        state: Of the copy.
        connection: To the device.
    """

    def __init__(self, state: CopyState, connection: FilesConnection) -> None:
        self._state = state
        self.connection = connection

    @property
    def ended(self) -> bool:
        """Whether the session is over, so that nothing more can be asked."""
        return self.connection.error is not None

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask one thing.

        Raises:
            FilesError: The device says why not.
        """
        return await self.connection.request(op, **fields)

    async def ask_all(
        self, op: str, requests: Iterable[dict[str, Any]]
    ) -> list[dict[str, Any] | FilesError]:
        """Ask many things without waiting for each answer; return answers and errors in order.

        Raises:
            RshellError: The session ended.
        """
        results: list[dict[str, Any] | FilesError] = []
        waiting: list[Deferred[dict[str, Any]]] = []
        for fields in requests:
            self._state.check()
            await self.connection.writable()
            waiting.append(self.connection.begin(op, fields).done)
            if len(waiting) >= MAX_ASKED:
                results += await self._gather(waiting)
        return results + await self._gather(waiting)

    async def _gather(
        self, waiting: list[Deferred[dict[str, Any]]]
    ) -> list[dict[str, Any] | FilesError]:
        answers: list[dict[str, Any] | FilesError] = []
        answer: Any
        for success, answer in await DeferredList(waiting, consumeErrors=True):
            if success:
                answers.append(answer)
            elif isinstance(answer.value, FilesError) and not self.ended:
                answers.append(answer.value)
            else:
                answer.raiseException()
        waiting.clear()
        return answers

    async def _list(self, op: str, key: str, fields: dict[str, Any]) -> _Listing:
        listing = _Listing(key)
        done = self.connection.begin(op, fields, receiver=listing).done
        listing.add(await done)
        return listing

    # -- looking things up ---------------------------------------------------------------------

    async def entry(self, path: bytes, *, follow: bool = True) -> Entry | None:
        """Return what a path names; None if nothing.

        Raises:
            FilesError: It cannot be looked at.
        """
        try:
            answer = await self.ask("stat", path=path, follow=follow)
        except FilesError as error:
            if error.code == "not-found" and not self.ended:
                return None
            raise
        return Entry.decode(answer.get("entry"))

    async def target(self, path: bytes) -> Target:
        """Look a destination up; where only writing is allowed, as if nothing were there."""
        try:
            return Target(path, await self.entry(path or b"."))
        except FilesError as error:
            if error.code != "policy" or self.ended:
                raise
            return Target(path, None)

    async def find(self, path: bytes, *, recursive: bool) -> list[Found]:
        """Look a source up; a pattern may stand for many.

        Raises:
            FilesError: It is not there, or cannot be looked at.
        """
        if not has_pattern(path):
            return [await self._found(path, recursive)]
        listing = await self._list("glob", "paths", {"pattern": path})
        if not listing.items:
            # A name may have such characters itself, as cp's shell would find.
            entry = await self.entry(path)
            if entry is None:
                raise FilesError("not-found", "nothing matches", path)
            return [await self._found(path, recursive)]
        found = decoded_paths(listing.items)
        for one in found:
            if not matches(path, one):
                text = f"the device found {shown(one)}, which nobody asked for"
                raise FilesError("protocol", text, path)
        return [await self._found(one, recursive) for one in found]

    async def _found(self, path: bytes, recursive: bool) -> Found:
        if not recursive:
            entry = await self.entry(path or b".")
            if entry is None:
                raise FilesError("not-found", "there is no such file or folder", path)
            return Found(path, entry)
        fields = {"path": path or b".", "recursive": True, "follow_root": True}
        listing = await self._list("walk", "entries", fields)
        for note in listing.notes:
            self._state.problem(Problem(join(path, note.path or b""), note))
        entries = [Entry.decode(item) for item in listing.items]
        roots = [entry for entry in entries if entry.path == b""]
        if not roots:
            raise FilesError("io", "the device listed nothing", path)
        return Found(path, roots[0], [entry for entry in entries if entry.path != b""])

    async def survey(self, steps: Sequence[Step], target: Target) -> Present:
        """Look up what is at all the steps' destinations.

        Folders are listed level by level, each level at once; what is new costs nothing.
        """
        present = Present()
        waiting: dict[bytes, list[Step]] = {}
        for step in steps:
            if step.named:
                if target.entry is not None:
                    present.entries[step.target] = target.entry
            else:
                waiting.setdefault(os.path.dirname(step.target), []).append(step)
        made = {step.target for step in steps if step.kind == "dir"}
        ready = [folder for folder in waiting if folder not in made]
        for step in steps:
            if step.kind == "dir" and step.named and step.target in present.entries:
                ready.append(step.target)
        while ready:
            inside = [(folder, waiting.pop(folder)) for folder in ready if folder in waiting]
            await self._survey_folders(inside, present)
            ready = [
                step.target
                for _, group in inside
                for step in group
                if step.kind == "dir" and _is_folder(present.entries.get(step.target))
            ]
        return present

    async def _survey_folders(
        self, inside: Sequence[tuple[bytes, list[Step]]], present: Present
    ) -> None:
        few = [step for _, group in inside if len(group) <= MAX_STATS for step in group]
        fields = ({"path": step.target, "follow": False} for step in few)
        for step, answer in zip(few, await self.ask_all("stat", fields), strict=True):
            if not isinstance(answer, FilesError):
                present.entries[step.target] = Entry.decode(answer.get("entry"))
        for folder, group in inside:
            if len(group) > MAX_STATS:
                await self._survey_folder(folder, present)

    async def _survey_folder(self, folder: bytes, present: Present) -> None:
        try:
            listing = await self._list("walk", "entries", {
                "path": folder or b".", "recursive": False, "follow_root": True,
            })  # fmt: skip
        except FilesError:
            if self.ended:
                raise
            return  # what is done to it will tell why
        present.listed.add(folder)
        for item in listing.items:
            entry = Entry.decode(item)
            if entry.path:
                path = join(folder, entry.path)
                present.entries[path] = entry
                if PART_NAME.match(entry.path):
                    present.parts.add(path)

    async def source_digests(self, steps: Sequence[Step]) -> list[str | None]:
        """Return the digests of sources; None where there is none to be had."""
        return await self._digests([step.source for step in steps])

    async def target_digests(self, steps: Sequence[Step]) -> list[str | None]:
        """Return the digests of what is at destinations; None where there is none to be had."""
        return await self._digests([step.target for step in steps])

    async def _digests(self, paths: Sequence[bytes]) -> list[str | None]:
        answers = await self.ask_all("digest", ({"path": path} for path in paths))
        return [None if isinstance(one, FilesError) else one.get("digest") for one in answers]

    # -- making things ---------------------------------------------------------------------------

    async def make_folders(self, steps: Sequence[Step], present: Present) -> None:
        """Make folders that are not there, open to the login alone until `dress`."""
        wanted: list[Step] = []
        for step in steps:
            there = present.entries.get(step.target)
            if _is_folder(there):
                self._state.finished(step, "unchanged")
            else:
                wanted.append(step)
        fields = (
            {"path": step.target, "mode": 0o700, "parents": False, "exist_ok": True}
            for step in wanted
        )
        await self._make("mkdir", wanted, fields)

    async def make_links(self, steps: Sequence[Step], present: Present) -> None:
        """Make symbolic links."""
        wanted: list[Step] = []
        for step in steps:
            there = present.entries.get(step.target)
            if there is not None and (there.kind, there.target) == ("link", step.entry.target):
                self._state.finished(step, "unchanged")
            else:
                wanted.append(step)
        fields = (
            {"path": step.target, "target": step.entry.target, "replace": True} for step in wanted
        )
        await self._make("symlink", wanted, fields)

    async def _make(self, op: str, steps: Sequence[Step], fields: Iterable[dict[str, Any]]) -> None:
        for step, answer in zip(steps, await self.ask_all(op, fields), strict=True):
            if isinstance(answer, FilesError):
                self._state.failed(step, answer)
            else:
                self._state.finished(step, "copied")

    async def dress(self, steps: Sequence[Step]) -> None:
        """Set mode and times, the innermost first; what cannot be set is told."""
        inward = list(reversed(steps))
        fields = (
            {"path": step.target, "mode": step.entry.mode, "mtime_ns": step.entry.mtime_ns,
             "follow": step.named}
            for step in inward
        )  # fmt: skip
        for step, answer in zip(inward, await self.ask_all("setmeta", fields), strict=True):
            if isinstance(answer, FilesError) and answer.code != "not-found":
                self._state.problem(Problem(step.source, answer))


def _is_folder(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == "dir"
