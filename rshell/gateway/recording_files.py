"""Files of recordings: appended to while they grow, compressed when they end.

::

    HOME/recordings/2026/11/22/SESSION.cast      while it grows; asciicast v2
                               SESSION.pos       how far the session's bytes are in it
                               SESSION.cast.gz   once it has ended

What it is not: everything here blocks, so it runs in threads of its own; nothing here knows
sessions, links or the reactor.  A recording that goes on after its end (a session that was given
up too early) has both: the compressed beginning, and the rest without a header.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import attrs
import msgspec

from rshell.access.asciicast import BadCast, CastHeader, TextPieces, event_line, header_line
from rshell.access.asciicast import parse_event as _parse_event
from rshell.identity.files import make_private_dir, sync_dir
from rshell.store.crash import crash_point

__all__ = ["CastFile", "Item", "Mark", "Position", "finish", "read_part", "remove", "stored_bytes"]

#: The level at which a terminal's text gets within a tenth of the best, at five times its speed.
_LEVEL = 6
_COPY_BYTES = 256 * 1024
#: Where a torn end is looked for: the longest line that one flush can make.
_TAIL_BYTES = 16 * 1024 * 1024


@attrs.frozen
class Item:
    """Bytes that passed: when (milliseconds since the beginning), ``o`` or ``i``, and which."""

    at: int
    code: str
    data: bytes


@attrs.frozen
class Mark:
    """A line of its own: ``r`` with a size, or ``m`` with words."""

    at: int
    code: str
    text: str


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a file has come.

    Attributes:
        size: of the file, when this was written.
        out: bytes of the session's output that are in it or known to be missing, absolute.
        typed: likewise of its input.
        at: time of the last event, milliseconds.
    """

    size: int = 0
    out: int = 0
    typed: int = 0
    at: int = 0


class CastFile:
    """One recording's growing file.

    Args:
        home: the directory of all recordings; those below it are made as needed.
        path: ends in ``.cast``.
        header: its first line, if it is new.

    Attributes:
        position: what is safely in it.
    """

    def __init__(self, home: Path, path: Path, header: CastHeader) -> None:
        self.path = path
        self._home = home
        self.position = Position()
        self._header = header
        self._file: int | None = None
        self._marks: int | None = None
        self._pieces = {"o": TextPieces(), "i": TextPieces()}

    def open(self) -> Position:
        """Create the file, or go on behind what is whole in it.

        Returns:
            How far it had come.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is not None:
            return self.position
        _make_dirs(self._home, self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.path, flags, 0o600)
        try:
            self._marks = os.open(self.path.with_suffix(".pos"), flags, 0o600)
            self.position = self._recover(self._file, self._marks)
        except BaseException:
            self.close()
            raise
        return self.position

    def _recover(self, file: int, marks: int) -> Position:
        noted = _noted(os.pread(marks, 512, 0))
        size = os.fstat(file).st_size
        if size == 0:
            if self.path.with_suffix(".cast.gz").exists():
                return _sized(noted, 0)
            line = header_line(self._header)
            self._put(file, line, 0)
            sync_dir(self.path.parent)
            return _sized(noted, len(line))
        found = _whole_tail(file, size, noted)
        if found.size < size:
            os.ftruncate(file, found.size)
        return found

    def measure(self) -> Position:
        """Return how far a file that nobody has opened yet has come, without touching it.

        Raises:
            OSError: it cannot be read.
        """
        if self._file is not None:
            return self.position
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(self.path.with_suffix(".pos"), "rb", opener=_opener(flags)) as marks:
                noted = _noted(marks.read(512))
        except FileNotFoundError:
            noted = Position()
        with open(self.path, "rb", opener=_opener(flags)) as file:
            return _whole_tail(file.fileno(), os.fstat(file.fileno()).st_size, noted)

    def append(self, items: Sequence[Item | Mark], out: int, typed: int) -> Position:
        """Write what happened; all of it is in the file afterwards, or nothing.

        Args:
            items: In order.
            out: The session's position behind them, output.
            typed: Likewise input.

        Raises:
            OSError: The file is as it was before.
        """
        self.open()
        assert self._file is not None
        assert self._marks is not None
        text, at = self._lines(items)
        self._put(self._file, text, self.position.size)
        crash_point("recording.appended")
        after = Position(
            size=self.position.size + len(text), out=out, typed=typed, at=max(at, self.position.at)
        )
        self.position = after
        os.pwrite(self._marks, msgspec.json.encode(after).ljust(256) + b"\n", 0)
        return after

    def _lines(self, items: Sequence[Item | Mark]) -> tuple[bytes, int]:
        lines: list[bytes] = []
        at = self.position.at
        for item in items:
            at = max(at, item.at)
            if isinstance(item, Mark):
                lines.append(event_line(at, item.code, item.text))
                continue
            text = self._pieces[item.code].feed(item.data)
            if text:
                lines.append(event_line(at, item.code, text))
        return b"".join(lines), at

    def _put(self, file: int, data: bytes, at: int) -> None:
        view, offset = memoryview(data), at
        try:
            while view:
                written = os.pwrite(file, view, offset)
                view, offset = view[written:], offset + written
        except OSError:
            os.ftruncate(file, at)  # half a line would make the rest unreadable
            raise

    def pause(self) -> None:
        """Nobody drives the session now: write what is held of a character, let go of the file.

        Raises:
            OSError: It could not be written.
        """
        left = [
            event_line(self.position.at, code, text)
            for code, pieces in self._pieces.items()
            if (text := pieces.end())
        ]
        try:
            if left and self._file is not None:
                data = b"".join(left)
                self._put(self._file, data, self.position.size)
                self.position = _sized(self.position, self.position.size + len(data))
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self._file, self._marks):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._marks = None


def _sized(position: Position, size: int) -> Position:
    """Return the position with another size of the file."""
    return msgspec.structs.replace(position, size=size)


def _noted(data: bytes) -> Position:
    try:
        return msgspec.json.decode(data.strip(), type=Position)
    except msgspec.MsgspecError:
        return Position()


def _opener(flags: int) -> Callable[[str, int], int]:
    return lambda path, _: os.open(path, flags)


def _whole_tail(file: int, size: int, noted: Position) -> Position:
    """Count what was written after the last note, but for a torn last line (a power cut)."""
    start = min(noted.size, size)
    tail = os.pread(file, min(size - start, _TAIL_BYTES), start)
    whole = tail.rfind(b"\n") + 1
    out, typed, at = noted.out, noted.typed, noted.at
    for line in tail[:whole].splitlines():
        try:
            event = _parse_event(line, 0)
        except BadCast:
            continue
        at = max(at, round(event.seconds * 1000))
        out += len(event.text.encode()) if event.code == "o" else 0
        typed += len(event.text.encode()) if event.code == "i" else 0
    return Position(size=start + whole, out=out, typed=typed, at=at)


def _make_dirs(home: Path, directory: Path) -> None:
    make_private_dir(home)
    below = home
    for part in directory.relative_to(home).parts:
        below = below / part
        make_private_dir(below)


def finish(path: Path, *, goes_on: bool) -> int:
    """Compress a recording that ended; return the bytes it takes now.

    Args:
        path: ends in ``.cast``.
        goes_on: its session may still be somewhere: keep how far it came.

    Raises:
        OSError: It stays as it is.
    """
    compressed = path.with_suffix(".cast.gz")
    if not path.exists():
        return stored_bytes(path)
    temporary = path.with_suffix(".cast.gz.new")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with os.fdopen(descriptor, "wb") as target:
            if compressed.exists():
                with compressed.open("rb") as before:
                    shutil.copyfileobj(before, target, _COPY_BYTES)
            _compress(path, target)
            target.flush()
            os.fsync(target.fileno())
        crash_point("recording.compressed")
        os.rename(temporary, compressed)
        crash_point("recording.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    path.unlink()
    if not goes_on:
        path.with_suffix(".pos").unlink(missing_ok=True)
    sync_dir(path.parent)
    return stored_bytes(path)


def _compress(path: Path, target: IO[bytes]) -> None:
    with (
        path.open("rb") as source,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=target, mtime=0) as out,
    ):
        shutil.copyfileobj(source, out, _COPY_BYTES)


def stored_bytes(path: Path) -> int:
    """Return what a recording takes on the disk; 0 if it is gone."""
    total = 0
    for suffix in (".cast", ".cast.gz"):
        try:
            total += path.with_suffix(suffix).stat().st_size
        except FileNotFoundError:
            pass
    return total


def read_part(path: Path, compressed: bool, offset: int, size: int) -> tuple[bytes, int] | None:
    """Return bytes of one of a recording's two files and that file's length; None if it is gone.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with path.with_suffix(".cast.gz" if compressed else ".cast").open("rb") as file:
            file.seek(offset)
            return file.read(size), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None


def remove(path: Path) -> None:
    """Delete a recording, and its day's directories once they are empty."""
    for suffix in (".cast", ".cast.gz", ".pos"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    for directory in list(path.parents)[:3]:
        try:
            directory.rmdir()
        except OSError:
            break
