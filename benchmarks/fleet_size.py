"""A gateway against the number of its live devices: memory, going live, and doing nothing."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from benchmarks import proc
from benchmarks.contestants import asyncssh_reverse, bare_tls, openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site, most_devices

TITLE = "memory, going live and heartbeats against live devices"
ALONG = "live devices"
MEMORY = "gateway's memory an idle live device"
LIVE = "gateway's processor time a device going live"
RATE = "devices going live, all dialling at once"
ONE_BY_ONE = "devices going live, one after the other"
IDLE = "gateway's processor use, fleet idle"
#: Facts and flight records are told by then, and the longest heartbeat has come twice.
SETTLE_SECONDS, IDLE_SECONDS = 20, 60
#: What the others cost needs no thousands: each device has processes of its own there.
OTHER_DEVICES = 40
#: So many dial at once and are all served before the first gives up; more come so many a second.
BURST, SPREAD_RATE = 1_000, 250


def _settle(book: Notebook) -> None:
    Site.rest(book.size(SETTLE_SECONDS, 5))


def _fleet(book: Notebook, sizes: list[int]) -> None:
    """One gateway that grows from nothing, step by step."""
    with Site() as site:
        site.enrol_crowd(sizes[-1])
        site.start_gateway()
        site.start_crowd()
        Site.rest(book.size(5, 1))
        empty, known = site.gateway_memory().own, 0
        for count in sizes:
            before = site.gateway_cpu()
            new = count - known
            at_once = new <= BURST
            seconds = site.grow_crowd(count, 0.0 if at_once else new / SPREAD_RATE)
            _settle(book)
            used = (site.gateway_cpu() - before) / new * 1000
            known = count
            if at_once:
                book.add(RATE, new / seconds, "devices/s", at=count, along=ALONG)
            book.add(LIVE, used, "ms", goal=Goal(1.5), at=count, along=ALONG)
            grown = (site.gateway_memory().own - empty) / count
            book.add(MEMORY, grown, "KB", goal=Goal(40), at=count, along=ALONG)
            before, began = site.gateway_cpu(), time.monotonic()
            site.rest(book.size(IDLE_SECONDS, 3))
            share = (site.gateway_cpu() - before) / (time.monotonic() - began) * 100
            goal = Goal(3) if count == 5_000 else None
            book.add(IDLE, share, "% of a core", goal=goal, at=count, along=ALONG)


def _others(book: Notebook) -> None:
    count = book.size(OTHER_DEVICES, 3)
    with Site() as site, ExitStack() as stack:
        if why := openssh.missing():
            book.leave_out(openssh.WITHOUT, why)
        else:
            plain = openssh.OpenSsh(site.base)
            stack.callback(plain.close)
            empty, before = proc.memory_of(plain.gateway_pids()), proc.cpu_of(plain.gateway_pids())
            began = time.monotonic()
            for _ in range(count):
                plain.add_tunnel()
            used = (proc.cpu_of(plain.gateway_pids()) - before) / count * 1000
            rate = count / (time.monotonic() - began)
            grown = (proc.memory_of(plain.gateway_pids()).own - empty.own) / count
            book.add(MEMORY, grown, "KB", openssh.WITHOUT, at=count, along=ALONG)
            book.add(LIVE, used, "ms", openssh.WITHOUT, at=count, along=ALONG)
            book.add(
                ONE_BY_ONE,
                rate,
                "devices/s",
                openssh.WITHOUT,
                at=count,
                along=ALONG,
            )
        _asyncssh(book, site, stack)
        for who in (bare_tls.TWISTED, bare_tls.NGINX):
            _bare(book, site, stack, who)


def _asyncssh(book: Notebook, site: Site, stack: ExitStack) -> None:
    if why := asyncssh_reverse.missing():
        book.leave_out(asyncssh_reverse.NAME, why)
        return
    count = book.size(500, 20)
    reverse = asyncssh_reverse.AsyncSshReverse(site.base)
    stack.callback(reverse.close)
    pids = reverse.gateway_pids()
    empty, before, began = proc.memory_of(pids), proc.cpu_of(pids), time.monotonic()
    reverse.add_devices(count)
    rate = count / (time.monotonic() - began)
    used = (proc.cpu_of(pids) - before) / count * 1000
    grown = (proc.memory_of(pids).own - empty.own) / count
    name = asyncssh_reverse.NAME
    book.add(MEMORY, grown, "KB", name, at=count, along=ALONG)
    book.add(LIVE, used, "ms", name, at=count, along=ALONG)
    book.add(ONE_BY_ONE, rate, "devices/s", name, at=count, along=ALONG)


def _bare(book: Notebook, site: Site, stack: ExitStack, who: str) -> None:
    if why := bare_tls.missing(who):
        book.leave_out(who, why)
        return
    count = book.size(1_000, 50)
    server = bare_tls.BareTls(site.base, who)
    stack.callback(server.close)
    pids = server.pids()
    empty, before = proc.memory_of(pids), proc.cpu_of(pids)
    server.connect(count)
    site.rest(1)  # the server's last step of a handshake comes after the client's
    used = (proc.cpu_of(pids) - before) / count * 1000
    grown = (proc.memory_of(pids).own - empty.own) / count
    book.add(MEMORY, grown, "KB", who, at=count, along=ALONG)
    book.add(LIVE, used, "ms", who, at=count, along=ALONG)


def measure(book: Notebook) -> None:
    """Grow fleets."""
    wanted = [1_000, 5_000, 20_000] if not book.quick else [100, 200]
    sizes = sorted({most_devices(count) for count in wanted})
    if sizes[-1] != wanted[-1]:
        book.note(f"{sizes[-1]:,} devices at most: a process may open no more descriptors here.")
    for _ in book.rounds(warm_up=False):
        _fleet(book, sizes)
        _others(book)
    book.note(f"`{OURS}`: mutual TLS, HELLO, registered, audited, facts and flight record told.")
    book.note(
        "Memory is what the process has allocated (Pss_Anon), above what it "
        "had before the first device came; the kernel's, for sockets, is not in it."
    )
    book.note("The simulated devices share the machine's cores with the gateway.")
    book.note(f"`{asyncssh_reverse.NAME}` has no certificates, no state and no audit.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "fleet_size"))
