"""Uplink: when a link is dialled, and when not; and the calls that go over it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import ConnectionFailed, Session
from rshell.client.uplink import LOT, UplinkState
from rshell.link.core.messages import GoAway
from tests.client.memory_fleet import MemoryFleet, Receiver


class Base(SynchronousTestCase):
    """A connected client."""

    def setUp(self) -> None:
        self.fleet = MemoryFleet().connect()
        self.uplink = self.fleet.uplink

    def tearDown(self) -> None:
        self.fleet.close()
        for wire in self.fleet.wires:
            wire.cut()
        self.assertEqual(self.fleet.clock.getDelayedCalls(), [])

    def opened(self, **options: Any) -> Session:
        session = self.fleet.open(Receiver(), **options)
        self.fleet.settle()
        self.assertTrue(session.opened)
        return session

    def call(self, verb: str) -> list[Any]:
        """Ask the gateway; the list gets the answer or its exception."""
        answers: list[Any] = []
        asked = Deferred.fromCoroutine(self.fleet.client.call_gateway(verb))
        asked.addCallbacks(answers.append, lambda failure: answers.append(failure.value))
        self.fleet.settle()
        return answers


class DiallingTests(Base):
    """Back-off, hints, and who is worth a link."""

    def dials(self, seconds: float) -> list[float]:
        """Let time pass; return when was dialled, counted from now."""
        start, before = self.fleet.clock.seconds(), len(self.fleet.dialled_at)
        self.fleet.advance(seconds)
        return [round(at - start, 2) for at in self.fleet.dialled_at[before:]]

    def test_nobody_needs_it(self) -> None:
        """A link that nobody uses is not dialled again, until somebody calls."""
        self.fleet.advance(10)
        self.fleet.cut()
        self.assertEqual(self.dials(600), [])
        self.assertIs(self.uplink.state, UplinkState.IDLE)
        self.assertFalse(self.fleet.client.closed)
        self.opened()
        self.assertEqual(len(self.fleet.wires), 2)

    def test_back_off(self) -> None:
        """0.2 s after the loss, then full jitter that doubles to 5 s."""
        self.opened()
        self.fleet.advance(10)
        self.fleet.lose_gateway()
        at = self.dials(20)
        steps = [round(b - a, 1) for a, b in zip([0, *at], at, strict=False)]
        self.assertEqual(steps, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])

    def test_back_off_after_short_links(self) -> None:
        """Links that break as soon as they are there are dialled less and less often."""
        self.opened()
        for wanted in (0.2, 0.4, 0.8, 1.6):
            self.fleet.cut()
            self.assertEqual(self.dials(wanted + 0.05), [wanted])
        self.fleet.advance(10)
        self.fleet.cut()
        self.assertEqual(self.dials(0.25), [0.2])

    def test_no_longer_needed(self) -> None:
        """When the last session that waited has ended, dialling ends too."""
        session = self.opened()
        self.fleet.lose_gateway()
        self.fleet.advance(1)
        session.abort()
        self.assertEqual(self.dials(60), [])

    def test_given_up_while_dialling(self) -> None:
        """An attempt under way is cancelled when nobody waits for it any more."""
        session = self.opened()
        cancelled: list[object] = []
        self.fleet.hangs = Deferred(cancelled.append)
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertIs(self.uplink.state, UplinkState.DIALLING)
        session.abort()
        self.assertEqual(len(cancelled), 1)
        self.assertIs(self.uplink.state, UplinkState.IDLE)

    def test_close_while_dialling(self) -> None:
        """close() while dialling ends the attempt, and whoever waited for it."""
        session = self.opened()
        self.fleet.on_dial = lambda wire: setattr(wire, "frozen", True)
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertIs(self.uplink.state, UplinkState.DIALLING)
        self.fleet.close()
        self.assertEqual(self.fleet.outcome(session).code, "link-lost")
        self.assertTrue(self.fleet.wires[-1].transport(0).aborted)

    def test_goaway(self) -> None:
        """Streams of a link that was told to leave go on; new ones get another link."""
        old = self.opened()
        gateway = self.fleet.wires[-1].ends[1]
        gateway.go_away(GoAway(code="none", retry_min_ms=1000, retry_spread_ms=500), close=False)
        self.fleet.settle()
        self.assertIsNone(self.uplink.link)
        new = self.fleet.open(Receiver())
        self.assertEqual(self.dials(2), [1.5])
        self.assertTrue(new.opened)
        old.write(b"still here")
        self.fleet.settle()
        self.assertEqual(bytes(self.fleet.device.sessions[old.session_id].got), b"still here")
        self.assertEqual((old.attempt, len(self.fleet.wires)), (1, 2))

    def test_shutdown_hint(self) -> None:
        """A planned restart spreads its clients, but a person waits 5 s at most."""
        session = self.opened()
        gateway = self.fleet.wires[-1].ends[1]
        gateway.go_away(GoAway(code="shutdown", retry_spread_ms=120_000), close=True)
        self.assertEqual(self.dials(10), [5.0])
        self.assertIsNone(session.away)

    def test_refused_for_good(self) -> None:
        """An answer that only a person can change ends everything at once, with its code."""
        for code in ("auth", "revoked", "expired", "version"):
            fleet = MemoryFleet().connect()
            session = fleet.open(Receiver())
            fleet.settle()
            fleet.replace_gateway().goaway = GoAway(code=code, message="no more")
            fleet.cut()
            fleet.advance(1)
            outcome = fleet.outcome(session)
            self.assertEqual((outcome.status, outcome.code), ("lost", code))
            self.assertIn("no more", outcome.message or "")
            self.assertTrue(fleet.client.closed)
            error = self.assertRaises(ConnectionFailed, fleet.open, Receiver())
            self.assertEqual(error.code, code)
            fleet.advance(60)
            self.assertEqual(len(fleet.dialled_at), 2)
            fleet.close()
            self.assertEqual(fleet.clock.getDelayedCalls(), [])

    def test_told_without_a_session(self) -> None:
        """Who waits without a session hears of the end, also afterwards, and makes nobody dial."""
        told = self.fleet.client.when_closed()
        self.fleet.advance(10)
        self.fleet.cut()
        self.fleet.advance(60)
        self.assertNoResult(told)
        self.assertEqual(len(self.fleet.dialled_at), 1)
        self.fleet.replace_gateway().goaway = GoAway(code="revoked", message="no more")
        session = self.fleet.open(Receiver())
        self.fleet.advance(1)
        self.assertEqual(self.fleet.outcome(session).code, "revoked")
        for deferred in (told, self.fleet.client.when_closed()):
            self.assertEqual(self.successResultOf(deferred).code, "revoked")

    def test_revoked_on_a_link(self) -> None:
        """A GOAWAY `revoked` on the link that is open has the same effect, without a dial."""
        session = self.opened()
        self.fleet.wires[-1].ends[1].go_away(GoAway(code="revoked"), close=True)
        self.assertEqual(self.dials(10), [])
        self.assertEqual(self.fleet.outcome(session).code, "revoked")

    def test_unexpected_faults_are_retried(self) -> None:
        """A fault of ours in dialling is logged and tried again."""
        session = self.opened()
        self.fleet.unreachable = ZeroDivisionError("oops")
        self.fleet.cut()
        self.fleet.advance(1)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 0)
        self.fleet.unreachable = None
        self.fleet.until(lambda: session.away is None)

    def test_lots(self) -> None:
        """Thousands of sessions come back in lots, not in one burst that a gateway would refuse."""
        sessions = [self.fleet.open(Receiver()) for _ in range(3 * LOT)]
        self.fleet.settle()
        before = len(self.fleet.device.opens)
        self.fleet.cut()
        self.fleet.until(lambda: len(self.fleet.device.opens) > before)
        self.assertEqual(len(self.fleet.device.opens) - before, LOT)
        self.fleet.advance(0.2)
        self.assertTrue(all(session.away is None for session in sessions))
        self.assertTrue(all(session.attempt == 2 for session in sessions))

    def test_connect_fails(self) -> None:
        """The first link is tried once; its failure is the caller's."""
        fleet = MemoryFleet()
        fleet.unreachable = ConnectionFailed("unreachable", "nobody there", "")
        failed: list[Any] = []
        Deferred.fromCoroutine(fleet.uplink.connect()).addErrback(failed.append)
        self.assertEqual(failed[0].value.code, "unreachable")
        self.assertEqual(fleet.clock.getDelayedCalls(), [])


class HeartbeatTests(Base):
    """A path that is dead without a word."""

    def noticed(self) -> float:
        """Freeze the link; return how long it takes until the session is away."""
        session = self.opened(priority=self.priority)
        self.fleet.advance(3)
        self.fleet.wires[-1].frozen = True
        self.fleet.on_dial = lambda wire: setattr(wire, "frozen", True)
        start = self.fleet.clock.seconds()
        self.fleet.until(lambda: session.away is not None, 60)
        return self.fleet.clock.seconds() - start

    priority = "interactive"

    def test_interactive(self) -> None:
        """With a terminal open it is noticed within 25 s and a little."""
        self.assertLess(self.noticed(), 26)

    def test_others(self) -> None:
        """Without one the gateway's heartbeat counts: 25 s, and 15 s for the answer."""
        self.priority = "normal"
        self.assertTrue(30 < self.noticed() < 41)

    def test_back_to_normal(self) -> None:
        """Once no terminal is open any more the heartbeat is the gateway's again."""
        self.opened(priority="interactive").abort()
        self.priority = "normal"
        self.assertTrue(30 < self.noticed() < 41)


class CallTests(Base):
    """Verbs of the gateway over links that break."""

    def test_read_again(self) -> None:
        """A verb that only reads is asked again over the next link."""
        self.fleet.gateway.answers["devices"] = [{"id": "1", "name": "pump-1"}]
        self.fleet.wires[-1].cut_after = [None, 20]
        answers = self.call("devices")
        self.assertEqual(answers, [])
        self.fleet.advance(1)
        self.assertEqual(answers, [[{"id": "1", "name": "pump-1"}]])
        self.assertEqual([request.attempt for request in self.fleet.gateway.asked], [1, 1])
        first, second = self.fleet.gateway.asked
        self.assertNotEqual(first.session, second.session)

    def test_read_again_for_the_grace(self) -> None:
        """After the grace it fails, and says so."""
        self.fleet.wires[-1].cut_after = [1, None]
        answers = self.call("devices")
        self.fleet.lose_gateway()
        self.fleet.advance(61)
        self.assertEqual(answers[0].code, "link-lost")
        self.assertIn("connection refused", answers[0].message)

    def test_changing_verbs(self) -> None:
        """A verb that changes something is not repeated; it may or may not have happened."""
        self.fleet.gateway.answers["revoke"] = {}
        self.fleet.wires[-1].cut_after = [None, 20]
        answers = self.call("revoke")
        self.fleet.advance(5)
        self.assertEqual(answers[0].code, "link-lost")
        self.assertIn("revoke may or may not have happened", answers[0].message)
        self.assertEqual(len(self.fleet.gateway.asked), 1)

    def test_changing_verbs_wait_for_a_link(self) -> None:
        """What was not sent yet may wait for a link, whatever it does."""
        self.fleet.gateway.answers["revoke"] = {"links_closed": 1}
        self.fleet.cut()
        answers = self.call("revoke")
        self.fleet.advance(1)
        self.assertEqual(answers, [{"links_closed": 1}])

    def test_closed(self) -> None:
        """Calls that wait fail when the client is closed, and so does every later one."""
        self.fleet.lose_gateway()
        answers = self.call("whoami")
        self.fleet.close()
        self.assertEqual(answers[0].code, "link-lost")
        (again,) = self.call("whoami")
        self.assertIsInstance(again, ConnectionFailed)

    def test_unreadable_numbers(self) -> None:
        """A gateway that answers metrics without text is read as none."""
        self.fleet.gateway.answers["metrics"] = {"text": "up 1\n"}
        texts: list[str] = []
        Deferred.fromCoroutine(self.fleet.client.metrics()).addCallback(texts.append)
        self.fleet.settle()
        self.fleet.gateway.answers["metrics"] = ["?"]
        Deferred.fromCoroutine(self.fleet.client.metrics()).addCallback(texts.append)
        self.fleet.settle()
        self.assertEqual(texts, ["up 1\n", ""])
