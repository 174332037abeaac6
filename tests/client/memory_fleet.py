"""A client, gateways and one device in memory, on one fake clock; every byte can be the last.

There is no TLS and no relay: a gateway hands its operator's streams straight to the device, whose
end of each session (`DeviceSession`) outlives links and gateways as a keeper's does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rshell.client import Client, ConnectionFailed, Session, Uplink
from rshell.client.dialling import GatewayLink, new_hello
from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_CLIENT, AT_GATEWAY_FROM_OPERATOR
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.protocol import LinkProtocol
from tests.link.fakes import FakeTransport


class Wire:
    """A connection that ends after so many bytes of one direction, if it is told to.

    Attributes:
        cut_after: Bytes still to be delivered to the gateway, and to the client, before it is cut;
            None: any number.
        carried: Bytes delivered to each.
        frozen: Delivers nothing, and says nothing.
    """

    def __init__(self, client: LinkProtocol, gateway: LinkProtocol) -> None:
        self.ends = (client, gateway)
        self.cut_after: list[int | None] = [None, None]
        self.carried = [0, 0]
        self.frozen = False
        self.over = False
        for link in self.ends:
            transport = FakeTransport()
            transport.protocol = link
            link.makeConnection(transport)

    def transport(self, side: int) -> FakeTransport:
        transport: Any = self.ends[side].transport
        assert isinstance(transport, FakeTransport)
        return transport

    def step(self) -> bool:
        """Deliver what was written; say whether anything moved."""
        if self.frozen or self.over:
            return False
        moved = False
        for side in (0, 1):
            data = self.transport(side).take()
            if not data or self.over:
                continue
            moved = True
            left = self.cut_after[side]
            if left is not None:
                data = data[:left]
                self.cut_after[side] = left - len(data)
            self.carried[side] += len(data)
            if data and not self.transport(1 - side).aborted:
                self.ends[1 - side].dataReceived(data)
            if self.cut_after[side] == 0:
                self.cut()
        ends = [self.transport(side) for side in (0, 1)]
        if not self.over and any(end.aborted or end.disconnecting for end in ends):
            self.cut(clean=True)
            moved = True
        return moved

    def cut(self, *, clean: bool = False) -> None:
        """End it: both sides hear so, what was under way is gone."""
        if not self.over:
            self.over = True
            for link in self.ends:
                link.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))


class MemoryLink(GatewayLink):
    """A client's link without TLS."""

    def link_handshaken(self, link: LinkProtocol) -> None:
        link.hello(self._hello)

    def build(self) -> LinkProtocol:
        self.link = LinkProtocol(
            self, self._wheel, dialler=True, limits=AT_CLIENT, uniform=lambda low, high: 1.0
        )
        return self.link


class DeviceSession:
    """A session's end on the device: sends ``script``, echoes the input, ends with it.

    Attributes:
        got: Input, over all links.
        events: Of the operator.
    """

    def __init__(self, device: Device, link: LinkProtocol, request: Open) -> None:
        self.attempt = request.attempt
        self.got = bytearray()
        self.events: list[str] = []
        self.closed: str | None = None
        self.outcome = Outcome(status="exit", exit_code=3)
        self.device = device
        self.channel = StreamChannel(link, self, resumable=True)

    def begin(self) -> None:
        """Start to send."""
        for index, data in enumerate(self.device.script):
            (self.channel.write_stderr if index % 2 else self.channel.write)(data)
            self.channel.send_event("progress", {"done": index})

    def channel_opened(self, opened: Opened) -> None:
        raise AssertionError("a device opens nothing here")

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.got += data
        if self.device.echoes:
            self.channel.write(data)

    def input_ended(self) -> None:
        self.channel.finish(self.outcome)

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        self.events.append(kind)

    def channel_detached(self, reason: str) -> None:
        """It lives on."""

    def channel_closed(self, code: str, message: str) -> None:
        self.closed = code


class Device:
    """What runs sessions, once each (rule R3).

    Attributes:
        script: What each session prints: stdout and stderr by turns, an event after each.
        echoes: Whether it also sends its input back.
        runs: How many sessions were begun.
        refuse: Codes with which the next OPENs are answered.
        opens: Every OPEN.
        ignores: Answers no OPEN at all.
        on_view: Told the stream of each viewer; without it there is nothing to watch.
    """

    def __init__(self, clock: Clock) -> None:
        self.script: list[bytes] = []
        self.echoes = True
        self.runs = 0
        self.refuse: list[str] = []
        self.opens: list[Open] = []
        self.ignores = False
        self.on_view: Callable[[StreamChannel], None] | None = None
        self.sessions: dict[bytes, DeviceSession] = {}
        self._clock = clock
        self._since = clock.seconds()

    def forget(self) -> None:
        """Start anew, as a keeper that was killed."""
        self.sessions.clear()
        self._since = self._clock.seconds()

    def open(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.opens.append(request)
        if self.ignores:
            return
        if self.refuse:
            link.refuse(number, self.refuse.pop(0), "")
            return
        session = self.sessions.get(request.session)
        if request.view:
            if self.on_view is None:
                link.refuse(number, "not-found", "the session has ended")
                return
            channel = StreamChannel(link, Silent())
            channel.accept(number, request)
            self.on_view(channel)
        elif session is not None:
            if request.attempt <= session.attempt:
                link.refuse(number, "duplicate", "")
                return
            session.attempt = request.attempt
            session.channel.accept(number, request, link=link)
        elif request.resume is not None:
            link.refuse(number, "lost", "")
        elif request.attempt > 1 and (self._clock.seconds() - self._since) * 1000 <= request.age_ms:
            link.refuse(number, "unknown", "")
        else:
            self.runs += 1
            session = self.sessions[request.session] = DeviceSession(self, link, request)
            session.channel.accept(number, request)
            session.begin()


class MemoryGateway:
    """One gateway process: it knows its links, and no session."""

    def __init__(self, fleet: MemoryFleet) -> None:
        self._fleet = fleet
        self.answers: dict[str, Any] = {}
        self.asked: list[Open] = []
        self.on_request: Callable[[LinkProtocol, int, Open], bool] = lambda *_: False
        self.goaway: GoAway | None = None

    def link_handshaken(self, link: LinkProtocol) -> None:
        """A dialler comes."""

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        if self.goaway is not None:
            link.go_away(self.goaway, close=True)
            return
        link.welcome(
            Welcome(
                protocol=1,
                software="fake",
                features=["resume"],
                name="alice",
                time_ms=1_795_000_000_000,
                heartbeat_ms=25_000,
                max_streams=8192,
                window=262_144,
            )
        )

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        raise AssertionError("a dialler does not welcome")

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        raise AssertionError("operators send no SESSIONS")

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        """It leaves."""

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        if self.on_request(link, number, request):
            return
        if not request.handler.startswith("gateway."):
            self._fleet.device.open(link, number, request)
            return
        self.asked.append(request)
        verb = request.handler.removeprefix("gateway.")
        channel = StreamChannel(link, Silent())
        channel.accept(number, request)
        channel.write(msgspec.json.encode(self.answers[verb]))
        channel.finish(Outcome(status="ok"))

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        """The client is gone."""


class Silent:
    """The receiver of a stream that only sends."""

    def channel_opened(self, opened: Opened) -> None:
        """Not for a gateway."""

    def data_received(self, data: bytes, stderr: bool) -> None:
        """There is no input."""

    def input_ended(self) -> None:
        """There was no input."""

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        """Nobody sends one."""

    def channel_closed(self, code: str, message: str) -> None:
        """It is over."""


class Receiver:
    """Notes what a session delivers, in order."""

    def __init__(self) -> None:
        self.opened = 0
        self.out = bytearray()
        self.err = bytearray()
        self.said: list[Any] = []
        #: (bytes, of which are replay) of each delivery.
        self.replays: list[tuple[int, int]] = []
        self.session: Session | None = None

    def session_opened(self) -> None:
        self.opened += 1

    def output_received(self, data: bytes, stderr: bool) -> None:
        (self.err if stderr else self.out).extend(data)
        self.said.append(len(data))
        if self.session is not None:
            self.replays.append((len(data), self.session.replay_left))

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        self.said.append((len(self.out) + len(self.err), kind, body))

    @property
    def events(self) -> list[tuple[int, str, dict[str, Any]]]:
        """(bytes before it, kind, body) of each event."""
        return [entry for entry in self.said if isinstance(entry, tuple)]


class MemoryFleet:
    """A client with its uplink, a gateway and a device.

    Attributes:
        wires: Every connection so far; the last one is the newest.
        unreachable: Raised by dialling, while set.
        on_dial: Told each new wire before a byte has moved.
        dialled_at: The time of every attempt.
    """

    def __init__(self, *, grace_seconds: float = 60.0) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.wheel = TimerWheel(self.clock)
        self.wires: list[Wire] = []
        self.unreachable: Exception | None = None
        self.hangs: Deferred[GatewayLink] | None = None
        self.on_dial: Callable[[Wire], None] = lambda wire: None
        self.dialled_at: list[float] = []
        self.device = Device(self.clock)
        self.clock.advance(1000)
        self.gateway = MemoryGateway(self)
        self.uplink = Uplink(
            self.clock,
            self.wheel,
            self._dial,
            grace_seconds=grace_seconds,
            uniform=lambda low, high: high,
        )
        self.client = Client(self.clock, self.wheel, self.uplink)

    async def _dial(self) -> GatewayLink:
        self.dialled_at.append(self.clock.seconds())
        if self.unreachable is not None:
            raise self.unreachable
        if self.hangs is not None:
            return await self.hangs
        owner = MemoryLink("gateway", new_hello(lambda: 0.0), self.wheel)
        gateway = LinkProtocol(
            self.gateway, self.wheel, dialler=False, limits=AT_GATEWAY_FROM_OPERATOR
        )
        wire = Wire(owner.build(), gateway)
        self.wires.append(wire)
        self.on_dial(wire)
        for link in wire.ends:
            link.handshake_completed()
        return await owner.welcomed

    def connect(self) -> MemoryFleet:
        """Bring the first link up."""
        connected = Deferred.fromCoroutine(self.uplink.connect())
        self.settle()
        assert connected.called, "no link"
        return self

    def settle(self) -> None:
        """Carry bytes and make the calls that are due, until all is silent."""
        moved = True
        while moved:
            self.clock.advance(0)
            moved = False
            for wire in list(self.wires):
                moved = wire.step() or moved
            now = self.clock.seconds()
            moved = moved or any(call.getTime() <= now for call in self.clock.getDelayedCalls())

    def advance(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass in steps, none of which is beyond a call that is due."""
        self.settle()
        end = self.clock.seconds() + seconds
        while (left := end - self.clock.seconds()) > 1e-9:
            due = [call.getTime() - self.clock.seconds() for call in self.clock.getDelayedCalls()]
            self.clock.advance(min(left, step, *(wait + 1e-9 for wait in due)))
            self.settle()

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Let time pass until something holds."""
        self.settle()
        end = self.clock.seconds() + seconds
        while not condition():
            assert self.clock.seconds() < end, "it did not happen"
            self.advance(0.05)

    def cut(self) -> None:
        """Break the newest link."""
        self.wires[-1].cut()

    def lose_gateway(self) -> None:
        """The gateway is gone: nothing answers."""
        self.unreachable = ConnectionFailed("unreachable", "connection refused", "")
        self.cut()

    def replace_gateway(self) -> MemoryGateway:
        """Put a gateway process in its place that knows nothing."""
        self.unreachable = None
        self.gateway = MemoryGateway(self)
        return self.gateway

    def close(self) -> None:
        """Close the client; nothing may be left on the clock by it."""
        closed = Deferred.fromCoroutine(self.client.close())
        self.settle()
        assert closed.called, "the client does not close"

    def open(self, receiver: Receiver, **options: Any) -> Session:
        """Open a session on the device."""
        session = self.client.open("pump", "exec", {"argv": []}, receiver, **options)
        receiver.session = session
        return session

    def outcome(self, session: Session) -> Outcome:
        """Return the outcome of a session that has ended."""
        found: list[Outcome] = []
        session.outcome.addCallback(found.append)
        assert found, "the session has not ended"
        return found[0]
