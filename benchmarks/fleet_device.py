"""One simulated device: the agent's own dialler and links, with no keeper, no disk, no processes.

On the wire it is what an agent is: mutual TLS 1.3 with a key of its own, HELLO, SESSIONS, its facts
and its flight record, heartbeats, the agent's rules for dialling again.  It serves two handlers,
``noop`` and ``echo``.  What is shared by all devices of a process, to keep each one small: the TLS
context, the facts, the catalogue, the timers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from benchmarks.fleet_keys import DeviceKey
from rshell.handlers import Outcome, catalogue_digest, describe, encode_catalogue
from rshell.handlers.flight import FlightRecord
from rshell.identity.tls import ALPN_LINK, verify_gateway_name
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW, PROTOCOL_MAX, PROTOCOL_MIN
from rshell.link.core.limits import AT_AGENT
from rshell.link.core.messages import (
    Clock,
    GoAway,
    Hello,
    Open,
    Opened,
    PolicyState,
    Sessions,
    VersionRange,
    Welcome,
)
from rshell.link.dialling import CONNECT_SECONDS
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import wrap_tls
from rshell_agent import __version__
from rshell_agent.dialler import DialledLink, Dialler, Target
from rshell_agent.facts import brief_facts
from rshell_agent.facts.told import FactsSender
from rshell_agent.flight_report import FlightSender
from rshell_agent.links import FEATURES

__all__ = ["AgeingClock", "FleetRoom", "SimulatedDevice"]

#: So many devices share an address, as behind the NAT of a site.
DEVICES_PER_ADDRESS = 64
#: A tick has the heartbeat of one or two devices, not of hundreds.
FINE_TICK_SECONDS = 0.004
#: Records of its flight that a device keeps; tests of minutes make a few.
_KEPT = 50


class _NoRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both handlers take none."""


def source_address(number: int) -> str:
    """Return the loopback address that a device dials from: 127.64.0.1 and on."""
    place = number // DEVICES_PER_ADDRESS + 1
    return f"127.{64 + (place >> 16)}.{place >> 8 & 255}.{place & 255}"


@implementer(IHandshakeListener)
class _Link(LinkProtocol):
    def handshakeCompleted(self) -> None:
        self.handshake_completed()


@implementer(IReactorTime)
class AgeingClock:
    """The reactor's clock as diallers see it, which can be moved on.

    A link of a minute resets a dialler's back-off (rule C6).  A measurement that kills the gateway
    again and again need not wait for that minute.

    Args:
        reactor: whose time it is.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ahead = 0.0

    def age(self, seconds: float) -> None:
        """Let all that has begun look so much older."""
        self._ahead += seconds

    def seconds(self) -> float:
        now: float = self._reactor.seconds()
        return now + self._ahead

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kw)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls


class FleetRoom:
    """What the devices of one process share.

    Args:
        reactor: with a monotonic clock.
        root: the fleet's root certificate.
        gateway: "host:port".
        facts: what each device tells of itself.
    """

    def __init__(
        self, reactor: Any, root: crypto.X509, gateway: str, facts: dict[str, Any]
    ) -> None:
        self.reactor = reactor
        self.ageing = AgeingClock(reactor)
        # Agents tick as their devices were started, at any moment of each other's ticks.  Here one
        # wheel serves thousands: with an agent's tick they would all speak at the same moment.
        self.wheel = TimerWheel(reactor, FINE_TICK_SECONDS)
        self.chance = random.SystemRandom()
        self.gateway = gateway
        self.facts = facts
        self.brief: dict[str, str] = dict(brief_facts())
        self.boot_id = "00000000-0000-4000-8000-000000000000"
        self.catalogue = encode_catalogue(
            [
                describe("noop", "Ends at once", _NoRequest, "normal"),
                describe("echo", "Writes back what it reads", _NoRequest, "interactive"),
            ]
        )
        self.digest = catalogue_digest(self.catalogue)
        self.context = _context(root)
        #: The certificates of gateways whose name was judged: DER, with the host that was dialled.
        self._named: set[tuple[bytes, str]] = set()

    def judge_gateway(self, connection: SSL.Connection, host: str) -> None:
        """Judge the gateway as an agent does; what is the same for all devices, once.

        OpenSSL judges chain and signature for each of them; agents are on machines of their own.
        """
        leaf = connection.get_peer_certificate()
        der = b"" if leaf is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, leaf)
        if (der, host) not in self._named:
            verify_gateway_name(connection, host)
            self._named.add((der, host))

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the one address there is."""
        return [host]


def _context(root: crypto.X509) -> SSL.Context:
    """Return what `rshell.identity.tls.ClientTLS` builds for each dial, but for the certificate."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_protos([ALPN_LINK])
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(root)
    context.set_verify(SSL.VERIFY_PEER, _judge)
    return context


def _judge(
    _connection: SSL.Connection, _certificate: crypto.X509, error: int, _depth: int, _ok: int
) -> bool:
    return error == 0


class _Recorder:
    """A flight record in memory; see `rshell_agent.flight_recorder`."""

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self._records: list[FlightRecord] = []
        self._seq = 0

    @property
    def mono_ms(self) -> int:
        return int(time.monotonic() * 1000)

    def note(
        self,
        kind: str,
        message: str = "",
        *,
        target: str = "",
        seconds: float | None = None,
        **details: Any,
    ) -> None:
        self._seq += 1
        self._records.append(
            FlightRecord(
                seq=self._seq,
                boot_id=self.boot_id,
                mono_ms=self.mono_ms,
                wall_ms=int(time.time() * 1000),
                clock_trusted=True,
                kind=kind,
                target=target,
                message=message[:200],
                seconds=seconds,
                details=details,
            )
        )
        del self._records[:-_KEPT]

    def unsent(self) -> list[FlightRecord]:
        return list(self._records)

    def acknowledged(self, through: int) -> None:
        self._records = [record for record in self._records if record.seq > through]


@attrs.define
class Story:
    """What happened to a device; seconds of CLOCK_MONOTONIC, the same in every process.

    Attributes:
        dials: how many there were.
        welcomed: when it was accepted last; None if it never was.
        losses: how many links it lost.
    """

    dials: int = 0
    welcomed: float | None = None
    losses: int = 0


@implementer(IOpenSSLClientConnectionCreator)
class SimulatedDevice:
    """A device; it owns its links (`rshell.link.contracts.LinkOwner`).

    Args:
        room: what it shares.
        number: its own.
        key: what it presents.
    """

    __slots__ = (
        "_facts", "_flights", "_key", "_number", "_recorder", "_room",
        "current", "dialler", "story",
    )  # fmt: skip

    def __init__(self, room: FleetRoom, number: int, key: DeviceKey) -> None:
        self.current: LinkProtocol | None = None
        self.story = Story()
        self._room = room
        self._number = number
        self._key = key
        self._recorder = _Recorder(room.boot_id)
        reactor, wheel, uniform = room.reactor, room.wheel, room.chance.uniform
        self._flights = FlightSender(self._recorder, wheel, reactor, uniform)  # type: ignore[arg-type]  # all that it uses
        self._facts = FactsSender(lambda: room.facts, lambda: True, wheel, reactor, uniform)
        self.dialler = Dialler(
            room.ageing,
            lambda: (room.gateway,),
            lambda host, port: Deferred.fromCoroutine(room.resolve(host, port)),
            self._dial,
            room.chance,
            journal=self._recorder,
        )

    # -- dialling ------------------------------------------------------------------------------

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a connection with this device's own certificate, from the shared context."""
        connection = SSL.Connection(self._room.context, None)
        connection.use_certificate(self._key.certificate)
        connection.use_privatekey(self._key.key)
        return connection

    def _dial(self, target: Target, number: int) -> Deferred[DialledLink]:
        self.story.dials += 1
        link = _Link(self, self._room.wheel, dialler=True, limits=AT_AGENT)
        link.peer = (target, number)
        link.advised = lambda advice: self.dialler.advised(link, advice.retry_spread_ms / 1000)
        inner = Factory.forProtocol(lambda: link)
        inner.noisy = False
        endpoint = TCP4ClientEndpoint(
            self._room.reactor,
            target.address,
            target.port,
            CONNECT_SECONDS,
            (source_address(self._number), 0),
        )
        connected: Deferred[Any] = endpoint.connect(wrap_tls(self, client=True, factory=inner))
        return connected.addCallback(lambda _: link)

    # -- LinkOwner -----------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        target, number = link.peer
        transport: Any = link.transport
        self._room.judge_gateway(transport.getHandle(), target.host)
        link.hello(self._hello(number))

    def _hello(self, dial: int) -> Hello:
        room = self._room
        return Hello(
            protocol=VersionRange(PROTOCOL_MIN, PROTOCOL_MAX),
            software=f"rshell-agent/{__version__}",
            instance=self._number.to_bytes(16, "big"),
            dial=dial,
            features=list(FEATURES),
            max_streams=AT_AGENT.max_streams,
            window=DEFAULT_WINDOW,
            clock=Clock(int(time.time() * 1000), int(time.monotonic() * 1000), True),
            boot_id=room.boot_id,
            catalogue=room.digest,
            policy=PolicyState(),
            facts=room.brief,
        )

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        """Not for a dialler."""

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.current = link
        self.story.welcomed = time.monotonic()
        spread = welcome.retry_spread_ms / 1000
        self._recorder.note("welcomed", f"as {welcome.name}", epoch=welcome.epoch)
        self.dialler.welcomed(link, spread)
        link.sessions(Sessions())
        self._flights.link_welcomed(link, spread)
        self._facts.link_welcomed(link, spread)

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """There are none to end."""

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self._recorder.note("goaway", goaway.code, code=goaway.code)
        self.dialler.goaway_received(link, goaway)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        if link is self.current:
            self.current = None
            self.story.losses += 1
            self._recorder.note("lost", reason)
            self._flights.stop()
            self._facts.stop()
        self.dialler.lost(link, reason)

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        if request.resume is not None or request.attempt > 1:
            link.refuse(number, "lost", "a simulated device keeps no session")
        elif request.operator is None and request.handler == "catalogue":
            channel = StreamChannel(link, _Noop())
            channel.accept(number, request)
            channel.write(self._room.catalogue)
            channel.finish(Outcome(status="ok"))
        elif request.handler == "noop":
            channel = StreamChannel(link, _Noop())
            channel.accept(number, request)
            channel.finish(Outcome(status="ok"))
        elif request.handler == "echo":
            _Echo(link, number, request)
        else:
            link.refuse(number, "not-found", f"a simulated device has no {request.handler}")


class _Noop:
    """The receiver of a stream that reads nothing."""

    def channel_opened(self, opened: Opened) -> None:
        """Not for a stream that the peer opened."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        """Nobody reads."""

    def input_ended(self) -> None:
        """Nobody reads."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """Nobody listens."""

    def channel_closed(self, code: str, message: str) -> None:
        """Nothing to clean up."""


class _Echo(_Noop):
    """Writes back what it reads, and ends with its input."""

    def __init__(self, link: LinkProtocol, number: int, request: Open) -> None:
        self._channel = StreamChannel(link, self)
        self._channel.accept(number, request)

    def data_received(self, data: bytes, stderr: bool) -> None:
        self._channel.write(data)

    def input_ended(self) -> None:
        self._channel.finish(Outcome(status="ok"))
