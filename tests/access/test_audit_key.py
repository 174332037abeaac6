"""The key that signs checkpoints."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rshell.access.audit_key import (
    BadAuditKey,
    fingerprint,
    load_or_make,
    read_public,
    verifier,
)


class KeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()

    def test_kept(self) -> None:
        """It is made once, private, and is the same afterwards; its public half checks it."""
        key = load_or_make(self.home)
        again = load_or_make(self.home)
        self.assertEqual(key.fingerprint, again.fingerprint)
        self.assertEqual((self.home / "audit.key").stat().st_mode & 0o777, 0o600)
        public = read_public((self.home / "audit.pub").read_text())
        self.assertEqual(fingerprint(public), key.fingerprint)
        check = verifier(public)
        self.assertTrue(check(key.sign(b"text"), b"text"))
        self.assertFalse(check(key.sign(b"text"), b"other"))
        self.assertFalse(check(b"", b"text"))
        self.assertNotIn(key.sign(b"").hex(), repr(key))

    def test_damaged(self) -> None:
        """A key that is none ends the start with a line that names the file."""
        (self.home / "audit.key").write_text("nonsense")
        with self.assertRaises(BadAuditKey) as caught:
            load_or_make(self.home)
        self.assertIn("audit.key", str(caught.exception))

    def test_public_key_that_is_none(self) -> None:
        """Nonsense, a private key, or too much is refused."""
        load_or_make(self.home)
        for pem in ("", "x", "é", (self.home / "audit.key").read_text(), "x" * 10_000):
            self.assertRaises(BadAuditKey, read_public, pem)
