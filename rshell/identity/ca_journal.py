"""What was done to a fleet's authorities on the gateway's machine, until the audit log has it.

The local commands work on files, with the gateway running or not; only the gateway writes its audit
log. So a command notes what it is about to do in ``HOME/ca.journal``, synced, before it does it,
and the gateway moves the notes into the log: within a second, or at its next start.
"""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rshell.identity.files import sync_dir

__all__ = ["Note", "note", "taken", "untake", "waiting"]

#: Some 5,000 notes: who needs more has a gateway that was not started for years.
MAX_BYTES = 2 * 1024 * 1024
_NAME = "ca.journal"
_TAKEN = "ca.journal.taken"


class Note(Struct, frozen=True, kw_only=True):
    """One thing that was about to be done.

    Attributes:
        kind: of the audit row.
        at: microseconds since 1970 UTC, by this machine's clock.
        user: whose process it was.
        details: for the row.
    """

    kind: Annotated[str, Meta(max_length=64)]
    at: int
    user: Annotated[str, Meta(max_length=64)]
    details: dict[str, Any] = msgspec.field(default_factory=dict)


def note(home: Path, kind: str, at: int, details: dict[str, Any]) -> None:
    """Add a note, durably; call it with the home locked.

    Raises:
        OSError: it could not be written: then the thing must not be done.
    """
    path = home / _NAME
    line = msgspec.json.encode(Note(kind=kind, at=at, user=_user(), details=details)) + b"\n"
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        before = os.fstat(descriptor).st_size
        if before + len(line) > MAX_BYTES:
            raise OSError(f"{path} is full: start the gateway, which moves it into the audit log")
        # a crash may have cut the last line: ours begins on its own
        if before and os.pread(descriptor, 1, before - 1) != b"\n":
            line = b"\n" + line
        try:
            if os.write(descriptor, line) != len(line):  # the disk is full, or nearly
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    sync_dir(home)


def waiting(home: Path) -> bool:
    """Tell whether there are notes that the log does not have."""
    return (home / _NAME).exists() or (home / _TAKEN).exists()


def taken(home: Path) -> list[Note]:
    """Return the notes, to be written to the log; they stay on disk until `untake`.

    Call it with the home locked. What a crash kept from `untake` comes again, first.

    Raises:
        OSError: they cannot be read.
    """
    if not (home / _TAKEN).exists():
        try:
            os.rename(home / _NAME, home / _TAKEN)
        except FileNotFoundError:
            return []
    with (home / _TAKEN).open("rb") as file:
        lines = file.read(MAX_BYTES).splitlines()
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Note))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # a line that a crash cut: what it announced was not begun
    return found


def untake(home: Path) -> None:
    """The notes are in the log."""
    (home / _TAKEN).unlink(missing_ok=True)


def _user() -> str:
    """Return who runs this, sudo's caller included, for people to read."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    by = os.environ.get("SUDO_USER", "")
    return (f"{name} (sudo {by})" if by else name)[:64]
