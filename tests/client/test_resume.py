"""Sessions over links that break, in memory and on a fake clock."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import Away, ConnectionFailed, Session
from rshell.client.session import OPEN_SECONDS
from rshell.link.core.constants import DEFAULT_WINDOW
from rshell.link.core.messages import Positions
from tests.client.memory_fleet import MemoryFleet, Receiver, Wire

SCRIPT = [bytes([65 + n]) * (90 + 7 * n) for n in range(6)]
INPUT = bytes(range(256)) * 2


class Base(SynchronousTestCase):
    """A connected client."""

    def setUp(self) -> None:
        self.fleet = MemoryFleet().connect()
        self.device = self.fleet.device
        self.receiver = Receiver()
        self.addCleanup(self.nothing_left)

    def nothing_left(self) -> None:
        """Close the client: no timer is left, and no user of the uplink."""
        self.fleet.close()
        for wire in self.fleet.wires:
            wire.cut()
        self.assertEqual(self.fleet.clock.getDelayedCalls(), [])
        self.assertEqual(self.fleet.uplink._users, {})

    def opened(self, **options: Any) -> Session:
        session = self.fleet.open(self.receiver, **options)
        self.fleet.settle()
        self.assertTrue(session.opened)
        return session


class CutTests(SynchronousTestCase):
    """Whatever is cut, and where: the same bytes and events, once, and one run."""

    def run_cut(self, cuts: dict[int, tuple[int, int]]) -> list[list[int]]:
        """Run a session; cut its n-th link after so many bytes of a direction.

        Returns:
            Bytes carried each way by each link.
        """
        fleet = MemoryFleet()

        def dialled(wire: Wire) -> None:
            side, size = cuts.get(len(fleet.wires), (0, 0))
            if size:
                wire.cut_after[side] = size

        fleet.on_dial = dialled
        Deferred.fromCoroutine(fleet.uplink.connect()).addErrback(lambda failure: None)
        fleet.settle()
        if fleet.uplink.latest is None:
            self.assertNotEqual(cuts, {}, "the first link was cut before WELCOME")
            fleet.connect()
        fleet.device.script = SCRIPT
        receiver = Receiver()
        session = fleet.open(receiver)
        fleet.settle()
        session.write(INPUT[:300])
        session.send_signal("USR1")
        fleet.settle()
        session.write(INPUT[300:])
        session.write_eof()
        fleet.until(lambda: session.ended)
        self.check(fleet, session, receiver)
        fleet.close()
        return [wire.carried for wire in fleet.wires]

    def check(self, fleet: MemoryFleet, session: Session, receiver: Receiver) -> None:
        outcome = fleet.outcome(session)
        self.assertEqual((outcome.status, outcome.exit_code), ("exit", 3), outcome)
        self.assertEqual(fleet.device.runs, 1)
        self.assertEqual(receiver.opened, 1)
        there = fleet.device.sessions[session.session_id]
        self.assertEqual(bytes(there.got), INPUT)
        self.assertEqual(there.events, ["signal"])
        self.assertEqual(bytes(receiver.err), b"".join(SCRIPT[1::2]))
        self.assertEqual(bytes(receiver.out), b"".join(SCRIPT[::2]) + INPUT)
        places = [sum(map(len, SCRIPT[: n + 1])) for n in range(len(SCRIPT))]
        wanted = [(at, "progress", {"done": n}) for n, at in enumerate(places)]
        self.assertEqual(receiver.events, wanted)
        self.assertEqual(session.gap_bytes, 0)

    def test_every_byte(self) -> None:
        """A link that ends after any byte, of either direction, costs nothing but time."""
        (whole,) = self.run_cut({})
        for side in (0, 1):
            for size in range(1, whole[side] + 1):
                links = self.run_cut({1: (side, size)})
                self.assertEqual(links[0][side], size)

    def test_every_byte_of_the_resume(self) -> None:
        """The link over which a session resumes may itself end after any byte."""
        (whole,) = self.run_cut({})
        first = (1, whole[1] // 2)
        resumed = self.run_cut({1: first})[1]
        for side in (0, 1):
            for size in range(1, resumed[side] + 1):
                self.run_cut({1: first, 2: (side, size)})

    def test_many_cuts(self) -> None:
        """Links that end one after the other, each a little later, get there all the same."""
        for step in (40, 97, 211):
            cuts = {n: (n % 2, 450 + step * n % 400) for n in range(1, 9)}
            self.run_cut(cuts)


class AwayTests(Base):
    """What a session and its user notice of a break."""

    def test_away_and_back(self) -> None:
        """A session says since when, until when and why it is away, and that it is back."""
        session = self.opened()
        told: list[Away | None] = []
        session.link_changed = told.append
        self.assertIsNone(session.away)
        now = self.fleet.clock.seconds()
        self.fleet.cut()
        self.fleet.settle()
        away = session.away
        assert away is not None
        self.assertEqual((away.since_seconds, away.until_seconds), (now, now + 60))
        self.assertIn("lost", away.reason)
        self.fleet.advance(0.25)
        self.assertIsNone(session.away)
        self.assertEqual(told, [away, None])
        self.assertEqual((session.attempt, self.receiver.opened), (2, 1))

    def test_what_the_second_open_says(self) -> None:
        """The same session and request, the next attempt, its age, and positions (R1, R2)."""
        self.device.script = [b"hello"]
        session = self.opened(login="root")
        self.fleet.advance(4)
        self.fleet.cut()
        self.fleet.advance(0.25)
        first, second = self.device.opens
        self.assertEqual((first.attempt, first.age_ms, first.resume), (1, 0, None))
        self.assertEqual(second.attempt, 2)
        self.assertTrue(4200 <= second.age_ms <= 4201, "never less than it is")
        self.assertEqual(second.resume, Positions(5, DEFAULT_WINDOW + 5, 1))
        self.assertEqual(second.session, session.session_id)
        self.assertEqual((second.request, second.login), (first.request, "root"))

    def test_typed_while_away(self) -> None:
        """Input, signals, a cancel and the newest window that were sent while away arrive."""
        session = self.opened()
        self.fleet.lose_gateway()
        self.fleet.advance(3)
        session.write(b"typed ")
        session.send_signal("INT")
        session.send_window(1, 2)
        session.send_window(50, 132)
        session.cancel()
        session.write(b"blind")
        self.fleet.replace_gateway()
        self.fleet.until(lambda: session.away is None)
        there = self.device.sessions[session.session_id]
        self.assertEqual(bytes(there.got), b"typed blind")
        self.assertEqual(there.events, ["signal", "window", "cancel"])

    def test_another_gateway(self) -> None:
        """A gateway that knows nothing of the session is as good as the one that died."""
        session = self.opened()
        self.fleet.lose_gateway()
        self.fleet.advance(20)
        self.assertIsNotNone(session.away)
        session.write(b"x")
        session.write_eof()
        self.fleet.replace_gateway()
        self.fleet.until(lambda: session.ended)
        self.assertEqual(self.fleet.outcome(session).exit_code, 3)
        self.assertEqual((bytes(self.receiver.out), self.device.runs), (b"x", 1))

    def test_grace(self) -> None:
        """After the grace the session is lost, and says how long and what is not confirmed."""
        session = self.opened()
        self.fleet.lose_gateway()
        session.write(b"12345")
        self.fleet.advance(59.5)
        self.assertFalse(session.ended)
        self.fleet.advance(1)
        outcome = self.fleet.outcome(session)
        self.assertEqual((outcome.status, outcome.code), ("lost", "link-lost"))
        self.assertIn("gone for 60 s", outcome.message or "")
        self.assertIn("5 bytes of input were not confirmed", outcome.message or "")
        self.assertIsNone(session.away)

    def test_longer_grace(self) -> None:
        """A session that expects its device to be away for long tries as long as it was told."""
        session = self.opened(grace_seconds=200.0)
        self.fleet.lose_gateway()
        self.fleet.advance(150)
        self.fleet.replace_gateway()
        self.fleet.until(lambda: session.away is None)
        self.fleet.lose_gateway()
        self.fleet.advance(201)
        self.assertIn("gone for 200 s", self.fleet.outcome(session).message or "")

    def test_offline_passes(self) -> None:
        """To one that is patient an absent device is no end: it asks again; to others it is."""
        for patient, status in (({"grace_seconds": 200.0}, ""), ({}, "lost")):
            session = self.opened(**patient)
            self.device.refuse = ["offline", "offline"]
            self.fleet.cut()
            self.fleet.advance(30)
            if status:
                self.assertEqual(status, self.fleet.outcome(session).status)
                self.device.refuse = []
            else:
                self.assertFalse(session.ended)
                self.assertIsNone(session.away)
                session.abort()
                self.fleet.settle()

    def test_grace_counts_anew(self) -> None:
        """The grace counts from each loss; a session that was back in between has all of it."""
        session = self.opened()
        for _ in range(3):
            self.fleet.lose_gateway()
            self.fleet.advance(45)
            self.fleet.replace_gateway()
            self.fleet.until(lambda: session.away is None)
        self.fleet.advance(61)
        self.assertFalse(session.ended)

    def test_grace_delivers_what_arrived(self) -> None:
        """What had arrived for a paused session is still delivered after the grace."""
        session = self.fleet.open(self.receiver)
        session.pause()
        self.device.script = [b"kept"]
        self.fleet.settle()
        self.fleet.lose_gateway()
        self.fleet.advance(61)
        self.assertEqual(bytes(self.receiver.out), b"")
        self.fleet.replace_gateway()
        self.fleet.advance(20)
        self.assertEqual((len(self.device.opens), len(self.fleet.wires)), (1, 1), "it came back")
        session.resume()
        self.assertEqual(bytes(self.receiver.out), b"kept")
        self.assertEqual(self.fleet.outcome(session).status, "lost")

    def test_closed_before_that_was_delivered(self) -> None:
        """Closing the client does not wait for a session that is paused for good."""
        session = self.fleet.open(self.receiver)
        session.pause()
        self.device.script = [b"kept"]
        self.fleet.settle()
        self.fleet.lose_gateway()
        self.fleet.advance(61)
        self.fleet.close()
        self.assertEqual(self.fleet.outcome(session).code, "link-lost")

    def test_grace_of_an_unanswered_open(self) -> None:
        """A session that was never accepted says that it may or may not have run."""
        self.device.ignores = True
        session = self.fleet.open(self.receiver)
        self.fleet.settle()
        self.fleet.lose_gateway()
        self.fleet.advance(61)
        outcome = self.fleet.outcome(session)
        self.assertEqual((outcome.status, outcome.code), ("lost", "link-lost"))
        self.assertIn("may or may not have run", outcome.message or "")

    def test_grace_of_a_parked_open(self) -> None:
        """While it resumes a session waits for the grace, not for the limit of a first OPEN."""
        session = self.opened()
        self.device.ignores = True
        self.fleet.cut()
        self.fleet.advance(OPEN_SECONDS + 5)
        self.assertFalse(session.ended)
        self.fleet.advance(60 - OPEN_SECONDS)
        self.assertEqual(self.fleet.outcome(session).code, "link-lost")
        # It was not told to end what runs.
        self.device.ignores = False
        self.assertIsNone(self.device.sessions[session.session_id].closed)

    def test_first_open_unanswered(self) -> None:
        """A device that does not answer the first OPEN in time is an error, as before."""
        self.device.ignores = True
        session = self.fleet.open(self.receiver)
        self.fleet.advance(OPEN_SECONDS + 1)
        self.assertEqual(self.fleet.outcome(session).code, "timeout")

    def test_outcome_before_the_break(self) -> None:
        """A session whose outcome has arrived is not opened again, though nobody took it yet."""
        session = self.opened()
        session.pause()
        session.write_eof()
        self.fleet.settle()
        self.fleet.cut()
        self.fleet.advance(2)
        self.assertEqual(len(self.device.opens), 1)
        self.assertIsNone(session.away)
        session.resume()
        self.assertEqual(self.fleet.outcome(session).exit_code, 3)

    def test_producer(self) -> None:
        """A producer is paused while the link is away, and goes on after it."""
        session = self.opened()
        producer = Producer(session)
        session.registerProducer(producer, True)
        self.fleet.lose_gateway()
        producer.fill()
        self.assertTrue(producer.paused)
        sent = producer.sent
        self.assertLess(sent, 200_000)
        self.fleet.replace_gateway()
        self.fleet.until(lambda: session.away is None)
        self.assertFalse(producer.paused)
        session.unregisterProducer()
        self.fleet.settle()
        self.assertEqual(len(self.device.sessions[session.session_id].got), sent)


class Producer:
    """Writes until it is told to pause."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sent = 0
        self.paused = self.stopped = False

    def fill(self) -> None:
        for _ in range(1000):
            if self.paused:
                return
            self.session.write(bytes(4096))
            self.sent += 4096

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True


class EndingTests(Base):
    """What ends a session that resumes, and what does not."""

    def answered(self, *codes: str) -> Session:
        """Break the link, and answer the OPENs that follow with these codes."""
        session = self.opened()
        self.fleet.advance(10)
        self.device.refuse = list(codes)
        self.fleet.cut()
        self.fleet.advance(6)
        return session

    def test_codes_that_end_it(self) -> None:
        """What will not change is the outcome at once."""
        for code, status in (
            ("lost", "lost"),
            ("unknown", "lost"),
            ("policy", "refused"),
            ("revoked", "refused"),
            ("duplicate", "lost"),
            ("not-found", "error"),
            ("offline", "lost"),
            ("bad-request", "error"),
        ):
            self.receiver = Receiver()
            outcome = self.fleet.outcome(self.answered(code))
            self.assertEqual((outcome.status, outcome.code), (status, code))

    def test_words(self) -> None:
        """Unknown, lost and taken over are told in words where the device gave none."""
        for code, word in (
            ("unknown", "cannot tell whether it ran"),
            ("lost", "does not have it any more"),
            ("duplicate", "taken over by another attach"),
        ):
            self.receiver = Receiver()
            self.assertIn(word, self.fleet.outcome(self.answered(code)).message or "")

    def test_codes_that_pass(self) -> None:
        """Overload and its like, while it resumes, are asked again within the grace."""
        session = self.answered("overload", "streams", "shutdown", "internal", "link-lost")
        self.assertFalse(session.ended)
        self.assertIsNone(session.away)
        self.assertEqual(session.attempt, 7)

    def test_offline_at_first(self) -> None:
        """A device that is offline at the first attempt is told at once."""
        self.device.refuse = ["offline"]
        session = self.fleet.open(self.receiver)
        self.fleet.settle()
        self.assertEqual(self.fleet.outcome(session).status, "offline")

    def test_overload_at_first(self) -> None:
        """A refusal of the first attempt is the outcome."""
        self.device.refuse = ["overload"]
        session = self.fleet.open(self.receiver)
        self.fleet.settle()
        self.assertEqual(self.fleet.outcome(session).code, "overload")

    def test_keeper_that_forgot(self) -> None:
        """A device without memory of the session: lost if it was open, unknown if it may have run.

        In no case does it run twice.
        """
        session = self.opened()
        self.device.forget()
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertEqual(self.fleet.outcome(session).code, "lost")
        self.device.ignores = True
        second = self.fleet.open(Receiver())
        self.fleet.settle()
        self.device.ignores = False
        self.device.forget()
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertEqual(self.fleet.outcome(second).code, "unknown")
        self.assertEqual(self.device.runs, 1)

    def test_lost_open(self) -> None:
        """An OPEN that never arrived is repeated without positions, and runs once."""
        self.fleet.wires[-1].cut_after = [1, None]
        session = self.fleet.open(self.receiver)
        self.fleet.advance(1)
        self.assertTrue(session.opened)
        (request,) = self.device.opens
        self.assertEqual((request.attempt, request.resume, self.device.runs), (2, None, 1))
        self.assertEqual(request.limit, DEFAULT_WINDOW)

    def test_lost_opened(self) -> None:
        """An OPENED that never arrived: the same session is joined, from its beginning."""
        self.device.script = [b"from the beginning"]
        self.fleet.wires[-1].cut_after = [None, 1]
        self.fleet.open(self.receiver)
        self.fleet.advance(1)
        self.assertEqual([r.attempt for r in self.device.opens], [1, 2])
        self.assertEqual((self.device.opens[1].resume, self.device.runs), (None, 1))
        self.assertEqual(bytes(self.receiver.out), b"from the beginning")
        self.assertEqual(self.receiver.replays, [(18, 0)])

    def test_device_hop(self) -> None:
        """When only the way to the device broke it asks again at once, then less and less."""
        session = self.opened()
        there = self.device.sessions[session.session_id]
        asked: list[float] = []

        def refuse(link: Any, number: int, request: Any) -> bool:
            asked.append(self.fleet.clock.seconds() - start)
            link.refuse(number, "link-lost", "the device's link broke")
            return True

        start = self.fleet.clock.seconds()
        self.fleet.gateway.on_request = refuse
        self.fleet.wires[-1].ends[1].reset(there.channel.number, "link-lost", "its link broke")
        self.fleet.advance(15)
        steps = [round(b - a, 1) for a, b in pairwise(asked)]
        self.assertEqual((asked[0], steps), (0.0, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]))
        self.fleet.gateway.on_request = lambda *_: False
        self.fleet.until(lambda: session.away is None)
        self.assertEqual(len(self.fleet.wires), 1)

    def test_abort(self) -> None:
        """A session that is given up while away is over here, and never asked for again."""
        session = self.opened()
        self.fleet.lose_gateway()
        self.fleet.advance(1)
        session.abort()
        self.assertEqual(self.fleet.outcome(session).code, "cancelled")
        self.assertIsNone(session.away)
        self.fleet.replace_gateway()
        self.fleet.advance(10)
        self.assertEqual((len(self.device.opens), len(self.fleet.wires)), (1, 1))

    def test_detach(self) -> None:
        """A session that is left lives on: its device is told link-lost, not cancelled."""
        session = self.opened()
        session.detach()
        self.fleet.settle()
        self.assertEqual(self.fleet.outcome(session).status, "lost")
        self.assertEqual(len(self.fleet.wires), 1)
        there = self.device.sessions[session.session_id]
        self.assertIsNone(there.closed)
        self.assertTrue(there.channel.detached)

    def test_close_leaves_it_running(self) -> None:
        """Closing the client ends its sessions here with `lost`; on the device they live on."""
        session, away = self.opened(), self.fleet.open(Receiver())
        self.fleet.settle()
        self.device.refuse = ["overload"] * 100
        self.fleet.wires[-1].ends[1].reset(
            self.device.sessions[away.session_id].channel.number, "link-lost"
        )
        self.fleet.settle()
        self.fleet.close()
        for one in (session, away):
            self.assertEqual(self.fleet.outcome(one).code, "link-lost")
        self.assertIsNone(self.device.sessions[session.session_id].closed)
        self.assertRaises(ConnectionFailed, self.fleet.open, Receiver())

    def test_request_too_large(self) -> None:
        """A request that would fit at first but not when resuming is refused before it is sent."""
        for size in range(16_000, 16_500, 7):
            try:
                self.fleet.client.open("pump", "x", {"text": "y" * size}, Receiver())
            except ConnectionFailed:
                raise
            except Exception as error:
                self.assertEqual(getattr(error, "code", ""), "bad-request")
                break
        else:
            self.fail("never refused")
        self.fleet.settle()
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertTrue(all(request.attempt <= 2 for request in self.device.opens))
