"""Queries about devices and their labels."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import attrs
import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from rshell.store import keys, tokens
from rshell.store.alike import Alike, Many
from rshell.store.clauses import clauses_of
from rshell.store.errors import LimitReached, NameTaken, NotFound, StoreError
from rshell.store.narrowing import EVERYTHING, MAX_IDS, Narrowing
from rshell.store.records import Device, DeviceKey, TokenGrant
from rshell.store.schema import device_labels, devices
from rshell.store.schema import keys as key_table

__all__ = [
    "ACTIVE",
    "Heard",
    "Seen",
    "count_seen_since",
    "device_by_spki",
    "devices_by_spki",
    "devices_from",
    "devices_of",
    "enrol_device",
    "find_device",
    "find_devices",
    "quarantine",
    "record_heard",
    "release",
    "rename",
    "revoke_device",
    "seen_write",
    "set_labels",
]

MAX_LABELS = 64
MAX_NAME = 63
MAX_FACTS_BYTES = 64 * 1024

#: Not a parameter: only so may an index of the active devices answer.
ACTIVE: ColumnElement[str] = literal_column("'active'")
_LABEL = (device_labels.c.key.label("label_key"), device_labels.c.value.label("label_value"))
_WITH_LABELS = devices.outerjoin(device_labels, device_labels.c.device_id == devices.c.id)
# Built once, with a parameter: every admission asks this.
_KEY_AND_DEVICE = (
    select(devices, *keys.KEY_COLUMNS, *_LABEL)
    .select_from(
        _WITH_LABELS.join(
            key_table, and_(key_table.c.owner == devices.c.id, key_table.c.kind == "device")
        )
    )
    .where(key_table.c.spki == bindparam("wanted"))
)

# Built once, for any number of ids: a long listing asks them a thousand times.
_SOME: BindParameter[Any] = bindparam("some", expanding=True)
_DEVICES_OF = select(devices).where(devices.c.status == ACTIVE, devices.c.id.in_(_SOME))
_LABELS_OF = select(device_labels).where(device_labels.c.device_id.in_(_SOME))


@attrs.frozen(kw_only=True)
class Seen:
    """What a link tells about its device; None leaves what is recorded.

    Attributes:
        link_generation: as presented; a lower one than is recorded changes nothing.
    """

    last_address: str | None = None
    agent_version: str | None = None
    catalogue: str | None = None
    boot_id: str | None = None
    instance: str | None = None
    dial: int | None = None
    link_generation: int | None = None
    facts: Mapping[str, Any] | None = None


@attrs.frozen
class Heard:
    """A link's last proof of life.

    Attributes:
        at: microseconds since 1970 UTC.
    """

    device_id: str
    epoch: int
    at: int


_SEEN = tuple(field.name for field in attrs.fields(Seen))
_Told = Mapping[str, Any]


def device_by_spki(connection: Connection, spki: bytes) -> DeviceKey | None:
    """Return the device that registered a key, its labels too, by one indexed query."""
    rows = connection.execute(_KEY_AND_DEVICE, {"wanted": spki}).all()
    if not rows:
        return None
    return DeviceKey(key=keys.key_from_row(rows[0]), device=_device(rows[0], _labels(rows)))


def devices_by_spki(connection: Connection, spkis: Sequence[bytes]) -> list[DeviceKey | None]:
    """Return `device_by_spki` of each key, in order."""
    return [device_by_spki(connection, spki) for spki in spkis]


def find_device(connection: Connection, name_or_id: str) -> Device | None:
    """Return the device of that id (also a revoked one), or the active one of that name."""
    query = select(devices, *_LABEL).select_from(_WITH_LABELS)
    # By id first: no name, whoever chose it, may stand for another device's id.
    rows = connection.execute(query.where(devices.c.id == name_or_id)).all()
    if not rows:
        by_name = and_(devices.c.name == name_or_id, devices.c.status == "active")
        rows = connection.execute(query.where(by_name)).all()
    return _device(rows[0], _labels(rows)) if rows else None


def find_devices(
    connection: Connection, narrowing: Narrowing = EVERYTHING, *, revoked: bool = False
) -> list[Device]:
    """Return active devices by name; with *revoked* those too.

    Args:
        connection: a reader's.
        narrowing: leaves out devices that cannot be meant; others that are not may be left.
        revoked: also those.
    """
    clauses = list(clauses_of(narrowing.conditions))
    status = [] if revoked else [devices.c.status == ACTIVE]
    if narrowing.among is None:
        return _devices_where(connection, clauses, status)
    ids = sorted(narrowing.among)
    found = [
        device
        for start in range(0, len(ids), MAX_IDS)
        for device in _devices_where(
            connection, [devices.c.id.in_(ids[start : start + MAX_IDS]), *clauses], status
        )
    ]
    return sorted(found, key=lambda device: (device.name, device.created_at))


def _devices_where(
    connection: Connection,
    clauses: Sequence[ColumnElement[bool]],
    status: Sequence[ColumnElement[bool]],
) -> list[Device]:
    query = select(devices).where(*status, *clauses).order_by(devices.c.name, devices.c.created_at)
    rows = connection.execute(query).all()
    if len(rows) <= MAX_IDS:
        return devices_from(connection, rows)
    told = select(device_labels)
    if clauses:
        told = told.where(device_labels.c.device_id.in_(select(devices.c.id).where(*clauses)))
    return _labelled(rows, connection.execute(told).all())


def devices_of(connection: Connection, ids: Sequence[str]) -> list[Device]:
    """Return those of a few devices that are active, in the order of the ids."""
    rows = {row[0]: row for row in connection.execute(_DEVICES_OF, {"some": ids}).all()}
    return devices_from(connection, [rows[one] for one in ids if one in rows])


def devices_from(connection: Connection, rows: Sequence[Row[Any]]) -> list[Device]:
    """Return the devices whose rows these few are, with their labels."""
    if not rows:
        return []
    return _labelled(rows, connection.execute(_LABELS_OF, {"some": [row[0] for row in rows]}).all())


def _labelled(rows: Iterable[Sequence[Any]], told: Iterable[Sequence[Any]]) -> list[Device]:
    labels: dict[str, dict[str, str]] = {}
    for device_id, key, value in told:
        labels.setdefault(device_id, {})[key] = value
    return [_device(row, labels.get(row[0], {})) for row in rows]


def enrol_device(connection: Connection, grant: TokenGrant, proposed: str, now: int) -> Device:
    """Make the device an invite was used for, or return the one that use made already.

    A name fixed by the invite is taken as it is; a proposed one gets ``-2``, ``-3`` ...
    when it is taken, and is provisional unless the result is within the invite's pattern.

    Raises:
        NameTaken: another device got the fixed name since the invite was made.
        StoreError: the invite is not for a device or does not hold any more.
    """
    if grant.kind != "device":
        raise StoreError("this invite is not for a device")
    current = tokens.current_use(connection, grant)
    if current.owner is not None:
        return _must_find(connection, current.owner)
    name, provisional = _choose_name(connection, grant, proposed)
    device_id = str(uuid.uuid4())
    connection.execute(
        insert(devices).values(
            id=device_id,
            name=name,
            name_provisional=provisional,
            status="active",
            created_at=now,
            epoch=0,
            dial=0,
            link_generation=0,
            facts="{}",
        )
    )
    _put_labels(connection, device_id, grant.labels)
    keys.register(connection, "device", device_id, grant.spki, now)
    tokens.set_owner(connection, grant, device_id)
    return _must_find(connection, device_id)


def seen_write(device_id: str, epoch: int, seen: Seen, at: int) -> Alike:
    """Return what records what a link told, unless a newer link wrote already.

    Nothing is recorded of a revoked or an unknown device either.  It raises LimitReached if the
    facts are larger than ``MAX_FACTS_BYTES``.

    Args:
        at: when the device was heard, which may be a while ago.
    """
    told = {name: value for name in _SEEN if (value := getattr(seen, name)) is not None}
    return Alike(_seen_many(tuple(told)), device_id, (device_id, epoch, at, told))


@cache
def _seen_many(names: tuple[str, ...]) -> Many:
    """Return what records several that tell these columns; there are a few of such sets."""
    statement = _seen_statement(names)

    def record(connection: Connection, rows: Sequence[tuple[str, int, int, _Told]]) -> None:
        connection.execute(
            statement,
            [
                {"of": of, "link": link, "at": at}
                | {f"new_{name}": _column(name, value) for name, value in told.items()}
                for of, link, at, told in rows
            ],
        )

    return record


def _column(name: str, value: Any) -> Any:
    if name != "facts":
        return value
    facts = msgspec.json.encode(value)
    if len(facts) > MAX_FACTS_BYTES:
        raise LimitReached(f"facts of more than {MAX_FACTS_BYTES} bytes")
    return facts.decode()


def _seen_statement(names: tuple[str, ...]) -> Update:
    """Return the statement of `seen_write` for these columns."""
    told: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    if "link_generation" in told:
        # Two links may be judged by one row: the lower number must not undo the higher.
        new = bindparam("new_link_generation", type_=devices.c.link_generation.type)
        told["link_generation"] = case(
            (devices.c.link_generation > new, devices.c.link_generation), else_=new
        )
    link = bindparam("link", type_=devices.c.epoch.type)
    return (
        update(devices)
        .where(
            devices.c.id == bindparam("of"), devices.c.epoch <= link, devices.c.status == "active"
        )
        .values(**told, epoch=link, last_seen=bindparam("at"))
    )


def record_heard(connection: Connection, heard: Collection[Heard]) -> None:
    """Move ``last_seen`` of live devices on, so that a crash forgets little."""
    if heard:
        connection.execute(
            _HEARD, [{"of": one.device_id, "link": one.epoch, "at": one.at} for one in heard]
        )


def count_seen_since(connection: Connection, since: int) -> int:
    """Return how many active devices were heard at *since* (microseconds) or later."""
    query = select(func.count()).where(devices.c.status == "active", devices.c.last_seen >= since)
    return connection.execute(query).scalar_one()


def quarantine(connection: Connection, name_or_id: str, reason: str, now: int) -> Device:
    """Refuse a device until it is released; a second time changes nothing.

    Raises:
        NotFound: no such active device.
    """
    device = _must_be_active(connection, name_or_id)
    connection.execute(
        update(devices)
        .where(devices.c.id == device.id, devices.c.quarantined_at.is_(None))
        .values(quarantined_at=now, quarantine_reason=reason)
    )
    return _must_find(connection, device.id)


def release(connection: Connection, name_or_id: str) -> Device:
    """Let a device in again; the generation that it presents next is believed (rule H4).

    Raises:
        NotFound: no such active device.
    """
    device = _must_be_active(connection, name_or_id)
    connection.execute(
        update(devices)
        .where(devices.c.id == device.id)
        .values(quarantined_at=None, quarantine_reason=None, link_generation=0)
    )
    return _must_find(connection, device.id)


def set_labels(
    connection: Connection, name_or_id: str, put: Mapping[str, str], remove: Collection[str]
) -> Device:
    """Set and remove labels of an active device; removing an absent one is no error.

    Raises:
        NotFound: no such active device.
        LimitReached: more than ``MAX_LABELS`` would be set.
    """
    device = _must_be_active(connection, name_or_id)
    kept = {k: v for k, v in device.labels.items() if k not in remove} | dict(put)
    connection.execute(delete(device_labels).where(device_labels.c.device_id == device.id))
    _put_labels(connection, device.id, kept)
    return _must_find(connection, device.id)


def rename(connection: Connection, name_or_id: str, name: str) -> Device:
    """Give a device a name an operator chose; its own name accepts a provisional one.

    Raises:
        NotFound: no such active device.
        NameTaken: another active device has it.
    """
    device = _must_be_active(connection, name_or_id)
    if name != device.name and name in _taken(connection, [name]):
        raise NameTaken(f"there is a device {name} already")
    connection.execute(
        update(devices).where(devices.c.id == device.id).values(name=name, name_provisional=False)
    )
    return _must_find(connection, device.id)


def revoke_device(connection: Connection, name_or_id: str) -> Device:
    """Revoke a device, all its keys and the invites that name it, for good.

    Raises:
        NotFound: no such active device.
    """
    device = _must_be_active(connection, name_or_id)
    connection.execute(update(devices).where(devices.c.id == device.id).values(status="revoked"))
    keys.revoke_all(connection, "device", device.id)
    tokens.revoke_for(connection, "device", device.name)
    return _must_find(connection, device.id)


_HEARD = (
    update(devices)
    .where(devices.c.id == bindparam("of"), devices.c.epoch == bindparam("link"))
    .values(last_seen=bindparam("at"))
)


def _choose_name(connection: Connection, grant: TokenGrant, proposed: str) -> tuple[str, bool]:
    if grant.name is not None:
        if _taken(connection, [grant.name]):
            raise NameTaken(f"there is a device {grant.name} already")
        return grant.name, False
    name = _free_name(connection, proposed)
    within = grant.name_pattern is not None and fnmatchcase(name, grant.name_pattern)
    return name, not within


def _free_name(connection: Connection, proposed: str) -> str:
    if not _taken(connection, [proposed]):
        return proposed
    first = 2
    while True:
        # In runs, so that the thousandth "raspberrypi" costs four queries and not a thousand.
        run = [_numbered(proposed, number) for number in range(first, first + 256)]
        taken = _taken(connection, run)
        for name in run:
            if name not in taken:
                return name
        first += 256


def _numbered(name: str, number: int) -> str:
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)] + suffix


def _taken(connection: Connection, names: Collection[str]) -> set[str]:
    query = select(devices.c.name).where(devices.c.name.in_(names), devices.c.status == "active")
    return set(connection.execute(query).scalars())


def _put_labels(connection: Connection, device_id: str, labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise LimitReached(f"a device has at most {MAX_LABELS} labels")
    rows = [{"device_id": device_id, "key": k, "value": v} for k, v in labels.items()]
    if rows:
        connection.execute(insert(device_labels), rows)


def _must_find(connection: Connection, name_or_id: str) -> Device:
    device = find_device(connection, name_or_id)
    if device is None:
        raise NotFound(f"there is no device {name_or_id}")
    return device


def _must_be_active(connection: Connection, name_or_id: str) -> Device:
    device = _must_find(connection, name_or_id)
    if not device.active:
        raise NotFound(f"device {name_or_id} is revoked")
    return device


def _labels(rows: Iterable[Row[Any]]) -> dict[str, str]:
    return {row.label_key: row.label_value for row in rows if row.label_key is not None}


def _device(row: Sequence[Any], labels: Mapping[str, str]) -> Device:
    # The columns of `devices` come first in every query.  By place, and each in its own variable:
    # a listing does this a hundred thousand times, and a map of them costs as much again.
    (
        device_id,
        name,
        name_provisional,
        status,
        created_at,
        epoch,
        last_seen,
        last_address,
        agent_version,
        catalogue,
        boot_id,
        instance,
        dial,
        link_generation,
        facts,
        quarantined_at,
        quarantine_reason,
        *_,
    ) = row
    return Device(
        id=device_id,
        name=name,
        name_provisional=name_provisional,
        status=status,
        labels=labels,
        created_at=created_at,
        epoch=epoch,
        last_seen=last_seen,
        last_address=last_address,
        agent_version=agent_version,
        catalogue=catalogue,
        boot_id=boot_id,
        instance=instance,
        dial=dial,
        link_generation=link_generation,
        facts=msgspec.json.decode(facts),
        quarantined_at=quarantined_at,
        quarantine_reason=quarantine_reason,
    )
