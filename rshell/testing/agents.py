"""A device: its agent's process, its keeper, and what of them survives on its disk."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from rshell.identity.credentials import Credentials, CredentialStore
from rshell.testing.clocks import WallClock
from rshell.testing.gateways import ADDRESS
from rshell.testing.keepers import SimulatedKeeper
from rshell.testing.machines import MachineReactor
from rshell.testing.network import Network, seed_heartbeat
from rshell.testing.programs import PROGRAMS, Program
from rshell_agent.flight_recorder import DeviceTimes
from rshell_agent.links import GatewayPeer
from rshell_agent.service import AgentService

__all__ = ["SimulatedDevice"]


class SimulatedDevice:
    """One device.

    Args:
        name: As it is enrolled.
        id: Likewise.
        network: What it dials through.
        home: The agent's home.
        wall: The device's wall clock.
        rng: Randomness of its agent.
        handlers: Plug-ins besides the built-in handlers.
        programs: What it can run besides `PROGRAMS`.
        number: Tells machines apart; it becomes the address.
        facts: What it tells of itself.

    Attributes:
        service: The running agent.
        keeper: The running keeper, None before the first.
        asleep: Whether the machine is suspended.
        facts: May be changed at any time.
        runs: The command lines of all programs that ever started here.
    """

    def __init__(
        self,
        name: str,
        id: str,
        network: Network,
        home: Path,
        wall: WallClock,
        rng: random.Random,
        handlers: Sequence[Any],
        programs: Mapping[str, Callable[[], Program]],
        number: int,
        facts: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.id = id
        self.home = home
        self.wall = wall
        self.address = f"192.0.2.{number % 99 + 1}"
        self.alive = False
        self.asleep = False
        self._start_on_waking = False
        self.runs: list[list[bytes]] = []
        self.keeper: SimulatedKeeper | None = None
        self.facts = dict(facts)
        self._network = network
        self._rng = rng
        self._handlers = handlers
        self._programs = {**PROGRAMS, **programs}
        self.keepers_ever = 0

    # -- the agent's process ---------------------------------------------------------------------

    def start(self) -> None:
        """Run the agent, as its process does; on a machine that sleeps, once it has woken up."""
        assert not self.alive, f"the agent of {self.name} runs already"
        if self.asleep:
            self._start_on_waking = True
            return
        self.reactor = MachineReactor(
            self._network.clock, self._keeper_listens, self._join_keeper, self.start_keeper
        )
        self.service = AgentService.new(self.reactor, self.home)
        self._adopt(self.service)
        self.alive = True
        self.service.startService()

    def _adopt(self, service: AgentService) -> None:
        """Give the agent simulated time, randomness and network in place of the system's."""
        floor, watch, links = service._floor, service._suspension, service._links
        true_time = self._network.clock.seconds
        floor._wall, floor._monotonic = self.wall, self.reactor.seconds
        watch._boottime, watch._monotonic = true_time, self.reactor.seconds
        watch._wall = links._greeting._wall = self.wall
        service._recorder._times = DeviceTimes(true_time, self.wall, lambda: floor.trusted)
        for handler in self._handlers:
            service._registry._add("rshell.testing", handler)
        links.dialler._random = links.dialler._targets._random = self._rng
        service._collector = self  # type: ignore[assignment]  # it looks at our real machine
        service._facts_sender._uniform = self._rng.uniform
        if links._flights is not None:
            links._flights._uniform = self._rng.uniform
        links._connect = self._connect  # type: ignore[method-assign]  # the seam for this
        links.link_handshaken = self._handshaken  # type: ignore[method-assign]  # no TLS here

    def collect(self, names: Iterable[str] = ()) -> dict[str, Any]:
        """Return `facts`; stands for `rshell_agent.facts.FactsCollector`."""
        wanted = frozenset(names)
        return {name: v for name, v in self.facts.items() if not wanted or name in wanted}

    def _connect(self, target: Any, link: Any, credentials: Credentials) -> Deferred[Any]:
        seed_heartbeat(link, self._rng.uniform)
        return self._network.dial(self.name, self.reactor, link, credentials, self.address)

    def _handshaken(self, link: Any) -> None:
        links, peer = self.service._links, link.peer
        assert isinstance(peer, GatewayPeer)
        peer.certificate = peer.credentials.root
        peer.hello = links._greeting.hello(peer.dial)
        link.hello(peer.hello)

    @property
    def connected(self) -> bool:
        """Whether the agent has a welcomed link, as far as it knows."""
        return self.alive and self.service._links.current is not None

    def kill(self) -> None:
        """SIGKILL the agent; keeper and sessions live on."""
        if self.alive:
            self.alive = False
            self.reactor.die()
            # What the kernel takes back from a dead process.
            os.close(self.service._keeper._directory)
            self.service._lock.release()

    def stop(self) -> Deferred[None]:
        """SIGTERM the agent; fires when it has ended."""

        def ended(_: object) -> None:
            self.alive = False
            self.reactor.die()

        return self.service.stopService().addCallback(ended)

    def sleep(self) -> None:
        """Suspend the machine."""
        self.asleep = True
        for process in self.processes:
            process.sleep()

    def wake(self) -> None:
        """Go on."""
        self.asleep = False
        for process in self.processes:
            process.wake()
        starts, self._start_on_waking = self._start_on_waking, False
        if starts and not self.alive:
            self.start()

    # -- the keeper's process --------------------------------------------------------------------

    def start_keeper(self) -> None:
        """Run a keeper, unless one runs."""
        if not self._keeper_listens():
            self.keepers_ever += 1
            self.keeper = SimulatedKeeper(self._network.clock, self.home, self._programs, self.runs)

    def kill_keeper(self) -> None:
        """SIGKILL the keeper and so all that it holds."""
        if self.keeper is not None and self.keeper.alive:
            self.keeper.kill()
            self._network.hang_up(self.keeper.process)
            if self.alive:
                self.reactor.keeper_ended()

    def _keeper_listens(self) -> bool:
        return self.keeper is not None and self.keeper.alive

    def _join_keeper(self, protocol: Any) -> None:
        assert self.keeper is not None
        wire = self._network.wire(f"{self.name}/keeper", self.reactor, self.keeper.process)
        wire.join(protocol, self.keeper.offer())

    def turn(self) -> bool:
        """Let the keeper and its programs do what they can; return whether they did anything."""
        return self.keeper is not None and self.keeper.turn()

    @property
    def processes(self) -> list[Any]:
        """The time of every process here that lives."""
        found: list[Any] = [self.reactor] if self.alive else []
        if self._keeper_listens() and self.keeper is not None:
            found.append(self.keeper.process)
        return found


def store_credentials(home: Path, credentials: Credentials) -> None:
    """Make a home that has joined."""
    CredentialStore(home).save(credentials)
    boot_id = home / "boot_id"
    boot_id.write_text("boot-1\n")
    (home / "agent.toml").write_text(f'[reboot]\nboot_id_file = "{boot_id}"\n')


def gateways() -> tuple[str, ...]:
    """Return what a device dials."""
    return (f"{ADDRESS[0]}:{ADDRESS[1]}",)
