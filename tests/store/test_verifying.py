"""Checkpoints of the audit log: what they prove, and what breaks them."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3

from rshell.store.audit import digest
from rshell.store.errors import StoreUnavailable
from rshell.store.records import AuditFilter, AuditRecord, AuditVerdict
from rshell.store.schema import audit
from rshell.store.verifying import Verifier
from tests.store.fixture import StoreTestCase


def sign(text: bytes) -> bytes:
    """Sign as a key would, in a test."""
    return hmac.digest(b"key", text, hashlib.sha256)


def holds(signature: bytes, text: bytes) -> bool:
    """Check such a signature."""
    return hmac.compare_digest(signature, sign(text))


KEYS: dict[str, Verifier] = {"k": holds}


class CheckpointTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number in range(5):
            self.got(self.store.append_audit(AuditRecord(kind="t", message=str(number))))

    def verify(self, keys: dict[str, Verifier] | None = None) -> AuditVerdict:
        return self.got(self.store.verify_audit(KEYS if keys is None else keys))

    def rewrite(self, seq: int, **changes: object) -> None:
        """Edit a row and make the whole chain behind it hold again, as only its owner can."""
        names = [column.name for column in audit.c]
        with sqlite3.connect(self.path) as database:
            for verb in ("update", "delete"):
                database.execute(f"DROP TRIGGER IF EXISTS audit_no_{verb}")
            rows = [
                dict(zip(names, row, strict=True))
                for row in database.execute(f"SELECT {','.join(names)} FROM audit ORDER BY seq")
            ]
            previous = bytes(32)
            for row in rows:
                if row["seq"] == seq:
                    row.update(changes)
                row["previous_hash"], row["hash"] = previous, digest(row, previous)
                previous = row["hash"]
                sets = ",".join(f"{name}=?" for name in names)
                values = [row[name] for name in names]
                database.execute(f"UPDATE audit SET {sets} WHERE seq=?", (*values, row["seq"]))
            head = f"{rows[-1]['seq']}:{previous.hex()}"
            database.execute("UPDATE meta SET value=? WHERE key='audit_head'", (head,))
        database.close()

    def test_signs_what_is_there(self) -> None:
        """A checkpoint is a row of its own; it counts, and says how far it covers the log."""
        self.assertEqual(self.got(self.store.checkpoint_audit("k", sign)), 6)
        verdict = self.verify()
        self.assertTrue(verdict.sound, verdict)
        self.assertEqual((verdict.rows, verdict.checkpoints, verdict.signed), (6, 1, 5))
        self.assertEqual(self.got(self.store.audit_head()), (6, verdict.head))

    def test_nothing_new(self) -> None:
        """Without rows since the last checkpoint, or without any, none is written."""
        self.got(self.store.checkpoint_audit("k", sign))
        self.assertIsNone(self.got(self.store.checkpoint_audit("k", sign)))

    def test_rewritten_chain(self) -> None:
        """Whoever rewrites rows and all hashes is found at the next checkpoint."""
        self.got(self.store.checkpoint_audit("k", sign))
        self.rewrite(3, message="nothing happened")
        self.assertTrue(self.got(self.store.verify_audit()).sound)  # the hashes alone hold
        verdict = self.verify()
        self.assertEqual((verdict.broken_at, verdict.rows), (6, 5))
        self.assertIn("signs another row", verdict.reason)

    def test_forged_checkpoint(self) -> None:
        """A checkpoint that was rewritten too has no signature, whatever stands in it."""
        self.got(self.store.checkpoint_audit("k", sign))
        row = self.got(self.store.audit_rows(limit=1))[0]
        hashed = row.record.details["hash"]
        for details, reason in (
            ("{}", "cannot be read"),
            ("[]", "cannot be read"),
            ("nonsense", "cannot be read"),
            (f'{{"seq":5,"hash":"{hashed}","key":"k","signature":"AAAA"}}', "signature is wrong"),
            (f'{{"seq":5,"hash":"{hashed}","key":"x","signature":"AAAA"}}', "not known here"),
            (f'{{"seq":5,"hash":"{hashed}","key":[],"signature":"AAAA"}}', "not known here"),
            (f'{{"seq":5,"hash":"{hashed}","key":"k","signature":7}}', "cannot be read"),
            (f'{{"seq":4,"hash":"{hashed}","key":"k","signature":"AAAA"}}', "another row"),
        ):
            self.rewrite(6, details=details)
            verdict = self.verify()
            self.assertEqual(verdict.broken_at, 6, details)
            self.assertIn(reason, verdict.reason)

    def test_time_is_signed(self) -> None:
        """The time of a checkpoint cannot be moved."""
        self.got(self.store.checkpoint_audit("k", sign))
        self.rewrite(6, at=self.now + 1)
        self.assertIn("signature is wrong", self.verify().reason)

    def test_another_key(self) -> None:
        """With another key than the one that signed, the log is not sound."""
        self.got(self.store.checkpoint_audit("k", sign))
        self.assertIn("not known here", self.verify({"other": holds}).reason)

    def test_against(self) -> None:
        """A head that was noted must be in the log: a log that was rewritten whole is found."""
        noted = self.got(self.store.audit_head())
        self.got(self.store.append_audit(AuditRecord(kind="t")))
        self.assertTrue(self.got(self.store.verify_audit(KEYS, noted)).sound)
        self.rewrite(2, message="else")
        verdict = self.got(self.store.verify_audit(KEYS, noted))
        self.assertEqual(verdict.broken_at, 5)
        self.assertIn("to compare with", verdict.reason)
        verdict = self.got(self.store.verify_audit(KEYS, (99, bytes(32))))
        self.assertIn("to compare with is not there", verdict.reason)

    def test_closed(self) -> None:
        """A store that is closed signs nothing."""
        self.got(self.store.close())
        self.failureResultOf(self.store.checkpoint_audit("k", sign), StoreUnavailable)


class FilterTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number, (kind, handler, status) in enumerate(
            (
                ("session", "exec", None),
                ("session", "exec", "ok"),
                ("device.enrol", None, None),
                ("device", None, None),
                ("deviced", None, None),
                ("session", "shell", "refused"),
            )
        ):
            self.now += 10
            record = AuditRecord(
                kind=kind,
                handler=handler,
                status=status,
                session="ab" * 16 if number < 2 else None,
                device_name="50%_off",
            )
            self.got(self.store.append_audit(record))

    def seqs(self, **wanted: object) -> list[int]:
        rows, _ = self.got(
            self.store.audit_following(AuditFilter(**wanted), after=0, limit=100)  # type: ignore[arg-type]  # each test names real ones
        )
        newest = self.got(self.store.audit_rows(**wanted))
        self.assertEqual([row.seq for row in newest][::-1], [row.seq for row in rows])
        return [row.seq for row in rows]

    def test_filters(self) -> None:
        """Every filter alone and together, the same forwards and backwards."""
        start = self.now - 50
        self.assertEqual(self.seqs(), [1, 2, 3, 4, 5, 6])
        self.assertEqual(self.seqs(handler="exec"), [1, 2])
        self.assertEqual(self.seqs(status="refused"), [6])
        self.assertEqual(self.seqs(kind="device"), [3, 4])
        self.assertEqual(self.seqs(kind="%"), [])
        self.assertEqual(self.seqs(device="50%_off", session="ab" * 16), [1, 2])
        self.assertEqual(self.seqs(since=start + 10, until=start + 30), [2, 3])
        self.assertEqual(self.seqs(handler="exec", status="refused"), [])

    def test_following(self) -> None:
        """Reading goes on after a number; what a filter leaves out is not read again."""
        wanted = AuditFilter(kind="session")

        def following(after: int, limit: int) -> tuple[list[int], int]:
            rows, through = self.got(self.store.audit_following(wanted, after=after, limit=limit))
            return [row.seq for row in rows], through

        self.assertEqual(following(0, 2), ([1, 2], 2))
        self.assertEqual(following(2, 2), ([6], 6))
        self.assertEqual(following(6, 2), ([], 6))
        self.assertEqual(following(99, 2), ([], 99))
        self.assertEqual(following(0, 0), ([], 0))

    def test_watchers(self) -> None:
        """After each commit of rows the newest number is told, and for other writes nothing."""
        told: list[int] = []
        self.store.watch_audit(told.append)
        self.got(self.store.append_audit(AuditRecord(kind="t")))
        self.got(self.store.set_fleet("f"))
        self.got(self.store.append_audit(AuditRecord(kind="t")))
        self.assertEqual(told, [7, 8])
