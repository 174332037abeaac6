"""Who may do what, and how an audit row reads."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rshell.access.audit import AuditRecord, AuditRow, describe
from rshell.access.roles import decide
from rshell.store.records import Device, Operator

ADMIN = Operator(name="ann", role="admin", status="active", created_at=0)
READER = Operator(name="bob", role="reader", status="active", created_at=0)
GONE = Operator(name="eve", role="admin", status="revoked", created_at=0)


def device(status: str = "active") -> Device:
    return Device(
        id="1", name="pump", name_provisional=False, status=status, labels={}, created_at=0
    )


class Deciding(SynchronousTestCase):
    def test_admin(self) -> None:
        """The role admin may do everything, also what concerns no device."""
        self.assertTrue(decide(ADMIN, device(), "shell", "root"))
        self.assertTrue(decide(ADMIN, None, "invite"))

    def test_default_deny(self) -> None:
        """Any other role may do nothing, and is told what it lacks."""
        decision = decide(READER, device(), "shell", "root")
        self.assertFalse(decision)
        self.assertEqual(decision.reason, "role reader grants no shell on pump as root")
        self.assertEqual(
            decide(READER, None, "invite").reason, "role reader grants no invite on the fleet"
        )
        for role in ("", "Admin", "admin ", "administrator"):
            odd = Operator(name="x", role=role, status="active", created_at=0)
            self.assertFalse(decide(odd, device(), "shell"))

    def test_revoked(self) -> None:
        """A revoked operator may do nothing, and nothing may be done to a revoked device."""
        self.assertEqual(decide(GONE, device(), "shell").reason, "operator eve is revoked")
        self.assertEqual(decide(ADMIN, device("revoked"), "shell").reason, "device pump is revoked")


class Describing(SynchronousTestCase):
    def test_line(self) -> None:
        """A row reads as one line."""
        record = AuditRecord(
            kind="session", operator="ann", device="id", device_name="pump", exit_code=0
        )
        row = AuditRow(seq=7, at=1_800_000_000_000_000, record=record, refers=5, hash=b"")
        self.assertEqual(
            describe(row),
            "#7 2027-01-15T08:00:00.000Z session end of #5 operator=ann device=pump exit=0",
        )

    def test_hostile(self) -> None:
        """What a device wrote into a row cannot act on the terminal or fill it."""
        record = AuditRecord(kind="session", code="\x1b[2J", message="x\n" * 500)
        line = describe(AuditRow(seq=1, at=0, record=record, refers=None, hash=b""))
        self.assertTrue(line.isprintable())
        self.assertLess(len(line), 200)
