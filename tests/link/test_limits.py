"""What a peer may cost: rules F1 to F3, V1 to V4 on a link, F9, and section 13."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.connection import LinkConnection
from rshell.link.core.constants import MAX_OFFSET, MAX_WINDOW, FrameFlag, FrameType
from rshell.link.core.errors import ErrorCode
from rshell.link.core.events import (
    DataReceived,
    EventReceived,
    LimitReceived,
    LinkFailed,
    PongReceived,
    StreamRequested,
)
from rshell.link.core.frames import Frame
from rshell.link.core.limits import (
    AT_AGENT,
    AT_GATEWAY_FROM_DEVICE,
    AT_GATEWAY_FROM_OPERATOR,
    CreditBudget,
    LinkLimits,
    TokenBucket,
)
from rshell.link.core.messages import Opened, Positions, Reset, encode, encode_event
from tests.link.pairs import ConnectionPair, Talker, converse, frames_of, hello, request, welcome
from tests.link.test_connection import Base, frame, limit_payload

LOCAL, REMOTE = 2, 1
WINDOW = 1000
SENT = 500


def linked(limits: LinkLimits = AT_GATEWAY_FROM_DEVICE) -> LinkConnection:
    """Return a gateway's core with a stream open each way.

    Either may receive 1,000 bytes; 500 bytes and 2 events were sent on both.
    """
    core = LinkConnection(dialler=False, limits=limits)
    core.receive_data(frame(FrameType.HELLO, payload=encode(hello())), 0)
    core.send_welcome(welcome())
    core.receive_data(frame(FrameType.OPEN, REMOTE, encode(request(SENT))), 0)
    here, there = Talker(), Talker()
    core.accept(REMOTE, request(SENT), Opened(0, WINDOW, 0), here)
    core.open_stream(request(WINDOW), there)
    core.receive_data(frame(FrameType.OPENED, LOCAL, encode(Opened(0, SENT, 0))), 0)
    here.end.attach(lambda: core.wake(REMOTE))
    there.end.attach(lambda: core.wake(LOCAL))
    for talker in (here, there):
        talker.end.send_event("signal", {"signal": "INT"}, urgent=True)
        talker.end.send_event("window", {}, urgent=True)
        talker.end.write(bytes(2 * SENT))
    while core.has_output:
        core.next_record()
    assert core.credit(LOCAL) == core.credit(REMOTE) == 0
    return core


def note(seq: int, at: int, kind: str = "progress") -> bytes:
    return encode_event(seq, at, kind, {})


class CreditTests(Base):
    """Bytes: F1 and F2."""

    def test_to_the_last_byte(self) -> None:
        """The whole window may be used; one byte more is fatal (F1)."""
        for number in (LOCAL, REMOTE):
            core = linked()
            wire = frame(FrameType.DATA, number, bytes(600)) + frame(
                FrameType.DATA, number, bytes(400)
            )
            self.assertEqual(len(core.receive_data(wire, 0)), 2)
            self.fails(core, frame(FrameType.DATA, number, b"x"), ErrorCode.FLOW_CONTROL)

    def test_one_byte_too_many_in_one_frame(self) -> None:
        """An overrun inside a frame is an overrun, and none of it is delivered."""
        events = linked().receive_data(frame(FrameType.DATA, LOCAL, bytes(1001)), 0)
        self.assertEqual([type(e) for e in events], [LinkFailed])

    def test_eof_needs_no_credit(self) -> None:
        """EOF without bytes passes a window that is used up."""
        core = linked()
        core.receive_data(frame(FrameType.DATA, LOCAL, bytes(1000)), 0)
        eof = frame(FrameType.DATA, LOCAL, b"", FrameFlag.EOF)
        self.assertEqual(core.receive_data(eof, 0), [DataReceived(LOCAL, b"", False, True)])

    def test_eof_after_a_gap(self) -> None:
        """A stream may end right after a gap wider than the window (R5)."""
        core = linked()
        number = core.open_stream(request(resume=Positions(10, 1010, 0), attempt=2), Talker())
        opened = frame(FrameType.OPENED, number, encode(Opened(0, 100, 0, gap=50_000)))
        wire = frame(FrameType.DATA, number, b"", FrameFlag.EOF) + frame(
            FrameType.EVENT, number, note(1, 50_010, "outcome")
        )
        events = core.receive_data(opened + wire, 0)
        self.assertEqual([type(e) for e in events[1:]], [DataReceived, EventReceived])
        self.fails(core, frame(FrameType.DATA, LOCAL, bytes(1001)), ErrorCode.FLOW_CONTROL)

    def test_gap_beyond_all_offsets(self) -> None:
        """A gap that no counter holds is `protocol`, on the link that stated it."""
        core = linked()
        number = core.open_stream(request(resume=Positions(10, 20, 0), attempt=2), Talker())
        payload = encode(Opened(0, 0, 0, gap=MAX_OFFSET - 9))
        self.fails(core, frame(FrameType.OPENED, number, payload), ErrorCode.PROTOCOL)

    def limit(self, core: LinkConnection, *values: int) -> list[object]:
        return list(core.receive_data(frame(FrameType.LIMIT, LOCAL, limit_payload(*values)), 0))

    def test_limit_raises(self) -> None:
        """A LIMIT gives credit up to its absolute offset, however often it comes."""
        core = linked()
        self.assertEqual(self.limit(core, 100, 700, 1), [LimitReceived(LOCAL, 100, 700, 1, False)])
        self.assertEqual(core.credit(LOCAL), 200)
        self.assertEqual(self.limit(core, 100, 700, 1), [])
        self.assertEqual(core.credit(LOCAL), 200)

    def test_limit_never_falls(self) -> None:
        """Smaller values are ignored one by one; what is news counts (F2)."""
        core = linked()
        self.limit(core, 100, 700, 1)
        self.assertEqual(self.limit(core, 0, 0, 0), [])
        self.assertEqual(self.limit(core, 50, 800, 0), [LimitReceived(LOCAL, 100, 800, 1, False)])
        self.assertEqual(self.limit(core, 200, 10, 2), [LimitReceived(LOCAL, 200, 800, 2, False)])

    def test_consumed_beyond_sent(self) -> None:
        """More consumed than sent is `flow-control`, the exact amount is not."""
        self.assertEqual(len(self.limit(linked(), SENT, SENT, 0)), 1)
        wire = frame(FrameType.LIMIT, LOCAL, limit_payload(SENT + 1, 600, 0))
        self.fails(linked(), wire, ErrorCode.FLOW_CONTROL)

    def test_events_beyond_sent(self) -> None:
        """More events seen than sent is `protocol`."""
        self.assertEqual(len(self.limit(linked(), 0, SENT, 2)), 1)
        wire = frame(FrameType.LIMIT, LOCAL, limit_payload(0, SENT, 3))
        self.fails(linked(), wire, ErrorCode.PROTOCOL)

    def test_window_too_large(self) -> None:
        """A window of 16 MiB passes, a byte more is `flow-control` (F2)."""
        self.assertEqual(len(self.limit(linked(), 10, 10 + MAX_WINDOW, 0)), 1)
        wire = frame(FrameType.LIMIT, LOCAL, limit_payload(10, 11 + MAX_WINDOW, 0))
        self.fails(linked(), wire, ErrorCode.FLOW_CONTROL)

    def test_window_too_large_when_opening(self) -> None:
        """OPEN and OPENED are judged alike, when they arrive, whoever answers later."""
        for opening in (
            request(MAX_WINDOW + 1),
            request(resume=Positions(5, MAX_WINDOW + 6, 0), attempt=2),
        ):
            self.fails(linked(), frame(FrameType.OPEN, 3, encode(opening)), ErrorCode.FLOW_CONTROL)
        core = linked()
        good = frame(FrameType.OPEN, 3, encode(request(MAX_WINDOW)))
        self.assertEqual(len(core.receive_data(good, 0)), 1)
        core.accept(3, request(MAX_WINDOW), Opened(0, 0, 0), Talker())
        number = core.open_stream(request(), Talker())
        bad = frame(FrameType.OPENED, number, encode(Opened(0, MAX_WINDOW + 1, 0)))
        self.fails(core, bad, ErrorCode.FLOW_CONTROL)

    def test_limit_beyond_all_offsets(self) -> None:
        """Offsets of 2^63 and more are refused."""
        for values in [(2**63, 0, 0), (0, 2**63, 0), (0, 0, 2**64 - 1)]:
            core = linked()
            wire = frame(FrameType.LIMIT, LOCAL, limit_payload(*values))
            self.fails(core, wire, ErrorCode.FLOW_CONTROL)

    def test_limit_of_another_length(self) -> None:
        """LIMIT has 24 bytes, on streams that are over too."""
        for number in (LOCAL, REMOTE):
            for size in (0, 23, 25):
                core = linked()
                core.reset(REMOTE, ErrorCode.CANCELLED)
                core.next_record()
                self.fails(core, frame(FrameType.LIMIT, number, bytes(size)), ErrorCode.PROTOCOL)


class EventOrderTests(Base):
    """Events: V1 to V4 and E2."""

    def test_place(self) -> None:
        """An ordered event stands where exactly `at` bytes have arrived (V2)."""
        core = linked()
        wire = frame(FrameType.DATA, LOCAL, b"abc") + frame(FrameType.EVENT, LOCAL, note(1, 3))
        self.assertEqual(
            [type(e) for e in core.receive_data(wire, 0)], [DataReceived, EventReceived]
        )
        for at in (0, 2, 4):
            core = linked()
            core.receive_data(frame(FrameType.DATA, LOCAL, b"abc"), 0)
            self.fails(core, frame(FrameType.EVENT, LOCAL, note(1, at)), ErrorCode.PROTOCOL)

    def test_urgent_place(self) -> None:
        """An urgent event states 0, wherever it comes (V3)."""
        core = linked()
        core.receive_data(frame(FrameType.DATA, LOCAL, b"abc"), 0)
        urgent = frame(FrameType.EVENT, LOCAL, note(1, 0), FrameFlag.URGENT)
        (event,) = core.receive_data(urgent, 0)
        self.assertTrue(isinstance(event, EventReceived) and event.urgent)
        wrong = frame(FrameType.EVENT, LOCAL, note(2, 3), FrameFlag.URGENT)
        self.fails(core, wrong, ErrorCode.PROTOCOL)

    def test_repeated_numbers_are_ignored(self) -> None:
        """A number at or below the last is not told again (V1)."""
        core = linked()
        wire = b"".join(frame(FrameType.EVENT, LOCAL, note(seq, 0)) for seq in (1, 2, 2, 1, 3))
        told = core.receive_data(wire, 0)
        self.assertEqual([e.event.seq for e in told if isinstance(e, EventReceived)], [1, 2, 3])

    def test_unacknowledged(self) -> None:
        """64 events may be unacknowledged, the 65th is too many (V4)."""
        core = linked()
        wire = b"".join(frame(FrameType.EVENT, LOCAL, note(seq, 0)) for seq in range(1, 65))
        self.assertEqual(len(core.receive_data(wire, 0)), 64)
        self.fails(core, frame(FrameType.EVENT, LOCAL, note(65, 0)), ErrorCode.OVERLOAD)

    def test_acknowledging_makes_room(self) -> None:
        """What our LIMIT acknowledged counts no more."""
        pair = ConnectionPair()
        caller, answerer, _ = converse(pair)
        for turn in range(200):
            answerer.end.send_event("progress", {"done": turn})
        pair.run()
        self.assertEqual([body["done"] for _, _, body, _ in caller.notes], list(range(200)))

    def test_outcome_from_the_wrong_side(self) -> None:
        """Only the answering end sends the outcome, and in order (E2)."""
        good = frame(FrameType.EVENT, LOCAL, note(1, 0, "outcome"))
        self.assertEqual(len(linked().receive_data(good, 0)), 1)
        wrong = frame(FrameType.EVENT, REMOTE, note(1, 0, "outcome"))
        self.fails(linked(), wrong, ErrorCode.PROTOCOL)
        urgent = frame(FrameType.EVENT, LOCAL, note(1, 0, "outcome"), FrameFlag.URGENT)
        self.fails(linked(), urgent, ErrorCode.PROTOCOL)

    def test_nothing_after_the_outcome(self) -> None:
        """Neither bytes nor events follow the outcome; a repeated EOF may."""
        outcome = frame(FrameType.EVENT, LOCAL, note(1, 0, "outcome"))
        for wire in (frame(FrameType.DATA, LOCAL), frame(FrameType.EVENT, LOCAL, note(2, 0))):
            core = linked()
            core.receive_data(outcome, 0)
            self.fails(core, wire, ErrorCode.PROTOCOL)
        core = linked()
        core.receive_data(outcome + frame(FrameType.DATA, LOCAL, b"", FrameFlag.EOF), 0)
        self.assertFalse(core.closed)

    def test_malformed(self) -> None:
        """An EVENT that is no event is `protocol`."""
        for payload in (b"", b"{}", b"[1]", b'{"seq":0,"at":0,"kind":"x"}'):
            self.fails(linked(), frame(FrameType.EVENT, LOCAL, payload), ErrorCode.PROTOCOL)


class PingTests(Base):
    """L1 and L3."""

    def test_answer(self) -> None:
        """PONG has the same bytes and goes ahead of everything; only the newest is answered."""
        core = linked()
        core.receive_data(frame(FrameType.PING, payload=b"aaaaaaaa"), 0)
        core.receive_data(frame(FrameType.PING, payload=b"bbbbbbbb"), 0)
        core.reset(LOCAL, ErrorCode.CANCELLED)
        frames = frames_of(core.next_record()[0])
        self.assertEqual(frames[0], Frame(FrameType.PONG, 0, 0, b"bbbbbbbb"))
        self.assertEqual([f.type for f in frames], [FrameType.PONG, FrameType.RESET])

    def test_pong(self) -> None:
        """Only the PONG to the newest PING counts, once."""
        core = linked()
        core.send_ping(b"11111111")
        core.send_ping(b"22222222")
        core.next_record()
        old, new = (frame(FrameType.PONG, payload=p * 8) for p in (b"1", b"2"))
        self.assertEqual(core.receive_data(old, 0), [])
        self.assertEqual(core.receive_data(new, 0), [PongReceived(b"22222222")])
        self.assertEqual(core.receive_data(new, 0), [])

    def test_length(self) -> None:
        """A PING of another length is `protocol`."""
        for size in (0, 7, 9):
            self.fails(linked(), frame(FrameType.PING, payload=bytes(size)), ErrorCode.PROTOCOL)


class RateTests(Base):
    """Section 13, with explicit time."""

    def spend(self, wire: list[bytes], allowed: int, rate: float) -> None:
        """Check that ``allowed`` frames pass at once, one more does not, and time gives more."""
        core = linked()
        for piece in wire[:allowed]:
            core.receive_data(piece, 10.0)
        self.assertFalse(core.closed)
        core.receive_data(wire[allowed], 10.0 + 1.01 / rate)
        self.assertFalse(core.closed, "time gives more")
        self.fails(core, wire[allowed + 1], ErrorCode.OVERLOAD, 10.0 + 1.01 / rate)

    def test_open(self) -> None:
        """100 OPEN at once, 50 a second; refused ones count."""
        opens = [frame(FrameType.OPEN, n) for n in range(3, 300, 2)]
        # `linked` opened one; that second is long over.
        self.spend(opens, 100, 50)

    def test_reset(self) -> None:
        """50 RESET a second, whatever they concern."""
        self.spend([frame(FrameType.RESET, REMOTE)] * 60, 50, 50)

    def test_ping(self) -> None:
        """4 PING a second."""
        self.spend([frame(FrameType.PING)] * 10, 4, 4)

    def test_event(self) -> None:
        """200 EVENT a second, repeated ones and those of finished streams too."""
        core = linked()
        core.reset(REMOTE, ErrorCode.CANCELLED)
        self.spend([frame(FrameType.EVENT, LOCAL, note(1, 0))] * 210, 200, 200)

    def test_what_was_asked_for_is_free(self) -> None:
        """The outcome and the RESET of a stream that this side opened do not count."""
        core = linked()
        core.peer_max_streams = 1000
        for seq in range(400):
            number = core.open_stream(request(), Talker(), 1)
            core.receive_data(frame(FrameType.OPENED, number, encode(Opened(0, 100, 0))), 0)
            if seq % 2:
                core.receive_data(frame(FrameType.EVENT, number, note(1, 0, "outcome")), 0)
                core.reset(number, ErrorCode.CANCELLED)
            else:
                core.receive_data(frame(FrameType.RESET, number, encode(Reset("lost", ""))), 0)
        self.assertFalse(core.closed)

    def test_a_repeated_outcome_counts(self) -> None:
        """Only the first outcome of a stream is free."""
        core = linked()
        wire = frame(FrameType.EVENT, LOCAL, note(1, 0, "outcome"))
        for _ in range(201):
            core.receive_data(wire, 10.0)
        self.assertFalse(core.closed)
        self.fails(core, wire, ErrorCode.OVERLOAD, 10.0)

    def test_limit_flood(self) -> None:
        """1,000 LIMIT and four for each frame sent; then overload."""
        attributes = attrs.evolve(AT_GATEWAY_FROM_DEVICE, limit_floor=10)
        core = LinkConnection(dialler=False, limits=attributes)
        core.receive_data(frame(FrameType.HELLO, payload=encode(hello())), 0)
        core.send_welcome(welcome())
        core.receive_data(frame(FrameType.OPEN, 1), 0)
        talker = Talker()
        core.accept(1, request(), Opened(0, 100, 0), talker)
        talker.end.write(b"one frame")
        core.wake(1)
        core.next_record()
        wire = frame(FrameType.LIMIT, 1, limit_payload(0, 0, 0))
        core.receive_data(wire * (10 + 4 + 4), 0)
        self.assertFalse(core.closed)
        self.fails(core, wire, ErrorCode.OVERLOAD)

    def test_honest_limits_pass(self) -> None:
        """A megabyte consumed byte by byte stays far inside the allowance."""
        pair = ConnectionPair(gateway=AT_GATEWAY_FROM_DEVICE)
        caller, answerer, _ = converse(pair, window=4096)
        answerer.end.write(bytes(1_000_000))
        pair.run()
        self.assertEqual(len(caller.got), 1_000_000)

    def test_a_dialler_trusts_rates(self) -> None:
        """A dialler puts no rate on its gateway."""
        core = LinkConnection(dialler=True, limits=AT_AGENT)
        core.receive_data(frame(FrameType.WELCOME, payload=encode(welcome())), 0)
        core.receive_data(frame(FrameType.PING) * 10_000, 0)
        self.assertFalse(core.closed)

    def test_max_streams(self) -> None:
        """One stream more than announced is refused with `streams`; the link lives on."""
        limits = attrs.evolve(AT_GATEWAY_FROM_OPERATOR, max_streams=3)
        core = linked(limits)
        events = core.receive_data(b"".join(frame(FrameType.OPEN, n) for n in (3, 5, 7)), 0)
        self.assertEqual([e.stream for e in events if isinstance(e, StreamRequested)], [3, 5])
        (refused,) = frames_of(core.next_record()[0])
        self.assertEqual((refused.type, refused.stream), (FrameType.REFUSED, 7))
        self.assertIn(b"streams", refused.payload)
        core.reset(3, ErrorCode.CANCELLED)
        self.assertEqual(len(core.receive_data(frame(FrameType.OPEN, 9), 0)), 1)

    def test_control_queue(self) -> None:
        """A peer that asks and never reads is cut off while little is queued for it (F9)."""
        limits = attrs.evolve(AT_AGENT, max_streams=0, control_queue_bytes=10_000)
        core = LinkConnection(dialler=True, limits=limits)
        core.receive_data(frame(FrameType.WELCOME, payload=encode(welcome())), 0)
        events = []
        for number in range(2, 2000, 2):
            events += core.receive_data(frame(FrameType.OPEN, number), 0)
            self.assertLessEqual(core._outgoing.queued_bytes, 10_000)
            if core.closed:
                break
        self.assertIsInstance(events[-1], LinkFailed)
        (goaway,) = frames_of(core.next_record()[0])
        self.assertEqual(goaway.type, FrameType.GOAWAY)
        self.assertIn(b"overload", goaway.payload)

    def test_pings_cost_one_answer(self) -> None:
        """PINGs to a side that cannot write queue one PONG (F9)."""
        core = LinkConnection(dialler=True, limits=AT_AGENT)
        core.receive_data(frame(FrameType.WELCOME, payload=encode(welcome())), 0)
        core.receive_data(frame(FrameType.PING) * 1000, 0)
        self.assertEqual(len(frames_of(core.next_record()[0])), 1)
        self.assertFalse(core.has_output)


class BudgetTests(SynchronousTestCase):
    """TokenBucket and CreditBudget."""

    @given(st.lists(st.floats(0, 2), max_size=200), st.floats(0.5, 50), st.integers(1, 20))
    def test_bucket(self, pauses: list[float], rate: float, burst: int) -> None:
        """No more passes than the burst and the rate times the time."""
        bucket, now, passed = TokenBucket(rate, burst), 0.0, 0
        for pause in pauses:
            now += pause
            passed += bucket.take(now)
        self.assertLessEqual(passed, burst + rate * now + 1e-6)

    def test_standing_clock(self) -> None:
        """A clock that stands still allows the burst."""
        bucket = TokenBucket(5, 3)
        self.assertEqual([bucket.take(7.0) for _ in range(5)], [True] * 3 + [False] * 2)

    def test_shares(self) -> None:
        """A stream's window is what it wants, or its share of the total, never below 2,048."""
        budget = CreditBudget(1_000_000)
        self.assertEqual(budget.window(262_144), 262_144)
        for _ in range(10):
            budget.join()
        self.assertEqual(budget.window(262_144), 100_000)
        for _ in range(10_000):
            budget.join()
        self.assertEqual(budget.window(262_144), 2_048)
        for _ in range(20_000):
            budget.leave()
        self.assertEqual(budget.window(262_144), 262_144)


class ReplayTests(SynchronousTestCase):
    """Byte at a time is the same as record at a time."""

    def scenario(self, chunk: int | None) -> ConnectionPair:
        """Hold one long conversation with everything in it."""
        pair = ConnectionPair(chunk=chunk)
        caller, answerer, number = converse(pair, window=5000)
        caller.end.send_event("window", {"rows": 24, "columns": 80}, urgent=True)
        caller.end.write(bytes(range(256)) * 60)
        pair.run()
        answerer.end.write(b"error" * 100, stderr=True)
        answerer.end.send_event("progress", {"done": 1})
        answerer.end.write(b"output" * 3000)
        pair.step(pair.gateway)
        caller.end.send_event("signal", {"signal": "INT"}, urgent=True)
        pair.dialler.core.send_ping(b"12345678")
        pair.run()
        caller.end.write_eof()
        pair.gateway.on_request = None
        Talker().call(pair.dialler)
        pair.run()
        pair.dialler.core.reset(number + 2, ErrorCode.CANCELLED, "no")
        answerer.end.send_event("outcome", {"status": "exit", "exit_code": 3})
        pair.run()
        pair.dialler.receive(b"", pair.now)
        pair.gateway.receive(b"\xff\x00\x00\x00\x00\x00\x00\x01", pair.now)
        pair.run()
        return pair

    def test_chunks(self) -> None:
        """The same events and the same bytes come out, whatever the pieces."""
        whole = self.scenario(None)
        kinds = {type(event).__name__ for event in whole.dialler.events + whole.gateway.events}
        self.assertGreater(len(kinds), 9, kinds)
        for chunk in (1, 2, 3, 7, 8, 9, 1000):
            pieces = self.scenario(chunk)
            for one, other in (
                (whole.dialler, pieces.dialler),
                (whole.gateway, pieces.gateway),
            ):
                self.assertEqual(
                    [repr(event) for event in one.events], [repr(event) for event in other.events]
                )
                self.assertEqual(one.wire, other.wire)
