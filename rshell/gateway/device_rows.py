"""A device as operators see it: its row in the store, and its link if it is live."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rshell.access.printable import printable
from rshell.gateway.presence import LiveDevice, State
from rshell.store.records import Device
from rshell.store.times import rfc3339

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["device_row", "device_state", "row_of", "state_of"]


def device_state(gateway: Gateway, device: Device) -> State:
    """Return what the gateway knows of a device's connection."""
    return state_of(gateway, device, gateway.presence.of_id(device.id))


def state_of(gateway: Gateway, device: Device, live: LiveDevice | None) -> State:
    """Return the same for a device whose link was looked up already."""
    if live is not None:
        return live.state(gateway.wheel.seconds())
    return State.NEVER if device.last_seen is None else State.LOST


def device_row(
    gateway: Gateway, device: Device, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON object that ``gateway.devices`` answers for a device.

    Args:
        gateway: Who knows whether it is live.
        device: Its row.
        facts: What to tell of it; None tells what was in its HELLO.
    """
    return row_of(gateway, device, gateway.presence.of_id(device.id), facts)


def row_of(
    gateway: Gateway,
    device: Device,
    live: LiveDevice | None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the same for a device whose link was looked up already."""
    row: dict[str, Any] = {
        "id": device.id,
        "name": device.name,
        "name_provisional": device.name_provisional,
        "state": state_of(gateway, device, live).value,
        "labels": device.labels,
        "gateway": None,
        "epoch": device.epoch or None,
        "address": device.last_address,
        "connected_at": None,
        "last_seen": None if device.last_seen is None else rfc3339(device.last_seen),
        "silent_ms": None,
        "agent_version": device.agent_version,
        "handlers": gateway.catalogues.allowed(device.catalogue or ""),
        "facts": device.facts,
        "policy_error": None,
        "problems": [],
        "alerts": gateway.clones.alerts(device.id),
        "quarantined": None if device.quarantined_at is None else rfc3339(device.quarantined_at),
    }
    if live is not None:
        row |= _live_part(gateway, live)
    if facts is not None:
        row["facts"] = facts
    return row


def _live_part(gateway: Gateway, live: LiveDevice) -> dict[str, Any]:
    silent = live.silent(gateway.wheel.seconds())
    seen = datetime.fromtimestamp(gateway.wall(), UTC) - timedelta(seconds=silent)
    policy = live.hello.policy
    rtt = live.link.rtt_seconds
    return {
        "gateway": gateway.name,
        "epoch": live.epoch,
        "address": live.address,
        "connected_at": _rfc3339(live.connected_at),
        "last_seen": _rfc3339(seen),
        "silent_ms": round(silent * 1000),
        "agent_version": printable(live.hello.software, 64),
        "handlers": gateway.catalogues.allowed(live.hello.catalogue),
        "facts": live.hello.facts,
        "policy_error": printable(policy.error) if policy and policy.error else None,
        "problems": live.hello.problems,
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
    }


def _rfc3339(moment: datetime) -> str:
    return rfc3339(int(moment.timestamp() * 1_000_000))
