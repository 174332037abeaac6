"""What rests on a device: memory and processor time of agent and keeper, bytes of an idle link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack

import attrs

from benchmarks import proc
from benchmarks.contestants import openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site

TITLE = "a device at rest"
DAY_SECONDS = 86_400
#: Header bytes of a segment: IPv4 20, TCP with timestamps 32.
SEGMENT_BYTES = 52
#: Heartbeats come every 25 s ± 20 %: shorter looks see none or one too many.
LOOK_SECONDS = 120
#: What a device tells after its WELCOME is told by then.
SETTLE_SECONDS = 20


def _traffic(pid: int) -> float | None:
    """Return the bytes that a process's TCP connections have moved both ways; None without ss."""
    if shutil.which("ss") is None:
        return None
    told = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=False).stdout
    total = 0.0
    for line in told.splitlines():
        if f"pid={pid}," in line:
            found = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", line)}
            total += found.get("bytes_sent", 0) + found.get("bytes_received", 0)
            total += SEGMENT_BYTES * (found.get("segs_out", 0) + found.get("segs_in", 0))
    return total


@attrs.frozen
class _Rest:
    """One device at rest.

    Attributes:
        who: the contestant.
        link: the process that has the connection to the gateway.
        pids: all that runs for it on the device.
    """

    who: str
    link: int
    pids: list[int]


def _look(book: Notebook, devices: list[_Rest]) -> None:
    """Watch devices for a while, all at the same time."""
    before = [(_traffic(one.link), proc.cpu_of(one.pids)) for one in devices]
    began = time.monotonic()
    time.sleep(book.size(LOOK_SECONDS, 3))
    seconds = time.monotonic() - began
    for one, (moved, cpu) in zip(devices, before, strict=True):
        after = _traffic(one.link)
        if moved is not None and after is not None:
            per_day = (after - moved) * DAY_SECONDS / seconds
            title = "bytes a day on an idle link, headers included"
            book.add(title, per_day / 1024, "KB", one.who)
        used = (proc.cpu_of(one.pids) - cpu) / seconds
        book.add("processor use at rest", used * 100, "% of a core", one.who)


def _weigh(book: Notebook, devices: list[_Rest], parts: dict[str, tuple[int, float]]) -> None:
    for name, (pid, bound) in parts.items():
        told = proc.memory(pid)
        book.add(f"memory (RSS) of the {name}", told.rss / 1024, "MB", goal=Goal(bound))
        book.add(f"memory (PSS) of the {name}", told.pss / 1024, "MB")
    for one in devices:
        together = proc.memory_of(one.pids).pss / 1024
        book.add("memory (PSS) of all that runs", together, "MB", one.who)


def measure(book: Notebook) -> None:
    """Let a device do nothing."""
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        site.start_gateway()
        agent = site.add("bench-rest")
        keeper = agent.keeper_pid()
        devices = [_Rest(OURS, agent.pid, [agent.pid, keeper])]
        if why := openssh.missing():
            book.leave_out(openssh.WITHOUT, why)
        else:
            other = openssh.OpenSsh(site.base)
            stack.callback(other.close)
            tunnel = other.add_tunnel()
            devices.append(_Rest(openssh.WITHOUT, tunnel.pid, other.device_pids()))
        if shutil.which("ss") is None:
            book.note("Bytes are not counted: no `ss` (iproute2).")
        site.rest(book.size(SETTLE_SECONDS, 1))
        for _ in book.rounds(warm_up=False):
            _weigh(book, devices, {"agent": (agent.pid, 45.0), "keeper": (keeper, 15.0)})
            _look(book, devices)
    book.note(f"A round watches for {LOOK_SECONDS} s; the agent looks at facts and policy, too.")
    book.note(f"`{openssh.WITHOUT}` asks for a sign of life every 25 s (ServerAliveInterval).")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "device"))
