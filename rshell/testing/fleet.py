"""SimulatedFleet: gateway, devices and operators in one process, on one fake clock.

::

    fleet = SimulatedFleet(seed=7)
    fleet.add_device("pump-1")
    ann = fleet.add_operator("ann")
    done = fleet.run(ann.client.run("pump-1", line="cat", input=b"hello"))
    fleet.freeze("pump-1")
    fleet.advance(60)

Everything above the sockets is the product itself.  There are no threads, no real time, no network
and no TLS.  The same seed gives the same history, which `SimulatedFleet.history` tells apart.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rshell.gateway.core import Gateway
from rshell.identity.credentials import Credentials
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.join_string import token_hash
from rshell.identity.keys import new_key, spki_hash
from rshell.store.records import AuditRow, Device, NewToken, TokenGrant
from rshell.testing.agents import SimulatedDevice, gateways, store_credentials
from rshell.testing.clocks import WallClock
from rshell.testing.duplicates import DuplicateLink
from rshell.testing.gateways import CRASH_POINTS, SimulatedGateway, scratch_directory
from rshell.testing.leftovers import leftovers
from rshell.testing.mishaps import NetworkMishaps
from rshell.testing.network import Network
from rshell.testing.operators import SimulatedOperator
from rshell.testing.programs import Program

__all__ = ["DidNotHappen", "SimulatedFleet"]

T = TypeVar("T")

#: Deliveries without any time passing; beyond it something turns in circles.
MAX_TURNS = 2_000_000


class DidNotHappen(AssertionError):
    """What a test waited for did not come in time."""


class SimulatedFleet(NetworkMishaps):
    """A fleet.

    Args:
        seed: Decides everything that is random.
        configure: Called with each new `rshell.gateway.core.Gateway` before it starts.

    Attributes:
        clock: The true time, seconds from 0.
        rng: For a test's own choices.
        network: The wires.
        gateway: The gateway's process.
        devices: By name.
        operators: By name.
    """

    def __init__(self, seed: int = 0, configure: Callable[[Gateway], None] | None = None) -> None:
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.network = Network(self.clock, random.Random(self.rng.random()))
        self.devices: dict[str, SimulatedDevice] = {}
        self.operators: dict[str, SimulatedOperator] = {}
        self._seed = seed
        self._began = datetime.now(UTC).timestamp()
        self._path = scratch_directory()
        self._machines = 0
        self._pumping = False
        self.gateway = SimulatedGateway(
            self.clock,
            WallClock(self.clock, self._began),
            self._path / "gateway",
            configure,
        )
        self.network.gateway = self.gateway
        self.gateway.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove what they kept."""
        for operator in self.operators.values():
            operator.kill()
        for device in self.devices.values():
            device.kill()
            device.kill_keeper()
        self.gateway.kill()
        shutil.rmtree(self._path, ignore_errors=True)

    # -- who belongs to it -----------------------------------------------------------------------

    def add_device(
        self,
        name: str,
        *,
        handlers: Sequence[Any] = (),
        programs: Mapping[str, Callable[[], Program]] | None = None,
        policy: str = "",
        facts: Mapping[str, Any] | None = None,
        start: bool = True,
    ) -> SimulatedDevice:
        """Enrol a device and, with ``start``, wait until it is connected.

        Args:
            name: Of the device.
            handlers: Plug-ins, instances that provide `rshell.interfaces.ICommandHandler`.
            programs: What it can run besides `rshell.testing.PROGRAMS`.
            policy: TOML for its ``[policy]``; by default the built-in handlers and the given ones
                are allowed.
            facts: What it tells of itself, by the handler ``facts`` too; by default nothing.
            start: Whether to start its agent.
        """
        self._machines += 1
        key = new_key()
        spki = spki_hash(key.public_key())
        row = self._enrol(name, spki)
        home = self._path / f"device-{self._machines}"
        home.mkdir(mode=0o700)
        keys = self.gateway.home.keys
        certificate = keys.issue_device(key.public_key(), row.id, self._now())
        store_credentials(home, self._credentials(key, certificate, keys.device))
        built_in = ["shell", "exec", *(["facts"] if facts else [])]
        names = [*built_in, *(handler.name for handler in handlers)]
        with (home / "agent.toml").open("a") as file:
            file.write(f"[policy]\n{policy or f'handlers = {names}'}\n")
        device = SimulatedDevice(
            name,
            row.id,
            self.network,
            home,
            WallClock(self.clock, self._began),
            random.Random(self.rng.random()),
            handlers,
            programs or {},
            self._machines,
            facts or {},
        )
        self.devices[name] = device
        if start:
            device.start()
            self.run_until(lambda: self.is_live(name), 60)
        return device

    def _enrol(self, name: str, spki: bytes) -> Device:
        token = NewToken(
            id=hashlib.sha256(f"{name}{self._machines}".encode()).digest()[:8],
            secret_hash=token_hash(b"x" * 20),
            kind="device",
            expires_at=int((self.gateway.wall() + 60) * 1e6),
            created_by="admin",
            name=name,
        )
        store = self.gateway.store
        self.run(store.add_token(token))
        grant = self.run(store.use_token(token.id, token.secret_hash, spki, "device"))
        assert isinstance(grant, TokenGrant), grant
        return self.run(store.enrol_device(grant, name))

    def _credentials(self, key: Any, certificate: Any, authority: Any) -> Credentials:
        root = chain_to_pem((self.gateway.home.keys.root.certificate,))
        chain = chain_to_pem((certificate, authority.certificate))
        return Credentials.new(key, chain, root, gateways())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.gateway.wall(), UTC)

    def add_operator(
        self, name: str, role: str = "admin", *, connect: bool = True
    ) -> SimulatedOperator:
        """Register an operator, start a client for it and, with ``connect``, let it connect."""
        self._machines += 1
        key = new_key()
        keys = self.gateway.home.keys
        certificate = keys.issue_operator(key.public_key(), name, self._now())
        self.run(self.gateway.store.add_operator(name, (role,), spki_hash(key.public_key())))
        operator = self._operator(name, self._credentials(key, certificate, keys.operator))
        self.operators[name] = operator
        if connect:
            self.run(operator.uplink.connect())
        return operator

    def _operator(self, name: str, credentials: Credentials) -> SimulatedOperator:
        operator = SimulatedOperator(
            name,
            credentials,
            self.network,
            WallClock(self.clock, self._began),
            random.Random(self.rng.random()),
            self._machines,
        )
        operator.start()
        return operator

    def another_client(self, name: str) -> SimulatedOperator:
        """Start and connect a second client of an operator, known to the verbs as ``NAME~N``."""
        self._machines += 1
        operator = self._operator(f"{name}~{self._machines}", self.operators[name].credentials)
        self.operators[operator.name] = operator
        self.run(operator.uplink.connect())
        return operator

    # -- time ------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver and call until nothing can happen without time passing."""
        assert not self._pumping, "the fleet is at it already"
        self._pumping = True
        try:
            for _ in range(MAX_TURNS):
                if not self._turn():
                    return
            raise DidNotHappen("something goes on for ever without time passing")
        finally:
            self._pumping = False

    def _turn(self) -> bool:
        moved = self.network.step()
        for device in list(self.devices.values()):
            moved = device.turn() or moved
        calls = self.clock.calls
        if calls and calls[0].getTime() <= self.clock.seconds():
            self.clock.advance(0)
            moved = True
        return moved

    def advance(self, seconds: float) -> None:
        """Let time pass: everything that is due happens when it is due."""
        until = self.clock.seconds() + seconds
        self.pump()
        while self.clock.seconds() < until:
            self._pass_time(until)
            self.pump()

    def _pass_time(self, until: float) -> None:
        """Go on to the next moment at which anything is due."""
        now = self.clock.seconds()
        times = [until]
        if self.clock.calls:
            times.append(self.clock.calls[0].getTime())
        arrival = self.network.next_arrival()
        if arrival is not None:
            times.append(arrival)
        # Never less than a microsecond: time that does not pass would not let anything happen.
        self.clock.advance(max(min(times) - now, 1e-6))

    def run_until(self, condition: Callable[[], object], limit_seconds: float = 120.0) -> float:
        """Let things happen until a condition holds; return how many seconds that took.

        The condition is looked at after each small step, so it may hold in the middle of things.

        Raises:
            DidNotHappen: It did not within the limit.
        """
        assert not self._pumping, "the fleet is at it already"
        began = self.clock.seconds()
        until = began + limit_seconds
        turns = 0
        while not condition():
            if self._turn():
                turns += 1
                if turns > MAX_TURNS:
                    raise DidNotHappen("something goes on for ever without time passing")
            elif self.clock.seconds() >= until:
                raise DidNotHappen(f"not within {limit_seconds:g} s of simulated time")
            else:
                turns = 0
                self._pass_time(until)
        return float(self.clock.seconds() - began)

    def run(self, work: Coroutine[Any, Any, T] | Deferred[T], limit_seconds: float = 600.0) -> T:
        """Return what a coroutine or Deferred comes to, letting time pass meanwhile."""
        waiting = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        results: list[Any] = []
        waiting.addBoth(results.append)
        if not results:
            self.run_until(lambda: results, limit_seconds)
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        found: T = result
        return found

    # -- what can happen to it; to its network: `mishaps` -----------------------------------------

    def step_wall_clock(self, who: str, seconds: float) -> None:
        """Set the wall clock of ``gateway``, a device or an operator wrong by so much more."""
        if who == "gateway":
            self.gateway.wall.step(seconds)
        else:
            self._machine(who).wall.step(seconds)

    def _machine(self, who: str) -> SimulatedDevice | SimulatedOperator:
        return self.devices[who] if who in self.devices else self.operators[who]

    def suspend(self, device: str, seconds: float) -> None:
        """Put a device to sleep: its processes stand still, the wall clock goes on."""
        self.devices[device].sleep()
        self.clock.callLater(seconds, self.devices[device].wake)

    def crash(self, who: str) -> None:
        """SIGKILL ``gateway``, a device's agent, ``DEVICE/keeper`` or an operator's client."""
        if who == "gateway":
            self.gateway.kill()
            self.network.hang_up(self.gateway.process)
        elif who.endswith("/keeper"):
            self.devices[who.removesuffix("/keeper")].kill_keeper()
        else:
            machine = self._machine(who)
            machine.kill()
            process = machine.reactor if isinstance(machine, SimulatedDevice) else machine.process
            self.network.hang_up(process)

    def start(self, who: str) -> None:
        """Start what crashed or was stopped, as a new process on the same files.

        An operator's client is connected when this returns.
        """
        if who == "gateway":
            self.gateway.start()
        elif who.endswith("/keeper"):
            self.devices[who.removesuffix("/keeper")].start_keeper()
        elif who in self.devices:
            self.devices[who].start()
        else:
            operator = self.operators[who]
            operator.start()
            self.run(operator.uplink.connect())

    def crash_at(self, point: str, nth: int = 1) -> None:
        """SIGKILL the gateway at a point inside its work.

        Args:
            point: ``store.before-commit`` or ``store.committed``: just before, or just after,
                what it writes is on disk; in both cases it can act on it no more.
            nth: At which write from now.
        """
        assert point in CRASH_POINTS, f"{point} is none of {', '.join(CRASH_POINTS)}"
        gateway = self.gateway
        process = gateway.process
        gateway.threads.arm(point, nth)
        gateway.on_death = lambda: self.network.hang_up(process)

    def stop_gateway(self) -> None:
        """SIGTERM the gateway and wait for its end."""
        process = self.gateway.process
        self.run(self.gateway.stop(), 10)
        self.network.hang_up(process)

    def restart_gateway(self) -> None:
        """SIGTERM the gateway, wait for its end, and start another on the same store."""
        self.stop_gateway()
        self.start("gateway")

    def clone(self, device: str) -> SimulatedDevice:
        """Copy a device's disk into a second machine and start it; named ``DEVICE~N``."""
        self._machines += 1
        original = self.devices[device]
        home = self._path / f"device-{self._machines}"
        shutil.copytree(
            original.home, home, ignore=shutil.ignore_patterns("agent.lock", "keeper.*")
        )
        twin = SimulatedDevice(
            f"{device}~{self._machines}",
            original.id,
            self.network,
            home,
            WallClock(self.clock, self._began),
            random.Random(self.rng.random()),
            original._handlers,
            original._programs,
            self._machines,
            original.facts,
        )
        self.devices[twin.name] = twin
        twin.start()
        return twin

    def duplicate_connect(self, device: str, dial: int = 1_000_000) -> DuplicateLink:
        """Connect a device a second time, with the HELLO of the agent that runs.

        Args:
            device: Whose agent it is.
            dial: The HELLO's ``dial``: above the current link's it wins, else it is refused.
        """
        machine = self.devices[device]
        links = machine.service._links
        twin = DuplicateLink(machine.reactor, links._greeting.hello(dial))
        credentials = links._identity.for_dial()
        dialled = self.network.dial(
            device, machine.reactor, twin.link, credentials, machine.address
        )
        self.run(dialled, 10)
        self.pump()
        return twin

    # -- what a test wants to know ---------------------------------------------------------------

    def is_live(self, device: str) -> bool:
        """Return whether the gateway has a link of the device that it did not give up."""
        entry = self.gateway.core.presence.find(self.devices[device].id)
        return entry is not None and not entry.link.closed

    def audit(self, kind: str | None = None, **wanted: Any) -> list[AuditRow]:
        """Return committed audit rows, oldest first, of a kind or with these fields."""
        rows = self.run(self.gateway.store.audit_rows(limit=100_000))[::-1]
        return [
            row
            for row in rows
            if (kind is None or row.record.kind == kind)
            and all(getattr(row.record, name) == value for name, value in wanted.items())
        ]

    def leftovers(self) -> dict[str, int]:
        """Return what is left in anybody's tables, by place."""
        return leftovers(self)

    @property
    def history(self) -> str:
        """A digest of what has arrived when and where: the same for the same seed."""
        digest = hashlib.sha256(self.network.past.digest())
        for wire in self.network.wires:
            digest.update(wire.digest.encode())
        return digest.hexdigest()

    @property
    def faults(self) -> list[str]:
        """What keepers reported as faults of their own; there should be none."""
        keepers = [device.keeper for device in self.devices.values()]
        return [fault for keeper in keepers if keeper is not None for fault in keeper.faults]
