"""The agent as one Twisted service: everything wired, started and stopped in order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import CredentialsDamaged, CredentialStore
from rshell.identity.revoked import RevokedMemory
from rshell.link.addresses import NameLookup
from rshell.link.clock import TimerWheel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway
from rshell.link.proxy import Proxy
from rshell_agent import __version__
from rshell_agent.config import AgentConfig, load_config
from rshell_agent.device import DeviceContext, read_boot_id
from rshell_agent.dialler import Dialler, DiallerState
from rshell_agent.dispatch import StreamDispatcher
from rshell_agent.facts import FactsCollector, brief_facts
from rshell_agent.facts.told import FactsSender
from rshell_agent.flight_recorder import DeviceTimes, FlightRecorder
from rshell_agent.flight_report import FlightSender
from rshell_agent.handlers.forward import Forwards
from rshell_agent.home import HomeLock, state_directory
from rshell_agent.identity import DeviceIdentity, LinkMemory
from rshell_agent.job_notes import JobNotes
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable
from rshell_agent.links import AgentLinks, Greeting
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry
from rshell_agent.renewal import Renewal
from rshell_agent.session_report import SessionsExchange
from rshell_agent.status import Status, StatusFile, stamp
from rshell_agent.suspension import SuspensionWatch
from rshell_agent.touch_report import TouchSender
from rshell_agent.watchdog import Watchdog

__all__ = ["AgentService", "NotJoined"]

#: Links close within this long, or are left to the kernel.
STOP_SECONDS = 3.0
_EVERY_SECONDS = 60.0


class NotJoined(Exception):
    """This device has no usable credentials; the message says what to do."""


class AgentService(Service):
    """One device's agent.

    Args:
        reactor: Its clock must be monotonic already.
        home: The agent's home; created if absent.
        lock: Held for as long as the service lives.
        config: As loaded.
        watchdog: Hears that we live; nobody by default.
    """

    name = "rshell-agent"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        home: Path,
        lock: HomeLock,
        config: AgentConfig,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._reactor = reactor
        self._home = home
        self._lock = lock
        self._config = config
        self._state = state_directory(home)
        self._store = CredentialStore(home)
        self._stopped = False
        self._keeper_sessions = 0
        self._minute: IDelayedCall | None = None
        self._minutes = 0
        self._ending = "told to end"
        self._watchdog = watchdog or Watchdog(reactor, None)
        self._wire()

    @classmethod
    def new(cls, reactor: Any, home: Path, watchdog: Watchdog | None = None) -> AgentService:
        """Lock the home, read configuration and credentials, wire everything.

        Raises:
            HomeInUse: An agent already runs on it.
            NotJoined: This device has not joined, or its credentials are damaged.
            UnsafeDirectory: The home is open to others.
            OSError: The home cannot be used.
        """
        home = home.absolute()
        state_directory(home)
        lock = HomeLock(home)
        try:
            return cls(reactor, home, lock, load_config(home), watchdog)
        except BaseException:
            lock.release()
            raise

    def _wire(self) -> None:
        reactor, home = self._reactor, self._home
        self._floor = ClockFloor(self._state)
        self._memory = LinkMemory(self._state)
        self._identity = self._load_identity()
        self._revoked = RevokedMemory(
            self._state / "revoked-gateways.json", self._identity.current.root
        )
        self._facts = brief_facts()
        self._status = StatusFile(home, reactor, self._gather)
        changed = self._status.changed
        self._keeper = KeeperClient(
            reactor, home, start_keeper=self._config.start_keeper, changed=changed
        )
        self._policy = PolicyWatch(self._keeper, reactor, self._policy_changed)
        self._registry = HandlerRegistry.new()
        lookup = NameLookup(reactor)
        self._forwards = Forwards.new(reactor, self._policy, lookup.resolve)
        boot_id = read_boot_id(self._config.reboot.boot_id_file)
        greeting = Greeting(
            self._registry, self._policy, self._memory, self._floor, self._facts, boot_id
        )
        self._collector = FactsCollector(__version__, self._allowed_handlers, boot_id)
        times = DeviceTimes(trusted=lambda: self._floor.trusted)
        self._recorder = FlightRecorder(self._state / "flight", reactor, boot_id, times)
        self._notes = JobNotes(self._keeper, self._recorder)
        self._suspension = SuspensionWatch(reactor, self._slept, self._clock_stepped)
        chance, wheel = random.SystemRandom(), TimerWheel(reactor)
        proxy = Proxy.parse(self._config.link.proxy) if self._config.link.proxy else None
        self._facts_sender = FactsSender(
            self._all_facts,
            lambda: "facts" in self._allowed_handlers(),
            wheel,
            reactor,
            chance.uniform,
        )
        links = AgentLinks(
            reactor,
            wheel,
            self._identity,
            self._memory,
            self._floor,
            greeting,
            SessionsExchange(self._keeper),
            changed,
            proxy=proxy,
            lookup=lookup,
            journal=self._recorder,
            flights=FlightSender(self._recorder, wheel, reactor, chance.uniform),
            facts=self._facts_sender,
            touches=TouchSender(self._keeper, wheel, reactor),
            revoked=self._revoked,
        )
        links.dispatcher = StreamDispatcher(
            self._registry, self._policy, self._keeper, self._context, reactor
        )
        links.dispatcher.renew_link = links.prove
        links.renewal = Renewal(
            reactor, self._floor.logical_now, self._identity, self._store, links.renewed
        )
        links.dialler = Dialler(
            reactor,
            self._gateways,
            # a proxy is given the name: this device may not be able to resolve it
            lookup.resolve if proxy is None else lambda host, port: succeed([host]),
            links.dial,
            chance,
            changed,
            self._recorder,
        )
        self._links = links

    def _slept(self, seconds: float) -> None:
        self._recorder.note("suspended", "the machine slept", seconds=seconds)
        self._log.info("the machine slept for {seconds:.0f} s", seconds=seconds)
        self._links.dialler.resumed("the machine slept")

    def _clock_stepped(self, seconds: float) -> None:
        way = "forward" if seconds > 0 else "back"
        self._recorder.note("clock", f"the clock was set {way}", seconds=abs(seconds))
        self._log.info("the clock was set {way} by {seconds:.0f} s", way=way, seconds=abs(seconds))

    def _policy_changed(self) -> None:
        self._status.changed()
        self._links.look_soon()

    def _load_identity(self) -> DeviceIdentity:
        try:
            credentials = self._store.load()
        except CredentialsDamaged as error:
            raise NotJoined(
                f"{error}; join again with: rshell-agent join --force JOIN --home {self._home}"
            ) from None
        if credentials is None:
            raise NotJoined(
                "this device has not joined a fleet; get a join string with `rshell invite "
                f"device` and run: rshell-agent join JOIN --home {self._home}, or put it into "
                f"{self._home / 'join'}"
            )
        if credentials.name.kind != "device":
            raise NotJoined(
                f"{self._home} holds the credentials of {credentials.name.kind} "
                f"{credentials.name.name}, not of a device; choose another --home"
            )
        return DeviceIdentity(self._store, credentials)

    def _gateways(self) -> tuple[str, ...]:
        return self._config.link.gateways or self._identity.current.gateways

    def _context(self) -> DeviceContext:
        name = self._memory.name or self._facts["hostname"]
        return DeviceContext(
            name, self._home, self._reactor, self._facts, self._forwards, look=self._look
        )

    def _all_facts(self) -> dict[str, Any]:
        return self._collector.collect()

    def _look(self, names: Iterable[str]) -> dict[str, Any]:
        facts = self._collector.collect(names)
        if not names:
            self._facts_sender.look_soon()
        return facts

    def _allowed_handlers(self) -> frozenset[str]:
        return self._registry.names & self._policy.current.handlers

    # -- IService ------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's is untyped
        self._log.info(
            "rshell-agent {version} on {home}", version=__version__, home=str(self._home)
        )
        for line in self._config.warnings:
            self._log.warn("{line}", line=line)
        self._status.write()
        self._recorder.started(__version__)
        self._suspension.start()
        self._watchdog.start()
        Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        """Have a keeper first, so that HELLO tells the policy; dial without one if need be."""
        try:
            await self._keeper.ensure()
        except KeeperUnavailable as error:
            self._log.error("dialling without a keeper: {reason}", reason=str(error))
        await self._each_minute()
        if not self._stopped:
            self._links.dialler.start()

    async def _each_minute(self) -> None:
        if self._stopped:
            return
        self._minute = self._reactor.callLater(_EVERY_SECONDS, self._next_minute)
        self._minutes += 1
        if self._minutes % 60 == 0:
            self._floor.save()
        self._end_if_useless()
        await self._policy.refresh()
        await self._notes.carry()
        try:
            reply = await self._keeper.call("status")
            self._keeper_sessions = int(reply.get("sessions") or 0)
        except KeeperUnavailable:
            self._keeper_sessions = 0

    def _end_if_useless(self) -> None:
        """Make room for a fresh process, if the owner wants that: see `LinkConfig`."""
        limit, since = self._config.link.restart_after_s, self._links.dialler.useless_since
        if limit and since is not None and self._reactor.seconds() - since >= limit:
            self._ending = f"no WELCOME for {limit} s although addresses were found"
            self._log.error("{why}: ending, to be started anew", why=self._ending)
            self._reactor.stop()

    def _next_minute(self) -> None:
        Deferred.fromCoroutine(self._each_minute())

    async def _stop(self) -> None:
        self._stopped = True
        self._watchdog.stop()
        self._suspension.stop()
        if self._minute is not None and self._minute.active():
            self._minute.cancel()
        goaway = GoAway(code=ErrorCode.SHUTDOWN.value, message="the agent is ending")
        drained = self._links.drained()
        self._links.dispatcher.stop()
        self._links.dialler.stop(goaway)
        drained.addTimeout(STOP_SECONDS, self._reactor, lambda *_: None)
        await drained
        self._keeper.stop()
        self._floor.save()
        self._status.close()
        self._recorder.close(self._ending)
        self._lock.release()
        self._log.info("rshell-agent ended; the keeper and its sessions live on")

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's is untyped
        return Deferred.fromCoroutine(self._stop())

    # -- status --------------------------------------------------------------------------------

    def _gather(self) -> Status:
        dialler, link = self._links.dialler, self._links.current
        state = {
            DiallerState.CONNECTED: "connected",
            DiallerState.WAITING: "waiting",
            DiallerState.STOPPED: "stopped" if self._stopped else "starting",
        }.get(dialler.state, "connecting")
        welcome = None if link is None else link.peer.welcome
        identity = self._keeper.identity
        return Status(
            state=state,
            gateway=None if dialler.target is None else str(dialler.target),
            name=self._memory.name,
            epoch=0 if welcome is None else welcome.epoch,
            last_error=dialler.last_error,
            keeper={key: identity[key] for key in ("pid", "version") if key in identity},
            keeper_sessions=self._keeper_sessions,
            policy_error=self._policy.current.error,
            plugin_problems=self._registry.problems,
            certificate_end=stamp(self._identity.current.certificate.not_valid_after_utc),
            revoked_gateways=self._revoked.number,
        )
