"""The systemd journal, through ``journalctl -o json``: no other reader keeps up with its format.

It runs as the login, as everything here does, so it shows what the login may see.  Each entry's
cursor goes with it: an operator's end that had to begin anew says after which one to go on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.tail.cutting import MAX_LINE_BYTES
from rshell_agent.workers.tail.rate import Rate
from rshell_agent.workers.tail.records import Records
from rshell_agent.workers.tail.request import Request
from rshell_agent.workers.tail.wakeups import ReaderGone

__all__ = ["Journal"]

#: Where the journal is; to read it through journalctl is to read what lies there.
PLACES = (b"/var/log/journal", b"/run/log/journal")
#: One entry as JSON; a longer one is left out and said so.
MAX_ENTRY_BYTES = 1024 * 1024
#: What a search backwards for the last matching entries may keep.
MAX_KEPT_BYTES = 8 * 1024 * 1024
READ_BYTES = 64 * 1024
#: Lines left out are told of at least so often.
DROPPED_SECONDS = 1.0
#: A journalctl that ended while it should follow is started again so much later.
AGAIN_SECONDS = 1.0
#: And after so many that told nothing, not any more.
MAX_FUTILE = 3

_FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_COMM,_SYSTEMD_UNIT"

Entry = dict[str, Any]


class JournalctlFailed(Exception):
    """It could not be run, or ended badly; the text is for a person."""


class Journal:
    """What one worker does with the journal.

    Args:
        request: What was asked for.
        confined: Says whether the policy lets read the journal's places.
        records: Where to tell.
        output: Our output; its reader's end is ours.
    """

    def __init__(
        self, request: Request, confined: Confined, records: Records, output: int = 1
    ) -> None:
        self._request = request
        self._confined = confined
        self._records = records
        self._output = output
        self._rate = Rate(request.rate, time.monotonic())
        self._cursor = request.cursor
        self._begun_us = time.time() * 1e6
        self._dropped = 0
        self._dropped_at = 0.0

    def run(self) -> int:
        """Tell what was asked for; return the exit status.

        Raises:
            ReaderGone: Nobody reads any more.
            BadPattern: The pattern takes too long.
        """
        there = [place for place in PLACES if os.path.isdir(place)] or PLACES[:1]
        denied = [os.fsdecode(place) for place in there if not self._confined.may(place)]
        if denied:
            text = f"the device's policy does not allow the journal: `read` has no {denied[0]}"
            self._records.note("policy", text)
            self._records.flush()
            return 1
        if self._request.follow:
            self._records.tell("ready", time=self._begun_us / 1e6)
        try:
            if self._request.pattern and self._request.lines is not None and not self._cursor:
                self._tell_last_matching(self._request.lines)
                if not self._request.follow:
                    return 0
            if self._request.follow:
                self._follow()
            else:
                self._tell_all(self._arguments(follow=False))
        except JournalctlFailed as error:
            self._records.note("journal", str(error))
            return 1
        finally:
            self._tell_dropped()
            self._records.flush()
        return 0

    def _arguments(self, follow: bool) -> list[str]:
        """Return what follows the units; a cursor says it all."""
        request = self._request
        tail = ["--follow"] if follow else []
        if self._cursor:
            return [*tail, "--lines=all", f"--after-cursor={self._cursor}"]
        since = [] if request.since is None else [f"--since=@{request.since:.6f}"]
        lines = "all" if request.lines is None else str(request.lines)
        return [*tail, f"--lines={lines}", *since]

    def _follow(self) -> None:
        futile = 0
        while True:
            told = 0
            try:
                told = self._tell_all(self._arguments(follow=True))
                problem = "journalctl ended"
            except JournalctlFailed as error:
                problem = str(error)
            futile = 0 if told else futile + 1
            if futile >= MAX_FUTILE:
                raise JournalctlFailed(problem)
            if self._cursor is None:  # what it had was told: do not tell it again
                self._request.lines, self._request.since = None, time.time()
            time.sleep(AGAIN_SECONDS)

    def _tell_all(self, arguments: list[str]) -> int:
        told = 0
        for entry in self._entries(arguments, self._turn):
            told += 1
            self._take(entry)
        return told

    def _take(self, entry: Entry) -> None:
        cursor = entry.get("__CURSOR")
        self._cursor = cursor if isinstance(cursor, str) else self._cursor
        message = message_of(entry)
        if self._request.pattern and not self._request.pattern.wants(message[:MAX_LINE_BYTES]):
            return
        moment = _integer(entry.get("__REALTIME_TIMESTAMP"))
        if moment > self._begun_us and not self._rate.grant(1):
            if not self._dropped:
                self._dropped_at = time.monotonic()
            self._dropped += 1
            return
        self._tell_dropped()
        self._records.entry(message[:MAX_LINE_BYTES], _fields(entry, moment, len(message)))

    def _turn(self) -> None:
        """What came at once has been told: write it."""
        now = time.monotonic()
        self._rate.advance(now)
        if self._dropped and now - self._dropped_at >= DROPPED_SECONDS:
            self._tell_dropped()
        self._records.flush()
        self._rate.blocked(self._records.blocked_seconds)
        self._records.blocked_seconds = 0.0

    def _tell_dropped(self) -> None:
        count, self._dropped = self._dropped, 0
        if count:
            self._records.tell("dropped", count=count, cursor=self._cursor)

    def _tell_last_matching(self, count: int) -> None:
        """Search from the end: what matches may lie far back, and all before it is not wanted."""
        pattern = self._request.pattern
        kept: deque[Entry] = deque()
        newest: str | None = None
        size = 0
        since = [] if self._request.since is None else [f"--since=@{self._request.since:.6f}"]
        for entry in self._entries(["--reverse", "--lines=all", *since], _nothing):
            newest = newest or str(entry.get("__CURSOR"))
            if len(kept) >= count or size >= MAX_KEPT_BYTES:
                break
            message = message_of(entry)
            if pattern is None or pattern.wants(message[:MAX_LINE_BYTES]):
                kept.appendleft(entry)
                size += len(message)
        for entry in kept:
            message = message_of(entry)
            moment = _integer(entry.get("__REALTIME_TIMESTAMP"))
            self._records.entry(message[:MAX_LINE_BYTES], _fields(entry, moment, len(message)))
        if newest is None:  # there is nothing yet: all that comes is new
            self._request.lines, self._request.since = None, self._begun_us / 1e6
        self._cursor = newest

    # -- the program -----------------------------------------------------------------------------

    def _entries(self, arguments: list[str], turn: Callable[[], None]) -> Iterator[Entry]:
        """Run journalctl and yield what it tells.

        Raises:
            JournalctlFailed: It could not be run, or ended with a failure.
        """
        pid, pipe = _start([f"--unit={unit}" for unit in self._request.units] + arguments)
        status: int | None = None
        try:
            for line in self._lines(pipe, turn):
                entry = _parse(line)
                if entry is not None:
                    yield entry
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(pipe)
            if status is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if status:
            raise JournalctlFailed(f"journalctl ended with status {status}")

    def _lines(self, pipe: int, turn: Callable[[], None]) -> Iterator[bytes]:
        rest = b""
        skipped = 0
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.register(self._output, 0)
        while True:
            turn()
            ready = dict(poll.poll(1000))
            if ready.get(self._output, 0) & (select.POLLERR | select.POLLHUP):
                raise ReaderGone
            if pipe not in ready:
                continue
            data = os.read(pipe, READ_BYTES)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if lines and skipped:
                self._records.note("cut", f"an entry of {skipped + len(lines[0]):,} bytes left out")
                del lines[0]
                skipped = 0
            yield from lines
            if len(rest) > MAX_ENTRY_BYTES:
                skipped += len(rest)
                rest = b""


def _start(arguments: list[str]) -> tuple[int, int]:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    command = ["journalctl", "--output=json", "--no-pager", "--all", f"--output-fields={_FIELDS}"]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs, 1),
    ]
    try:
        # By name on the login's own PATH; it is in the worker's group and ends with it.
        pid = os.posix_spawnp(
            "journalctl",
            [*command, *arguments],
            os.environ,
            file_actions=actions,
            setsigdef=[signal.SIGPIPE],
        )
    except OSError as error:
        os.close(ours)
        what = "it has no systemd journal" if isinstance(error, FileNotFoundError) else error
        raise JournalctlFailed(f"journalctl cannot be run on this device: {what}") from None
    finally:
        os.close(theirs)
    return pid, ours


def _parse(line: bytes) -> Entry | None:
    """Return an entry; None for what journalctl says besides, such as ``-- No entries --``."""
    if not line.startswith(b"{"):
        return None
    try:
        entry: Entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry


def message_of(entry: Entry) -> bytes:
    """Return an entry's message: text, or the list of bytes that stands for what is none."""
    message = entry.get("MESSAGE")
    if isinstance(message, str):
        return message.encode("utf-8", "replace")
    if isinstance(message, list):
        if message and not isinstance(message[0], int):  # a field that was given several times
            return message_of({"MESSAGE": message[0]})
        try:
            return bytes(message)
        except (TypeError, ValueError):
            return b""
    return b""


def _fields(entry: Entry, moment: int, size: int) -> dict[str, object]:
    facts: dict[str, object] = {
        "time": moment,
        "ident": entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM"),
        "pid": entry.get("SYSLOG_PID") or entry.get("_PID"),
        "unit": entry.get("_SYSTEMD_UNIT"),
        "priority": entry.get("PRIORITY"),
    }
    texts = {key: value for key, value in facts.items() if isinstance(value, (str, int))}
    fields: dict[str, object] = {"entry": texts, "cursor": entry.get("__CURSOR")}
    if size > MAX_LINE_BYTES:
        fields["cut"] = size - MAX_LINE_BYTES
    return fields


def _integer(value: object) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() else 0


def _nothing() -> None:
    """Nothing is to be written meanwhile."""
