"""SESSIONS: which of a device's sessions may live, and what nobody collected (section 9)."""

from __future__ import annotations

from typing import Any

from rshell.link.core.messages import Outcome, Positions, SessionReport, Sessions
from tests.gateway.fleet import FleetTestCase

GRACE_MS = 60_000


def sid(number: int) -> bytes:
    """Return a session id."""
    return number.to_bytes(16, "big")


class SessionsTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bob = self.fleet.add_operator("bob")
        self.operator, self.device = self.both()
        self.begin(1)

    def begin(self, number: int, operator: Any = None) -> None:
        """Open a session and lose the operator: it goes on, detached."""
        end = self.fleet.dial(operator or self.ann)
        end.call("exec", device="pump-1", session=sid(number))
        self.fleet.pump()
        self.device.accept()
        self.fleet.pump()
        end.wire.cut()
        self.fleet.pump()

    def report(self, *reports: SessionReport) -> Sessions:
        """Come back and list sessions; return the gateway's answer."""
        dial = self.device.hello.dial + 1
        self.device = self.fleet.dial(self.pump, dial=dial)
        self.device.link.sessions(Sessions(list(reports)))
        self.fleet.pump()
        (answer,) = self.device.answers
        return answer

    @staticmethod
    def one(number: int, **more: Any) -> SessionReport:
        """Return the report of one session."""
        return SessionReport(
            **{"session": sid(number), "operator": "ann", "handler": "exec", **more}
        )

    def test_lives_on(self) -> None:
        """A session of an operator in good standing is neither ended nor acknowledged."""
        self.assertEqual(self.report(self.one(1)), Sessions())

    def test_unknown_operator(self) -> None:
        """A session of an operator nobody knows is ended."""
        self.assertEqual(self.report(self.one(1, operator="nobody")).end, [sid(1)])

    def test_unknown_session(self) -> None:
        """A session that no committed row tells of did not come through the gate: ended."""
        self.assertEqual(self.report(self.one(7)).end, [sid(7)])

    def test_session_of_another_operator(self) -> None:
        """A session reported under another operator's name is ended."""
        self.assertEqual(self.report(self.one(1, operator="bob")).end, [sid(1)])

    def test_revoked_operator(self) -> None:
        """A revoked operator's session is ended when its device comes back, others live."""
        self.begin(2, self.bob)
        self.fleet.got(self.fleet.store.revoke_operator("bob"))
        answer = self.report(self.one(1), self.one(2, operator="bob"))
        self.assertEqual(answer.end, [sid(2)])

    def test_outcome_is_completed(self) -> None:
        """An outcome that nobody collected is written into the audit, once."""
        outcome = Outcome(status="exit", exit_code=4, code="c\x07", message="m\x1b[2J")
        for ended in (10, 20):
            self.report(self.one(1, state="finished", outcome=outcome, ended_ms=ended))
        (row,) = self.fleet.audit("session.outcome")
        self.assertEqual(
            (row.record.status, row.record.exit_code, row.record.operator), ("exit", 4, "ann")
        )
        self.assertTrue(f"{row.record.code}{row.record.message}".isprintable())

    def test_lost(self) -> None:
        """A session that its device gave up is audited as lost, and listed no more."""
        self.assertEqual([e.session for e in self.fleet.gateway.sessions.entries()], [sid(1)])
        lost = Outcome(status="lost", code="link-lost", message="nobody came back")
        answer = self.report(self.one(1, state="finished", outcome=lost, ended_ms=GRACE_MS + 1))
        self.assertEqual(answer, Sessions(acknowledged=[sid(1)]))
        (row,) = self.fleet.audit("session.outcome", status="lost")
        self.assertEqual((row.record.code, row.record.message), ("link-lost", "nobody came back"))
        self.assertEqual(self.fleet.gateway.sessions.entries(), [])

    def test_outcome_after_a_crash(self) -> None:
        """A row marked interrupted gets its outcome when the device reports it."""
        self.fleet.crash()
        self.report(self.one(1, state="finished", outcome=Outcome(status="ok")))
        self.assertEqual(len(self.fleet.audit("session.outcome", status="ok")), 1)

    def test_acknowledged_after_the_grace_only(self) -> None:
        """An outcome may be forgotten only when nobody can come back for it (rule S2)."""
        finished = {"state": "finished", "outcome": Outcome(status="ok")}
        self.assertEqual(self.report(self.one(1, **finished, ended_ms=GRACE_MS)).acknowledged, [])
        answer = self.report(self.one(1, **finished, ended_ms=GRACE_MS + 1))
        self.assertEqual(answer.acknowledged, [sid(1)])

    def test_somebody_came_back_for_it(self) -> None:
        """Nor while an attempt of its operator waits for the device, or is joined already."""
        self.device.wire.cut()
        self.fleet.pump()
        ask = self.fleet.dial(self.ann).ask(
            "exec", session=sid(1), attempt=2, resume=Positions(0, 4096, 0)
        )
        self.fleet.pump()
        finished = {"state": "finished", "outcome": Outcome(status="ok"), "ended_ms": 70_000}
        self.assertEqual(self.report(self.one(1, **finished)).acknowledged, [])
        self.device.accept()
        self.fleet.pump()
        for acknowledged in ([], [sid(1)]):
            self.device.answers.clear()
            self.device.link.sessions(Sessions([self.one(1, **finished)]))
            self.fleet.pump()
            self.assertEqual(self.device.answers[0].acknowledged, acknowledged)
            ask.reset("link-lost")
            self.fleet.pump()

    def test_running_is_never_acknowledged(self) -> None:
        """A session without an outcome is not acknowledged, however old it says it is."""
        self.assertEqual(self.report(self.one(1, ended_ms=10**9)).acknowledged, [])

    def test_unwritten_outcome_is_not_acknowledged(self) -> None:
        """While the audit cannot be written the device is not told to forget."""
        self.device = self.fleet.dial(self.pump, dial=2)
        self.fleet.threads.hold("write")
        finished = self.one(
            1, state="finished", outcome=Outcome(status="ok"), ended_ms=GRACE_MS * 2
        )
        self.device.link.sessions(Sessions([finished]))
        self.fleet.pump()
        self.assertEqual(self.device.answers, [])
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(self.device.answers[0].acknowledged, [sid(1)])

    def test_another_devices_session(self) -> None:
        """A device cannot write an outcome into another device's session."""
        other = self.fleet.dial(self.fleet.enrol("pump-2"))
        lie = self.one(1, state="finished", outcome=Outcome(status="ok"), ended_ms=GRACE_MS * 2)
        other.link.sessions(Sessions([lie]))
        self.fleet.pump()
        self.assertEqual(self.fleet.audit("session.outcome"), [])
        self.assertEqual(other.answers[0].end, [sid(1)])

    def test_flood(self) -> None:
        """A device that lists faster than the store answers is cut off with overload."""
        self.fleet.threads.hold("read")
        for _ in range(65):
            self.device.link.sessions(Sessions([self.one(1)]))
        self.fleet.pump()
        self.assertEqual(self.device.told, "overload")
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(self.device.answers, [])

    def test_many_frames_one_after_the_other(self) -> None:
        """Frames that are answered in time are no flood, however many there are."""
        for _ in range(200):
            self.device.link.sessions(Sessions([self.one(1)], more=True))
            self.fleet.pump()
        self.assertEqual(len(self.device.answers), 200)
        self.assertIsNone(self.device.told)

    def test_largest_frame_is_answered(self) -> None:
        """The answer to the fullest frame a device can send fits into one frame."""
        outcome = Outcome(status="")
        reports = [
            SessionReport(
                session=sid(n), operator="", handler="", outcome=outcome, ended_ms=GRACE_MS + 1
            )
            for n in range(140)
        ]
        answer = self.report(*reports)
        self.assertEqual((len(answer.end), len(answer.acknowledged)), (140, 140))

    def test_revoked_before_a_restart(self) -> None:
        """Revoked while the device was away, and the gateway restarted since: ended anyway."""
        self.begin(2, self.bob)
        self.device.wire.cut()
        self.fleet.pump()
        self.fleet.run(self.fleet.gateway.revocation.revoke_operator("bob"))
        self.fleet.crash()
        answer = self.report(self.one(1), self.one(2, operator="bob"))
        self.assertEqual(answer.end, [sid(2)])
        self.assertEqual([e.session for e in self.fleet.gateway.sessions.entries()], [sid(1)])

    def test_changed_role(self) -> None:
        """An operator who came back with a lesser role does not keep the sessions of the old."""
        self.begin(2, self.bob)
        self.fleet.got(self.fleet.store.revoke_operator("bob"))
        self.fleet.got(self.fleet.store.add_operator("bob", ("viewer",)))
        self.assertEqual(self.report(self.one(2, operator="bob")).end, [sid(2)])

    def test_outcome_of_a_resumed_session(self) -> None:
        """The row of a reported outcome says which attempt it was, as the device counted."""
        finished = {"state": "finished", "outcome": Outcome(status="ok"), "attempt": 3}
        self.report(self.one(1, **finished))
        (row,) = self.fleet.audit("session.outcome")
        self.assertEqual((row.record.attempt, row.record.operator), (3, "ann"))

    def test_outcome_that_was_collected(self) -> None:
        """An outcome that an attempt has written down is not written again."""
        end = self.fleet.dial(self.ann)
        talk = end.call("exec", device="pump-1", session=sid(5))
        self.fleet.pump()
        self.device.accept().channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(talk.code, "none")
        self.report(self.one(5, state="finished", outcome=Outcome(status="ok"), ended_ms=70_000))
        self.assertEqual(self.fleet.audit("session.outcome"), [])

    def test_rows_by_strange_outcomes(self) -> None:
        """A device that reports an outcome of its own making again and again adds one row."""
        for n in range(5):
            self.report(self.one(1, state="finished", outcome=Outcome(status=f"odd-{n}")))
        self.assertEqual(len(self.fleet.audit("session.outcome")), 1)
