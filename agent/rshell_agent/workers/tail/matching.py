"""From what was asked for to the files that are there: paths as they are, and patterns."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.tail.rotated import COMPRESSED, MAX_NAMES

__all__ = ["MAX_FILES", "expand", "is_pattern"]

#: Files that one worker follows; each costs a descriptor and a look a second.
MAX_FILES = 200


def is_pattern(path: bytes) -> bool:
    """Whether a path has characters that stand for others."""
    return any(character in path for character in b"*?[")


def expand(confined: Confined, pattern: bytes, folder_seen: Callable[[int], object]) -> list[bytes]:
    """Return the paths that a pattern matches now, in order, without compressed files.

    ``*``, ``?`` and ``[...]`` match within one name; names that begin with a dot only if the
    pattern says so.

    Args:
        confined: The way to folders.
        pattern: Absolute, or relative to the login's home.
        folder_seen: Told the descriptor of each folder that was looked into.
    """
    parts = pattern.split(b"/")
    found = [b""]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if not part or not is_pattern(part):
            found = [path + part + (b"" if last else b"/") for path in found]
            continue
        matched = []
        for folder in found:
            for name in _names(confined, folder or b".", folder_seen):
                if _matches(name, part) and not (last and name.endswith(COMPRESSED)):
                    matched.append(folder + name + (b"" if last else b"/"))
        # One more than is followed, so that it can be said that there are more.
        found = sorted(matched)[: MAX_FILES + 1 if last else MAX_NAMES]
    return found


def _matches(name: bytes, part: bytes) -> bool:
    if name.startswith(b".") and not part.startswith(b"."):
        return False
    return fnmatchcase(name, part)


def _names(confined: Confined, folder: bytes, folder_seen: Callable[[int], object]) -> list[bytes]:
    try:
        descriptor = confined.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []  # not there, not allowed, no folder: nothing in it matches
    try:
        folder_seen(descriptor)
        return [os.fsencode(name) for name in os.listdir(descriptor)[:MAX_NAMES]]
    except OSError:
        return []
    finally:
        os.close(descriptor)
