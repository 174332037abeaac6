"""From what operators write to what is meant: a selector to devices, a name to what has it.

Facts of devices are read only where somebody asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from rshell.access import selectors
from rshell.access.narrowing import conditions_of
from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.gateway.device_rows import device_state
from rshell.gateway.presence import State
from rshell.gateway.rights import no_such_device
from rshell.handlers import BadRequest
from rshell.link.core.errors import ErrorCode
from rshell.store.narrowing import Narrowing
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Chosen", "check_named", "chosen", "selector_of"]

#: Devices that are looked up one by one; of more, the whole table is read at once.
MAX_AMONG = 2_000
_AWAY = (State.LOST.value, State.NEVER.value)
_FACT_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


@attrs.frozen
class Chosen:
    """A device that a selector picked.

    Attributes:
        facts: Those that were asked for, and the few of HELLO.
    """

    device: Device
    facts: Mapping[str, Any]


def selector_of(text: str) -> selectors.Selector | None:
    """Return the selector, None for an empty one, which means all.

    Raises:
        BadRequest: It cannot be understood.
    """
    if not text.strip():
        return None
    try:
        return selectors.parse(text)
    except selectors.BadSelector as error:
        raise BadRequest(error.message) from None


async def chosen(
    gateway: Gateway,
    operator: Operator,
    selector: selectors.Selector | None,
    facts: Collection[str] = (),
    among: Collection[str] | None = None,
) -> list[Chosen]:
    """Return the active devices that a selector picks, by name.

    The store is asked only for rows that can be meant; the selector decides on each of them.

    Args:
        gateway: Its store and who is live.
        operator: Only devices that exist for them.
        selector: None picks all.
        facts: Names of facts that are wanted besides those that the selector needs.
        among: Ids of the only devices of interest; None does not limit them.
    """
    asked = frozenset(facts) | (selector.fact_names if selector else frozenset())
    names = [name for name in sorted(asked) if _FACT_NAME.fullmatch(name)]
    devices = gateway.rights.seen(operator, await _candidates(gateway, selector, among))
    told: Mapping[str, Mapping[str, Any]] = {}
    if names and devices:
        told = await _facts(gateway, devices, names)
    found = []
    for device in devices:
        live = gateway.presence.find(device.id)
        own = {**(live.hello.facts if live else device.facts), **told.get(device.id, {})}
        if selector is None or selector.matches(
            device.name,
            device.labels,
            state=device_state(gateway, device).value,
            device_id=device.id,
            facts=own,
        ):
            found.append(Chosen(device, own))
    return found


async def check_named(
    gateway: Gateway, asker: Operator, *, operator: str | None = None, device: str | None = None
) -> None:
    """See whether those that a listing was asked for exist, once it came out empty.

    A name that is misspelt must not read as "nothing".  Who is no administrator is told the same
    of what does not exist and of what is not theirs to see.

    Raises:
        OpenRefused: One does not.
    """
    admin = gateway.rights.is_admin(asker)
    if operator and admin and await gateway.store.operator(operator) is None:
        raise OpenRefused(
            ErrorCode.NOT_FOUND,
            f"there is no operator {printable(operator, 64)!r} (see: rshell operators)",
        )
    if device and not admin:
        await gateway.rights.device(asker, device)
    elif device and await gateway.store.device(device) is None:
        raise no_such_device(device)


async def _candidates(
    gateway: Gateway, selector: selectors.Selector | None, among: Collection[str] | None
) -> list[Device]:
    """Return the devices to look at: one, if the selector is one plain name."""
    if among is None and selector is not None:
        if selector.single_name is not None:
            device = await gateway.store.device(selector.single_name)
            return [] if device is None or not device.active else [device]
        if len(gateway.presence) <= MAX_AMONG and not selector.state_allows(*_AWAY):
            among = [live.device.id for live in gateway.presence]
    return await gateway.store.find_devices(
        Narrowing(
            () if selector is None else conditions_of(selector),
            None if among is None or len(among) > MAX_AMONG else frozenset(among),
        )
    )


async def _facts(
    gateway: Gateway, devices: list[Device], names: list[str]
) -> Mapping[str, Mapping[str, Any]]:
    if len(devices) > MAX_AMONG:
        return await gateway.store.all_facts(names)
    return await gateway.store.all_facts(names, [device.id for device in devices])
