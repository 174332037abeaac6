"""A session's later attempts at the gate: parked, displacing, watching (rules R3, R6, R9, R10)."""

from __future__ import annotations

from typing import Any

from rshell.gateway.parking import Parking
from rshell.gateway.session_audit import REFUSALS_BURST, REFUSALS_RATE
from rshell.gateway.throttle import Throttle
from rshell.link.core.messages import Open, Opened, Outcome, Positions
from rshell.store.records import Grant
from tests.gateway.gate import SESSION, GateTestCase
from tests.link.fakes import Receiver

RESUME = Positions(5, 4101, 1)


class ParkingTests(GateTestCase):
    def test_device_returns(self) -> None:
        """A resume of a session whose device is away waits, and goes on when it is back (R10)."""
        self.begin()
        self.away()
        asked = self.ask(attempt=2, age_ms=1000, resume=RESUME)
        self.assertIsNone(asked.code)
        self.assertEqual(len(self.board.parking), 1)
        self.fleet.advance(20)
        self.back()
        ((number, told),) = self.device.requests
        self.assertEqual((told.attempt, told.resume, told.operator), (2, RESUME, "ann"))
        self.assertEqual(len(self.board.parking), 0)
        self.device.link.accept(number, told, Opened(9, 4105, 0, 3), Receiver())
        self.fleet.pump()
        self.assertEqual(asked.opened, Opened(9, 4105, 0, 3))

    def test_age_grows_while_parked(self) -> None:
        """The device is told the age as of now: what it decides by may never be too young (R3)."""
        self.begin()
        self.away()
        self.ask(attempt=2, age_ms=1000)
        self.fleet.advance(20)
        self.back()
        self.assertGreaterEqual(self.device.requests[0][1].age_ms, 21_000)
        self.assertLess(self.device.requests[0][1].age_ms, 22_000)

    def test_first_attempt_is_answered(self) -> None:
        """A first attempt does not wait: the device is offline, and one is told so."""
        self.away()
        self.assertEqual(self.ask().code, "offline")

    def test_session_that_this_gateway_never_saw(self) -> None:
        """Without any row a later attempt waits too: its first OPEN died with a gateway."""
        self.away()
        asked = self.ask(attempt=2, age_ms=500)
        self.assertIsNone(asked.code)
        self.back()
        self.assertEqual((self.device.requests[0][1].attempt, asked.code), (2, None))

    def test_grace(self) -> None:
        """After the grace the attempt is refused as offline, and the row says so."""
        self.begin()
        self.away()
        asked = self.ask(attempt=2, resume=RESUME)
        self.fleet.advance(59)
        self.assertIsNone(asked.code)
        self.fleet.advance(2)
        assert asked.closed is not None
        self.assertEqual(asked.closed[0], "offline")
        self.assertIn("within 60 s", asked.closed[1])
        self.assertEqual(self.told(), [("detached", "link-lost"), ("offline", "offline")])
        self.assertEqual((len(self.board.parking), len(self.board)), (0, 0))

    def test_reset_ends_the_parking(self) -> None:
        """An operator who gives up frees the place at once, and the device is asked nothing."""
        self.begin()
        self.away()
        asked = self.ask(attempt=2, resume=RESUME)
        asked.reset("cancelled", "enough")
        self.fleet.pump()
        self.assertEqual((len(self.board.parking), len(self.board)), (0, 0))
        self.back()
        self.assertEqual(self.device.requests, [])
        self.assertEqual(self.told()[-1], ("refused", "cancelled"))

    def test_operators_link_lost(self) -> None:
        """The operator's link breaks while parked: detached, not failed."""
        self.begin()
        self.away()
        self.ask(attempt=2, resume=RESUME)
        self.operator.wire.cut()
        self.fleet.pump()
        self.assertEqual(len(self.board.parking), 0)
        self.assertEqual(self.told()[-1], ("detached", "link-lost"))

    def test_higher_attempt(self) -> None:
        """A higher attempt takes the place; only it reaches the device."""
        self.begin()
        self.away()
        second = self.ask(attempt=2, resume=RESUME)
        third = self.ask(self.fleet.dial(self.ann), attempt=3, resume=RESUME)
        self.assertEqual((second.code, third.code), ("duplicate", None))
        self.assertEqual(len(self.board.parking), 1)
        self.back()
        self.assertEqual([request.attempt for _, request in self.device.requests], [3])

    def test_lower_attempt(self) -> None:
        """An attempt that is not above a parked one is refused."""
        self.begin()
        self.away()
        third = self.ask(attempt=3, resume=RESUME)
        late = self.ask(self.fleet.dial(self.ann), attempt=2, resume=RESUME)
        same = self.ask(self.fleet.dial(self.ann), attempt=3, resume=RESUME)
        self.assertEqual((late.code, same.code, third.code), ("duplicate", "duplicate", None))

    def test_device_goes_again(self) -> None:
        """A device that comes and goes before the gate has looked: the attempt waits on."""
        self.begin()
        self.away()
        asked = self.ask(attempt=2, resume=RESUME)
        self.fleet.threads.hold("read")
        device = self.back()
        self.fleet.threads.release_one()  # its HELLO is judged, the attempt asks again
        self.fleet.pump()
        device.wire.cut()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertIsNone(asked.code)
        self.assertEqual(len(self.board.parking), 1)
        self.back()
        self.assertEqual([request.attempt for _, request in self.device.requests], [2])

    def test_revoked_operator(self) -> None:
        """An operator revoked while parked is refused at once, and the device asked nothing."""
        bob = self.fleet.add_operator("bob")
        bobs = self.fleet.dial(bob)
        self.ask(bobs, session=b"B" * 16)
        self.away()
        asked = self.ask(bobs, session=b"B" * 16, attempt=2, resume=RESUME)
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("bob"))
        self.fleet.pump()
        self.assertEqual(len(self.board.parking), 0)
        # Told by their link's end, if not by REFUSED before it.
        self.assertIn(asked.code, ("revoked", "link-lost"))
        self.back()
        self.assertEqual(self.device.requests, [])

    def test_revoked_elsewhere(self) -> None:
        """What the store says when the device is back counts: another process may have revoked."""
        bob = self.fleet.add_operator("bob")
        bobs = self.fleet.dial(bob)
        self.ask(bobs, session=b"B" * 16)
        self.away()
        asked = self.ask(bobs, session=b"B" * 16, attempt=2, resume=RESUME)
        self.fleet.got(self.fleet.store.revoke_operator("bob"))
        self.back()
        self.assertEqual(asked.code, "revoked")
        self.assertEqual(self.device.requests, [])

    def test_changed_role(self) -> None:
        """A role that grants it no more ends the parking with policy."""
        bob = self.fleet.add_operator("bob")
        bobs = self.fleet.dial(bob)
        self.ask(bobs, session=b"B" * 16)
        self.away()
        asked = self.ask(bobs, session=b"B" * 16, attempt=2, resume=RESUME)
        self.fleet.got(self.fleet.store.revoke_operator("bob"))
        self.fleet.got(self.fleet.store.add_operator("bob", ("viewer",)))
        self.back()
        self.assertEqual(asked.code, "policy")
        self.assertEqual(self.device.requests, [])

    def test_revoked_device(self) -> None:
        """A device revoked while sessions wait for it: they are refused at once."""
        self.begin()
        self.away()
        asked = self.ask(attempt=2, resume=RESUME)
        self.fleet.run(self.fleet.gateway.revocation.revoke_device("pump-1"))
        self.fleet.pump()
        self.assertEqual((asked.code, len(self.board.parking)), ("revoked", 0))

    def test_bounded(self) -> None:
        """Places are bounded for each operator and in all; beyond, overload."""
        self.board.parking = Parking(self.fleet.wheel, in_all=3, per_operator=2)
        self.away()
        other = self.fleet.dial(self.fleet.add_operator("bob"))
        ids = [bytes([n]) * 16 for n in range(6)]
        mine = [self.ask(session=ids[n], attempt=2) for n in range(3)]
        bobs = [self.ask(other, session=ids[n + 3], attempt=2) for n in range(2)]
        self.assertEqual([asked.code for asked in mine], [None, None, "overload"])
        self.assertEqual([asked.code for asked in bobs], [None, "overload"])
        mine[0].reset("cancelled")
        self.fleet.pump()
        self.assertIsNone(self.ask(other, session=ids[5], attempt=2).code)
        self.assertEqual(len(self.board.parking), 3)

    def test_gateway_killed(self) -> None:
        """After SIGKILL of the gateway an operator who is there first waits for the device."""
        self.begin()
        self.fleet.crash()
        self.board = self.fleet.gateway.switchboard
        self.operator = self.fleet.dial(self.ann, dial=2)
        asked = self.ask(attempt=2, resume=RESUME)
        self.assertIsNone(asked.code)
        self.back()
        self.assertEqual([request.resume for _, request in self.device.requests], [RESUME])


class DisplacingTests(GateTestCase):
    def test_half_open_link(self) -> None:
        """An attempt on a new link displaces the one on a link that hangs, before it is sent."""
        first, far = self.begin()
        self.operator.wire.held = True  # half-open: nobody knows yet
        order: list[str] = []
        self.device.on_request = lambda number, request: order.append(
            f"open {request.attempt} after {far.code}"
        )
        again = self.fleet.dial(self.ann, dial=2)
        second = self.ask(again, attempt=2, resume=RESUME)
        self.assertEqual(order, ["open 2 after link-lost"])
        self.assertEqual(len(self.board), 1)
        self.operator.wire.held = False
        self.fleet.pump()
        self.assertEqual((first.code, second.code), ("duplicate", None))
        self.assertEqual(self.told(), [("detached", "duplicate")])

    def test_before_the_answer(self) -> None:
        """An attempt whose OPEN was not answered yet is displaced likewise."""
        first = self.ask()
        number, _ = self.device.requests[0]
        self.ask(self.fleet.dial(self.ann), attempt=2)
        self.assertFalse(self.device.link.waiting(number))
        self.assertEqual([request.attempt for _, request in self.device.requests], [1, 2])
        self.assertEqual(first.code, "duplicate")

    def test_lower_attempt(self) -> None:
        """An attempt that is not above the current one harms nothing."""
        self.begin()
        second = self.ask(attempt=2, resume=RESUME)
        for attempt in (1, 2):
            self.assertEqual(self.ask(attempt=attempt).code, "duplicate")
        self.assertIsNone(second.code)
        self.assertEqual([request.attempt for _, request in self.device.requests], [1, 2])

    def test_somebody_elses_attempt(self) -> None:
        """Whatever attempt another operator says, it displaces nobody."""
        talk, _ = self.begin()
        bobs = self.fleet.dial(self.fleet.add_operator("bob", self.ops()))
        self.assertEqual(self.ask(bobs, attempt=9).code, "policy")
        self.ask(bobs)
        self.assertIsNone(talk.code)
        self.assertEqual(self.fleet.gateway.sessions.owner(self.pump.owner, SESSION), "ann")

    def test_device_comes_over_a_ghost(self) -> None:
        """Streams on a device's dead link end when its new link is there, not when it is cut."""
        talk, _ = self.begin()
        self.device.wire.held = True
        self.fleet.dial(self.pump, dial=2)
        self.assertEqual(talk.code, "link-lost")
        self.assertEqual(self.told(), [("detached", "link-lost")])


class ViewTests(GateTestCase):
    def test_viewer(self) -> None:
        """A viewer passes the gate, displaces nobody, and is audited as one (R9)."""
        talk, _ = self.begin()
        viewer = self.ask(attempt=7, view=True)
        number, told = self.device.requests[-1]
        self.assertEqual((told.view, told.resume), (True, None))
        self.device.link.refuse(number, "overload", "four watch already")
        self.fleet.pump()
        self.assertEqual((viewer.code, talk.code), ("overload", None))
        row = self.fleet.audit("session", opens=True)[-1]
        self.assertIs(row.record.details["view"], True)

    def test_outcome_is_the_drivers(self) -> None:
        """The outcome that a viewer gets does not end the session's row, nor complete it."""
        self.begin()
        viewer = self.operator.call("shell", device="pump-1", view=True)
        self.fleet.pump()
        watched = self.device.accept()
        self.fleet.pump()
        watched.channel.finish(Outcome(status="exit", exit_code=3))
        self.fleet.pump()
        self.assertEqual(viewer.outcome, {"status": "exit", "exit_code": 3})
        self.assertEqual(self.told(), [("viewed", None)])
        self.assertEqual(len(self.board), 1)
        story = self.fleet.got(self.fleet.store.session_story(SESSION.hex()))
        self.assertFalse(story.told)

    def test_going_viewer(self) -> None:
        """A viewer who goes leaves the session and its driver alone."""
        talk, far = self.begin()
        viewer = self.operator.call("shell", device="pump-1", view=True)
        self.fleet.pump()
        self.device.accept()
        self.fleet.pump()
        viewer.channel.reset("cancelled", "seen enough")
        self.fleet.pump()
        self.assertEqual((talk.code, far.code), (None, None))
        self.assertEqual(self.told(), [("viewed", "left")])

    def test_refused_views(self) -> None:
        """Nobody watches another's session, one that is unknown, or with positions."""
        self.begin()
        bobs = self.fleet.dial(self.fleet.add_operator("bob", self.ops()))
        self.assertEqual(self.ask(bobs, view=True).code, "policy")
        self.assertEqual(self.ask(view=True, session=b"N" * 16).code, "not-found")
        self.assertEqual(self.ask(view=True, resume=RESUME).code, "bad-request")
        self.assertEqual(len(self.device.requests), 1)


class StoryTests(GateTestCase):
    def test_resumed_session(self) -> None:
        """The log tells: detached, then another attempt, then how it ended."""
        self.begin()
        self.operator.wire.cut()
        self.fleet.pump()
        self.operator = self.fleet.dial(self.ann, dial=2)
        again = self.operator.call("shell", device="pump-1", attempt=2)
        self.fleet.pump()
        self.device.accept().channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(again.outcome, {"status": "ok"})
        self.assertEqual(self.told(), [("detached", "link-lost"), ("ok", None)])
        listing = self.operator.call("gateway.audit")
        self.fleet.pump()
        summaries = [row["summary"] for row in listing.answer() if row["attempt"] == 2]
        self.assertEqual(summaries[-1], "attempt 2")

    def test_outcome_reaches_nobody(self) -> None:
        """The outcome passed and the operator's link broke: the row is ended, once."""
        talk, far = self.begin()
        talk.channel.pauseProducing()
        far.channel.write(b"last words")
        far.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(len(self.board), 1)
        self.operator.wire.cut()
        self.fleet.pump()
        self.assertEqual((self.told(), len(self.board)), ([("ok", None)], 0))

    def test_refusals_are_bounded(self) -> None:
        """Rows about refused requests of one operator are bounded; what is left out is counted."""
        role = self.fleet.add_role("viewer", Grant(handlers=("tail",)))
        eve = self.fleet.add_operator("eve", role)
        end = self.fleet.dial(eve)
        audit: Any = self.board._audit
        audit._refusals = Throttle(self.fleet.wheel.seconds, REFUSALS_RATE, 3)
        self.assertGreater(REFUSALS_BURST, 3)
        codes = {self.ask(end, session=bytes([n]) * 16).code for n in range(8)}
        self.assertEqual(codes, {"policy"})
        self.assertEqual(len(self.fleet.audit("session", operator="eve")), 3)
        self.fleet.advance(1)
        self.ask(end)
        last = self.fleet.audit("session", operator="eve")[-1]
        self.assertEqual(last.record.details["left_out"], 5)

    def test_metrics(self) -> None:
        """Streams are counted as opened, resumed, parked and refused, by words of our own."""
        self.begin()
        self.away()
        self.ask(attempt=2)
        self.back()
        self.device.refuse("a-word-of-its-own", "")
        self.fleet.pump()
        self.ask(device="nope")
        text = self.fleet.gateway.metrics.exposition(self.fleet.gateway)
        for line in (
            "rshell_streams_opened_total 1.0",
            "rshell_streams_resumed_total 1.0",
            "rshell_streams_parked_total 1.0",
            'rshell_streams_refused_total{code="other"} 1.0',
        ):
            self.assertIn(line, text)


class OpenTests(GateTestCase):
    def test_device_open(self) -> None:
        """A later attempt's OPEN is written field by field as well."""
        self.begin()
        self.ask(attempt=2, operator="root", login="web", age_ms=7)
        _, told = self.device.requests[-1]
        expected = Open(
            handler="shell",
            session=SESSION,
            attempt=2,
            age_ms=7,
            operator="ann",
            login="web",
            limit=told.limit,
        )
        self.assertEqual(told, expected)
