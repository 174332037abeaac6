"""The verbs about recordings: list them, fetch one.  Importing this module registers them."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import attrs
from msgspec import Meta, Struct

from rshell.access.audit import AuditRecord
from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.chosen import check_named
from rshell.gateway.long_answers import LongAnswer, in_slices
from rshell.gateway.recording_files import read_part
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.link.core.errors import ErrorCode
from rshell.store.recordings import Recording, RecordingFilter
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

#: Of a file in one answer; as base64 it is a third more.
PART_BYTES = 1024 * 1024

Name = Annotated[str, Meta(max_length=64)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**52)]


class RecordingsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which recordings, newest first; times are milliseconds since 1970 UTC."""

    device: Name | None = None
    operator: Name | None = None
    since_ms: Milliseconds | None = None
    until_ms: Milliseconds | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class RecordingRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which, by the beginning of its session's id; from where in which of its two files."""

    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{4,32}\Z")]
    part: Annotated[str, Meta(pattern=r"^(gz|cast)\Z")] = "gz"
    offset: Annotated[int, Meta(ge=0, le=2**60)] = 0


@verb("gateway.recordings", RecordingsRequest)
async def recordings(gateway: Gateway, asker: Asker, request: RecordingsRequest) -> Any:
    """List recordings of terminals, newest first."""
    device = request.device
    if device is not None:
        found = await gateway.store.device(device)
        device = found.id if found else device
    wanted = RecordingFilter(
        operator=request.operator,
        device=device,
        since=None if request.since_ms is None else request.since_ms * 1000,
        until=None if request.until_ms is None else request.until_ms * 1000,
    )
    rows = await gateway.store.recordings(wanted, request.limit)
    if not rows:
        named = {"operator": request.operator, "device": request.device}
        await check_named(gateway, asker.operator, **named)
    return LongAnswer(in_slices(gateway.slices, rows, partial(_row, gateway)))


def _row(gateway: Gateway, row: Recording) -> dict[str, Any]:
    live = gateway.recordings.live(row.session)
    if live is not None:
        size = live.position.size
        row = attrs.evolve(row, size=size, stored=size, duration_ms=live.position.at)
    return {
        "session": row.session,
        "device": printable(row.device_name, 64),
        "device_id": row.device,
        "operator": row.operator,
        "handler": row.handler,
        "login": row.login,
        "mode": row.mode,
        "started_at": rfc3339(row.started_at),
        "ended_at": None if row.ended_at is None else rfc3339(row.ended_at),
        "duration_ms": row.duration_ms,
        "size": row.size,
        "stored": row.stored,
        "status": row.status,
    }


@verb("gateway.recording", RecordingRequest)
async def recording(gateway: Gateway, asker: Asker, request: RecordingRequest) -> Any:
    """Fetch a piece of a recording's file; looking at one is audited."""
    found = await gateway.store.recording(request.session)
    if not found:
        raise OpenRefused(
            ErrorCode.NOT_FOUND, f"there is no recording {request.session} (see: rshell recordings)"
        )
    if len(found) > 1:
        raise BadRequest(f"several recordings begin with {request.session}: give more digits")
    row = found[0]
    if request.part == "gz" and request.offset == 0:
        await _tell(gateway, asker, row)
    path = gateway.recordings.home / row.path
    part, offset = request.part, request.offset
    piece = await gateway.recordings.in_thread(
        lambda: read_part(path, part == "gz", offset, PART_BYTES)
    )
    data, length = piece if piece is not None else (b"", 0)
    following: dict[str, Any] | None = {"part": part, "offset": offset + len(data)}
    if offset + len(data) >= length:
        following = {"part": "cast", "offset": 0} if part == "gz" else None
    return {
        "recording": _row(gateway, row),
        "data": base64.b64encode(data).decode(),
        # Its end came between two pieces: what was fetched of the growing file is in the other.
        "moved": piece is None and part == "cast" and offset > 0,
        "next": following,
    }


async def _tell(gateway: Gateway, asker: Asker, row: Recording) -> None:
    assert asker.caller is not None
    await gateway.store.append_audit(
        AuditRecord(
            kind="recording.read",
            operator=asker.name,
            device=row.device,
            device_name=row.device_name,
            session=row.session,
            door=asker.caller.door,
            address=asker.caller.address,
            details={"recorded": row.operator},
        )
    )
