"""``tail``: what is asked of a device's logs, and the records that it answers with.

The answer is one JSON object a line on standard output; each decodes as a `TailRecord`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = ["DEFAULT_RATE", "MAX_MARKS", "JournalEntry", "TailMark", "TailRecord", "TailRequest"]

#: Lines a second of one device that come through while following: more than anybody reads.
DEFAULT_RATE = 2000
#: Files that one device follows, and places that it can be told to go on from.
MAX_MARKS = 200

_MOST = 2**53
Count = Annotated[int, Meta(ge=0, le=_MOST)]
Path = Annotated[bytes, Meta(min_length=1, max_length=4096)]
#: As systemd names them; it must not begin as an option does, nor be empty.
Unit = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.\\@*?\[\]!][A-Za-z0-9:_.\\@*?\[\]!-]{0,254}\Z")]
Seconds = Annotated[float, Meta(ge=0, le=_MOST)]


class TailRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ends of files, or of the systemd journal, and what comes after them.

    Either ``paths`` or the journal is asked for.

    Attributes:
        paths: Absolute, or relative to the login's home; ``*``, ``?`` and ``[...]`` match names.
        units: Of these systemd units.
        journal: The whole journal.
        follow: Go on with what comes, for ever.
        lines: The last so many of each; without it 10, or all that ``since`` leaves.
        first: Instead: from the line of this number on.
        pattern: A regular expression (Python's); only lines in which it is found.
        ignore_case: For the pattern.
        invert: Only lines in which it is not found.
        since: Only what is not older: seconds since 1970.
        since_ago: Likewise, seconds before now by the device's clock.
        rate: Lines a second that come through while following; 0 is no limit.
        resume: Marks come on standard input, a `TailMark` as JSON a line, up to its end: go on
            there, and read from its beginning what has no mark.
        cursor: Go on in the journal after this entry.
    """

    paths: Annotated[list[Path], Meta(max_length=64)] = field(default_factory=list)
    units: Annotated[list[Unit], Meta(max_length=32)] = field(default_factory=list)
    journal: bool = False
    follow: bool = False
    lines: Count | None = None
    first: Annotated[int, Meta(ge=1, le=_MOST)] | None = None
    pattern: Annotated[str, Meta(max_length=1000)] | None = None
    ignore_case: bool = False
    invert: bool = False
    since: Seconds | None = None
    since_ago: Seconds | None = None
    rate: Annotated[int, Meta(ge=0, le=10_000_000)] = DEFAULT_RATE
    resume: bool = False
    cursor: Annotated[str, Meta(max_length=1000)] | None = None

    def __post_init__(self) -> None:
        if bool(self.paths) == (self.journal or bool(self.units)):
            raise ValueError("give either paths, or units or journal")
        if self.since is not None and self.since_ago is not None:
            raise ValueError("give either since or since_ago")
        if self.first is not None and (self.lines is not None or not self.paths):
            raise ValueError("first goes with paths, and not with lines")
        if any(b"\0" in path for path in self.paths):
            raise ValueError("a path holds a NUL byte")


class JournalEntry(Struct, frozen=True, kw_only=True):
    """What the journal knows about a line; ``time`` is in microseconds since 1970."""

    time: Annotated[int, Meta(ge=0, le=2**62)] = 0
    ident: str | None = None
    pid: str | int | None = None
    unit: str | None = None
    priority: str | int | None = None


class TailMark(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where somebody was in a file, and how to know it again: by its inode and its beginning.

    ``head`` is how many bytes the ``digest`` is of; ``mid`` says that ``pos`` is inside a line
    whose beginning was told.  A path that is no UTF-8 is ``path_b64``.
    """

    path: str | None = None
    path_b64: bytes | None = None
    dev: Annotated[int, Meta(ge=0)] = 0
    ino: Annotated[int, Meta(ge=0)] = 0
    head: Annotated[int, Meta(ge=0, le=1024)] = 0
    digest: Annotated[str, Meta(max_length=64)] = ""
    pos: Count = 0
    mid: bool = False


class TailRecord(Struct, frozen=True, kw_only=True):
    """One record; which fields mean something depends on ``kind``.

    * ``line``: ``line`` or ``b64``, without the newline; ``file`` and ``pos``, or ``entry`` and
      ``cursor``; ``cut`` bytes are missing at its end, ``part`` its newline and perhaps more, and
      it continues the part before if ``more``
    * ``file``: a `TailMark`'s fields, of the file that ``file`` stands for from now on
    * ``dropped``: ``count`` lines, left out by the rate; ``pos`` or ``cursor``
    * ``at``: ``pos``, though no line tells of it
    * ``end``: there will be no more of ``file``
    * ``ready``: what was there at the start has been named, at ``time`` by the device's clock
    * ``note``: ``code`` and ``text`` for a person, perhaps about ``path``
    """

    kind: Annotated[str, Meta(max_length=32)] = "line"
    file: Count = 0
    pos: Count = 0
    line: str | None = None
    b64: bytes | None = None
    cut: Count = 0
    part: bool = False
    more: bool = False
    entry: JournalEntry | None = None
    cursor: Annotated[str, Meta(max_length=1000)] | None = None
    count: Count = 0
    time: float = 0
    code: Annotated[str, Meta(max_length=64)] = ""
    text: str = ""
    path: str | None = None
    path_b64: bytes | None = None
    dev: Annotated[int, Meta(ge=0)] = 0
    ino: Annotated[int, Meta(ge=0)] = 0
    head: Annotated[int, Meta(ge=0, le=1024)] = 0
    digest: Annotated[str, Meta(max_length=64)] = ""
    mid: bool = False

    @property
    def data(self) -> bytes:
        """A line's bytes."""
        return (self.line or "").encode("utf-8", "replace") if self.b64 is None else self.b64
