"""Group commit: one writer, and what queues up during a commit is the next transaction.

A commit costs an fsync (0.1 to 10 ms) whatever is in it, so under load the writes of that
time share the next one, and at rest a write is committed at once.

Some writes are patient: nobody waits for them, so they wait a while for one that somebody does
wait for, and share its commit; at rest they are committed by themselves.  Ends of sessions are
(whoever begins another session right after one would wait for two commits), and so are devices that
come and go, for `LINGER_SECONDS`; what devices tell of themselves, for `TOLD_LINGER_SECONDS`.

What is alike is done by one statement for many (``alike.py``).

One refused write takes none of its neighbours along: a batch is tried as it is, and if
anything in it is refused, rolled back and done again with a savepoint for each write
(savepoints cost as much as the writes).  So works are functions of the database alone and
may run twice.  Audit rows go in together, in one statement.  A Deferred fires after
the commit that holds its write, in the order the writes were asked for, and a commit that
fails (a full disk) fails every one of them: nothing is acknowledged that is not on disk.

All bookkeeping happens in the reactor's thread; the writer thread sees one batch at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred

from rshell.store import audit
from rshell.store.alike import Alike, Gathering
from rshell.store.crash import crash_point
from rshell.store.database import explain
from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.threads import Call, Threads

__all__ = ["LINGER_SECONDS", "MAX_BATCH", "MAX_QUEUED", "TOLD_LINGER_SECONDS", "GroupWriter"]

# Bounds how long the first in a batch waits for the last: ~50 ms on a small machine.
MAX_BATCH = 1_000
# Several seconds of the most a gateway asks for; beyond it the disk has stopped and
# callers must hear so instead of filling the memory.
MAX_QUEUED = 50_000
# A program that runs one command after the other comes back within 3 ms.  A gateway that is
# killed meanwhile has not written the end; as for one that dies during the commit (0.1 to
# 10 ms), the device's report or the next start completes it.
LINGER_SECONDS = 0.01
# Facts and flight records: a device keeps what was not acknowledged, and tells it again.  Longer
# would save little, and all that is acknowledged at once is a pause for everybody else.
TOLD_LINGER_SECONDS = 0.03

T = TypeVar("T")


@attrs.define(eq=False)
class _Queued:
    """One write on its way: *work*, or an audit *entry* stamped with its time.

    Attributes:
        linger: For how many seconds it may wait for others; 0: somebody waits.
    """

    deferred: Deferred[Any]
    work: Callable[[Connection], object] | None = None
    entry: audit.Stamped | None = None
    linger: float = 0.0
    result: object = None
    error: StoreError | None = None


class GroupWriter:
    """Owns the queue of writes and the one transaction under way."""

    def __init__(self, engine: Engine, path: Path, threads: Threads) -> None:
        self._engine = engine
        self._path = path
        self._threads = threads
        self._queue: deque[_Queued] = deque()
        self._committing = False
        #: The writer thread's.
        self._open_rows = audit.OpenRows()
        #: How many of the queue, from its front, are to be committed now.
        self._due = 0
        #: Patient ones that are not committed: of the audit log, and others.
        self._patient_entries = self._patient_works = 0
        #: By their length the timers under way, of which there are two; each ends all lingering.
        self._lingering: dict[float, Call] = {}
        self._idle_waiters: list[Deferred[None]] = []
        #: Told the number of the newest audit row after each commit, in the reactor's thread.
        self.watchers: list[Callable[[int], None]] = []

    def __len__(self) -> int:
        return len(self._queue)

    def write(self, work: Callable[[Connection], T], *, linger: float = 0.0) -> Deferred[T]:
        """Run *work* in a transaction; fires with its result after the commit.

        Args:
            work: A function of the database, or an `Alike`.
            linger: Seconds for which it may wait for a commit to share: nobody waits for it.
        """
        return self._add(_Queued(deferred=Deferred(), work=work, linger=linger))

    def append(self, entry: audit.Stamped, *, linger: float = 0.0) -> Deferred[int]:
        """Append to the audit log; fires with the sequence number after the commit.

        Args:
            entry: The row.
            linger: As in `write`.
        """
        return self._add(_Queued(deferred=Deferred(), entry=entry, linger=linger))

    def caught_up(self, *, audit: bool) -> Deferred[None] | None:
        """Return what fires once every patient write handed in is on disk, or has failed.

        Args:
            audit: Of the audit log; else of everything but that.

        Returns:
            None if there is none, as nearly always.
        """
        if not (self._patient_entries if audit else self._patient_works):
            return None
        return self.write(_nothing).addErrback(lambda _: None)

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires once nothing is queued or being committed."""
        waiter: Deferred[None] = Deferred()
        self._idle_waiters.append(waiter)
        self._hurry()
        self._tell_if_idle()
        return waiter

    def stop(self) -> None:
        """Cancel the timers: nothing lingers."""
        lingering, self._lingering = self._lingering, {}
        for cancel in lingering.values():
            cancel()

    def _add(self, item: _Queued) -> Deferred[Any]:
        if len(self._queue) >= MAX_QUEUED:
            item.deferred.errback(StoreUnavailable("the store cannot keep up: try again later"))
            return item.deferred
        self._queue.append(item)
        if item.linger:
            self._count_patient(item, 1)
        if not item.linger or len(self._queue) >= MAX_BATCH:
            self._due = len(self._queue)
            self._commit_next()
        else:
            self._linger(item.linger)
        return item.deferred

    def _count_patient(self, item: _Queued, change: int) -> None:
        if item.entry is None:
            self._patient_works += change
        else:
            self._patient_entries += change

    def _linger(self, seconds: float) -> None:
        # A shorter one under way, whoever began it, takes this write along.
        if all(under_way > seconds for under_way in self._lingering):
            self._lingering[seconds] = _nothing_to_cancel  # it may be over before it is known
            cancel = self._threads.later(seconds, lambda: self._lingered(seconds))
            if seconds in self._lingering:
                self._lingering[seconds] = cancel

    def _lingered(self, seconds: float) -> None:
        del self._lingering[seconds]
        self._hurry()

    def _hurry(self) -> None:
        """Let nothing that is queued linger any more."""
        self._due = len(self._queue)
        self._commit_next()

    def _commit_next(self) -> None:
        # What lingers has a timer.
        if self._committing or not self._due:
            return
        self._committing = True
        batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
        self._due = max(0, self._due - len(batch))
        if not self._queue:
            # Else the next one would linger for what is left of it, and have its own commit.
            self.stop()
        self._threads.in_writer(lambda: self._run(batch))

    def _run(self, batch: list[_Queued]) -> None:
        """Writer thread: one transaction for the whole batch."""
        try:
            try:
                self._open_rows.begun()
                with self._engine.begin() as connection:
                    _apply(connection, batch, self._open_rows)
                    crash_point("store.before-commit")
                self._open_rows.committed()
                crash_point("store.committed")
            except Exception as error:
                if isinstance(explain(error, self._path), StoreUnavailable):
                    raise
                with self._engine.begin() as connection:
                    _apply_singly(connection, batch, self._path)
        except Exception as error:  # nothing of the batch is in the database
            reason = explain(error, self._path)
            for item in batch:
                item.error = item.error or reason
        self._threads.in_reactor(lambda: self._committed(batch))

    def _committed(self, batch: Sequence[_Queued]) -> None:
        self._committing = False
        for item in batch:
            if item.linger:
                self._count_patient(item, -1)
        # The next transaction starts before callbacks run: they may take their time.
        self._commit_next()
        for item in batch:
            if item.error is not None:
                item.deferred.errback(_fresh(item.error))
            else:
                item.deferred.callback(item.result)
        self._tell_watchers(batch)
        self._tell_if_idle()

    def _tell_watchers(self, batch: Sequence[_Queued]) -> None:
        if not self.watchers:
            return
        numbers = [item.result for item in batch if item.entry is not None and item.error is None]
        newest = max((number for number in numbers if isinstance(number, int)), default=0)
        if newest:
            for told in list(self.watchers):
                told(newest)

    def _tell_if_idle(self) -> None:
        if self._committing or self._queue:
            return
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            waiter.callback(None)


def _nothing(_connection: Connection) -> None:
    pass


def _nothing_to_cancel() -> None:
    pass


def _fresh(error: StoreError) -> StoreError:
    """Return a copy, because one exception raised in many coroutines collects tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def _apply(connection: Connection, batch: Sequence[_Queued], open_rows: audit.OpenRows) -> None:
    """Do the whole batch; raises what the first refused write raises."""
    alike = Gathering()
    for item in batch:
        if isinstance(item.work, Alike):
            alike.add(connection, item.work)
        elif item.work is not None:
            alike.do(connection)
            item.result = item.work(connection)
    alike.do(connection)
    _append(connection, [item for item in batch if item.entry is not None], open_rows)


def _apply_singly(connection: Connection, batch: Sequence[_Queued], path: Path) -> None:
    """Do the batch with a savepoint for each write, noting which are refused."""
    for item in batch:
        item.error = None
        if item.work is not None:
            try:
                with connection.begin_nested():
                    item.result = item.work(connection)
            except Exception as error:
                item.error = _survivable(connection, error, path)
    appends = [item for item in batch if item.entry is not None]
    if not appends:
        return
    try:
        with connection.begin_nested():
            _append(connection, appends)
    except Exception as error:
        _survivable(connection, error, path)
        _append_singly(connection, appends, path)


def _append_singly(connection: Connection, appends: Sequence[_Queued], path: Path) -> None:
    """Give each row a savepoint of its own: one bad value must not cost its neighbours."""
    for item in appends:
        item.error = None
        try:
            with connection.begin_nested():
                _append(connection, [item])
        except Exception as error:
            item.error = _survivable(connection, error, path)


def _append(
    connection: Connection, appends: Sequence[_Queued], open_rows: audit.OpenRows | None = None
) -> None:
    if not appends:
        return
    entries = [item.entry for item in appends if item.entry is not None]
    for item, outcome in zip(
        appends, audit.append_all(connection, entries, open_rows), strict=True
    ):
        if isinstance(outcome, StoreError):
            item.error = outcome
        else:
            item.result = outcome


def _survivable(connection: Connection, error: Exception, path: Path) -> StoreError:
    """Return *error* in plain words if the transaction goes on, else raise.

    SQLite ends the whole transaction by itself on a full disk and on I/O errors; then
    the writes before this one are gone too and must fail as well.
    """
    reason = explain(error, path)
    if isinstance(reason, StoreUnavailable) or not connection.in_transaction():
        raise reason from error
    reason.__cause__ = error if reason is not error else None
    return reason
