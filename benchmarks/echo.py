"""How long a keystroke takes to a terminal on a device and back.

Alone, beside a bulk transfer to the same device, and with thousands of other devices live.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

from benchmarks.contestants import asyncssh_reverse, openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.program import main
from benchmarks.site import Child, Site, most_devices
from benchmarks.stopwatch import EchoProgram
from benchmarks.summary import quantile
from tests.functional.processes import environment

TITLE = "keystroke echo"
DEVICE = "bench-echo"
LINE = "stty raw -echo; printf ready.; exec cat"
#: A fast typist is at 0.08; more keys say more in the same time, and each finds the link idle.
PAUSE_SECONDS = 0.01
IDLE = "echo, idle"
GOALS = {"p50": Goal(0.7), "p99": Goal(1.5)}


def _tell(
    book: Notebook,
    what: str,
    who: str,
    taken: list[float],
    goals: dict[str, Goal],
    at: int | None = None,
) -> None:
    along = "" if at is None else "other devices live"
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        value = quantile(taken, share)
        book.add(f"{what}, {name}", value, "ms", who, at=at, along=along, goal=goals.get(name))


def _type(operator: Child, keys: int) -> list[float]:
    asked = {"do": "type", "keys": keys, "pause": PAUSE_SECONDS}
    taken: list[float] = operator.ask(json.dumps(asked))["ms"]
    return taken


def _beside_bulk(book: Notebook, operator: Child, keys: int, direction: str) -> None:
    operator.ask(json.dumps({"do": "bulk", "device": DEVICE, "direction": direction}))
    Site.rest(1.0)
    goals = {"p99": Goal(5.0)}
    _tell(book, f"echo beside a transfer {direction}", OURS, _type(operator, keys), goals)
    moved: int = operator.ask('{"do": "moved"}')["bytes"]
    if not moved:
        raise OSError("the transfer moved nothing")
    operator.ask('{"do": "end_bulk"}')
    Site.rest(0.5)


def _programs(book: Notebook, site: Site, stack: ExitStack) -> dict[str, EchoProgram]:
    """Return what types through a program at a terminal, ready, by contestant."""
    words: dict[str, list[str | bytes]] = {
        f"{OURS}, ssh door": site.ssh_command(DEVICE, LINE, options=("-tt",))
    }
    for module in (openssh, asyncssh_reverse):
        name = openssh.WITHOUT if module is openssh else asyncssh_reverse.NAME
        if why := module.missing():
            book.leave_out(name, why)
    if not openssh.missing():
        plain = openssh.OpenSsh(site.base)
        stack.callback(plain.close)
        plain.add_tunnel()
        words[openssh.WITHOUT] = [*plain.command(LINE, terminal=True)]
    if not asyncssh_reverse.missing():
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.close)
        words[asyncssh_reverse.NAME] = [*reverse.command(LINE, terminal=True)]
    programs = {}
    for who, command in words.items():
        programs[who] = program = EchoProgram(command, environment(site.base), site.base)
        stack.callback(program.close)
        program.wait_ready()
    return programs


def _alone(book: Notebook, keys: int) -> None:
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        site.start_gateway()
        site.add(DEVICE)
        site.known_key("id")
        operator = site.operator()
        operator.ask(json.dumps({"do": "terminal", "device": DEVICE}))
        programs = _programs(book, site, stack)
        for _ in book.rounds():
            before = site.gateway_cpu()
            _tell(book, IDLE, OURS, _type(operator, keys), GOALS)
            used = (site.gateway_cpu() - before) / keys * 1000
            book.add("a key: gateway's processor time", used, "ms")
            for who, program in programs.items():
                _tell(book, IDLE, who, program.type(keys, PAUSE_SECONDS), {})
            for direction in ("down", "up"):
                _beside_bulk(book, operator, keys, direction)


def _among_others(book: Notebook, keys: int) -> None:
    sizes = [0, 1_000, 5_000, most_devices(20_000)] if not book.quick else [0, 200]
    with Site() as site:
        site.enrol_crowd(sizes[-1])
        site.start_gateway()
        site.add(DEVICE)
        site.start_crowd()
        operator = site.operator()
        operator.ask(json.dumps({"do": "terminal", "device": DEVICE}))
        for count in sizes:
            site.grow_crowd(count, count / 200)
            site.rest(book.size(15, 1))  # what a device tells after its WELCOME is told by then
            for _ in book.rounds():
                goals = {"p99": Goal(10.0)} if count else {}
                _tell(book, "echo among others", OURS, _type(operator, keys), goals, count)


def measure(book: Notebook) -> None:
    """Type."""
    keys = book.size(500, 30)
    _alone(book, keys)
    _among_others(book, keys)
    book.note(
        f"A round is {keys} keys, each {PAUSE_SECONDS * 1000:g} ms after the echo of the one "
        "before; its median and 99th percentile are one sample each."
    )
    book.note(
        f"`{OURS}` types in a program that uses rshell.client; the others are OpenSSH's client "
        "at a pseudo-terminal, which adds its own process to the way."
    )
    book.note(f"`{OURS}` transfers with the same program and link with which it types.")
    book.note("The simulated devices run on the same machine and take processor time themselves.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "echo"))
