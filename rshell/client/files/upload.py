"""Files of this machine on their way to a device.

Small files are read in lots in a thread and sent one behind the other without waiting for any
answer, so that ten thousand of them cost no ten thousand round trips.  A large file is read a
piece ahead of what is sent; before it is, two questions may be worth a round trip each: what an
earlier copy left there (a part file), and what the file that will be replaced has in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.client.files.compression import Compression
from rshell.client.files.delta import MIN_DELTA_BYTES, Signature, worth_a_delta
from rshell.client.files.device_end import DeviceEnd, Present
from rshell.client.files.frames import ABORT, END, HEADER_BYTES, frame
from rshell.client.files.local import LocalFile, Piece, local_error
from rshell.client.files.local_end import LocalEnd, open_source
from rshell.client.files.naming import part_name, transfer_id
from rshell.client.files.pending import Pending
from rshell.client.files.plan import Step
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.signatures import fetch_signature
from rshell.client.files.state import CopyState, stepped
from rshell.link.core.constants import MAX_PAYLOAD

__all__ = ["LARGE_BYTES", "Upload", "put_fields", "wants_another_try"]

#: A file from this size on is read while it is sent, and asked about first.
LARGE_BYTES = 256 * 1024
#: What is packed and sent at once: with its header and first byte it fills 16 frames of the link.
PIECE_BYTES = 16 * MAX_PAYLOAD - HEADER_BYTES - 1
#: What is read ahead at once: a hop to a thread and back costs as much as to hash 256 KiB.
AHEAD_BYTES = 1024 * 1024
#: What one lot of small files may have together: it is in memory twice.
LOT_BYTES = 1024 * 1024
LOT_FILES = 200
#: Files on their way whose answer is not there yet.
MAX_UNANSWERED = 900
_AGAIN = frozenset({"changed", "digest"})


def put_fields(step: Step, entry: Entry, transfer: str) -> dict[str, Any]:
    """Return what ``put`` says of a file (FT25).

    Args:
        step: Where it goes.
        entry: What it is now.
        transfer: Of `transfer_id`.
    """
    return {
        "path": step.target,
        "size": entry.size,
        "data": min(entry.size, entry.blocks * 512),
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
        "expect": "any",
        "follow": step.named,
        "transfer": transfer,
    }


def wants_another_try(error: FilesError) -> bool:
    """Whether a failure is one of a file that was written meanwhile."""
    return error.code in _AGAIN


@attrs.define
class _Read:
    """A small file as it was read."""

    step: Step
    entry: Entry
    pieces: Sequence[Piece] = ()
    digest: str = ""
    error: FilesError | None = None


@attrs.define
class _Sending:
    """A file whose answer is not there yet.

    Attributes:
        plain: Bytes of it that count as done.
        sent: Bytes that went over the wire.
        error: Ours, told already.
    """

    step: Step
    id: int
    plain: int = 0
    sent: int = 0
    error: FilesError | None = None
    answered: bool = False


class Upload:
    """Sends files.

    Args:
        state: Of the copy.
        local: Where they are.
        device: Where they go.
        present: What is there.
        compression: ``zstd``, ``zlib`` or None.

    Attributes:
        again: Files that were written meanwhile: worth another try.
    """

    def __init__(
        self,
        state: CopyState,
        local: LocalEnd,
        device: DeviceEnd,
        present: Present,
        compression: str | None,
    ) -> None:
        self.again: list[Step] = []
        self._state = state
        self._local = local
        self._device = device
        self._connection = device.connection
        self._present = present
        self._compression = compression
        self._pending = Pending(state)

    async def run(self, steps: Sequence[Step]) -> None:
        """Send files and wait until the device has them all.

        Raises:
            RshellError: The session ended, or the copy was stopped.
        """
        lots = self._lots(steps)
        ahead: Deferred[list[_Read]] | None = None
        try:
            for number, lot in enumerate(lots):
                if self._is_large(lot[0]):
                    await self._send_large(lot[0])
                    continue
                read = await (ahead or self._read_later(lot))
                follows = lots[number + 1] if number + 1 < len(lots) else None
                ahead = None
                if follows is not None and not self._is_large(follows[0]):
                    ahead = self._read_later(follows)
                for one in read:
                    await self._send_small(one)
        finally:
            if ahead is not None:
                ahead.addErrback(lambda _: None)
                await ahead
        await self._pending.at_most(0)

    def _is_large(self, step: Step) -> bool:
        return step.entry.size > LARGE_BYTES or self._basis_of(step) is not None

    def _lots(self, steps: Sequence[Step]) -> list[list[Step]]:
        lots: list[list[Step]] = []
        size = 0
        for step in steps:
            large = self._is_large(step)
            full = size + step.entry.size > LOT_BYTES or (lots and len(lots[-1]) >= LOT_FILES)
            if large or full or not lots or self._is_large(lots[-1][0]):
                lots.append([])
                size = 0
            lots[-1].append(step)
            size += step.entry.size
        return lots

    # -- pace ------------------------------------------------------------------------------------

    async def _room(self, size: int) -> None:
        """Wait until so many bytes may be written.

        Raises:
            RshellError: The session ended, or the copy was stopped.
        """
        await self._state.limit.take(size)
        await self._connection.writable()
        self._pending.check()

    # -- small files -----------------------------------------------------------------------------

    def _read_later(self, lot: Sequence[Step]) -> Deferred[list[_Read]]:
        return self._state.in_thread(self._read_lot, lot)

    def _read_lot(self, lot: Sequence[Step]) -> list[_Read]:
        return [self._read(step) for step in lot]

    def _read(self, step: Step) -> _Read:
        try:
            file = open_source(self._local.descents, step)
        except FilesError as error:
            return _Read(step, step.entry, error=error)
        try:
            read = _Read(step, file.entry)
            if file.entry.size > LOT_BYTES:
                raise FilesError("changed", "it grew while it was copied", step.source)
            read.pieces = list(file.pieces(self._packing(), self._piece_bytes))
            read.digest = file.digest
            if file.changed and not self._accepts(file):
                raise FilesError("changed", "it changed while it was read", step.source)
        except FilesError as error:
            read.error = error
        except OSError as error:
            read.error = local_error(error, step.source)
        finally:
            file.close()
        return read

    def _accepts(self, file: LocalFile) -> bool:
        """Whether a file that changed is good enough: a log that grows would never be."""
        return self._state.last_try and file.grew

    def _packing(self) -> Compression:
        return Compression(self._compression, self._state.options.compress == "auto")

    @property
    def _piece_bytes(self) -> int:
        return self._state.limit.piece_bytes(PIECE_BYTES)

    async def _send_small(self, read: _Read) -> None:
        if read.error is not None:
            self._failed(read.step, read.error)
            return
        await self._pending.at_most(MAX_UNANSWERED)
        await self._room(0)
        sending = self._begin(read.step, self._fields(read.step, read.entry))
        for piece in read.pieces:
            await self._send(sending, piece)
        self._end(sending, read.digest, read.entry.size)

    # -- large files -----------------------------------------------------------------------------

    async def _send_large(self, step: Step) -> None:
        try:
            file = await self._state.in_thread(open_source, self._local.descents, step)
        except FilesError as error:
            self._failed(step, error)
            return
        try:
            fields = self._fields(step, file.entry)
            start = await self._resume_at(step, file, fields["transfer"])
            signature = await self._signature(step, file, fields)
            if start:
                fields["resume"] = {"from": start}
                self._state.found(step, start)
            await self._send_file(step, file, fields, start, signature)
        finally:
            file.close()

    async def _send_file(
        self,
        step: Step,
        file: LocalFile,
        fields: dict[str, Any],
        start: int,
        signature: Signature | None,
    ) -> None:
        pieces = file.pieces(self._packing(), self._piece_bytes, start=start, signature=signature)
        ahead = self._state.in_thread(_some_of, pieces)
        sending: _Sending | None = None
        try:
            await self._room(0)
            sending = self._begin(step, fields)
            sending.plain = start
            while got := await ahead:
                ahead = self._state.in_thread(_some_of, pieces)
                for piece in got:
                    await self._send(sending, piece)
                    if sending.answered:
                        return  # it failed there, and was told
            if file.changed and not self._accepts(file):
                raise FilesError("changed", "it changed while it was read", step.source)
            self._end(sending, file.digest, file.entry.size)
        except FilesError as error:
            if self._device.ended:
                raise
            self._give_up(step, sending, error)
        except OSError as error:
            self._give_up(step, sending, local_error(error, step.source))
        finally:
            # The file must not be closed under a thread that reads it.
            ahead.addErrback(lambda _: None)
            await ahead

    def _give_up(self, step: Step, sending: _Sending | None, error: FilesError) -> None:
        """Tell the device that the rest will not come; what it has may be gone on with."""
        if sending is None:
            self._failed(step, error)
            return
        sending.error = error
        told = {"reason": error.message, "keep": error.code != "changed"}
        self._connection.send(frame(ABORT, sending.id, msgspec.json.encode(told)))
        self._failed(step, error, sending)

    async def _resume_at(self, step: Step, file: LocalFile, transfer: str) -> int:
        """Return how much of a file an earlier copy left there, if that is its beginning."""
        if not self._present.may_have_part(step, part_name(transfer)):
            return 0
        try:
            part = await self._device.ask("part", path=step.target, transfer=transfer)
        except FilesError:
            if self._device.ended:
                raise
            return 0
        size = part.get("size")
        if type(size) is not int or not 0 < size <= file.entry.size:
            return 0
        digest = await stepped(self._state, file.hash_prefix(size))
        if digest != part.get("digest"):
            file.rewind()
            return 0
        return size

    def _basis_of(self, step: Step) -> Entry | None:
        """Return the file that will be replaced, if it may have something in common."""
        there = self._present.entries.get(step.target)
        if not self._state.options.delta or there is None or there.kind != "file":
            return None
        if step.entry.size < MIN_DELTA_BYTES or not worth_a_delta(step.entry.size, there.size):
            return None
        return there

    async def _signature(
        self, step: Step, file: LocalFile, fields: dict[str, Any]
    ) -> Signature | None:
        basis = self._basis_of(step)
        if basis is None:
            return None
        described = await fetch_signature(self._state, self._device, step.target, basis.size)
        if described is None:
            return None
        there = described.entry
        fields["basis"] = {
            "size": there.size, "mtime_ns": there.mtime_ns, "inode": there.inode,
        }  # fmt: skip
        return described.signature

    # -- the wire --------------------------------------------------------------------------------

    def _fields(self, step: Step, entry: Entry) -> dict[str, Any]:
        device = self._state.target_device or ""
        identity = (entry.size, entry.mtime_ns, entry.inode, entry.dev)
        return put_fields(step, entry, transfer_id(device, step.target, *identity))

    def _begin(self, step: Step, fields: dict[str, Any]) -> _Sending:
        exchange = self._connection.begin("put", fields)
        sending = _Sending(step, exchange.id)
        self._pending.count += 1
        self._state.progress.current = step.source
        exchange.done.addCallbacks(partial(self._landed, sending), partial(self._refused, sending))
        return sending

    async def _send(self, sending: _Sending, piece: Piece) -> None:
        await self._room(len(piece.payload))
        if sending.answered:
            return
        self._connection.send_frame(piece.kind, sending.id, piece.payload)
        sending.sent += len(piece.payload)
        sending.plain += piece.plain
        self._state.progress.bytes_sent += len(piece.payload)
        self._state.progress.bytes_done += piece.plain

    def _end(self, sending: _Sending, digest: str, size: int) -> None:
        if not sending.answered:
            end = msgspec.json.encode({"digest": digest, "size": size})
            self._connection.send(frame(END, sending.id, end))

    def _landed(self, sending: _Sending, _: dict[str, Any]) -> None:
        if sending.error is None:
            self._state.finished(sending.step, "copied", sent=sending.sent)
        self._one_fewer(sending)

    def _refused(self, sending: _Sending, failure: Failure) -> None:
        error = failure.value
        if self._device.ended or not isinstance(error, FilesError):
            self._pending.fail(failure)
        elif sending.error is None:
            self._failed(sending.step, error, sending)
        self._one_fewer(sending)

    def _one_fewer(self, sending: _Sending) -> None:
        sending.answered = True
        self._pending.one_less()

    def _failed(self, step: Step, error: FilesError, sending: _Sending | None = None) -> None:
        if sending is not None:
            self._state.progress.bytes_done -= sending.plain
        if wants_another_try(error):
            self.again.append(step)
        if not wants_another_try(error) or self._state.last_try:
            self._state.failed(step, error, 0 if sending is None else sending.sent)


def _some_of(pieces: Iterator[Piece]) -> list[Piece]:
    """Return the next pieces, up to `AHEAD_BYTES` of the file, or nothing at the end."""
    found: list[Piece] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += piece.plain
        if size + piece.plain > AHEAD_BYTES:
            break
    return found
