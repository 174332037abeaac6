"""Continuing a session from another client, and watching one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import ConnectionFailed, Refused, RshellError, Session, SessionInfo
from rshell.client.replays import Replays
from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.core.constants import DEFAULT_WINDOW
from rshell.link.core.messages import Open, Positions
from rshell.link.protocol import LinkProtocol
from tests.client.memory_fleet import MemoryFleet, Receiver


class ReplaysTests(SynchronousTestCase):
    """Counting old output."""

    def test_one(self) -> None:
        """A replay is counted down as it is delivered."""
        replays = Replays()
        self.assertEqual(replays.left, 0)
        replays.delivered(10)
        replays.expect(0, 5)
        self.assertEqual(replays.left, 5)
        replays.delivered(3)
        self.assertEqual(replays.left, 2)
        replays.delivered(2)
        replays.delivered(100)
        self.assertEqual(replays.left, 0)

    def test_behind_what_waits(self) -> None:
        """A replay begins behind what had arrived before it."""
        replays = Replays()
        replays.expect(7, 5)
        self.assertEqual(replays.left, 0)
        replays.delivered(7)
        self.assertEqual(replays.left, 5)

    def test_replaced(self) -> None:
        """Of a replay that was cut short only what had arrived still counts."""
        replays = Replays()
        replays.expect(0, 10)
        replays.delivered(2)
        replays.expect(3, 4)
        self.assertEqual(replays.left, 3)
        replays.delivered(3)
        self.assertEqual(replays.left, 4)
        replays.expect(0, 0)
        self.assertEqual(replays.left, 0)


class Base(SynchronousTestCase):
    """Two clients of one device: the first opened a session, the second joins it."""

    def setUp(self) -> None:
        self.fleet = MemoryFleet().connect()
        self.device = self.fleet.device
        self.device.script = [b"a" * 100]
        self.first_receiver, self.receiver = Receiver(), Receiver()
        self.first = self.fleet.open(self.first_receiver, login="root")
        self.first.write(b"typed before")
        self.fleet.advance(2)  # until what was taken has been announced
        self.there = self.device.sessions[self.first.session_id]
        # The other client has a fleet of its own, but for the device.
        self.other = MemoryFleet().connect()
        self.other.device = self.device
        self.addCleanup(self.nothing_left)

    def nothing_left(self) -> None:
        for fleet in (self.fleet, self.other):
            fleet.close()
            for wire in fleet.wires:
                wire.cut()
            self.assertEqual(fleet.clock.getDelayedCalls(), [])

    def info(self, **more: Any) -> SessionInfo:
        fields: dict[str, Any] = {
            "session": self.first.session_id.hex(),
            "device": "pump",
            "device_id": "d-1",
            "handler": "exec",
            "login": "root",
            "state": "detached",
            "attempt": self.first.attempt,
        }
        return SessionInfo(**(fields | more))

    def attach(self, **options: Any) -> Session:
        info = options.pop("info", None) or self.info()
        session = self.receiver.session = self.other.client.attach(info, self.receiver, **options)
        self.other.settle()
        self.fleet.settle()
        return session


class AttachTests(Base):
    """Driving on."""

    def test_attach(self) -> None:
        """It goes on with the same id, from 0, by the next attempt; what is gone is a gap (R8)."""
        session = self.attach()
        request = self.device.opens[-1]
        self.assertEqual(request.session, self.first.session_id)
        self.assertEqual((request.attempt, request.view), (2, False))
        self.assertEqual(request.resume, Positions(0, DEFAULT_WINDOW, 0))
        self.assertEqual((request.device, request.login), ("d-1", "root"))
        self.assertTrue(session.opened)
        # 100 bytes and the echo were taken by the first client.
        self.assertEqual(session.gap_bytes, 112)
        self.assertEqual([entry[:2] for entry in self.receiver.events][:1], [(0, "gap")])
        session.write(b"+more")
        session.write_eof()
        self.other.settle()
        self.assertEqual(bytes(self.receiver.out), b"+more")
        self.assertEqual(bytes(self.there.got), b"typed before+more")
        self.assertEqual(self.other.outcome(session).exit_code, 3)
        self.assertEqual(self.device.runs, 1)

    def test_replay(self) -> None:
        """Output that nobody took comes first, and is counted as older than the attach."""
        self.fleet.cut()
        self.fleet.unreachable = ConnectionFailed("unreachable", "away", "")
        self.there.channel.write(b"q" * 50)
        session = self.attach()
        self.there.channel.write(b"new")
        self.other.settle()
        self.assertEqual(bytes(self.receiver.out), b"q" * 50 + b"new")
        self.assertEqual(self.receiver.replays, [(50, 50), (3, 0)])
        self.assertEqual(session.replay_left, 0)

    def test_taken_over(self) -> None:
        """The client that drove it until then is told so, and does not come back."""
        self.attach()
        outcome = self.fleet.outcome(self.first)
        self.assertEqual((outcome.status, outcome.code), ("lost", "duplicate"))
        self.assertIn("taken over", outcome.message or "")
        self.fleet.advance(10)
        self.assertEqual([request.attempt for request in self.device.opens], [1, 2])

    def test_breaks_too(self) -> None:
        """An attached session resumes as any other does."""
        session = self.attach()
        self.other.cut()
        self.other.advance(1)
        self.assertEqual(self.device.opens[-1].attempt, 3)
        session.write_eof()
        self.other.settle()
        self.assertEqual(self.other.outcome(session).exit_code, 3)
        self.assertEqual(session.gap_bytes, 112)

    def test_old_attempt(self) -> None:
        """If somebody was faster, the newest attempt is looked up, once."""
        self.there.attempt = 7
        row = {"session": self.info().session, "device": "pump", "handler": "exec"}
        self.other.gateway.answers["sessions"] = [row | {"state": "attached", "attempt": 7}]
        session = self.attach()
        self.assertTrue(session.opened)
        self.assertEqual([request.attempt for request in self.device.opens], [1, 2, 8])

    def test_old_attempt_twice(self) -> None:
        """The second time it is the outcome."""
        self.there.attempt = 7
        row = {"session": self.info().session, "device": "pump", "handler": "exec"}
        self.other.gateway.answers["sessions"] = [row | {"state": "attached", "attempt": 5}]
        self.assertEqual(self.other.outcome(self.attach()).code, "duplicate")
        self.assertEqual(len(self.device.opens), 3)

    def test_old_attempt_of_a_session_that_is_gone(self) -> None:
        """A session that is not listed any more is not asked for again."""
        self.there.attempt = 7
        self.other.gateway.answers["sessions"] = []
        self.assertEqual(self.other.outcome(self.attach()).code, "duplicate")
        self.assertEqual(len(self.device.opens), 2)

    def test_closed_while_looking_up(self) -> None:
        """A client that is closed while the newest attempt is looked up leaves nothing waiting."""
        self.there.attempt = 7
        asked: list[str] = []

        def ignore(link: LinkProtocol, number: int, request: Open) -> bool:
            asked.append(request.handler)
            return request.handler == "gateway.sessions"

        self.other.gateway.on_request = ignore
        session = self.attach()
        self.assertEqual(asked[-1], "gateway.sessions")
        self.other.close()
        self.assertEqual(self.other.outcome(session).code, "link-lost")

    def test_lost(self) -> None:
        """A session that the device does not have is lost; nothing is run."""
        self.device.forget()
        self.assertEqual(self.other.outcome(self.attach()).code, "lost")
        self.assertEqual(self.device.runs, 1)

    def test_bad_id(self) -> None:
        """What is no session's id is refused here."""
        for session in ("", "zz" * 16, "00" * 15, "00" * 17):
            error = self.assertRaises(
                RshellError, self.other.client.attach, self.info(session=session), self.receiver
            )
            self.assertEqual(error.code, "bad-request")


class ViewTests(Base):
    """Watching."""

    def setUp(self) -> None:
        super().setUp()
        self.views: list[StreamChannel] = []
        self.device.on_view = self.views.append

    def test_view(self) -> None:
        """A viewer sees what is printed and how it ends, and displaces nobody (R9)."""
        session = self.attach(view=True)
        request = self.device.opens[-1]
        self.assertEqual((request.view, request.attempt, request.resume), (True, 1, None))
        self.views[0].write(b"seen")
        self.views[0].finish(Outcome(status="ok"))
        self.other.settle()
        self.assertEqual(bytes(self.receiver.out), b"seen")
        self.assertEqual(self.other.outcome(session).status, "ok")
        self.assertFalse(self.first.ended)

    def test_joins_anew(self) -> None:
        """A viewer whose link broke joins anew; it is told `session_opened` once."""
        session = self.attach(view=True)
        self.views[0].write(b"one ")
        self.other.settle()
        self.other.cut()
        self.other.advance(1)
        self.assertIsNone(session.away)
        self.views[1].write(b"two")
        self.views[1].send_event("gap", {"bytes": 9})
        self.other.settle()
        self.assertEqual(bytes(self.receiver.out), b"one two")
        self.assertEqual((self.receiver.opened, session.gap_bytes), (1, 9))
        request = self.device.opens[-1]
        self.assertEqual((request.view, request.resume), (True, None))

    def test_slow_to_return(self) -> None:
        """While it joins anew, overload passes; a session that has ended does not."""
        session = self.attach(view=True)
        self.device.refuse = ["overload", "link-lost"]
        self.other.cut()
        self.other.advance(3)
        self.assertEqual((len(self.views), session.ended), (2, False))
        self.device.on_view = None
        self.other.cut()
        self.other.advance(3)
        self.assertEqual(self.other.outcome(session).code, "not-found")

    def test_grace(self) -> None:
        """After the grace a viewer gives up as others do."""
        session = self.attach(view=True)
        self.other.lose_gateway()
        self.other.advance(61)
        outcome = self.other.outcome(session)
        self.assertEqual((outcome.status, outcome.code), ("lost", "link-lost"))

    def test_overload_at_first(self) -> None:
        """Too many viewers is the outcome."""
        self.device.refuse = ["overload"]
        self.assertEqual(self.other.outcome(self.attach(view=True)).code, "overload")


class ListingTests(Base):
    """The verbs about sessions and links."""

    def ask(self, asked: Any) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(asked).addCallback(found.append)
        self.fleet.settle()
        (answer,) = found
        return answer

    def test_sessions(self) -> None:
        """Sessions come typed, with what is newer left out."""
        self.fleet.gateway.answers["sessions"] = [
            {
                "session": "00" * 16,
                "device": "pump-1",
                "device_id": "d-1",
                "device_state": "lost",
                "operator": "alice",
                "handler": "shell",
                "login": "root",
                "state": "finished",
                "started_at": "2026-01-01T00:00:00Z",
                "age_ms": 5000,
                "detached_ms": 0,
                "attempt": 3,
                "viewers": 1,
                "outcome": {"status": "exit", "exit_code": 2},
                "newer": True,
            }
        ]
        (info,) = self.ask(self.fleet.client.sessions("pump-*", everybodys=True))
        self.assertEqual((info.attempt, info.viewers, info.outcome.exit_code), (3, 1, 2))
        (request,) = self.fleet.gateway.asked
        self.assertEqual(request.request, {"selector": "pump-*", "all": True})

    def test_verbs(self) -> None:
        """Each verb sends what the gateway expects, key by key."""
        answers = self.fleet.gateway.answers
        answers["end-session"] = {"ended": True}
        answers["probe"] = {"device": "p", "state": "live", "alive": True, "rtt_ms": 1.5}
        answers["why"] = [{"at": "2026-01-01T00:00:00Z", "source": "agent", "kind": "dns"}]
        answers["quarantine"] = {"id": "1", "name": "p", "quarantined": "2026-01-01T00:00:00Z"}
        client = self.fleet.client
        self.assertIsNone(self.ask(client.end_session("00" * 16)))
        self.assertEqual(self.ask(client.probe("p")).rtt_ms, 1.5)
        self.assertEqual(self.ask(client.why("p", 7))[0].kind, "dns")
        self.assertEqual(self.ask(client.quarantine("p")).quarantined, "2026-01-01T00:00:00Z")
        self.assertEqual(
            [(request.handler, request.request) for request in self.fleet.gateway.asked],
            [
                ("gateway.end-session", {"session": "00" * 16}),
                ("gateway.probe", {"device": "p"}),
                ("gateway.why", {"device": "p", "limit": 7}),
                ("gateway.quarantine", {"device": "p", "release": False}),
            ],
        )

    def test_refused(self) -> None:
        """A refusal is `Refused`, with the gateway's words, and is not asked again."""
        refusals: list[Any] = []

        def refuse(link: LinkProtocol, number: int, request: Open) -> bool:
            link.refuse(number, "policy", "role viewer may not")
            return True

        self.fleet.gateway.on_request = refuse
        asked = Deferred.fromCoroutine(self.fleet.client.sessions())
        asked.addErrback(lambda failure: refusals.append(failure.value))
        self.fleet.settle()
        self.assertIsInstance(refusals[0], Refused)
        self.assertEqual(refusals[0].code, "policy")
