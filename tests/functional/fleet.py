"""A gateway and its agents as the documented commands start them, in a directory of their own.

`shared_fleet` is one fleet per process for tests that leave it as they found it; tests that kill
gateways or revoke operators make their own with `FleetCase.own_fleet`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.processes import (
    AGENT,
    CLI,
    TWISTD,
    Finished,
    Program,
    descendants,
    die_with_us,
    end,
    environment,
    pids,
    state,
    until,
)

__all__ = ["Agent", "Fleet", "FleetCase", "shared_fleet"]

DEVICES = {"pump-1": "site=berlin", "pump-2": "site=oslo", "valve-1": "site=berlin"}


class Agent:
    """One device: a home, the agent process and the keeper that it starts."""

    def __init__(self, fleet: Fleet, name: str, home: Path) -> None:
        self.fleet = fleet
        self.name = name
        self.home = home
        self.log = Path(f"{home}.log")
        self.process: subprocess.Popen[bytes] | None = None
        self.paths: tuple[Path, ...] = ()
        #: Another interpreter may have other plug-ins.
        self.command: Sequence[str] = AGENT
        #: Words before the command, as from `namespaces.Network.prefix`.
        self.prefix: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Agent:
        """Start the agent; `Fleet.wait_live` tells when it is there."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command, "run", "--home", str(self.home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.fleet.base,
                env=environment(self.fleet.base, *self.paths),
                preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
            )
        return self

    def configure(self, toml: str) -> None:
        """Write agent.toml."""
        (self.home / "agent.toml").write_text(toml)

    def keeper_pid(self) -> int:
        """Return the keeper of this home, 0 if there is none."""
        home = os.fsencode(self.home)
        for pid in pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if home in command and b"-S" in command and state(pid) not in ("", "Z"):
                return pid
        return 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the agent (not its keeper) a signal and wait for its end."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(number)
            self.process.wait()

    def stop(self) -> None:
        """End the agent, its keeper and all that runs in it."""
        self.kill()
        keeper = self.keeper_pid()
        if keeper:
            doomed = [keeper, *descendants(keeper)]
            for pid in doomed:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Fleet:
    """A gateway, its agents, and commands run against it.

    Nothing outlives `close`: processes are ended by their ids, the directory is removed.
    """

    def __init__(self) -> None:
        # Short, for sockets in it; not trial's own directory, which others clean up.
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="rsh-")))
        self.home = self.base / "gw"
        self.log = self.base / "gw.log"
        self.gateway: subprocess.Popen[bytes] | None = None
        self.agents: dict[str, Agent] = {}
        #: Words before the gateway's command and every other one but the agents'.
        self.prefix: tuple[str, ...] = ()
        #: Words before the gateway's command alone, after those.
        self.gateway_prefix: tuple[str, ...] = ()
        #: More options of the gateway's command.
        self.gateway_options: tuple[str, ...] = ()
        self._last_address = ("", 0)
        self._programs: list[Program] = []
        self._closed = False

    # -- the gateway ---------------------------------------------------------------------------

    def start_gateway(self, links: str = "tcp:0:interface=127.0.0.1") -> Fleet:
        """Start the gateway and wait until it listens."""
        # one that was killed leaves its own behind
        before = self._endpoints_written()
        command = [*TWISTD, "-n", "--pidfile=", "rshell", "--home", str(self.home)]
        with self.log.open("ab") as log:
            self.gateway = subprocess.Popen(
                [
                    *self.prefix,
                    *self.gateway_prefix,
                    *command,
                    "--links",
                    links,
                    *self.gateway_options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env=environment(self.base),
                preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
            )
        until(lambda: self._listens(before), self.log_tail)
        return self

    def kill_gateway(self, number: int = signal.SIGKILL) -> None:
        """Send the gateway a signal and wait for its end."""
        assert self.gateway is not None
        self._last_address = self.address
        self.gateway.send_signal(number)
        self.gateway.wait(30)

    def restart_gateway(self) -> None:
        """Start it again, on the port where it was."""
        host, port = self._last_address
        self.start_gateway(f"tcp:{port}:interface={host}")

    def _listens(self, before: int) -> bool:
        assert self.gateway is not None
        if self.gateway.poll() is not None:
            raise AssertionError(f"the gateway ended: {self.log_tail()}")
        return self._endpoints_written() > before

    def _endpoints_written(self) -> int:
        try:
            return (self.home / "endpoints.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @property
    def gateway_pid(self) -> int:
        assert self.gateway is not None
        return self.gateway.pid

    @property
    def address(self) -> tuple[str, int]:
        """Where the gateway listens for links."""
        host, _, port = json.loads((self.home / "endpoints.json").read_text())["links"].rpartition(
            ":"
        )
        return host, int(port)

    def log_text(self, start: int = 0) -> str:
        """Return the gateway's log from a byte on."""
        return self.log.read_bytes()[start:].decode(errors="replace")

    def log_size(self) -> int:
        return self.log.stat().st_size

    def log_tail(self) -> str:
        return self.log_text()[-1500:]

    # -- devices -------------------------------------------------------------------------------

    def invite(self, *arguments: str) -> bytes:
        """Return a join string."""
        done = self.rshell("invite", *arguments)
        assert done.status == 0, done
        return done.stdout

    def join(self, name: str, *labels: str, home: str = "") -> Agent:
        """Invite a device and let it join, without starting it."""
        words = [word for label in labels for word in ("--label", label)]
        string = self.invite("device", "--name", name, *words)
        agent = Agent(self, name, self.base / (home or name))
        joined = self.command([*AGENT, "join", "-", "--home", str(agent.home)], string)
        assert joined.status == 0, joined
        self.agents[home or name] = agent
        return agent

    def add(self, name: str, *labels: str) -> Agent:
        """Invite, join and start a device, and wait until it is live."""
        agent = self.join(name, *labels).start()
        self.wait_live(name)
        return agent

    def devices(self, selector: str = "*") -> list[dict[str, Any]]:
        done = self.rshell("devices", "--json", selector)
        assert done.status == 0, done
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def device(self, name: str) -> dict[str, Any]:
        return next(row for row in self.devices(name) if row["name"] == name)

    def live(self) -> set[str]:
        return {row["name"] for row in self.devices() if row["state"] == "live"}

    def wait_live(self, *names: str, seconds: float = 40) -> None:
        """Wait until all these devices are live."""

        def told() -> str:
            logs = {name: agent.log_text()[-500:] for name, agent in self.agents.items()}
            return f"{names} live: {logs} gateway: {self.log_tail()}"

        until(lambda: set(names) <= self.live(), told, seconds, 0.2)

    # -- commands ------------------------------------------------------------------------------

    def start(self, command: Sequence[str | bytes], **options: Any) -> Program:
        """Start a program; it is ended with the fleet at the latest."""
        environ = {**environment(self.base), **options.pop("environ", {})}
        prefix = options.pop("prefix", self.prefix)
        program = Program([*prefix, *command], environ, self.base, **options)
        self._programs.append(program)
        return program

    def command(
        self, command: Sequence[str | bytes], data: bytes = b"", seconds: float = 60, **options: Any
    ) -> Finished:
        """Run a program to its end."""
        program = self.start(command, **options)
        try:
            return program.finish(data, seconds)
        finally:
            self._programs.remove(program)

    def cli(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the command line of ``rshell``."""
        return [*CLI, "--home", str(self.home), *arguments]

    def rshell(
        self, *arguments: str | bytes, data: bytes = b"", seconds: float = 60, **options: Any
    ) -> Finished:
        """Run ``rshell`` to its end."""
        return self.command(self.cli(*arguments), data, seconds, **options)

    def run(self, *arguments: str | bytes, **options: Any) -> Finished:
        """Run ``rshell run`` to its end."""
        return self.rshell("run", *arguments, **options)

    # -- the end -------------------------------------------------------------------------------

    def remove(self, agent: Agent) -> None:
        """Revoke and stop a device that a test added."""
        if not self._closed:
            self.rshell("revoke", "device", agent.name)
        agent.stop()
        for name in [name for name, other in self.agents.items() if other is agent]:
            del self.agents[name]

    def close(self) -> None:
        """End everything."""
        if self._closed:
            return
        self._closed = True
        for program in self._programs:
            program.kill()
        for agent in self.agents.values():
            agent.stop()
        if self.gateway is not None:
            end(self.gateway)
        shutil.rmtree(self.base, ignore_errors=True)


@functools.cache
def shared_fleet() -> Fleet:
    """Return the fleet of this process: three devices, ended when the process ends.

    trial gives each test to whichever worker is free and has no class fixtures, so a cache is
    what tests can share.
    """
    fleet = Fleet()
    atexit.register(fleet.close)
    try:
        fleet.start_gateway()
        for name, label in DEVICES.items():
            fleet.join(name, label).start()
        fleet.wait_live(*DEVICES)
    except BaseException:
        fleet.close()
        raise
    return fleet


class FleetCase(SynchronousTestCase):
    """A test with the shared fleet at hand."""

    @property
    def fleet(self) -> Fleet:
        return shared_fleet()

    def own_fleet(self, *devices: str) -> Fleet:
        """Return a fleet that ends with the test."""
        fleet = Fleet()
        self.addCleanup(fleet.close)
        fleet.start_gateway()
        for name in devices:
            fleet.join(name).start()
        if devices:
            fleet.wait_live(*devices)
        return fleet

    def added(self, name: str, *labels: str) -> Agent:
        """Return a live device of the shared fleet that goes with the test."""
        agent = self.fleet.join(name, *labels)
        self.addCleanup(self.fleet.remove, agent)
        agent.start()
        self.fleet.wait_live(name)
        return agent

    def run_on(self, device: str, *command: str | bytes, **options: Any) -> Finished:
        """Run a command on a device of the shared fleet."""
        return self.fleet.run(device, "--", *command, **options)

    def assert_status(self, status: int, done: Finished) -> None:
        """Check an exit status, and that nothing of ours broke."""
        self.assertEqual(status, done.status, done)
        self.assertNotIn(b"Traceback", done.stderr)

    def assert_one_line(self, text: bytes) -> None:
        """Check that a message is one line."""
        self.assertTrue(text.endswith(b"\n"), text)
        self.assertEqual(1, text.count(b"\n"), text)

    @contextmanager
    def quiet_gateway(self, fleet: Fleet) -> Iterator[None]:
        """Check that the gateway logs no traceback meanwhile."""
        start = fleet.log_size()
        yield
        self.assertNotIn("Traceback", fleet.log_text(start))
