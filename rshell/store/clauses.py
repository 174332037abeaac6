"""Conditions on devices in SQL; see ``narrowing.py``, which has them as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from rshell.store.narrowing import Condition, is_wild
from rshell.store.schema import device_labels, devices

__all__ = ["MAX_WILD", "clauses_of"]

#: Globs of one list.  SQLite's parser goes a level deeper for each, and refuses a thousand.
MAX_WILD = 32


def clauses_of(conditions: Iterable[Condition]) -> Iterator[ColumnElement[bool]]:
    """Yield what has to hold of a row of ``devices``; not what would be too long."""
    for condition in conditions:
        if sum(map(is_wild, condition.values)) <= MAX_WILD:
            found = _found(condition)
            yield ~found if condition.negated else found


def _found(condition: Condition) -> ColumnElement[bool]:
    if condition.of != "label":
        return _any_of(devices.c[condition.of], condition.values)
    having = select(device_labels.c.device_id).where(
        device_labels.c.key == condition.key, _any_of(device_labels.c.value, condition.values)
    )
    return devices.c.id.in_(having)


def _any_of(column: ColumnElement[str], values: tuple[str, ...]) -> ColumnElement[bool]:
    """Return whether a column has one of the values."""
    if any(value and not value.strip("*") for value in values):
        return true()
    plain = [value for value in values if not is_wild(value)]
    either: list[ColumnElement[bool]] = [
        _matches(column, value) for value in values if is_wild(value)
    ]
    if len(plain) == 1:
        either.append(column == plain[0])
    elif plain:
        either.append(column.in_(plain))
    return or_(*either)


class _Glob(FunctionElement[bool]):
    """Whether a column (the first clause) matches a glob; each engine has its own words for it."""

    inherit_cache = False  # the text decides how long the statement is
    # No type: of a truth value SQLAlchemy would ask whether it is 1, which no index answers.

    def __init__(self, column: ColumnElement[str], glob: str) -> None:
        super().__init__()
        self.sides = column, glob


def _matches(column: ColumnElement[str], glob: str) -> ColumnElement[bool]:
    return _Glob(column, glob)


@compiles(_Glob, "sqlite")
def _sqlite_glob(element: _Glob, compiler: SQLCompiler, **kw: Any) -> str:
    """SQLite: what it begins with is looked up in an index.

    Its GLOB has brackets besides, which nothing that comes here may hold.
    """
    column, glob = element.sides
    wild = min(glob.find(sign) for sign in "*?" if sign in glob)
    matched: ColumnElement[bool] = column.op("GLOB", is_comparison=True)(glob)
    if wild:
        # All ASCII: behind every text that begins so is the one with the next last character.
        first, behind = glob[:wild], glob[: wild - 1] + chr(ord(glob[wild - 1]) + 1)
        matched = and_(column >= first, column < behind, matched)
    return compiler.process(matched.self_group(), **kw)


@compiles(_Glob)
def _like(element: _Glob, compiler: SQLCompiler, **kw: Any) -> str:
    """SQL: LIKE tells capitals apart where it follows the standard, as PostgreSQL's does."""
    column, glob = element.sides
    escaped = "".join("\\" + sign if sign in "\\%_" else sign for sign in glob)
    pattern = escaped.replace("*", "%").replace("?", "_")
    return compiler.process(column.like(pattern, escape="\\"), **kw)
