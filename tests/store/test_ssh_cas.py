"""CAs of SSH certificates, and what is revoked of them."""

from __future__ import annotations

from sqlalchemy import insert
from twisted.internet.defer import Deferred

from rshell.identity.ssh_keys import SshPublicKey, read_lines
from rshell.store.errors import LimitReached, NameTaken, NotFound, StoreError
from rshell.store.records import SshKey
from rshell.store.schema import ssh_ca_revocations as table
from rshell.store.ssh_cas import MAX_CAS, MAX_REVOCATIONS
from tests.store.fixture import StoreTestCase

KEYS = (
    "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
    "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
)


class CaTests(StoreTestCase):
    def add(self, name: str, fingerprint: str = "SHA256:a", comment: str = "c") -> None:
        added = self.store.add_ssh_ca(
            name, fingerprint, "ssh-ed25519", fingerprint.encode(), comment
        )
        self.assertEqual(name, self.got(added).name)

    def test_adding(self) -> None:
        """A CA has one name and one key; adding it again changes the comment."""
        self.add("office")
        self.add("office", comment="new")
        (ca,) = self.got(self.store.ssh_cas())
        self.assertEqual(("new", b"SHA256:a"), (ca.comment, ca.blob))
        add = self.store.add_ssh_ca
        self.failureResultOf(add("office", "SHA256:b", "t", b"b", ""), NameTaken)
        self.failureResultOf(add("other", "SHA256:a", "t", b"a", ""), StoreError)
        for number in range(1, MAX_CAS):
            self.add(f"ca-{number}", f"SHA256:{number}")
        self.failureResultOf(add("more", "SHA256:more", "t", b"m", ""), LimitReached)

    def test_one_or_the_other(self) -> None:
        """A CA's key is no operator's, nor the reverse; of several keys all are kept or none."""
        self.got(self.store.add_operator("ann", ("admin",)))
        first, second = (read_lines(f"ssh-ed25519 {blob}")[0] for blob in KEYS)

        def add(*keys: SshPublicKey) -> Deferred[list[SshKey]]:
            return self.store.add_ssh_keys("ann", keys)

        self.add("office", first.fingerprint)
        refused = self.failureResultOf(add(second, first), StoreError)
        text = f"{first.fingerprint} is the key of the CA office: log in with another"
        self.assertEqual(text, str(refused.value))
        self.assertEqual([], self.got(self.store.ssh_keys()))
        self.assertEqual(1, len(self.got(add(second))))
        adding = self.store.add_ssh_ca("home", second.fingerprint, "t", second.blob, "c")
        refused = self.failureResultOf(adding, StoreError)
        self.assertIn("operator ann logs in with this key", str(refused.value))
        self.assertEqual(["office"], [ca.name for ca in self.got(self.store.ssh_cas())])
        self.got(self.store.remove_ssh_ca("office"))
        self.assertEqual(1, len(self.got(add(first))))

    def test_judging(self) -> None:
        """A certificate's CA, its revocation and its operators are found at once."""
        self.add("office")
        for name in ("ann", "bob"):
            self.got(self.store.add_operator(name, ("admin",)))
        self.got(self.store.revoke_operator("bob"))
        judge = self.store.judge_ssh_certificate
        self.assertIsNone(self.got(judge("SHA256:b", 1, "id", ("ann",))))
        found = self.got(judge("SHA256:a", 1, "id", ("zoe", "ann", "ann", "bob")))
        assert found is not None
        self.assertEqual((False, ["ann"]), (found.revoked, [one.name for one in found.operators]))
        self.got(self.store.revoke_ssh_certificates("office", "serial", str(2**64 - 1)))
        self.got(self.store.revoke_ssh_certificates("office", "id", "1"))
        for serial, key_id, revoked in (
            (2**64 - 1, "x", True),
            (7, "1", True),
            (1, "x", False),
            (7, str(2**64 - 1), False),
        ):
            verdict = self.got(judge("SHA256:a", serial, key_id, ("ann",)))
            assert verdict is not None
            self.assertEqual(revoked, verdict.revoked, (serial, key_id))

    def test_revocations_stay(self) -> None:
        """What was revoked stays so when the CA is removed and comes back by another name."""
        self.add("office")
        for _ in range(2):
            self.got(self.store.revoke_ssh_certificates("office", "id", "lost"))
        self.got(self.store.remove_ssh_ca("office"))
        self.assertEqual([], self.got(self.store.ssh_ca_revocations()))
        self.failureResultOf(self.store.remove_ssh_ca("office"), NotFound)
        self.failureResultOf(self.store.revoke_ssh_certificates("office", "id", "x"), NotFound)
        self.add("again")
        (one,) = self.got(self.store.ssh_ca_revocations())
        self.assertEqual(("SHA256:a", "id", "lost"), (one.ca, one.by, one.value))

    def test_limit(self) -> None:
        """So many certificates of a CA are revoked one by one, and no more."""
        self.add("office")

        values = [
            {"ca": "SHA256:a", "by": "serial", "value": str(number + 1), "revoked_at": 0}
            for number in range(MAX_REVOCATIONS)
        ]
        self.got(self.store._write(lambda connection: connection.execute(insert(table), values)))
        again = self.store.revoke_ssh_certificates("office", "serial", "1")
        self.assertEqual("office", self.got(again).name)
        late = self.store.revoke_ssh_certificates("office", "serial", "99999")
        self.failureResultOf(late, LimitReached)
