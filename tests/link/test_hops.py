"""RelayedStream: two links, one session."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import FrameFlag, FrameType
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import Notice, Open, Opened, Outcome
from rshell.link.hops import RelayedStream
from rshell.link.protocol import LinkProtocol
from tests.link.fakes import Application, Line, Receiver
from tests.link.pairs import SESSION, request


class Seen:
    """Witnesses streams: what ended them, in order, and what passed before."""

    def __init__(self) -> None:
        self.accepted = 0
        self.outcomes: list[dict[str, Any]] = []
        self.taken = 0
        self.broken: list[tuple[str, str]] = []

    def stream_accepted(self) -> None:
        self.accepted += 1

    def outcome_passed(self, body: dict[str, Any]) -> None:
        self.outcomes.append(body)

    def outcome_taken(self) -> None:
        self.taken += 1

    def stream_broken(self, code: str, message: str) -> None:
        self.broken.append((code, message))


class HopsTests(SynchronousTestCase):
    """An operator's and a device's link, joined by a gateway."""

    def setUp(self) -> None:
        self.north, self.south = Line(), Line()
        self.seen = Seen()
        self.relayed: list[RelayedStream] = []
        self.device = Application()
        self.asked: list[tuple[LinkProtocol, int, Open]] = []
        self.north.gateway_owner.on_request = self.relay
        self.south.dialler_owner.on_request = self.accept
        self.operator = Application()

    def relay(self, link: LinkProtocol, number: int, opening: Open) -> None:
        relayed = RelayedStream(link, number, opening, self.south.gateway, self.seen, 4)
        self.relayed.append(relayed)
        relayed.open(Open(handler=opening.handler, session=opening.session, operator="ann"))

    def accept(self, link: LinkProtocol, number: int, opening: Open) -> None:
        self.device.channel = StreamChannel(link, self.device)
        self.device.channel.accept(number, opening)

    def ask(self, link: LinkProtocol, number: int, opening: Open) -> None:
        self.asked.append((link, number, opening))

    def call(self) -> StreamChannel:
        channel = StreamChannel(self.north.dialler, self.operator)
        self.operator.channel = channel
        channel.request(request())
        self.run_both()
        return channel

    def run_both(self) -> None:
        for _ in range(1000):
            before = self.north.wire(self.north.dialler), len(self.operator.said)
            self.north.run()
            self.south.run()
            if before[1] == len(self.operator.said) and not any(
                line.wire(link).records
                for line in (self.north, self.south)
                for link in (line.dialler, line.gateway)
            ):
                return

    def streams(self) -> int:
        """Count streams that any of the four links still knows."""
        return sum(
            len(link.core.streams)
            for line in (self.north, self.south)
            for link in (line.dialler, line.gateway)
        )

    def test_session(self) -> None:
        """Bytes both ways, the outcome, and nothing left on any link."""
        channel = self.call()
        channel.write(bytes(300_000))
        self.run_both()
        self.device.channel.write(b"answer")
        self.device.channel.write_stderr(b"error")
        self.device.channel.finish(Outcome(status="ok"))
        self.run_both()
        self.assertEqual(len(self.device.got), 300_000)
        self.assertEqual(self.operator.got, b"answererror")
        self.assertEqual(self.operator.said[-1], ("closed", "none", ""))
        self.assertEqual(self.device.said[-1], ("closed", "none", ""))
        self.assertEqual(self.seen.outcomes, [{"status": "ok"}])
        self.assertEqual((self.seen.accepted, self.seen.taken, self.seen.broken), (1, 1, []))
        self.assertEqual(self.relayed[0].bytes_relayed, 300_011)
        self.assertEqual(self.streams(), 0)

    def test_telling(self) -> None:
        """What the gateway tells goes beside the stream, to who said that they take it (S4)."""
        self.call()
        (relayed,) = self.relayed
        self.assertFalse(relayed.tell("watched", "bob watches"))
        self.north.gateway.core.peer_features = frozenset({"notices"})
        self.assertTrue(relayed.tell("watched", "b" * 300))
        self.run_both()
        (told,) = [said[1] for said in self.north.dialler_owner.said if said[0] == "sessions"]
        self.assertEqual(told.notices, [Notice(SESSION, "watched", "b" * 256)])
        self.assertEqual((relayed.bytes_in, relayed.bytes_out), (0, 0))
        self.device.channel.finish(Outcome(status="ok"))
        self.run_both()
        self.assertFalse(relayed.tell("watched", "too late"))

    def test_end_without_end(self) -> None:
        """An end that a peer repeats for ever (rule F6) is relayed once, and nothing piles up."""
        self.call()
        wire = self.north.wire(self.north.gateway)
        wire.resume(1)
        self.device.channel.write(b"last")
        self.device.channel.loseConnection()
        self.south.run()
        number = self.device.channel.number
        end = encode_frame(FrameType.DATA, number, b"", FrameFlag.EOF)
        self.south.gateway.dataReceived(end * 1000)
        self.assertLessEqual(len(self.relayed[0]._relay.operator._queue), 2)
        wire.resume(None)
        self.run_both()
        self.assertEqual(self.operator.said[-2:], [("data", b"last", False), ("ended",)])

    def test_refused(self) -> None:
        """The device's refusal reaches the operator."""
        self.south.dialler_owner.on_request = lambda link, n, o: link.refuse(n, "policy", "no")
        self.call()
        self.assertEqual(self.operator.said, [("closed", "policy", "no")])
        self.assertEqual(self.seen.broken, [("policy", "no")])
        self.assertEqual(self.streams(), 0)

    def test_device_link_lost(self) -> None:
        """When the device's hop breaks, the operator hears link-lost and may resume (R1)."""
        self.call()
        self.south.wire(self.south.gateway).lost()
        self.run_both()
        self.assertEqual(self.operator.said[-1][:2], ("closed", "link-lost"))
        self.assertEqual([code for code, _ in self.seen.broken], ["link-lost"])

    def test_device_link_lost_before_the_answer(self) -> None:
        """Before OPENED the operator is refused with link-lost."""
        self.south.dialler_owner.on_request = self.ask
        self.call()
        self.south.wire(self.south.gateway).lost()
        self.run_both()
        self.assertEqual(self.operator.said[-1][:2], ("closed", "link-lost"))
        self.assertEqual(len(self.seen.broken), 1)

    def test_operator_link_lost(self) -> None:
        """When the operator's hop breaks, the device's end hears link-lost."""
        self.call()
        self.north.wire(self.north.gateway).lost()
        self.run_both()
        self.assertEqual(self.device.said[-1][:2], ("closed", "link-lost"))
        self.assertEqual(len(self.seen.broken), 1)

    def test_operator_gives_up_before_the_answer(self) -> None:
        """A RESET before OPENED ends the device's hop too."""
        self.south.dialler_owner.on_request = self.ask
        channel = self.call()
        channel.abortConnection()
        self.run_both()
        link, number, _ = self.asked[0]
        self.assertFalse(link.waiting(number))
        self.assertEqual(self.seen.broken, [("cancelled", "")])
        self.assertEqual(self.streams(), 0)

    def test_answer_for_a_link_that_is_ending(self) -> None:
        """OPENED for an operator whose link is closing harms nobody on the device's link."""
        self.south.dialler_owner.on_request = self.ask
        self.call()
        self.north.gateway.dataReceived(b"garbage garbage")
        self.assertTrue(self.north.gateway.closed)
        self.accept(*self.asked[0])
        self.south.run()
        self.assertFalse(self.south.gateway.closed)
        self.assertEqual(self.device.said[-1][:2], ("closed", "link-lost"))
        self.assertEqual(self.seen.broken, [("link-lost", "the operator's link is gone")])
        self.north.wire(self.north.gateway).lost()
        self.assertEqual(len(self.seen.broken), 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_ended_by_the_gate(self) -> None:
        """The gate may end a session: both ends hear why, once."""
        self.call()
        self.relayed[0].broken("revoked", "the role changed")
        self.relayed[0].broken("revoked", "again")
        self.run_both()
        for said in (self.operator.said, self.device.said):
            self.assertEqual(said[-1], ("closed", "revoked", "the role changed"))
        self.assertEqual(self.seen.broken, [("revoked", "the role changed")])
        self.assertEqual(self.streams(), 0)

    def test_budgets_are_returned(self) -> None:
        """Whatever ended the streams, no link counts them any more."""
        for _ in range(3):
            channel = self.call()
            channel.abortConnection()
            self.run_both()
        for line in (self.north, self.south):
            for link in (line.dialler, line.gateway):
                self.assertEqual(link.receive_budget._streams, 0)

    def test_displaced(self) -> None:
        """A higher attempt took over: the operator hears duplicate, the device link-lost (R3)."""
        self.call()
        self.relayed[0].displaced("attempt 2 took over")
        self.run_both()
        self.assertEqual(self.operator.said[-1], ("closed", "duplicate", "attempt 2 took over"))
        self.assertEqual(self.device.said[-1][:2], ("closed", "link-lost"))
        self.assertEqual(self.seen.broken, [("duplicate", "attempt 2 took over")])
        self.assertEqual(self.streams(), 0)

    def test_displaced_before_the_answer(self) -> None:
        """Likewise of an OPEN that nobody has answered: the device's end of it is given up."""
        self.south.dialler_owner.on_request = self.ask
        self.call()
        self.relayed[0].displaced("attempt 2 took over")
        self.run_both()
        link, number, _ = self.asked[0]
        self.assertFalse(link.waiting(number))
        self.assertEqual(self.operator.said, [("closed", "duplicate", "attempt 2 took over")])
        self.assertEqual(self.streams(), 0)

    def test_outcome_that_is_not_taken(self) -> None:
        """The operator's hop breaks after the outcome passed: the device may still be asked."""
        channel = self.call()
        channel.pauseProducing()
        self.device.channel.write(bytes(100))
        self.device.channel.finish(Outcome(status="ok"))
        self.run_both()
        self.assertEqual((self.seen.outcomes, self.seen.taken), ([{"status": "ok"}], 0))
        self.north.wire(self.north.gateway).lost()
        self.run_both()
        self.assertEqual(self.seen.taken, 0)
        self.assertEqual([code for code, _ in self.seen.broken], ["link-lost"])
        self.assertEqual(self.device.said[-1][:2], ("closed", "link-lost"))

    def test_peers_own_link_lost(self) -> None:
        """RESET link-lost said by a peer passes like a broken hop: detached, nothing cancelled."""
        channel = self.call()
        channel.reset("link-lost", "said by the client")
        self.run_both()
        self.assertEqual(self.device.said[-1], ("closed", "link-lost", "said by the client"))
        self.assertEqual(self.seen.broken, [("link-lost", "said by the client")])
        self.assertFalse(self.north.gateway.closed or self.south.gateway.closed)

    def test_replay_passes(self) -> None:
        """What OPENED says of gap and replay reaches the operator unchanged (R5, R8)."""
        self.south.dialler_owner.on_request = self.ask
        told: list[Opened] = []

        class Opening(Application):
            def channel_opened(self, opened: Opened) -> None:
                told.append(opened)

        self.operator = Opening()
        self.call()
        link, number, opening = self.asked[0]
        link.accept(number, opening, Opened(0, 4096, 0, 7, 5), Receiver(), 4)
        self.run_both()
        self.assertEqual([(opened.gap, opened.replay) for opened in told], [(7, 5)])
