"""A real gateway and a real agent, started as the documented commands do, in namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from benchmarks.network import GATEWAY, Wire
from tests.functional.processes import (
    AGENT,
    CLI,
    TWISTD,
    descendants,
    die_with_us,
    end,
    environment,
    until,
)

__all__ = ["DEVICE", "Deployment"]

DEVICE = "bench-1"
PORT = 7411


class Deployment:
    """A gateway and one device; a context manager that leaves nothing behind.

    Args:
        wire: Where they live.
        device_at: The end of the wire at which the agent runs; the gateway is at its own.

    Attributes:
        base: Their directory.
        home: The gateway's home; ``rshell --home`` uses its administrator.
        device: The name of the device.
    """

    def __init__(self, wire: Wire, device_at: str) -> None:
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="rshb-")))
        self.home = self.base / "gw"
        self.device = DEVICE
        self._wire = wire
        self._device_at = device_at
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Deployment:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        host = self._wire.address(GATEWAY)
        links = f"tcp:{PORT}:interface={host}"
        words = [*TWISTD, "-n", "--pidfile=", "rshell", "--home", str(self.home), "--links", links]
        self._spawn("gateway", GATEWAY, *words)
        until((self.home / "endpoints.json").exists, lambda: self.log("gateway"))
        string = self.command(
            GATEWAY, *CLI, "--home", str(self.home), "invite", "device", "--name", self.device
        )
        agent_home = str(self.base / "agent")
        self.command(self._device_at, *AGENT, "join", "-", "--home", agent_home, data=string)
        self._spawn("agent", self._device_at, *AGENT, "run", "--home", agent_home)
        until(self._live, lambda: self.log("agent"), 40, 0.3)

    def _live(self) -> bool:
        out = self.command(GATEWAY, *CLI, "--home", str(self.home), "devices", "--json")
        return any(row["state"] == "live" for row in json.loads(out))

    def _spawn(self, name: str, at: str, *words: str) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*self._wire.prefix(at), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.base,
                    env=environment(self.base),
                    preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
                )
            )

    def log(self, name: str) -> str:
        """Return the end of a process's log."""
        return (self.base / f"{name}.log").read_text(errors="replace")[-2000:]

    def command(self, at: str, *words: str, data: bytes = b"", seconds: float = 60) -> bytes:
        """Run a program at an end of the wire; return its output.

        Raises:
            OSError: It failed; the text has what it said.
        """
        environ = environment(self.base)
        environ["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent.parent)
        done = subprocess.run(
            [*self._wire.prefix(at), *words],
            input=data,
            capture_output=True,
            cwd=self.base,
            env=environ,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{words}: {done.stderr[-2000:].decode(errors='replace')}")
        return done.stdout

    def close(self) -> None:
        """End all processes, the keeper and what runs in it included; remove the directory."""
        for process in reversed(self._processes):
            below = descendants(process.pid)
            below += [pid for pid in _of_home(self.base) if pid not in below]
            end(process)
            for pid in below:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass  # it ended with the others
        self._processes.clear()
        shutil.rmtree(self.base, ignore_errors=True)


def _of_home(base: Path) -> list[int]:
    """Return the processes whose command line names our directory: the keeper left its parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(base) in command and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found
