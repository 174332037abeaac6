"""``rshell demo``: a gateway, three agents on this machine, and real commands run on them.

Everything is started by the documented commands, each as a process of its own, in a directory
that is removed at the end.  Nothing listens on anything but loopback.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import attrs
import click

__all__ = ["demo"]

DEVICES = ("pump-1", "pump-2", "valve-1")
SITES = {"pump-1": "berlin", "pump-2": "oslo", "valve-1": "berlin"}
#: A slow machine takes this long to import Twisted a few times over.
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 10.0

_PYTHON = (sys.executable, "-P")
_TWISTD = (*_PYTHON, "-c", "from twisted.scripts.twistd import run; run()")
_RSHELL = (*_PYTHON, "-m", "rshell.cli")
_AGENT = (*_PYTHON, "-m", "rshell_agent")

SCRIPT = 'for i in 1 2 3; do echo "$(hostname): line $i from pid $$"; done; echo done >&2'


class DemoFailed(click.ClickException):
    """Something did not come up; the text says what and where its log is."""


@attrs.define
class Demo:
    """One run of the demo below ``base``."""

    base: Path
    processes: list[tuple[str, subprocess.Popen[bytes]]] = attrs.Factory(list)

    @property
    def home(self) -> Path:
        """The gateway's home."""
        return self.base / "gateway"

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process that runs until the end; its output goes to ``base/NAME.log``."""
        with (self.base / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                # A ^C at the terminal is ours to hand on, in order.
                start_new_session=True,
            )
        self.processes.append((name, process))

    def rshell(self, *arguments: str, show: bool = True, capture: bool = False) -> str:
        """Run ``rshell`` against the demo's gateway; return its output if captured."""
        if show:
            click.echo(
                click.style(f"\n$ rshell --home {self.home} {shlex.join(arguments)}", bold=True)
            )
        done = subprocess.run(
            [*_RSHELL, "--home", str(self.home), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"rshell {shlex.join(arguments)} ended with status {done.returncode}")
        return done.stdout.decode() if capture else ""

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()`` is true, while every process lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            for name, process in self.processes:
                if process.poll() is not None:
                    raise DemoFailed(f"{name} ended: {_tail(self.base / f'{name}.log')}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what} did not come within {PATIENCE_SECONDS:g} s")
            time.sleep(0.1)

    def live(self) -> int:
        """Return how many devices are live."""
        devices = json.loads(self.rshell("devices", "--json", show=False, capture=True))
        return sum(device["state"] == "live" for device in devices)

    def start_gateway(self) -> None:
        """Start the gateway on a free port of the loopback interface."""
        click.echo("starting a gateway …")
        self.start(
            "gateway.process",
            [
                *_TWISTD,
                "-n",
                "--pidfile=",
                "rshell",
                "--home",
                str(self.home),
                "--links",
                "tcp:0:interface=127.0.0.1",
            ],
        )
        self.wait("the gateway", (self.home / "endpoints.json").exists)

    def start_agents(self) -> None:
        """Invite, join and start an agent for each device."""
        for name in DEVICES:
            click.echo(f"inviting {name}, and starting its agent …")
            join = self.rshell(
                "invite",
                "device",
                "--name",
                name,
                "--label",
                f"site={SITES[name]}",
                show=False,
                capture=True,
            )
            home = self.base / name
            joined = subprocess.run(
                [*_AGENT, "join", "-", "--home", str(home)],
                input=join.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if joined.returncode != 0:
                raise DemoFailed(f"{name} could not join: {joined.stdout.decode().strip()}")
            self.start(name, [*_AGENT, "run", "--home", str(home)])
        self.wait("the devices", lambda: self.live() == len(DEVICES))

    def show(self) -> None:
        """Run real commands on the devices through the gateway."""
        self.rshell("devices")
        self.rshell("run", "*", "--", "uname", "-a")
        self.rshell("run", "site=berlin", "--", SCRIPT)

    def stop(self) -> None:
        """End what was started, agents first, each by its pid."""
        for _, process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for _, process in reversed(self.processes):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {log}"


def _instructions(home: Path) -> None:
    command = f"{shlex.quote(sys.argv[0])} --home {home}"
    click.echo(
        "\nEverything stays up. In another terminal, try:\n"
        f"  {command} shell pump-1                  # a shell; leave it with exit or ~.\n"
        f"  {command} run 'pump-*' -- uptime\n"
        f"  {command} devices\n"
        f"  {command} audit\n"
        f"  {command} console                       # Python in the gateway; help() tells more\n"
        "Press ^C to end the demo."
    )


@click.command()
@click.option("--once", is_flag=True, help="End by itself once the commands have run.")
def demo(once: bool) -> None:
    """Start a gateway and three agents on this machine and run commands on them.

    Everything lives in a temporary directory and listens on loopback only.
    """
    if find_spec("rshell_agent") is None:
        raise DemoFailed("the demo needs rshell-agent too: pip install 'rshell[gateway,testing]'")
    # ^C and a polite kill end the demo in the same, orderly way.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="rshell-demo-") as directory:
        run = Demo(Path(os.path.realpath(directory)))
        try:
            run.start_gateway()
            run.start_agents()
            run.show()
            if once:
                click.echo("\nThe demo is done: a gateway, three devices, real commands.")
                return
            _instructions(run.home)
            while True:
                signal.pause()
        except KeyboardInterrupt:
            click.echo("\nending the demo …")
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            run.stop()
            signal.signal(signal.SIGINT, signal.default_int_handler)
