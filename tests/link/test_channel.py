"""StreamChannel: a stream's end as a Twisted transport."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IConsumer, IPullProducer, IPushProducer, ITransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import DEFAULT_WINDOW, EVENTS_UNACKNOWLEDGED, FrameType
from rshell.link.core.events import DataReceived
from rshell.link.core.messages import Open, Outcome
from rshell.link.regulator import SEND_BUFFER_BYTES
from tests.link.fakes import Application, Line, application
from tests.link.pairs import request

WINDOW = DEFAULT_WINDOW


@implementer(IPushProducer)
class Pusher:
    """A push producer that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pauseProducing(self) -> None:
        self.said.append("pause")

    def resumeProducing(self) -> None:
        self.said.append("resume")

    def stopProducing(self) -> None:
        self.said.append("stop")


@implementer(IPullProducer)
class Puller:
    """A pull producer with ``left`` pieces of ``size`` bytes."""

    def __init__(self, channel: StreamChannel, left: int, size: int) -> None:
        self.channel = channel
        self.left = left
        self.size = size
        self.stopped = False

    def resumeProducing(self) -> None:
        if self.left:
            self.left -= 1
            self.channel.write(bytes(self.size))
        else:
            self.channel.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class Base(SynchronousTestCase):
    """A line with one stream."""

    def setUp(self) -> None:
        self.line = Line()
        self.caller, self.answerer = self.line.channel()
        self.here, self.there = application(self.caller), application(self.answerer)
        self.here.said.clear()

    def limits(self, data: bytes) -> int:
        """Count LIMIT frames of 32 bytes in what was written."""
        return len(data) // 32 if data[:1] == bytes([FrameType.LIMIT]) else 0


class TransportTests(Base):
    """ITransport."""

    def test_interfaces(self) -> None:
        """A channel provides what a Twisted transport, consumer and producer must."""
        for interface in (ITransport, IConsumer, IPushProducer):
            self.assertTrue(verifyObject(interface, self.caller))
        self.assertIn("stream", repr(self.caller.getPeer()))
        self.assertIn("stream", repr(self.caller.getHost()))

    def test_bytes(self) -> None:
        """Bytes arrive in order, with their channel."""
        self.caller.write(b"one")
        self.caller.writeSequence([b"two", b"three"])
        self.line.run()
        self.assertEqual(self.there.got, b"onetwothree")
        self.answerer.write(b"out")
        self.answerer.write_stderr(b"err")
        self.answerer.write(b"out")
        self.line.run()
        self.assertEqual(
            self.here.said,
            [("data", b"out", False), ("data", b"err", True), ("data", b"out", False)],
        )

    def test_lose_connection(self) -> None:
        """loseConnection ends one direction, after what was written; the other goes on."""
        self.caller.write(bytes(100_000))
        self.caller.loseConnection()
        self.caller.loseConnection()
        self.caller.write(b"too late")
        self.line.run()
        self.assertEqual(len(self.there.got), 100_000)
        self.assertEqual(self.there.said.count(("ended",)), 1)
        self.answerer.write(b"answer")
        self.line.run()
        self.assertEqual(self.here.got, b"answer")
        self.assertFalse(self.caller.closed)

    def test_abort_connection(self) -> None:
        """abortConnection ends both directions; each side is told once."""
        self.caller.write(bytes(1000))
        self.caller.abortConnection()
        self.caller.abortConnection()
        self.line.run()
        self.caller.write(b"x")
        self.caller.send_event("signal", {}, urgent=True)
        self.caller.finish(Outcome(status="ok"))
        self.line.run()
        self.assertEqual(self.here.said, [("closed", "cancelled", "")])
        self.assertEqual(self.there.said[-1], ("closed", "cancelled", ""))
        self.assertEqual(self.there.said.count(self.there.said[-1]), 1)

    def test_refused(self) -> None:
        """A refused stream closes its channel with the code."""
        self.line.gateway_owner.on_request = lambda link, n, o: link.refuse(n, "policy", "no")
        app = Application()
        channel = StreamChannel(self.line.dialler, app)
        channel.request(request())
        self.line.run()
        self.assertEqual(app.said, [("closed", "policy", "no")])
        self.assertTrue(channel.closed)

    def test_link_lost(self) -> None:
        """A link that breaks closes its channels with link-lost."""
        self.line.wire(self.line.dialler).lost()
        self.assertEqual(
            self.here.said, [("closed", "link-lost", "the peer closed the connection")]
        )

    def test_accept_too_late(self) -> None:
        """A channel whose peer gave up while we thought is closed, not an error."""
        asked: list[tuple[int, Open]] = []
        self.line.gateway_owner.on_request = lambda link, n, o: asked.append((n, o))
        channel = StreamChannel(self.line.dialler, Application())
        channel.request(request())
        self.line.run()
        channel.abortConnection()
        self.line.run()
        app = Application()
        late = StreamChannel(self.line.gateway, app)
        late.accept(*asked[0])
        self.assertEqual([entry[0] for entry in app.said], ["closed"])
        self.assertTrue(late.closed)


class DeliveryTests(Base):
    """IPushProducer: credit follows the application."""

    def test_pause_stops_credit(self) -> None:
        """While delivery is paused nothing is consumed: the peer sends one window, no more."""
        self.answerer.pauseProducing()
        self.caller.write(bytes(1_000_000))
        self.line.run()
        self.line.advance(5)
        self.assertEqual(self.there.got, b"")
        self.assertEqual(self.caller.end.unsent, 1_000_000 - WINDOW)
        self.assertEqual(self.answerer.end.unconsumed, WINDOW)
        self.answerer.resumeProducing()
        self.line.run()
        self.assertEqual(len(self.there.got), 1_000_000)

    def test_pause_inside_delivery(self) -> None:
        """An application that pauses inside a call gets nothing more until it resumes."""
        self.there.on_data = lambda data: self.answerer.pauseProducing()
        self.caller.write(bytes(50_000))
        self.line.run()
        self.assertEqual(len(self.there.said), 1)
        self.answerer.resumeProducing()
        self.assertEqual(len(self.there.said), 2)

    def test_order(self) -> None:
        """Bytes, events and the end keep their order through a pause; urgent ones do not wait."""
        self.answerer.pauseProducing()
        self.caller.write(b"a")
        self.line.run()
        self.caller.send_event("mark", {"n": 1})
        self.caller.write(b"b")
        self.line.run()
        self.caller.send_event("signal", {"signal": "INT"}, urgent=True)
        self.caller.loseConnection()
        self.line.run()
        self.assertEqual(self.there.said, [("event", "signal", {"signal": "INT"}, True)])
        self.answerer.resumeProducing()
        self.assertEqual(
            self.there.said[1:],
            [
                ("data", b"a", False),
                ("event", "mark", {"n": 1}, False),
                ("data", b"b", False),
                ("ended",),
            ],
        )

    def test_events_behind_a_pause(self) -> None:
        """Events are acknowledged as they are taken: of those that wait there are 64 (V4)."""
        self.answerer.pauseProducing()
        for number in range(200):
            self.caller.send_event("progress", {"done": number})
            self.line.run()
        self.line.advance(2)
        self.assertEqual(len(self.answerer._waiting), EVENTS_UNACKNOWLEDGED)
        self.answerer.resumeProducing()
        self.line.run()
        self.assertEqual([entry[2]["done"] for entry in self.there.said], list(range(200)))
        self.assertTrue(self.caller.end.drained)

    def test_end_without_end(self) -> None:
        """An end that is told again and again (rule F6) waits once behind a pause."""
        self.answerer.pauseProducing()
        for _ in range(100):
            self.answerer.data_received(DataReceived(2, b"", False, True))
        self.assertEqual(len(self.answerer._waiting), 1)
        self.answerer.resumeProducing()
        self.assertEqual(self.there.said, [("ended",)])

    def test_unannounced_consumption(self) -> None:
        """A few consumed bytes are told within 1 s, once (F3)."""
        self.caller.write(b"x")
        self.line.carry(self.line.dialler)
        wire = self.line.wire(self.line.gateway)
        self.assertEqual(wire.records, [])
        self.line.clock.advance(1.0)
        (frame,) = wire.frames()
        self.assertEqual((frame.type, frame.payload[:8]), (FrameType.LIMIT, bytes(7) + b"\x01"))
        self.line.clock.advance(5)
        self.assertEqual(wire.records, [])

    def test_nothing_after_closed(self) -> None:
        """A channel that is closed delivers nothing that waited, in no way."""
        self.answerer.pauseProducing()
        for _ in range(3):
            self.caller.write(b"waits")
            self.line.run()
        self.answerer.abortConnection()
        self.answerer.resumeProducing()
        self.assertEqual(self.there.said, [("closed", "cancelled", "")])

    def test_abort_inside_delivery(self) -> None:
        """An application that aborts inside a call hears nothing after channel_closed."""
        self.answerer.pauseProducing()
        for _ in range(3):
            self.caller.write(b"waits")
            self.line.run()
        self.there.on_data = lambda data: self.answerer.abortConnection()
        self.answerer.resumeProducing()
        self.assertEqual([entry[0] for entry in self.there.said], ["data", "closed"])

    def test_reset_waits_for_bytes(self) -> None:
        """What arrived before a RESET or a lost link is still delivered."""
        self.answerer.pauseProducing()
        self.caller.write(b"first")
        self.line.run()
        self.caller.reset("timeout", "too long")
        self.line.run()
        self.line.wire(self.line.gateway).lost()
        self.assertEqual(self.there.said, [])
        self.answerer.resumeProducing()
        self.assertEqual(
            self.there.said, [("data", b"first", False), ("closed", "timeout", "too long")]
        )

    def test_stop_producing(self) -> None:
        """stopProducing gives the stream up."""
        self.answerer.stopProducing()
        self.line.run()
        self.assertEqual(self.here.said, [("closed", "cancelled", "")])


class OutcomeTests(Base):
    """The last word: E2."""

    def test_outcome(self) -> None:
        """The outcome implies the end of input, comes last, and closes both ends with none."""
        self.answerer.write(b"result")
        self.answerer.finish(Outcome(status="exit", exit_code=3))
        self.line.run()
        self.assertEqual(
            self.here.said,
            [
                ("data", b"result", False),
                ("ended",),
                ("event", "outcome", {"status": "exit", "exit_code": 3}, False),
                ("closed", "none", ""),
            ],
        )
        self.assertEqual(self.there.said, [("closed", "none", "")])
        self.assertTrue(self.answerer.end.drained)

    def test_acknowledged_after_delivery(self) -> None:
        """An outcome that the application has not got is not acknowledged."""
        self.caller.pauseProducing()
        self.answerer.write(b"result")
        self.answerer.finish(Outcome(status="ok"))
        self.line.run()
        self.line.advance(5)
        self.assertFalse(self.answerer.end.drained)
        self.assertEqual((self.here.said, self.there.said), ([], []))
        self.caller.resumeProducing()
        self.line.run()
        self.assertTrue(self.answerer.end.drained)
        self.assertEqual(self.there.said, [("closed", "none", "")])

    def test_lost_before_delivery(self) -> None:
        """When the link breaks first, the device's end still has the outcome to tell."""
        self.caller.pauseProducing()
        self.answerer.finish(Outcome(status="ok"))
        self.line.run()
        self.line.wire(self.line.gateway).lost()
        self.assertFalse(self.answerer.end.drained)
        self.assertEqual(self.there.said[-1][1], "link-lost")


class ProducerTests(Base):
    """IConsumer."""

    def test_push_producer(self) -> None:
        """A push producer is paused when 64 KiB wait and resumed when they are gone."""
        self.answerer.pauseProducing()
        pusher = Pusher()
        self.caller.registerProducer(pusher, True)
        self.caller.write(bytes(WINDOW + SEND_BUFFER_BYTES))
        self.line.run()
        self.assertEqual(pusher.said, [])
        self.caller.write(b"x")
        self.caller.write(b"y")
        self.line.run()
        self.assertEqual(pusher.said, ["pause"])
        self.answerer.resumeProducing()
        self.line.run()
        self.assertEqual(pusher.said, ["pause", "resume"])
        self.caller.unregisterProducer()
        self.caller.write(bytes(1_000_000))
        self.assertEqual(len(pusher.said), 2)

    def test_pull_producer(self) -> None:
        """A pull producer is asked as fast as the reader consumes, never beyond the buffer."""
        self.answerer.pauseProducing()
        puller = Puller(self.caller, 200, 10_000)
        self.caller.registerProducer(puller, False)
        self.line.run()
        self.assertLessEqual(self.caller.end.unsent, SEND_BUFFER_BYTES + 10_000)
        self.assertGreater(puller.left, 160)
        self.answerer.resumeProducing()
        self.line.run()
        self.assertEqual((len(self.there.got), puller.left), (2_000_000, 0))

    def test_pull_producer_of_crumbs(self) -> None:
        """Many tiny pieces neither recurse nor stall."""
        puller = Puller(self.caller, 100_000, 1)
        self.caller.registerProducer(puller, False)
        self.line.run()
        self.assertEqual((len(self.there.got), puller.left), (100_000, 0))

    def test_lose_connection_waits_for_the_producer(self) -> None:
        """With a producer registered the end comes after its last byte (ITransport)."""
        puller = Puller(self.caller, 50, 10_000)
        self.answerer.pauseProducing()
        self.caller.registerProducer(puller, False)
        self.caller.loseConnection()
        self.assertTrue(self.caller.disconnecting)
        self.answerer.resumeProducing()
        self.line.run()
        self.assertEqual(len(self.there.got), 500_000)
        self.assertEqual(self.there.said[-1], ("ended",))

    def test_two_producers(self) -> None:
        """A second producer is refused."""
        self.caller.registerProducer(Pusher(), True)
        self.assertRaises(RuntimeError, self.caller.registerProducer, Pusher(), True)

    def test_producer_is_stopped(self) -> None:
        """A producer is told when the stream is over, also when it comes too late."""
        first, second = Pusher(), Pusher()
        self.caller.registerProducer(first, True)
        self.caller.abortConnection()
        self.caller.registerProducer(second, True)
        self.assertEqual((first.said, second.said), (["stop"], ["stop"]))

    def test_producer_before_the_answer(self) -> None:
        """A producer registered before OPENED fills the buffer and goes on after it."""
        asked: list[Any] = []
        self.line.gateway_owner.on_request = lambda link, n, o: asked.append((n, o))
        channel = StreamChannel(self.line.dialler, Application())
        channel.request(request())
        puller = Puller(channel, 100, 10_000)
        channel.registerProducer(puller, False)
        self.line.run()
        self.assertGreater(puller.left, 90)
        app = Application()
        StreamChannel(self.line.gateway, app).accept(*asked[0])
        self.line.run()
        self.assertEqual(len(app.got), 1_000_000)
