"""Two network namespaces joined by a wire; its rate can be set at both ends.

The queue of each end is `tbf` with 50 ms of room.  It needs root and makes nothing outside its
own namespaces; `Wire.close` removes them.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.functional.processes import LeavesNothing

__all__ = ["FAR", "GATEWAY", "Wire", "cannot_shape"]

#: The ends' names and addresses: the gateway's side, and the side behind the slow link.
GATEWAY, FAR = "gw", "far"
ADDRESSES = {GATEWAY: "10.98.77.1", FAR: "10.98.77.2"}
QUEUE_MS = 50


def cannot_shape() -> str:
    """Return why this machine cannot run a wire, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


class Wire(LeavesNothing):
    """The namespaces ``gw`` and ``far`` and the wire between them; a context manager.

    Args:
        congestion: The congestion control that is wanted at both ends.

    Attributes:
        congestion: What is in use.
    """

    def __init__(self, congestion: str = "cubic") -> None:
        self._congestion = self.congestion = congestion
        self._names = {end: f"rshb{os.getpid()}-{end}" for end in ADDRESSES}
        self._made: list[str] = []

    def make(self) -> None:
        """Make the namespaces and join them."""
        for name in self._names.values():
            _run("ip", "netns", "add", name)
            self._made.append(name)
        near, far = self._names[GATEWAY], self._names[FAR]
        _run("ip", "link", "add", "wire", "netns", near, "type", "veth",
             "peer", "name", "wire", "netns", far)  # fmt: skip
        for end, name in self._names.items():
            _run("ip", "-n", name, "address", "add", f"{ADDRESSES[end]}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _run("ip", "-n", name, "link", "set", device, "up")
        self.congestion = self._choose_congestion()

    def _choose_congestion(self) -> str:
        """Use what was asked for; where the kernel reserves it for the first namespace, reno."""
        for wanted in (self._congestion, "reno"):
            setting = f"net.ipv4.tcp_congestion_control={wanted}"
            try:
                for end in ADDRESSES:
                    _run(*self.prefix(end), "sysctl", "-qw", setting)
            except OSError:
                continue
            return wanted
        return "the kernel's own"

    def prefix(self, end: str) -> tuple[str, ...]:
        """Return the words before a command that make it run at ``end``."""
        return ("ip", "netns", "exec", self._names[end])

    @staticmethod
    def address(end: str) -> str:
        """Return the address of ``end``."""
        return ADDRESSES[end]

    def shape(self, mbit: float) -> None:
        """Give the wire a rate in Mbit/s, the same both ways; 0 takes the limit away."""
        for name in self._names.values():
            root = ("tc", "-n", name, "qdisc")
            if not mbit:
                subprocess.run(
                    [*root, "del", "dev", "wire", "root"], capture_output=True, check=False
                )
                continue
            # Two packets of burst, more where the kernel's clock would be too coarse for the rate.
            burst = max(4000, int(mbit * 1e6 / 8 / 500))
            _run(*root, "replace", "dev", "wire", "root", "tbf", "rate", f"{mbit:g}mbit",
                 "burst", str(burst), "latency", f"{QUEUE_MS}ms")  # fmt: skip

    def close(self) -> None:
        """Remove the namespaces; the wire goes with them."""
        while self._made:
            subprocess.run(["ip", "netns", "del", self._made.pop()], check=False)
