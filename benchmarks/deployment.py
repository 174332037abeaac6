"""A real gateway and a real agent in the namespaces of a wire."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.network import GATEWAY, Wire
from tests.functional.fleet import Fleet
from tests.functional.processes import LeavesNothing, environment

__all__ = ["DEVICE", "Deployment"]

DEVICE = "bench-1"
PORT = 7411


class Deployment(Fleet, LeavesNothing):
    """A gateway and one device; a context manager that leaves nothing behind.

    Args:
        wire: where they live.
        device_at: the end of the wire at which the agent runs; the gateway is at its own.
    """

    def __init__(self, wire: Wire, device_at: str) -> None:
        super().__init__()
        self.prefix = wire.prefix(GATEWAY)
        self._wire = wire
        self._device_at = device_at

    def make(self) -> None:
        """Start both."""
        self.start_gateway(f"tcp:{PORT}:interface={self._wire.address(GATEWAY)}")
        agent = self.join(DEVICE)
        agent.prefix = self._wire.prefix(self._device_at)
        agent.start()
        self.wait_live(DEVICE)

    def program(self, at: str, *words: str, seconds: float) -> bytes:
        """Run a program of ours at an end of the wire; return its output.

        Raises:
            OSError: It failed; the text has what it said.
        """
        path = environment(self.base)["PYTHONPATH"]
        done = self.command(
            words,
            seconds=seconds,
            prefix=self._wire.prefix(at),
            environ={"PYTHONPATH": f"{path}{os.pathsep}{Path(__file__).parent.parent}"},
        )
        if done.status:
            raise OSError(f"{words}: {done.stderr[-2000:].decode(errors='replace')}")
        return done.stdout
