"""How large a gateway must be for so many devices: arithmetic on measured constants, no measuring.

What it says holds for the machine on which the constants were measured; memory and bytes hold for
others too, processor time does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from benchmarks.results import Found
from benchmarks.tables import number

__all__ = ["STEPS", "Constants", "Size", "constants_of", "constants_table", "size_of", "size_table"]

STEPS = (1_000, 10_000, 100_000, 1_000_000)
#: One gateway is one process on one core; it must stay ahead while a fleet comes back.
USABLE_CORE = 0.8
COMEBACK_SECONDS = 60
DAY_SECONDS = 86_400
#: The gateway sheds strangers from nine tenths of its descriptors on, and needs some itself.
SPARE_DESCRIPTORS, USED_DESCRIPTORS = 300, 0.9
#: TCP's port is 16 bits; a NAT gives those from 1,024 on.
PORTS_PER_ADDRESS = 65_536 - 1_024
#: Entries that a storm leaves behind, beside those of the new connections.
CONNTRACK_PER_DEVICE = 2
#: Rounded up to what people write into a unit file.
_DESCRIPTOR_STEP = 1_024


@attrs.frozen
class Constants:
    """What one device costs, measured.

    Attributes:
        base_mb: of a gateway to which nobody is connected, MB.
        device_kb: of the gateway for a live device, KB.
        kernel_kb: of the kernel for the gateway's end of its connection, KB.
        idle_percent: of a core for a live device's heartbeats.
        return_ms: of a core for a device that comes back.
        link_bytes: on the network for a device going live, both ways.
        day_kb: on the network for an idle device a day, both ways.
    """

    base_mb: float
    device_kb: float
    kernel_kb: float
    idle_percent: float
    return_ms: float
    link_bytes: float
    day_kb: float


@attrs.frozen
class Size:
    """What a number of devices needs.

    Attributes:
        devices: how many.
        memory_mb: of all gateways together, the kernel's part included.
        heartbeat_cores: that are busy while nothing happens.
        comeback_cores: that are busy if all come back within a minute.
        comeback_seconds: until all are back at one gateway.
        descriptors: of all gateways together, LimitNOFILE.
        addresses: of NATs, if all devices were behind as few as could be.
        conntrack: entries in each stateful firewall or NAT that all of them pass.
        day_mb: on the network while nothing happens.
        peak_mbit: on the network if all come back within a minute, both ways, Mbit/s.
    """

    devices: int
    memory_mb: float
    heartbeat_cores: float
    comeback_cores: float
    comeback_seconds: float
    descriptors: int
    addresses: int
    conntrack: int
    day_mb: float
    peak_mbit: float


def constants_of(sections: Sequence[dict[str, Any]]) -> Constants | None:
    """Return the constants; None if one of them has not been measured."""
    found = Found(sections)
    device = found.last("fleet_size", "gateway's memory an idle live device")
    idle = found.last("fleet_size", "gateway's processor use, fleet idle")
    told = (
        found.first("startup", "memory, nobody connected"),
        device,
        found.last("fleet_size", "kernel's memory a connection, one end"),
        idle,
        found.last("comeback", "gateway's processor time a device"),
        found.last(
            "going_live", "bytes on the network a device going live, both ways, headers included"
        ),
        found.last("device", "bytes a day on an idle link, headers included"),
    )
    if None in told or idle is None or not idle.at:
        return None
    values = [one.median for one in told if one is not None]
    values[3] = idle.median / idle.at
    return Constants(*values)


def size_of(devices: int, each: Constants) -> Size:
    """Return what so many devices need."""
    busy_seconds = devices * each.return_ms / 1000
    needed = (devices + SPARE_DESCRIPTORS) / USED_DESCRIPTORS
    return Size(
        devices=devices,
        memory_mb=each.base_mb + devices * (each.device_kb + each.kernel_kb) / 1024,
        heartbeat_cores=devices * each.idle_percent / 100,
        comeback_cores=busy_seconds / COMEBACK_SECONDS,
        comeback_seconds=busy_seconds / USABLE_CORE,
        descriptors=-int(-needed // _DESCRIPTOR_STEP) * _DESCRIPTOR_STEP,
        addresses=-(-devices // PORTS_PER_ADDRESS),
        conntrack=devices * CONNTRACK_PER_DEVICE,
        day_mb=devices * each.day_kb / 1024,
        peak_mbit=devices * each.link_bytes * 8 / COMEBACK_SECONDS / 1e6,
    )


def _megabytes(value: float) -> str:
    return f"{number(value / 1024)} GB" if value >= 1024 else f"{number(value)} MB"


def _seconds(value: float) -> str:
    return f"{number(value / 60)} min" if value >= 120 else f"{number(value)} s"


def constants_table(each: Constants) -> list[str]:
    """Return the constants as lines of Markdown."""
    rows = (
        ("a gateway to which nobody is connected, memory", each.base_mb, "MB"),
        ("an idle live device, gateway's memory", each.device_kb, "KB"),
        ("its connection, kernel's memory", each.kernel_kb, "KB"),
        ("1,000 idle live devices, processor", each.idle_percent * 1000, "% of a core"),
        ("a device that comes back after SIGKILL of the gateway, processor", each.return_ms, "ms"),
        ("a device going live, network, both ways", each.link_bytes / 1024, "KB"),
        ("an idle link, network, both ways", each.day_kb, "KB a day"),
    )
    lines = ["| one | costs |", "|---|---:|"]
    return lines + [f"| {what} | {number(value)} {unit} |" for what, value, unit in rows]


def size_table(each: Constants) -> list[str]:
    """Return what each of `STEPS` needs, as lines of Markdown."""
    sizes = [size_of(devices, each) for devices in STEPS]
    rows = (
        ("memory", [_megabytes(one.memory_mb) for one in sizes]),
        ("cores, heartbeats", [number(one.heartbeat_cores) for one in sizes]),
        ("cores, all back within a minute", [number(one.comeback_cores) for one in sizes]),
        ("all back at one gateway, after", [_seconds(one.comeback_seconds) for one in sizes]),
        ("descriptors (`LimitNOFILE`)", [f"{one.descriptors:,}" for one in sizes]),
        ("public addresses of NATs, at least", [f"{one.addresses:,}" for one in sizes]),
        ("conntrack entries", [f"{one.conntrack:,}" for one in sizes]),
        ("network, idle, a day", [_megabytes(one.day_mb) for one in sizes]),
        ("network, all back in a minute", [f"{number(one.peak_mbit)} Mbit/s" for one in sizes]),
    )
    lines = [f"| devices | {' | '.join(f'{one:,}' for one in STEPS)} |"]
    lines.append("|---|" + "---:|" * len(STEPS))
    return lines + [f"| {what} | {' | '.join(cells)} |" for what, cells in rows]
