"""The index of recordings: who was recorded on which device, when, how much, and in which file.

What it is not: the recordings themselves, which are files (``rshell.gateway.recording_files``).
"""

from __future__ import annotations

from typing import Any

import attrs
from sqlalchemy import Connection, Row, delete, insert, select, update

from rshell.store.schema import recordings

__all__ = [
    "NewRecording",
    "Recording",
    "RecordingFilter",
    "RecordingProgress",
    "begin",
    "drop",
    "find",
    "listed",
    "surplus",
    "unended",
    "update_one",
]

MAX_ROWS = 10_000


@attrs.frozen(kw_only=True)
class NewRecording:
    """A recording that begins.

    Attributes:
        session: hex.
        device: the device's id; *device_name* is its name at that time.
        mode: ``output``, or ``input`` for both directions.
        path: of the file, below the directory of recordings, without what compression adds.
    """

    session: str
    device: str
    device_name: str
    operator: str
    handler: str
    login: str | None
    mode: str
    path: str


@attrs.frozen(kw_only=True)
class Recording(NewRecording):
    """A recording in the index.

    Attributes:
        started_at, ended_at: microseconds UTC.
        duration_ms: up to the last event.
        size: bytes of the recording as text; *stored* of its file.
        status: ``open``, ``complete``, ``interrupted`` (how the session ended was never told) or
            ``failed`` (something is missing, and a marker in it says so).
    """

    started_at: int
    ended_at: int | None = None
    duration_ms: int = 0
    size: int = 0
    stored: int = 0
    status: str = "open"


@attrs.frozen(kw_only=True)
class RecordingProgress:
    """How far a recording has come; the fields are those of `Recording`."""

    ended_at: int | None
    duration_ms: int
    size: int
    stored: int
    status: str


@attrs.frozen(kw_only=True)
class RecordingFilter:
    """Which recordings; None is any.  *device* is an id, or a name as it was at the time."""

    operator: str | None = None
    device: str | None = None
    since: int | None = None
    until: int | None = None


def begin(connection: Connection, new: NewRecording, now: int) -> Recording:
    """Insert a recording; one that is there already is opened again."""
    row = connection.execute(
        select(recordings).where(recordings.c.session == new.session)
    ).one_or_none()
    if row is None:
        recording = Recording(**attrs.asdict(new), started_at=now)
        connection.execute(insert(recordings), [attrs.asdict(recording)])
        return recording
    found = _recording(row)
    if found.status == "open":
        return found
    connection.execute(
        update(recordings)
        .where(recordings.c.session == new.session)
        .values(status="open", ended_at=None)
    )
    return attrs.evolve(found, status="open", ended_at=None)


def update_one(connection: Connection, session: str, progress: RecordingProgress) -> None:
    """Write down how far a recording has come."""
    connection.execute(
        update(recordings).where(recordings.c.session == session).values(**attrs.asdict(progress))
    )


def find(connection: Connection, prefix: str) -> list[Recording]:
    """Return the recordings whose session begins with *prefix*; two at most."""
    query = (
        select(recordings)
        .where(recordings.c.session >= prefix, recordings.c.session < prefix + "g")
        .order_by(recordings.c.session)
        .limit(2)
    )
    return [_recording(row) for row in connection.execute(query)]


def listed(connection: Connection, wanted: RecordingFilter, limit: int) -> list[Recording]:
    """Return recordings, newest first."""
    query = select(recordings).order_by(recordings.c.started_at.desc(), recordings.c.session.desc())
    if wanted.operator is not None:
        query = query.where(recordings.c.operator == wanted.operator)
    if wanted.device is not None:
        query = query.where(
            (recordings.c.device == wanted.device) | (recordings.c.device_name == wanted.device)
        )
    if wanted.since is not None:
        query = query.where(recordings.c.started_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(recordings.c.started_at < wanted.until)
    rows = connection.execute(query.limit(max(0, min(limit, MAX_ROWS))))
    return [_recording(row) for row in rows]


def unended(connection: Connection) -> list[Recording]:
    """Return those that have not ended, oldest first."""
    query = select(recordings).where(recordings.c.status == "open")
    rows = connection.execute(query.order_by(recordings.c.started_at))
    return [_recording(row) for row in rows]


def surplus(connection: Connection, before: int, keep_bytes: int) -> list[Recording]:
    """Return ended recordings that retention gives up.

    Args:
        connection: a reader's.
        before: those that ended earlier go (microseconds UTC).
        keep_bytes: of the newest ones so much stays; 0 is no limit.
    """
    query = select(recordings).where(recordings.c.status != "open")
    gone, kept = [], 0
    for row in connection.execute(query.order_by(recordings.c.ended_at.desc())):
        kept += row.stored
        if row.ended_at < before or (keep_bytes and kept > keep_bytes):
            gone.append(_recording(row))
            if len(gone) >= MAX_ROWS:
                break
    return gone


def drop(connection: Connection, session: str) -> None:
    """Forget a recording."""
    connection.execute(delete(recordings).where(recordings.c.session == session))


def _recording(row: Row[Any]) -> Recording:
    return Recording(**row._mapping)
