"""Owner of the device's links: who is at the other end, HELLO, WELCOME, and what follows."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.handlers import catalogue_digest
from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials
from rshell.identity.revoked import REVOKED_FEATURE, RevokedGateways, RevokedMemory
from rshell.identity.tls import (
    ClientTLS,
    GatewayNotTrusted,
    explain_tls_failure,
    verify_gateway_name,
)
from rshell.link.addresses import NameLookup
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import (
    DEFAULT_WINDOW,
    INSTANCE_BYTES,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
)
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.limits import AT_AGENT
from rshell.link.core.messages import (
    Advice,
    Clock,
    GoAway,
    Hello,
    Open,
    Sessions,
    VersionRange,
    Welcome,
)
from rshell.link.dialling import LinkEndpoint
from rshell.link.protocol import LinkProtocol
from rshell.link.proxy import Proxy, ProxyEndpoint
from rshell.link.sockets import tcp_socket_of, wrap_tls
from rshell_agent import __version__
from rshell_agent.dialler import DialledLink, Dialler, Target
from rshell_agent.dispatch import StreamDispatcher
from rshell_agent.facts.told import FactsSender
from rshell_agent.flight_report import FlightSender
from rshell_agent.gateway_call import CallFailed, GatewayCall
from rshell_agent.identity import DeviceIdentity, LinkMemory
from rshell_agent.journal import Journal, Unheard
from rshell_agent.link_watch import LinkWatch
from rshell_agent.policy import PolicyWatch
from rshell_agent.registry import HandlerRegistry
from rshell_agent.renewal import Renewal
from rshell_agent.session_report import SessionsExchange
from rshell_agent.touch_report import TouchSender

__all__ = ["FEATURES", "AgentLinks", "GatewayPeer", "Greeting"]

#: What an agent's HELLO says that it understands.
FEATURES = ("resume", "deadline", "touched", REVOKED_FEATURE)


@attrs.define
class GatewayPeer:
    """What is known of a link's other end; it is the link's ``peer``.

    Attributes:
        target: What was dialled.
        dial: The number of this attempt in this process.
        dialled_at: Clock seconds of its begin.
        credentials: What we presented.
        certificate: The gateway's, once verified.
        hello: Ours, once sent.
        welcome: The gateway's, once it came.
        goaway: The gateway's, once it came.
    """

    target: Target
    dial: int
    credentials: Credentials = attrs.field(repr=False)
    dialled_at: float = 0.0
    certificate: x509.Certificate | None = None
    hello: Hello | None = None
    welcome: Welcome | None = None
    goaway: GoAway | None = None


@implementer(IHandshakeListener)
class _TLSLink(LinkProtocol):
    """A link that hears of its handshake and explains its failure."""

    def handshakeCompleted(self) -> None:
        self.handshake_completed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer.certificate is None and self._reason is None:
            self._reason = explain_tls_failure(reason)
        super().connectionLost(reason)


class Greeting:
    """Makes HELLO.

    Args:
        registry: For the catalogue's digest.
        policy: What of it is allowed.
        memory: For the link generation.
        floor: Whether our clock can be trusted.
        facts: For listings.
        boot_id: Changes with every boot.
        wall: Seconds since 1970, told for display only.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        policy: PolicyWatch,
        memory: LinkMemory,
        floor: ClockFloor,
        facts: Mapping[str, str],
        boot_id: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._memory = memory
        self._floor = floor
        self._facts = dict(facts)
        self._boot_id = boot_id
        self._wall = wall
        self._instance = os.urandom(INSTANCE_BYTES)

    def hello(self, dial: int) -> Hello:
        """Return the HELLO of this dial."""
        policy = self._policy.current
        return Hello(
            protocol=VersionRange(PROTOCOL_MIN, PROTOCOL_MAX),
            software=f"rshell-agent/{__version__}",
            instance=self._instance,
            dial=dial,
            features=list(FEATURES),
            max_streams=AT_AGENT.max_streams,
            window=DEFAULT_WINDOW,
            clock=Clock(
                wall_ms=int(self._wall() * 1000),
                monotonic_ms=int(time.monotonic() * 1000),
                trusted=self._floor.trusted,
            ),
            boot_id=self._boot_id,
            link_generation=self._memory.link_generation,
            catalogue=self._catalogue(),
            policy=policy.state,
            facts=self._facts,
            problems=self._registry.problems,
        )

    def _catalogue(self) -> str:
        return catalogue_digest(self._registry.catalogue(self._policy.current.handlers))

    async def refreshed(self, hello: Hello) -> Hello:
        """Ask the keeper; return ``hello`` with policy and catalogue as they are now."""
        policy = await self._policy.refresh()
        return msgspec.structs.replace(hello, policy=policy.state, catalogue=self._catalogue())


class AgentLinks:
    """Dials, and owns every link of this device; usually there is one.

    `dialler`, `renewal` and `dispatcher` are set once, by whoever wires the agent.

    Args:
        proxy: Dial by way of it; it resolves the gateways' names.
        lookup: Finds the proxy itself.
        journal: Is told how each link fared.
        flights: Tells the gateway what the journal kept.
        facts: Tells the gateway what this device is.
        touches: Tells the gateway which files were touched.
        revoked: Gateways that are not believed any more.
    """

    _log = Logger()
    dialler: Dialler
    renewal: Renewal
    dispatcher: StreamDispatcher

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        identity: DeviceIdentity,
        memory: LinkMemory,
        floor: ClockFloor,
        greeting: Greeting,
        sessions: SessionsExchange,
        changed: Callable[[], None],
        *,
        proxy: Proxy | None = None,
        lookup: NameLookup | None = None,
        journal: Journal | None = None,
        flights: FlightSender | None = None,
        facts: FactsSender | None = None,
        touches: TouchSender | None = None,
        revoked: RevokedMemory,
    ) -> None:
        self.current: LinkProtocol | None = None
        self._reactor = reactor
        self._wheel = wheel
        self._identity = identity
        self._memory = memory
        self._floor = floor
        self._greeting = greeting
        self._sessions = sessions
        self._changed = changed
        self._proxy = proxy
        self._lookup = lookup or NameLookup(reactor)
        self._journal: Journal = journal or Unheard()
        self._flights = flights
        self._facts = facts
        self._touches = touches
        self._revoked = revoked
        self._local_host = ""
        self._watch: LinkWatch | None = None
        self._live: set[LinkProtocol] = set()
        self._drained: Deferred[None] | None = None

    def dial(self, target: Target, number: int) -> Deferred[DialledLink]:
        """Connect to one address; the Deferred fires with the link when TCP is up."""
        credentials = self._identity.for_dial()
        link = _TLSLink(self, self._wheel, dialler=True, limits=AT_AGENT)
        link.peer = GatewayPeer(target, number, credentials, self._wheel.seconds())
        link.advised = lambda advice: self._advised(link, advice)

        def up(_: object) -> DialledLink:
            self._live.add(link)
            return link

        return self._connect(target, link, credentials).addCallback(up)

    def _connect(
        self, target: Target, link: LinkProtocol, credentials: Credentials
    ) -> Deferred[Any]:
        """Bring ``link`` onto a connection with TLS; the Deferred fires when TCP is up."""
        inner = Factory.forProtocol(lambda: link)
        inner.noisy = False
        tls = ClientTLS(credentials, self._floor, self._revoked.keys)
        factory = wrap_tls(tls, client=True, factory=inner)
        return self._endpoint(target).connect(factory)

    def _endpoint(self, target: Target) -> IStreamClientEndpoint:
        if self._proxy is None:
            return LinkEndpoint(self._reactor, target.address, target.port)
        return ProxyEndpoint(self._reactor, self._proxy, target.address, target.port, self._lookup)

    def _advised(self, link: LinkProtocol, advice: Advice) -> None:
        self.dialler.advised(link, advice.retry_spread_ms / 1000)
        self._learn_revoked(advice.revoked_gateways)

    def _learn_revoked(self, told: RevokedGateways | None) -> None:
        """Keep the newer list, and leave at once whom it names (rule H7)."""
        if not self._revoked.learn(told):
            return
        self._changed()
        for link in list(self._live):
            if self._revoked.lists(link.peer.certificate):
                link.abort("this gateway's key is revoked")

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires when no link is left."""
        drained: Deferred[None] = Deferred()
        self._drained = drained
        self._check_drained()
        return drained

    def _check_drained(self) -> None:
        if self._drained is not None and not self._live:
            drained, self._drained = self._drained, None
            drained.callback(None)

    # -- LinkOwner -----------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        peer: GatewayPeer = link.peer
        transport: Any = link.transport
        try:
            peer.certificate = verify_gateway_name(transport.getHandle(), peer.target.host)
        except GatewayNotTrusted as error:
            link.abort(error.reason)
            return
        peer.hello = self._greeting.hello(peer.dial)
        link.hello(peer.hello)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        """Not for a dialler."""

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        peer: GatewayPeer = link.peer
        self._learn_revoked(welcome.revoked_gateways)
        if link.closed:
            return
        peer.welcome = welcome
        end = None if peer.certificate is None else peer.certificate.not_valid_after_utc
        try:
            self._floor.learn(datetime.fromtimestamp(welcome.time_ms / 1000, UTC), end)
        except (OverflowError, ValueError, OSError):
            self._log.warn("the gateway tells an impossible time; ignored")
        self._memory.learn(welcome.name, welcome.link_generation)
        self._identity.welcomed(peer.credentials)
        self.current = link
        self._log.info(
            "connected to {gateway} as {name}, epoch {epoch}{note}",
            gateway=str(peer.target),
            name=welcome.name,
            epoch=welcome.epoch,
            note=", to renew the certificate only" if welcome.renew_only else "",
        )
        self._note_welcome(link, peer, welcome)
        spread = welcome.retry_spread_ms / 1000
        self.dialler.welcomed(link, spread)
        self.renewal.link_welcomed(link, at_once=welcome.renew_only)
        self._stop_watch()
        if not welcome.renew_only:
            self._start(self._sessions.report(link, self.dispatcher.session_reports))
            self._watch = LinkWatch(link, self._wheel, self._refresh, self._report_over)
            if self._flights is not None:
                self._flights.link_welcomed(link, spread)
            if self._facts is not None:
                self._facts.link_welcomed(link, spread)
            if self._touches is not None:
                self._touches.link_welcomed(link)
        self._changed()

    async def _refresh(self, link: LinkProtocol) -> None:
        """Tell the gateway what of this link's HELLO is not true any more."""
        peer: GatewayPeer = link.peer
        if peer.hello is None:
            return
        hello = await self._greeting.refreshed(peer.hello)
        if hello == peer.hello or link.closed or link.core.goaway_received:
            return
        call = GatewayCall(link)
        try:
            call.ask(
                "gateway.report",
                {"policy": msgspec.to_builtins(hello.policy), "catalogue": hello.catalogue},
                self._reactor,
            )
            await call.answer
        except (CallFailed, LocalProtocolError) as error:
            self._log.warn("the gateway did not take a change of policy: {why}", why=str(error))
        else:
            peer.hello = hello

    async def _report_over(self, link: LinkProtocol) -> None:
        await self._sessions.report_over(link, self.dispatcher.session_reports)

    def look_soon(self) -> None:
        """The policy has changed: tell the gateway now rather than in a minute."""
        if self._watch is not None:
            self._watch.look_soon()

    def _stop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        if self._flights is not None:
            self._flights.stop()
        if self._facts is not None:
            self._facts.stop()
        if self._touches is not None:
            self._touches.stop()

    def prove(self, link: LinkProtocol) -> None:
        """A change waits to be confirmed over a link that was dialled after it."""
        self.dialler.renew(link, "a change on this device is to be confirmed over a new link")

    def renewed(self, link: LinkProtocol) -> None:
        """The certificate was renewed over this link; a link only for that has done its work."""
        if link.peer.welcome is not None and link.peer.welcome.renew_only:
            self.dialler.redial("the certificate has been renewed")
        self._changed()

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        if link is self.current:
            if sessions.end:
                self.dispatcher.end_sessions(sessions.end)
            self.dispatcher.sessions_acknowledged(sessions.acknowledged)
            self._start(self._sessions.obey(sessions))

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        peer: GatewayPeer = link.peer
        if peer.goaway is None:
            peer.goaway = goaway
            self._journal.note(
                "goaway" if peer.welcome is not None else "refused",
                f"{goaway.code}: {goaway.message}".rstrip(": "),
                target=str(peer.target),
                code=goaway.code,
            )
        if (
            peer.welcome is None
            and goaway.code in (ErrorCode.AUTH, ErrorCode.EXPIRED)
            and self._identity.refused()
        ):
            self._log.warn("the gateway refuses one certificate of ours; the other is tried")
            return
        self.dialler.goaway_received(link, goaway)

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.dispatcher.stream_requested(link, number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        if link in self._live:
            self._note_end(link, link.peer, reason)
        self._live.discard(link)
        if link is self.current:
            self.current = None
            self._stop_watch()
            self.renewal.link_lost()
        self.dialler.lost(link, reason)
        self._changed()
        self._check_drained()

    # -- for the journal -----------------------------------------------------------------------

    def _note_welcome(self, link: LinkProtocol, peer: GatewayPeer, welcome: Welcome) -> None:
        _, sock = tcp_socket_of(link.transport)
        host = "" if sock is None else str(sock.getsockname()[0])
        if host and self._local_host and host != self._local_host:
            self._journal.note(
                "address", f"the address of this device changed from {self._local_host} to {host}"
            )
        self._local_host = host or self._local_host
        self._journal.note(
            "welcomed",
            f"as {welcome.name}" + (", to renew the certificate only" * welcome.renew_only),
            target=str(peer.target),
            seconds=self._wheel.seconds() - peer.dialled_at,
            epoch=welcome.epoch,
            rtt_ms=None if sock is None else _round_trip_ms(sock),
            address=host,
        )

    def _note_end(self, link: LinkProtocol, peer: GatewayPeer, reason: str) -> None:
        rtt = link.rtt_seconds
        if link.connected_at is not None:
            beat = reason.startswith("no answer to a heartbeat")
            self._journal.note(
                "heartbeat-lost" if beat else "lost",
                reason,
                target=str(peer.target),
                seconds=self._wheel.seconds() - link.connected_at,
                rtt_ms=None if rtt is None else round(rtt * 1000, 1),
            )
        elif peer.goaway is None:
            kind = "tls" if peer.certificate is None else "unwelcomed"
            self._journal.note(kind, reason, target=str(peer.target))

    def _start(self, work: Any) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        running.addErrback(self._log_failure)

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("an exchange with the gateway failed", failure)


def _round_trip_ms(sock: socket.socket) -> float | None:
    """Return the kernel's own measure, from the handshake (tcpi_rtt in linux/tcp.h)."""
    try:
        (microseconds,) = struct.unpack_from(
            "=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72), 68
        )
    except (OSError, struct.error):
        return None
    return int(microseconds) / 1000
