"""What is left in anybody's tables when nothing should be.

It looks where nothing else has business to look: at private tables of every part, by name, so that
a leak shows as a line in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rshell.link.protocol import LinkProtocol
from rshell.testing.agents import SimulatedDevice
from rshell_agent.keeper.session import FINISHED

if TYPE_CHECKING:
    from rshell.testing.fleet import SimulatedFleet

__all__ = ["leftovers"]


def leftovers(fleet: SimulatedFleet) -> dict[str, int]:
    """Return how many of what is left, by place; empty when nothing is.

    Links that are up, timers that keep them up, and the keeper's memory of ended sessions are not
    left over; a session that runs is.
    """
    found: dict[str, int] = {}
    if fleet.gateway.alive:
        found |= _of_gateway(fleet)
    for device in fleet.devices.values():
        found |= _of_device(device)
    for operator in fleet.operators.values():
        link = operator.uplink.link if operator.alive else None
        if link is not None:
            found[f"{operator.name}: streams"] = len(link._receivers)
    for name in {wire.name for wire in fleet.network.wires}:
        # One link each, and of a keeper one control connection.
        found[f"{name}: spare connections"] = len(fleet.network.of(name)) - 1
    return {place: count for place, count in found.items() if count}


def _of_gateway(fleet: SimulatedFleet) -> dict[str, int]:
    core = fleet.gateway.core
    operators = [link for link in core._links if isinstance(link, LinkProtocol)]
    links = core.devices.links() + operators
    live = sum(device.connected for device in fleet.devices.values())
    connected = sum(operator.uplink.link is not None for operator in fleet.operators.values())
    return {
        "gateway: sessions": len(core.switchboard),
        "gateway: streams": sum(len(link._receivers) for link in links),
        "gateway: dead links": sum(link.closed for link in links),
        "gateway: spare links": max(0, len(links) - live - connected),
        "gateway: strangers": fleet.gateway.arrivals._count,
    }


def _of_device(device: SimulatedDevice) -> dict[str, int]:
    found: dict[str, int] = {}
    if device.alive:
        links = device.service._links
        found[f"{device.name}: couriers"] = len(links.dispatcher._couriers)
        found[f"{device.name}: spare links"] = max(0, len(links._live) - 1)
        found[f"{device.name}: streams"] = sum(len(link._receivers) for link in links._live)
    keeper = device.keeper
    if keeper is not None and keeper.alive:
        sessions = list(keeper.sessions._sessions.values())
        found[f"{device.name}: processes"] = len(keeper.running)
        found[f"{device.name}: sessions"] = sum(s.state != FINISHED for s in sessions)
        found[f"{device.name}: outcomes"] = sum(s.state == FINISHED for s in sessions)
        found[f"{device.name}: keeper's faults"] = len(keeper.faults)
    return found
