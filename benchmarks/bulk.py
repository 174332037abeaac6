"""One file to a device and back: MB/s, and processor seconds a GB at the gateway and the device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks import proc
from benchmarks.contestants import asyncssh_reverse, nginx, openssh, stunnel
from benchmarks.machine import memory_disk
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Site
from benchmarks.stopwatch import run_ms
from tests.functional.processes import environment

TITLE = "throughput of one file"
DEVICE = "bench-bulk"
MB, GB = 1_000_000, 1_000_000_000
UP, DOWN = "up", "down"
#: Of the file of the warm-up.
WARM_UP_BYTES = 48 * MB


@attrs.frozen
class _Way:
    """One contestant and direction.

    Attributes:
        direction: as seen by the operator.
        who: the contestant.
        move: moves the file once; returns when that is done.
        gateway: processes in the middle.
        device: processes at the device.
        goals: of throughput and of the gateway's processor seconds a GB.
    """

    direction: str
    who: str
    move: Callable[[], object]
    gateway: Callable[[], list[int]]
    device: Callable[[], list[int]]
    goals: tuple[Goal | None, Goal | None] = (None, None)


def _measure(book: Notebook, way: _Way, size: int) -> None:
    gateway, device = way.gateway(), way.device()
    before = proc.cpu_of(gateway), proc.cpu_of(device)
    began = time.perf_counter()
    way.move()
    seconds = time.perf_counter() - began
    speed, cost = way.goals
    title = f"file {way.direction}"
    book.add(title, size / MB / seconds, "MB/s", way.who, goal=speed)
    used = (proc.cpu_of(gateway) - before[0]) / size * GB
    book.add(f"{title}: gateway", used, "CPU-s/GB", way.who, goal=cost)
    if device:
        used = (proc.cpu_of(device) - before[1]) / size * GB
        book.add(f"{title}: device", used, "CPU-s/GB", way.who)


def _ours(site: Site, source: Path, target: Path) -> list[_Way]:
    agent = site.agents[DEVICE]
    there = f"{DEVICE}:{target}"
    back = f"{DEVICE}:{source}"
    options = [*site.options()]
    place = f"{DEVICE}@127.0.0.1"
    batch = site.base / "sftp.batch"

    def gateway() -> list[int]:
        return [site.gateway_pid]

    def device() -> list[int]:
        return site.device_pids(agent)

    def program(*words: str | bytes) -> Callable[[], object]:
        return lambda: run_ms(words, environment(site.base), site.base)

    def sftp(line: str) -> Callable[[], object]:
        def move() -> None:
            batch.write_text(line + "\n")
            run_ms(["sftp", "-q", *options, "-b", str(batch), place], None, site.base)

        return move

    ours = (Goal(270, at_most=False), Goal(2.0))
    scp = (Goal(150, at_most=False), None)
    ways = []
    for direction, who, move, goals in (
        (UP, f"{OURS} cp", program(*site.cli("cp", str(source), there)), ours),
        (DOWN, f"{OURS} cp", program(*site.cli("cp", back, str(target))), ours),
        (UP, f"{OURS}, scp by ssh door",
         program("scp", "-q", *options, str(source), f"{place}:{target}"), scp),
        (DOWN, f"{OURS}, scp by ssh door",
         program("scp", "-q", *options, f"{place}:{source}", str(target)), scp),
        (UP, f"{OURS}, sftp by ssh door", sftp(f"put {source} {target}"), (None, None)),
        (DOWN, f"{OURS}, sftp by ssh door", sftp(f"get {source} {target}"), (None, None)),
    ):  # fmt: skip
        ways.append(_Way(direction, who, move, gateway, device, goals))
    return ways


def _openssh(plain: openssh.OpenSsh, source: Path, target: Path) -> list[_Way]:
    up = plain.copy_command("scp", str(source), f"DEVICE:{target}")
    down = plain.copy_command("scp", f"DEVICE:{source}", str(target))
    far_up = plain.copy_command("scp", str(source), f"DEVICE:{target}", jump=True)
    far_down = plain.copy_command("scp", f"DEVICE:{source}", str(target), jump=True)
    return [
        _Way(direction, f"{name}, scp", lambda words=words: run_ms(words), plain.gateway_pids,  # type: ignore[misc]  # the default binds it
             plain.device_pids)
        for direction, name, words in (
            (UP, openssh.WITHOUT, up), (DOWN, openssh.WITHOUT, down),
            (UP, openssh.JUMP, far_up), (DOWN, openssh.JUMP, far_down),
        )
    ]  # fmt: skip


def _asyncssh(reverse: asyncssh_reverse.AsyncSshReverse, source: Path, target: Path) -> list[_Way]:
    name = f"{asyncssh_reverse.NAME}, cat"

    def up() -> None:
        with source.open("rb") as file:
            subprocess.run(reverse.command(f"cat > {target}"), stdin=file, check=True, timeout=600)

    def down() -> None:
        with target.open("wb") as file:
            words = reverse.command(f"cat {source}")
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, check=True, timeout=600)

    return [
        _Way(direction, name, move, reverse.gateway_pids, reverse.device_pids)
        for direction, move in ((UP, up), (DOWN, down))
    ]


def _others(book: Notebook, site: Site, stack: ExitStack, source: Path, target: Path) -> list[_Way]:
    ways: list[_Way] = []
    if why := openssh.missing():
        book.leave_out(openssh.WITHOUT, why)
    else:
        plain = openssh.OpenSsh(site.base)
        stack.callback(plain.close)
        plain.add_tunnel()
        ways += _openssh(plain, source, target)
    if why := asyncssh_reverse.missing():
        book.leave_out(asyncssh_reverse.NAME, why)
    else:
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.close)
        ways += _asyncssh(reverse, source, target)
    for name, why, kind in (
        (nginx.NAME, nginx.missing(), nginx.Nginx),
        (stunnel.NAME, stunnel.missing(), stunnel.Stunnel),
    ):
        if why:
            book.leave_out(name, why)
            continue
        relay = kind(site.base)
        stack.callback(relay.close)
        ways.append(
            _Way(UP, name, lambda relay=relay: relay.send(source.stat().st_size),  # type: ignore[misc]  # the default binds it
                 relay.gateway_pids, list)
        )  # fmt: skip
    return ways


def measure(book: Notebook) -> None:
    """Copy."""
    size = book.size(384, 32) * 1024 * 1024
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        site.start_gateway()
        site.add(DEVICE)
        site.known_key("id")
        files = _room(site, stack)
        source, target = files / "source", files / "target"
        _fill(source, book.size(WARM_UP_BYTES, size))
        ways = [*_ours(site, source, target), *_others(book, site, stack, source, target)]
        for number in book.rounds():
            if number == 1 and not book.quick:
                _fill(source, size)
            for way in ways:
                target.unlink(missing_ok=True)
                moved = source.stat().st_size
                _measure(book, way, moved)
                if way.device() and target.stat().st_size != moved:
                    raise OSError(f"{way.who} {way.direction}: the file did not arrive whole")
    book.note(f"A file of {size / MB:.0f} MB of random bytes: nothing is to be compressed.")
    book.note("The time of each is that of its program from start to end, connecting included.")
    book.note(f"`{nginx.NAME}` and `{stunnel.NAME}` move zeros from memory to memory, no file.")
    book.note(
        f"`{openssh.WITHOUT}` is an operator on the gateway's host; `{openssh.JUMP}` is one who "
        "is not, as everybody else here."
    )
    book.note("Operator, gateway and device share the machine's cores.")


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as out:
        while out.tell() < size:
            out.write(os.urandom(min(MB, size - out.tell())))


def _room(site: Site, stack: ExitStack) -> Path:
    """Return a directory for the file that is no disk, if there is one."""
    shared = memory_disk()
    if shared is None:
        return site.base
    room = shared / site.base.name
    room.mkdir(mode=0o700)
    stack.callback(shutil.rmtree, room, ignore_errors=True)
    return room


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "bulk"))
