"""Audit rows that tell of files (kind ``session.files``), found by a file's path.

Paths are inside of a row's details, which no index knows: rows are read one after the other, but
for those whose text cannot hold the pattern's longest plain piece.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, or_, select

from rshell.handlers.touched import path_text
from rshell.store.schema import audit

__all__ = ["FILES", "picker", "scan"]

#: The kind of these rows.
FILES = "session.files"
_CHUNK = 500
#: Characters that JSON leaves as they are, and that mean nothing to a pattern.
_PLAIN = re.compile(r"[A-Za-z0-9_./ -]+")


def picker(pattern: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return what says whether an entry's path, or its new one, matches a shell pattern."""
    matches = re.compile(fnmatch.translate(pattern)).match
    return lambda entry: any(
        matches(text) for key in ("path", "to") if (text := path_text(entry, key))
    )


def scan(
    connection: Connection,
    pattern: str,
    conditions: list[ColumnElement[bool]],
    *,
    newest_first: bool,
) -> Iterator[Row[Any]]:
    """Yield the rows that tell of a file whose path matches.

    Args:
        connection: a reader's.
        pattern: as in a shell; ``*`` also matches slashes.
        conditions: what else has to hold.
        newest_first: or oldest first.
    """
    matches = picker(pattern)
    conditions = [*conditions, audit.c.kind == FILES]
    # a bracket's inside is no piece of what is looked for
    pieces = [] if "[" in pattern else _PLAIN.findall(pattern)
    if pieces:
        text = audit.c.details
        longest = text.contains(max(pieces, key=len), autoescape=True)
        conditions.append(or_(longest, text.contains('_b64"', autoescape=True)))
    order = audit.c.seq.desc() if newest_first else audit.c.seq
    place: ColumnElement[bool] | None = None
    while True:
        found = conditions if place is None else [*conditions, place]
        chunk = connection.execute(select(audit).where(*found).order_by(order).limit(_CHUNK)).all()
        for row in chunk:
            files = msgspec.json.decode(row.details).get("files")
            if isinstance(files, list) and any(matches(entry) for entry in files):
                yield row
        if len(chunk) < _CHUNK:
            return
        last = chunk[-1].seq
        place = audit.c.seq < last if newest_first else audit.c.seq > last
