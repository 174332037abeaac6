"""LinkConnection: stream numbers, a stream's life, and GOAWAY."""

from __future__ import annotations

from typing import Any

from rshell.link.core.connection import LinkConnection
from rshell.link.core.constants import MAX_STREAM, FrameFlag, FrameType
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.events import (
    DataReceived,
    GoAwayReceived,
    LimitReceived,
    StreamFinished,
    StreamRefused,
    StreamReset,
)
from rshell.link.core.frames import Frame
from rshell.link.core.limits import AT_AGENT
from rshell.link.core.messages import (
    GoAway,
    Opened,
    Refused,
    encode,
)
from tests.link.pairs import (
    ConnectionPair,
    Talker,
    converse,
    frames_of,
    request,
    welcome,
)
from tests.link.test_connection import Base, connection, frame, stream_situations


class NumberTests(Base):
    """Stream numbers: W2 and W8."""

    def test_parity(self) -> None:
        """The dialler's streams are odd, the gateway's even, each rising by two."""
        dialler, gateway = connection("dialler open"), connection("gateway open")
        mine = [dialler.open_stream(request(), Talker()) for _ in range(3)]
        theirs = [gateway.open_stream(request(), Talker()) for _ in range(3)]
        self.assertEqual((mine, theirs), ([1, 3, 5], [2, 4, 6]))

    def test_wrong_parity(self) -> None:
        """An OPEN of the wrong parity is `protocol` at both sides."""
        self.fails(connection("gateway open"), frame(FrameType.OPEN, 2), ErrorCode.PROTOCOL)
        self.fails(connection("dialler open"), frame(FrameType.OPEN, 1), ErrorCode.PROTOCOL)

    def test_numbers_rise(self) -> None:
        """Numbers may skip but never fall or repeat."""
        core = connection("gateway open")
        core.receive_data(frame(FrameType.OPEN, 9), 0)
        self.fails(core, frame(FrameType.OPEN, 7), ErrorCode.PROTOCOL)

    def test_skipped_numbers_count_as_used(self) -> None:
        """A skipped number is finished: its frames are dropped, it cannot be opened."""
        core = connection("gateway open")
        core.receive_data(frame(FrameType.OPEN, 9), 0)
        self.assertEqual(core.receive_data(frame(FrameType.DATA, 5), 0), [])
        self.fails(core, frame(FrameType.OPEN, 5), ErrorCode.PROTOCOL)

    def test_last_number(self) -> None:
        """The last number passes, one beyond is `protocol`."""
        core = connection("gateway open")
        self.assertEqual(len(core.receive_data(frame(FrameType.OPEN, MAX_STREAM), 0)), 1)
        core = connection("gateway open")
        self.fails(core, frame(FrameType.OPEN, MAX_STREAM + 2), ErrorCode.PROTOCOL)

    def test_used_up(self) -> None:
        """When our own numbers are used up no stream is opened any more."""
        core = connection("dialler open")
        core._table._next_local = MAX_STREAM
        self.assertEqual(core.open_stream(request(), Talker()), MAX_STREAM)
        self.assertRaises(LocalProtocolError, core.open_stream, request(), Talker())


class StreamTests(Base):
    """One stream's life: section 5."""

    def test_conversation(self) -> None:
        """Bytes go both ways, the outcome ends the stream at both ends."""
        pair = ConnectionPair()
        caller, answerer, number = converse(pair)
        caller.end.write(b"question")
        pair.run()
        answerer.end.write(b"answer")
        answerer.end.write(b"oops", stderr=True)
        answerer.end.send_event("outcome", {"status": "ok"})
        pair.run()
        self.assertEqual(answerer.got, b"question")
        self.assertEqual((caller.got, caller.stderr), (b"answeroops", b"oops"))
        self.assertEqual(caller.notes, [("outcome", 10, {"status": "ok"}, False)])
        self.assertEqual(pair.dialler.told(StreamFinished), [StreamFinished(number)])
        self.assertTrue(pair.gateway.told(LimitReceived)[-1].finished)
        self.assertEqual((pair.dialler.core.streams, pair.gateway.core.streams), ({}, {}))
        self.assertTrue(answerer.end.drained)

    def test_refused(self) -> None:
        """REFUSED ends the stream, and its place is free again."""
        pair = ConnectionPair()
        pair.gateway.on_request = lambda event: pair.gateway.core.refuse(
            event.stream, ErrorCode.POLICY, "not you"
        )
        number = Talker().call(pair.dialler)
        pair.run()
        told = pair.dialler.told(StreamRefused)
        self.assertEqual(told, [StreamRefused(number, Refused("policy", "not you"))])
        self.assertEqual(pair.dialler.core.streams_opened_here, 0)
        self.assertFalse(pair.gateway.core.waiting(number))

    def test_half_close(self) -> None:
        """EOF ends one direction only."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair)
        caller.end.write(b"in")
        caller.end.write_eof()
        pair.run()
        self.assertEqual((answerer.got, answerer.eofs), (b"in", 1))
        answerer.end.write(b"out")
        pair.run()
        self.assertEqual((caller.got, caller.eofs), (b"out", 0))

    def test_reset(self) -> None:
        """RESET ends both directions, whatever waits, and is not answered (O6)."""
        pair = ConnectionPair()
        caller, _, number = converse(pair)
        caller.end.write(bytes(100_000))
        pair.dialler.core.reset(number, ErrorCode.CANCELLED, "enough")
        pair.dialler.core.reset(number, ErrorCode.CANCELLED, "enough")
        before = len(pair.gateway.wire)
        pair.run()
        self.assertEqual(
            pair.gateway.told(StreamReset), [StreamReset(number, "cancelled", "enough")]
        )
        self.assertEqual(pair.gateway.told(DataReceived), [])
        self.assertEqual(len(pair.gateway.wire), before)
        self.assertEqual(pair.gateway.core.credit(number), 0)

    def test_reset_before_the_answer(self) -> None:
        """The opener may give up before OPENED (O1); a late answer is then our own error."""
        pair = ConnectionPair()
        number = Talker().call(pair.dialler)
        pair.run()
        self.assertTrue(pair.gateway.core.waiting(number))
        pair.dialler.core.reset(number, ErrorCode.CANCELLED)
        pair.run()
        self.assertFalse(pair.gateway.core.waiting(number))
        core = pair.gateway.core
        self.assertRaises(
            LocalProtocolError, core.accept, number, request(), Opened(0, 0, 0), Talker()
        )
        self.assertRaises(LocalProtocolError, core.refuse, number, ErrorCode.POLICY, "")

    def test_answer_that_crosses_a_reset(self) -> None:
        """OPENED and DATA that cross our RESET are dropped silently (W8)."""
        pair = ConnectionPair()
        caller, answerer = Talker(), Talker()
        pair.gateway.on_request = lambda e: answerer.answer(pair.gateway, e.stream, e.open)
        number = caller.call(pair.dialler)
        pair.step(pair.dialler)
        answerer.end.write(b"late")
        pair.dialler.core.reset(number, ErrorCode.CANCELLED)
        pair.run()
        self.assertFalse(pair.dialler.core.closed)
        self.assertEqual(pair.dialler.told(DataReceived), [])
        self.assertEqual(len(pair.gateway.told(StreamReset)), 1)

    def test_nothing_is_sent_before_opened(self) -> None:
        """The opener's bytes wait for OPENED (O1)."""
        core = connection("dialler open")
        talker = Talker()
        number = core.open_stream(request(), talker)
        talker.end.attach(lambda: core.wake(number))
        talker.end.write(b"eager")
        self.assertEqual([f.type for f in frames_of(core.next_record()[0])], [FrameType.OPEN])
        self.assertFalse(core.has_output)
        core.receive_data(frame(FrameType.OPENED, number), 0)
        self.assertEqual(
            frames_of(core.next_record()[0]), [Frame(FrameType.DATA, 0, number, b"eager")]
        )

    def test_peers_max_streams(self) -> None:
        """We ask for no more streams than the peer takes; one that ends makes room."""
        core = LinkConnection(dialler=True, limits=AT_AGENT)
        core.receive_data(frame(FrameType.WELCOME, payload=encode(welcome(max_streams=2))), 0)
        first = core.open_stream(request(), Talker())
        core.open_stream(request(), Talker())
        self.assertRaises(LocalProtocolError, core.open_stream, request(), Talker())
        core.reset(first, ErrorCode.CANCELLED)
        self.assertEqual(core.open_stream(request(), Talker()), 5)

    def test_too_large_a_request(self) -> None:
        """A request that does not fit into a frame uses up no number."""
        core = connection("dialler open")
        big: dict[str, Any] = {"argv": "x" * 20_000}
        self.assertRaises(LocalProtocolError, core.open_stream, request(request=big), Talker())
        self.assertEqual(core.open_stream(request(), Talker()), 1)

    def test_data_needs_bytes_or_eof(self) -> None:
        """DATA without bytes and without EOF is `protocol`; EOF may be repeated (F6)."""
        core = connection("gateway open")
        number = stream_situations(core)["remote open"]
        eof = frame(FrameType.DATA, number, b"", FrameFlag.EOF)
        # It is told once: a peer that repeats it costs nobody behind us anything.
        self.assertEqual(core.receive_data(eof * 2, 0), [DataReceived(number, b"", False, True)])
        self.fails(core, frame(FrameType.DATA, number, b""), ErrorCode.PROTOCOL)

    def test_data_after_eof(self) -> None:
        """After EOF no byte may follow (F6)."""
        core = connection("gateway open")
        number = stream_situations(core)["remote open"]
        core.receive_data(frame(FrameType.DATA, number, b"x", FrameFlag.EOF), 0)
        self.fails(core, frame(FrameType.DATA, number, b"y"), ErrorCode.PROTOCOL)


class GoAwayTests(Base):
    """Planned ends: section 4."""

    def test_no_new_streams(self) -> None:
        """After GOAWAY neither side opens; open streams finish."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair)
        pair.gateway.core.send_goaway(GoAway(code="shutdown"))
        pair.gateway.core.send_goaway(GoAway(code="shutdown"))
        pair.run()
        self.assertEqual(len(pair.dialler.told(GoAwayReceived)), 1)
        for side in (pair.dialler, pair.gateway):
            self.assertRaises(LocalProtocolError, side.core.open_stream, request(), Talker())
        answerer.end.write(b"still here")
        pair.run()
        self.assertEqual(caller.got, b"still here")

    def test_open_that_crosses_goaway(self) -> None:
        """An OPEN that crossed our GOAWAY is refused with shutdown."""
        core = connection("gateway open")
        core.send_goaway(GoAway(code="shutdown"))
        self.assertEqual(core.receive_data(frame(FrameType.OPEN, 1), 0), [])
        refused = frames_of(core.next_record()[0])[-1]
        self.assertEqual((refused.type, refused.stream), (FrameType.REFUSED, 1))
        self.assertIn(b"shutdown", refused.payload)

    def test_close(self) -> None:
        """With close, GOAWAY is the last thing said, after what was queued for the link."""
        pair = ConnectionPair()
        caller, _, _ = converse(pair)
        caller.end.write(b"lost with the link")
        pair.dialler.core.send_goaway(GoAway(code="none"))
        pair.dialler.core.send_goaway(GoAway(code="shutdown"), close=True)
        pair.dialler.core.send_goaway(GoAway(code="none"), close=True)
        self.assertTrue(pair.dialler.core.closed)
        pair.run()
        self.assertEqual(
            pair.gateway.told(GoAwayReceived),
            [GoAwayReceived(GoAway(code="none")), GoAwayReceived(GoAway(code="shutdown"))],
        )
        self.assertEqual(pair.gateway.told(DataReceived), [])

    def test_reset_goes_out_before_the_end(self) -> None:
        """A RESET that waits when the link is closed still reaches the peer (revocation)."""
        pair = ConnectionPair()
        number = converse(pair)[2]
        pair.dialler.core.reset(number, ErrorCode.REVOKED, "gone")
        pair.dialler.core.send_goaway(GoAway(code="revoked"), close=True)
        pair.run()
        (reset,) = pair.gateway.told(StreamReset)
        self.assertEqual(reset.code, "revoked")

    def test_fault_after_a_planned_goaway(self) -> None:
        """A fault is told with its code although a planned GOAWAY went before (W4)."""
        core = connection("gateway open")
        core.send_goaway(GoAway(code="shutdown"))
        core.next_record()
        self.fails(core, frame(FrameType.HELLO), ErrorCode.PROTOCOL)
