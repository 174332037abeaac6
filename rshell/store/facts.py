"""The newest facts of each device, apart from its row: most questions do without them.

A device says of itself what it likes: bounded here, stripped by the caller, and no basis for a
policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import msgspec
from sqlalchemy import Connection, Select, bindparam, insert, select, update

from rshell.store.alike import Alike
from rshell.store.errors import LimitReached
from rshell.store.narrowing import MAX_IDS
from rshell.store.schema import device_facts, devices

__all__ = ["MAX_BYTES", "DeviceFacts", "all_facts", "facts_of", "facts_write"]

#: Of one device, as JSON.  Agents tell half of it at most.
MAX_BYTES = 16 * 1024
#: Sets of names whose decoder is kept: a listing asks for one set, a page at a time.
MAX_DECODERS = 16


# Built once, with parameters: every device that comes tells some.
_CURRENT = select(devices.c.id).where(
    devices.c.id == bindparam("of"),
    devices.c.epoch <= bindparam("link", type_=devices.c.epoch.type),
    devices.c.status == "active",
)
_REPLACE = (
    update(device_facts)
    .where(device_facts.c.device_id == bindparam("of"), _CURRENT.exists())
    .values(received_at=bindparam("new_received_at"), body=bindparam("new_body"))
)
_THERE = select(device_facts.c.device_id).where(device_facts.c.device_id == bindparam("of"))
_ADD = insert(device_facts).from_select(
    ["device_id", "received_at", "body"],
    _CURRENT.with_only_columns(
        devices.c.id,
        bindparam("new_received_at", type_=device_facts.c.received_at.type),
        bindparam("new_body", type_=device_facts.c.body.type),
    ).where(~_THERE.exists()),
)


@attrs.frozen
class DeviceFacts:
    """What a device told last.

    Attributes:
        received_at: Microseconds since 1970 UTC.
    """

    received_at: int
    facts: Mapping[str, Any]


def facts_write(device_id: str, epoch: int, facts: Mapping[str, Any], now: int) -> Alike:
    """Return what keeps what a device told, in place of what it told before.

    Nothing is kept if a newer link has written, or the device is revoked or unknown.  It raises
    LimitReached if they are larger than ``MAX_BYTES``.
    """
    return Alike(_keep, device_id, (device_id, epoch, facts, now))


def _keep(connection: Connection, told: Sequence[tuple[str, int, Mapping[str, Any], int]]) -> None:
    rows = [
        {"of": of, "link": link, "new_received_at": now, "new_body": _body(facts)}
        for of, link, facts, now in told
    ]
    # Not an upsert: that has no spelling which both engines know.  Most that come were here before.
    if connection.execute(_REPLACE, rows).rowcount < len(rows):
        connection.execute(_ADD, rows)
        # Of a device that told twice the first was added.
        connection.execute(_REPLACE, rows)


def _body(facts: Mapping[str, Any]) -> str:
    body = msgspec.json.encode(facts)
    if len(body) > MAX_BYTES:
        raise LimitReached(f"facts of more than {MAX_BYTES} bytes")
    return body.decode()


def facts_of(connection: Connection, device_id: str) -> DeviceFacts | None:
    """Return what a device told last, or None."""
    query = select(device_facts).where(device_facts.c.device_id == device_id)
    row = connection.execute(query).first()
    return None if row is None else DeviceFacts(row.received_at, msgspec.json.decode(row.body))


def all_facts(
    connection: Connection, names: Collection[str], of: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return these facts of each active device, by id.

    The others are skipped as they are read: of ten thousand devices a name costs a tenth of all.

    Args:
        connection: a reader's.
        names: of the facts.
        of: ids of the devices, looked up one by one; None scans the whole fleet.
    """
    query = (
        select(device_facts.c.device_id, device_facts.c.body)
        .select_from(device_facts.join(devices, devices.c.id == device_facts.c.device_id))
        .where(devices.c.status == "active")
    )
    fields = {f"f{index}": name for index, name in enumerate(names)}
    decoder = _decoder(tuple(names))
    found: dict[str, dict[str, Any]] = {}
    for device_id, body in _bodies(connection, query, of):
        told = decoder.decode(body)
        found[device_id] = {
            name: value
            for field, name in fields.items()
            if (value := getattr(told, field)) is not None
        }
    return found


@lru_cache(maxsize=MAX_DECODERS)
def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return what reads these facts of a body and skips the others."""
    fields = {f"f{index}": name for index, name in enumerate(names)}
    wanted = msgspec.defstruct("Wanted", [(field, Any, None) for field in fields], rename=fields)
    return msgspec.json.Decoder(wanted)


def _bodies(
    connection: Connection, query: Select[Any], of: Sequence[str] | None
) -> Iterator[Sequence[Any]]:
    if of is None:
        yield from connection.execute(query)
        return
    for start in range(0, len(of), MAX_IDS):
        some = device_facts.c.device_id.in_(of[start : start + MAX_IDS])
        yield from connection.execute(query.where(some))
