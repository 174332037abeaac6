"""Conditions on devices in SQL; see ``narrowing.py``, which has them as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import ColumnElement, and_, or_, select, true

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


def _matches(column: ColumnElement[str], glob: str) -> ColumnElement[bool]:
    """Return whether a column matches a glob: what it begins with is looked up in an index.

    SQLite's GLOB has brackets besides, which nothing that comes here may hold.
    """
    wild = min(glob.find(sign) for sign in "*?" if sign in glob)
    matched: ColumnElement[bool] = column.op("GLOB", is_comparison=True)(glob)
    if not wild:
        return matched
    # All of it is ASCII: behind every text that begins so is the one with the next last character.
    first, behind = glob[:wild], glob[: wild - 1] + chr(ord(glob[wild - 1]) + 1)
    return and_(column >= first, column < behind, matched)
