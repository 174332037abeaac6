"""A process that is a whole fleet: ``python -m tests.functional.storm_devices DIR HOST:PORT``.

Each device has the agent's own dialler, links, flight recorder and TLS, real sockets and its own
certificate.  Not there: a keeper, a disk of its own, and the work of building a TLS context anew
for each dial, which on real devices is spread over as many processors.

It reads commands from its standard input, one a line, and answers each with a line of JSON:
``count`` how many are live, ``report`` what each device did and when (seconds of CLOCK_MONOTONIC,
which is the same in every process), ``times`` the processor time used.  It ends with its input.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOProtocol

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials, CredentialStore
from rshell.identity.keys import key_from_pem
from rshell.identity.revoked import RevokedMemory
from rshell.identity.tls import ClientTLS
from rshell.link.addresses import NameLookup
from rshell.link.clock import TimerWheel, use_monotonic_clock
from rshell.link.core.messages import Advice, GoAway, Welcome
from rshell.link.dialling import LinkEndpoint
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import wrap_tls
from rshell_agent.device import DeviceContext, read_boot_id
from rshell_agent.dialler import Dialler, DiallerState, Target
from rshell_agent.dispatch import StreamDispatcher
from rshell_agent.facts import brief_facts
from rshell_agent.flight_recorder import FlightRecorder
from rshell_agent.flight_report import FlightSender
from rshell_agent.identity import DeviceIdentity, LinkMemory
from rshell_agent.keeper_client import KeeperClient
from rshell_agent.links import AgentLinks, Greeting
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry
from rshell_agent.renewal import Renewal
from rshell_agent.session_report import SessionsExchange

__all__ = ["main"]


class _AbsentKeeper(KeeperClient):
    """Answers as a keeper without sessions would, from memory."""

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        return {"policy": {"handlers": ["exec", "shell"], "logins": ["root"]}}.get(name, {})


class _OneSlot(CredentialStore):
    """Credentials that are never renewed."""

    def previous(self) -> Credentials | None:
        return None

    def confirm(self) -> None:
        """There is no older one."""


class _Forgetful(LinkMemory):
    """Keeps the generation in memory: two thousand devices share no disk in real life."""

    def learn(self, name: str, link_generation: int) -> None:
        self.name, self.link_generation = name, link_generation


class _Greeting(Greeting):
    """Computes the catalogue's digest once for the whole fleet."""

    _digest = ""

    def _catalogue(self) -> str:
        if not _Greeting._digest:
            _Greeting._digest = super()._catalogue()
        return _Greeting._digest


class _KeptTLS(ClientTLS):
    """Keeps its context."""

    def __init__(self, credentials: Credentials, floor: ClockFloor) -> None:
        super().__init__(credentials, floor)
        self._context = self._build()

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


@attrs.define
class Story:
    """What happened to one device; all times are seconds of CLOCK_MONOTONIC.

    Attributes:
        planned: For when each dial was planned; with thousands of devices in one process it
            begins when that has time for it.
        codes: Of each GOAWAY.
        told: Seconds over which the gateway wants its return spread, as told last.
    """

    planned: list[float] = attrs.Factory(list)
    dialled: list[float] = attrs.Factory(list)
    welcomed: list[float] = attrs.Factory(list)
    lost: list[float] = attrs.Factory(list)
    codes: list[str] = attrs.Factory(list)
    told: float = 0.0


class _Links(AgentLinks):
    """One device's links; it tells its story."""

    story: Story
    tls: _KeptTLS

    def _connect(
        self, target: Target, link: LinkProtocol, credentials: Credentials
    ) -> Deferred[Any]:
        self.story.dialled.append(time.monotonic())
        inner = Factory.forProtocol(lambda: link)
        inner.noisy = False
        factory = wrap_tls(self.tls, client=True, factory=inner)
        return LinkEndpoint(self._reactor, target.address, target.port).connect(factory)

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.story.welcomed.append(time.monotonic())
        self.story.told = welcome.retry_spread_ms / 1000
        super().welcome_received(link, welcome)

    def dialler_changed(self) -> None:
        """Note for when the next dial is planned."""
        timer = self.dialler._timer
        if self.dialler.state is DiallerState.WAITING and timer is not None:
            self.story.planned.append(timer.getTime())

    def _advised(self, link: LinkProtocol, advice: Advice) -> None:
        self.story.told = advice.retry_spread_ms / 1000
        super()._advised(link, advice)

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.story.codes.append(goaway.code)
        super().goaway_received(link, goaway)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        if link is self.current:
            self.story.lost.append(time.monotonic())
        super().link_lost(link, reason)


class StormFleet:
    """All devices of this process.

    Args:
        reactor: With a monotonic clock.
        directory: Has ``devices.json`` and ``root.pem``; flight records go there too.
        gateway: "host:port".
    """

    def __init__(self, reactor: Any, directory: Path, gateway: str) -> None:
        self._reactor = reactor
        self._directory = directory
        self._gateway = gateway
        self._wheel = TimerWheel(reactor)
        self._floor = ClockFloor(None)
        self._lookup = NameLookup(reactor)
        self._chance = random.SystemRandom()
        self._keeper = _AbsentKeeper(reactor, directory, start_keeper=False, changed=_nothing)
        self._policy = PolicyWatch(self._keeper, reactor, _nothing)
        self._registry = HandlerRegistry.new()
        self._facts = brief_facts()
        self._boot_id = read_boot_id("/proc/sys/kernel/random/boot_id")
        context = DeviceContext("storm", directory, reactor, self._facts)
        self._dispatcher = StreamDispatcher(
            self._registry, self._policy, self._keeper, lambda: context, reactor
        )
        root = (directory / "root.pem").read_bytes()
        rows = json.loads((directory / "devices.json").read_bytes())
        self.devices = [self._device(number, row, root) for number, row in enumerate(rows)]

    def _device(self, number: int, row: dict[str, str], root: bytes) -> _Links:
        home = self._directory / str(number)
        key = key_from_pem(row["key"].encode())
        credentials = Credentials.new(key, row["chain"].encode(), root, (self._gateway,))
        store = _OneSlot(home)
        identity = DeviceIdentity(store, credentials)
        memory = _Forgetful(home)
        recorder = FlightRecorder(home, self._reactor, self._boot_id)
        flights = FlightSender(recorder, self._wheel, self._reactor, self._chance.uniform)
        greeting = _Greeting(
            self._registry, self._policy, memory, self._floor, self._facts, self._boot_id
        )
        links = _Links(
            self._reactor,
            self._wheel,
            identity,
            memory,
            self._floor,
            greeting,
            SessionsExchange(self._keeper),
            _nothing,
            lookup=self._lookup,
            journal=recorder,
            flights=flights,
            revoked=RevokedMemory(None, credentials.root),
        )
        links.story = Story()
        links.tls = _KeptTLS(credentials, self._floor)
        links.dispatcher = self._dispatcher
        links.renewal = Renewal(
            self._reactor, self._floor.logical_now, identity, store, links.renewed
        )
        links.dialler = Dialler(
            self._reactor,
            lambda: (self._gateway,),
            self._lookup.resolve,
            links.dial,
            self._chance,
            links.dialler_changed,
            recorder,
        )
        return links

    async def start(self, spread_seconds: float) -> None:
        """Let all dial for the first time, spread over so long."""
        await self._policy.refresh()
        for links in self.devices:
            self._reactor.callLater(self._chance.uniform(0.0, spread_seconds), links.dialler.start)

    def count(self) -> int:
        """Return how many are live."""
        return sum(links.current is not None for links in self.devices)


class _Commands(LineReceiver):
    """Answers the process that started us."""

    delimiter = b"\n"

    def __init__(self, fleet: StormFleet, reactor: Any) -> None:
        self._fleet = fleet
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        answer: dict[str, Any] = {}
        if line == b"count":
            answer["live"] = self._fleet.count()
        elif line == b"times":
            answer["cpu_seconds"] = time.process_time()
        elif line == b"report":
            answer["devices"] = [attrs.asdict(links.story) for links in self._fleet.devices]
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]  # Twisted's

    def connectionLost(self, reason: object = None) -> None:
        # At once: thousands of polite goodbyes are of no use to whoever measures.
        self._reactor.callLater(0, os._exit, 0)


def _nothing() -> None:
    """Nobody is told."""


def main(arguments: list[str]) -> int:
    """Be the fleet until the standard input ends."""
    from twisted.internet import reactor

    directory, gateway, spread = Path(arguments[0]), arguments[1], float(arguments[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    use_monotonic_clock(reactor)
    log = (directory / "devices.log").open("w")
    errors = textFileLogObserver(log)

    def only_failures(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            errors(event)
            log.flush()

    observer: Any = only_failures
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    fleet = StormFleet(reactor, directory, gateway)
    StandardIO(_Commands(fleet, reactor))
    Deferred.fromCoroutine(fleet.start(spread))
    loop: Any = reactor
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
