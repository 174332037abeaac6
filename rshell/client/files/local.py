"""This machine's side of a copy: walking, reading.  It blocks, so it runs in threads.

Everything below a root that the operator named is reached by descriptors, one component at a
time, never through a symbolic link: neither a folder that is swapped for a link meanwhile, nor a
link that a device had us create a moment ago, leads anywhere else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence

import attrs

from rshell.client.files.compression import MAX_PLAIN_BYTES, Compression
from rshell.client.files.delta import Signature, matches
from rshell.client.files.frames import COPY, DATA, HOLE
from rshell.client.files.naming import join
from rshell.client.files.records import Entry, FilesError

__all__ = ["Descent", "LocalFile", "Piece", "entry_of", "local_error", "walk_local"]

#: Each open level of a tree costs a descriptor.
MAX_DEPTH = 200
#: Work between two pieces, so that a cancelled copy ends soon: holes and copied blocks are cheap
#: on the wire and are hashed all the same.
STEP_BYTES = 16 * 1024 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ZEROS = bytes(1024 * 1024)

_CODES = {
    errno.ENOENT: "not-found",
    errno.EEXIST: "exists",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EISDIR: "is-a-directory",
    errno.ENOTDIR: "not-a-directory",
    errno.ENOTEMPTY: "not-empty",
    errno.ELOOP: "loop",
    errno.ENAMETOOLONG: "name-too-long",
    errno.EFBIG: "too-large",
    errno.ETXTBSY: "busy",
    errno.EBUSY: "busy",
}


def local_error(error: OSError, path: bytes) -> FilesError:
    """Return an error of this machine in the words of the protocol."""
    code = _CODES.get(error.errno or 0, "io")
    return FilesError(code, error.strerror or str(error), path)


def entry_of(path: bytes, status: os.stat_result, target: bytes = b"") -> Entry:
    """Return what stat(2) told as an entry."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
    return Entry(
        path=path,
        kind=kinds.get(stat.S_IFMT(status.st_mode), "other"),
        size=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        inode=status.st_ino,
        dev=status.st_dev,
        nlink=status.st_nlink,
        blocks=status.st_blocks,
        target=target,
    )


class Descent:
    """A root folder, and the way down into it that was gone last.

    Args:
        root: As the operator named it: links in it are followed.

    Raises:
        OSError: It is no folder that can be read.
    """

    def __init__(self, root: bytes) -> None:
        self._root = os.open(root or b".", _FOLDER)
        self._path: list[bytes] = []
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Close all descriptors."""
        self._rise(0)
        os.close(self._root)

    def _rise(self, depth: int) -> None:
        while len(self._descriptors) > depth:
            os.close(self._descriptors.pop())
            self._path.pop()

    def at(self, parts: Sequence[bytes]) -> int:
        """Return the descriptor of a folder, good until the next call.

        Raises:
            OSError: There is none, or a component is a link (ENOTDIR) or too deep (ELOOP).
        """
        if len(parts) > MAX_DEPTH:
            raise OSError(errno.ELOOP, f"more than {MAX_DEPTH} folders deep")
        same = 0
        for ours, theirs in zip(self._path, parts, strict=False):
            if ours != theirs:
                break
            same += 1
        self._rise(same)
        for part in parts[same:]:
            above = self._descriptors[-1] if self._descriptors else self._root
            self._descriptors.append(os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=above))
            self._path.append(part)
        return self._descriptors[-1] if self._descriptors else self._root

    def parent(self, relative: bytes) -> tuple[int, bytes]:
        """Return the folder that holds a path, and the path's last name; see `at`."""
        parts = relative.split(b"/")
        return self.at(parts[:-1]), parts[-1]

    def entry(self, relative: bytes) -> Entry | None:
        """Return what a path names, links not followed; None if nothing."""
        try:
            folder, name = self.parent(relative)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            target = b""
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(name, dir_fd=folder)
        except FileNotFoundError:
            return None
        return entry_of(relative, status, target)


def walk_local(root: bytes, notes: list[FilesError], limit: int) -> list[Entry]:
    """List what is below a folder: folders before their content, by their names' bytes.

    Args:
        root: The folder.
        notes: Gets what could not be read.
        limit: How many entries at most.

    Raises:
        OSError: The folder cannot be read.
        FilesError: Code ``too-large``: there are more.
    """
    descent = Descent(root)
    found: list[Entry] = []
    try:
        _walk_into(descent, b"", found, notes, limit)
    finally:
        descent.close()
    return found


def _walk_into(
    descent: Descent, relative: bytes, found: list[Entry], notes: list[FilesError], limit: int
) -> None:
    parts = relative.split(b"/") if relative else []
    try:
        folder = descent.at(parts)
        names = sorted(os.fsencode(name) for name in os.listdir(folder))
    except OSError as error:
        if not relative:
            raise
        notes.append(local_error(error, relative))
        return
    if len(found) + len(names) > limit:
        raise FilesError("too-large", f"there are more than {limit:,} files", relative)
    for name in names:
        path = join(relative, name)
        try:
            entry = descent.entry(path)
        except OSError as error:
            notes.append(local_error(error, path))
            continue
        if entry is not None:
            found.append(entry)
            if entry.kind == "dir":
                _walk_into(descent, path, found, notes, limit)


@attrs.frozen
class Piece:
    """A part of a file as it is sent.

    Attributes:
        kind: DATA, HOLE or COPY.
        payload: As it goes over the wire.
        plain: Bytes of the file that it stands for.
    """

    kind: int
    payload: bytes | bytearray
    plain: int


class LocalFile:
    """One file of this machine, read from start to end.

    Args:
        folder: Descriptor of its folder; None takes the name as a path of its own.
        name: In it.
        relative: What it is called in errors.
        follow: Whether a link is followed: only one that the operator named.

    Attributes:
        entry: What it is.

    Raises:
        OSError: It cannot be opened.
        FilesError: Code ``not-a-file``.
    """

    def __init__(
        self, folder: int | None, name: bytes, relative: bytes, *, follow: bool = False
    ) -> None:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        self._descriptor = os.open(name, flags | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)
        self.entry = entry_of(relative, os.fstat(self._descriptor))
        if self.entry.kind != "file":
            self.close()
            raise FilesError("not-a-file", "it is no regular file", relative)
        self._hash = hashlib.blake2b(digest_size=32)

    def close(self) -> None:
        """Close it; it may be closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def digest(self) -> str:
        """Of all that was read."""
        return self._hash.hexdigest()

    def rewind(self) -> None:
        """Forget what was read."""
        self._hash = hashlib.blake2b(digest_size=32)

    @property
    def grew(self) -> bool:
        """Whether it is larger than it was when it was opened."""
        return os.fstat(self._descriptor).st_size > self.entry.size

    @property
    def changed(self) -> bool:
        """Whether it is not what it was when it was opened."""
        now = os.fstat(self._descriptor)
        before = self.entry
        return (now.st_size, now.st_mtime_ns) != (before.size, before.mtime_ns)

    def read(self, offset: int, length: int) -> bytes:
        """Read, fewer bytes only at the end."""
        buffer = bytearray(length)
        size = self._read_into(memoryview(buffer), offset)
        return bytes(memoryview(buffer)[:size])

    def _read_into(self, view: memoryview, offset: int) -> int:
        size = 0
        while size < len(view):
            got = os.preadv(self._descriptor, [view[size:]], offset + size)
            if got == 0:
                break
            size += got
        return size

    def hash_prefix(self, size: int) -> Iterator[str]:
        """Read the first bytes; yields the digest so far, now and then and at the end."""
        offset = 0
        buffer = bytearray(min(MAX_PLAIN_BYTES, max(1, size)))
        while offset < size:
            view = memoryview(buffer)[: min(len(buffer), size - offset)]
            got = self._read_into(view, offset)
            self._hash.update(view[:got])
            offset += got
            if got < len(view):
                break
            if offset % STEP_BYTES == 0:
                yield ""
        yield self.digest

    def pieces(
        self,
        compression: Compression,
        piece_bytes: int,
        *,
        start: int = 0,
        signature: Signature | None = None,
    ) -> Iterator[Piece]:
        """Yield the file in pieces, reading as it is asked.

        Args:
            compression: Packs them.
            piece_bytes: How large the data of one may be, `MAX_PLAIN_BYTES` at most.
            start: Where to begin; what is before went through `hash_prefix`.
            signature: Of the file that is there already; what both have is copied there.

        Raises:
            FilesError: Code ``changed``: it is shorter than it was.
            OSError: It cannot be read.
        """
        size = self.entry.size
        if signature is None:
            yield from self._stretch(start, size, compression, piece_bytes)
            return
        position = start
        for run_start, basis, length in _runs(
            matches(self.read, size, signature, start), signature
        ):
            yield from self._stretch(position, run_start, compression, piece_bytes)
            self._hash_stretch(run_start, length)
            payload = basis.to_bytes(8, "big") + length.to_bytes(8, "big")
            yield Piece(COPY, payload, length)
            position = run_start + length
        yield from self._stretch(position, size, compression, piece_bytes)

    def _hash_stretch(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            data = self.read(offset, min(MAX_PLAIN_BYTES, end - offset))
            if not data:
                raise self._shrank()
            self._hash.update(data)
            offset += len(data)

    def _shrank(self) -> FilesError:
        return FilesError("changed", "it got shorter while it was read", self.entry.path)

    def _stretch(
        self, start: int, end: int, compression: Compression, piece_bytes: int
    ) -> Iterator[Piece]:
        """Yield from start to end: data, and holes where the file system knows of some."""
        sparse = self.entry.blocks * 512 < self.entry.size
        while start < end:
            data, hole = self._segment(start, end) if sparse else (start, end)
            while start < data:
                length = min(STEP_BYTES, data - start)
                self._hash_zeros(length)
                yield Piece(HOLE, length.to_bytes(8, "big"), length)
                start += length
            while start < hole:
                length = min(piece_bytes, hole - start)
                buffer = bytearray(1 + length)
                view = memoryview(buffer)[1:]
                if self._read_into(view, start) < length:
                    raise self._shrank()
                self._hash.update(view)
                view.release()
                yield Piece(DATA, compression.pack(buffer), length)
                start += length

    def _segment(self, start: int, end: int) -> tuple[int, int]:
        """Return where the next data begins and ends."""
        try:
            data = os.lseek(self._descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end, end  # a hole to the end, or it shrank: its size is checked at the end
        if data >= end:
            return end, end
        return data, min(end, os.lseek(self._descriptor, data, os.SEEK_HOLE))

    def _hash_zeros(self, length: int) -> None:
        while length > 0:
            self._hash.update(_ZEROS[: min(length, len(_ZEROS))])
            length -= len(_ZEROS)


def _runs(found: Iterator[tuple[int, int]], signature: Signature) -> Iterator[tuple[int, int, int]]:
    """Join neighbouring matches: (place in ours, place in theirs, length)."""
    start = basis = length = 0
    for offset, number in found:
        place = number * signature.block
        if length and offset == start + length and place == basis + length < STEP_BYTES + basis:
            length += signature.length(number)
            continue
        if length:
            yield start, basis, length
        start, basis, length = offset, place, signature.length(number)
    if length:
        yield start, basis, length
