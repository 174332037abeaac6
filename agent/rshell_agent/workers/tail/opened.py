"""One file that is read to its end, and then on as it grows.

It is known by its inode while it is open, so a rotation by rename changes nothing here.  That it
was truncated is seen by its size, and by its beginning: a log that is copied and truncated may have
grown past our place again before we look.
"""

from __future__ import annotations

import os
from _blake2 import blake2b  # hashlib loads libcrypto, 3 MB, for the same function
from base64 import b64decode
from typing import NamedTuple

from rshell_agent.workers.tail.cutting import Line, LineCutter
from rshell_agent.workers.tail.records import path_fields

__all__ = ["HEAD_BYTES", "READ_BYTES", "Key", "Mark", "OpenedFile", "read_mark"]

#: A file's beginning, by which it is known again.
HEAD_BYTES = 1024
#: One read(2): throughput, against what a turn keeps in memory.
READ_BYTES = 256 * 1024

#: Device and inode.
Key = tuple[int, int]


class Mark(NamedTuple):
    """Where an earlier worker was in a file, as its operator's end knows."""

    path: bytes
    inode: int
    head: int
    digest: str
    pos: int
    mid: bool


def digest_of(head: bytes) -> str:
    """Return what tells two beginnings apart."""
    return blake2b(head, digest_size=16).hexdigest()


class OpenedFile:
    """A descriptor and a place in it.

    Args:
        number: Names it in records.
        path: As it was found.
        descriptor: Of a regular file; closed by `close`.
        key: How it is known.
        now: Monotonic seconds.

    Attributes:
        pos: Up to where it was read.
        done: Up to where everything was told, or need not be.
        told: The newest place that the other end knows.
        free_until: What lies before this is not charged to the rate.
        limit: Where to stop reading; None follows.
        wanted: Whether a path still leads here.
        grew_at: When it last had something new, or lost its path.
        dropped: Lines left out and not told yet; since ``dropped_at``.
        watch: Of `Wakeups`.
    """

    def __init__(self, number: int, path: bytes, descriptor: int, key: Key, now: float) -> None:
        self.number = number
        self.path = path
        self.key = key
        self.descriptor = descriptor
        self.pos = self.done = self.told = self.free_until = 0
        self.limit: int | None = None
        self.wanted = True
        self.unwanted_at = self.grew_at = self.dropped_at = now
        self.dropped = 0
        self.watch = -1
        self.cutter = LineCutter()
        self._head = os.pread(descriptor, HEAD_BYTES, 0)

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def fits(self, mark: Mark) -> bool:
        """Whether this is, by its beginning, the file that a mark was made in."""
        head = self._head[: mark.head]
        long_enough = len(head) == mark.head and self.size >= mark.pos
        return long_enough and digest_of(head) == mark.digest

    def begin_at(self, place: int, free_until: int, *, mid: bool = False) -> None:
        """Go to a place; what was known of a line there is forgotten."""
        self.pos = self.done = self.told = place
        self.free_until = free_until
        self.cutter = LineCutter(mid)

    def facts(self) -> dict[str, object]:
        """Return the fields of its ``file`` record."""
        self.told = self.done
        return {
            "file": self.number,
            "dev": self.key[0],
            "ino": self.key[1],
            "head": len(self._head),
            "digest": digest_of(self._head),
            "pos": self.done,
            "mid": self.cutter.continues,
            **path_fields(self.path),
        }

    def read(self) -> bytes | None:
        """Return what comes next and go behind it; b"" if there is nothing, None if truncated."""
        wanted = READ_BYTES
        if self.limit is not None:
            wanted = min(wanted, self.limit - self.pos)
        if self.pos < self.free_until:
            wanted = min(wanted, self.free_until - self.pos)
        data = os.pread(self.descriptor, wanted, self.pos) if wanted > 0 else b""
        if not data:
            return None if self.limit is None and self.size < self.pos else b""
        # Looked at after the read: what was read is of the file whose beginning this is.
        if self.limit is None and not self._begins_as_before():
            return None
        self.pos += len(data)
        return data

    def _begins_as_before(self) -> bool:
        return os.pread(self.descriptor, len(self._head), 0) == self._head

    def head_grew(self) -> bool:
        """Look at the beginning again; whether there is more of it than was known."""
        if len(self._head) == HEAD_BYTES:
            return False
        head = os.pread(self.descriptor, HEAD_BYTES, 0)
        grew = len(head) > len(self._head) and head.startswith(self._head)
        if grew:
            self._head = head
        return grew

    def restart(self) -> None:
        """It was truncated: what it has now is new."""
        self._head = os.pread(self.descriptor, HEAD_BYTES, 0)
        self.begin_at(0, 0)

    def flush(self) -> Line | None:
        """Return the unfinished line."""
        line = self.cutter.flush(self.pos)
        self.done = self.pos
        return line

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def read_mark(value: dict[str, object]) -> Mark:
    """Return a mark as the operator's end sent it back.

    Raises:
        ValueError: It is none.
    """
    path, path_b64 = value.get("path"), value.get("path_b64")
    name = path.encode() if isinstance(path, str) else b64decode(str(path_b64), validate=True)
    numbers = [value.get(key) for key in ("ino", "head", "pos")]
    inode, head, pos = (number if type(number) is int else -1 for number in numbers)
    if not name or min(inode, head, pos) < 0 or head > HEAD_BYTES:
        raise ValueError("not a mark")
    return Mark(name, inode, head, str(value.get("digest")), pos, value.get("mid") is True)
