"""How long a keystroke takes to a terminal on a device and back.

Alone, and beside a bulk transfer to the same device; `benchmarks.echo_fleet` has it with thousands
of other devices live.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

from benchmarks import proc
from benchmarks.contestants import asyncssh_reverse, openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.pinning import Pins, pinned
from benchmarks.program import main
from benchmarks.site import Child, Site
from benchmarks.stopwatch import EchoProgram
from benchmarks.summary import quantile
from tests.functional.processes import environment

__all__ = ["PAUSE_SECONDS", "measure", "tell"]

TITLE = "keystroke echo"
DEVICE = "bench-echo"
LINE = "stty raw -echo; printf ready.; exec cat"
#: A fast typist is at 0.08; more keys say more in the same time, and each finds the link idle.
PAUSE_SECONDS = 0.005
IDLE = "echo, idle"
GOALS = {"p50": Goal(0.7), "p99": Goal(1.5)}


def tell(
    book: Notebook,
    what: str,
    who: str,
    taken: list[float],
    goals: dict[str, Goal],
    at: int | None = None,
) -> None:
    """Write down the median and the 99th percentile of one round of keys."""
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
    tell(book, f"echo beside a transfer {direction}", OURS, _type(operator, keys), goals)
    moved: int = operator.ask('{"do": "moved"}')["bytes"]
    if not moved:
        raise OSError("the transfer moved nothing")
    operator.ask('{"do": "end_bulk"}')
    Site.rest(0.5)


def _programs(book: Notebook, site: Site, stack: ExitStack, pins: Pins) -> dict[str, EchoProgram]:
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
        words[openssh.JUMP] = [*plain.command(LINE, terminal=True, jump=True)]
        pins.gateways(plain.gateway_pids())
    if not asyncssh_reverse.missing():
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.close)
        words[asyncssh_reverse.NAME] = [*reverse.command(LINE, terminal=True)]
        pins.gateways(reverse.gateway_pids())
    programs = {}
    for who, command in words.items():
        programs[who] = program = EchoProgram(command, environment(site.base), site.base)
        stack.callback(program.close)
        program.wait_ready()
    return programs


def _alone(book: Notebook, keys: int) -> None:
    with ExitStack() as stack:
        pins = stack.enter_context(pinned(book))
        site = stack.enter_context(Site())
        site.start_gateway()
        pins.gateways([site.gateway_pid])
        site.add(DEVICE)
        site.known_key("id")
        operator = site.operator()
        operator.ask(json.dumps({"do": "terminal", "device": DEVICE}))
        programs = _programs(book, site, stack, pins)
        for _ in book.rounds():
            before = proc.busy_seconds(site.gateway_pid)
            tell(book, IDLE, OURS, _type(operator, keys), GOALS)
            used = (proc.busy_seconds(site.gateway_pid) - before) / keys * 1000
            book.add("a key: gateway's processor time", used, "ms")
            for who, program in programs.items():
                tell(book, IDLE, who, program.type(keys, PAUSE_SECONDS), {})
            for direction in ("down", "up"):
                _beside_bulk(book, operator, keys, direction)


def measure(book: Notebook) -> None:
    """Type."""
    keys = book.size(300, 30)
    _alone(book, keys)
    book.note(
        f"A round is {keys} keys, each {PAUSE_SECONDS * 1000:g} ms after the echo of the one "
        "before; its median and 99th percentile are one sample each."
    )
    book.note(
        f"`{OURS}` types in a program that uses rshell.client; the others are OpenSSH's client "
        "at a pseudo-terminal, which adds its own process to the way."
    )
    book.note(f"`{OURS}` transfers with the same program and link with which it types.")
    book.note(
        f"`{openssh.WITHOUT}` is an operator on the gateway's host; `{openssh.JUMP}` is one who "
        "is not, as everybody else here."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "echo"))
