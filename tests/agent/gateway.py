"""A gateway small enough for a test: it welcomes devices and opens streams to them, over TLS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from zope.interface import implementer

from rshell.identity.tls import GatewayTLS
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_GATEWAY_FROM_DEVICE
from rshell.link.core.messages import GoAway, Hello, Open, Opened, Outcome, Sessions, Welcome
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import wrap_tls
from tests.agent.conversation import Talk

reactor: Any = global_reactor


@implementer(IHandshakeListener)
class GatewayLink(LinkProtocol):
    def handshakeCompleted(self) -> None:
        self.handshake_completed()


class TinyGateway:
    """Listens on loopback; `welcomed` fires with each new link's HELLO."""

    def __init__(self, tls: GatewayTLS, **welcome: Any) -> None:
        self.links: list[LinkProtocol] = []
        self.hellos: list[Hello] = []
        self.sessions: list[Sessions] = []
        self.answer = Sessions()
        self.renewals: list[tuple[LinkProtocol, int, Open]] = []
        self.on_renew: Callable[[LinkProtocol, int, Open], None] | None = None
        self.goaways: list[GoAway] = []
        self.lost: list[str] = []
        self.judge: Callable[[LinkProtocol, Hello], bool] = lambda link, hello: True
        self._tls = tls
        self._welcome = welcome
        self._wheel = TimerWheel(reactor)
        self._watchers: list[tuple[Callable[[], bool], Deferred[None]]] = []
        factory = Factory.forProtocol(self._build)
        factory.noisy = False
        wrapped = wrap_tls(tls, client=False, factory=factory)
        self.port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.getHost().port}"

    def _build(self) -> LinkProtocol:
        return GatewayLink(self, self._wheel, dialler=False, limits=AT_GATEWAY_FROM_DEVICE)

    async def stop(self) -> None:
        for link in list(self.links):
            link.abort("the test is over")
        await self.port.stopListening()
        # an armed wheel holds one delayed call for as long as its process lives
        call = self._wheel._call
        if call is not None and call.active():
            call.cancel()

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fire when ``condition`` holds; looked at whenever something happens."""
        waiter: Deferred[None] = Deferred()
        self._watchers.append((condition, waiter))
        self._look()
        return waiter.addTimeout(20, reactor)

    def _look(self) -> None:
        for entry in list(self._watchers):
            if entry[0]():
                self._watchers.remove(entry)
                entry[1].callback(None)

    def open(self, handler: str, request: Any, **fields: Any) -> Talk:
        fields = {"session": os.urandom(16), "operator": "alice", **fields}
        body = request if isinstance(request, dict) else msgspec.to_builtins(request)
        return Talk(self.links[-1], Open(handler=handler, request=body, **fields))

    # -- LinkOwner -----------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        transport: Any = link.transport
        link.peer = self._tls.peer_of(transport.getHandle())

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        self.hellos.append(hello)
        if not self.judge(link, hello):
            self._look()
            return
        self.links.append(link)
        fields: dict[str, Any] = {"name": "pump-17", "epoch": len(self.links), **self._welcome}
        link.welcome(
            Welcome(
                protocol=1,
                software="tiny/1",
                features=["resume"],
                time_ms=int(time.time() * 1000),
                heartbeat_ms=25_000,
                max_streams=64,
                window=256 * 1024,
                **fields,
            )
        )
        self._look()

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        raise AssertionError("a gateway is not welcomed")

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        self.sessions.append(sessions)
        if not sessions.more and (self.answer.end or self.answer.acknowledged):
            link.sessions(self.answer)
        self._look()

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.goaways.append(goaway)

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        if request.handler == "gateway.renew" and self.on_renew is not None:
            self.on_renew(link, number, request)
        else:
            link.refuse(number, "not-found", "no such handler")

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        if link in self.links:
            self.links.remove(link)
        self.lost.append(reason)
        self._look()


class Silent:
    """The receiver of a stream on which only we speak."""

    def channel_opened(self, opened: Opened) -> None: ...
    def data_received(self, data: bytes, stderr: bool) -> None: ...
    def input_ended(self) -> None: ...
    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None: ...
    def channel_closed(self, code: str, message: str) -> None: ...


def reply(link: LinkProtocol, number: int, request: Open, document: Any) -> None:
    """Answer a question as a gateway does: a JSON document, then the outcome."""
    channel = StreamChannel(link, Silent())
    channel.accept(number, request)
    channel.write(msgspec.json.encode(document))
    channel.finish(Outcome(status="ok"))
