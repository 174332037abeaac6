"""The agent as a process, through a proxy, and what it remembers of that."""

from __future__ import annotations

import base64
import json
import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from rshell_agent.flight_recorder import recorded
from tests.agent.gateway import reactor
from tests.agent.running import AgentCase, Program

SECRET = "hunter2"


class Back(Protocol):
    """The way back through the proxy."""

    def __init__(self, relay: Relay) -> None:
        self.relay: Any = relay

    def dataReceived(self, data: bytes) -> None:
        self.relay.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.relay.transport.loseConnection()


class Relay(Protocol):
    """A CONNECT proxy that wants a password."""

    def __init__(self, case: ProxyTests) -> None:
        self.case = case
        self.asked = b""
        self.peer: Any = None

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self.asked += data
        if not self.asked.endswith(b"\r\n\r\n"):
            return
        self.case.asked.append(self.asked)
        told = base64.b64encode(f"me:{SECRET}".encode())
        if told not in self.asked:
            transport.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            transport.loseConnection()
            return
        host, _, port = self.asked.split()[1].decode().partition(":")
        reached = connectProtocol(TCP4ClientEndpoint(reactor, host, int(port)), Back(self))
        reached.addCallback(self.reached)

    def reached(self, there: Any) -> None:
        transport: Any = self.transport
        self.peer = there
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer is not None:
            self.peer.transport.loseConnection()


class ProxyTests(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.asked: list[bytes] = []
        factory = Factory.forProtocol(lambda: Relay(self))
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)

    def configure(self, password: str) -> None:
        number = self.port.getHost().port
        (self.home / "agent.toml").write_text(
            f'[link]\nproxy = "http://me:{password}@127.0.0.1:{number}"\n'
        )

    async def test_through_a_proxy(self) -> None:
        """The agent comes in through the proxy, and its password is nowhere to be read."""
        self.configure(SECRET)
        agent = await self.agent()
        self.assertIn(f"CONNECT {self.gateway.address} HTTP/1.1".encode(), self.asked[0])
        shown = Program("status", "--json", "--home", str(self.home))
        self.assertEqual(0, await shown.ended, shown.errors)
        self.assertEqual("start", json.loads(shown.output)["recent"][0]["kind"])
        await agent.kill(signal.SIGTERM)
        kinds = [record.kind for record in recorded(self.home, 100)]
        self.assertEqual(["start", "welcomed", "lost", "stop"], kinds)
        texts = [agent.errors, shown.output, (self.home / "status.json").read_bytes()]
        texts += [path.read_bytes() for path in (self.home / "state" / "flight").iterdir()]
        self.assertNotIn(SECRET.encode(), b"".join(texts))

    async def test_refusing_proxy(self) -> None:
        """A proxy that refuses is the reason that status, log and recorder tell."""
        self.configure("wrong")
        program = Program("run", "--home", str(self.home))
        self.agents.append(program)
        waited: Deferred[None] = Deferred()

        def look() -> None:
            if len(self.asked) > 1:
                waited.callback(None)
            else:
                reactor.callLater(0.05, look)

        look()
        await waited
        await program.kill(signal.SIGTERM)
        (refused,) = [record for record in recorded(self.home, 100) if record.kind == "proxy"]
        self.assertIn("refuses: 407 Proxy Authentication Required", refused.message)
        self.assertIn(b"407 Proxy Authentication Required", program.errors)
        self.assertNotIn(b"wrong", program.errors)
