"""A device whose network is memory: what tests of the handler ``forward`` share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.testing import HandlerCall, HandlerHarness
from rshell_agent.handlers.forward import ForwardHandler, Forwards
from rshell_agent.policy import PolicyReport

HERE = IPv4Address("TCP", "127.0.0.1", 40000)
PEER = IPv4Address("TCP", "127.0.0.1", 80)


@implementer(ITCPTransport)
class Socket(StringTransport):
    """A connected socket that notes what is done to it."""

    def __init__(self, peer: Any = PEER) -> None:
        super().__init__(hostAddress=HERE, peerAddress=peer)
        self.half_closed = self.aborted = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """It is memory."""

    setTcpKeepAlive = setTcpNoDelay  # Twisted's name

    getTcpNoDelay = getTcpKeepAlive = lambda self: True  # Twisted's names


class Policy:
    """A policy as the agent sees it."""

    def __init__(self, *forward: str, back: Iterable[str] = ()) -> None:
        self.current = PolicyReport(
            handlers=frozenset({"forward"}), forward=forward, forward_back=tuple(back)
        )

    async def refresh(self) -> PolicyReport:
        return self.current


class Port:
    """A listening port."""

    def __init__(self) -> None:
        self.reading, self.open = True, True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    def stopListening(self) -> None:
        self.open = False


class ForwardCase(SynchronousTestCase):
    """A device whose network is memory."""

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.policy = Policy("localhost:*")
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        watch: Any = self.policy
        self.forwards = Forwards.new(self.reactor, watch, self.resolve)
        self.harness = HandlerHarness(ForwardHandler(lambda _device: self.forwards))
        self.addCleanup(self.harness.close)

    def allow(self, *forward: str, back: Iterable[str] = ()) -> None:
        self.policy.current = Policy(*forward, back=back).current

    def resolve(self, host: str, port: int) -> Deferred[list[str]]:
        """Answer as a resolver whose answers change with each question."""
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            return fail(OSError("Name or service not known"))
        return succeed(answers.pop(0))

    def call(self, **request: Any) -> HandlerCall:
        return self.harness.call(request)

    def connected(self, call: HandlerCall, peer: Any = PEER) -> Socket:
        """Let the newest attempt succeed."""
        factory = self.reactor.tcpClients[-1][2]
        protocol = factory.buildProtocol(peer)
        socket = Socket(peer)
        socket.protocol = protocol
        protocol.makeConnection(socket)
        self.harness.pump()
        return socket

    def fails(self, error: Exception) -> None:
        """Let the newest attempt fail."""
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(error))
        self.harness.pump()

    def code(self, call: HandlerCall) -> str | None:
        assert call.outcome is not None, call.refused
        return call.outcome.code
