"""From a selector to devices: one by name without asking, many by a listing."""

from __future__ import annotations

import re

from rshell.access.selectors import parse
from rshell.cli.fanout import Target
from rshell.client import Client, Device, Outcome, SelectedNothing

__all__ = ["choose", "names_one", "selector_of"]

_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII)


def names_one(selector: str) -> bool:
    """Whether a selector is a plain name or an id.

    Raises:
        BadSelector: It is no selector.
    """
    return _ID.fullmatch(selector) is not None or parse(selector).single_name is not None


def selector_of(name_or_id: str) -> str:
    """Return the selector of one device."""
    return f"id={name_or_id}" if _ID.fullmatch(name_or_id) else name_or_id


async def choose(client: Client, selector: str) -> list[Target]:
    """Return the devices that a selector picks.

    A plain name is not looked up: opening a session on it answers ``not-found`` just as well,
    and one round trip sooner.

    Raises:
        BadSelector: It is no selector.
        SelectedNothing: It picks no device.
    """
    if names_one(selector):
        return [Target(selector)]
    found = [device for device in await client.devices(selector) if not device.revoked]
    if not found:
        raise SelectedNothing(selector)
    return [Target(device.name, None if device.live else _absent(device)) for device in found]


def _absent(device: Device) -> Outcome:
    seen = f"last seen {device.last_seen}" if device.last_seen else "never seen"
    return Outcome(status="offline", code="offline", message=seen)
