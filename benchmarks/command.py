"""How long `true` on a device takes: over a connection that is open, and from a cold start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import proc
from benchmarks.contestants import asyncssh_reverse, openssh
from benchmarks.notebook import OURS, Goal, Notebook
from benchmarks.pinning import Pins, pinned
from benchmarks.program import main
from benchmarks.site import Site
from benchmarks.stopwatch import run_ms
from benchmarks.summary import quantile
from tests.functional.processes import environment

TITLE = "latency of one command"
DEVICE = "bench-command"
OPEN, COLD = "`true` over an open connection", "`true` from a cold start"
CONSOLE = "`true` by a new process, connection open"

#: Runs a number of commands; returns the milliseconds of each.
Runner = Callable[[int], list[float]]


def _programs(words: list[str | bytes], site: Site) -> Runner:
    environ = environment(site.base)
    return lambda count: [run_ms(words, environ, site.base) for _ in range(count)]


def _ours(site: Site) -> dict[tuple[str, str], Runner]:
    operator = site.operator()
    asked = f'{{"do": "run", "device": "{DEVICE}", "count": %d}}'

    def over_link(count: int) -> list[float]:
        taken: list[float] = operator.ask(asked % count)["ms"]
        return taken

    ssh = site.ssh_command(DEVICE, "true")
    return {
        (OPEN, OURS): over_link,
        (COLD, f"{OURS} run"): _programs(site.cli("run", "-n", DEVICE, "--", "true"), site),
        (COLD, f"{OURS}, ssh door"): _programs(ssh, site),
    }


def _others(
    book: Notebook, site: Site, stack: ExitStack, pins: Pins
) -> dict[tuple[str, str], Runner]:
    runners: dict[tuple[str, str], Runner] = {}
    why = openssh.missing()
    if why:
        book.leave_out(openssh.WITHOUT, why)
    else:
        plain = openssh.OpenSsh(site.base)
        stack.callback(plain.close)
        plain.add_tunnel()
        plain.start_master()
        runners[COLD, openssh.WITHOUT] = _programs([*plain.command("true")], site)
        runners[COLD, openssh.JUMP] = _programs([*plain.command("true", jump=True)], site)
        runners[CONSOLE, openssh.WITH] = _programs([*plain.command("true", master=True)], site)
        pins.gateways(plain.gateway_pids())
    why = asyncssh_reverse.missing()
    if why:
        book.leave_out(asyncssh_reverse.NAME, why)
    else:
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.close)
        pins.gateways(reverse.gateway_pids())
        runners[OPEN, asyncssh_reverse.NAME] = reverse.true_ms
        cold = _programs([*reverse.command("true")], site)
        runners[COLD, f"{asyncssh_reverse.NAME}, OpenSSH's client"] = cold
    return runners


QUANTILES = (("p50", 0.5), ("p99", 0.99))
GOALS = {
    (OPEN, OURS): Goal(2.5),
    (COLD, f"{OURS} run"): Goal(300),
    (COLD, f"{OURS}, ssh door"): Goal(60),
}


def measure(book: Notebook) -> None:
    """Run commands, all ways in turn."""
    with ExitStack() as stack:
        pins = stack.enter_context(pinned(book))
        site = stack.enter_context(Site())
        site.start_gateway()
        pins.gateways([site.gateway_pid])
        site.add(DEVICE)
        site.known_key("id")
        runners = {**_ours(site), **_others(book, site, stack, pins)}
        counts = {OPEN: book.size(100, 10), CONSOLE: book.size(10, 2), COLD: book.size(10, 2)}
        for _ in book.rounds():
            for (what, who), runner in runners.items():
                before = proc.busy_seconds(site.gateway_pid)
                taken = runner(counts[what])
                if (what, who) == (OPEN, OURS):
                    used = (proc.busy_seconds(site.gateway_pid) - before) / len(taken) * 1000
                    book.add("`true`: gateway's processor time", used, "ms")
                # Of a few cold starts there is no 99th percentile.
                for name, share in QUANTILES if what == OPEN else QUANTILES[:1]:
                    goal = GOALS.get((what, who)) if name == "p50" else None
                    book.add(f"{what}, {name}", quantile(taken, share), "ms", who, goal=goal)
    book.note(
        f"A round is {counts[OPEN]} commands over an open connection, {counts[COLD]} cold ones; "
        "its median, and 99th percentile, is one sample."
    )
    book.note("All processes are on this machine.")
    book.note(
        f"`{openssh.WITHOUT}` is an operator on the gateway's host; `{openssh.JUMP}` is one who "
        "is not, as everybody else here."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "command"))
