"""Starts the roles of `asyncssh_roles`: a gateway, devices, an operator with an open connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.contestants.openssh import free_port
from benchmarks.contestants.openssh import missing as openssh_missing
from benchmarks.machine import ROOT
from benchmarks.proc import listening
from benchmarks.site import Child
from benchmarks.tools import has_module
from tests.functional.processes import die_with_us, end, environment, until

__all__ = ["NAME", "AsyncSshReverse", "missing"]

NAME = "AsyncSSH reverse"
_MODULE = "benchmarks.contestants.asyncssh_roles"


def missing() -> str:
    """Return why it cannot take part, or an empty string."""
    return openssh_missing() if has_module("asyncssh") else "not installed: asyncssh (PyPI)"


class AsyncSshReverse:
    """A gateway and its devices.

    Args:
        base: gets a directory of its own.
        devices: how many, in one process.
    """

    def __init__(self, base: Path, devices: int = 1) -> None:
        self.base = base / "asyncssh"
        self.base.mkdir(mode=0o700)
        for name in ("id", "host"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / name)],
                check=True,
            )
        self._log = (self.base / "log").open("ab")
        self._devices_port, self._operators_port = free_port(), free_port()
        ports = [str(self._devices_port), str(self._operators_port)]
        self.gateway = self._spawn("gateway", str(self.base), *ports)
        self._processes = [self.gateway]
        # One look that makes no connection: a gateway takes what connects for a device.
        until(lambda: listening(self._operators_port), "AsyncSSH's gateway listens", 30)
        self.device = self._add(devices)
        self._operator: Child | None = None

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        environ = environment(self.base)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environ,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )

    def _add(self, count: int) -> subprocess.Popen[bytes]:
        process = self._spawn("device", str(self.base), str(self._devices_port), str(count))
        self._processes.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise OSError((self.base / "log").read_text(errors="replace")[-1000:])
        return process

    def add_devices(self, count: int) -> None:
        """Connect more devices, in a process of their own."""
        self._add(count)

    def true_ms(self, count: int) -> list[float]:
        """Run ``true`` so often over an open connection; return milliseconds."""
        if self._operator is None:
            words = ["operator", str(self.base), str(self._operators_port)]
            self._operator = Child(_MODULE, words, self.base)
        taken: list[float] = self._operator.ask(str(count))["ms"]
        return taken

    def command(self, *words: str, terminal: bool = False) -> list[str]:
        """Return the command line of OpenSSH's client that runs words on the device."""
        options = ["-F", "/dev/null", "-oBatchMode=yes", "-oIdentitiesOnly=yes",
                   "-oIdentityAgent=none", "-oStrictHostKeyChecking=no", "-oLogLevel=ERROR",
                   "-oUserKnownHostsFile=/dev/null", f"-oIdentityFile={self.base / 'id'}",
                   f"-oPort={self._operators_port}"]  # fmt: skip
        return ["ssh", *options, *(["-tt"] if terminal else []), "operator@127.0.0.1", *words]

    def gateway_pids(self) -> list[int]:
        """Return the gateway's process."""
        return [self.gateway.pid]

    def device_pids(self) -> list[int]:
        """Return the device's process."""
        return [self.device.pid]

    def close(self) -> None:
        """End all."""
        if self._operator is not None:
            self._operator.close()
        for process in reversed(self._processes):
            end(process, 5)
            if process.stdout is not None:
                process.stdout.close()
        self._log.close()

    def remove(self) -> None:
        """End all, and remove its directory: another one may be made in its place."""
        self.close()
        shutil.rmtree(self.base, ignore_errors=True)
