"""From a selector to devices, with their facts only where somebody asks for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from rshell.access import selectors
from rshell.gateway.device_rows import device_state
from rshell.handlers import BadRequest
from rshell.store.records import Device, Operator

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Chosen", "chosen", "selector_of"]

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
) -> list[Chosen]:
    """Return the active devices that a selector picks, by name.

    Args:
        gateway: Its store and who is live.
        operator: Only devices that exist for them.
        selector: None picks all.
        facts: Names of facts that are wanted besides those that the selector needs.
    """
    asked = frozenset(facts) | (selector.fact_names if selector else frozenset())
    names = [name for name in sorted(asked) if _FACT_NAME.fullmatch(name)]
    devices = gateway.rights.seen(operator, await _candidates(gateway, selector))
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


async def _candidates(gateway: Gateway, selector: selectors.Selector | None) -> list[Device]:
    """Return the devices to look at: one, if the selector is one plain name."""
    if selector is None or selector.single_name is None:
        return await gateway.store.find_devices()
    device = await gateway.store.device(selector.single_name)
    return [] if device is None or not device.active else [device]


async def _facts(
    gateway: Gateway, devices: list[Device], names: list[str]
) -> Mapping[str, Mapping[str, Any]]:
    if len(devices) > 1:
        return await gateway.store.all_facts(names)
    told = await gateway.store.facts_of(devices[0].id)
    return {} if told is None else {devices[0].id: {n: told.facts.get(n) for n in names}}
