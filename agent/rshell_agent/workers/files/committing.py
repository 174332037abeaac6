"""Small uploads are committed several at a time: what costs is the disk's wait, once for each.

An upload that is complete, checked and dressed waits here, unanswered, as long as the next request
is at hand already and is an upload too.  Then all are synced at once, renamed, and their
directories synced; only then are they answered, in their order.  For each the promise is the same
as if it had been alone (docs/files.md FT26): nothing is renamed that is not on disk, and nothing
answered that is not in its directory for good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from rshell_agent.workers.files.faults import Fault, fault_of
from rshell_agent.workers.files.system import sync_file_system

__all__ = ["Committable", "Group", "Keys"]

#: Each holds two descriptors, of which a login may usually have 1,024.
MAX_UPLOADS = 64
#: More than this is no small file, and writing takes longer than waiting.
MAX_BYTES = 4 << 20
#: From so many on the whole file system is synced, which is one wait instead of many.
WORTH_SYNCFS = 4
#: It also waits for what others have written: if that was long, files are synced one by one
#: for so many groups.
SLOW_SECONDS, SLOW_GROUPS = 1.0, 50

#: Directories (device, inode) and names in them.
Keys = frozenset[tuple[int, int, bytes]]


class Committable(Protocol):
    """A complete upload.

    Attributes:
        fd: Of its part file.
        size: Of the file.
        keys: What no other upload of the group may share: its names in its directory.
        part_name: Of its part file.
        fault: Why it failed; None as long as it has not.
    """

    fault: Fault | None

    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def part_name(self) -> bytes: ...

    def rename(self) -> None:
        """Put it over the destination."""

    def sync_folder(self, synced: set[tuple[int, int]]) -> None:
        """Have the new name on disk, unless its directory is in `synced`; add it."""

    def answer(self) -> None:
        """Tell that it is done, or why it is not."""

    def close(self) -> None:
        """Let go of its files."""


class Group:
    """Uploads that wait to be committed."""

    def __init__(self) -> None:
        self._uploads: list[Committable] = []
        self._bytes = 0
        self._slow = 0

    @property
    def part_names(self) -> set[bytes]:
        """Names of part files that are held here."""
        return {upload.part_name for upload in self._uploads}

    def make_way(self, keys: Keys, size: int) -> None:
        """Commit now if the next upload cannot wait together with these.

        Args:
            keys: Of the next one.
            size: Likewise, in bytes.
        """
        if self._bytes + size > MAX_BYTES or any(keys & u.keys for u in self._uploads):
            self.commit()

    def add(self, upload: Committable) -> None:
        """Take an upload; it is answered and closed here."""
        self._uploads.append(upload)
        self._bytes += upload.size
        if len(self._uploads) >= MAX_UPLOADS or self._bytes > MAX_BYTES:
            self.commit()

    def commit(self) -> None:
        """Commit and answer all that wait."""
        uploads, self._uploads, self._bytes = self._uploads, [], 0
        if not uploads:
            return
        if not self._sync_together(uploads):
            self._each(uploads, lambda upload: os.fsync(upload.fd))
        self._each(uploads, lambda upload: upload.rename())
        # One for each directory; the second has nothing to wait for, but is a call all the same.
        synced: set[tuple[int, int]] = set()
        self._each(uploads, lambda upload: upload.sync_folder(synced))
        for upload in uploads:
            try:
                upload.answer()
            finally:
                upload.close()

    def _each(self, uploads: list[Committable], step: Callable[[Committable], None]) -> None:
        for upload in uploads:
            if upload.fault is None:
                try:
                    step(upload)
                except OSError as error:
                    upload.fault = fault_of(error)
                except Fault as fault:
                    upload.fault = fault

    def _sync_together(self, uploads: list[Committable]) -> bool:
        if len(uploads) < WORTH_SYNCFS:
            return False
        if self._slow:
            self._slow -= 1
            return False
        begun = time.monotonic()
        # They may lie in several file systems.
        devices = {os.fstat(upload.fd).st_dev: upload.fd for upload in uploads}
        done = all(sync_file_system(fd) for fd in devices.values())
        if time.monotonic() - begun > SLOW_SECONDS:
            self._slow = SLOW_GROUPS
        return done
