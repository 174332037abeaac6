"""Devices by name, a page at a time: for listings of which nobody knows how long they are.

The first page and the ids of all that follow are read at one moment, each further page later by its
ids.  So each device is told once, in the order of the names at that moment, whatever is renamed
meanwhile; its row is that of the moment when its page was read, and who was revoked by then is left
out.  Who joins meanwhile is not in it.

What it is not: a transaction that stays open.  A slow reader would keep the write-ahead log from
being cut, and a thread from everyone else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Connection, select

from rshell.store import facts
from rshell.store.clauses import clauses_of
from rshell.store.devices import ACTIVE, devices_from, devices_of
from rshell.store.narrowing import MAX_IDS, Narrowing
from rshell.store.records import Device
from rshell.store.schema import devices

__all__ = ["Page", "PagesLeft", "first_page", "page"]

_ID_AND_NAME = select(devices.c.id, devices.c.name).where(devices.c.status == ACTIVE)


@attrs.frozen
class Page:
    """Devices, and of each what it told of itself, if that was asked for.

    Attributes:
        facts: By id of the device.
    """

    devices: Sequence[Device]
    facts: Mapping[str, Mapping[str, Any]]


class PagesLeft:
    """The ids of the pages that follow: some 37 bytes for each device.

    Args:
        ids: In order.
        size: Devices of a page.
    """

    def __init__(self, ids: Sequence[str], size: int) -> None:
        # A text each, not a list: that takes a third of the memory, however long it waits.
        self._pages = deque(
            "\n".join(ids[start : start + size]) for start in range(0, len(ids), size)
        )

    def __len__(self) -> int:
        return len(self._pages)

    def take(self) -> list[str]:
        """Return the ids of the next page, and forget them."""
        return self._pages.popleft().split("\n")


def first_page(
    connection: Connection, narrowing: Narrowing, size: int, names: Collection[str] = ()
) -> tuple[Page, PagesLeft]:
    """Return the first active devices by name, and what is left.

    Args:
        connection: a reader's.
        narrowing: leaves out devices that cannot be meant; others that are not may be left.
        size: of a page; one statement finds so many.
        names: of facts.
    """
    clauses = [devices.c.status == ACTIVE, *clauses_of(narrowing.conditions)]
    if narrowing.among is not None and len(narrowing.among) > MAX_IDS:
        ids = _looked_up(connection, sorted(narrowing.among), clauses)
        found = devices_of(connection, ids[:size])
        return _page(connection, found, names), PagesLeft(ids[size:], size)
    if narrowing.among is not None:
        clauses.append(devices.c.id.in_(sorted(narrowing.among)))
    query = select(devices).where(*clauses).order_by(devices.c.name).limit(size + 1)
    rows = connection.execute(query).all()
    found = devices_from(connection, rows[:size])
    left: Sequence[str] = ()
    if len(rows) > size:
        rest = select(devices.c.id).where(*clauses, devices.c.name > found[-1].name)
        left = connection.execute(rest.order_by(devices.c.name)).scalars().all()
    return _page(connection, found, names), PagesLeft(left, size)


def page(connection: Connection, ids: Sequence[str], names: Collection[str] = ()) -> Page:
    """Return those of these devices that are still active, in the order of the ids."""
    return _page(connection, devices_of(connection, ids), names)


def _looked_up(
    connection: Connection, ids: Sequence[str], clauses: Sequence[ColumnElement[bool]]
) -> list[str]:
    """Return those of the ids that the clauses leave, by name."""
    found: list[tuple[str, str]] = []
    for start in range(0, len(ids), MAX_IDS):
        some = devices.c.id.in_(ids[start : start + MAX_IDS])
        rows = connection.execute(_ID_AND_NAME.where(some, *clauses))
        found += [(row.name, row.id) for row in rows]
    return [device_id for _, device_id in sorted(found)]


def _page(connection: Connection, found: Sequence[Device], names: Collection[str]) -> Page:
    if not names or not found:
        return Page(found, {})
    return Page(found, facts.all_facts(connection, names, [device.id for device in found]))
