"""A storm: a fleet in one process, a real gateway in another, killed and started again.

`Storm` starts both, kills, restarts and counts; `Return` is what a return looked like.  The devices
are made in the gateway's store directly: thousands of joins would take longer than the storm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from benchmarks.fleet_keys import store_rows
from rshell.gateway.home import GatewayHome, prepare_home
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import key_to_pem, new_key, spki_hash
from tests.functional.processes import (
    CLI,
    TWISTD,
    LeavesNothing,
    die_with_us,
    end,
    environment,
    until,
)

__all__ = ["Return", "Storm", "cpu_seconds", "histogram"]

#: What a device told to come back by a person only would have heard (rule C6).
FOR_A_PERSON = frozenset({"auth", "revoked", "version", "clone-suspected"})


#: Of the longest bar of a histogram.
_WIDTH = 50


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def histogram(times: Sequence[float], step: float) -> str:
    """Return a histogram as text: a line for each ``step`` seconds from 0 to the last."""
    counts = Counter(int(at / step) for at in times)
    most = max(counts.values(), default=1)
    lines = []
    for slot in range(max(counts, default=-1) + 1):
        bar = "#" * round(counts[slot] * _WIDTH / most)
        lines.append(f"{slot * step:6.1f} s {counts[slot]:6d} {bar}".rstrip())
    return "\n".join(lines)


@attrs.frozen
class Return:
    """How a fleet came back; seconds are since the gateway was killed.

    Attributes:
        listening: When the new gateway took connections.
        back: When each device was live again, sorted; those that are not are missing.
        count: Of devices.
        attempts: How many dials each device needed.
        told: Over how many seconds each device was told to spread its return, sorted.
        dials: For when each device planned each dial, sorted.
        codes: Of every GOAWAY since.
        gateway_cpu: Processor seconds of the new gateway until the last was back.
        devices_cpu: Of all devices together.
        metrics: Of the new gateway, by name with labels.
    """

    listening: float
    back: list[float]
    count: int
    attempts: list[int]
    told: list[float]
    dials: list[float]
    codes: list[str]
    gateway_cpu: float
    devices_cpu: float
    metrics: dict[str, float]

    def within(self, share: float) -> float:
        """Return the seconds after which this share of the fleet was live; infinite if never."""
        needed = max(1, round(self.count * share))
        return self.back[needed - 1] if len(self.back) >= needed else float("inf")

    @property
    def lag(self) -> float:
        """The gateway's worst reactor lag, seconds."""
        return self.metrics["rshell_reactor_lag_seconds"]

    @property
    def for_good(self) -> list[str]:
        """The answers that would have kept a device away until a person helps."""
        return [code for code in self.codes if code in FOR_A_PERSON]

    def busiest(self, seconds: float = 0.1) -> float:
        """Return the largest share of the fleet that meant to dial within the same ``seconds``."""
        most = first = 0
        for last, at in enumerate(self.dials):
            while at - self.dials[first] > seconds:
                first += 1
            most = max(most, last - first + 1)
        return most / self.count

    def refused(self) -> dict[str, float]:
        """Return the counters of refusals that are not zero."""
        return {
            name: value
            for name, value in self.metrics.items()
            if "_refused_total{" in name and value
        }


class Storm(LeavesNothing):
    """A gateway and its fleet; a context manager that leaves nothing behind.

    Args:
        count: Devices.
        profile: Where the gateways write their profile (cProfile); None for no profile.
    """

    def __init__(self, count: int, profile: Path | None = None) -> None:
        self.count = count
        # Where there is one, a disk in memory: the devices' files are on devices in real life.
        shared = Path("/dev/shm")  # a directory of our own is made in it
        self.base = Path(tempfile.mkdtemp(prefix="rshs-"))
        self._fleet_base = Path(
            tempfile.mkdtemp(prefix="rshs-", dir=shared if os.access(shared, os.W_OK) else None)
        )
        self.home = self.base / "gw"
        self.port = 0
        self._profile = profile
        self._runs = 0
        self.gateway: subprocess.Popen[bytes] | None = None
        self._fleet: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the gateway's home, and all devices."""
        self._register(prepare_home(self.home, ("localhost", "127.0.0.1")))

    def _register(self, home: GatewayHome) -> None:
        """Make all devices, as if each had joined."""
        now = datetime.now(UTC)
        told, found = [], []
        for _ in range(self.count):
            device_id, key = str(uuid.uuid4()), new_key()
            leaf = home.keys.issue_device(key.public_key(), device_id, now)
            chain = chain_to_pem((leaf, home.keys.device.certificate))
            told.append({"key": key_to_pem(key).decode(), "chain": chain.decode()})
            found.append((device_id, spki_hash(key.public_key())))
        store_rows(home.database, found, 0, now)
        root = chain_to_pem((home.keys.root.certificate,))
        (self._fleet_base / "root.pem").write_bytes(root)
        (self._fleet_base / "devices.json").write_text(json.dumps(told))

    # -- the gateway ---------------------------------------------------------------------------

    def start_gateway(self) -> None:
        """Start a gateway, always on the same port and home, and wait until it listens."""
        before = self._endpoints_written()
        profile: list[str] = []
        self._runs += 1
        if self._profile is not None:
            target = f"{self._profile}.{self._runs}"
            profile = ["--profiler=cprofile", "--savestats", f"--profile={target}"]
        links = f"tcp:{self.port}:interface=127.0.0.1"
        with (self.base / "gw.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [*TWISTD, "-n", "--pidfile=", *profile, "rshell", "--home", str(self.home),
                 "--links", links],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env=environment(self.base),
                preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
            )  # fmt: skip
        until(lambda: self._endpoints_written() > before, self.log_tail, 60, 0.02)
        endpoints = json.loads((self.home / "endpoints.json").read_text())
        self.port = int(endpoints["links"].rpartition(":")[2])

    def _endpoints_written(self) -> int:
        try:
            return (self.home / "endpoints.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def log_text(self) -> str:
        """Return the logs of all gateways so far."""
        return (self.base / "gw.log").read_text(errors="replace")

    def log_tail(self) -> str:
        """Return the end of it."""
        return self.log_text()[-1500:]

    def metrics(self) -> dict[str, float]:
        """Ask the gateway for its counters."""
        done = subprocess.run(
            [*CLI, "--home", str(self.home), "metrics"],
            capture_output=True,
            cwd=self.base,
            env=environment(self.base),
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done
        lines = [line for line in done.stdout.decode().splitlines() if line[:1] not in ("", "#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    # -- the fleet -----------------------------------------------------------------------------

    def start_fleet(self, spread_seconds: float) -> None:
        """Start all devices; `wait_live` tells when they are there."""
        environ = environment(self.base)
        environ["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[2])
        words = (str(self._fleet_base), f"127.0.0.1:{self.port}", str(spread_seconds))
        self._fleet = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.functional.storm_devices", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.base,
            env=environ,
            preexec_fn=die_with_us,  # noqa: PLW1509  # as above
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Give the fleet's process a command; return its answer."""
        assert self._fleet is not None
        assert self._fleet.stdin is not None
        assert self._fleet.stdout is not None
        self._fleet.stdin.write(command.encode() + b"\n")
        self._fleet.stdin.flush()
        answer: dict[str, Any] = json.loads(self._fleet.stdout.readline())
        return answer

    def live(self) -> int:
        """Return how many devices are live."""
        return int(self.ask("count")["live"])

    def wait_live(self, seconds: float) -> bool:
        """Wait until all are live; say whether they were within ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.live() == self.count:
                return True
            time.sleep(0.1)
        return False

    @staticmethod
    def rest(seconds: float) -> None:
        """Let nothing happen for a while."""
        time.sleep(seconds)

    # -- the storm -----------------------------------------------------------------------------

    def strike(self, limit_seconds: float = 120.0, down_seconds: float = 0.0) -> Return:
        """Kill the gateway, start it again, and watch the fleet return.

        Args:
            limit_seconds: Watch no longer.
            down_seconds: How long there is no gateway, beside the time that its start takes.
        """
        assert self.gateway is not None
        told = sorted(story["told"] for story in self.ask("report")["devices"])
        devices_before = self.ask("times")["cpu_seconds"]
        killed = time.monotonic()
        self.gateway.kill()
        self.gateway.wait()
        time.sleep(down_seconds)
        self.start_gateway()
        listening = time.monotonic() - killed
        self.wait_live(limit_seconds - listening)
        gateway_cpu = cpu_seconds(self.gateway.pid)
        devices_cpu = self.ask("times")["cpu_seconds"] - devices_before
        metrics = self.metrics()
        stories: list[dict[str, Any]] = self.ask("report")["devices"]
        dialled = [[at for at in story["dialled"] if at >= killed] for story in stories]
        planned = [at - killed for story in stories for at in story["planned"] if at >= killed]
        back = [[at - killed for at in story["welcomed"] if at >= killed] for story in stories]
        return Return(
            listening=listening,
            back=sorted(times[0] for times in back if times),
            count=self.count,
            attempts=[len(times) for times in dialled],
            told=told,
            dials=sorted(planned),
            codes=[code for story in stories for code in story["codes"]],
            gateway_cpu=gateway_cpu,
            devices_cpu=devices_cpu,
            metrics=metrics,
        )

    def close(self) -> None:
        """End both processes; remove what they left."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            for pipe in (fleet.stdin, fleet.stdout):
                if pipe is not None:
                    pipe.close()
            fleet.kill()
            fleet.wait()
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            end(gateway, 60)
        for directory in (self.base, self._fleet_base):
            shutil.rmtree(directory, ignore_errors=True)
