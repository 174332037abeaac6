"""Verbs about links: is a device there, is it a clone, and what the gateway counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from rshell.gateway.device_rows import device_row, device_state
from rshell.gateway.switchboard import OpenRefused
from rshell.gateway.verbs import Asker, verb
from rshell.link.core.errors import ErrorCode

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__: list[str] = []

Name = Annotated[str, Meta(max_length=64)]


class ProbeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which device."""

    device: Name


class QuarantineRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Which device, and whether it is let in again."""

    device: Name
    release: bool = False


class MetricsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


@verb("gateway.probe", ProbeRequest, open_to_all=True)
async def probe(gateway: Gateway, asker: Asker, request: ProbeRequest) -> Any:
    """Ask a device for a sign of life; answers within five seconds."""
    device = await gateway.rights.device(asker.operator, request.device)
    if gateway.probing.admit(asker.name) is None:
        raise OpenRefused(ErrorCode.OVERLOAD, "too many probes: try again in a minute")
    live = gateway.presence.find(device.id)
    if live is None:
        never = device.last_seen is None
        return {
            "device": device.name,
            "state": device_state(gateway, device).value,
            "alive": False,
            "rtt_ms": None,
            "silent_ms": None if never else _since_ms(gateway, device.last_seen or 0),
            "epoch": device.epoch or None,
            "address": device.last_address,
            "waited_ms": 0,
            "message": "it has never connected" if never else "it is not connected",
        }
    answer = await gateway.probes.ask(live)
    # Its row was read when it came: it may be gone since.
    device = await gateway.store.device(device.id) or device
    now = gateway.presence.find(device.id) or live
    rtt = answer.rtt_seconds
    return {
        "device": device.name,
        "state": device_state(gateway, device).value,
        "alive": answer.alive,
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
        "silent_ms": round(now.silent(gateway.wheel.seconds()) * 1000),
        "epoch": now.epoch,
        "address": now.address,
        "waited_ms": round(answer.waited_seconds * 1000),
        "message": answer.message,
    }


def _since_ms(gateway: Gateway, moment_us: int) -> int:
    return max(0, gateway.now_us() - moment_us) // 1000


@verb("gateway.quarantine", QuarantineRequest, changes=True)
async def quarantine(gateway: Gateway, asker: Asker, request: QuarantineRequest) -> Any:
    """Shut a device out as a suspected clone, or release it."""
    if request.release:
        device = await gateway.clones.release(request.device, asker.name)
    else:
        device = await gateway.clones.quarantine(request.device, f"by operator {asker.name}")
    return device_row(gateway, device)


@verb("gateway.metrics", MetricsRequest)
async def metrics(gateway: Gateway, asker: Asker, request: MetricsRequest) -> Any:
    """Return what the gateway counts, in Prometheus' text format."""
    return {"text": gateway.metrics.exposition(gateway)}
