"""The table of sessions: filled by what passes and what devices list, and bounded."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.callers import Caller
from rshell.gateway.live_sessions import LiveSession
from rshell.gateway.session_table import LONGEST_SECONDS, SessionTable
from rshell.gateway.session_use import SessionUse
from rshell.link.core.messages import Outcome, SessionReport
from rshell.store.records import Device, Operator


def sid(number: int) -> bytes:
    """Return a session id."""
    return number.to_bytes(16, "big")


def live(number: int = 1, operator: str = "ann", device: str = "d-1", **more: Any) -> LiveSession:
    """Return an attempt at the gate."""
    caller = Caller(
        operator=Operator(name=operator, roles=("admin",), status="active", created_at=0),
        door="link",
        address="",
    )
    record = Device(
        id=device,
        name=device,
        name_provisional=False,
        status="active",
        labels={},
        created_at=0,
    )
    fields: dict[str, Any] = {"attempt": 1, "age_ms": 0, "view": False, "login": None}
    return LiveSession(
        session=sid(number),
        caller=caller,
        device=record,
        handler="shell",
        received=0.0,
        owner=caller.operator,
        use=SessionUse(began=0.0, used=0.0),
        **(fields | more),
    )


def report(number: int = 1, **more: Any) -> SessionReport:
    """Return one session of a device's list."""
    return SessionReport(**{"session": sid(number), "operator": "ann", "handler": "shell", **more})


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.table = SessionTable(lambda: self.now, max_entries=4, max_per_device=3)

    def ids(self) -> list[int]:
        return [int.from_bytes(entry.session, "big") for entry in self.table.entries()]

    def test_life(self) -> None:
        """An attempt adds it, a break detaches it, its end forgets it."""
        session = live()
        self.table.asked(session, 7)
        self.table.accepted(session)
        (entry,) = self.table.entries()
        self.assertIsNone(entry.detached_at)
        self.table.detached(session)
        self.assertEqual(entry.detached_at, 1000.0)
        self.table.asked(live(attempt=2), 8)
        self.assertEqual((entry.detached_at, entry.attempt, entry.epoch), (None, 2, 8))
        self.table.over(session)
        self.assertEqual(len(self.table), 0)

    def test_refused_at_once(self) -> None:
        """What the device refused never lived."""
        session = live()
        self.table.asked(session, 7)
        self.table.refused(session, gone=False)
        self.assertEqual(len(self.table), 0)

    def test_refused_later(self) -> None:
        """A refused attempt leaves a session that is known, unless the device has it no more."""
        self.table.reported("d-1", 7, [report()], complete=True)
        again = live(attempt=2)
        self.table.asked(again, 7)
        self.table.refused(again, gone=False)
        (entry,) = self.table.entries()
        self.assertEqual(entry.detached_at, 1000.0)
        self.table.refused(again, gone=True)
        self.assertEqual(len(self.table), 0)

    def test_somebody_elses(self) -> None:
        """What another operator asks for under the same id changes nothing."""
        self.table.asked(live(), 7)
        thief = live(operator="bob", attempt=9)
        self.table.asked(thief, 7)
        self.table.detached(thief)
        self.table.over(thief)
        (entry,) = self.table.entries()
        self.assertEqual((entry.operator, entry.attempt, entry.detached_at), ("ann", 1, None))
        self.assertEqual(self.table.owner("d-1", sid(1)), "ann")
        self.assertIsNone(self.table.owner("d-2", sid(1)))

    def test_asked_for_before_it_is_listed(self) -> None:
        """Who asks for another's session before its device lists it does not own it."""
        self.table.asked(live(operator="bob", attempt=9), 7)
        self.table.reported("d-1", 7, [report(attempt=2)], complete=True)
        (entry,) = self.table.entries()
        self.assertEqual((entry.operator, entry.attempt), ("ann", 2))

    def test_report(self) -> None:
        """A list gives age, attempt, how long nobody was attached, and the outcome."""
        outcome = Outcome(status="exit", exit_code=3, message="m\x1b[2J", result={"big": 1})
        told = report(age_ms=9000, detached_ms=4000, attempt=3, state="finished", outcome=outcome)
        self.table.reported("d-1", 7, [told], complete=True)
        (entry,) = self.table.entries()
        self.assertEqual((entry.began, entry.detached_at, entry.attempt), (991.0, 996.0, 3))
        assert entry.outcome is not None
        self.assertEqual(set(entry.outcome), {"status", "exit_code", "message"})
        self.assertTrue(entry.outcome["message"].isprintable())

    def test_ended_meanwhile(self) -> None:
        """A session that ended through an attempt is known to have, for lists made before."""
        self.table.asked(live(1), 7)
        self.now += 5.0
        self.table.over(live(1))
        self.assertEqual([], self.ids())
        self.assertTrue(self.table.ended_since("d-1", sid(1), self.now - 1.0))
        self.assertFalse(self.table.ended_since("d-1", sid(1), self.now + 1.0))
        self.assertFalse(self.table.ended_since("d-2", sid(1), 0.0))
        self.assertFalse(self.table.ended_since("d-1", sid(2), 0.0))

    def test_first_list_of_a_link(self) -> None:
        """What the first list of a link leaves out is gone; its parts count as one."""
        for number in (1, 2):
            self.table.reported("d-1", 7, [report(number)], complete=number == 2)
        self.table.reported("d-2", 7, [report(4)], complete=True)
        self.assertEqual(self.ids(), [1, 2, 4])
        self.table.asked(live(3), 8)  # opened on the new link before it has listed
        self.table.reported("d-1", 8, [report(2)], complete=True)
        self.assertEqual(sorted(self.ids()), [2, 3, 4])

    def test_later_lists(self) -> None:
        """Later lists of the same link only add: they tell of what has ended."""
        self.table.reported("d-1", 7, [report(1), report(2)], complete=True)
        ended = report(2, state="finished", outcome=Outcome(status="ok"))
        self.table.reported("d-1", 7, [ended], complete=True)
        self.assertEqual(sorted(self.ids()), [1, 2])

    def test_bounded_by_device(self) -> None:
        """A device cannot list more than its share."""
        self.table.reported("d-1", 7, [report(n) for n in range(1, 9)], complete=True)
        self.assertEqual(self.ids(), [1, 2, 3])

    def test_bounded_in_all(self) -> None:
        """In all, the one heard of longest ago is forgotten first."""
        for number in range(1, 5):
            self.table.asked(live(number, device=f"d-{number}"), 1)
        self.table.asked(live(1, device="d-1", attempt=2), 2)
        self.table.asked(live(5, device="d-5"), 1)
        self.assertEqual(self.ids(), [3, 4, 1, 5])

    def test_forgotten_in_the_end(self) -> None:
        """What nobody was attached to for a day has ended by its time limit (rule R7)."""
        self.table.asked(live(), 7)
        self.table.asked(live(2), 7)
        self.table.detached(live())
        self.now += LONGEST_SECONDS
        self.assertEqual(self.ids(), [1, 2])
        self.now += 1
        self.assertEqual(self.ids(), [2])

    def test_revoked_device(self) -> None:
        """Nothing of a revoked device is kept."""
        self.table.reported("d-1", 7, [report(1), report(2)], complete=True)
        self.table.reported("d-2", 7, [report(3)], complete=True)
        self.table.forget_device("d-1")
        self.assertEqual(self.ids(), [3])
        self.assertEqual(self.table._listed, {"d-2": 7})
