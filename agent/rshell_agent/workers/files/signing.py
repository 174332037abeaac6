"""``digest`` and ``signature``: what a file holds, unsent (docs/files.md FT20, FT24)."""

from __future__ import annotations

import struct
import zlib
from _blake2 import blake2b  # as in sending.py
from collections.abc import Iterator

from rshell_agent.workers.files.compression import Packer
from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.entries import entry_of
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.sending import BLOCK_BYTES, Digest, Source, Stream

__all__ = ["digest", "signature"]

BLOCK_LEAST, BLOCK_MOST = 512, 16 << 20
#: Two MiB of records.
MAX_BLOCKS = 65_536
HEAD_BYTES = 15
_RECORD = struct.Struct(f">I16s{HEAD_BYTES}s")
_ZEROS = bytes(BLOCK_BYTES)


def digest(desk: Desk, request: Request) -> None:
    """Tell the digest of a file, or of its beginning."""
    length = request.fields.optional("length")
    found = Digest()
    size = 0
    with Source(desk, request.fields.path()) as source:
        end = source.info.st_size or None
        if length is not None:
            end = length if end is None else min(end, length)
        for piece in source.blocks(0, end):
            if isinstance(piece, int):
                found.hole(piece)
                size += piece
            else:
                found.data(piece)
                size += len(piece)
        request.reply(
            {
                "digest": found.hexdigest(),
                "size": size,
                "mtime_ns": source.info.st_mtime_ns,
                "inode": source.info.st_ino,
            }
        )


def signature(desk: Desk, request: Request) -> None:
    """Send a record for each block of a file."""
    block = request.fields.integer("block", most=BLOCK_MOST, least=BLOCK_LEAST)
    whole = Digest()
    stream = Stream(request, Packer(""))
    with Source(desk, request.fields.path()) as source:
        size = source.info.st_size
        request.tell(source.path)
        if size > block * MAX_BLOCKS:
            raise Fault("bad-request", f"more than {MAX_BLOCKS:,} blocks")
        request.more({"entry": entry_of(source.info, desk.names), "block": block})
        records = bytearray()
        done = 0
        for record, length in _records(source, block, whole):
            records += record
            done += length
            if len(records) >= BLOCK_BYTES:
                stream.send(bytes(records))
                records.clear()
        if records:
            stream.send(bytes(records))
        changes = source.changes()
        if done != size:
            changes["changed"] = True
        stream.end(changes, whole.hexdigest(), done)


def _records(source: Source, block: int, whole: Digest) -> Iterator[tuple[bytes, int]]:
    """Yield the record and the length of each block; `whole` takes all bytes."""
    weak, strong, head, filled = 1, blake2b(digest_size=16), b"", 0
    for piece in _pieces(source, block):
        whole.data(piece)
        weak = zlib.adler32(piece, weak)
        strong.update(piece)
        if len(head) < HEAD_BYTES:
            head += bytes(piece[: HEAD_BYTES - len(head)])
        filled += len(piece)
        if filled == block:
            yield _RECORD.pack(weak, strong.digest(), head), filled
            weak, strong, head, filled = 1, blake2b(digest_size=16), b"", 0
    if filled:
        yield _RECORD.pack(weak, strong.digest(), head), filled


def _pieces(source: Source, block: int) -> Iterator[memoryview]:
    """Yield the content in pieces of which none crosses the border of a block."""
    position = 0
    for found in source.blocks(0, source.info.st_size):
        left = found if isinstance(found, int) else len(found)
        view = memoryview(_ZEROS if isinstance(found, int) else found)
        start = 0
        while left:
            size = min(left, block - position % block, len(view) - start)
            yield view[start : start + size]
            position += size
            left -= size
            start = 0 if isinstance(found, int) else start + size
