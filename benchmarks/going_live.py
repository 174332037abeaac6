"""What a device costs that goes live, at a gateway that is new each time, beside others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import proc
from benchmarks.contestants import asyncssh_reverse, bare_tls, openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site

TITLE = "a device goes live"
ALONG = "devices"
#: So many devices have told their facts and flight records by then.
SETTLE_SECONDS = 10
MEMORY = "gateway's memory a device, idle"
LIVE = "gateway's processor time a device going live"
BYTES = "bytes on the network a device going live, both ways, headers included"
RATE = "devices going live, all dialling at once"
ONE_BY_ONE = "devices going live, one after the other"


def _ours(book: Notebook, site: Site, count: int) -> None:
    """Let a whole fleet dial a new gateway at once."""
    site.start_gateway()
    site.start_crowd()
    Site.rest(book.size(3, 1))
    empty, sent = site.gateway_memory().own, proc.network_bytes()
    before = proc.busy_seconds(site.gateway_pid)
    seconds = site.grow_crowd(count, 0.0)
    Site.rest(book.size(SETTLE_SECONDS, 5))
    used = (proc.busy_seconds(site.gateway_pid) - before) / count * 1000
    book.add(LIVE, used, "ms", goal=Goal(1.5), at=count, along=ALONG)
    book.add(RATE, count / seconds, "devices/s", at=count, along=ALONG)
    grown = (site.gateway_memory().own - empty) / count
    book.add(MEMORY, grown, "KB", goal=Goal(40), at=count, along=ALONG)
    moved = (proc.network_bytes() - sent) / count
    book.add(BYTES, moved, "bytes", at=count, along=ALONG)
    site.end_crowd()
    site.kill_gateway()


def _watch(
    book: Notebook, who: str, count: int, pids: Callable[[], list[int]], connect: Callable[[], None]
) -> None:
    """Let so many devices of somebody else connect."""
    empty, before = proc.memory_of(pids()), proc.cpu_of(pids())
    sent, began = proc.network_bytes(), time.monotonic()
    connect()
    rate = count / (time.monotonic() - began)
    Site.rest(1)  # the server's last step of a handshake comes after the client's
    used = (proc.cpu_of(pids()) - before) / count * 1000
    grown = (proc.memory_of(pids()).own - empty.own) / count
    moved = (proc.network_bytes() - sent) / count
    book.add(LIVE, used, "ms", who, at=count, along=ALONG)
    book.add(ONE_BY_ONE, rate, "devices/s", who, at=count, along=ALONG)
    book.add(MEMORY, grown, "KB", who, at=count, along=ALONG)
    book.add(BYTES, moved, "bytes", who, at=count, along=ALONG)


def _openssh(book: Notebook, site: Site) -> None:
    count = book.size(20, 3)  # each has processes of its own there: more would say no more
    with ExitStack() as stack:
        plain = openssh.OpenSsh(site.base)
        stack.callback(plain.remove)

        def connect() -> None:
            for _ in range(count):
                plain.add_tunnel()

        _watch(book, openssh.WITHOUT, count, plain.gateway_pids, connect)


def _asyncssh(book: Notebook, site: Site) -> None:
    count = book.size(400, 20)
    with ExitStack() as stack:
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.remove)
        _watch(
            book, asyncssh_reverse.NAME, count, reverse.gateway_pids,
            lambda: reverse.add_devices(count),
        )  # fmt: skip


def _bare(book: Notebook, site: Site, who: str) -> None:
    count = book.size(1_000, 50)
    with ExitStack() as stack:
        server = bare_tls.BareTls(site.base, who)
        stack.callback(server.remove)
        _watch(book, who, count, server.pids, lambda: server.connect(count))


def _others(book: Notebook) -> list[Callable[[Site], None]]:
    """Return those that can take part."""
    found: list[Callable[[Site], None]] = []
    for module, name, watch in (
        (openssh, openssh.WITHOUT, _openssh),
        (asyncssh_reverse, asyncssh_reverse.NAME, _asyncssh),
    ):
        if why := module.missing():
            book.leave_out(name, why)
        else:
            found.append(lambda site, watch=watch: watch(book, site))  # type: ignore[misc]  # bound
    for who in (bare_tls.TWISTED, bare_tls.NGINX, bare_tls.STUNNEL):
        if why := bare_tls.missing(who):
            book.leave_out(who, why)
        else:
            found.append(lambda site, who=who: _bare(book, site, who))  # type: ignore[misc]  # bound
    return found


def measure(book: Notebook) -> None:
    """Let devices come, everybody's in each round."""
    count = min(book.most, book.size(1_000, 100))
    others = _others(book)
    with Site() as site:
        site.enrol_crowd(count)
        for _ in book.rounds(warm_up=False):
            _ours(book, site, count)
            for watch in others:
                watch(site)
    book.note(f"`{OURS}`: mutual TLS, HELLO, registered, audited, facts and flight record told.")
    book.note(f"Every round has processes of its own; `{OURS}` is watched until it is quiet again.")
    book.note(
        "Memory is what the process has allocated (Pss_Anon), above what it had before the first "
        "device came; the kernel's, for sockets, is not in it."
    )
    book.note("The devices share the machine's cores with the gateway.")
    book.note(f"`{asyncssh_reverse.NAME}` has no certificates, no state and no audit.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "going_live"))
