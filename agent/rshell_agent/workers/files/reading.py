"""``get`` and ``get_ranges`` (docs/files.md FT22, FT23)."""

from __future__ import annotations

from rshell_agent.workers.files.compression import Packer
from rshell_agent.workers.files.desk import Desk, Request
from rshell_agent.workers.files.entries import entry_of
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.sending import Source, Stream

__all__ = ["get", "get_ranges"]

MAX_RANGES = 2000


def get(desk: Desk, request: Request) -> None:
    """Send a file or a range of it."""
    fields = request.fields
    offset, length = fields.integer("offset", 0), fields.optional("length")
    stream = Stream(request, Packer(fields.text("compress", 16, "")))
    with Source(desk, fields.path()) as source:
        size = source.info.st_size
        end: int | None = size if length is None else min(size, offset + length)
        if not size:
            # Files of /proc say 0 and have content.
            end = None if length is None else offset + length
        request.more({"entry": entry_of(source.info, desk.names)})
        request.tell(source.path)
        for piece in source.blocks(offset, end):
            stream.send(piece)
        stream.end(source.changes())
        request.tell(size=stream.size, digest=stream.digest)


def get_ranges(desk: Desk, request: Request) -> None:
    """Send ranges of a file that must be the one described."""
    fields = request.fields
    ranges = fields.ranges("ranges", MAX_RANGES)
    expected = (fields.integer("size"), fields.time_ns(), fields.integer("inode"))
    stream = Stream(request, Packer(fields.text("compress", 16, "")))
    with Source(desk, fields.path()) as source:
        info = source.info
        if (info.st_size, info.st_mtime_ns, info.st_ino) != expected:
            raise Fault("changed", "this is not the file that was described")
        request.tell(source.path)
        for offset, length in ranges:
            before = stream.size
            for piece in source.blocks(offset, offset + length):
                stream.send(piece)
            if stream.size - before != length:
                raise Fault("changed", "the file has become shorter")
        stream.end(source.changes())
        request.tell(size=stream.size)
