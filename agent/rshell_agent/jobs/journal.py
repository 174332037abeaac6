"""The journal: one line for each step of each job, synced before the step is taken.

A line is the CRC-32 of the rest in hexadecimal, a space, and JSON.  A line that a power cut tore,
or that somebody damaged, is left out when the file is read; the lines before and after it hold.
The file is the keeper's own (it is not read if it is somebody else's: a root keeper would obey
it), and each writer holds the lock file for as long as one write takes.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rshell_agent.jobs.times import Clock, Moment

__all__ = ["DECIDED", "Job", "Journal", "JournalBroken", "crash_point"]

_FILE, _LOCK = "keeper.jobs", "keeper.jobs.lock"
_NEW = "keeper.jobs.new"
#: Beyond this the file is written anew with what is still of use.
COMPACT_BYTES = 512 * 1024
#: Never read more: a file of this size is not ours.
_MAX_BYTES = 4 << 20
#: One record; the output of a rollback is the longest part of any.
MAX_RECORD = 16 * 1024
#: Ids that are remembered so that none is done twice; some 150 bytes each once they are told.
KEPT = 1000
#: What of a told job nobody asks for any more.
_LONG = ("output", "line", "command")
#: Of these everything is kept, for people and for the limits.
_WHOLE = 32
#: Writers hold the lock for one fsync, which a bad flash card can make last.
_LOCK_SECONDS = 5.0

#: States after which nothing more happens to a job but ``told``.
DECIDED = frozenset(
    {
        "cancelled",
        "done",
        "failed",
        "interrupted",
        "lost",
        "confirmed",
        "rolled-back",
        "disarmed",
    }
)

#: What may follow those.
_AFTERWARDS = frozenset({"told", "noted"})

Map = dict[str, object]
_CRASH_AT = b"RSHELL_CRASH_AT"  # for tests; `rshell_agent.workers.crash` has the rest


def crash_point(name: str) -> None:
    """Pass a place at which a test may end this process; the keeper loads no worker's code."""
    if _CRASH_AT in os.environb:
        from rshell_agent.workers.crash import crash_point as crash

        crash(name)


class JournalBroken(OSError):
    """The journal cannot be written or read, so nothing may be done; the text says why."""


class Job:
    """What the journal knows of one job.

    Attributes:
        id: The session's id in hexadecimal.
        kind: ``reboot`` or ``confirm``.
        state: The last one, but for ``told`` and ``noted``.
        told: Whether somebody has the outcome.
        noted: Whether the flight recorder has it.
        fields: What was noted with all states, the later over the earlier.
        moments: When each state was entered.
    """

    __slots__ = ("fields", "id", "kind", "moments", "noted", "records", "state", "told")

    def __init__(self, job: str, kind: str) -> None:
        self.id, self.kind = job, kind
        self.state, self.told, self.noted = "", False, False
        self.fields: Map = {}
        self.moments: dict[str, Moment] = {}
        self.records: list[Map] = []

    def add(self, record: Map) -> None:
        """Take in the next record.

        Raises:
            ValueError: It is malformed.
        """
        state, at = record.get("state"), Moment.read(record.get("at"))
        if not isinstance(state, str):
            raise ValueError("no state")
        fields = record.get("fields", {})
        if not isinstance(fields, dict):
            raise ValueError("no fields")
        if self.decided and state not in _AFTERWARDS:
            raise ValueError("a step after the last one")
        self.records.append(record)
        self.fields.update(fields)
        self.moments.setdefault(state, at)
        # a job that was folded was told, and noted as well or too old for it
        self.told |= state == "told" or record.get("told") is True
        self.noted |= state == "noted" or record.get("told") is True
        if state not in _AFTERWARDS:
            self.state = state

    @property
    def decided(self) -> bool:
        """Whether its outcome is known."""
        return self.state in DECIDED

    def text(self, name: str) -> str:
        """Return a field that is text, else ""."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float:
        """Return a field that is a number, else 0."""
        value = self.fields.get(name)
        return value if isinstance(value, int | float) else 0

    def folded(self) -> list[Map]:
        """Return one record that stands for all of a job whose outcome has been told."""
        kept = {key: value for key, value in self.fields.items() if key not in _LONG}
        at = self.moments.get("going") or self.moments[self.state]  # the limits count from there
        record: Map = {"job": self.id, "kind": self.kind, "state": self.state}
        return [{**record, "at": at.plain(), "told": True, "fields": kept}]


class Journal:
    """The file in a keeper's home.

    Args:
        directory: The opened home.
        clock: Says when each record was written.
    """

    def __init__(self, directory: int, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self._locked = False

    # -- reading -------------------------------------------------------------------------------

    def jobs(self) -> dict[str, Job]:
        """Return all jobs by id, the oldest first.

        Raises:
            JournalBroken: The file cannot be read, or is not ours.
        """
        jobs: dict[str, Job] = {}
        for line in self._read().split(b"\n"):
            record = _decoded(line)
            if record is None:
                continue
            name, kind = record.get("job"), record.get("kind")
            if not isinstance(name, str) or not isinstance(kind, str):
                continue
            job = jobs.get(name) or Job(name, kind)
            try:
                job.add(record)
            except ValueError:
                continue
            jobs[name] = job
        return jobs

    def _read(self) -> bytes:
        try:
            fd = self._open(_FILE, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        with os.fdopen(fd, "rb", 0) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise JournalBroken(f"{_FILE} is longer than {_MAX_BYTES} bytes")
        return data

    # -- writing -------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers away, as between looking and writing.

        Raises:
            JournalBroken: Somebody holds it for too long.
        """
        if self._locked:
            yield
            return
        fd = self._open(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            self._wait_for(fd)
            self._locked = True
            yield
        finally:
            self._locked = False
            os.close(fd)

    @staticmethod
    def _wait_for(fd: int) -> None:
        latest = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= latest:
                    raise JournalBroken("another process keeps the journal locked") from None
            time.sleep(0.02)  # not in a loop's turn but for the time of somebody's fsync

    def append(self, job: str, kind: str, state: str, **fields: object) -> Map:
        """Write a record and sync it; only then may the step be taken.

        Returns:
            The record, for `Job.add`.

        Raises:
            JournalBroken: It is not on the disk: do not take the step.
        """
        record: Map = {"job": job, "kind": kind, "state": state}
        record["at"] = self.clock.now().plain()
        if fields:
            record["fields"] = fields
        line = _encoded(record)
        crash_point(f"jobs.{kind}.{state}.before")
        try:
            with self.lock():
                self._append(line)
        except JournalBroken:
            raise
        except OSError as error:
            raise JournalBroken(f"the journal cannot be written: {error.strerror}") from None
        crash_point(f"jobs.{kind}.{state}.after")
        return record

    def _append(self, line: bytes) -> None:
        fd = self._open(_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # after what a power cut has torn
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            crash_point("jobs.written")
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)  # a step that was refused must not be read as one that was taken
            raise
        finally:
            os.close(fd)
        if not size:
            os.fsync(self.directory)
        if size > COMPACT_BYTES:
            try:
                self._compact()
            except OSError:  # the record is on the disk, and the next one tries again
                self._remove_new()

    def _remove_new(self) -> None:
        try:
            os.unlink(_NEW, dir_fd=self.directory)
        except OSError:
            pass

    def _compact(self) -> None:
        """Write the file anew: whole what is still of use, one line for what was told."""
        jobs = list(self.jobs().values())
        recent = {job.id for job in jobs[-_WHOLE:]}
        over = [job for job in jobs if job.decided and job.told]
        dropped = {job.id for job in over[: max(0, len(jobs) - KEPT)]} - recent
        lines: list[bytes] = []
        for job in jobs:
            if job.id in dropped:
                continue
            told = job.decided and job.told and job.id not in recent
            lines += [_encoded(record) for record in (job.folded() if told else job.records)]
        fd = self._open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        crash_point("jobs.compacted")
        os.rename(_NEW, _FILE, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        os.fsync(self.directory)

    def _open(self, name: str, flags: int) -> int:
        """Open a file of ours; in a home that belongs to another user it could be a trap.

        Raises:
            FileNotFoundError: There is none, and none is made.
            JournalBroken: It is not ours, or cannot be opened.
        """
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self.directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise JournalBroken(f"{name}: {error.strerror}") from None
        info = os.fstat(fd)
        mine = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1
        if not mine or info.st_mode & 0o022:
            os.close(fd)
            raise JournalBroken(f"{name} is not the keeper's own file")
        return fd


def _encoded(record: Map) -> bytes:
    data = json.dumps(record, separators=(",", ":")).encode()
    if len(data) > MAX_RECORD:
        raise JournalBroken("a record of the journal is too long")
    return b"%08x %s\n" % (binascii.crc32(data), data)


def _decoded(line: bytes) -> Map | None:
    """Return a line's record, or None if it is torn or none of ours."""
    data = line[9:]
    if line[:9] != b"%08x " % binascii.crc32(data):
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
