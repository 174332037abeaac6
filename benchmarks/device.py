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
BYTES = "bytes a day on an idle link, headers included"
DAY_SECONDS = 86_400
#: Header bytes of a segment: IPv4 20, TCP with timestamps 32.
SEGMENT_BYTES = 52
#: A window.  `ssh -R` sends one sign of life in it, an agent's heartbeat comes every 25 s ± 20 %.
LOOK_SECONDS = 25
#: Devices of each contestant: one window of several of them sees as much as a long one of one.
DEVICES = 4
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
        link: the process that has the connection to the gateway.
        pids: all that runs for it on the device.
    """

    link: int
    pids: list[int]

    def moved(self) -> float | None:
        """Return the bytes of its connection so far; None if nobody can tell."""
        return _traffic(self.link)


def _moved(devices: list[_Rest]) -> float | None:
    told = [one.moved() for one in devices]
    return None if None in told else sum(one for one in told if one is not None)


def _look(book: Notebook, contestants: dict[str, list[_Rest]]) -> None:
    """Watch all devices for a while, at the same time; write down what one of them did."""
    pids = {who: [pid for one in rest for pid in one.pids] for who, rest in contestants.items()}
    moved = {who: _moved(rest) for who, rest in contestants.items()}
    cpu = {who: proc.cpu_of(pids[who]) for who in contestants}
    began = time.monotonic()
    time.sleep(book.size(LOOK_SECONDS, 3))
    seconds = time.monotonic() - began
    for who, rest in contestants.items():
        before, after = moved[who], _moved(rest)
        if before is not None and after is not None:
            per_day = (after - before) / len(rest) * DAY_SECONDS / seconds
            book.add(BYTES, per_day / 1024, "KB", who)
        used = (proc.cpu_of(pids[who]) - cpu[who]) / len(rest) / seconds
        book.add("processor use at rest", used * 100, "% of a core", who)


def _weigh(book: Notebook, contestants: dict[str, list[_Rest]], agent: int, keeper: int) -> None:
    for name, pid, bound in (("agent", agent, 45.0), ("keeper", keeper, 15.0)):
        told = proc.memory(pid)
        book.add(f"memory (RSS) of the {name}", told.rss / 1024, "MB", goal=Goal(bound))
        book.add(f"memory of the {name} that is its own", told.own / 1024, "MB")
    for who, rest in contestants.items():
        told = proc.memory_of(rest[0].pids)
        book.add("memory (RSS) of all that runs", told.rss / 1024, "MB", who)
        book.add("memory of all that runs that is its own", told.own / 1024, "MB", who)


def _openssh(stack: ExitStack, site: Site) -> list[_Rest]:
    """Return devices that each have an sshd and a tunnel."""
    found = []
    for number in range(DEVICES):
        base = site.base / f"device-{number}"
        base.mkdir()
        other = openssh.OpenSsh(base)
        stack.callback(other.close)
        found.append(_Rest(other.add_tunnel().pid, other.device_pids()))
    return found


def measure(book: Notebook) -> None:
    """Let devices do nothing."""
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        site.start_gateway()
        agents = [site.add(f"bench-rest-{number}") for number in range(DEVICES)]
        contestants = {OURS: [_Rest(agent.pid, site.device_pids(agent)) for agent in agents]}
        if why := openssh.missing():
            book.leave_out(openssh.WITHOUT, why)
        else:
            contestants[openssh.WITHOUT] = _openssh(stack, site)
        if shutil.which("ss") is None:
            book.note("Bytes are not counted: no `ss` (iproute2).")
        site.rest(book.size(SETTLE_SECONDS, 1))
        for _ in book.rounds(warm_up=False):
            _weigh(book, contestants, agents[0].pid, agents[0].keeper_pid())
            _look(book, contestants)
    book.note(
        f"A round watches {DEVICES} devices of each for {LOOK_SECONDS} s and tells their mean; "
        "the agent looks at facts and policy, too. Starting and settling was the warm-up."
    )
    book.note(
        "RSS counts what processes share in full, so the sum over agent and keeper is a little too "
        "much; what is their own (Pss_Anon) leaves programs and libraries out."
    )
    book.note(f"`{openssh.WITHOUT}` asks for a sign of life every 25 s (ServerAliveInterval).")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "device"))
