"""What a heartbeat costs a gateway, counted: calls of Python code, and questions to the kernel.

Thousands of idle links do nothing else.  Each bound is what there is now and a little room: whoever
passes one says why by raising it.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.clock import TimerWheel
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_DEVICE
from rshell.link.protocol import LinkProtocol
from rshell.link.tls_factory import TlsWireFactory
from rshell.link.tls_wire import TlsWire
from tests.identity.dev_fleet import client_tls, gateway_tls
from tests.link.fakes import Owner
from tests.link.pairs import hello
from tests.link.wires import FakeSocket, MemoryTcp


class AskedSocket(FakeSocket):
    """Notes what it is asked.

    Attributes:
        asked: How often for each option.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[int] = Counter()

    def getsockopt(self, level: int, option: int, *size: Any) -> Any:
        self.asked[option] += 1
        return super().getsockopt(level, option, *size)


class TlsLine:
    """A device's and a gateway's link over TLS, each with a socket that is connected to nothing."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.links: list[LinkProtocol] = []
        self.sockets = (AskedSocket(), AskedSocket())
        self.tcp = [MemoryTcp(sock) for sock in self.sockets]
        self.wires: list[TlsWire] = []
        wheel = TimerWheel(self.clock)
        for side, tls in enumerate((client_tls(), gateway_tls())):
            limits = AT_GATEWAY_FROM_DEVICE if side else AT_AGENT
            link = LinkProtocol(Owner(), wheel, dialler=not side, limits=limits)
            self.links.append(link)
            inner = Factory.forProtocol(lambda link=link: link)
            factory = TlsWireFactory(tls, client=not side, inner=inner, unsent=lambda sock: 0)
            wire = factory.buildProtocol(None)
            assert wire is not None
            self.wires.append(wire)
        for wire, tcp in zip(self.wires, self.tcp, strict=True):
            wire.makeConnection(tcp)
        self.carry()
        self.links[0].hello(hello())
        self.carry()

    def carry(self) -> None:
        """Carry both ways until nothing moves."""
        moved = True
        while moved:
            moved = False
            for side in (0, 1):
                if data := self.tcp[side].take():
                    moved = True
                    self.wires[1 - side].dataReceived(data)

    def next_beat(self) -> bytes:
        """Let time pass until the device sends its heartbeat, and return it."""
        while not (data := self.tcp[0].take()):
            self.clock.advance(0.25)
        return data

    def free(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()


class BeatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = TlsLine()
        self.addCleanup(self.line.free)
        for _ in range(3):
            self.line.wires[1].dataReceived(self.line.next_beat())
            self.line.carry()

    def calls(self, data: bytes) -> int:
        """Let the gateway receive this; return how many calls of the link's code that took."""
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call" and "rshell/link" in frame.f_code.co_filename

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            self.line.wires[1].dataReceived(data)
        finally:
            sys.setprofile(before)
        return calls

    def test_calls(self) -> None:
        """A PING and its PONG take a bounded number of calls, of which one sends."""
        beat = self.line.next_beat()
        sends = self.line.sockets[1].sends
        self.assertLessEqual(self.calls(beat), 36)
        self.assertEqual(self.line.sockets[1].sends, sends + 1)

    def test_kernel_is_not_asked(self) -> None:
        """Nobody asks how fast a link is that carries nothing but heartbeats."""
        sock = self.line.sockets[1]
        before = sock.asked[socket.TCP_INFO]
        for _ in range(10):
            self.line.wires[1].dataReceived(self.line.next_beat())
            self.line.carry()
        self.assertEqual(sock.asked[socket.TCP_INFO], before)
