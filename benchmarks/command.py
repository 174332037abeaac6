"""How long `true` on a device takes: over a connection that is open, and from a cold start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.contestants import asyncssh_reverse, openssh
from benchmarks.notebook import OURS, Goal, Notebook
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


def _others(book: Notebook, site: Site, stack: ExitStack) -> dict[tuple[str, str], Runner]:
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
        runners[CONSOLE, openssh.WITH] = _programs([*plain.command("true", master=True)], site)
    why = asyncssh_reverse.missing()
    if why:
        book.leave_out(asyncssh_reverse.NAME, why)
    else:
        reverse = asyncssh_reverse.AsyncSshReverse(site.base)
        stack.callback(reverse.close)
        runners[OPEN, asyncssh_reverse.NAME] = reverse.true_ms
        cold = _programs([*reverse.command("true")], site)
        runners[COLD, f"{asyncssh_reverse.NAME}, OpenSSH's client"] = cold
    return runners


GOALS = {
    (OPEN, OURS): Goal(2.5),
    (COLD, f"{OURS} run"): Goal(300),
    (COLD, f"{OURS}, ssh door"): Goal(60),
}


def measure(book: Notebook) -> None:
    """Run commands, all ways in turn."""
    with ExitStack() as stack:
        site = stack.enter_context(Site())
        site.start_gateway()
        site.add(DEVICE)
        site.known_key("id")
        runners = {**_ours(site), **_others(book, site, stack)}
        counts = {OPEN: book.size(100, 10), CONSOLE: book.size(20, 2), COLD: book.size(20, 2)}
        for _ in book.rounds():
            for (what, who), runner in runners.items():
                before = site.gateway_cpu()
                taken = runner(counts[what])
                if (what, who) == (OPEN, OURS):
                    used = (site.gateway_cpu() - before) / len(taken) * 1000
                    book.add("`true`: gateway's processor time", used, "ms")
                for name, share in (("p50", 0.5), ("p99", 0.99)):
                    goal = GOALS.get((what, who)) if name == "p50" else None
                    book.add(f"{what}, {name}", quantile(taken, share), "ms", who, goal=goal)
    book.note(
        f"A round is {counts[OPEN]} commands over an open connection, {counts[COLD]} cold ones; "
        "its median and 99th percentile are one sample each."
    )
    book.note("All processes are on this machine; nothing is pinned.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "command"))
