"""LinkProtocol: greeting, back-pressure and endings."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import FrameType
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import Advice, GoAway, Open, Opened, Outcome, Reset, Sessions, encode
from rshell.link.protocol import LinkProtocol
from tests.link.fakes import Application, FakeTransport, Line, Owner, Receiver
from tests.link.pairs import frames_of, hello, request, welcome

GARBAGE = b"GET / HTTP/1.1\r\n\r\n"


class GreetingTests(SynchronousTestCase):
    """P7 and W5."""

    def test_greeting(self) -> None:
        """Both owners hear of the other side, and both links count as connected."""
        line = Line(greet=False)
        self.assertIsNone(line.dialler.connected_at)
        line.clock.advance(3)
        line.dialler.hello(hello())
        line.run()
        self.assertEqual(line.gateway_owner.said, [("hello", hello())])
        self.assertEqual(line.dialler_owner.said, [("welcome", welcome())])
        self.assertEqual((line.dialler.connected_at, line.gateway.connected_at), (3.0, 3.0))

    def test_no_hello(self) -> None:
        """Without HELLO the gateway aborts after 10 s, not before."""
        line = Line(greet=False)
        line.advance(9.75)
        self.assertEqual(line.gateway_owner.said, [])
        line.advance(0.5)
        self.assertTrue(line.wire(line.gateway).aborted)
        self.assertEqual(line.gateway_owner.said, [("lost", "no HELLO in time")])

    def test_shorter_greeting(self) -> None:
        """An owner may give the peer less time, counted by itself from an earlier moment."""
        line = Line(greet=False)
        link = LinkProtocol(
            Owner(),
            line.wheel,
            dialler=False,
            limits=line.gateway.core.limits,
            greeting_seconds=3.0,
        )
        transport = FakeTransport()
        link.makeConnection(transport)
        line.clock.advance(2.75)
        self.assertFalse(transport.aborted)
        line.clock.advance(0.5)
        self.assertTrue(transport.aborted)

    def test_bytes_are_no_hello(self) -> None:
        """A peer that dribbles bytes is cut off at the same time."""
        line = Line(greet=False)
        for byte in encode_frame(FrameType.HELLO, 0, encode(hello()))[:12]:
            line.gateway.dataReceived(bytes([byte]))
            line.advance(1, carry=False)
        self.assertTrue(line.wire(line.gateway).aborted)

    def test_no_welcome(self) -> None:
        """The dialler waits 30 s for WELCOME, longer than the gateway for HELLO."""
        line = Line(greet=False)
        line.gateway_owner.judge = None
        line.dialler.hello(hello())
        line.advance(29.75, carry=False)
        self.assertFalse(line.wire(line.dialler).aborted)
        line.advance(0.5, carry=False)
        self.assertTrue(line.wire(line.dialler).aborted)
        self.assertEqual(line.dialler_owner.said, [("lost", "no WELCOME in time")])

    def test_refused(self) -> None:
        """A gateway that judges against a dialler tells it why and closes."""
        line = Line(greet=False)
        line.gateway_owner.judge = lambda link: link.go_away(
            GoAway(code="auth", message="who are you"), close=True
        )
        line.dialler.hello(hello())
        line.run()
        self.assertEqual(line.dialler_owner.names(), ["goaway"])
        self.assertTrue(line.wire(line.gateway).disconnecting)
        line.wire(line.dialler).lost()
        self.assertEqual(line.dialler_owner.said[-1], ("lost", "the peer said auth: who are you"))

    def test_limits_of_the_peer(self) -> None:
        """WELCOME may come with limits that fit the peer."""
        line = Line(greet=False)
        limits = line.dialler.core.limits
        line.gateway_owner.judge = lambda link: link.welcome(welcome(), limits)
        line.dialler.hello(hello())
        line.run()
        self.assertIs(line.gateway.core.limits, limits)
        self.assertEqual(line.gateway.receive_budget.total, limits.receive_budget)

    def test_handshake(self) -> None:
        """The owner hears that TLS is up."""
        line = Line(greet=False)
        line.gateway.handshake_completed()
        self.assertEqual(line.gateway_owner.names(), ["handshaken"])

    def test_producer(self) -> None:
        """A link is a push producer of its transport and owns the queue."""
        line = Line()
        self.assertTrue(verifyObject(IPushProducer, line.dialler))
        self.assertIs(line.wire(line.dialler).producer, line.dialler)
        self.assertTrue(line.wire(line.dialler).bufferSize < 2)


class QueueTests(SynchronousTestCase):
    """One record at a time: Q1."""

    def test_pause(self) -> None:
        """A transport that says stop gets not one record more until it asks."""
        line = Line()
        caller, _ = line.channel()
        wire = line.wire(line.dialler)
        wire.room = 1
        caller.write(bytes(200_000))
        self.assertEqual([len(record) for record in wire.records], [16_384])
        wire.resume(2)
        self.assertEqual([len(record) for record in wire.records], [16_384] * 3)
        line.dialler.flush()
        line.dialler.sessions(Sessions())
        line.dialler.dataReceived(encode_frame(FrameType.PING, 0, b"12345678"))
        self.assertEqual(len(wire.records), 3)
        wire.records.clear()
        wire.resume(1)
        kinds = [frame.type for frame in wire.frames()]
        self.assertEqual(kinds, [FrameType.PONG, FrameType.SESSIONS, FrameType.DATA])

    def test_stop_producing(self) -> None:
        """A transport that is gone is not written to."""
        line = Line()
        caller, _ = line.channel()
        line.dialler.stopProducing()
        caller.write(b"lost")
        self.assertEqual(line.wire(line.dialler).records, [])

    def test_answers_of_one_read_share_a_record(self) -> None:
        """What one read brings about is written once, after it."""
        line = Line()
        answers: list[int] = []

        def refuse(link: LinkProtocol, number: int, opening: Open) -> None:
            answers.append(number)
            link.refuse(number, ErrorCode.POLICY, "no")
            self.assertEqual(line.wire(line.gateway).records, [])

        line.gateway_owner.on_request = refuse
        wire = b"".join(encode_frame(FrameType.OPEN, n, encode(request())) for n in (1, 3, 5))
        line.gateway.dataReceived(wire)
        self.assertEqual(answers, [1, 3, 5])
        self.assertEqual(len(line.wire(line.gateway).records), 1)


class EndingTests(SynchronousTestCase):
    """W4, GOAWAY, and who is told."""

    def opened(self, line: Line) -> tuple[Receiver, Receiver, int]:
        """Open a stream with receivers that note what they hear."""
        caller, answerer = Receiver(), Receiver()

        def answer(link: LinkProtocol, number: int, opening: Open) -> None:
            start = answerer.end.positions()
            opened = Opened(start.consumed, start.limit, start.events)
            link.accept(number, opening, opened, answerer)

        line.gateway_owner.on_request = answer
        number = line.dialler.open_stream(request(), caller)
        line.run()
        self.assertEqual(caller.said, [("opened", Opened(0, 262144, 0))])
        caller.said.clear()
        return caller, answerer, number

    def test_planned_end(self) -> None:
        """GOAWAY is written, then the connection closed, and cut off 2 s later."""
        line = Line()
        caller, answerer, _ = self.opened(line)
        wire = line.wire(line.gateway)
        line.gateway.go_away(GoAway(code="shutdown"), close=True, reason="stopping")
        self.assertTrue(wire.disconnecting)
        self.assertIsNone(wire.producer)
        self.assertEqual([f.type for f in wire.frames()], [FrameType.GOAWAY])
        self.assertEqual(answerer.said, [])
        line.advance(1.75)
        self.assertFalse(wire.aborted)
        line.advance(0.5)
        self.assertTrue(wire.aborted)
        self.assertEqual(answerer.said, [("lost", "stopping")])
        self.assertEqual(line.gateway_owner.said[-1], ("lost", "stopping"))
        wire.lost()
        self.assertEqual(answerer.said, [("lost", "stopping")])
        self.assertEqual(line.gateway_owner.names().count("lost"), 1)
        self.assertEqual(caller.said, [])

    def test_last_words_to_a_full_transport(self) -> None:
        """GOAWAY is handed even to a transport that said stop."""
        line = Line()
        wire = line.wire(line.gateway)
        line.gateway.pauseProducing()
        line.gateway.go_away(GoAway(code="shutdown"), close=False)
        self.assertEqual(wire.records, [])
        line.gateway.go_away(GoAway(code="shutdown"), close=True)
        self.assertEqual([f.type for f in wire.frames()], [FrameType.GOAWAY] * 2)
        self.assertTrue(wire.disconnecting)

    def test_goaway_without_close(self) -> None:
        """After a GOAWAY streams go on and no new one is opened."""
        line = Line()
        caller, answerer, _ = self.opened(line)
        line.gateway.go_away(GoAway(code="shutdown", retry_spread_ms=5), close=False)
        line.run()
        self.assertIn(
            ("goaway", GoAway(code="shutdown", retry_spread_ms=5)), line.dialler_owner.said
        )
        self.assertRaises(LocalProtocolError, line.dialler.open_stream, request(), Receiver())
        caller.end.attach(lambda: line.dialler.wake(1))
        caller.end.resume(Opened(0, 1000, 0))  # type: ignore[arg-type]  # has the same fields
        caller.end.write(b"still")
        line.run()
        self.assertEqual(answerer.got, b"still")

    def test_garbage(self) -> None:
        """Garbage gives GOAWAY, a close and one link_lost with the rule; nothing is logged."""
        for at_once in (True, False):
            line = Line()
            _, answerer, _ = self.opened(line)
            wire = line.wire(line.gateway)
            pieces = [GARBAGE * 100] if at_once else [bytes([b]) for b in GARBAGE * 100]
            for piece in pieces:
                line.gateway.dataReceived(piece)
            (goaway,) = wire.frames()
            self.assertEqual(goaway.type, FrameType.GOAWAY)
            self.assertTrue(wire.disconnecting)
            wire.lost()
            line.advance(5)
            self.assertEqual(len(answerer.said), 1)
            name, reason = line.gateway_owner.said[-1]
            self.assertEqual(name, "lost")
            self.assertIn("frame-size", reason)
            self.assertEqual(line.gateway_owner.names().count("lost"), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_connection_lost(self) -> None:
        """A connection that breaks tells every receiver once, then the owner once."""
        line = Line()
        caller, _, _ = self.opened(line)
        line.wire(line.dialler).lost()
        line.wire(line.dialler).lost()
        self.assertEqual(caller.said, [("lost", "the peer closed the connection")])
        self.assertEqual(line.dialler_owner.names().count("lost"), 1)
        self.assertTrue(line.dialler.closed)
        line = Line()
        line.wire(line.dialler).lost(clean=False)
        self.assertIn("lost", line.dialler_owner.said[-1][1])

    def test_abort(self) -> None:
        """An abort ends the link at once with its reason; nothing more is sent."""
        line = Line()
        caller, _, number = self.opened(line)
        line.dialler.abort("a newer link")
        line.dialler.abort("again")
        self.assertTrue(line.wire(line.dialler).aborted)
        self.assertEqual(caller.said, [("lost", "a newer link")])
        for call in (
            lambda: line.dialler.reset(number, "cancelled"),
            lambda: line.dialler.go_away(GoAway(code="none"), close=True),
            lambda: line.dialler.sessions(Sessions()),
            line.dialler.flush,
            line.dialler.probe,
        ):
            call()
        line.wire(line.dialler).lost()
        self.assertEqual(line.wire(line.dialler).records, [])
        self.assertEqual(line.dialler_owner.names().count("lost"), 1)
        self.assertFalse(line.dialler.waiting(number))

    def test_abort_inside_a_read(self) -> None:
        """When the owner aborts, the rest of the same read is not told (link_lost is last)."""
        line = Line()
        line.gateway_owner.on_request = lambda link, number, opening: link.abort("enough")
        wire = b"".join(encode_frame(FrameType.OPEN, n, encode(request())) for n in (1, 3))
        line.gateway.dataReceived(wire)
        self.assertEqual(line.gateway_owner.names(), ["hello", "requested", "lost"])

    def test_queue_overflow(self) -> None:
        """A peer that does not read is cut off, and the reason says so."""
        line = Line()
        line.gateway_owner.on_request = lambda link, n, opening: link.refuse(n, "policy", "x" * 256)
        line.gateway.pauseProducing()
        for number in range(1, 20_000, 2):
            line.clock.advance(0.01)
            if line.gateway.closed:
                break
            line.gateway.dataReceived(encode_frame(FrameType.OPEN, number, encode(request())))
        line.wire(line.gateway).lost()
        self.assertIn("does not read", line.gateway_owner.said[-1][1])

    def test_each_end_of_a_stream(self) -> None:
        """Refused, reset and finished are told once, to the stream they concern."""
        line = Line()
        line.gateway_owner.on_request = lambda link, n, opening: link.refuse(n, "policy", "no")
        refused = Receiver()
        line.dialler.open_stream(request(), refused)
        line.run()
        self.assertEqual(refused.said, [("refused", "policy", "no")])
        caller, answerer, number = self.opened(line)
        line.gateway.reset(number, "timeout", "too long")
        line.run()
        self.assertEqual((caller.said, answerer.said), ([("reset", "timeout", "too long")], []))
        caller, answerer, number = self.opened(line)
        answerer.end.attach(lambda: line.gateway.wake(number))
        caller.end.attach(lambda: line.dialler.wake(number))
        answerer.end.send_event("outcome", {"status": "ok"})
        line.run()
        self.assertEqual((caller.said, answerer.said), ([("finished",)], [("finished",)]))
        line.wire(line.dialler).lost()
        self.assertEqual(refused.said + caller.said, [("refused", "policy", "no"), ("finished",)])
        self.assertEqual(line.gateway.receive_budget._streams, 0)
        self.assertEqual(line.dialler.receive_budget._streams, 0)

    def test_given_up_in_the_same_read(self) -> None:
        """A stream that is reset in the read that opened it is nobody's business."""
        line = Line()
        self.gone(line, encode_frame(FrameType.RESET, 1, encode(Reset("cancelled"))))
        self.assertFalse(line.gateway.closed)

    def test_fault_in_the_same_read(self) -> None:
        """Nor is one whose link fails in the same read."""
        line = Line()
        self.gone(line, GARBAGE)
        self.assertTrue(line.gateway.closed)

    def gone(self, line: Line, rest: bytes) -> None:
        def accept(link: LinkProtocol, number: int, opening: Open) -> None:
            link.accept(number, opening, Opened(0, 0, 0), Receiver())

        line.gateway_owner.on_request = accept
        opening = encode_frame(FrameType.OPEN, 1, encode(request()))
        line.gateway.dataReceived(opening + rest)
        self.assertNotIn("requested", line.gateway_owner.names())
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_welcome_and_garbage_in_one_read(self) -> None:
        """An owner that speaks on WELCOME is not hurt by a fault behind it."""
        line = Line(greet=False)
        line.dialler_owner.on_welcome = lambda link: link.sessions(Sessions())
        line.dialler.hello(hello())
        greeting = encode_frame(FrameType.WELCOME, 0, encode(welcome()))
        line.dialler.dataReceived(greeting + GARBAGE)
        self.assertEqual(line.dialler_owner.names(), ["welcome"])
        self.assertTrue(line.wire(line.dialler).disconnecting)

    def test_watch(self) -> None:
        """Who watches a stream that waits hears when the peer gives it up."""
        line = Line()
        watcher = Receiver()
        line.gateway_owner.on_request = lambda link, number, opening: link.watch(number, watcher)
        number = line.dialler.open_stream(request(), Receiver())
        line.run()
        self.assertTrue(line.gateway.waiting(number))
        line.dialler.reset(number, "cancelled", "never mind")
        line.run()
        self.assertEqual(watcher.said, [("reset", "cancelled", "never mind")])
        self.assertFalse(line.gateway.waiting(number))
        line.gateway.refuse(number, "policy", "too late")
        self.assertEqual(line.wire(line.gateway).records, [])


class FaultTests(SynchronousTestCase):
    """A fault of ours ends one stream, not the link."""

    def test_receiver(self) -> None:
        """A receiver that fails loses its stream; its peer hears `internal`."""
        line = Line()

        class Broken(Receiver):
            """Fails on bytes."""

            def data_received(self, event: Any) -> None:
                raise KeyError("a bug")

        broken = Broken()
        line.gateway_owner.on_request = lambda link, number, opening: link.accept(
            number, opening, Opened(0, 1000, 0), broken
        )
        caller = Receiver()
        number = line.dialler.open_stream(request(), caller)
        line.run()
        caller.end.attach(lambda: line.dialler.wake(number))
        caller.end.write(b"x")
        line.run()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(broken.said, [("reset", "internal", "a fault at this end")])
        self.assertEqual(caller.said[-1][:2], ("reset", "internal"))
        self.assertFalse(line.gateway.closed)

    def test_end_is_told_to_all(self) -> None:
        """A receiver that fails at the end keeps neither the others nor the owner from hearing."""
        line = Line()

        class Broken(Receiver):
            """Fails when the link is lost."""

            def link_lost(self, reason: str) -> None:
                raise KeyError("a bug")

        other = Receiver()
        line.dialler.open_stream(request(), Broken())
        line.dialler.open_stream(request(), other)
        line.run()
        line.dialler.abort("cut")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(other.said[-1], ("lost", "cut"))
        self.assertEqual(line.dialler_owner.said[-1], ("lost", "cut"))

    def test_owner(self) -> None:
        """An owner that fails on a request refuses it; on anything else it loses the link."""
        line = Line()

        def fail(*args: Any) -> None:
            raise KeyError("a bug")

        line.gateway_owner.on_request = fail
        caller = Receiver()
        line.dialler.open_stream(request(), caller)
        line.run()
        self.assertEqual(caller.said, [("refused", "internal", "a fault at this end")])
        line = Line(greet=False)
        line.gateway_owner.judge = fail
        line.dialler.hello(hello())
        line.run()
        self.assertTrue(line.wire(line.gateway).aborted)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)


class TogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = Line()
        self.asked: list[tuple[int, Open]] = []
        self.line.gateway_owner.on_request = lambda _link, number, opening: self.asked.append(
            (number, opening)
        )
        self.caller = Receiver()
        self.line.dialler.open_stream(request(), self.caller)
        self.line.run()

    def answer(self) -> None:
        (asked,) = self.asked
        channel = StreamChannel(self.line.gateway, Application())
        channel.accept(*asked)
        channel.write(b"all of it")
        channel.finish(Outcome(status="ok"))

    def test_one_record(self) -> None:
        """An answer that is complete leaves in one record, at once."""
        self.line.gateway.together(self.answer)
        records = self.line.wire(self.line.gateway).records
        self.assertEqual(len(records), 1)
        types = [FrameType(frame.type).name for frame in frames_of(records[0])]
        self.assertEqual(types[0], "OPENED")
        self.assertEqual(types[-2:], ["DATA", "EVENT"])
        self.assertEqual(len(types), len(set(types)))

    def test_nested(self) -> None:
        """Within another one it adds to that."""
        link = self.line.gateway

        def twice() -> None:
            link.together(self.answer)
            self.assertEqual(self.line.wire(link).records, [])

        link.together(twice)
        self.assertEqual(len(self.line.wire(link).records), 1)

    def test_failing(self) -> None:
        """What was sent before an error leaves, and the link goes on."""
        link = self.line.gateway

        def fail() -> None:
            self.answer()
            raise KeyError("a bug")

        self.assertRaises(KeyError, link.together, fail)
        self.assertEqual(len(self.line.wire(link).records), 1)
        link.sessions(Sessions())
        self.assertEqual(len(self.line.wire(link).records), 2)


class FaultOfAWriteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = Line()
        self.other = Line(beside=self.line)
        self.caller = Receiver()

    def fail_at_write(self, link: LinkProtocol) -> None:
        """Let the next write of a link find a bug."""

        def write(_data: bytes) -> None:
            raise KeyError("a bug")

        self.patch(self.line.wire(link), "write", write)

    def test_in_a_read(self) -> None:
        """It ends its own link; others that share the turn write, then and later."""
        line, other = self.line, self.other
        line.gateway_owner.on_request = lambda _link, number, _opening: (
            other.gateway.advise(Advice(retry_spread_ms=1_000)),
            line.gateway.refuse(number, ErrorCode.POLICY, ""),
        )
        self.fail_at_write(line.gateway)
        line.dialler.open_stream(request(), self.caller)
        line.run()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue(line.wire(line.gateway).aborted)
        self.assertNotEqual(other.wire(other.gateway).take(), b"")
        other.gateway.advise(Advice(retry_spread_ms=2_000))
        self.assertNotEqual(other.wire(other.gateway).take(), b"")

    def test_of_one_that_waited(self) -> None:
        """Links behind it in the turn write, too."""
        line, other = self.line, self.other
        third = Line(beside=line)
        other.gateway_owner.on_request = lambda _link, number, _opening: (
            line.gateway.advise(Advice(retry_spread_ms=1_000)),
            third.gateway.advise(Advice(retry_spread_ms=1_000)),
        )
        self.fail_at_write(line.gateway)
        other.dialler.open_stream(request(), self.caller)
        other.run()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue(line.wire(line.gateway).aborted)
        self.assertNotEqual(third.wire(third.gateway).take(), b"")
