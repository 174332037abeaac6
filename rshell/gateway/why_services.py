"""``gateway.flight`` and ``gateway.why``: what happened to a device's link, and why.

The second is one time line of three sources: the device's flight recorder, the audit's rows about
its links, and what this gateway remembers of refusals and knows of the link now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import attrs
from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.device_rows import device_state
from rshell.gateway.flights import Refusal, placed
from rshell.gateway.long_answers import LongAnswer, in_slices
from rshell.gateway.verbs import Asker, verb
from rshell.handlers.flight import FlightReport
from rshell.link.core.errors import ErrorCode
from rshell.store.flight import FlightRow
from rshell.store.records import AuditRow, Device, Operator
from rshell.store.times import SECOND, rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["absence", "duration"]


class WhyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which device, and how many entries at most."""

    device: Annotated[str, Meta(max_length=64)]
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 200


@attrs.frozen(kw_only=True)
class Entry:
    """One line of the answer.

    Attributes:
        at: Microseconds UTC.
        order: Decides between entries of the same moment.
        seconds: A duration: how long something took, a link lived, or a device was away.
    """

    at: int
    source: str
    kind: str
    message: str
    order: int = 0
    seconds: float | None = None
    details: dict[str, Any] = attrs.field(factory=dict)

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "at": rfc3339(self.at),
            "source": self.source,
            "kind": self.kind,
            "message": self.message,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "details": self.details,
        }


@verb("gateway.flight", FlightReport, peers=("device",))
async def flight(gateway: Gateway, asker: Asker, request: FlightReport) -> Any:
    """Take in what a device's flight recorder kept."""
    live = gateway.presence.find(asker.name)
    if live is None or live.link.peer is not asker.peer:
        raise OpenRefused(ErrorCode.OFFLINE, "this link is not the device's current one")
    if gateway.flights.reports.admit(asker.name) is None:
        raise OpenRefused(ErrorCode.OVERLOAD, "too many reports: try again later")
    unique = {record.seq: record for record in request.records}
    rows = placed(
        FlightReport(
            boot_id=request.boot_id, mono_ms=request.mono_ms, records=list(unique.values())
        ),
        gateway.now_us(),
    )
    await gateway.store.append_flight(live.device.id, rows)
    return {"through": max(unique)}


@verb("gateway.why", WhyRequest, open_to_all=True)
async def why(gateway: Gateway, asker: Asker, request: WhyRequest) -> Any:
    """Tell what happened to a device's link, and why, oldest first."""
    device = await gateway.rights.device(asker.operator, request.device)
    entries = [
        _from_agent(row) for row in await gateway.store.flight_rows(device.id, request.limit)
    ]
    entries += _from_audit(await gateway.store.link_audit(device.id, request.limit))
    entries += [_from_refusal(refusal) for refusal in gateway.flights.refusals(device.id)]
    entries.sort(key=lambda entry: (entry.at, entry.source, entry.order))
    entries = [*entries, _as_of_now(gateway, device)][-request.limit :]
    return LongAnswer(in_slices(gateway.slices, entries, Entry.told))


def _from_agent(row: FlightRow) -> Entry:
    details = dict(row.details) | {"clock": row.placed, "seq": row.seq}
    if row.target:
        details["target"] = row.target
    if row.boot_id:
        details["boot_id"] = row.boot_id
    words = [row.target + ":" if row.target else "", row.message]
    count = details.get("count", 1)
    if row.kind in ("lost", "heartbeat-lost") and row.seconds is not None:
        words.append(f"(the link lived {duration(row.seconds)})")
    elif row.seconds is not None and count == 1:
        words.append(f"({duration(row.seconds)})")
    if count != 1:
        over = "" if row.seconds is None else f" within {duration(row.seconds)}"
        words.append(f"({count} times{over})")
    return Entry(
        at=row.at,
        source="agent",
        kind=row.kind,
        message=" ".join(filter(None, words)),
        order=row.seq,
        seconds=row.seconds,
        details=details,
    )


def _from_audit(rows: list[AuditRow]) -> list[Entry]:
    """Turn audit rows into entries; pair beginnings and ends of links."""
    entries: list[Entry] = []
    began: dict[Any, int] = {}
    away_since: int | None = None
    newest = 0
    for row in rows:
        record, details = row.record, dict(row.record.details)
        kind = record.kind.removeprefix("device.")
        message, seconds = printable(record.message or ""), None
        epoch = details.get("epoch")
        if kind == "live":
            message = f"live, from {printable(record.address or '?', 64)}"
            if away_since is not None:
                seconds = max(0, row.at - away_since) / SECOND
                message += f", after {duration(seconds)} away"
            began[epoch], away_since = row.at, None
            newest = epoch if isinstance(epoch, int) else newest
        elif kind == "lost":
            if epoch in began:
                seconds = max(0, row.at - began.pop(epoch)) / SECOND
                message += f" (the link lived {duration(seconds)})"
            # The end of a link that another has replaced begins no absence.
            if isinstance(epoch, int) and epoch >= newest:
                away_since = row.at
        details = {name: value for name, value in details.items() if name in _TOLD}
        if record.address:
            details["address"] = printable(record.address, 64)
        entries.append(
            Entry(
                at=row.at,
                source="gateway",
                kind=kind,
                message=message or kind,
                order=row.seq,
                seconds=seconds,
                details=details,
            )
        )
    return entries


#: Of an audit row's details these are told; a row about a clone holds more, for those who may
#: read the audit.
_TOLD = frozenset({"epoch", "left_out", "reason", "kind"})


def _from_refusal(refusal: Refusal) -> Entry:
    times = f" ({refusal.count} times)" if refusal.count > 1 else ""
    return Entry(
        at=refusal.at,
        source="gateway",
        kind="refused",
        message=f"{refusal.code}: {refusal.message}{times}",
        seconds=(refusal.until - refusal.at) / SECOND if refusal.count > 1 else None,
        details={"code": refusal.code, "address": refusal.address, "count": refusal.count},
    )


def _as_of_now(gateway: Gateway, device: Device) -> Entry:
    now, state = gateway.now_us(), device_state(gateway, device).value
    live = gateway.presence.find(device.id)
    if live is None:
        since = device.last_seen
        seconds = None if since is None else max(0, now - since) / SECOND
        text = "it has never connected" if seconds is None else f"away for {duration(seconds)}"
        if device.quarantined_at is not None:
            text += f"; {_QUARANTINED}"
        return Entry(
            at=now,
            source="gateway",
            kind="now",
            message=f"{state}: {text}",
            seconds=seconds,
            details={"state": state, "address": device.last_address},
        )
    seconds = gateway.wheel.seconds()
    silent = live.silent(seconds)
    began = live.link.connected_at
    lived = 0.0 if began is None else seconds - began
    rtt = live.link.rtt_seconds
    text = f"{state}: connected for {duration(lived)}, last heard {duration(silent)} ago"
    if rtt is not None:
        text += f", round trip {rtt * 1000:.0f} ms"
    return Entry(
        at=now,
        source="gateway",
        kind="now",
        message=text,
        seconds=lived,
        details={
            "state": state,
            "silent_ms": round(silent * 1000),
            "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
            "epoch": live.epoch,
            "address": live.address,
        },
    )


_QUARANTINED = "quarantined as a suspected clone"
#: What ended a quarantine, and says nothing of why the device has not come since.
_RELEASED = "released"
#: Rows about a device's links in which the last word on them is found.
_ABSENCE_ROWS = 8


async def absence(gateway: Gateway, operator: Operator, name: str) -> tuple[str, str] | None:
    """Return for how long a device has been away, and why, as `gateway.why` tells it.

    Returns:
        Two texts, either of which may be empty; None if the device is back.

    Raises:
        OpenRefused: There is no such device for this operator.
        StoreError: The store failed.
    """
    device = await gateway.rights.device(operator, name)
    rows = await gateway.store.link_audit(device.id, _ABSENCE_ROWS)
    if gateway.presence.find(device.id) is not None:
        return None
    entries = [*_from_audit(rows), *map(_from_refusal, gateway.flights.refusals(device.id))]
    reasons = [entry for entry in entries if entry.kind not in ("live", "enrol")]
    away = reason = ""
    if device.last_seen is not None:
        # Without the state, which is known: "lost: away for 3 min 5 s".
        away = _as_of_now(gateway, device).message.partition(": ")[2]
    elif device.quarantined_at is not None:
        away = _QUARANTINED
    if reasons:
        last = max(reasons, key=lambda entry: (entry.at, entry.order))
        when = ""
        if last.kind == _RELEASED:
            when = f" {duration(max(0, gateway.now_us() - last.at) / SECOND)} ago"
        reason = f"{last.kind}{when}: {last.message}"
    return away, reason


def duration(seconds: float) -> str:
    """Say a duration in its two largest units: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2])
