"""How much of a file system uploads leave free (docs/files.md FT29)."""

from __future__ import annotations

import os
from typing import NamedTuple

from rshell_agent.workers.files.faults import Fault

__all__ = ["Space"]

#: A device with a full disk cannot even log why it fails; this much keeps it alive.
FLOOR_LEAST = 64 << 20
FLOOR_SHARE = 20
#: A twentieth of a large disk would be far more than any device needs to live.
FLOOR_MOST = 1 << 30
#: Of a small file system a fixed floor could be all of it.
FLOOR_SMALL_SHARE = 10


class Space(NamedTuple):
    """The room in a file system, in bytes."""

    free: int
    size: int
    files_free: int

    @classmethod
    def at(cls, descriptor: int) -> Space:
        """Return that of the file system of an open file or directory."""
        info = os.statvfs(descriptor)
        # Some count no inodes at all, such as btrfs.
        inodes = info.f_favail if info.f_files else 2**31
        return cls(info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize, inodes)

    @property
    def floor(self) -> int:
        """What must stay free."""
        wanted = min(max(FLOOR_LEAST, self.size // FLOOR_SHARE), FLOOR_MOST)
        return min(wanted, self.size // FLOOR_SMALL_SHARE)

    def demand(self, needed: int) -> None:
        """Check that so many bytes more leave the floor free.

        Raises:
            Fault: They do not.
        """
        if self.size and self.free - needed < self.floor:
            message = (
                f"{needed:,} bytes do not fit: {self.free:,} are free, "
                f"of which {self.floor:,} must stay so"
            )
            raise Fault("no-space", message)
        if not self.files_free:
            raise Fault("no-space", "the file system has no room for another file")
