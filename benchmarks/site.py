"""A real gateway, real agents and simulated fleets on loopback, started by the documented commands.

`Site` is the fleet of the functional tests with what a measurement needs besides: thousands of
simulated devices in processes of their own, a program that is an operator, and the metrics.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import proc
from benchmarks.fleet_keys import enrol, store_rows
from benchmarks.machine import ROOT, descriptors, memory_disk
from rshell.gateway.arrivals import CROWDED
from rshell.gateway.home import GatewayHome, prepare_home
from tests.functional.fleet import Agent
from tests.functional.processes import LeavesNothing, die_with_us, end, environment, until
from tests.functional.ssh_door import SshFleet

__all__ = ["Child", "Site", "most_devices"]

#: Devices of one process: it and the gateway then share two cores evenly.
DEVICES_PER_PROCESS = 2_500
#: Nothing that is asked for takes this long; a hang shall not stop a run of an hour.
ANSWER_SECONDS = 600.0
#: What a gateway has open besides its links: listeners, store, logs, operators.
SPARE_DESCRIPTORS = 300


def most_devices(wanted: int) -> int:
    """Return how many of ``wanted`` devices one gateway may hold by this machine's limits."""
    # From there on it sheds connections that are not known yet: a fleet would come by luck.
    return min(wanted, int(descriptors() * CROWDED) - SPARE_DESCRIPTORS)


class Child:
    """A program of ours that answers each line on its input with one line of JSON.

    Args:
        module: to run with ``python -m``.
        arguments: of it.
        base: its directory and home.
        prefix: words before the command.
    """

    def __init__(
        self, module: str, arguments: list[str], base: Path, prefix: tuple[str, ...] = ()
    ) -> None:
        environ = environment(base)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # `close` does
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=base,
            env=environ,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, line: str) -> Any:
        """Send one line; return the answer.

        Raises:
            OSError: It ended, or says that it failed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise OSError(f"{line[:100]}: no answer within {ANSWER_SECONDS:g} s")
        answer = self.process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise OSError(f"{self.process.args!r} ended: {self._errors.read()[-1500:]!r}")
        told = json.loads(answer)
        if isinstance(told, dict) and "failed" in told:
            raise OSError(f"{line[:100]}: {told['failed']}")
        return told

    def close(self) -> None:
        """End it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        end(self.process, 5)
        self._errors.close()


class Site(SshFleet, LeavesNothing):
    """A gateway with its SSH door, and its devices; a context manager that leaves nothing behind.

    Args:
        config: text of the gateway's config file; "" for the defaults.
    """

    def __init__(self, config: str = "") -> None:
        super().__init__()
        self._children: list[Child] = []
        self.crowd: list[Child] = []
        self._key_base: Path | None = None
        self._prepared: GatewayHome | None = None
        self._enrolled = 0
        if config:
            path = self.base / "gateway.toml"
            path.write_text(config)
            self.gateway_options = (*self.gateway_options, "--config", str(path))

    # -- simulated devices ---------------------------------------------------------------------

    def enrol_crowd(self, count: int) -> None:
        """Put simulated devices into the store; before the gateway is started."""
        if self._prepared is None:
            self._prepared = prepare_home(self.home, ("localhost", "127.0.0.1"))
            self._key_base = Path(tempfile.mkdtemp(prefix="rshb-", dir=memory_disk()))
        assert self._key_base is not None
        enrol(self._prepared, self._key_base, count, self._enrolled)
        self._enrolled += count

    def fill(self, first: int, last: int) -> None:
        """Put rows of devices into the store that have no key and can never connect."""
        home = prepare_home(self.home, ("localhost", "127.0.0.1"))
        rows = [(str(uuid.uuid4()), os.urandom(32)) for _ in range(first, last)]
        store_rows(home.database, rows, first, datetime.now(UTC))

    def start_crowd(self) -> None:
        """Start the processes of the simulated devices; none dials yet."""
        assert self._key_base is not None
        host, port = self.address
        processes = -(-self._enrolled // DEVICES_PER_PROCESS)
        for number in range(processes):
            words = [str(self._key_base), f"{host}:{port}", str(number), str(processes)]
            self.crowd.append(Child("benchmarks.fleet", words, self.base))
        self.crowd_live()  # answered once each has read its keys: no part of what is measured

    def grow_crowd(self, count: int, spread_seconds: float, limit_seconds: float = 600) -> float:
        """Let the first ``count`` devices dial; return the seconds until all are live."""
        began = time.monotonic()
        each = len(self.crowd)
        for number, child in enumerate(self.crowd):
            share = len(range(number, count, each))  # so that those live are the first ones
            child.ask(f"grow {share} {spread_seconds}")
        self.wait_crowd(count, limit_seconds)
        stories = [child.ask("story")["welcomed"] for child in self.crowd]
        last = max((at for story in stories for at in story if at is not None), default=began)
        return float(max(0.0, last - began))

    def age_crowd(self, seconds: float) -> None:
        """Let every link look so much older to the device that dialled it."""
        for child in self.crowd:
            child.ask(f"age {seconds}")

    def end_crowd(self) -> None:
        """End the processes of the simulated devices; `start_crowd` may follow."""
        for child in self.crowd:
            child.close()
        self.crowd.clear()

    def crowd_live(self, since: float = 0.0) -> int:
        """Return how many simulated devices are live, by links welcomed since a moment.

        Args:
            since: of the monotonic clock; devices hear of the end of a gateway a little later.
        """
        return sum(child.ask(f"count {since}")["live"] for child in self.crowd)

    def wait_crowd(self, count: int, seconds: float, since: float = 0.0) -> None:
        """Wait until so many are live; see `crowd_live`."""
        until(
            lambda: self.crowd_live(since) >= count,
            lambda: f"{count} devices live; {self.crowd_live()} are. {self._away()}",
            seconds,
            0.1,
        )

    def _away(self) -> list[str]:
        return [*(child.ask("count")["error"] for child in self.crowd), self.log_tail()]

    # -- operators -----------------------------------------------------------------------------

    def operator(self) -> Child:
        """Start a program that is the operator ``admin`` with an open link."""
        child = Child("benchmarks.operator_link", [str(self.home)], self.base)
        self._children.append(child)
        child.ask(json.dumps({"do": "hello"}))
        return child

    def end_operators(self) -> None:
        """End all of them: without their gateway they would only dial."""
        for child in self._children:
            child.close()
        self._children.clear()

    # -- looking -------------------------------------------------------------------------------

    def gateway_cpu(self) -> float:
        """Return the processor seconds that the gateway has used."""
        return proc.cpu_of([self.gateway_pid])

    def gateway_memory(self) -> proc.Memory:
        """Return the gateway's memory."""
        return proc.memory_of([self.gateway_pid])

    @staticmethod
    def device_pids(agent: Agent) -> list[int]:
        """Return agent and keeper of a real device."""
        keeper = agent.keeper_pid()
        return [agent.pid, *([keeper] if keeper else [])]

    @staticmethod
    def rest(seconds: float) -> None:
        """Let nothing happen for a while."""
        time.sleep(seconds)

    def close(self) -> None:
        self.end_crowd()
        self.end_operators()
        if self._key_base is not None:
            shutil.rmtree(self._key_base, ignore_errors=True)
        super().close()
