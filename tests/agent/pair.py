"""A device's link and a gateway's, joined in memory, on a fake clock."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from twisted.internet.task import Clock

from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_DEVICE
from rshell.link.core.messages import Hello, Open, Opened, VersionRange, Welcome
from rshell.link.protocol import LinkProtocol
from tests.agent.conversation import Talk


class Wire:
    """One side's transport: keeps what is written until it is carried over."""

    def __init__(self) -> None:
        self.written = b""
        self.gone = False

    def write(self, data: bytes) -> None:
        self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def loseConnection(self) -> None:
        self.gone = True

    def abortConnection(self) -> None:
        self.gone = True


class Owner:
    """Owns one side; what a test wants to decide it sets as an attribute."""

    def __init__(self) -> None:
        self.requested: Any = lambda link, number, request: None
        self.lost: list[str] = []
        self.sessions: list[Any] = []

    def link_handshaken(self, link: LinkProtocol) -> None: ...

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        link.welcome(
            Welcome(
                protocol=1,
                software="test",
                features=[],
                name="pump-17",
                time_ms=0,
                heartbeat_ms=25_000,
                max_streams=64,
                window=1,
            )
        )

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None: ...

    def sessions_received(self, link: LinkProtocol, sessions: Any) -> None:
        self.sessions.append(sessions)

    def goaway_received(self, link: LinkProtocol, goaway: Any) -> None: ...

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        self.requested(link, number, request)

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.lost.append(reason)


class LinkPair:
    """Both links, past WELCOME.

    Attributes:
        device_owner: Decides what the device answers.
        gateway: The gateway's link, from which streams are opened.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        wheel = TimerWheel(self.clock)
        self.device_owner, self.gateway_owner = Owner(), Owner()
        self.device = LinkProtocol(self.device_owner, wheel, dialler=True, limits=AT_AGENT)
        self.gateway = LinkProtocol(
            self.gateway_owner, wheel, dialler=False, limits=AT_GATEWAY_FROM_DEVICE
        )
        self._wires = Wire(), Wire()
        wires: tuple[Any, Any] = self._wires
        self.device.makeConnection(wires[0])
        self.gateway.makeConnection(wires[1])
        self.device.hello(
            Hello(
                protocol=VersionRange(1, 1),
                software="test",
                instance=bytes(16),
                dial=1,
                features=[],
                max_streams=64,
                window=1,
            )
        )
        self.pump()

    def pump(self) -> None:
        """Carry bytes until both are quiet."""
        ends = self.device, self.gateway
        while self._wires[0].written or self._wires[1].written:
            for index in (0, 1):
                data, self._wires[index].written = self._wires[index].written, b""
                if data:
                    ends[1 - index].dataReceived(data)

    def cut(self) -> None:
        """The device's link is lost."""
        self.device.abort("cut")

    def open(self, handler: str, request: Any = None, window: int = 1 << 18, **fields: Any) -> Talk:
        """Open a stream to the device, and let the OPEN arrive."""
        body = request if isinstance(request, dict) else msgspec.to_builtins(request or {})
        fields = {"session": os.urandom(16), "operator": "alice", **fields}
        talk = Talk(self.gateway, Open(handler=handler, request=body, **fields), window)
        self.pump()
        return talk


__all__ = ["LinkPair", "Opened", "Owner"]
