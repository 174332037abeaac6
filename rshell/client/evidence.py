"""What a gateway keeps as evidence, as methods: the audit log, and recordings of terminals."""

from __future__ import annotations

import re
import zlib
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from rshell.client.errors import ConnectionFailed, Refused, RshellError
from rshell.client.records import AuditRow, AuditVerdict, Recording, WholeAuditRow

__all__ = ["Evidence"]

#: Rows asked for at a time.
PAGE_ROWS = 1_000
#: How long the gateway may take over an answer that has to wait for a row.
WAIT_MS = 20_000
#: A recording that unpacks to more than this is not fetched: it would be a day of a full line.
MAX_RECORDING_BYTES = 16 * 1024**3
_UNPACK_BYTES = 1024 * 1024


class Evidence:
    """Asks a gateway; the part of `rshell.client.Client` about what has happened."""

    @abstractmethod
    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        """Ask the gateway: `GatewayVerbs` does."""

    async def audit(
        self, *, limit: int = 100, before: int | None = None, **wanted: Any
    ) -> list[AuditRow]:
        """Return the newest rows of the audit log, newest first.

        Args:
            limit: At most so many, and at most 10,000.
            before: Only rows with a smaller ``seq``.
            wanted: ``device``, ``operator``, ``handler``, ``kind`` (``device`` is also
                ``device.enrol``), ``status``, ``session`` (32 hexadecimal digits), ``since_ms`` and
                ``until_ms`` (milliseconds since 1970 UTC), ``file`` (a pattern for paths of touched
                files), ``files`` (true: tell each touched file; at most 1,000 rows then).

        Raises:
            Refused: The role forbids it.
        """
        request = {"limit": limit, "before": before, **wanted}
        rows: list[AuditRow] = await self._ask("audit", list[AuditRow], request)
        return rows

    async def audit_pages(
        self, *, after: int = 0, whole: bool = False, **wanted: Any
    ) -> AsyncIterator[list[AuditRow]]:
        """Yield the rows of the audit log behind a number, oldest first, up to its end.

        Args:
            after: A row's ``seq``; 0 is the beginning.
            whole: Whether rows are `WholeAuditRow`.
            wanted: As in `audit`.

        Raises:
            Refused: The role forbids it.
        """
        while True:
            rows, through = await self._rows(after, 0, whole=whole, wanted=wanted)
            if rows:
                yield rows
            if through <= after or not rows:
                return
            after = through

    async def follow_audit(
        self, *, after: int | None = None, **wanted: Any
    ) -> AsyncIterator[list[AuditRow]]:
        """Yield new rows of the audit log for ever, each once, also over broken links.

        Args:
            after: A row's ``seq``; None begins with what comes from now on.
            wanted: As in `audit`.

        Raises:
            Refused: The role forbids it.
            ConnectionFailed: The link was away for longer than the grace.
        """
        if after is None:
            _, after = await self._rows(None, 0, whole=False, wanted=wanted)
        while True:
            rows, after = await self._rows(after, WAIT_MS, whole=False, wanted=wanted)
            if rows:
                yield rows

    async def _rows(
        self, after: int | None, wait_ms: int, *, whole: bool, wanted: Mapping[str, Any]
    ) -> tuple[list[AuditRow], int]:
        request = {
            "after": after,
            "wait_ms": wait_ms,
            "limit": PAGE_ROWS,
            "whole": whole,
            **wanted,
        }
        answer = await self._ask("audit-rows", _Wholes if whole else _Rows, request)
        return answer.rows, answer.through

    async def verify_audit(
        self, *, keys: Sequence[str] = (), against: str | None = None
    ) -> AuditVerdict:
        """Have the gateway check the whole audit log: the chain and the signed checkpoints.

        Args:
            keys: Public keys (PEM) that may have signed; none is the gateway's own.
            against: The ``head`` of an earlier verdict: that row has to be there, as it was.

        Raises:
            Refused: A key is none, or the role forbids it.
        """
        request = {"keys": list(keys), "against": against}
        verdict: AuditVerdict = await self._ask("audit-verify", AuditVerdict, request)
        return verdict

    async def audit_key(self) -> str:
        """Return the public key (PEM) that the gateway signs checkpoints with.

        Raises:
            Refused: The role forbids it.
        """
        answer = await self._ask("audit-key", dict[str, str], {})
        return str(answer.get("key", ""))

    async def recordings(self, *, limit: int = 100, **wanted: Any) -> list[Recording]:
        """Return recordings of terminals, newest first.

        Args:
            limit: At most so many.
            wanted: ``device``, ``operator``, ``since_ms``, ``until_ms``.

        Raises:
            Refused: The role forbids it.
        """
        request = {"limit": limit, **wanted}
        found: list[Recording] = await self._ask("recordings", list[Recording], request)
        return found

    async def fetch_recording(self, session: str, received: Callable[[bytes], None]) -> Recording:
        """Fetch a recording as asciicast v2, up to the last flushed second if it still grows.

        Args:
            session: Its id, or at least four digits that no other one begins with.
            received: Takes its bytes, piece by piece.

        Raises:
            Refused: There is none, or the role forbids it.
            RshellError: Code ``bad-request``: these are no digits of an id.
            ConnectionFailed: The link was lost for good.
        """
        if not re.fullmatch(r"[0-9a-f]{4,32}", session):
            raise RshellError(
                "bad-request",
                "a recording is named by its session's id, or by four or more of its first digits",
                "list them with: rshell recordings",
            )
        unpacker = _Unpacker()
        following: dict[str, Any] | None = {"part": "gz", "offset": 0}
        sent, skip = 0, 0
        while True:
            answer: _Piece = await self._ask(
                "recording", _Piece, {"session": session, **(following or {})}
            )
            if answer.moved:
                # It ended meanwhile: all of it is in the other file now; go on where we were.
                unpacker, following, skip = _Unpacker(), {"part": "gz", "offset": 0}, sent
                continue
            packed = bool(following and following["part"] == "gz")
            for piece in unpacker.feed(answer.data) if packed else [answer.data]:
                fresh, skip = piece[skip:], max(0, skip - len(piece))
                sent += len(fresh)
                if sent > MAX_RECORDING_BYTES:
                    raise Refused("bad-request", "the recording is too long to be fetched", "")
                received(fresh)
            following = answer.next
            if following is None:
                return answer.recording


class _Unpacker:
    """Unpacks gzip, several one behind the other, in bounded pieces."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> list[bytes]:
        """Return what is in these bytes.

        Raises:
            ConnectionFailed: It is no gzip.
        """
        pieces = []
        while data:
            try:
                pieces.append(self._stream.decompress(data, _UNPACK_BYTES))
            except zlib.error:
                text = "the gateway's file of the recording is damaged"
                raise ConnectionFailed("protocol", text, "") from None
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data
                self._stream = zlib.decompressobj(wbits=31)
        return pieces


class _Rows(msgspec.Struct, frozen=True):
    rows: list[AuditRow]
    through: int


class _Wholes(msgspec.Struct, frozen=True):
    rows: list[WholeAuditRow]
    through: int


class _Piece(msgspec.Struct, frozen=True):
    recording: Recording
    data: bytes
    moved: bool = False
    next: dict[str, Any] | None = None
