"""Files in turn: their lines through pattern and rate into records."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rshell_agent.workers.tail.cutting import Line
from rshell_agent.workers.tail.opened import Key, OpenedFile
from rshell_agent.workers.tail.pattern import Pattern
from rshell_agent.workers.tail.rate import Rate
from rshell_agent.workers.tail.records import Records, text_of
from rshell_agent.workers.tail.wakeups import Wakeups

__all__ = ["Reading"]

#: Reads of one file before the others get their turn.
READS_PER_TURN = 4
#: A line whose newline does not come is told as it is after this long.
PART_SECONDS = 1.0
#: Lines left out are told of at least so often.
DROPPED_SECONDS = 1.0
#: A place that no line tells of (nothing matched, nothing came) is told this often.
AT_SECONDS = 5.0
#: A file without a path is read until it was quiet for this long: its writer has moved on.
LINGER_SECONDS = 5.0
#: But not for longer than this: a writer that never moves on writes into what nobody will keep.
LINGER_MAX_SECONDS = 300.0


class Reading:
    """The files that are read, in the order in which they are.

    Args:
        records: Where to tell.
        pattern: Which lines are wanted; None for all.
        rate: Lines a second that may pass while following; 0 for any number.
        wakeups: Watches the files.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        records: Records,
        pattern: Pattern | None,
        rate: int,
        wakeups: Wakeups,
        now: Callable[[], float],
    ) -> None:
        self._records = records
        self._pattern = pattern
        self._rate = Rate(rate, now())
        self._wakeups = wakeups
        self._now = now
        self._files: dict[Key, OpenedFile] = {}
        self._at_told = now()

    # -- which files -----------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return len(self._files)

    @property
    def behind(self) -> bool:
        """Whether there is something left of what was there when reading began."""
        return any(file.pos < file.free_until for file in self._files.values())

    def find(self, key: Key) -> OpenedFile | None:
        """Return the file of a key, if it is among them."""
        return self._files.get(key)

    def add(self, file: OpenedFile) -> None:
        """Begin to read a file."""
        self._files[file.key] = file
        file.watch = self._wakeups.watch_file(file.descriptor)
        self._records.tell("file", **file.facts())

    def add_before(self, files: Iterable[OpenedFile]) -> None:
        """Begin to read files that no path leads to, before all others."""
        others = self._files
        self._files = {}
        for file in files:
            file.wanted = False
            self.add(file)
        self._files.update(others)

    def wanted(self, file: OpenedFile) -> None:
        """A path leads to a file (again)."""
        file.wanted = True

    def unwanted_but(self, keys: set[Key]) -> None:
        """No path leads to the files of any other key."""
        now = self._now()
        for key, file in self._files.items():
            if key not in keys and file.wanted:
                file.wanted = False
                file.unwanted_at = file.grew_at = now

    # -- turns -----------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Read some of each file and write it; whether there was anything."""
        now = self._now()
        self._rate.advance(now)
        progress = False
        for file in self._files.values():
            for _ in range(READS_PER_TURN):
                if not self._read(file, now):
                    break
                progress = True
        if not progress:
            self._rate.caught_up()
        self._tell_quiet(now)
        self._records.flush()
        self._rate.blocked(self._records.blocked_seconds)
        self._records.blocked_seconds = 0.0
        return progress

    def finish(self) -> None:
        """Tell what is left of each file and close them all."""
        for file in tuple(self._files.values()):
            self._close(file)
        self._records.flush()

    def _read(self, file: OpenedFile, now: float) -> bool:
        start = file.pos
        free = start < file.free_until
        data = file.read()
        if data is None:
            self._truncated(file)
            return True
        if not data:
            return False
        file.grew_at = now
        if file.head_grew():
            self._records.tell("file", **file.facts())
        if self._pattern is None and not free and self._rate.closed:
            count = file.cutter.skip(data)
            if count:
                file.done = start + data.rfind(b"\n") + 1
                self._drop(file, count, now)
            return True
        lines = file.cutter.feed(data, start)
        if lines:
            self._pass_on(file, lines, free, now)
        return True

    def _pass_on(self, file: OpenedFile, lines: list[Line], free: bool, now: float) -> None:
        end = lines[-1].end
        if self._pattern is not None:
            wants = self._pattern.wants
            lines = [line for line in lines if wants(line.text)]
        granted = len(lines) if free else self._rate.grant(len(lines))
        if granted and file.dropped:
            self._tell_dropped(file)
        for line in lines[:granted]:
            self._records.line(file.number, line)
            file.told = line.end
        file.done = end
        if granted < len(lines):
            self._drop(file, len(lines) - granted, now)

    def _truncated(self, file: OpenedFile) -> None:
        self._last_words(file)
        file.restart()
        self._records.tell("file", **file.facts())
        text = f"{text_of(file.path)} was truncated; reading it from its beginning"
        self._records.note("truncated", text, file.path)

    # -- what is told without a line -------------------------------------------------------------

    def _drop(self, file: OpenedFile, count: int, now: float) -> None:
        if not file.dropped:
            file.dropped_at = now
        file.dropped += count

    def _tell_dropped(self, file: OpenedFile) -> None:
        count, file.dropped = file.dropped, 0
        if count:
            self._records.tell("dropped", file=file.number, count=count, pos=file.done)
            file.told = file.done

    def _tell_quiet(self, now: float) -> None:
        at_due = now - self._at_told >= AT_SECONDS
        if at_due:
            self._at_told = now
        for file in tuple(self._files.values()):
            if file.dropped and now - file.dropped_at >= DROPPED_SECONDS:
                self._tell_dropped(file)
            quiet = now - file.grew_at
            if self._pattern is None and quiet >= PART_SECONDS and file.cutter.waiting:
                self._tell_part(file)
            if at_due and file.told != file.done and not file.dropped:
                self._records.tell("at", file=file.number, pos=file.done)
                file.told = file.done
            if not file.wanted and (
                quiet >= LINGER_SECONDS or now - file.unwanted_at >= LINGER_MAX_SECONDS
            ):
                self._close(file)

    def _tell_part(self, file: OpenedFile) -> None:
        line = file.flush()
        if line is not None:
            self._records.line(file.number, line)
            file.told = line.end

    def _last_words(self, file: OpenedFile) -> None:
        """Tell what is not told yet of a file that has no more."""
        self._tell_dropped(file)
        line = file.flush()
        if line is not None and (self._pattern is None or self._pattern.wants(line.text)):
            self._records.line(file.number, line)

    def _close(self, file: OpenedFile) -> None:
        self._last_words(file)
        self._records.tell("end", file=file.number)
        self._wakeups.unwatch(file.watch)
        file.close()
        del self._files[file.key]
