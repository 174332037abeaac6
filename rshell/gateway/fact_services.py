"""The verbs about facts: devices tell them, operators ask.  Importing this registers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.device_rows import device_state
from rshell.gateway.verbs import Asker, verb
from rshell.handlers import BadRequest, FactsReport
from rshell.link.core.errors import ErrorCode
from rshell.store.errors import LimitReached
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["safe_fact"]

#: Of one device's facts: a text, an entry of a list or map, and how deep they nest.
MAX_TEXT, MAX_ENTRIES, MAX_DEPTH = 256, 256, 4
_MAX_NUMBER = 2**63


class FactsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which device's facts."""

    device: Annotated[str, Meta(max_length=64)]


@verb("gateway.report-facts", FactsReport, peers=("device",))
async def report_facts(gateway: Gateway, asker: Asker, request: FactsReport) -> Any:
    """Take in what a device tells of itself."""
    live = gateway.presence.find(asker.name)
    if live is None or live.link.peer is not asker.peer:
        raise OpenRefused(ErrorCode.OFFLINE, "this link is not the device's current one")
    if gateway.fact_reports.admit(asker.name) is None:
        raise OpenRefused(ErrorCode.OVERLOAD, "too many facts: tell them later")
    facts = {name: safe_fact(value) for name, value in request.facts.items()}
    try:
        await gateway.store.keep_facts(live.device.id, live.epoch, facts)
    except LimitReached as error:
        raise BadRequest(str(error)) from None
    return {}


@verb("gateway.facts", FactsQuery, open_to_all=True)
async def facts(gateway: Gateway, asker: Asker, request: FactsQuery) -> Any:
    """Tell what a device said of itself last, and when."""
    device = await gateway.rights.device(asker.operator, request.device)
    told = await gateway.store.facts_of(device.id)
    live = gateway.presence.find(device.id)
    brief = live.hello.facts if live else device.facts
    return {
        "device": device.name,
        "state": device_state(gateway, device).value,
        "received_at": None if told is None else rfc3339(told.received_at),
        "facts": {**brief, **(told.facts if told else {})},
    }


def safe_fact(value: Any, depth: int = 0) -> Any:
    """Return a device's value without anything a terminal would act on, cut to size."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < _MAX_NUMBER else None
    if isinstance(value, str):
        return printable(value, MAX_TEXT)
    if depth == MAX_DEPTH:
        return None
    if isinstance(value, list):
        return [safe_fact(item, depth + 1) for item in value[:MAX_ENTRIES]]
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ENTRIES]
        return {printable(str(name), 64): safe_fact(item, depth + 1) for name, item in items}
    return None
