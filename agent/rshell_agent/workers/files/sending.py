"""A file's content on its way to the client: blocks, holes, and the digest of both."""

from __future__ import annotations

import errno
import os
import stat
import struct
from _blake2 import blake2b  # hashlib loads libcrypto, 3 MB, for the same function
from collections.abc import Iterator

from rshell_agent.workers.files.compression import Packer
from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.entries import identity
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.frames import OUT_DATA, OUT_END, OUT_HOLE, Map

__all__ = ["BLOCK_BYTES", "Digest", "Source", "Stream"]

#: What is read, hashed and sent at a time: with its header and first byte it fills 16 frames of
#: the link, so that none of them is cut on its way.
BLOCK_BYTES = 16 * 16_376 - 10
#: So many zeros take a while to hash: the client need not wait for it to know of them.
LONG_HOLE_BYTES = 16 << 20
_ZEROS = bytes(1 << 18)


class Digest:
    """BLAKE2b-256 over plain bytes and holes (docs/files.md FT11)."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)

    def data(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._hash.update(data)

    def hole(self, length: int) -> None:
        """Add zeros."""
        whole, rest = divmod(length, len(_ZEROS))
        for _ in range(whole):
            self._hash.update(_ZEROS)
        self._hash.update(_ZEROS[:rest])

    def hexdigest(self) -> str:
        """Return it so far."""
        return self._hash.hexdigest()


class Source:
    """A regular file that is read, and whether it changes meanwhile.

    Args:
        desk: The session's.
        path: A link at its end is followed.

    Attributes:
        info: As it was when it was opened.
        fd: Its descriptor.

    Raises:
        Fault: It is no regular file.
        OSError: It cannot be opened.
    """

    def __init__(self, desk: Desk, path: bytes) -> None:
        self.fd = desk.confined.open(path, os.O_RDONLY)
        try:
            self.info = os.fstat(self.fd)
            if not stat.S_ISREG(self.info.st_mode):
                raise Fault("is-a-directory", "is a directory")
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)

    @property
    def path(self) -> bytes:
        """Where it really is."""
        return os.readlink(b"/proc/self/fd/%d" % self.fd)

    def changes(self) -> Map:
        """Return what END says of changes meanwhile (FT22)."""
        now = os.fstat(self.fd)
        changed = identity(now) != identity(self.info)
        # Logs grow: who wants them takes what was there.
        grew = {"grew": True} if changed and now.st_size > self.info.st_size else {}
        return {"changed": changed, **grew}

    def blocks(self, offset: int, end: int | None) -> Iterator[bytes | int]:
        """Yield what is between two offsets: bytes, or the length of a hole.

        Args:
            offset: Where to begin.
            end: Where to stop; None reads as long as there is something.
        """
        if end is None:
            while data := os.pread(self.fd, BLOCK_BYTES, offset):
                offset += len(data)
                yield data
            return
        while offset < end:
            start, stop = self._data_at(offset, end)
            if stop <= offset:
                return  # it became shorter
            if start > offset:
                yield start - offset
            while start < stop:
                data = os.pread(self.fd, min(BLOCK_BYTES, stop - start), start)
                if not data:
                    return  # it became shorter
                start += len(data)
                yield data
            offset = stop

    def _data_at(self, offset: int, end: int) -> tuple[int, int]:
        """Return where the next data begins and ends; both are `end` if there is none."""
        if self.info.st_blocks * 512 >= self.info.st_size:
            return offset, end
        try:
            start = os.lseek(self.fd, offset, os.SEEK_DATA)
            return min(start, end), min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # No data up to the end of the file; one that became shorter has none at all.
                size = os.fstat(self.fd).st_size
                return min(end, max(size, offset)), min(end, max(size, offset))
            return offset, end  # a file system that does not know


class Stream:
    """DATA and HOLE frames of one request, and their END.

    Args:
        request: Whose answer it is.
        packer: How blocks are compressed.
    """

    def __init__(self, request: Request, packer: Packer) -> None:
        self.size = 0
        self._request = request
        self._packer = packer
        self._digest = Digest()

    @property
    def digest(self) -> str:
        """Of what was sent so far."""
        return self._digest.hexdigest()

    def send(self, piece: bytes | int) -> None:
        """Send bytes, or a hole of so many."""
        if isinstance(piece, int):
            self._request.send(OUT_HOLE, struct.pack(">Q", piece))
            if piece >= LONG_HOLE_BYTES:
                self._request.flush()
            self._digest.hole(piece)
            self.size += piece
        else:
            self._digest.data(piece)
            self._request.send(OUT_DATA, *self._packer.pack(piece))
            self.size += len(piece)

    def end(self, changes: Map, digest: str | None = None, size: int | None = None) -> None:
        """Send END: of what was sent, or what is given instead."""
        self._request.send_map(
            OUT_END,
            {
                "digest": digest or self._digest.hexdigest(),
                "size": self.size if size is None else size,
                **changes,
            },
        )
