"""What /proc tells of a process: processor time and memory, its children included.

Wall times on small shared machines lie; these do not, but for the tick of 10 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from tests.functional.processes import descendants

__all__ = [
    "Memory",
    "busy_of",
    "busy_seconds",
    "cpu_of",
    "cpu_seconds",
    "family",
    "listening",
    "memory",
    "memory_of",
    "network_bytes",
    "parse_busy",
    "parse_cpu",
    "parse_memory",
    "slab_kb",
]


@attrs.frozen
class Memory:
    """From smaps_rollup, KiB.

    Attributes:
        rss: resident, what is shared with others counted in full.
        pss: resident, what is shared counted by its share: those of several processes add up.
        own: the anonymous part of ``pss``: what the process has allocated.  Unlike ``pss`` it
            does not fall when another process maps the same libraries.
    """

    rss: float
    pss: float
    own: float

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss, self.own + other.own)


def parse_cpu(stat: str, ticks: int) -> float:
    """Return the processor seconds in the text of /proc/PID/stat (proc(5)).

    Of the process's threads, and of its children that ended and were waited for.

    Args:
        stat: the file's text; the name in it may hold spaces and brackets.
        ticks: clock ticks a second.
    """
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / ticks


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process, and of its children that have ended.

    Raises:
        OSError: There is no such process.
    """
    return parse_cpu(Path(f"/proc/{pid}/stat").read_text(), os.sysconf("SC_CLK_TCK"))


def parse_busy(schedstat: str) -> float:
    """Return the seconds on a processor in the text of /proc/PID/task/TID/schedstat.

    Nanoseconds come first in it (sched-stats in the kernel's documentation).
    """
    return int(schedstat.split(maxsplit=1)[0]) / 1e9


def busy_seconds(pid: int) -> float:
    """Return the processor seconds of the threads that a process has now, without the tick.

    What a thread that ended has used is not in it: for programs that keep theirs.

    Raises:
        OSError: There is no such process.
    """
    tasks = Path(f"/proc/{pid}/task")
    try:
        return sum(parse_busy((task / "schedstat").read_text()) for task in tasks.iterdir())
    except FileNotFoundError:
        return cpu_seconds(pid)  # a kernel without it, or a thread that has just ended


def busy_of(pids: Iterable[int]) -> float:
    """Return the processor seconds of the threads that processes, with all below them, have now."""
    total = 0.0
    for pid in family(pids):
        try:
            total += busy_seconds(pid)
        except OSError:
            pass  # it ended just now
    return total


def slab_kb() -> float:
    """Return what the kernel has allocated for its own objects, sockets among them, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Slab:"))


def network_bytes() -> int:
    """Return the bytes of all packets that this network namespace has sent, headers included.

    On loopback what one end sends is what the other gets: those of both ends, each once.
    """
    lines = Path("/proc/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("IpExt:"))
    return int(values[names.index("OutOctets")])


def family(pids: Iterable[int]) -> list[int]:
    """Return processes, their children, theirs, and so on, each once."""
    found: dict[int, None] = {}
    for pid in pids:
        found.update(dict.fromkeys([pid, *descendants(pid)]))
    return list(found)


def cpu_of(pids: Iterable[int]) -> float:
    """Return the processor seconds of several processes with all below them."""
    total = 0.0
    for pid in family(pids):
        try:
            total += cpu_seconds(pid)
        except OSError:
            pass  # it ended just now; whoever waited for it has its time
    return total


def parse_memory(rollup: str) -> Memory:
    """Return what the text of /proc/PID/smaps_rollup says.

    Raises:
        ValueError: It is no such text.
    """
    found: dict[str, float] = {}
    for line in rollup.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) == 2 and words[1] == "kB":
            found[name] = float(words[0])
    if "Rss" not in found or "Pss" not in found:
        raise ValueError("no smaps_rollup")
    own = found.get("Pss_Anon", found.get("Anonymous", 0.0))  # the first since Linux 5.14
    return Memory(found["Rss"], found["Pss"], own)


def memory(pid: int) -> Memory:
    """Return the memory of one process.

    Raises:
        OSError: There is no such process, or we may not look.
    """
    return parse_memory(Path(f"/proc/{pid}/smaps_rollup").read_text())


def memory_of(pids: Iterable[int]) -> Memory:
    """Return the memory of several processes with all below them."""
    total = Memory(0, 0, 0)
    for pid in family(pids):
        try:
            total += memory(pid)
        except (OSError, ValueError):
            pass  # it ended just now
    return total


def listening(port: int) -> bool:
    """Tell whether anybody listens on a TCP port, without connecting to it.

    In /proc/net/tcp state 0A is LISTEN (proc_net_tcp in the kernel's documentation).
    """
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return any(one[1].endswith(f":{port:04X}") and one[3] == "0A" for one in fields)
