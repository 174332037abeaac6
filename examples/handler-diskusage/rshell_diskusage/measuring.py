"""How much a directory holds, found out in small steps.  It knows nothing of rshell."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Entries between two steps: a few milliseconds of a slow card.
STEP = 256
#: Hard links that are remembered, so that each file counts once; more count again.
MAX_LINKS = 100_000


@dataclass
class Directory:
    """What is known of one directory: bytes on disk and files, all below included."""

    path: bytes
    depth: int
    size_bytes: int = 0
    files: int = 0
    unreadable: int = 0
    entries: list[os.DirEntry[bytes]] = field(default_factory=list, repr=False)


def measure(root: bytes) -> Iterator[Directory | None]:
    """Yield each directory when it is known, the deepest first, and None for "not done yet".

    Symbolic links and other file systems are not entered.
    """
    device = os.stat(root).st_dev
    links: set[int] = set()
    stack = [_entered(Directory(root, 0))]
    steps = 0
    while stack:
        top = stack[-1]
        if not top.entries:
            stack.pop()
            if stack:
                _add(stack[-1], top)
            yield top
            continue
        steps += 1
        if steps % STEP == 0:
            yield None
        entry = top.entries.pop()
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            top.unreadable += 1
            continue
        if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
            if status.st_ino in links:
                continue
            if len(links) < MAX_LINKS:
                links.add(status.st_ino)
        top.size_bytes += status.st_blocks * 512
        if entry.is_dir(follow_symlinks=False):
            if status.st_dev == device:
                stack.append(_entered(Directory(entry.path, top.depth + 1)))
        else:
            top.files += 1


def _entered(directory: Directory) -> Directory:
    try:
        with os.scandir(directory.path) as entries:
            directory.entries = list(entries)
    except OSError:
        directory.unreadable += 1
    return directory


def _add(parent: Directory, child: Directory) -> None:
    parent.size_bytes += child.size_bytes
    parent.files += child.files
    parent.unreadable += child.unreadable
