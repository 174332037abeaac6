"""Writes of one kind about many devices, gathered so that one statement does for all of them.

What is alike and stands together in a batch is done together, as long as no device notices: of one
device everything is done in the order in which it was asked for.

What it is not: it knows no queue, no transaction and no savepoint (``writer.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection

__all__ = ["Alike", "Gathering", "Many"]

#: Does several of a kind, in their order.
Many = Callable[[Connection, Sequence[Any]], None]


@attrs.frozen
class Alike:
    """One write that can be done together with others.

    Attributes:
        many: Does them; what is alike has the same.
        device: The id of whose order counts.
        row: What `many` takes a sequence of.
    """

    many: Many
    device: str
    row: Any

    def __call__(self, connection: Connection) -> None:
        """Do it alone."""
        self.many(connection, [self.row])


class Gathering:
    """Collects writes of a batch and does them, kind by kind."""

    def __init__(self) -> None:
        #: In the order in which they are to be done, with that place.
        self._kinds: dict[Many, tuple[int, list[Any]]] = {}
        #: Of each device, the last place that it has a write in.
        self._places: dict[str, int] = {}

    def add(self, connection: Connection, one: Alike) -> None:
        """Take one; what was collected is done first if its device's order demands it."""
        place, rows = self._kinds.setdefault(one.many, (len(self._kinds), []))
        if place < self._places.get(one.device, 0):
            self.do(connection)
            place, rows = self._kinds.setdefault(one.many, (0, []))
        rows.append(one.row)
        self._places[one.device] = place

    def do(self, connection: Connection) -> None:
        """Do what was collected."""
        kinds, self._kinds = self._kinds, {}
        self._places.clear()
        for many, (_, rows) in kinds.items():
            many(connection, rows)
