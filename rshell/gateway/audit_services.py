"""The verbs about the audit log: list, follow, check.  Importing this module registers them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
from msgspec import Meta, Struct

from rshell.access.audit_key import BadAuditKey, fingerprint, read_public, verifier
from rshell.gateway.callers import OpenRefused
from rshell.gateway.chosen import check_named
from rshell.gateway.long_answers import ROWS_A_TURN, LongAnswer
from rshell.gateway.summaries import summary
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest
from rshell.link.core.errors import ErrorCode
from rshell.store.narrowing import Narrowing
from rshell.store.records import AuditFilter, AuditRow
from rshell.store.times import rfc3339
from rshell.store.touched_files import FILES, picker

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["row_fields"]

#: A follower asks again after so long without a row: well under what a proxy calls idle.
MAX_WAIT_SECONDS = 25.0
#: Rows in one answer, some 500 bytes each; whole ones may have 64 KiB of details.
MAX_FOLLOWED = 1_000
#: Rows with their files, 15 KiB each at most, in one answer.
MAX_WITH_FILES = 1_000
#: Rows that may have that much: so many are told in one turn of the reactor.
LARGE_A_TURN = 10
#: Rows that are read at once: some questions cost the store as much for few rows as for many.
PAGE, LARGE_PAGE = 1_000, 100
#: Half of what a client takes as an answer.
MAX_ANSWER_BYTES = 16 * 1024 * 1024

Name = Annotated[str, Meta(max_length=64)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**52)]


class AuditRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows, newest first; times are milliseconds since 1970 UTC.

    ``file``: only rows about files whose path matches.  ``files``: tell each of them.
    """

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100
    before: Annotated[int, Meta(ge=1)] | None = None
    device: Name | None = None
    operator: Name | None = None
    handler: Name | None = None
    kind: Name | None = None
    status: Name | None = None
    session: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None
    since_ms: Milliseconds | None = None
    until_ms: Milliseconds | None = None
    file: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    files: bool = False


class FollowRequest(AuditRequest, frozen=True, kw_only=True):
    """Rows behind a number, oldest first.

    ``after``: None is the end of the log as it is now.  ``wait_ms``: so long the answer may take
    if there is nothing new.  ``whole``: with details and hashes.
    """

    after: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0
    whole: bool = False


class VerifyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Public keys (PEM) that may have signed, none for the gateway's own; a row noted earlier."""

    keys: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=16)] = (
        msgspec.field(default_factory=list)
    )
    against: Annotated[str, Meta(pattern=r"^[0-9]{1,18}:[0-9a-f]{64}\Z")] | None = None


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


async def _filter(gateway: Gateway, asker: Asker, request: AuditRequest) -> AuditFilter:
    """Return which rows are asked for; who is no administrator sees their own only."""
    operator, device = _whose(gateway, asker, request), request.device
    if device is not None:
        found = await gateway.store.device(device)
        device = found.id if found else device
    return AuditFilter(
        operator=operator,
        device=device,
        handler=request.handler,
        kind=request.kind,
        status=request.status,
        session=request.session,
        since=None if request.since_ms is None else request.since_ms * 1000,
        until=None if request.until_ms is None else request.until_ms * 1000,
        file=request.file,
    )


def _whose(gateway: Gateway, asker: Asker, request: AuditRequest) -> str | None:
    """Return by whom the rows are that are told, None for everybody; by the rights of now."""
    if gateway.rights.is_admin(asker.operator):
        return request.operator
    if request.operator not in (None, asker.name):
        raise OpenRefused(
            ErrorCode.POLICY, "only an administrator may read what other operators did"
        )
    return asker.name


async def _readable(gateway: Gateway, asker: Asker, rows: list[AuditRow]) -> list[AuditRow]:
    """Leave out what would tell of devices that are not theirs to see.

    A row about one that does not exist is left out, too: the difference would tell.
    """
    if not rows or gateway.rights.is_admin(asker.operator):
        return rows
    told = Narrowing(among=frozenset(row.record.device for row in rows if row.record.device))
    devices = gateway.rights.seen(asker.operator, await gateway.store.find_devices(told))
    ids = {device.id for device in devices}
    about = ("session", FILES)
    return [row for row in rows if row.record.kind not in about or row.record.device in ids]


@verb("gateway.audit", AuditRequest, open_to_all=True)
async def audit(gateway: Gateway, asker: Asker, request: AuditRequest) -> Any:
    """List the audit log, newest row first; who is no administrator sees their own rows."""
    return LongAnswer(_newest_first(gateway, asker, request))


async def _newest_first(
    gateway: Gateway, asker: Asker, request: AuditRequest
) -> AsyncGenerator[list[Any], None]:
    """Yield rows a few at a time; what is written meanwhile is newer than all of them."""
    left = min(request.limit, MAX_WITH_FILES) if request.files else request.limit
    before, tell, found = request.before, _told_with(request), False
    wanted = await _filter(gateway, asker, request)
    while left > 0:
        wanted = attrs.evolve(wanted, operator=_whose(gateway, asker, request))
        size = min(left, LARGE_PAGE if request.files else PAGE)
        rows = await gateway.store.audit_rows(limit=size, before=before, **attrs.asdict(wanted))
        left = left - size if len(rows) == size else 0
        before = rows[-1].seq if rows else before
        rows = await _readable(gateway, asker, rows)
        found = found or bool(rows)
        if not (found or left) and request.before is None:
            named = {"operator": request.operator, "device": request.device}
            await check_named(gateway, asker.operator, **named)
        for start in range(0, len(rows), _rows_a_turn(request)):
            some = rows[start : start + _rows_a_turn(request)]
            await gateway.slices.turn(_share(some, request))
            yield [tell(row) for row in some]


@verb("gateway.audit-rows", FollowRequest, open_to_all=True)
async def audit_rows(gateway: Gateway, asker: Asker, request: FollowRequest) -> Any:
    """List rows of the audit log behind a number, oldest first; wait for new ones."""
    wanted = await _filter(gateway, asker, request)
    after = request.after
    if after is None:
        after, _ = await gateway.store.audit_head()
    until = gateway.wheel.seconds() + min(request.wait_ms / 1000, MAX_WAIT_SECONDS)
    limit = min(request.limit, MAX_FOLLOWED)
    while True:
        rows, through = await gateway.store.audit_following(wanted, after=after, limit=limit)
        rows = await _readable(gateway, asker, rows)
        left = until - gateway.wheel.seconds()
        if rows or left <= 0 or gateway.stopping:
            return _Followed(gateway, rows, through, request).answer()
        after = through
        await gateway.audit_feed.wait(left)


def _told_with(request: AuditRequest) -> Callable[[AuditRow], dict[str, Any]]:
    """Return what tells a row, with the files that it is about if they are asked for."""
    if not request.files:
        return row_fields
    matches = None if request.file is None else picker(request.file)

    def tell(row: AuditRow) -> dict[str, Any]:
        fields, files = row_fields(row), row.record.details.get("files")
        if row.record.kind == FILES and isinstance(files, list):
            fields["files"] = [f for f in files if matches is None or matches(f)]
            fields["left_out"] = row.record.details.get("left_out") or {}
        return fields

    return tell


class _Followed:
    """An answer that is not too long; the next one goes on where it ends."""

    def __init__(
        self, gateway: Gateway, rows: Sequence[AuditRow], through: int, request: FollowRequest
    ) -> None:
        self._gateway = gateway
        self._rows = rows
        self._through = through
        self._request = request

    def answer(self) -> LongAnswer:
        return LongAnswer(self._slices(), b'{"rows":[', self._tail)

    async def _slices(self) -> AsyncGenerator[list[Any], None]:
        tell, left = _told_with(self._request), iter(self._rows)
        last, size = None, 0
        while some := list(islice(left, _rows_a_turn(self._request))):
            await self._gateway.slices.turn(_share(some, self._request))
            told: list[Any] = []
            for row in some:
                fields = tell(row)
                size += len(str(fields.get("files", "")))
                if self._request.whole:
                    fields |= _whole(row)
                    size += len(str(fields["details"]))
                if last is not None and size > MAX_ANSWER_BYTES:
                    self._through = last
                    yield told
                    return
                told.append(fields)
                last = row.seq
            yield told

    def _tail(self) -> bytes:
        return b'],"through":%d}' % self._through


def _rows_a_turn(request: AuditRequest) -> int:
    whole = isinstance(request, FollowRequest) and request.whole
    return LARGE_A_TURN if whole or request.files else ROWS_A_TURN


def _share(rows: Sequence[AuditRow], request: AuditRequest) -> int:
    """Return as how many ordinary rows these count of a turn."""
    return len(rows) * (ROWS_A_TURN // _rows_a_turn(request))


@verb("gateway.audit-verify", VerifyRequest)
async def audit_verify(gateway: Gateway, asker: Asker, request: VerifyRequest) -> Any:
    """Check the chain of the audit log and its signatures, from the first row."""
    try:
        public = [read_public(pem) for pem in request.keys] or [gateway.home.audit_key.public]
    except BadAuditKey as error:
        raise BadRequest(str(error)) from None
    against = None
    if request.against is not None:
        number, _, hashed = request.against.partition(":")
        against = (int(number), bytes.fromhex(hashed))
    keys = {fingerprint(key): verifier(key) for key in public}
    verdict = await gateway.store.verify_audit(keys, against)
    return {
        "sound": verdict.sound,
        "rows": verdict.rows,
        "broken_at": verdict.broken_at,
        "reason": verdict.reason,
        "checkpoints": verdict.checkpoints,
        "signed": verdict.signed,
        "head": f"{verdict.rows}:{verdict.head.hex()}",
    }


@verb("gateway.audit-key", Nothing)
async def audit_key(gateway: Gateway, asker: Asker, request: Nothing) -> Any:
    """Tell the public key that checkpoints of the audit log are signed with."""
    key = gateway.home.audit_key
    return {"key": key.public_pem(), "fingerprint": key.fingerprint}


def row_fields(row: AuditRow) -> dict[str, Any]:
    """Return a row as operators, and a syslog, are told of it."""
    record = row.record
    return {
        "seq": row.seq,
        "at": rfc3339(row.at),
        "refers": row.refers,
        "kind": record.kind,
        "operator": record.operator,
        "device": record.device_name or record.device,
        "device_id": record.device,
        "handler": record.handler,
        "login": record.login,
        "session": record.session,
        "attempt": record.attempt,
        "door": record.door,
        "address": record.address,
        "status": record.status,
        "exit_code": record.exit_code,
        "code": record.code,
        "message": record.message,
        "rule": record.details.get("rule"),
        "summary": summary(dict(record.details), record.attempt, record.handler),
    }


def _whole(row: AuditRow) -> dict[str, Any]:
    """Return what else the hash covers: with it, anybody can check the chain elsewhere."""
    return {
        "at_us": row.at,
        "opens": row.record.opens,
        "device_name": row.record.device_name,
        "details": row.record.details,
        "previous_hash": row.previous_hash.hex(),
        "hash": row.hash.hex(),
    }
