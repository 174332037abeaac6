"""``Store``: the gateway's durable state behind Deferreds.

Every call returns a Deferred that fires in the reactor's thread: a write after its commit
(see ``writer.py``), a read after it ran in a reader.  A read that starts after a write's
Deferred fired sees that write.  Failures are ``StoreError``; a database that cannot be
written fails every call that needed it (fail closed).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred, fail

from rshell.store import (
    audit,
    database,
    devices,
    facts,
    flight,
    keys,
    listing,
    meta,
    operators,
    roles,
    verifying,
)
from rshell.store.devices import Heard, Seen
from rshell.store.errors import StoreUnavailable
from rshell.store.facts import DeviceFacts
from rshell.store.flight import FlightRow
from rshell.store.joining_calls import JoiningCalls
from rshell.store.lookups import KeyLookups
from rshell.store.narrowing import EVERYTHING, Narrowing
from rshell.store.recording_calls import RecordingCalls
from rshell.store.records import (
    AuditEnd,
    AuditFilter,
    AuditRecord,
    AuditRow,
    AuditVerdict,
    Device,
    DeviceKey,
    Grant,
    Key,
    Operator,
    OperatorKey,
    OwnerKind,
    Role,
    TokenGrant,
)
from rshell.store.ssh_key_calls import SshKeyCalls
from rshell.store.threads import Threads
from rshell.store.times import utc_now
from rshell.store.writer import LINGER_SECONDS, TOLD_LINGER_SECONDS, GroupWriter

__all__ = ["MAX_READS", "Store"]

# Beyond this many waiting reads the disk or the readers have stopped; callers must hear so.
MAX_READS = 50_000

T = TypeVar("T")
P = ParamSpec("P")


class Store(JoiningCalls, RecordingCalls, SshKeyCalls):
    """All durable state of a gateway; make one with ``Store.open``."""

    def __init__(
        self,
        path: Path,
        writer_engine: Engine,
        reader_engine: Engine,
        threads: Threads,
        now: Callable[[], int],
    ) -> None:
        self._path = path
        self._engines = (writer_engine, reader_engine)
        self._reader_engine = reader_engine
        self._threads = threads
        self._now = now
        self._writer = GroupWriter(writer_engine, path, threads)
        self._reads = 0
        self._keys = KeyLookups(lambda spkis: self._read(devices.devices_by_spki, spkis))
        self._closed: Deferred[None] | None = None
        self._reads_done: list[Deferred[None]] = []

    @classmethod
    def open(cls, location: str | Path, threads: Threads, now: Callable[[], int] = utc_now) -> Self:
        """Open the database, make or migrate its tables, and start the threads.

        Blocks while migrating, so call it before the reactor serves anyone.

        Args:
            location: a file's path, or a ``sqlite:///`` URL.
            threads: where work runs; started only on success.
            now: the wall clock, microseconds since 1970 UTC.

        Raises:
            StoreError: one line: not writable, damaged, locked, or of a newer rshell.
        """
        path = database.sqlite_path(location)
        writer = database.open_writer(path)
        try:
            database.migrate(writer)
        except Exception as error:
            writer.dispose()
            raise database.explain(error, path) from error
        store = cls(path, writer, database.open_reader(path, threads.readers), threads, now)
        threads.start()
        return store

    def close(self) -> Deferred[None]:
        """Refuse new calls, finish what is under way, then let go of file and threads."""
        done: Deferred[None] = Deferred()
        if self._closed is not None:
            self._closed.chainDeferred(done)
            self._closed = done
            return done
        self._closed = done
        self._drain().chainDeferred(done)
        return done

    async def _drained(self) -> None:
        await self._writer.drained()
        if self._reads:
            waiter: Deferred[None] = Deferred()
            self._reads_done.append(waiter)
            await waiter
        self._writer.stop()
        self._threads.stop()
        for engine in self._engines:
            engine.dispose()

    def _drain(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._drained())

    @property
    def writes_waiting(self) -> int:
        """How many writes wait for the transaction after the one under way."""
        return len(self._writer)

    # -- the fleet ---------------------------------------------------------------------

    def next_start(self) -> Deferred[int]:
        """Count a start of the gateway; the upper half of the epochs it gives out."""
        return self._write(meta.next_start)

    def fleet(self) -> Deferred[str | None]:
        """Return the fleet's id, or None before it was set."""
        return self._read(meta.fleet)

    def set_fleet(self, fleet_id: str) -> Deferred[None]:
        """Set the fleet's id; fails if the store has another one."""
        return self._write(meta.set_fleet, fleet_id)

    def put_catalogue(self, digest: str, body: str) -> Deferred[None]:
        """Keep a handlers' catalogue (JSON text) under its digest, which the caller checked."""
        return self._write(meta.put_catalogue, digest, body)

    def catalogue(self, digest: str) -> Deferred[str | None]:
        """Return a handlers' catalogue as JSON text, or None."""
        return self._read(meta.catalogue, digest)

    # -- devices -----------------------------------------------------------------------

    def enrol_device(self, grant: TokenGrant, proposed_name: str) -> Deferred[Device]:
        """Make the device a grant is for; the proposed name must be valid already."""
        return self._write(devices.enrol_device, grant, proposed_name, self._now())

    def device_by_spki(self, spki: bytes) -> Deferred[DeviceKey | None]:
        """Return who registered a key; ask the result's ``refusal(now)`` before admitting."""
        return self._keys.find(spki)

    def device(self, name_or_id: str) -> Deferred[Device | None]:
        """Return the device of that id (also revoked), or the active one of that name."""
        return self._read_told(devices.find_device, name_or_id)

    def find_devices(
        self, narrowing: Narrowing = EVERYTHING, *, revoked: bool = False
    ) -> Deferred[list[Device]]:
        """Return active devices by name, but what is narrowed out; with *revoked* those too."""
        return self._read_told(devices.find_devices, narrowing, revoked=revoked)

    def first_page(
        self, narrowing: Narrowing, size: int, names: Collection[str] = ()
    ) -> Deferred[tuple[listing.Page, listing.PagesLeft]]:
        """Return the first active devices by name, and what is left; see ``store.listing``."""
        return self._read_told(listing.first_page, narrowing, size, names)

    def page(self, ids: Sequence[str], names: Collection[str] = ()) -> Deferred[listing.Page]:
        """Return one more page of devices; what was told before the first is in it."""
        return self._read(listing.page, ids, names)

    def record_seen(
        self, device_id: str, epoch: int, seen: Seen, at: int | None = None
    ) -> Deferred[None]:
        """Record what a link told, now or at *at*, unless a newer epoch wrote, or revoked.

        Nobody waits for it, nor for `record_heard`, `keep_facts` and `append_flight`: they may
        share a commit that comes soon.  Reads of devices that are asked for later see them.
        """
        when = self._now() if at is None else at
        write = devices.seen_write(device_id, epoch, seen, when)
        return self._write_patiently(write, LINGER_SECONDS)

    def record_heard(self, heard: Collection[Heard]) -> Deferred[None]:
        """Move ``last_seen`` of live devices on; what a newer link wrote stays."""
        return self._write_patiently(
            lambda connection: devices.record_heard(connection, heard), TOLD_LINGER_SECONDS
        )

    def count_seen_since(self, since: int) -> Deferred[int]:
        """Return how many active devices were heard since then."""
        return self._read_told(devices.count_seen_since, since)

    def quarantine(self, name_or_id: str, reason: str) -> Deferred[Device]:
        """Refuse a device until ``release``."""
        return self._write(devices.quarantine, name_or_id, reason, self._now())

    def release(self, name_or_id: str) -> Deferred[Device]:
        """Let a quarantined device in again, and forget its link generation."""
        return self._write(devices.release, name_or_id)

    def set_labels(
        self, name_or_id: str, put: Mapping[str, str], remove: Collection[str] = ()
    ) -> Deferred[Device]:
        """Set and remove labels, whose syntax the caller checked."""
        return self._write(devices.set_labels, name_or_id, put, remove)

    def rename(self, name_or_id: str, name: str) -> Deferred[Device]:
        """Rename a device; its own name accepts a provisional one."""
        return self._write(devices.rename, name_or_id, name)

    def revoke_device(self, name_or_id: str) -> Deferred[Device]:
        """Revoke a device, its keys and the invites that name it."""
        return self._write(devices.revoke_device, name_or_id)

    # -- operators and keys ------------------------------------------------------------

    def add_operator(
        self,
        name: str,
        roles: tuple[str, ...],
        spki: bytes | None = None,
        not_after: int | None = None,
    ) -> Deferred[Operator]:
        """Create an operator without an invite, or bring a revoked one back."""
        return self._write(
            operators.add_operator, name, roles, self._now(), spki=spki, not_after=not_after
        )

    def enrol_operator(self, grant: TokenGrant) -> Deferred[Operator]:
        """Make the operator a grant is for, or give an existing one another key."""
        return self._write(operators.enrol_operator, grant, self._now())

    def operator(self, name: str) -> Deferred[Operator | None]:
        """Return the operator of that name, also a revoked one."""
        return self._read(operators.find_operator, name)

    def operator_by_spki(self, spki: bytes) -> Deferred[OperatorKey | None]:
        """Return who registered a key; ask the result's ``refusal(now)`` before admitting."""
        return self._read(operators.operator_by_spki, spki)

    def operators(self) -> Deferred[list[Operator]]:
        """Return all operators by name, revoked ones too."""
        return self._read(operators.find_operators)

    def operators_seen(self) -> Deferred[dict[str, int]]:
        """Return when each operator last did something, microseconds UTC; absent: never."""
        return self._read(operators.last_seen)

    def set_operator_roles(
        self, name: str, put: Collection[str], remove: Collection[str] = ()
    ) -> Deferred[Operator]:
        """Give an operator roles, which the caller checked, and take others away."""
        return self._write(operators.set_operator_roles, name, put, remove)

    def revoke_operator(self, name: str) -> Deferred[Operator]:
        """Revoke an operator, their keys, and the invites for and by them."""
        return self._write(operators.revoke_operator, name)

    def add_key(
        self, operator: str, spki: bytes, not_after: int | None = None, comment: str = ""
    ) -> Deferred[Key]:
        """Give an operator one more key."""
        return self._write(
            operators.add_key,
            operator,
            spki,
            self._now(),
            not_after=not_after,
            comment=comment,
        )

    def renew_key(self, old: bytes, new: bytes, not_after: int) -> Deferred[Key]:
        """Put a new key in an old one's place; the old one is accepted for 24 hours."""
        return self._write(keys.renew_key, old, new, not_after, self._now())

    def keys_of(self, kind: OwnerKind, owner: str) -> Deferred[list[Key]]:
        """Return all keys of a device id or operator name, oldest first."""
        return self._read(keys.keys_of, kind, owner)

    def revoke_key(self, spki: bytes) -> Deferred[Key]:
        """Revoke one key for good."""
        return self._write(keys.revoke_key, spki)

    # -- roles ---------------------------------------------------------------------------

    def roles(self) -> Deferred[list[Role]]:
        """Return all roles but the built-in one, by name."""
        return self._read(roles.find_roles)

    def put_role(
        self, name: str, grants: Sequence[Grant], by: str, *, add: bool = False
    ) -> Deferred[Role]:
        """Make a role, or replace its grants or *add* to them; the caller checked them."""
        return self._write(roles.put_role, name, grants, by, self._now(), add=add)

    def remove_role(self, name: str, *, force: bool = False) -> Deferred[list[str]]:
        """Remove a role; fires with the operators it was taken from.  See ``store.roles``."""
        return self._write(roles.remove_role, name, self._now(), force=force)

    # -- facts -------------------------------------------------------------------------

    def keep_facts(self, device_id: str, epoch: int, told: Mapping[str, Any]) -> Deferred[None]:
        """Keep what a device tells of itself, unless a newer epoch wrote, or revoked."""
        write = facts.facts_write(device_id, epoch, told, self._now())
        return self._write_patiently(write, TOLD_LINGER_SECONDS)

    def facts_of(self, device_id: str) -> Deferred[DeviceFacts | None]:
        """Return what a device told of itself last, or None."""
        return self._read_told(facts.facts_of, device_id)

    def all_facts(
        self, names: Collection[str], of: Sequence[str] | None = None
    ) -> Deferred[dict[str, dict[str, Any]]]:
        """Return these facts of each active device (*of* those with these ids) by id."""
        return self._read_told(facts.all_facts, names, of)

    # -- flight records ----------------------------------------------------------------

    def append_flight(self, device_id: str, records: Sequence[FlightRow]) -> Deferred[None]:
        """Keep what a device's flight recorder told; the newest are kept."""
        return self._write_patiently(flight.flight_write(device_id, records), TOLD_LINGER_SECONDS)

    def flight_rows(self, device_id: str, limit: int) -> Deferred[list[FlightRow]]:
        """Return the newest flight records of a device, oldest first."""
        return self._read_told(flight.rows, device_id, limit)

    # -- the audit ---------------------------------------------------------------------

    def append_audit(self, record: AuditRecord, *, patient: bool = False) -> Deferred[int]:
        """Append a row; fires with its sequence number once it is on disk.

        Args:
            record: What happened.
            patient: As in `finish_audit`.
        """
        return self._append(record, patient=patient)

    def finish_audit(self, end: AuditEnd, *, patient: bool = False) -> Deferred[int]:
        """Append the end of an opening row; a repetition gives the first end's number.

        Args:
            end: Of which row, and how.
            patient: Nobody waits: it may share a commit that comes soon.  Reads of the audit
                log that are asked for later see it all the same.
        """
        return self._append(end, patient=patient)

    def audit_rows(
        self, *, limit: int = 100, before: int | None = None, **wanted: Any
    ) -> Deferred[list[AuditRow]]:
        """Return rows, newest first; *wanted* are fields of ``AuditFilter``."""
        chosen = AuditFilter(**wanted)
        return self._read_audit(audit.rows, chosen, limit=limit, before=before)

    def audit_following(
        self, wanted: AuditFilter, *, after: int, limit: int
    ) -> Deferred[tuple[list[AuditRow], int]]:
        """Return rows behind a number, oldest first; see ``rshell.store.audit.following``."""
        return self._read_audit(audit.following, wanted, after=after, limit=limit)

    def audit_head(self) -> Deferred[tuple[int, bytes]]:
        """Return number and hash of the newest row."""
        return self._read_audit(audit.head)

    def watch_audit(self, told: Callable[[int], None]) -> None:
        """Call ``told(number)`` after each commit, with the newest row's number."""
        self._writer.watchers.append(told)

    def checkpoint_audit(self, key: str, sign: Callable[[bytes], bytes]) -> Deferred[int | None]:
        """Sign the chain so far in a row of its own; see ``rshell.store.verifying``."""
        return self._write(verifying.checkpoint, key, sign, self._now())

    def session_story(self, session: str) -> Deferred[audit.SessionStory]:
        """Return who began a session (hex), and whether its outcome is known."""
        return self._read_audit(audit.story, session)

    def link_audit(self, device_id: str, limit: int) -> Deferred[list[AuditRow]]:
        """Return the newest rows about a device's links, oldest first."""
        return self._read_audit(audit.link_rows, device_id, limit)

    def unfinished_audit(self) -> Deferred[list[AuditRow]]:
        """Return the opening rows without an end, oldest first."""
        return self._read_audit(audit.unfinished)

    def unsettled_sessions(self, limit: int) -> Deferred[list[tuple[str, str]]]:
        """Return (device id, session in hex) of the newest sessions without an outcome."""
        return self._read_audit(audit.unsettled, limit)

    def verify_audit(
        self,
        keys: Mapping[str, verifying.Verifier] | None = None,
        against: tuple[int, bytes] | None = None,
    ) -> Deferred[AuditVerdict]:
        """Check the whole chain; see ``rshell.store.verifying.verify``."""
        return self._read_audit(verifying.verify, keys, against)

    # -- how -----------------------------------------------------------------------------

    def _write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._closed is not None:
            return fail(StoreUnavailable("the store is closed"))
        return self._writer.write(lambda connection: work(connection, *args, **kwargs))

    def _append(self, entry: AuditRecord | AuditEnd, *, patient: bool = False) -> Deferred[int]:
        if self._closed is not None:
            return fail(StoreUnavailable("the store is closed"))
        stamped = audit.Stamped(self._now(), entry)
        return self._writer.append(stamped, linger=LINGER_SECONDS if patient else 0.0)

    def _write_patiently(self, work: Callable[[Connection], None], linger: float) -> Deferred[None]:
        if self._closed is not None:
            return fail(StoreUnavailable("the store is closed"))
        return self._writer.write(work, linger=linger)

    def _read_audit(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        caught_up = self._writer.caught_up(audit=True)
        return self._read_after(caught_up, lambda: self._read(work, *args, **kwargs))

    def _read_told(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        caught_up = self._writer.caught_up(audit=False)
        return self._read_after(caught_up, lambda: self._read(work, *args, **kwargs))

    @staticmethod
    def _read_after(
        caught_up: Deferred[None] | None, begin: Callable[[], Deferred[T]]
    ) -> Deferred[T]:
        if caught_up is None:
            return begin()
        read: Deferred[T] = Deferred()
        caught_up.addCallback(lambda _: begin().chainDeferred(read))
        return read

    def _read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        if self._closed is not None:
            return fail(StoreUnavailable("the store is closed"))
        if self._reads >= MAX_READS:
            return fail(StoreUnavailable("the store cannot keep up: try again later"))
        self._reads += 1
        done: Deferred[T] = Deferred()

        def run() -> None:
            try:
                with self._reader_engine.begin() as connection:
                    result = work(connection, *args, **kwargs)
            except Exception as error:
                reason = database.explain(error, self._path)
                self._threads.in_reactor(lambda: self._read_done(done.errback, reason))
            else:
                self._threads.in_reactor(lambda: self._read_done(done.callback, result))

        self._threads.in_reader(run)
        return done

    def _read_done(self, fire: Callable[[Any], None], value: object) -> None:
        self._reads -= 1
        fire(value)
        if not self._reads:
            waiters, self._reads_done = self._reads_done, []
            for waiter in waiters:
                waiter.callback(None)
