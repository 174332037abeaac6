"""AuditSpool: ends of sessions that the store could not take, kept until it can.

Nothing begins without its row on disk; but what runs already ends when it ends, and a full disk
must not cost the log how.  So ends wait here: in memory, and in ``HOME/audit.spool``, whose room is
taken at the first start, while there is some.  A gateway that dies meanwhile finds them there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.access.audit import AuditEnd
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.store.crash import crash_point
from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.store import Store

__all__ = ["AuditSpool"]

#: Room in the file: some 4,000 ends.
SPOOL_BYTES = 1024 * 1024
#: And in memory: every session that this gateway can hold, ending at once.
MAX_ENDS = 10_000
RETRY_SECONDS = 5.0


class _End(msgspec.Struct, frozen=True, omit_defaults=True):
    refers: int
    status: str
    exit_code: int | None = None
    code: str | None = None
    message: str | None = None
    details: dict[str, object] = msgspec.field(default_factory=dict)


class AuditSpool:
    """Keeps ends, in order.

    Args:
        store: Open.
        home: The gateway's directory.
        wheel: Timers.
    """

    _log = Logger()

    def __init__(self, store: Store, home: Path, wheel: TimerWheel) -> None:
        self._store = store
        self._path = home / "audit.spool"
        self._wheel = wheel
        self._ends: deque[AuditEnd] = deque()
        self._file: int | None = None
        self._used = 0
        self._timer: WheelTimer | None = None
        self._trying = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._ends)

    async def start(self) -> None:
        """Take the file's room, and write what an earlier run left in it."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._path, flags, 0o600)
            self._ends.extend(_read(self._file))
            os.posix_fallocate(self._file, 0, SPOOL_BYTES)
            self._used = SPOOL_BYTES if self._ends else 0
        except OSError as error:
            self._log.warn("{path}: {why}", path=str(self._path), why=error.strerror)
        if self._ends:
            self._log.info("{count} ends of sessions are written late", count=len(self._ends))
            await self._drain()

    async def stop(self) -> None:
        """Try a last time; what is left stays in the file."""
        try:
            await self._store.audit_head()  # after ends that linger: those that fail come here
        except StoreError:
            pass  # what cannot be read may still be written
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._ends and not self._trying:
            await self._drain()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def keep(self, end: AuditEnd, reason: StoreError) -> None:
        """Keep an end that the store could not take."""
        if not isinstance(reason, StoreUnavailable):
            self._log.error("the audit refused an end: {why}", why=str(reason))
            return
        if len(self._ends) >= MAX_ENDS:
            self._log.error("the audit could not be written, and too much waits: {why}", why=reason)
            return
        if not self._ends:
            self._log.error("the audit cannot be written, ends wait: {why}", why=str(reason))
        self._ends.append(end)
        self._note(end)
        self._later()

    def _note(self, end: AuditEnd) -> None:
        line = msgspec.json.encode(_End(**attrs.asdict(end))) + b"\n"
        if self._file is None or self._used + len(line) > SPOOL_BYTES:
            return
        try:
            os.pwrite(self._file, line, self._used)
        except OSError:
            return  # in memory it is
        self._used += len(line)
        crash_point("spool.noted")

    def _later(self) -> None:
        if self._timer is None and not self._trying and not self._stopped:
            self._timer = self._wheel.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        tried = Deferred.fromCoroutine(self._drain())
        tried.addErrback(lambda failure: self._log.failure("the spool failed", failure))

    async def _drain(self) -> None:
        self._trying = True
        try:
            while self._ends:
                try:
                    await self._store.finish_audit(self._ends[0])
                except StoreUnavailable:
                    return
                except StoreError as error:
                    self._log.error("the audit refused an end: {why}", why=str(error))
                crash_point("spool.written")
                self._ends.popleft()
            self._forget()
        finally:
            self._trying = False
            if self._ends:
                self._later()

    def _forget(self) -> None:
        if self._file is None or not self._used:
            return
        try:
            # The first byte says that there is nothing; the room is kept.
            os.pwrite(self._file, bytes(min(self._used, SPOOL_BYTES)), 0)
            self._used = 0
        except OSError as error:
            self._log.warn("{path}: {why}", path=str(self._path), why=error.strerror)


def _read(file: int) -> Iterator[AuditEnd]:
    for line in os.pread(file, SPOOL_BYTES, 0).split(b"\0", 1)[0].splitlines():
        try:
            end = msgspec.json.decode(line, type=_End)
        except msgspec.MsgspecError:
            continue  # torn by a power cut
        yield AuditEnd(**msgspec.structs.asdict(end))
