"""The audit log: append-only, numbered without gaps, each row hashed over the one before.

``hash = SHA-256(previous_hash + canonical)``, where canonical is the JSON array of all
other columns in a fixed order.  An edit breaks the row's hash, a removal or an insertion
the numbering or the chain, and the head kept in ``meta`` shows a cut-off tail.  Whoever
can rewrite the whole file can rewrite the chain, but not sign its checkpoints: those, and the
check of all that, are in ``verifying.py``.

The end of something is a second row that refers to the first; no row is ever updated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from typing import Any

import attrs
import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Row,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy import exists as sql_exists

from rshell.store.errors import NotFound, StoreError
from rshell.store.records import AuditEnd, AuditFilter, AuditRecord, AuditRow
from rshell.store.schema import audit, meta
from rshell.store.touched_files import scan

__all__ = [
    "OpenRows",
    "SessionStory",
    "Stamped",
    "append_all",
    "ascending",
    "digest",
    "following",
    "head",
    "link_rows",
    "rows",
    "story",
    "unfinished",
    "unsettled",
]

MAX_DETAILS_BYTES = 64 * 1024
# Messages may come from a device: clipped instead of refused, so that no peer can keep
# its own outcome out of the log.
MAX_MESSAGE = 4_096
MAX_ROWS = 10_000
_VERIFY_CHUNK = 2_000
#: Sessions that are open at once on one gateway, about; half a kilobyte each.
MAX_OPEN_ROWS = 10_000

_WHO = (
    "operator",
    "device",
    "device_name",
    "handler",
    "login",
    "session",
    "attempt",
    "door",
    "address",
)
_OUTCOME = ("status", "exit_code", "code", "message")
#: Columns of an opening row that its end repeats.
_REPEATED = ("kind", *_WHO)
# What the hash covers, in this order for ever: a new column needs a new canonical form.
_CHAINED = ("seq", "at", "kind", "opens", "refers", *_WHO, *_OUTCOME, "details")

#: Ends of an opening row that tell how the session itself ended, and not one attempt.
_ENDED = ("ok", "exit", "signal", "timeout", "error", "lost")

#: Ends of an opening row that leave the session to its device.
_LEFT = ("detached", "interrupted")
#: Of a fleet with a row a second these are the last 14 hours, read in a tenth of a second.
_UNSETTLED_ROWS = 50_000

#: Session, kind and code of a row that is there once.
_Told = tuple[str | None, str, str | None]

_ENCODER = msgspec.json.Encoder(order="sorted")
_HEAD = select(meta.c.value).where(meta.c.key == "audit_head")
# Orders the writers of several processes; SQLite has one writer anyway.
_HEAD_LOCKED = _HEAD.with_for_update()
_SET_HEAD = update(meta).where(meta.c.key == "audit_head").values(value=bindparam("head"))


@attrs.frozen
class Stamped:
    """An entry and when it was handed in, microseconds UTC."""

    at: int
    entry: AuditRecord | AuditEnd


@attrs.frozen
class SessionStory:
    """What the log says of one session.

    Attributes:
        first: the row that began it, which says whose it is and on which device.
        told: whether an outcome of it is written down, by an attempt or by the device's report.
    """

    first: AuditRow | None
    told: bool


class OpenRows:
    """Opening rows that this process has appended and not ended: their ends need no query.

    Should another process have ended one, the unique index on ``refers`` says so.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._opened: dict[int, Mapping[str, Any]] = {}
        self._ended: list[int] = []

    def get(self, sequence: int) -> Mapping[str, Any] | None:
        """Return the columns that an end repeats."""
        return self._rows.get(sequence)

    def appended(self, row: Mapping[str, Any]) -> None:
        """A row is in the transaction."""
        if row["opens"]:
            self._opened[row["seq"]] = {name: row[name] for name in _REPEATED}
        elif row["refers"] is not None:
            self._ended.append(row["refers"])

    def begun(self) -> None:
        """Another transaction begins; what the last one did not commit is forgotten."""
        self._opened, self._ended = {}, []

    def committed(self) -> None:
        """The transaction is on disk."""
        self._rows.update(self._opened)
        for sequence in self._ended:
            self._rows.pop(sequence, None)
        while len(self._rows) > MAX_OPEN_ROWS:
            del self._rows[next(iter(self._rows))]
        self.begun()


def append_all(
    connection: Connection, entries: Sequence[Stamped], open_rows: OpenRows | None = None
) -> list[int | StoreError]:
    """Append all *entries* in order, with one statement.

    Args:
        connection: in a transaction.
        entries: rows and ends.
        open_rows: spares queries; None asks the database.

    Returns:
        For each entry its sequence number, or why it was refused (the others are kept).
        An end that is there already gives the number of the first: devices repeat their
        reports until they are acknowledged.
    """
    sequence, last = head(connection, lock=True)
    ends = {item.entry.refers for item in entries if isinstance(item.entry, AuditEnd)}
    openings, ended = _referred(connection, ends, open_rows)
    known = _known(connection, entries)
    outcomes: list[int | StoreError] = []
    new: list[dict[str, Any]] = []
    for item in entries:
        if isinstance(item.entry, AuditEnd) and item.entry.refers in ended:
            outcomes.append(ended[item.entry.refers])
            continue
        if (told := _told(item.entry)) in known:
            outcomes.append(known[told])
            continue
        try:
            row = _columns(item, openings)
            row["seq"] = sequence + 1
            row["previous_hash"] = last
            row["hash"] = digest(row, last)
        except StoreError as error:
            outcomes.append(error)
            continue
        except (TypeError, ValueError, OverflowError) as error:
            outcomes.append(StoreError(f"an audit row cannot hold that: {error}"))
            continue
        sequence, last = row["seq"], row["hash"]
        if row["refers"] is not None:
            ended[row["refers"]] = sequence
        if told is not None:
            known[told] = sequence
        new.append(row)
        if open_rows is not None:
            open_rows.appended(row)
        outcomes.append(sequence)
    if new:
        text, values = _insertion(connection.dialect)
        connection.exec_driver_sql(text, [values(row) for row in new])
        connection.execute(_SET_HEAD, {"head": f"{sequence}:{last.hex()}"})
    return outcomes


@lru_cache(maxsize=4)  # one for each database that is open
def _insertion(dialect: Dialect) -> tuple[str, Callable[[Mapping[str, Any]], Any]]:
    """Return the statement that appends rows, and what makes its parameters of a row.

    All values are numbers, texts and bytes, as the driver wants them: that SQLAlchemy looks at
    each again costs as much as to insert it.
    """
    compiled = insert(audit).compile(dialect=dialect)
    order = getattr(compiled, "positiontup", None)
    return str(compiled), dict if order is None else itemgetter(*order)


def rows(
    connection: Connection,
    wanted: AuditFilter,
    *,
    limit: int = 100,
    before: int | None = None,
) -> list[AuditRow]:
    """Return rows, newest first.

    Args:
        connection: a reader's.
        wanted: which.
        limit: at most this many, and at most ``MAX_ROWS``.
        before: only rows with a smaller sequence number.
    """
    conditions = _conditions(wanted)
    if before is not None:
        conditions.append(audit.c.seq < before)
    if wanted.file is not None:
        found = scan(connection, wanted.file, conditions, newest_first=True)
        return [_row(row) for row in islice(found, _bounded(limit))]
    query = select(audit).where(*conditions).order_by(audit.c.seq.desc())
    return [_row(row) for row in connection.execute(query.limit(_bounded(limit)))]


def following(
    connection: Connection, wanted: AuditFilter, *, after: int, limit: int
) -> tuple[list[AuditRow], int]:
    """Return rows behind a place in the log, oldest first, and how far was looked.

    Args:
        connection: a reader's.
        wanted: which.
        after: the sequence number before the first; 0 for the whole log.
        limit: at most this many, and at most ``MAX_ROWS``.

    Returns:
        The rows, and the number to go on after: nothing up to there was left out.
    """
    conditions = [audit.c.seq > after, *_conditions(wanted)]
    if wanted.file is not None:
        picked = scan(connection, wanted.file, conditions, newest_first=False)
        found = [_row(row) for row in islice(picked, _bounded(limit))]
    else:
        query = select(audit).where(*conditions).order_by(audit.c.seq)
        found = [_row(row) for row in connection.execute(query.limit(_bounded(limit)))]
    if len(found) == _bounded(limit):
        return found, found[-1].seq if found else after
    newest = connection.execute(select(func.max(audit.c.seq))).scalar_one_or_none()
    return found, max(after, newest or 0)


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_ROWS))


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for name in ("operator", "handler", "status", "session"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(audit.c[name] == value)
    if wanted.device is not None:
        conditions.append(
            or_(audit.c.device == wanted.device, audit.c.device_name == wanted.device)
        )
    if wanted.kind is not None:
        # By comparison, not LIKE: '_' and '%' mean themselves.
        below = and_(audit.c.kind > f"{wanted.kind}.", audit.c.kind < f"{wanted.kind}/")
        conditions.append(or_(audit.c.kind == wanted.kind, below))
    if wanted.since is not None:
        conditions.append(audit.c.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(audit.c.at < wanted.until)
    return conditions


def story(connection: Connection, session: str) -> SessionStory:
    """Return the row that began a session, and whether its outcome is known.

    Refused requests and repeated first attempts do not make a session somebody else's: anybody
    may add such rows.

    Args:
        session: hex.
    """
    of_it = select(audit).where(audit.c.session == session)
    began = of_it.where(audit.c.opens == 1, audit.c.kind == "session").order_by(audit.c.seq)
    first = connection.execute(began.limit(1)).one_or_none()
    if first is None:
        return SessionStory(None, False)
    outcome = of_it.with_only_columns(audit.c.seq).where(
        audit.c.device == first.device,
        or_(
            audit.c.kind == "session.outcome",
            and_(audit.c.kind == "session", audit.c.status.in_(_ENDED)),
        ),
    )
    told = connection.execute(outcome.limit(1)).one_or_none() is not None
    return SessionStory(_row(first), told)


def link_rows(connection: Connection, device_id: str, limit: int) -> list[AuditRow]:
    """Return the newest rows about a device's links (``device.*``), oldest first."""
    query = (
        select(audit)
        .where(audit.c.device == device_id, audit.c.kind.like("device.%"))
        .order_by(audit.c.seq.desc())
        .limit(min(limit, MAX_ROWS))
    )
    return [_row(row) for row in connection.execute(query)][::-1]


def unfinished(connection: Connection) -> list[AuditRow]:
    """Return the opening rows that have no end, oldest first."""
    end = audit.alias("ending")
    query = (
        select(audit)
        .where(audit.c.opens == 1, ~sql_exists().where(end.c.refers == audit.c.seq))
        .order_by(audit.c.seq)
    )
    return [_row(row) for row in connection.execute(query)]


def unsettled(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Return (device id, session) of sessions that operators left and whose outcome is unknown.

    Only the newest rows are looked at: a start must not wait for a log of years.

    Args:
        limit: The newest so many sessions; the oldest of them comes first.
    """
    newest = select(func.max(audit.c.seq)).scalar_subquery()
    left = func.sum(case((audit.c.status.in_(_LEFT), 1), else_=0))
    ended = func.sum(
        case((or_(audit.c.kind == "session.outcome", audit.c.status.in_(_ENDED)), 1), else_=0)
    )
    query = (
        select(audit.c.device, audit.c.session)
        .where(
            audit.c.seq > newest - _UNSETTLED_ROWS,
            audit.c.session.is_not(None),
            audit.c.kind.in_(("session", "session.outcome")),
        )
        .group_by(audit.c.device, audit.c.session)
        .having(left > 0, ended == 0)
        .order_by(func.max(audit.c.seq).desc())
        .limit(limit)
    )
    return [(row.device, row.session) for row in connection.execute(query)][::-1]


def ascending(connection: Connection) -> Iterator[Row[Any]]:
    """Yield the whole log as it lies in the database, in the order of its numbers."""
    last = -(2**62)  # an inserted row may have any number
    while True:
        query = select(audit).where(audit.c.seq > last).order_by(audit.c.seq).limit(_VERIFY_CHUNK)
        chunk = connection.execute(query).all()
        yield from chunk
        if len(chunk) < _VERIFY_CHUNK:
            return
        last = chunk[-1].seq


def head(connection: Connection, *, lock: bool = False) -> tuple[int, bytes]:
    """Return number and hash of the newest row; (0, zeros) of an empty log.

    Raises:
        StoreError: what is kept of it is damaged.
    """
    query = _HEAD_LOCKED if lock else _HEAD
    value: str | None = connection.execute(query).scalar_one_or_none()
    number, _, hashed = (value or "").partition(":")
    try:
        return int(number), bytes.fromhex(hashed)
    except ValueError:
        raise StoreError("the head of the audit chain is missing or damaged") from None


def _referred(
    connection: Connection, sequences: set[int], open_rows: OpenRows | None
) -> tuple[dict[int, Mapping[str, Any]], dict[int, int]]:
    """Return the opening rows among *sequences*, and which of them have which end."""
    known: dict[int, Mapping[str, Any]] = {}
    if open_rows is not None:
        known = {one: row for one in sequences if (row := open_rows.get(one)) is not None}
    asked = sequences - known.keys()
    if not asked:
        return known, {}
    openings = select(audit).where(audit.c.seq.in_(asked), audit.c.opens == 1)
    ends = select(audit.c.refers, audit.c.seq).where(audit.c.refers.in_(asked))
    known.update((row.seq, row._asdict()) for row in connection.execute(openings))
    return known, {row.refers: row.seq for row in connection.execute(ends)}


def _told(entry: AuditRecord | AuditEnd) -> _Told | None:
    """Return what there may be only one of."""
    if isinstance(entry, AuditEnd) or not entry.once:
        return None
    return entry.session, entry.kind, entry.code


def _known(connection: Connection, entries: Sequence[Stamped]) -> dict[_Told | None, int]:
    """Return which of the rows that are to be there once are there, and their numbers."""
    told = {key for item in entries if (key := _told(item.entry)) is not None}
    if not told:
        return {}
    sessions = {session for session, _, _ in told if session is not None}
    kinds, codes = {kind for _, kind, _ in told}, {code for _, _, code in told if code is not None}
    query = select(audit.c.seq, audit.c.session, audit.c.kind, audit.c.code).where(
        audit.c.session.in_(sessions), audit.c.kind.in_(kinds), audit.c.code.in_(codes)
    )
    found = connection.execute(query)
    return {(row.session, row.kind, row.code): row.seq for row in found}


def _columns(item: Stamped, openings: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    entry = item.entry
    row: dict[str, Any] = {"at": item.at, "opens": 0, "refers": None}
    if isinstance(entry, AuditEnd):
        opening = openings.get(entry.refers)
        if opening is None:
            raise NotFound(f"no audit row {entry.refers} awaits an end")
        row["refers"] = entry.refers
        row.update((name, opening[name]) for name in _REPEATED)
    else:
        row["opens"] = int(entry.opens)
        row["kind"] = entry.kind
        row.update((name, getattr(entry, name)) for name in _WHO)
    row.update((name, getattr(entry, name)) for name in _OUTCOME)
    if row["message"] is not None:
        row["message"] = row["message"][:MAX_MESSAGE]
    details = _ENCODER.encode(entry.details)
    if len(details) > MAX_DETAILS_BYTES:
        raise StoreError(f"audit details of more than {MAX_DETAILS_BYTES} bytes")
    row["details"] = details.decode()
    return row


def digest(row: Mapping[str, Any], previous: bytes) -> bytes:
    """Return the hash of a row, given by its columns, behind one with the hash *previous*."""
    canonical = _ENCODER.encode([row[name] for name in _CHAINED])
    return hashlib.sha256(previous + canonical).digest()


def _row(row: Row[Any]) -> AuditRow:
    values = row._mapping
    record = AuditRecord(
        kind=row.kind,
        opens=bool(row.opens),
        details=msgspec.json.decode(row.details),
        **{name: values[name] for name in (*_WHO, *_OUTCOME)},
    )
    return AuditRow(
        seq=row.seq,
        at=row.at,
        record=record,
        refers=row.refers,
        hash=row.hash,
        previous_hash=row.previous_hash,
    )
