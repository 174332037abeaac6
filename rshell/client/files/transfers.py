"""One file up or down over a `FilesConnection`, with back-pressure both ways.

For whoever has the bytes at hand in the reactor's thread.  A copying engine that prepares frames
elsewhere uses `FilesConnection.begin` and `FilesConnection.send` itself.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.client.files.compression import Compression, unpack
from rshell.client.files.connection import Exchange, FilesConnection
from rshell.client.files.frames import (
    ABORT,
    DATA,
    DATA_OUT,
    END,
    HOLE_OUT,
    REPLY,
    frame,
    hole_frame,
    map_frame,
)
from rshell.client.files.records import Entry, FilesError

__all__ = ["Received", "Upload", "download", "upload_bytes"]

#: What goes into one block of an upload.
BLOCK_BYTES = 1 << 18
#: Holes are handed on as zeros, so many at a time.
_ZEROS = bytes(1 << 18)


@attrs.frozen
class Received:
    """What a download was.

    Attributes:
        entry: The source when it was opened.
        size: Bytes that came, holes included.
        digest: BLAKE2b-256 of them, checked.
        changed: Whether the source changed meanwhile.
    """

    entry: Entry
    size: int
    digest: str
    changed: bool


async def download(
    connection: FilesConnection,
    path: bytes,
    write: Callable[[bytes | memoryview], Deferred[None] | None],
    *,
    opened: Callable[[Entry], None] | None = None,
    offset: int = 0,
    length: int | None = None,
    compress: str | None = None,
) -> Received:
    """Read a file of a device.

    Args:
        connection: To the device.
        path: Of the file.
        write: Takes the bytes, holes as zeros; the device waits until the Deferred that it may
            return fires.
        opened: Called first, with what the file is.
        offset: Where to begin.
        length: How much; None for all.
        compress: Of `FilesConnection.compress`.

    Raises:
        FilesError: The device said so, or code ``digest``: other bytes came than were sent.
    """
    sink = _Sink(connection, write, opened)
    fields = {"path": path, "offset": offset, "length": length, "compress": compress}
    await connection.uploading.acquire()
    try:
        exchange = connection.begin("get", fields, receiver=sink.received)
    finally:
        connection.uploading.release()
    try:
        return sink.result(await exchange.done)
    except FilesError as error:
        raise sink.failure or error from None


class _Sink:
    def __init__(
        self,
        connection: FilesConnection,
        write: Callable[[bytes | memoryview], Deferred[None] | None],
        opened: Callable[[Entry], None] | None,
    ) -> None:
        self.failure: FilesError | None = None
        self._connection = connection
        self._write = write
        self._opened = opened
        self._entry: Entry | None = None
        self._size = 0
        self._digest = hashlib.blake2b(digest_size=32)

    def received(self, kind: int, payload: bytes) -> None:
        if self.failure is not None:
            return  # the rest is on its way already
        try:
            if kind == REPLY:
                value = msgspec.json.decode(payload, type=dict[str, Any])
                self._entry = Entry.decode(value.get("entry"))
                if self._opened is not None:
                    self._opened(self._entry)
            elif kind == DATA_OUT:
                self._wait_for(self._take(unpack(payload)))
            elif kind == HOLE_OUT:
                self._zeros(struct.unpack(">Q", payload)[0])
        except FilesError as error:
            self.failure = error
        except (ValueError, struct.error, msgspec.DecodeError) as error:
            self.failure = FilesError("protocol", f"the device sent bad content: {error}")

    def _take(self, data: bytes | memoryview) -> Deferred[None] | None:
        self._digest.update(data)
        self._size += len(data)
        return self._write(data)

    def _wait_for(self, waiting: Deferred[None] | None) -> None:
        if waiting is not None:
            self._connection.pause()
            waiting.addErrback(self._failed)
            waiting.addCallback(lambda _: self._connection.resume())

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        text = f"what came could not be taken: {error}"
        self.failure = error if isinstance(error, FilesError) else FilesError("io", text, hint="")

    def _zeros(self, length: int) -> None:
        if self._entry is None or length > self._entry.size - self._size:
            raise FilesError("protocol", "the device sent a hole beyond the file's end")
        self._wait_for(Deferred.fromCoroutine(self._expand(length)))

    async def _expand(self, length: int) -> None:
        while length and self.failure is None and self._connection.error is None:
            step = min(length, len(_ZEROS))
            waiting = self._take(_ZEROS[:step])
            if waiting is not None:
                await waiting
            length -= step

    def result(self, end: dict[str, Any]) -> Received:
        if self.failure is not None:
            raise self.failure
        if self._entry is None:
            raise FilesError("protocol", "the device sent no entry")
        if end.get("digest") != self._digest.hexdigest() or end.get("size") != self._size:
            raise FilesError("digest", "other bytes came than were sent")
        digest = self._digest.hexdigest()
        return Received(self._entry, self._size, digest, end.get("changed") is True)


class Upload:
    """One upload: `begin` it, give it all bytes in order, then `end` or `abort` it.

    Other requests of the connection wait meanwhile (FT8).
    """

    def __init__(
        self, connection: FilesConnection, exchange: Exchange, compress: str | None
    ) -> None:
        self.exchange = exchange
        self._connection = connection
        self._packer = Compression(compress, by_sample=False)
        self._digest = hashlib.blake2b(digest_size=32)
        self._size = 0
        self._over = False

    @classmethod
    async def begin(
        cls, connection: FilesConnection, path: bytes, *, compress: str | None = None, **fields: Any
    ) -> Upload:
        """Send ``put``.

        Args:
            connection: To the device.
            path: The destination.
            compress: What `rshell.client.files.compression.negotiate` returned.
            fields: Of FT25; ``size`` and ``transfer`` at least.

        Raises:
            FilesError: The session is over.
        """
        await connection.uploading.acquire()
        try:
            await connection.writable()
            exchange = connection.begin("put", {"path": path, **fields})
        except BaseException:
            connection.uploading.release()
            raise
        return cls(connection, exchange, compress)

    async def data(self, data: bytes | memoryview) -> None:
        """Send bytes, as fast as the device takes them.

        Raises:
            FilesError: The upload has failed already; it is given up.
        """
        view = memoryview(data)
        for start in range(0, len(view), BLOCK_BYTES):
            block = view[start : start + BLOCK_BYTES]
            self._digest.update(block)
            self._size += len(block)
            self._send(frame(DATA, self.exchange.id, self._packer.pack(b"\0" + block)))
            await self._connection.writable()

    async def hole(self, length: int) -> None:
        """Say that so many zero bytes follow.

        Raises:
            FilesError: As for `data`.
        """
        self._size += length
        for start in range(0, length, len(_ZEROS)):
            self._digest.update(_ZEROS[: min(len(_ZEROS), length - start)])
        self._send(hole_frame(self.exchange.id, length))

    def _send(self, data: bytes) -> None:
        if self.exchange.failed is not None:
            self.abort("it failed")
            raise self.exchange.failed
        self._connection.send(data)

    def end(self) -> Deferred[dict[str, Any]]:
        """Say that this was all; return what fires with the answer: entry and written.

        The next request may begin at once.
        """
        digest = self._digest.hexdigest()
        self._finish(map_frame(END, self.exchange.id, {"digest": digest, "size": self._size}))
        return self.exchange.done

    def abort(self, reason: str, *, keep: bool = False) -> None:
        """Give it up.

        Args:
            reason: A few words, for the device's answer.
            keep: Leave the part file, to be gone on with.
        """
        value = {"reason": reason[:200], "keep": keep}
        self._finish(map_frame(ABORT, self.exchange.id, value))
        self.exchange.done.addErrback(lambda _: {})

    def _finish(self, last: bytes) -> None:
        if not self._over:
            self._over = True
            self._connection.send(last)
            self._connection.uploading.release()


async def upload_bytes(
    connection: FilesConnection, path: bytes, content: bytes, **fields: Any
) -> Entry:
    """Write a small file on a device.

    Args:
        connection: To the device.
        path: The destination.
        content: Its new content.
        fields: Of FT25; ``transfer`` at least.

    Raises:
        FilesError: The device did not take it; the old file is as it was.
    """
    upload = await Upload.begin(connection, path, size=len(content), **fields)
    try:
        await upload.data(content)
    except BaseException:
        upload.abort("it failed")
        raise
    return Entry.decode((await upload.end()).get("entry"))
