"""One byte through a forwarded port to a device and back, and a new connection through one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks import proc
from benchmarks.contestants import openssh
from benchmarks.notebook import OURS, Notebook
from benchmarks.pinning import pinned
from benchmarks.program import main
from benchmarks.site import Site
from benchmarks.summary import quantile
from tests.functional.processes import die_with_us, end, environment, until

TITLE = "a forwarded port"
DEVICE = "bench-forward"
#: A hang shall not stop a run.
LIMIT_SECONDS = 20.0
#: Between bytes, after the echo: each finds the link idle.
PAUSE_SECONDS = 0.003


@attrs.frozen
class _Way:
    """One contestant.

    Attributes:
        who: its name.
        port: of loopback that leads to the device's echo.
        gateway: its process in the middle.
    """

    who: str
    port: int
    gateway: list[int]


@contextmanager
def _echo_server() -> Iterator[int]:
    """Echo each connection in a thread of its own; yield the port."""

    def echo(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(4096):
                    sock.sendall(data)
            except OSError:
                pass  # the other end is gone

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # it was closed: the end
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=echo, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake accept(2)


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), LIMIT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _round_trip(sock: socket.socket) -> float:
    """Return the milliseconds of one byte and its echo."""
    began = time.perf_counter()
    sock.sendall(b"x")
    if sock.recv(1) != b"x":
        raise OSError("the echo did not come back")
    return (time.perf_counter() - began) * 1000


def _answers(port: int) -> bool:
    try:
        with _connect(port) as sock:
            return _round_trip(sock) > 0
    except OSError:
        return False


def _measure(book: Notebook, way: _Way, count: int) -> None:
    with _connect(way.port) as sock:
        _round_trip(sock)
        before, taken = proc.busy_of(way.gateway), []
        for _ in range(count):
            taken.append(_round_trip(sock))
            time.sleep(PAUSE_SECONDS)
        used = (proc.busy_of(way.gateway) - before) / count * 1000
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        book.add(f"one byte and back, {name}", quantile(taken, share), "ms", way.who)
    book.add("one byte and back: gateway's processor time", used, "ms", way.who)
    began, connections = time.perf_counter(), max(5, count // 20)
    for _ in range(connections):
        with _connect(way.port) as sock:
            _round_trip(sock)
    took = (time.perf_counter() - began) / connections * 1000
    book.add("a new connection, its first byte and back", took, "ms", way.who)


def _start(stack: ExitStack, words: list[str | bytes], site: Site, port: int) -> None:
    """Start a program that forwards a port; wait until the echo answers through it."""
    log = Path(site.base) / f"forward-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(site.base),
            cwd=site.base,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )
    stack.callback(end, process, 5)
    until(lambda: _answers(port), lambda: log.read_text(errors="replace")[-1000:], 30)


def _ways(book: Notebook, site: Site, stack: ExitStack, echo: int) -> list[_Way]:
    gateway = [site.gateway_pid]
    ours, door, other = openssh.free_port(), openssh.free_port(), openssh.free_port()
    _start(stack, site.cli("forward", DEVICE, f"{ours}:127.0.0.1:{echo}"), site, ours)
    forward = ("-N", "-L", f"127.0.0.1:{door}:127.0.0.1:{echo}")
    _start(stack, site.ssh_command(DEVICE, options=forward), site, door)
    ways = [
        _Way(f"{OURS} forward", ours, gateway),
        _Way(f"{OURS}, ssh -L by ssh door", door, gateway),
    ]
    if why := openssh.missing():
        book.leave_out(openssh.JUMP, why)
    else:
        plain = openssh.OpenSsh(site.base)
        stack.callback(plain.close)
        plain.add_tunnel()
        _start(stack, [*plain.forward_command(other, echo)], site, other)
        ways.append(_Way(f"{openssh.JUMP}, ssh -L", other, plain.gateway_pids()))
    return ways


def measure(book: Notebook) -> None:
    """Send bytes through forwarded ports, all ways in turn."""
    count = book.size(300, 20)
    with ExitStack() as stack:
        pins = stack.enter_context(pinned(book))
        echo = stack.enter_context(_echo_server())
        site = stack.enter_context(Site())
        site.start_gateway()
        site.add(DEVICE)
        site.known_key("id")
        ways = _ways(book, site, stack, echo)
        for way in ways:
            pins.gateways(way.gateway)
        for _ in book.rounds():
            for way in ways:
                _measure(book, way, count)
    book.note(
        f"A round is {count} bytes, each {PAUSE_SECONDS * 1000:g} ms after the echo of the one "
        "before, over one connection; its median and 99th percentile are one sample each."
    )
    book.note("The echo is a thread of the measuring program, on the core of the ends.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "forward"))
