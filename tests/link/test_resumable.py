"""Resumable channels: over links that break, one after the other (section 8)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.link.channel import StreamChannel
from rshell.link.core.constants import DEFAULT_WINDOW
from rshell.link.core.ends import ResumeLost, StreamEnd
from rshell.link.core.errors import LocalProtocolError
from rshell.link.core.messages import Open, Outcome, Positions
from rshell.link.regulator import SEND_BUFFER_BYTES
from tests.link.fakes import Application, Line
from tests.link.pairs import SESSION
from tests.link.test_channel import Puller, Pusher

WINDOW = DEFAULT_WINDOW


class Lasting(Application):
    """An application whose channel outlives its links."""

    @property
    def names(self) -> list[str]:
        return [entry[0] for entry in self.said]

    def channel_detached(self, reason: str) -> None:
        self.said.append(("detached", reason))


class World:
    """Two lasting ends and the line between them, which can be replaced.

    Attributes:
        answering: Whether the far side accepts what is asked.
        requests: The OPENs that arrived there.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.line = Line()
        self.here, self.there = Lasting(), Lasting()
        self.caller = StreamChannel(self.line.dialler, self.here, window, resumable=True)
        self.answerer = StreamChannel(self.line.gateway, self.there, window, resumable=True)
        self.attempt = 0
        self.answering = True
        self.requests: list[tuple[int, Open]] = []
        self.line.gateway_owner.on_request = self._requested

    def _requested(self, link: Any, number: int, request: Open) -> None:
        self.requests.append((number, request))
        if self.answering:
            self.answerer.accept(number, request, link=link)

    def opening(self, **more: Any) -> Open:
        self.attempt += 1
        return Open(handler="exec", session=SESSION, attempt=self.attempt, **more)

    def ask(self, caller: StreamChannel | None = None, **more: Any) -> None:
        """Ask over the present line."""
        (caller or self.caller).request(self.opening(**more), link=self.line.dialler)
        self.line.run()

    def cut(self) -> None:
        """The line is lost with all that is on it; there is a new one."""
        for link in (self.line.dialler, self.line.gateway):
            self.line.wire(link).lost()
        self.line = Line()
        self.line.gateway_owner.on_request = self._requested

    def again(self) -> None:
        """Break and go on."""
        self.cut()
        self.ask()


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.world.ask()
        self.here, self.there = self.world.here, self.world.there
        self.caller, self.answerer = self.world.caller, self.world.answerer
        self.here.said.clear()


class DetachTests(Case):
    def test_both_ways(self) -> None:
        """What was on its way arrives once, behind what came before, in both directions (R2)."""
        self.caller.write(b"up1")
        self.answerer.write(b"down1")
        self.world.line.run()
        self.caller.write(b"up2")
        self.answerer.write(b"down2")
        self.world.cut()
        self.assertTrue(self.caller.detached)
        self.caller.write(b"up3")
        self.answerer.write_stderr(b"down3")
        self.world.ask()
        self.assertFalse(self.caller.detached)
        self.assertEqual(self.there.got, b"up1up2up3")
        self.assertEqual(self.here.got, b"down1down2down3")
        self.assertEqual(self.here.names[1:3], ["detached", "opened"])

    def test_resume_states_positions(self) -> None:
        """The first OPEN has a limit, the next ones resume; neither keeps the other's (O1, R1)."""
        self.answerer.write(b"12345")
        self.world.line.run()
        self.world.again()
        (_, first), (_, second) = self.world.requests
        self.assertEqual((first.resume, first.limit), (None, WINDOW))
        self.assertEqual((second.resume, second.limit), (Positions(5, WINDOW + 5, 0), 0))

    def test_undelivered_input_stays(self) -> None:
        """Bytes that wait behind a pause survive the break, in order, and are asked for once."""
        self.caller.pauseProducing()
        self.answerer.write(b"one")
        self.world.line.run()
        self.world.again()
        self.answerer.write(b"two")
        self.world.line.run()
        self.assertEqual(self.here.got, b"")
        self.caller.resumeProducing()
        self.assertEqual(self.here.got, b"onetwo")

    def test_undelivered_events_stay(self) -> None:
        """Events that wait behind a pause survive the break at their places, told once (V1)."""
        self.caller.pauseProducing()
        for word in (b"one", b"two"):
            self.answerer.write(word)
            self.answerer.send_event("progress", {"note": word.decode()})
            self.world.again()
        self.caller.resumeProducing()
        told = [entry[1] for entry in self.here.said if entry[0] in ("data", "event")]
        self.assertEqual(told, [b"one", "progress", b"two", "progress"])
        self.world.line.run()
        self.assertTrue(self.answerer.end.drained)

    def test_relayed_loss(self) -> None:
        """RESET link-lost is the loss one hop further away (R1)."""
        self.answerer.reset("link-lost", "the device's link broke")
        self.world.line.run()
        self.assertEqual(self.here.said, [("detached", "the device's link broke")])
        self.assertEqual(self.caller.detached_by, "link-lost")

    def test_other_resets_end(self) -> None:
        """Any other code ends the stream for good."""
        for code in ("lost", "policy", "duplicate", "cancelled"):
            world = World()
            world.ask()
            world.line.gateway.reset(world.answerer.number, code, "so")
            world.line.run()
            self.assertEqual(world.here.said[-1], ("closed", code, "so"))
            self.assertRaises(LocalProtocolError, world.ask)

    def test_end_of_input_again(self) -> None:
        """The end of a direction is said again after a break, and heard once."""
        self.caller.loseConnection()
        self.world.line.run()
        self.world.again()
        self.assertEqual(self.there.names.count("ended"), 1)
        self.answerer.loseConnection()
        self.world.cut()
        self.world.ask()
        self.assertEqual(self.here.names.count("ended"), 1)

    def test_end_before_the_answer(self) -> None:
        """loseConnection before OPENED is kept, also over a break."""
        world = World()
        world.answering = False
        world.ask()
        world.caller.write(b"all")
        world.caller.loseConnection()
        world.cut()
        world.answering = True
        world.ask()
        self.assertEqual((world.there.got, world.there.names[-1]), (b"all", "ended"))

    def test_consumed_while_away(self) -> None:
        """What is consumed while detached is told after it: no byte of credit is lost (F3)."""
        self.caller.pauseProducing()
        self.answerer.write(bytes(WINDOW))
        self.world.line.run()
        self.world.cut()
        self.caller.resumeProducing()
        self.world.ask()
        self.world.line.advance(2)
        self.assertEqual(self.answerer.unconfirmed, 0)
        self.answerer.write(bytes(2 * WINDOW))
        self.world.line.run()
        self.assertEqual(len(self.here.got), 3 * WINDOW)

    def test_consumed_before_the_answer(self) -> None:
        """What is consumed between OPEN and OPENED is told within a second (F3)."""
        self.caller.pauseProducing()
        self.answerer.write(b"abc")
        self.world.line.run()
        self.world.cut()
        self.world.answering = False
        self.world.ask()
        self.caller.resumeProducing()
        number, request = self.world.requests[-1]
        self.answerer.accept(number, request, link=self.world.line.gateway)
        self.world.line.run()
        credit = self.world.line.gateway.core.credit
        self.assertEqual(credit(number), WINDOW - 3)
        self.world.line.advance(1)
        self.assertEqual(credit(number), WINDOW)

    def test_budget_of_the_new_link(self) -> None:
        """The window follows the budget of the link that carries the stream (F8)."""
        self.world.cut()
        self.world.line.dialler.receive_budget.total = 10_000
        self.world.ask()
        self.answerer.write(bytes(WINDOW))
        self.world.line.run()
        self.caller.pauseProducing()
        self.answerer.write(bytes(WINDOW))
        self.world.line.run()
        self.assertLessEqual(self.caller.end.unconsumed, 10_000)

    def test_unconfirmed(self) -> None:
        """Bytes written here count until the other application has taken them."""
        self.answerer.pauseProducing()
        self.caller.write(b"12345")
        self.world.line.run()
        self.world.cut()
        self.caller.write(b"678")
        self.assertEqual(self.caller.unconfirmed, 8)


class AskingTests(Case):
    def test_lost_open(self) -> None:
        """An OPEN that never arrived is sent again as a first one: limit, no resume (R3)."""
        world = World()
        world.caller.request(world.opening(), link=world.line.dialler)
        world.cut()
        self.assertEqual(world.here.names, ["detached"])
        world.ask()
        self.assertEqual(world.requests[0][1].resume, None)
        self.assertEqual(world.here.names, ["detached", "opened"])

    def test_lost_opened(self) -> None:
        """When OPENED was lost, the far end goes on from 0 with what it has sent meanwhile."""
        world = World()
        world.caller.request(world.opening(), link=world.line.dialler)
        world.line.carry(world.line.dialler)
        world.answerer.write(b"early")
        world.answerer.send_event("progress", {"done": 1})
        world.cut()
        world.ask()
        self.assertIsNone(world.requests[1][1].resume)
        self.assertEqual(world.here.got, b"early")
        self.assertEqual(world.here.names.count("event"), 1)

    def test_refusals(self) -> None:
        """link-lost detaches always; what may pass, a repeated request; others end it."""
        for code, repeated, ends in (
            ("link-lost", False, False),
            ("overload", False, True),
            ("overload", True, False),
            ("shutdown", True, False),
            ("policy", True, True),
            ("unknown", True, True),
        ):
            world = World()
            if repeated:
                world.ask()
                world.cut()
            world.answering = False
            world.ask()
            world.line.gateway.refuse(world.requests[-1][0], code, "no")
            world.line.run()
            self.assertEqual(world.caller.closed, ends, (code, repeated))
            if not ends:
                self.assertEqual(world.caller.detached_by, code)
                world.answering = True
                world.ask()
                self.assertEqual(world.here.names[-1], "opened")

    def test_link_takes_no_streams(self) -> None:
        """A link that takes nothing leaves the channel as it was, to be asked elsewhere."""
        self.world.cut()
        self.world.line.wire(self.world.line.dialler).lost()
        self.assertRaises(LocalProtocolError, self.world.ask)
        self.assertTrue(self.caller.detached)
        self.world.again()
        self.assertEqual(self.here.names[-1], "opened")

    def test_moving(self) -> None:
        """A stream may go to another link while the old one lives; nothing is lost or doubled."""
        old = self.world.line
        self.answerer.write(b"a" * 1000)
        self.world.line = Line()
        self.world.line.gateway_owner.on_request = self.world._requested
        self.world.ask()
        old.run()
        self.answerer.write(b"b")
        self.world.line.run()
        self.assertEqual(self.here.got, b"a" * 1000 + b"b")
        self.assertNotIn("closed", self.here.names)

    def test_abandon(self) -> None:
        """Giving up closes once, after what waited; asking again is an error."""
        self.caller.pauseProducing()
        self.answerer.write(b"last")
        self.world.line.run()
        self.world.cut()
        self.caller.abandon("link-lost", "away for 60 s")
        self.caller.abandon("link-lost", "again")
        self.assertEqual(self.here.names, ["detached"])
        self.caller.resumeProducing()
        self.assertEqual(
            self.here.said[1:], [("data", b"last", False), ("closed", "link-lost", "away for 60 s")]
        )
        self.assertRaises(LocalProtocolError, self.world.ask)

    def test_abort_while_detached(self) -> None:
        """Aborting while away closes at once, and touches no link."""
        self.world.cut()
        self.caller.abortConnection()
        self.assertEqual(self.here.said[-1], ("closed", "cancelled", ""))
        self.assertEqual(self.world.line.wire(self.world.line.dialler).records, [])

    def test_positions_that_do_not_fit(self) -> None:
        """A far end that states what cannot be gone on from ends the session with lost (R2)."""
        self.caller.write(bytes(100))
        self.world.line.run()
        self.world.line.advance(2)
        self.assertEqual(self.caller.unconfirmed, 0)
        self.world.cut()
        amnesiac = Lasting()
        self.world.answerer = StreamChannel(self.world.line.gateway, amnesiac, resumable=True)
        self.world.ask()
        self.assertEqual(self.here.said[-1][:2], ("closed", "lost"))
        self.assertEqual(amnesiac.said, [("closed", "lost", self.here.said[-1][2])])


class JoiningTests(Case):
    def test_attach_from_elsewhere(self) -> None:
        """Another end joins where the session is: a counted gap, then every byte (R8)."""
        self.caller.write(b"typed by the first")
        self.answerer.write(b"seen")
        self.caller.send_event("signal", {"signal": "INT"}, urgent=True)
        self.world.line.run()
        self.world.line.advance(2)
        self.answerer.write(b"unseen")
        second = Lasting()
        other = StreamChannel(self.world.line.dialler, second, resumable=True)
        other.write(b" and the second")
        self.world.ask(other, resume=Positions(0, 0, 0))
        self.assertEqual(self.here.said[-1][:2], ("closed", "duplicate"))
        self.assertEqual(second.said[:2], [("opened",), ("event", "gap", {"bytes": 4}, False)])
        self.assertEqual(second.got, b"unseen")
        self.assertEqual(self.there.got, b"typed by the first and the second")
        other.send_event("signal", {"signal": "TERM"}, urgent=True)
        self.world.line.run()
        self.assertEqual(self.there.said[-1][2], {"signal": "TERM"})
        self.world.cut()
        other.write(b"!")
        self.answerer.write(b"!")
        self.world.ask(other)
        self.assertEqual((second.got, self.there.got[-1:]), (b"unseen!", b"!"))

    def test_replay(self) -> None:
        """OPENED tells a newcomer how many bytes were written before it, a returner none (R8)."""
        opened: list[Any] = []
        self.here.channel_opened = opened.append  # type: ignore[method-assign]  # looks closer
        self.answerer.write(b"x")
        self.world.line.run()
        self.world.cut()
        self.answerer.write(b"unseen")
        self.world.ask()
        second = Lasting()
        second.channel_opened = opened.append  # type: ignore[method-assign]  # looks closer
        self.world.line.advance(2)
        self.answerer.write(b"more")
        self.world.ask(StreamChannel(self.world.line.dialler, second, resumable=True),
                       resume=Positions(0, 0, 0))  # fmt: skip
        self.assertEqual([(o.gap, o.replay) for o in opened], [(0, 0), (7, 4)])

    def test_impossible_positions(self) -> None:
        """A peer that states impossible positions is not joined, and nothing has changed (R2)."""
        self.answerer.write(b"12345")
        self.world.cut()
        for bad in (Positions(6, 100, 0), Positions(0, 100, 1)):
            self.world.answering = False
            self.world.line.dialler.open_stream(self.world.opening(resume=bad), self.caller)
            self.world.line.run()
            number, request = self.world.requests[-1]
            self.assertRaises(
                ResumeLost, self.answerer.accept, number, request, link=self.world.line.gateway
            )
            self.assertTrue(self.answerer.detached)
            self.world.line.gateway.refuse(number, "lost", "no")

    def test_accept_too_late(self) -> None:
        """A peer that gave up before the answer leaves a resumable end detached."""
        self.world.cut()
        self.world.answering = False
        self.world.ask()
        number, request = self.world.requests[-1]
        self.caller.abortConnection()
        self.world.line.run()
        self.answerer.accept(number, request, link=self.world.line.gateway)
        self.assertTrue(self.answerer.detached)

    def test_join_of_an_end_with_a_past(self) -> None:
        """Only an end that has sent nothing may begin elsewhere than at 0."""
        self.caller.write(b"x")
        self.world.line.run()
        self.assertRaises(LocalProtocolError, self.caller.end.join, Positions(7, 100, 0))

    def test_missed_event(self) -> None:
        """Bytes beyond an event that was not seen cannot be gone on from: it has no place."""
        end = StreamEnd()
        end.write(b"ab")
        end.next_frame(100, 100)
        end.send_event("progress", {})
        end.next_frame(100, 100)
        end.write(b"c")
        end.next_frame(100, 100)
        self.assertRaises(ResumeLost, end.resume, Positions(3, 100, 0))
        end.resume(Positions(2, 100, 0))


class EventTests(Case):
    def test_events_while_away(self) -> None:
        """Signals are kept in order; of windows and cancels the newest; beyond 64 they drop."""
        self.world.cut()
        for number in range(100):
            self.caller.send_event("signal", {"n": number}, urgent=True)
            self.caller.send_event("window", {"rows": number}, urgent=True)
            self.caller.send_event("cancel", {}, urgent=True)
        self.world.ask()
        got = [entry[1:3] for entry in self.there.said if entry[0] == "event"]
        signals = [body["n"] for kind, body in got if kind == "signal"]
        self.assertEqual(signals, list(range(len(signals))))
        self.assertIn(len(signals), range(60, 65))
        self.assertEqual([body for kind, body in got if kind == "window"], [{"rows": 99}])
        self.assertEqual([kind for kind, _ in got].count("cancel"), 1)

    def test_outcome_that_arrived(self) -> None:
        """An outcome that waits behind a pause makes a break harmless: it is not asked again."""
        self.caller.pauseProducing()
        self.answerer.write(b"bye")
        self.answerer.finish(Outcome(status="ok"))
        self.world.line.run()
        self.world.cut()
        self.assertFalse(self.caller.detached)
        self.assertRaises(LocalProtocolError, self.world.ask)
        self.assertEqual(self.here.said, [])
        self.caller.resumeProducing()
        self.assertEqual(self.here.names, ["data", "ended", "event", "closed"])
        self.assertEqual(self.here.said[-1], ("closed", "none", ""))
        self.assertFalse(self.there.names.count("closed"))
        self.assertTrue(self.answerer.detached)

    def test_outcome_on_its_way(self) -> None:
        """An outcome that a break swallowed is sent again, and delivered once."""
        self.answerer.finish(Outcome(status="exit", exit_code=3))
        self.world.again()
        self.assertEqual(self.here.names.count("event"), 1)
        self.assertEqual(self.here.said[-1], ("closed", "none", ""))
        self.assertEqual(self.there.said[-1], ("closed", "none", ""))


class ProducerTests(Case):
    def test_push_producer(self) -> None:
        """A push producer stays over the break, paused at 64 KiB, and goes on after it."""
        pusher = Pusher()
        self.caller.registerProducer(pusher, True)
        self.world.cut()
        self.caller.write(bytes(SEND_BUFFER_BYTES))
        self.assertEqual(pusher.said, [])
        self.caller.write(b"x")
        self.assertEqual(pusher.said, ["pause"])
        self.world.ask()
        self.assertEqual(pusher.said, ["pause", "resume"])
        self.caller.unregisterProducer()

    def test_pull_producer(self) -> None:
        """A pull producer fills no more than the buffer while away; every byte arrives once."""
        puller = Puller(self.caller, 100, 10_000)
        self.answerer.pauseProducing()
        self.caller.registerProducer(puller, False)
        self.world.line.run()
        self.world.cut()
        self.assertLessEqual(self.caller.unconfirmed, WINDOW + SEND_BUFFER_BYTES + 10_000)
        self.world.ask()
        self.answerer.resumeProducing()
        self.world.line.run()
        self.assertEqual((len(self.there.got), puller.left), (1_000_000, 0))

    def test_producer_of_an_abandoned_channel(self) -> None:
        """Giving up stops the producer."""
        pusher = Pusher()
        self.caller.registerProducer(pusher, True)
        self.world.cut()
        self.caller.abandon("link-lost", "")
        self.assertEqual(pusher.said, ["stop"])
