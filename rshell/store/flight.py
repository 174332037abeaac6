"""What devices' flight recorders told.

Bounded for each device: it is the device that decides how much it tells.  Not part of the audit:
what a device says of itself is a hint, not evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from rshell.store.alike import Alike
from rshell.store.schema import flight

__all__ = ["FlightRow", "flight_write", "rows"]

#: Records of one device; the oldest go.
MAX_ROWS = 500

# Built once, with parameters: every device that comes back tells something.
_MINE = flight.c.device_id == bindparam("of")
_REPLACED = delete(flight).where(_MINE, flight.c.seq.in_(bindparam("numbers", expanding=True)))
# As nearly always, and half the work: to spell a list out is to compile the statement anew.
_REPLACED_RUN = delete(flight).where(
    _MINE, flight.c.seq.between(bindparam("first"), bindparam("last"))
)
_ADDED = insert(flight)
# By receipt first: a device whose disk was replaced counts from 1 again.
_KEPT = (
    select(flight.c.seq)
    .where(_MINE)
    .order_by(flight.c.received_at.desc(), flight.c.seq.desc())
    .limit(bindparam("most"))
)
_SURPLUS = delete(flight).where(_MINE, flight.c.seq.not_in(_KEPT))


@attrs.frozen(kw_only=True)
class FlightRow:
    """One record of a device, placed on the gateway's clock.

    Attributes:
        seq: The device's own number.
        at: When it happened, as well as can be told, microseconds UTC.
        placed: How that is known: ``monotonic`` (the device's clock since boot, and when it told),
            ``wall`` (its own clock) or ``order`` (only before what followed it).
        received_at: When the gateway took it.
        seconds: How long it took or lasted.
    """

    seq: int
    at: int
    placed: str
    received_at: int
    boot_id: str
    kind: str
    target: str
    message: str
    seconds: float | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict)


_FIELDS = tuple(field.name for field in attrs.fields(FlightRow))


def flight_write(device_id: str, records: Sequence[FlightRow]) -> Alike:
    """Return what keeps records of a device; one with a number that is there replaces that."""
    return Alike(_append, device_id, (device_id, records))


def _append(connection: Connection, told: Sequence[tuple[str, Sequence[FlightRow]]]) -> None:
    runs = []
    #: By device and number: who tells twice replaces what it told.
    added: dict[tuple[str, int], dict[str, Any]] = {}
    for device_id, records in told:
        numbers = [record.seq for record in records]
        if numbers and numbers[-1] - numbers[0] + 1 == len(set(numbers)) == len(numbers):
            runs.append({"of": device_id, "first": numbers[0], "last": numbers[-1]})
        elif numbers:
            connection.execute(_REPLACED, {"of": device_id, "numbers": numbers})
        added.update(((device_id, record.seq), _values(device_id, record)) for record in records)
    if runs:
        connection.execute(_REPLACED_RUN, runs)
    if added:
        connection.execute(_ADDED, list(added.values()))
    connection.execute(_SURPLUS, [{"of": device_id, "most": MAX_ROWS} for device_id in dict(told)])


def _values(device_id: str, record: FlightRow) -> dict[str, Any]:
    details = msgspec.json.encode(record.details).decode()
    return {name: getattr(record, name) for name in _FIELDS} | {
        "device_id": device_id,
        "details": details,
    }


def rows(connection: Connection, device_id: str, limit: int) -> list[FlightRow]:
    """Return the newest records of a device, oldest first."""
    query = (
        select(flight)
        .where(flight.c.device_id == device_id)
        .order_by(flight.c.at.desc(), flight.c.seq.desc())
        .limit(limit)
    )
    found = []
    for row in connection.execute(query):
        values = dict(row._mapping)
        del values["device_id"]
        found.append(FlightRow(**values | {"details": msgspec.json.decode(row.details)}))
    return found[::-1]
