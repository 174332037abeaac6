"""A gateway for tests of the operator's side: real link protocol, real TLS, scripted answers.

It serves ``gateway.*`` from a dict, and devices from functions that get the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from zope.interface import implementer

from rshell.handlers import Outcome
from rshell.identity.credentials import Credentials, CredentialStore
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_GATEWAY_FROM_OPERATOR
from rshell.link.core.messages import (
    GoAway,
    Hello,
    Open,
    RevokedGateways,
    Sessions,
    Welcome,
)
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import wrap_tls
from tests.identity.dev_fleet import credentials, gateway_tls

Behaviour = Callable[["FakeStream"], None]


@implementer(IHandshakeListener)
class _Link(LinkProtocol):
    def handshakeCompleted(self) -> None:
        self.handshake_completed()


class FakeStream:
    """The device's end of one stream; behaviours set the hooks they need."""

    def __init__(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.link = link
        self.number = number
        self.request = request
        self.channel = StreamChannel(link, self)
        self.input = bytearray()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.closed: Deferred[str] = Deferred()
        self.on_data: Callable[[bytes], None] = self.input.extend
        self.on_eof: Callable[[], None] = lambda: None
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda kind, body: None

    def accept(self) -> None:
        self.channel.accept(self.number, self.request)

    def refuse(self, code: str, message: str) -> None:
        self.link.refuse(self.number, code, message)

    def finish(self, **outcome: Any) -> None:
        self.channel.finish(Outcome(**outcome))

    def channel_opened(self, opened: Any) -> None:
        raise AssertionError("a gateway opens no stream here")

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.on_data(data)

    def input_ended(self) -> None:
        self.on_eof()

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        self.events.append((kind, body))
        self.on_event(kind, body)

    def channel_closed(self, code: str, message: str) -> None:
        self.closed.callback(code)


class LastingStream(FakeStream):
    """A session's end on a device, which outlives the links that carry it.

    Args:
        stream: The first OPEN; it is accepted.
    """

    def __init__(self, stream: FakeStream) -> None:
        super().__init__(stream.link, stream.number, stream.request)
        self.channel = StreamChannel(stream.link, self, resumable=True)
        self._waiting: list[tuple[bytes, Deferred[None]]] = []
        self.on_data = self._take
        self.accept()

    def go_on(self, stream: FakeStream) -> None:
        """Accept a later attempt."""
        self.channel.accept(stream.number, stream.request, link=stream.link)

    def channel_detached(self, reason: str) -> None:
        """It lives on."""

    def _take(self, data: bytes) -> None:
        self.input += data
        for wanted, waiting in list(self._waiting):
            if wanted in self.input:
                self._waiting.remove((wanted, waiting))
                waiting.callback(None)

    def until(self, wanted: bytes) -> Deferred[None]:
        """Fire when this is among the input."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((wanted, waiting))
        self._take(b"")
        return waiting


class FakeGateway:
    """Listens on a loopback port.

    Attributes:
        answers: verb -> JSON value, an `Outcome`, or a function of the request that returns one.
        devices: name -> behaviour; any other is refused ``not-found``.
        refusal: If set, every HELLO is answered with this GOAWAY.
        revoked: The list of revoked gateways that every WELCOME tells.
        hellos: What was received.
        streams: Every stream of a device.
    """

    def __init__(self, reactor: Any, leaf: str = "gateway") -> None:
        self.answers: dict[str, Any] = {}
        self.devices: dict[str, Behaviour] = {}
        self.refusal: GoAway | None = None
        self.revoked: RevokedGateways | None = None
        self.hellos: list[Hello] = []
        self.requests: list[Open] = []
        self.streams: list[FakeStream] = []
        self.links: list[LinkProtocol] = []
        self.lost = 0
        self.on_lost: Callable[[], None] = lambda: None
        self._wheel = TimerWheel(reactor)
        factory = Factory.forProtocol(self._build)
        factory.noisy = False
        wrapped = wrap_tls(gateway_tls(leaf), client=False, factory=factory)
        self._port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.address = f"127.0.0.1:{self._port.getHost().port}"

    def _build(self) -> LinkProtocol:
        return _Link(self, self._wheel, dialler=False, limits=AT_GATEWAY_FROM_OPERATOR)

    async def close_port(self) -> None:
        """Answer no more; the links that are there stay."""
        await maybeDeferred(self._port.stopListening)

    async def stop(self) -> None:
        for link in self.links:
            link.abort("test over")
        await self.close_port()
        self._wheel.stop()

    def write_home(self, home: Path) -> Path:
        """Make ``home`` look like this gateway's."""
        home.mkdir(mode=0o700)
        CredentialStore(home / "admin").save(operator_credentials())
        (home / "endpoints.json").write_bytes(msgspec.json.encode({"links": self.address}))
        return home

    # -- LinkOwner -------------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        self.links.append(link)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        self.hellos.append(hello)
        if self.refusal is not None:
            link.go_away(self.refusal, close=True)
            return
        link.welcome(
            Welcome(
                protocol=1,
                software="fake",
                features=[],
                name="alice",
                time_ms=self.time_ms,
                heartbeat_ms=25_000,
                max_streams=8192,
                window=262_144,
                revoked_gateways=self.revoked,
            )
        )

    time_ms = 1_795_000_000_000

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        raise AssertionError("a dialler does not welcome")

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        raise AssertionError("operators have no sessions list")

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        """Operators say goodbye."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.requests.append(request)
        stream = FakeStream(link, number, request)
        if request.handler.startswith("gateway."):
            self._answer(stream, request.handler.removeprefix("gateway."))
            return
        self.streams.append(stream)
        behave = self.devices.get(request.device or "")
        if behave is None:
            stream.refuse("not-found", f"there is no device {request.device}")
        else:
            behave(stream)

    def _answer(self, stream: FakeStream, verb: str) -> None:
        if verb not in self.answers:
            stream.refuse("policy", f"role viewer may not use gateway.{verb}")
            return
        answer = self.answers[verb]
        if callable(answer):
            answer = answer(stream.request.request)
        stream.accept()
        if isinstance(answer, Outcome):
            stream.channel.finish(answer)
            return
        stream.channel.write(msgspec.json.encode(answer))
        stream.finish(status="ok")

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.lost += 1
        self.on_lost()
        if link in self.links:
            self.links.remove(link)


def operator_credentials() -> Credentials:
    return credentials("operator")


# -- behaviours of devices -------------------------------------------------------------------------


def prints(stdout: bytes = b"", stderr: bytes = b"", **outcome: Any) -> Behaviour:
    """Print and end, with ``status="ok"`` unless told otherwise."""

    def behave(stream: FakeStream) -> None:
        stream.accept()
        stream.channel.write(stdout)
        stream.channel.write_stderr(stderr)
        stream.finish(**(outcome or {"status": "ok"}))

    return behave


def refuses(code: str, message: str = "") -> Behaviour:
    return lambda stream: stream.refuse(code, message)


def cats(stream: FakeStream) -> None:
    """Send the input back; end with it."""
    stream.accept()
    stream.on_data = stream.channel.write
    stream.on_eof = lambda: stream.finish(status="ok")


def waits(stream: FakeStream) -> None:
    """Run until cancelled, as TERM would end it."""
    stream.accept()

    def event(kind: str, body: dict[str, Any]) -> None:
        if kind == "cancel":
            stream.finish(status="signal", signal="TERM")

    stream.on_event = event


class Flood:
    """A producer that writes lines for ever, as fast as they are taken, until cancelled."""

    def __init__(self, reactor: Any, stream: FakeStream, line: bytes) -> None:
        self._reactor = reactor
        self._stream = stream
        self._block = line * (16_384 // len(line))
        self._paused = self._stopped = False
        self.written = 0
        stream.accept()
        stream.on_event = self._event
        stream.channel.registerProducer(self, True)
        self._turn()

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "cancel" and not self._stopped:
            self._stopped = True
            self._stream.channel.unregisterProducer()
            self._stream.finish(status="signal", signal="TERM")

    def _turn(self) -> None:
        if not self._paused and not self._stopped:
            self._stream.channel.write(self._block)
            self.written += len(self._block)
            self._reactor.callLater(0, self._turn)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._reactor.callLater(0, self._turn)

    def stopProducing(self) -> None:
        self._stopped = True
