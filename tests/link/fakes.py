"""A transport, an owner and receivers for `LinkProtocol`, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.events import DataReceived, EventReceived, LimitReceived
from rshell.link.core.frames import Frame
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_OPERATOR, LinkLimits
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Sessions, Welcome
from rshell.link.protocol import LinkProtocol
from tests.link.pairs import Talker, frames_of, hello, welcome


@implementer(ITransport)
class FakeTransport:
    """Collects what is written; pauses its producer after ``room`` writes when told to.

    Attributes:
        records: Each write, until taken.
        room: Writes it takes before it pauses its producer; None: any number.
        reading: Whether the protocol wants to be given data.
    """

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.room: int | None = None
        self.producer: Any = None
        self.paused = False
        self.reading = True
        self.disconnecting = False
        self.aborted = False
        self.protocol: Any = None
        self.bufferSize = 0

    def write(self, data: bytes) -> None:
        assert not self.aborted, "written after abortConnection"
        assert not self.disconnecting, "written after loseConnection"
        self.records.append(data)
        if self.room is not None and not self.paused:
            self.room -= 1
            if self.room <= 0:
                self.paused = True
                self.producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def resume(self, room: int | None) -> None:
        """Let the producer go on for ``room`` writes."""
        self.room = room
        self.paused = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert IPushProducer.providedBy(producer)
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True

    def lost(self, *, clean: bool = True) -> None:
        """Tell the protocol that the connection is gone."""
        kind = ConnectionAborted if self.aborted else ConnectionDone if clean else ConnectionLost
        self.protocol.connectionLost(Failure(kind()))

    def getPeer(self) -> Any:
        return "peer"

    def getHost(self) -> Any:
        return "host"

    def take(self) -> bytes:
        """Return what was written since the last take."""
        data = b"".join(self.records)
        self.records.clear()
        return data

    def frames(self) -> list[Frame]:
        """Return the frames that were written since the last take."""
        return frames_of(self.take())


class Owner:
    """Notes what a link tells; gateways welcome everyone unless ``judge`` says otherwise."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.judge: Callable[[LinkProtocol], None] | None = lambda link: link.welcome(welcome())
        self.on_request: Callable[[LinkProtocol, int, Open], None] | None = None
        self.on_welcome: Callable[[LinkProtocol], None] | None = None

    def names(self) -> list[str]:
        return [name for name, *_ in self.said]

    def link_handshaken(self, link: LinkProtocol) -> None:
        self.said.append(("handshaken",))

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        self.said.append(("hello", hello))
        if self.judge is not None:
            self.judge(link)

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.said.append(("welcome", welcome))
        if self.on_welcome is not None:
            self.on_welcome(link)

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        self.said.append(("sessions", sessions))

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.said.append(("goaway", goaway))

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.said.append(("requested", number, request))
        if self.on_request is not None:
            self.on_request(link, number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.said.append(("lost", reason))


class Receiver(Talker):
    """A `Talker` that notes what a `LinkProtocol` tells it."""

    def __init__(self, window: int = 262144) -> None:
        super().__init__(window)
        self.said: list[tuple[Any, ...]] = []

    def stream_opened(self, opened: Opened) -> None:
        self.said.append(("opened", opened))

    def stream_refused(self, code: str, message: str) -> None:
        self.said.append(("refused", code, message))

    def data_received(self, event: DataReceived) -> None:
        self.data(event)

    def event_received(self, event: EventReceived) -> None:
        self.event(event)

    def limit_received(self, event: LimitReceived) -> None:
        self.limit(event)

    def stream_reset(self, code: str, message: str) -> None:
        self.said.append(("reset", code, message))

    def stream_finished(self) -> None:
        self.said.append(("finished",))

    def link_lost(self, reason: str) -> None:
        self.said.append(("lost", reason))


class Application:
    """A `ChannelReceiver` that notes what it is told, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.on_data: Callable[[bytes], None] | None = None
        self.channel: StreamChannel

    @property
    def got(self) -> bytes:
        return b"".join(entry[1] for entry in self.said if entry[0] == "data")

    def channel_opened(self, opened: Opened) -> None:
        self.said.append(("opened",))

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.said.append(("data", data, stderr))
        if self.on_data is not None:
            self.on_data(data)

    def input_ended(self) -> None:
        self.said.append(("ended",))

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        self.said.append(("event", kind, body, urgent))

    def channel_closed(self, code: str, message: str) -> None:
        self.said.append(("closed", code, message))


class Line:
    """A dialler's and a gateway's `LinkProtocol` joined in memory, on one fake clock."""

    def __init__(
        self,
        *,
        limits: LinkLimits = AT_GATEWAY_FROM_OPERATOR,
        greet: bool = True,
        uniform: Callable[[float, float], float] = lambda low, high: 1.0,
        beside: Line | None = None,
    ) -> None:
        # Links of one process share their wheel, and with it their turns.
        self.clock = Clock() if beside is None else beside.clock
        self._uniform = uniform
        self.wheel = TimerWheel(self.clock) if beside is None else beside.wheel
        self.dialler_owner, self.gateway_owner = Owner(), Owner()
        self.dialler = self.make(self.dialler_owner, True, AT_AGENT)
        self.gateway = self.make(self.gateway_owner, False, limits)
        if greet:
            self.dialler.hello(hello())
            self.run()

    def make(self, owner: Owner, dialler: bool, limits: LinkLimits) -> LinkProtocol:
        link = LinkProtocol(
            owner, self.wheel, dialler=dialler, limits=limits, uniform=self._uniform
        )
        transport = FakeTransport()
        transport.protocol = link
        link.makeConnection(transport)
        return link

    def wire(self, link: LinkProtocol) -> FakeTransport:
        """Return a link's transport."""
        transport: Any = link.transport
        assert isinstance(transport, FakeTransport)
        return transport

    def carry(self, link: LinkProtocol) -> bytes:
        """Carry what a link wrote to the other one, and return it."""
        other = self.gateway if link is self.dialler else self.dialler
        data = self.wire(link).take()
        if data and not self.wire(other).aborted:
            other.dataReceived(data)
        return data

    def run(self) -> None:
        """Carry until both are silent."""
        while True:
            moved = self.carry(self.dialler), self.carry(self.gateway)
            if not any(moved):
                return

    def advance(self, seconds: float, *, carry: bool = True) -> None:
        """Let time pass in steps of a tick."""
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            if carry:
                self.run()

    def channel(self) -> tuple[StreamChannel, StreamChannel]:
        """Open a stream from the dialler; return both channels."""
        applications = Application(), Application()
        answered: list[StreamChannel] = []

        def answer(link: LinkProtocol, number: int, request: Open) -> None:
            channel = StreamChannel(link, applications[1])
            applications[1].channel = channel
            answered.append(channel)
            channel.accept(number, request)

        self.gateway_owner.on_request = answer
        caller = StreamChannel(self.dialler, applications[0])
        applications[0].channel = caller
        caller.request(Open(handler="exec", session=bytes(16)))
        self.run()
        return caller, answered[0]


def application(channel: StreamChannel) -> Application:
    """Return who uses a channel of a `Line`."""
    receiver = channel._receiver
    assert isinstance(receiver, Application)
    return receiver
