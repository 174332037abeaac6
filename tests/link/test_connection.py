"""LinkConnection: greeting, and the tables of states and frames."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.connection import LinkConnection, LinkState, choose_version
from rshell.link.core.constants import FrameType
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.events import (
    AdviceReceived,
    DataReceived,
    EventReceived,
    GoAwayReceived,
    HelloReceived,
    LimitReceived,
    LinkEvent,
    LinkFailed,
    PongReceived,
    SessionsReceived,
    StreamOpened,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WelcomeReceived,
)
from rshell.link.core.frames import encode_frame
from rshell.link.core.limits import AT_AGENT, AT_GATEWAY_FROM_OPERATOR
from rshell.link.core.messages import (
    Advice,
    GoAway,
    Join,
    Joined,
    Opened,
    Refused,
    Reset,
    Sessions,
    VersionRange,
    encode,
    encode_event,
)
from tests.link.pairs import (
    ConnectionPair,
    Talker,
    frames_of,
    hello,
    request,
    welcome,
)

PING = b"12345678"


def limit_payload(consumed: int, limit: int, events: int) -> bytes:
    return struct.pack(">QQQ", consumed, limit, events)


#: A valid frame of each type, for a fresh stream.
PAYLOADS: dict[int, bytes] = {
    FrameType.HELLO: encode(hello()),
    FrameType.WELCOME: encode(welcome()),
    FrameType.PING: PING,
    FrameType.PONG: PING,
    FrameType.GOAWAY: encode(GoAway(code="none")),
    FrameType.SESSIONS: encode(Sessions()),
    FrameType.ADVICE: encode(Advice(1000)),
    FrameType.OPEN: encode(request()),
    FrameType.OPENED: encode(Opened(0, 100, 0)),
    FrameType.REFUSED: encode(Refused("policy")),
    FrameType.DATA: b"x",
    FrameType.LIMIT: limit_payload(0, 300_000, 0),
    FrameType.RESET: encode(Reset("cancelled")),
    FrameType.EVENT: encode_event(1, 0, "progress", {}),
    FrameType.JOIN: encode(Join(kind="device", id=bytes(8), secret=bytes(20), csr=b"")),
    FrameType.JOINED: encode(
        Joined(chain="", root="", fleet="", id="", name="", gateways=[], time_ms=0)
    ),
}
LINK_TYPES = [kind for kind in FrameType if kind <= FrameType.ADVICE or kind >= FrameType.JOIN]
STREAM_TYPES = [kind for kind in FrameType if kind not in LINK_TYPES]


def frame(kind: int, stream: int = 0, payload: bytes | None = None, flags: int = 0) -> bytes:
    return encode_frame(kind, stream, PAYLOADS[kind] if payload is None else payload, flags)


def connection(state: str) -> LinkConnection:
    """Return a core in a state; its output was sent."""
    dialler = state.startswith("dialler")
    limits = AT_AGENT if dialler else AT_GATEWAY_FROM_OPERATOR
    core = LinkConnection(dialler=dialler, limits=limits)
    if state == "dialler open":
        core.send_hello(hello())
        core.receive_data(frame(FrameType.WELCOME), 0)
        core.send_ping(PING)
    if state in ("gateway judging", "gateway open"):
        core.receive_data(frame(FrameType.HELLO), 0)
    if state == "gateway open":
        core.send_welcome(welcome())
        core.send_ping(PING)
    if state.endswith("closed"):
        core.fail(RemoteProtocolError(ErrorCode.PROTOCOL, "for the test"))
        core.failure = None
    core.next_record()
    return core


class Base(SynchronousTestCase):
    """Shared assertions."""

    def fails(self, core: LinkConnection, data: bytes, code: ErrorCode, now: float = 0) -> str:
        """Check that bytes end the link with a code, told to the peer and to the owner."""
        events = core.receive_data(data, now)
        self.assertTrue(events, "nothing happened")
        self.assertIsInstance(events[-1], LinkFailed)
        error = events[-1].error  # type: ignore[attr-defined]  # asserted above
        self.assertIs(error.code, code)
        self.assertIs(core.state, LinkState.CLOSED)
        last = frames_of(core.next_record()[0])[-1]
        self.assertEqual(last.type, FrameType.GOAWAY)
        self.assertIn(code.value.encode(), last.payload)
        self.assertEqual(core.receive_data(frame(FrameType.PING), now), [])
        self.assertFalse(core.has_output)
        self.assertEqual(core.streams, {})
        return str(error.reason)


class GreetingTests(Base):
    """HELLO, WELCOME and versions: W5 and H1."""

    def test_greeting(self) -> None:
        """HELLO is judged, WELCOME opens the link, each side tells its owner once."""
        pair = ConnectionPair(greet=False)
        pair.dialler.core.send_hello(hello())
        pair.run()
        self.assertEqual(pair.gateway.events, [HelloReceived(hello())])
        self.assertIs(pair.gateway.core.state, LinkState.JUDGING)
        self.assertIs(pair.dialler.core.state, LinkState.AWAITING_WELCOME)
        pair.gateway.core.send_welcome(welcome())
        pair.run()
        self.assertEqual(pair.dialler.events, [WelcomeReceived(welcome())])
        self.assertIs(pair.dialler.core.state, LinkState.OPEN)
        self.assertIs(pair.gateway.core.state, LinkState.OPEN)

    def test_versions(self) -> None:
        """Ranges that hold version 1 meet at it, however far the dialler reaches."""
        for low, high in [(1, 1), (1, 2), (1, 65535)]:
            self.assertEqual(choose_version(VersionRange(low, high)), 1)

    def test_no_common_version(self) -> None:
        """The message names the side that must be upgraded (H1)."""
        new = frame(FrameType.HELLO, payload=encode(hello(2, 3)))
        reason = self.fails(connection("gateway awaiting"), new, ErrorCode.VERSION)
        self.assertIn("upgrade the gateway", reason)
        self.assertIn("2 to 3", reason)
        upside_down = frame(FrameType.HELLO, payload=encode(hello(3, 2)))
        self.fails(connection("gateway awaiting"), upside_down, ErrorCode.VERSION)
        self.assertRaises(RemoteProtocolError, choose_version, VersionRange(2, 1))

    def test_too_old_a_dialler(self) -> None:
        """A dialler below our range is the one to upgrade."""
        error = self.assertRaises(RemoteProtocolError, choose_version, VersionRange(1, 0))
        self.assertIn("upgrade the dialler", error.reason)

    def test_version_not_offered(self) -> None:
        """A gateway that chose a version we do not speak is refused."""
        wire = frame(FrameType.WELCOME, payload=encode(welcome(protocol=2)))
        self.fails(connection("dialler awaiting"), wire, ErrorCode.VERSION)

    def test_malformed_hello(self) -> None:
        """A HELLO that is no HELLO ends the link."""
        for payload in (b"", b"{}", b"[]", b"\xff" * 100):
            wire = frame(FrameType.HELLO, payload=payload)
            self.fails(connection("gateway awaiting"), wire, ErrorCode.PROTOCOL)

    def test_our_own_order(self) -> None:
        """This side may not say things out of order either."""
        gateway = connection("gateway awaiting")
        self.assertRaises(LocalProtocolError, gateway.send_hello, hello())
        self.assertRaises(LocalProtocolError, gateway.send_welcome, welcome())
        self.assertRaises(LocalProtocolError, gateway.send_sessions, Sessions())
        self.assertRaises(LocalProtocolError, gateway.open_stream, request(), Talker())
        dialler = connection("dialler open")
        self.assertRaises(LocalProtocolError, dialler.send_hello, hello())
        self.assertRaises(LocalProtocolError, dialler.send_ping, b"short")


#: (state, frames that act); everything else is a protocol error.
LINK_TABLE: dict[str, set[FrameType]] = {
    "gateway awaiting": {FrameType.HELLO},
    "gateway judging": {FrameType.GOAWAY},
    "dialler awaiting": {FrameType.WELCOME, FrameType.GOAWAY},
    "dialler open": {
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
        FrameType.SESSIONS,
        FrameType.ADVICE,
    },
    "gateway open": {FrameType.PING, FrameType.PONG, FrameType.GOAWAY, FrameType.SESSIONS},
}
LINK_EVENTS: dict[int, type[LinkEvent] | None] = {
    FrameType.HELLO: HelloReceived,
    FrameType.WELCOME: WelcomeReceived,
    FrameType.GOAWAY: GoAwayReceived,
    FrameType.SESSIONS: SessionsReceived,
    FrameType.ADVICE: AdviceReceived,
    FrameType.PING: None,
    FrameType.PONG: PongReceived,
}


class LinkTableTests(Base):
    """Every (state, frame type) pair on stream 0."""

    def test_table(self) -> None:
        """What the table allows acts; everything else is `protocol` (W5)."""
        for state, allowed in LINK_TABLE.items():
            for kind in FrameType:
                core = connection(state)
                if kind not in allowed:
                    self.fails(core, frame(kind), ErrorCode.PROTOCOL)
                    continue
                events = core.receive_data(frame(kind), 0)
                wanted = LINK_EVENTS[kind]
                self.assertEqual([type(e) for e in events], [wanted] if wanted else [])

    def test_stream_frames_before_the_link_is_open(self) -> None:
        """Before WELCOME no stream exists."""
        for state in ("gateway awaiting", "gateway judging", "dialler awaiting"):
            for kind in STREAM_TYPES:
                for stream in (1, 2):
                    self.fails(connection(state), frame(kind, stream), ErrorCode.PROTOCOL)

    def test_link_frames_on_a_stream(self) -> None:
        """A frame of the link on a stream number is `protocol` in every state."""
        for state in LINK_TABLE:
            for kind in LINK_TYPES:
                for stream in (1, 2, 2**32 - 1):
                    self.fails(connection(state), frame(kind, stream), ErrorCode.PROTOCOL)

    def test_closed(self) -> None:
        """A link that has ended acts on nothing and answers nothing."""
        for side in ("gateway", "dialler"):
            for kind in FrameType:
                core = connection(f"{side} closed")
                self.assertEqual(core.receive_data(frame(kind), 0), [])
                self.assertFalse(core.has_output)

    def test_nothing_after_the_fault(self) -> None:
        """What came before the offending frame counts, what comes after does not (W4)."""
        core = connection("gateway open")
        wire = frame(FrameType.OPEN, 1) + frame(FrameType.HELLO) + frame(FrameType.OPEN, 3)
        events = core.receive_data(wire, 0)
        self.assertEqual([type(e) for e in events], [StreamRequested, LinkFailed])
        self.assertEqual(core.streams, {})


def stream_situations(core: LinkConnection) -> dict[str, int]:
    """Bring streams of an open gateway core into every situation; return their numbers."""
    numbers: dict[str, int] = {}

    def remote(name: str, number: int) -> None:
        assert isinstance(core.receive_data(frame(FrameType.OPEN, number), 0)[0], StreamRequested)
        numbers[name] = number

    def local(name: str) -> int:
        numbers[name] = core.open_stream(request(), Talker())
        return numbers[name]

    accepted = Opened(0, 262144, 0)
    remote("remote finished", 1)
    core.reset(1, "cancelled")
    remote("remote asked", 3)
    remote("remote open", 5)
    core.accept(5, request(), accepted, Talker())
    remote("remote refused", 7)
    core.refuse(7, ErrorCode.POLICY, "")
    for name in ("local finished", "local asked", "local open", "local ended"):
        number = local(name)
        if name != "local asked":
            core.receive_data(frame(FrameType.OPENED, number), 0)
    core.reset(numbers["local finished"], "cancelled")
    payload = encode_event(1, 0, "outcome", {"status": "ok"})
    core.receive_data(frame(FrameType.EVENT, numbers["local ended"], payload), 0)
    numbers["local never"] = 100
    numbers["remote never"] = 101
    while core.has_output:
        core.next_record()
    return numbers


ACTS: dict[str, dict[int, type[LinkEvent]]] = {
    "remote never": {FrameType.OPEN: StreamRequested},
    "local asked": {
        FrameType.OPENED: StreamOpened,
        FrameType.REFUSED: StreamRefused,
        FrameType.RESET: StreamReset,
    },
    "remote asked": {FrameType.RESET: StreamReset},
    "remote open": {
        FrameType.DATA: DataReceived,
        FrameType.LIMIT: LimitReceived,
        FrameType.RESET: StreamReset,
        FrameType.EVENT: EventReceived,
    },
    "local open": {
        FrameType.DATA: DataReceived,
        FrameType.LIMIT: LimitReceived,
        FrameType.RESET: StreamReset,
        FrameType.EVENT: EventReceived,
    },
    # DATA and EVENT after the outcome break a rule; the EVENT here is a repetition.
    "local ended": {FrameType.LIMIT: LimitReceived, FrameType.RESET: StreamReset},
}
DROPPED: dict[str, set[FrameType]] = {
    "local ended": {FrameType.EVENT},
    "local finished": set(STREAM_TYPES) - {FrameType.OPEN},
    "remote finished": set(STREAM_TYPES) - {FrameType.OPEN},
    "remote refused": set(STREAM_TYPES) - {FrameType.OPEN},
}


class StreamTableTests(Base):
    """Every (situation of a stream, frame type) pair."""

    def test_table(self) -> None:
        """Allowed frames act, frames for finished streams are dropped, others are fatal (W8)."""
        names = list(stream_situations(connection("gateway open")))
        self.assertEqual(len(names), 10)
        for name in names:
            for kind in STREAM_TYPES:
                core = connection("gateway open")
                wire = frame(kind, stream_situations(core)[name])
                if kind in ACTS.get(name, {}):
                    events = core.receive_data(wire, 0)
                    self.assertEqual([type(e) for e in events], [ACTS[name][kind]], (name, kind))
                elif kind in DROPPED.get(name, set()):
                    self.assertEqual(core.receive_data(wire, 0), [], (name, kind))
                    self.assertFalse(core.has_output, (name, kind))
                else:
                    self.fails(core, wire, ErrorCode.PROTOCOL)

    def test_stream_zero(self) -> None:
        """No stream frame may concern the link itself."""
        for kind in STREAM_TYPES:
            self.fails(connection("gateway open"), frame(kind, 0), ErrorCode.PROTOCOL)
            self.fails(connection("dialler open"), frame(kind, 0), ErrorCode.PROTOCOL)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(STREAM_TYPES),
                st.integers(0, 12),
                st.sampled_from([b"", b"x", *PAYLOADS.values()]),
                st.sampled_from([0, 1, 2, 3, 4]),
            ),
            max_size=30,
        ),
        st.lists(st.tuples(st.sampled_from("arxow"), st.integers(0, 12)), max_size=30),
    )
    def test_any_frames_in_any_order(
        self, wire: list[tuple[int, int, bytes, int]], acts: list[tuple[str, int]]
    ) -> None:
        """Whatever frames come, mixed with our own calls, only protocol errors follow."""
        core = connection("gateway open")
        for turn in range(max(len(wire), len(acts))):
            if turn < len(wire):
                kind, stream, payload, flags = wire[turn]
                events = core.receive_data(frame(kind, stream, payload, flags), 0)
                self.assertFalse(any(isinstance(e, LinkFailed) for e in events[:-1]))
            if turn < len(acts):
                self.act(core, *acts[turn])
            self.assertEqual(core._table.opened_here + core._table.opened_there, len(core.streams))
            record, _ = core.next_record()
            frames_of(record)
        if core.closed:
            self.assertEqual(core.streams, {})

    @staticmethod
    def act(core: LinkConnection, what: str, number: int) -> None:
        talker = Talker()
        if what == "a" and core.waiting(number):
            core.accept(number, request(), Opened(0, 100, 0), talker)
        elif what == "r" and core.waiting(number):
            core.refuse(number, ErrorCode.POLICY, "no")
        elif what == "x":
            core.reset(number, ErrorCode.CANCELLED)
        elif what == "o" and not core.closed:
            core.open_stream(request(), talker)
        elif what == "w":
            core.wake(number)
