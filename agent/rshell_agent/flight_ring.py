"""The flight recorder's disk: two files of JSON lines; when both are full the older one goes.

Lines are only appended, so a crash can tear the last one and no other; what cannot be read is left
out.  Nothing here decides what is worth a line.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from rshell.handlers.flight import FlightRecord
from rshell.identity.files import make_private_dir

__all__ = ["FlightRing"]

#: A record has about 200 bytes: some hundred fit, which is weeks of a good link.
MAX_FILE_BYTES = 64 * 1024
_DECODER = msgspec.json.Decoder(FlightRecord)
_ENCODER = msgspec.json.Encoder()


class FlightRing:
    """Records on disk.

    Args:
        directory: Made, private, if it is absent.
        max_bytes: Of each of the two files.
    """

    def __init__(self, directory: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._directory = directory
        self._current = directory / "records.jsonl"
        self._older = directory / "records.old.jsonl"
        self._max_bytes = max_bytes
        #: Whether what the file ends with is a whole line; not known before the first write.
        self._whole = False

    def load(self) -> list[FlightRecord]:
        """Return all records that can be read, by number; of a number the line written last."""
        found: dict[int, FlightRecord] = {}
        for path in (self._older, self._current):
            try:
                with path.open("rb") as file:
                    lines = file.read(4 * self._max_bytes).split(b"\n")
            except OSError:
                continue
            for line in lines:
                try:
                    record = _DECODER.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue  # torn by a power cut
                found[record.seq] = record
        return [found[seq] for seq in sorted(found)]

    def append(self, records: list[FlightRecord], *, sync: bool) -> None:
        """Write records; with ``sync``, wait until they are on the medium.

        Raises:
            OSError: They could not be written; nothing is half-written that `load` would read.
        """
        make_private_dir(self._directory)
        data = b"".join(_ENCODER.encode(record) + b"\n" for record in records)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if self._current.exists():
            size = self._current.stat().st_size
            if size and size + len(data) > self._max_bytes:
                self._current.rename(self._older)
        descriptor = os.open(self._current, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and not self._whole and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            self._whole = False
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            self._whole = True
            if sync:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
