"""The gateway's process, simulated: everything but ports, TLS and threads is the real one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rshell.doors.link import LinkDoor
from rshell.gateway.arrivals import Arrivals
from rshell.gateway.core import Gateway
from rshell.gateway.home import GatewayHome, prepare_home
from rshell.identity.credentials import Credentials
from rshell.identity.keys import spki_hash
from rshell.identity.names import peer_name_of
from rshell.identity.tls import PeerCertificate
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import HELLO_SECONDS
from rshell.link.protocol import LinkProtocol
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from rshell.testing.clocks import ProcessClock, WallClock

__all__ = ["ADDRESS", "CRASH_POINTS", "SimulatedGateway", "scratch_directory"]

#: Where devices and operators dial.
ADDRESS = ("192.0.2.100", 7411)

#: Where a gateway can be made to die: before and after what it writes is on disk.
CRASH_POINTS = ("store.before-commit", "store.committed")


def scratch_directory() -> Path:
    """Return a new directory, in memory where the system has such a place."""
    memory = Path("/dev/shm")  # noqa: S108  # a private directory is made below it
    place = memory if memory.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="rshell-testing.", dir=place))


@cache
def _template() -> Path:
    """Return a gateway's home, made once in a process; fleets copy it."""
    path = scratch_directory()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    prepare_home(path / "home", [ADDRESS[0]])
    return path / "home"


class _Threads(InlineThreads):
    """Runs the store's work at once, and ends the process where it was told to.

    Args:
        die: Ends the process.
    """

    def __init__(self, die: Callable[[], None]) -> None:
        self._die = die
        self._armed: dict[str, int] = {}
        self._writing = False
        self._dead = False

    def arm(self, point: str, nth: int) -> None:
        """End the process at the ``nth`` write from now."""
        self._armed[point] = nth

    def in_writer(self, work: Callable[[], None]) -> None:
        if self._dead or self._due("store.before-commit"):
            return
        self._writing = True
        try:
            work()
        finally:
            self._writing = False

    def in_reactor(self, call: Callable[[], None]) -> None:
        writing, self._writing = self._writing, False
        if self._dead or (writing and self._due("store.committed")):
            return
        call()

    def _due(self, point: str) -> bool:
        left = self._armed.get(point)
        if left is None:
            return False
        self._armed[point] = left - 1
        if left > 1:
            return False
        del self._armed[point]
        self._dead = True
        self._die()
        return True


class SimulatedGateway:
    """A gateway's home, and the process that runs on it just now.

    Args:
        clock: The fleet's.
        wall: The machine's wall clock.
        home: A directory for it.
        configure: Called with each new `Gateway` before it starts.

    Attributes:
        process: The running process's time; a new one at each start.
        core: The running gateway.
        on_death: Called once when the process is killed.
    """

    def __init__(
        self,
        clock: Clock,
        wall: WallClock,
        home: Path,
        configure: Callable[[Gateway], None] | None = None,
    ) -> None:
        self.wall = wall
        self.alive = False
        self.on_death: Callable[[], None] | None = None
        self._clock = clock
        self._path = home
        self._configure = configure
        shutil.copytree(_template(), home)

    def start(self) -> None:
        """Open the store and run, as a process does."""
        assert not self.alive, "the gateway runs already"
        self.process = ProcessClock(self._clock)
        self.home: GatewayHome = prepare_home(self._path, [ADDRESS[0]], self._now())
        self.threads = _Threads(self.kill)
        self.wheel = TimerWheel(self.process)
        self.store = Store.open(
            self.home.database, self.threads, lambda: int(self.wall() * 1_000_000)
        )
        self.core = Gateway(self.home, self.store, self.wheel, self.wall)
        self.core.advertised = [ADDRESS]
        self.door = LinkDoor(self.core, self.wall)
        self.arrivals = Arrivals(
            self.core.tls, self.wheel, self.core.devices, self.door, self.core.joiner
        )
        if self._configure is not None:
            self._configure(self.core)
        self.alive = True
        started = Deferred.fromCoroutine(self.core.start())
        assert started.called, "the store works inline"
        started.addErrback(lambda failure: failure.raiseException())
        self.core.lag.stop()  # there is no reactor that could lag

    def kill(self) -> None:
        """SIGKILL: no goodbye, and the store has only what was committed."""
        if self.alive:
            self.alive = False
            self.process.die()
            for engine in self.store._engines:  # a process that dies closes nothing in order
                engine.dispose()
            told, self.on_death = self.on_death, None
            if told is not None:
                told()

    def stop(self) -> Deferred[None]:
        """SIGTERM: tell every peer; fires when the process has ended."""
        stopped = Deferred.fromCoroutine(self.core.stop())

        def ended(_: object) -> Deferred[None]:
            self.alive = False
            self.process.die()
            return self.store.close()

        return stopped.addCallback(ended)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    def protocol_for(self, credentials: Credentials, address: str) -> Any:
        """Return the protocol of a peer that proved these credentials."""
        certificate = credentials.certificate
        peer = PeerCertificate(
            name=peer_name_of(certificate),
            spki=spki_hash(certificate.public_key()),
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            expired=certificate.not_valid_after_utc < self._now(),
        )
        link = self.arrivals.protocol_for(peer, address, HELLO_SECONDS)
        assert isinstance(link, LinkProtocol)
        return link
