"""Files by their paths: which are there, where to begin in each, and what became of them.

::

    matching -> paths -> files by inode -> reading -> records
    rotated --(what an earlier worker had not finished)--^

A path is only the way to a file; a file is its inode.  One that no path leads to any more is read
on for a while, because its writer may not have noticed the rotation yet.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from rshell_agent.workers.confined import Confined, Denied
from rshell_agent.workers.tail.matching import MAX_FILES, expand, is_pattern
from rshell_agent.workers.tail.opened import Key, Mark, OpenedFile
from rshell_agent.workers.tail.reading import Reading
from rshell_agent.workers.tail.records import Records, text_of
from rshell_agent.workers.tail.request import DEFAULT_LINES, Request
from rshell_agent.workers.tail.rotated import siblings_of
from rshell_agent.workers.tail.seeking import since_offset, start_of_last, start_of_line
from rshell_agent.workers.tail.wakeups import Wakeups

__all__ = ["Following"]

#: Paths are looked at again so often, and whenever a folder tells of a change.
LOOK_SECONDS = 1.0
#: A look takes at most this part of the time, even where files come and go all the time.
LOOK_SHARE = 20
#: Between the two steps of a rotation a path leads nowhere; that is not worth a word.
GONE_SECONDS = 2.0
#: Of a file that has no size and yet content (/proc, /sys), this much is taken.
UNSIZED_BYTES = 1024 * 1024
#: A beginning that is shorter fits files that have nothing to do with each other.
SURE_HEAD_BYTES = 256


class Following:
    """What one worker does with paths.

    Args:
        request: What was asked for.
        confined: The way to files.
        records: Where to tell.
        wakeups: Tells when to look.
        marks: Where an earlier worker was; None if there was none.
        now: Monotonic seconds.
        wall: The device's time.

    Attributes:
        failed: Whether something that was asked for could not be read.
    """

    def __init__(
        self,
        request: Request,
        confined: Confined,
        records: Records,
        wakeups: Wakeups,
        marks: list[Mark] | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.failed = False
        self._request = request
        self._confined = confined
        self._records = records
        self._wakeups = wakeups
        self._marks = marks
        self._now = now
        self._wall = wall
        self._reading = Reading(records, request.pattern, request.rate, wakeups, now)
        self._begun = False
        self._looked_at = now()
        self._look_took = 0.0
        self._numbers = 0
        #: Where each path led when it was last looked at.
        self._led: dict[bytes, Key] = {}
        self._gone_since: dict[bytes, float] = {}
        self._said: set[tuple[bytes, str]] = set()
        #: What rotation had left before we began, by path: no business of ours.
        self._left: dict[bytes, set[Key]] = {}
        #: When the file of a path had last changed, when it was last looked at; nanoseconds.
        self._changed_ns: dict[bytes, int] = {}
        #: What was asked for and the policy does not allow.
        self._refused: set[bytes] = set()

    def run(self) -> int:
        """Tell what was asked for, and follow if that was asked for; return the exit status.

        Raises:
            ReaderGone: Nobody reads any more.
            BadPattern: The pattern takes too long.
        """
        self.begin()
        changed = False
        while self._request.follow and not self._refused.issuperset(self._request.paths):
            if not self.turn():
                changed = self._wakeups.wait() or changed
            waited = self._now() - self._looked_at
            if waited >= LOOK_SECONDS or (changed and waited >= self._look_took * LOOK_SHARE):
                changed = False
                self.look()
        return 1 if self.failed else 0

    def turn(self) -> bool:
        """Read some of each file and tell it; whether there was anything."""
        return self._reading.turn()

    def begin(self) -> None:
        """Open what is there, and tell what it has so far."""
        self.look()
        if self._marks:
            self._look_for_rotated(self._marks)
        self._begun = True
        if self._request.follow:
            self._records.tell("ready", time=self._wall())
        # A writer may be faster than we are: then this does not wait for its end.
        while self.turn() and (self._reading.behind or not self._request.follow):
            pass
        if not self._request.follow:
            self._reading.finish()
        self._records.flush()

    # -- looking ---------------------------------------------------------------------------------

    def look(self) -> None:
        """See where the paths lead now."""
        began = self._now()
        seen: set[Key] = set()
        for asked in self._request.paths:
            if is_pattern(asked) and not self._exists(asked):
                self._look_at_pattern(asked, seen)
            else:
                self._look_at_path(asked, seen)
        self._reading.unwanted_but(seen)
        self._looked_at = self._now()
        self._look_took = self._looked_at - began

    def _exists(self, path: bytes) -> bool:
        try:
            self._confined.stat(path)
        except OSError:
            return False
        return True

    def _look_at_pattern(self, pattern: bytes, seen: set[Key]) -> None:
        found = expand(self._confined, pattern, self._wakeups.watch_folder)
        for path in found[:MAX_FILES]:
            try:
                info = self._confined.stat(path)
                if stat.S_ISREG(info.st_mode):
                    self._arrive(path, (info.st_dev, info.st_ino), seen)
            except OSError as error:
                self._complain(path, error)
        if len(found) > MAX_FILES:
            self._say(
                "too-many", f"more than {MAX_FILES} files match; the rest is left out", pattern
            )
        if not found and not self._begun:
            self._nothing_matches(pattern)

    def _nothing_matches(self, pattern: bytes) -> None:
        fixed = pattern
        while is_pattern(fixed):
            fixed = fixed.rpartition(b"/")[0]
        try:
            self._confined.stat(fixed or (b"/" if pattern.startswith(b"/") else b"."))
        except Denied as error:
            self._complain(pattern, error)
            return
        except OSError:
            pass  # nothing there to match is all that can be said
        if not self._request.follow:
            self.failed = True
        waiting = "; waiting for one" if self._request.follow else ""
        self._say("missing", f"nothing matches {text_of(pattern)}{waiting}", pattern)

    def _look_at_path(self, path: bytes, seen: set[Key]) -> None:
        try:
            with self._confined.at(path) as place:
                self._wakeups.watch_folder(place.dir_fd)
            info = self._confined.stat(path)
            if not stat.S_ISREG(info.st_mode):
                self.failed = True
                self._say("not-a-file", f"{text_of(path)} is not a regular file", path)
                return
            key = (info.st_dev, info.st_ino)
            if path not in self._left:
                found = [] if self._begun else siblings_of(self._confined, path)
                self._left[path] = {sibling.key for sibling in found}
            elif path in self._changed_ns and self._led.get(path) != key:
                self._catch_rotated(path, seen)
            self._changed_ns[path] = info.st_mtime_ns
            self._arrive(path, key, seen)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and path in self._changed_ns:
                self._catch_rotated(path, seen)
            self._complain(path, error)

    def _catch_rotated(self, path: bytes, seen: set[Key]) -> None:
        """Read what came to a path and was rotated away since it was last looked at."""
        since_ns = self._changed_ns[path]
        siblings = siblings_of(self._confined, path)
        self._left[path] &= {sibling.key for sibling in siblings}
        for sibling in siblings:
            if sibling.changed_ns >= since_ns and sibling.key not in self._left[path]:
                file = self._open_rotated(sibling.path)
                if file is not None:
                    file.path = path
                    self._reading.add(file)
                    seen.add(file.key)  # until the next look it counts as wanted
                self._left[path].add(sibling.key)

    def _complain(self, path: bytes, error: OSError) -> None:
        """Say why a path leads nowhere, once until it leads somewhere again."""
        missing = isinstance(error, FileNotFoundError)
        if self._begun and missing:
            since = self._gone_since.setdefault(path, self._now())
            if path in self._led and self._now() - since >= GONE_SECONDS:
                del self._led[path]
                self._say("gone", f"{text_of(path)} is gone; waiting for it", path)
            return
        if not (missing and self._request.follow):
            self.failed = True
        if isinstance(error, Denied):
            self._refused.add(path)
            self._say("policy", f"{error.strerror}", path)
        elif missing and self._request.follow:
            self._say("missing", f"{text_of(path)} is not there yet; waiting for it", path)
        else:
            self._say("unreadable", f"{text_of(path)}: {error.strerror or error}", path)

    def _say(self, code: str, text: str, path: bytes) -> None:
        if (path, code) not in self._said and len(self._said) < MAX_FILES * 4:
            self._said.add((path, code))
            self._records.note(code, text, path)

    # -- files -----------------------------------------------------------------------------------

    def _arrive(self, path: bytes, key: Key, seen: set[Key]) -> None:
        """Have the file that a path leads to among those that are read."""
        known = self._reading.find(key)
        if known is None:
            known = self._open(path, key)
            if known is None:
                return
        seen.add(known.key)
        self._reading.wanted(known)
        before = self._led.get(path)
        if self._begun and before != known.key:
            self._tell_change(path, before, known)
        self._led[path] = known.key
        self._gone_since.pop(path, None)
        self._said -= {(path, code) for code in ("gone", "missing", "unreadable", "rotated")}

    def _tell_change(self, path: bytes, before: Key | None, file: OpenedFile) -> None:
        if before is not None:
            self._say("rotated", f"{text_of(path)} is another file now; reading on in it", path)
        elif file.path == path:  # else it is a rotated file that a pattern matches too
            self._say("appeared", f"{text_of(path)} has appeared", path)
            self._said.discard((path, "appeared"))

    def _open(self, path: bytes, key: Key) -> OpenedFile | None:
        """Open a path; the file may be another by now, and one that is known.

        Raises:
            OSError: It cannot be opened.
        """
        if self._reading.count >= MAX_FILES:
            self._say("too-many", f"more than {MAX_FILES} files; the rest is left out", path)
            return None
        descriptor = self._confined.open(path, os.O_RDONLY)
        info = os.fstat(descriptor)
        known = self._reading.find((info.st_dev, info.st_ino))
        if known is not None or not stat.S_ISREG(info.st_mode):
            os.close(descriptor)
            return known
        if not info.st_size:
            descriptor = _sized(descriptor)
        file = self._new_file(path, descriptor, (info.st_dev, info.st_ino))
        if not self._begun:
            self._place(file, info.st_mtime)
        self._reading.add(file)
        return file

    def _new_file(self, path: bytes, descriptor: int, key: Key) -> OpenedFile:
        self._numbers += 1
        return OpenedFile(self._numbers, path, descriptor, key, self._now())

    def _place(self, file: OpenedFile, changed_at: float) -> None:
        """Go to where a file that is there from the start is to be read from."""
        size = file.size
        if not self._request.follow:
            file.limit = size
        if self._marks is not None:
            self._place_by_mark(file, size)
            return
        start = 0
        request, descriptor = self._request, file.descriptor
        lines = request.lines
        if request.since is not None:
            found = self._since(file, size, changed_at, request.since)
            if found is None:
                lines = DEFAULT_LINES if lines is None else lines
            else:
                start = found
        if request.first is not None:
            start = max(start, start_of_line(descriptor, size, int(request.first)))
        elif lines is not None:
            wants = request.pattern.wants if request.pattern else None
            start = max(start, start_of_last(descriptor, size, lines, wants))
        file.begin_at(start, size)

    def _since(self, file: OpenedFile, size: int, changed_at: float, since: float) -> int | None:
        if changed_at < since:
            return size
        found = since_offset(file.descriptor, size, since, self._wall())
        if found is None and size:
            text = f"{text_of(file.path)}: no time stamps that can be read; its last lines instead"
            self._say("no-stamps", text, file.path)
        return found

    # -- going on where an earlier worker was ----------------------------------------------------

    def _place_by_mark(self, file: OpenedFile, size: int) -> None:
        for mark in self._marks or []:
            same = mark.inode == file.key[1] or (
                mark.path == file.path and mark.head >= SURE_HEAD_BYTES
            )
            if same and file.fits(mark):
                self._marks = [other for other in self._marks or [] if other != mark]
                file.begin_at(mark.pos, size, mid=mark.mid)
                return
        # One that came, or came in place of another, while nobody looked.
        file.begin_at(0, size)

    def _look_for_rotated(self, marks: list[Mark]) -> None:
        """Find what the marks are about that no path leads to, and what came after it."""
        waiting = []
        for mark in self._marks or []:
            siblings = siblings_of(self._confined, mark.path)
            for index, sibling in enumerate(siblings):
                file = self._open_rotated(sibling.path) if sibling.key[1] == mark.inode else None
                if file is None:
                    continue
                if not file.fits(mark):
                    file.close()
                    continue
                file.begin_at(mark.pos, file.size, mid=mark.mid)
                waiting.append(file)
                for later in siblings[index + 1 :]:
                    another = self._open_rotated(later.path)
                    if another is not None:
                        another.begin_at(0, another.size)
                        waiting.append(another)
                break
            else:
                text = f"{text_of(mark.path)}: what was not read of it before is not there any more"
                self._say("missed", text, mark.path)
        self._reading.add_before(waiting)

    def _open_rotated(self, path: bytes) -> OpenedFile | None:
        try:
            descriptor = self._confined.open(path, os.O_RDONLY, follow=False)
        except OSError:
            return None
        info = os.fstat(descriptor)
        key = (info.st_dev, info.st_ino)
        if self._reading.find(key) is not None or not stat.S_ISREG(info.st_mode):
            os.close(descriptor)
            return None
        return self._new_file(path, descriptor, key)


def _sized(descriptor: int) -> int:
    """Return a copy of a file that has content and no size, else the file itself."""
    if not os.pread(descriptor, 1, 0):
        return descriptor
    copy = os.memfd_create("tail")
    while (place := os.lseek(copy, 0, os.SEEK_CUR)) < UNSIZED_BYTES:
        data = os.pread(descriptor, UNSIZED_BYTES - place, place)
        if not data:
            break
        os.write(copy, data)
    os.close(descriptor)
    return copy
