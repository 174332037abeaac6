"""Networks of our own: a gateway's side, a device's side, and a bridge that loses packets.

::

    [gw] wire ---- gw [mid: bridge] far ---- wire [far]

A bridge port that is taken out leaves both carriers up and both sides without FIN, RST or ICMP:
a true half-open link.  `Network.slow` shapes with tbf; `Network.lossy` puts two taps and a thread
in the bridge's place, which drops packets at random.  It needs root and touches nothing outside
its own namespaces, which are removed by `Network.close`, at exit, and by the next run if this one
is killed.
"""

from __future__ import annotations

import atexit
import fcntl
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.functional.processes import REQUIRE_ALL

__all__ = ["FAR", "GATEWAY", "Network", "network"]

#: The ends' names.
GATEWAY, FAR = "gw", "far"
#: In the middle.
MIDDLE = "mid"
ADDRESSES = {GATEWAY: "10.97.61.1", FAR: "10.97.61.2"}
#: Where the far end is after `Network.move`.
MOVED = "10.97.61.3"
HARDWARE = {GATEWAY: "02:97:61:00:00:01", FAR: "02:97:61:00:00:02"}
PREFIX = "rshn"
QUEUE_MS = 50
#: linux/if_tun.h
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000

_numbers = itertools.count(1)


def network() -> Network:
    """Return a network; skip the test where there can be none, or fail under RSHELL_REQUIRE_ALL."""
    reason = ""
    if os.geteuid() != 0:
        reason = "network namespaces need root"
    missing = [name for name in ("ip", "tc", "bridge") if shutil.which(name) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
    if not reason:
        try:
            return Network()
        except OSError as error:
            reason = f"no network namespaces: {error}"
    if REQUIRE_ALL and os.geteuid() == 0:
        raise AssertionError(reason)
    raise SkipTest(reason)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _sweep() -> None:
    """Remove what a run that was killed left behind."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Network:
    """Two namespaces and what lies between them."""

    def __init__(self) -> None:
        _sweep()
        number = next(_numbers)
        self._names = {
            end: f"{PREFIX}{os.getpid()}-{number}-{end}" for end in (GATEWAY, MIDDLE, FAR)
        }
        self._made: list[str] = []
        self._air: _Air | None = None
        atexit.register(self.close)
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        for name in self._names.values():
            _run("ip", "netns", "add", name)
            self._made.append(name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        self._in(MIDDLE, "link", "add", "bridge", "type", "bridge")
        self._in(MIDDLE, "link", "set", "bridge", "up")
        for end, address in ADDRESSES.items():
            _run("ip", "link", "add", end, "netns", self._names[MIDDLE], "type", "veth",
                 "peer", "name", "wire", "netns", self._names[end])  # fmt: skip
            self._in(MIDDLE, "link", "set", end, "master", "bridge", "up")
            self._in(end, "link", "set", "wire", "address", HARDWARE[end], "up")
            self._in(end, "address", "add", f"{address}/24", "dev", "wire")
        for end, other in ((GATEWAY, FAR), (FAR, GATEWAY)):
            # Known for good: a path that is cut answers nothing, not even "host unreachable".
            self._in(end, "neighbour", "replace", ADDRESSES[other], "lladdr", HARDWARE[other],
                     "dev", "wire", "nud", "permanent")  # fmt: skip
        self._in(GATEWAY, "neighbour", "replace", MOVED, "lladdr", HARDWARE[FAR],
                 "dev", "wire", "nud", "permanent")  # fmt: skip

    def _in(self, end: str, *words: str) -> str:
        return _run("ip", "-n", self._names[end], *words)

    @staticmethod
    def address(end: str) -> str:
        """Return the address of an end."""
        return ADDRESSES[end]

    def prefix(self, end: str) -> tuple[str, ...]:
        """Return the words before a command that make it run at an end; its pid stays its own."""
        return ("ip", "netns", "exec", self._names[end])

    def part(self) -> None:
        """Lose every packet between the ends, which keep their carriers."""
        self._in(MIDDLE, "link", "set", FAR, "nomaster")

    def join(self) -> None:
        """Let packets through again."""
        self._in(MIDDLE, "link", "set", FAR, "master", "bridge")

    def move(self) -> None:
        """Give the far end another address: nothing is sent from the old one any more."""
        self._in(FAR, "address", "del", f"{ADDRESSES[FAR]}/24", "dev", "wire")
        self._in(FAR, "address", "add", f"{MOVED}/24", "dev", "wire")

    def deafen(self, end: str) -> None:
        """Lose what is sent to one end; what it sends arrives."""
        name = self._names[MIDDLE]
        _run("tc", "-n", name, "qdisc", "replace", "dev", end, "root", "blackhole")

    def hear(self, end: str) -> None:
        """Take `deafen` back."""
        _run("tc", "-n", self._names[MIDDLE], "qdisc", "del", "dev", end, "root")

    def slow(self, mbit: float) -> None:
        """Give the path a rate in Mbit/s, the same both ways."""
        for end in ADDRESSES:
            _run("tc", "-n", self._names[MIDDLE], "qdisc", "replace", "dev", end, "root", "tbf",
                 "rate", f"{mbit:g}mbit", "burst", str(max(4000, int(mbit * 250))),
                 "latency", f"{QUEUE_MS}ms")  # fmt: skip

    def lossy(self, loss: float, seed: int = 1) -> None:
        """Lose packets at random from now on.

        Args:
            loss: The share that is lost, 0 to 1, each way.
            seed: Of the random numbers.
        """
        self._air = _Air(loss, seed)
        for end, tap in self._air.taps.items():
            _run("ip", "link", "set", tap, "netns", self._names[end])
            self._in(end, "address", "flush", "dev", "wire")
            self._in(end, "link", "set", "wire", "down")
            self._in(end, "link", "set", tap, "name", "air", "address", HARDWARE[end], "up")
            self._in(end, "address", "add", f"{ADDRESSES[end]}/24", "dev", "air")

    @property
    def lost(self) -> int:
        """Packets that were lost on purpose by `lossy`."""
        return 0 if self._air is None else self._air.lost

    def close(self) -> None:
        """Remove everything; safe to call again."""
        atexit.unregister(self.close)
        if self._air is not None:
            self._air.close()
        while self._made:
            name = self._made.pop()
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class _Air:
    """Two taps, and a thread that carries frames between them, but for some.

    Attributes:
        taps: The interfaces' names, by end.
        lost: How many were dropped.
    """

    def __init__(self, loss: float, seed: int) -> None:
        self._loss = loss
        self._random = random.Random(seed)
        self.lost = 0
        self.taps: dict[str, str] = {}
        self._files: list[int] = []
        self._stop, self._stopping = os.pipe()
        for end in (GATEWAY, FAR):
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            self._files.append(file)
            wanted = f"rt{os.getpid() % 10**7}{end}".encode()[:15]
            request = struct.pack("16sH22x", wanted, IFF_TAP | IFF_NO_PI)
            answer = fcntl.ioctl(file, TUNSETIFF, request)
            self.taps[end] = answer[:16].rstrip(b"\0").decode()
        self._thread = threading.Thread(target=self._run, name="air", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        one, other = self._files
        across = {one: other, other: one}
        while True:
            ready, _, _ = select.select([one, other, self._stop], [], [])
            if self._stop in ready:
                return
            for file in ready:
                try:
                    frame = os.read(file, 65536)
                    if self._random.random() < self._loss:
                        self.lost += 1
                    else:
                        os.write(across[file], frame)
                except OSError:
                    pass  # the other side is not up yet, or its queue is full

    def close(self) -> None:
        """End the thread; the taps go with their files."""
        os.close(self._stopping)
        self._thread.join()
        for file in (*self._files, self._stop):
            os.close(file)
