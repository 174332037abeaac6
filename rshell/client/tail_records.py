"""A tail's records as they come from a device: cut, decoded, and remembered as places.

Whatever a device sends is one of the records that `rshell.handlers.tail` describes, or `Garbage`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec

from rshell.client.session import Session
from rshell.handlers.tail import TailMark, TailRecord

__all__ = ["MAX_RECORD_BYTES", "Ending", "Garbage", "Place", "Records", "path_of"]

#: A record: a line of 64 KiB in JSON's longest spelling, and a path.
MAX_RECORD_BYTES = 512 * 1024


class Garbage(Exception):
    """What came is no record."""


class Records:
    """Cuts a session's bytes into records.

    Args:
        take: Takes each.
    """

    def __init__(self, take: Callable[[TailRecord], None]) -> None:
        self._take = take
        self._rest = b""
        self._decoder = msgspec.json.Decoder(TailRecord)

    def clear(self) -> None:
        """Forget a record that came in part."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes in.

        Raises:
            Garbage: They are no records.
        """
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._rest += data
        else:
            whole = self._rest + whole
            self._rest = rest
            try:
                records = self._decoder.decode_lines(whole)
            except (ValueError, RecursionError):
                raise Garbage from None
            for record in records:
                self._take(record)
        if len(self._rest) > MAX_RECORD_BYTES:
            raise Garbage


@attrs.define
class Place:
    """A file of one session, and where we are in it."""

    record: TailRecord
    path: bytes
    pos: int
    mid: bool

    def mark(self) -> bytes:
        """Return what tells another worker to go on here."""
        record = self.record
        path = {"path": record.path} if record.path_b64 is None else {"path_b64": record.path_b64}
        return msgspec.json.encode(
            TailMark(
                **path,
                dev=record.dev,
                ino=record.ino,
                head=record.head,
                digest=record.digest,
                pos=self.pos,
                mid=self.mid,
            )
        )


class Ending:
    """The receiver of a session that is attached only to be ended."""

    session: Session | None = None

    def session_opened(self) -> None:
        if self.session is not None:
            self.session.cancel()

    def output_received(self, data: bytes, stderr: bool) -> None:
        """The session that replaced it tells the same."""

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Its end is all that matters."""


def path_of(record: TailRecord) -> bytes | None:
    """Return the path that a record is about."""
    if record.path_b64 is not None:
        return record.path_b64
    return None if record.path is None else record.path.encode("utf-8", "replace")
