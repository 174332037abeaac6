"""A heartbeat is answered at once where nothing else is to be done, as by the longer way.

And what it costs a gateway, counted: calls of Python code, and questions to the kernel.  Thousands
of idle links do nothing else.  Each bound is what there is now and a little room: whoever passes
one says why by raising it.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.clock import TimerWheel
from rshell.link.core.connection import LinkConnection
from rshell.link.core.constants import FrameType
from rshell.link.core.frames import encode_frame
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_DEVICE
from rshell.link.protocol import LinkProtocol
from rshell.link.tls_factory import TlsWireFactory
from rshell.link.tls_wire import TlsWire
from tests.identity.dev_fleet import client_tls, gateway_tls
from tests.link.fakes import Line, Owner
from tests.link.pairs import frames_of, hello
from tests.link.test_connection import connection
from tests.link.wires import FakeSocket, MemoryTcp

PING = encode_frame(FrameType.PING, 0, b"12345678")


class AskedSocket(FakeSocket):
    """Notes what it is asked.

    Attributes:
        asked: How often for each option.
        unsent_asked: How often for what it has not sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[int] = Counter()
        self.unsent_asked = 0

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
            factory = TlsWireFactory(tls, client=not side, inner=inner, unsent=self._unsent)
            wire = factory.buildProtocol(None)
            assert wire is not None
            self.wires.append(wire)
        for wire, tcp in zip(self.wires, self.tcp, strict=True):
            wire.makeConnection(tcp)
        self.carry()
        self.links[0].hello(hello())
        self.carry()

    def _unsent(self, sock: socket.socket) -> int:
        assert isinstance(sock, AskedSocket)
        sock.unsent_asked += 1
        return 0

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


class SameTests(SynchronousTestCase):
    """The short way and the long one come to the same."""

    def said(self, core: LinkConnection, data: bytes, now: float, *, short: bool) -> Any:
        """Let a core take bytes; return all that can be seen of what it made of them."""
        pong = core.answer_beat(data, now) if short else None
        told = [] if pong is not None else [repr(event) for event in core.receive_data(data, now)]
        out = [pong or core.next_record()[0]]
        while core.has_output:
            out.append(core.next_record()[0])
        traffic = core.traffic
        return told, b"".join(out), traffic.received, traffic.sent, core.state, repr(core.failure)

    @given(
        st.sampled_from(["gateway open", "dialler open", "gateway judging", "gateway closed"]),
        st.lists(
            st.one_of(
                st.just(PING),
                st.binary(max_size=20),
                st.builds(
                    encode_frame,
                    st.sampled_from([FrameType.PING, FrameType.PONG, FrameType.DATA, 99]),
                    st.sampled_from([0, 1, 1 << 24]),
                    st.binary(min_size=7, max_size=9),
                    st.sampled_from([0, 1, 0x80]),
                ),
            ),
            max_size=9,
        ),
        st.floats(0, 1),
    )
    def test_core(self, state: str, reads: list[bytes], step: float) -> None:
        """Whatever comes, in whatever state, at whatever rate."""
        short, long = connection(state), connection(state)
        for place, data in enumerate(reads):
            now = place * step
            self.assertEqual(
                self.said(short, data, now, short=True), self.said(long, data, now, short=False)
            )

    def test_when(self) -> None:
        """It answers where nothing waits, and is silent behind half a frame, or what is to go."""
        core = connection("gateway open")
        self.assertEqual(core.answer_beat(PING, 0), encode_frame(FrameType.PONG, 0, b"12345678"))
        core.send_ping(bytes(8))
        self.assertIsNone(core.answer_beat(PING, 0))
        core.next_record()
        core.feed(PING[:3])
        self.assertIsNone(core.answer_beat(PING, 0))

    def test_full_transport(self) -> None:
        """On a link whose transport is full the PONG waits, and goes when there is room."""
        line = Line()
        line.gateway.pauseProducing()
        line.gateway.dataReceived(PING)
        self.assertEqual(line.wire(line.gateway).frames(), [])
        line.gateway.resumeProducing()
        (pong,) = line.wire(line.gateway).frames()
        self.assertEqual((pong.type, pong.payload), (FrameType.PONG, b"12345678"))

    def test_too_many(self) -> None:
        """Who sends too many is told so, and the link ends."""
        line = Line()
        for _ in range(5):
            line.gateway.dataReceived(PING)
        frames = frames_of(line.wire(line.gateway).take())
        kinds = [frame.type for frame in frames]
        self.assertEqual(kinds, [FrameType.PONG] * 4 + [FrameType.GOAWAY])
        self.assertIn(b"overload", frames[-1].payload)

    def test_counts_as_life(self) -> None:
        """It is a sign of life, and no silence of this side."""
        line = Line()
        line.clock.advance(59)
        line.gateway.dataReceived(PING)
        self.assertEqual(line.gateway.last_received, 59)
        line.advance(59.75, carry=False)
        self.assertFalse(line.wire(line.gateway).aborted)
        line.advance(0.25, carry=False)
        self.assertTrue(line.wire(line.gateway).aborted)


class CostTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = TlsLine()
        self.addCleanup(self.line.free)
        for _ in range(3):
            self.line.wires[1].dataReceived(self.line.next_beat())
            self.line.carry()

    def calls(self, data: bytes) -> int:
        """Let the gateway receive this; return how many calls of Python code that took."""
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            name = frame.f_code.co_filename
            calls += event == "call" and ("rshell/link" in name or "OpenSSL" in name)

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
        self.assertLessEqual(self.calls(beat), 20)
        self.assertEqual(self.line.sockets[1].sends, sends + 1)

    def test_kernel_is_not_asked(self) -> None:
        """Nobody asks how fast a link is that only beats, and seldom whether all is sent."""
        sock = self.line.sockets[1]
        before, sock.unsent_asked = sock.asked[socket.TCP_INFO], 0
        for _ in range(50):
            self.line.wires[1].dataReceived(self.line.next_beat())
            self.line.carry()
        self.assertEqual(sock.asked[socket.TCP_INFO], before)
        self.assertLessEqual(sock.unsent_asked, 3)
