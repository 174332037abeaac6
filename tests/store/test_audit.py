"""The audit log: chain, ends, queries, and that nothing can be edited unseen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError

from rshell.store.errors import NotFound, StoreError
from rshell.store.records import AuditEnd, AuditRecord
from tests.store.fixture import StoreTestCase

OPENING = AuditRecord(
    kind="session",
    opens=True,
    operator="ann",
    device="id-1",
    device_name="pump",
    handler="exec",
    login="root",
    session="ab" * 16,
    attempt=1,
    door="ssh",
    address="192.0.2.1:5",
    details={"argv": ["true"]},
)


class Writing(StoreTestCase):
    def test_round_trip(self) -> None:
        """A row comes back as it was written, with number and time."""
        self.assertEqual(self.got(self.store.append_audit(OPENING)), 1)
        (row,) = self.got(self.store.audit_rows())
        self.assertEqual((row.seq, row.at, row.record, row.refers), (1, self.now, OPENING, None))

    def test_end_is_a_second_row(self) -> None:
        """An end refers to its opening, repeats who it was, and carries the outcome."""
        opening = self.got(self.store.append_audit(OPENING))
        end = self.got(
            self.store.finish_audit(
                AuditEnd(refers=opening, status="exit", exit_code=3, details={"bytes": 9})
            )
        )
        ending, first = self.got(self.store.audit_rows(session="ab" * 16))
        self.assertEqual((ending.seq, ending.refers, first.refers), (end, opening, None))
        self.assertEqual(first.record, OPENING)
        record = ending.record
        self.assertEqual(
            (record.operator, record.device_name, record.opens), ("ann", "pump", False)
        )
        self.assertEqual((record.status, record.exit_code), ("exit", 3))
        self.assertEqual(record.details, {"bytes": 9})

    def test_repeated_end(self) -> None:
        """An end reported again gives the first end's number and writes nothing."""
        opening = self.got(self.store.append_audit(OPENING))
        first = self.got(self.store.finish_audit(AuditEnd(refers=opening, status="ok")))
        again = self.got(self.store.finish_audit(AuditEnd(refers=opening, status="lost")))
        self.assertEqual(again, first)
        self.assertEqual(len(self.got(self.store.audit_rows())), 2)

    def test_end_of_nothing(self) -> None:
        """An end needs a row that awaits one."""
        plain = self.got(self.store.append_audit(AuditRecord(kind="device.enrol")))
        for refers in (plain, 99, -1):
            deferred = self.store.finish_audit(AuditEnd(refers=refers, status="ok"))
            self.failureResultOf(deferred, NotFound)

    def test_long_message_is_clipped(self) -> None:
        """A device cannot keep its outcome out of the log by a huge message."""
        opening = self.got(self.store.append_audit(OPENING))
        self.got(
            self.store.finish_audit(AuditEnd(refers=opening, status="error", message="x" * 9999))
        )
        row = self.got(self.store.audit_rows())[0]
        self.assertEqual(row.record.message, "x" * 4096)

    def test_unfinished(self) -> None:
        """At a start the openings without an end are known, oldest first."""
        seqs = [self.got(self.store.append_audit(OPENING)) for _ in range(3)]
        self.got(self.store.append_audit(AuditRecord(kind="device.enrol")))
        self.got(self.store.finish_audit(AuditEnd(refers=seqs[1], status="ok")))
        self.reopen()
        unfinished = self.got(self.store.unfinished_audit())
        self.assertEqual([row.seq for row in unfinished], [seqs[0], seqs[2]])

    def test_queries(self) -> None:
        """Rows are found by device, operator, time and number, newest first."""
        for number in range(6):
            self.now += 10
            self.got(
                self.store.append_audit(
                    AuditRecord(
                        kind="t",
                        operator="ann" if number % 2 else "bob",
                        device=f"id-{number % 3}",
                        device_name=f"n-{number % 3}",
                    )
                )
            )

        def seqs(**query: object) -> list[int]:
            return [r.seq for r in self.got(self.store.audit_rows(**query))]  # type: ignore[arg-type]  # each test names real ones

        self.assertEqual(seqs(limit=2), [6, 5])
        self.assertEqual(seqs(before=3), [2, 1])
        self.assertEqual(seqs(device="id-0"), [4, 1])
        self.assertEqual(seqs(device="n-0"), [4, 1])
        self.assertEqual(seqs(operator="ann"), [6, 4, 2])
        self.assertEqual(seqs(since=self.now - 10), [6, 5])
        self.assertEqual(seqs(operator="ann", device="n-0"), [4])
        self.assertEqual(seqs(limit=-1), [])


class Tampering(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number in range(5):
            self.got(self.store.append_audit(AuditRecord(kind="t", message=str(number))))

    @contextmanager
    def editor(self) -> Iterator[sqlite3.Connection]:
        """Edit the file behind the store's back, past its triggers."""
        with sqlite3.connect(self.path) as database:
            for verb in ("update", "delete"):
                database.execute(f"DROP TRIGGER IF EXISTS audit_no_{verb}")
            yield database
        database.close()

    def broken_at(self) -> int | None:
        """Return where the chain is broken."""
        verdict = self.got(self.store.verify_audit())
        self.assertEqual(verdict.sound, not verdict.reason)
        return verdict.broken_at

    def test_sound(self) -> None:
        """An untouched log is sound, an empty one too."""
        self.assertIsNone(self.broken_at())
        self.assertEqual(self.got(self.store.verify_audit()).rows, 5)

    def test_triggers(self) -> None:
        """UPDATE and DELETE on the log are refused by the database itself."""
        for statement in ("UPDATE audit SET operator = 'x'", "DELETE FROM audit WHERE seq = 5"):
            deferred = self.store._writer.write(
                lambda connection, sql=statement: connection.exec_driver_sql(sql)  # type: ignore[misc]  # default binds it
            )
            failure = self.failureResultOf(deferred, StoreError)
            self.assertIn("the audit log is append-only", str(failure.value))
            self.assertIsInstance(failure.value.__cause__, IntegrityError)
        self.assertIsNone(self.broken_at())

    def test_every_column_is_covered(self) -> None:
        """An edit of any column of a row is found at that row."""
        with sqlite3.connect(self.path) as database:
            columns = [row[1] for row in database.execute("PRAGMA table_info(audit)")]
        database.close()
        for column in set(columns) - {"seq"}:
            with self.editor() as database:
                (before,) = database.execute(f"SELECT {column} FROM audit WHERE seq=3").fetchone()
                value = bytes(32) if "hash" in column else 1 if column == "refers" else 77
                database.execute(f"UPDATE audit SET {column} = ? WHERE seq = 3", (value,))
            self.assertEqual(self.broken_at(), 3, column)
            with self.editor() as database:
                database.execute(f"UPDATE audit SET {column} = ? WHERE seq = 3", (before,))
            self.assertIsNone(self.broken_at())

    def test_removed_row(self) -> None:
        """A removed row is missed, wherever it was."""
        for seq in (1, 3, 5):
            with self.editor() as database:
                row = database.execute("SELECT * FROM audit WHERE seq = ?", (seq,)).fetchone()
                database.execute("DELETE FROM audit WHERE seq = ?", (seq,))
            self.assertEqual(self.broken_at(), seq)
            with self.editor() as database:
                marks = ",".join("?" * len(row))
                database.execute(f"INSERT INTO audit VALUES ({marks})", row)
            self.assertIsNone(self.broken_at())

    def test_inserted_row(self) -> None:
        """A row slipped in before the first is noticed."""
        with self.editor() as database:
            database.execute(
                "INSERT INTO audit (seq, at, kind, opens, details, previous_hash, hash) "
                "VALUES (-1, 0, 't', 0, '{}', zeroblob(32), zeroblob(32))"
            )
        self.assertEqual(self.broken_at(), 1)

    def test_lost_head(self) -> None:
        """Without the chain's head the log cannot be called sound, and nothing is appended."""
        with self.editor() as database:
            database.execute("DELETE FROM meta WHERE key = 'audit_head'")
        self.assertEqual(self.broken_at(), 6)
        self.failureResultOf(self.store.append_audit(AuditRecord(kind="t")), StoreError)

    def test_long_chain(self) -> None:
        """A chain longer than one read is checked to its end."""
        from rshell.store import audit

        self.patch(audit, "_VERIFY_CHUNK", 2)
        self.assertIsNone(self.broken_at())
        with self.editor() as database:
            database.execute("UPDATE audit SET message = 'x' WHERE seq = 5")
        self.assertEqual(self.broken_at(), 5)
