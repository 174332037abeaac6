"""Files that were rotated away while nobody read: found again among their siblings."""

from __future__ import annotations

import os
import re
import stat

from rshell_agent.workers.confined import Confined

__all__ = ["COMPRESSED", "Sibling", "siblings_of"]

#: Names looked at in one folder.
MAX_NAMES = 10_000
#: What cannot be read line by line.
COMPRESSED = (b".gz", b".xz", b".bz2", b".zst", b".lz4", b".Z", b".lzma")
#: What rotation adds to a name.  Another log may begin with the same letters, and is none of it.
_TURN = re.compile(rb"[-._](?:\d[-._:TZ\d]*|old|bak|prev)")


class Sibling:
    """A regular file whose name begins as that of a log, in the log's folder."""

    def __init__(self, path: bytes, info: os.stat_result) -> None:
        self.path = path
        self.key = (info.st_dev, info.st_ino)
        self.changed_ns = info.st_mtime_ns


def siblings_of(confined: Confined, path: bytes) -> list[Sibling]:
    """Return what a log's rotation may have left, oldest first, without the log itself."""
    folder, slash, name = path.rpartition(b"/")
    try:
        descriptor = confined.open(folder + slash or b".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    found = []
    try:
        for other in os.listdir(descriptor)[:MAX_NAMES]:
            encoded = os.fsencode(other)
            if encoded == name or not _is_kin(encoded, name) or encoded.endswith(COMPRESSED):
                continue
            try:
                info = os.stat(other, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                continue  # rotated on just now
            if stat.S_ISREG(info.st_mode):
                found.append(Sibling(folder + slash + encoded, info))
    except OSError:
        return []
    finally:
        os.close(descriptor)
    return sorted(found, key=lambda sibling: sibling.changed_ns)


def _is_kin(other: bytes, name: bytes) -> bool:
    """Whether a name is that of a rotated log: app.log.1, app.log-20261122, app-20261122.log."""
    if other.startswith(name):
        return _TURN.fullmatch(other[len(name) :]) is not None
    stem, dot, suffix = name.rpartition(b".")
    if not dot or not other.startswith(stem) or not other.endswith(dot + suffix):
        return False
    return _TURN.fullmatch(other[len(stem) : -len(suffix) - 1]) is not None
