"""Devices that wait to be accepted, and keys that are known before they join."""

from __future__ import annotations

import hashlib
from typing import Any

from rshell.identity.keys import fingerprint
from rshell.store import pending, token_keys
from rshell.store.devices import Seen
from rshell.store.errors import LimitReached, NameTaken, NotFound, StoreError
from rshell.store.pending_records import Applicant, KnownKey, Waiting
from rshell.store.records import NewToken, Refusal, TokenGrant, TokenRefused
from rshell.store.times import DAY, MINUTE
from tests.store.fixture import HASH, StoreTestCase, spki

NO_SECRET = hashlib.sha256(b"").digest()


class JoinCase(StoreTestCase):
    def ask(self, token: NewToken | None, key: str, **more: Any) -> Any:
        """Present an invite, or none; return what the store says."""
        secret = more.pop("secret_hash", NO_SECRET if token is None else token.secret_hash)
        fields = {"host": "192.0.2.1", "source": "192.0.2.1", "address": "192.0.2.1:9"}
        applicant = Applicant(**{**fields, "proposed": "pump", **more})
        token_id = b"" if token is None else token.id
        return self.got(self.store.use_token(token_id, secret, spki(key), "device", applicant))

    def reason(self, token: NewToken | None, key: str, **more: Any) -> Refusal:
        """Return why it is refused."""
        answer = self.ask(token, key, **more)
        assert isinstance(answer, TokenRefused), answer
        return answer.reason

    def site(self, number: int = 1, **changes: Any) -> NewToken:
        """Make an invite by which devices wait."""
        return self.invite(number, **{"mode": "accept", "uses_max": 5, **changes})

    def waiting(self) -> list[str]:
        return [device.name for device in self.got(self.store.pending())]

    def accept(self, key: str, name: str | None = None, **labels: str) -> Any:
        return self.got(self.store.accept_pending(spki(key), name, labels))[0]

    def enrolled(self, grant: Any) -> Any:
        """Go on as the gateway does."""
        assert isinstance(grant, TokenGrant), grant
        device = self.got(self.store.enrol_device(grant, "pump"))
        return device, self.got(self.store.keep_certificate(grant, "PEM", 5))


class WaitingTests(JoinCase):
    def test_waits_and_is_accepted(self) -> None:
        """It asks as often as it likes, is one row, and once accepted gets its certificate."""
        token = self.site(labels={"site": "b"})
        first = self.ask(token, "a")
        self.assertEqual(first, Waiting(first=True, name="pump", first_seen=self.now, count=1))
        self.now += MINUTE
        again = self.ask(token, "a")
        self.assertEqual((again.first, again.first_seen), (False, self.now - MINUTE))
        self.reopen()
        self.assertEqual(self.waiting(), ["pump"])
        device = self.accept("a", tier="x")
        self.assertEqual((device.name, device.name_provisional), ("pump", False))
        self.assertEqual(dict(device.labels), {"site": "b", "tier": "x"})
        self.assertEqual(self.waiting(), [])
        found, certificate = self.enrolled(self.ask(token, "a"))
        self.assertEqual((found.id, certificate), (device.id, "PEM"))

    def test_answer_until_it_was_seen(self) -> None:
        """The right is the key's: a device that was off for weeks gets its answer, until seen."""
        token = self.site()
        self.ask(token, "a")
        device = self.accept("a")
        self.now += 30 * DAY
        self.got(self.store.revoke_token(token.id))
        grant = self.ask(token, "a")
        self.assertEqual(self.enrolled(grant)[0].id, device.id)
        self.now += DAY
        self.assertEqual(self.ask(token, "a").certificate, "PEM")
        self.got(self.store.record_seen(device.id, 1, Seen()))
        self.assertEqual(self.reason(token, "a"), Refusal.TOO_LATE)

    def test_revoked_before_it_came(self) -> None:
        """A device that was accepted and then revoked gets nothing."""
        token = self.site()
        self.ask(token, "a")
        self.got(self.store.revoke_device(self.accept("a").id))
        self.assertEqual(self.reason(token, "a"), Refusal.REVOKED)

    def test_another_key_waits_for_itself(self) -> None:
        """Somebody else with the same string is another row, and gains nothing by the first."""
        token = self.site()
        self.ask(token, "a")
        self.accept("a")
        self.assertEqual(self.ask(token, "b").name, "pump-2")
        self.assertEqual(self.waiting(), ["pump-2"])

    def test_rejected(self) -> None:
        """A rejected key is refused for a day without a row, then it may ask anew."""
        token = self.site()
        self.ask(token, "a")
        self.assertEqual(self.got(self.store.reject_pending(spki("a"))).name, "pump")
        self.assertEqual((self.waiting(), self.got(self.store.count_pending())), ([], 0))
        self.now += DAY - 1
        self.assertEqual(self.reason(token, "a"), Refusal.REJECTED)
        self.failureResultOf(self.store.accept_pending(spki("a"), None, {}), NotFound)
        self.assertIsNone(self.got(self.store.reject_pending(spki("a"))))
        self.now += 1
        token = self.site(2)
        self.assertTrue(self.ask(token, "a").first)

    def test_expires(self) -> None:
        """Who asks no more for seven days is forgotten; who asks on is not."""
        token = self.site()
        self.ask(token, "a")
        self.ask(token, "b")
        self.now += 7 * DAY - 1
        self.assertFalse(self.ask(token, "b").first)
        self.assertEqual(self.got(self.store.expire_pending()), [])
        self.now += 1
        self.assertEqual(self.waiting(), ["pump-2"])
        self.assertEqual([one.name for one in self.got(self.store.expire_pending())], ["pump"])
        self.assertEqual(self.got(self.store.count_pending()), 1)
        self.assertEqual(self.reason(token, "a"), Refusal.EXPIRED)

    def test_expired_invite_gets_nobody_better_terms(self) -> None:
        """Who waits by one invite cannot go over to another that has expired."""
        old = self.site(1, labels={"tier": "prod"}, expires_at=self.now + 1)
        new = self.site(2, expires_at=self.now + DAY)
        self.ask(new, "a")
        self.now += MINUTE
        self.assertEqual(self.reason(old, "a"), Refusal.EXPIRED)
        self.assertEqual(self.got(self.store.pending())[0].token_id, new.id)
        self.assertFalse(self.ask(new, "a").first)

    def test_revoked_invite(self) -> None:
        """With its invite a device that waits is turned away, and listed no more."""
        token = self.site()
        self.ask(token, "a")
        self.got(self.store.revoke_token(token.id))
        self.assertEqual(self.waiting(), [])
        self.assertEqual(self.reason(token, "a"), Refusal.REVOKED)
        self.failureResultOf(self.store.accept_pending(spki("a"), None, {}), NotFound)
        self.assertEqual(len(self.got(self.store.expire_pending())), 1)

    def test_uses(self) -> None:
        """Accepting uses the invite, asking does not; a spent one lets nobody wait."""
        token = self.site(uses_max=1)
        self.ask(token, "a")
        self.ask(token, "b")
        self.accept("a")
        failure = self.failureResultOf(self.store.accept_pending(spki("b"), None, {}), StoreError)
        self.assertIn("spent", failure.getErrorMessage())
        self.assertEqual(self.reason(token, "b"), Refusal.REPLAY)
        self.assertEqual(self.reason(token, "c"), Refusal.REPLAY)

    def test_names(self) -> None:
        """A taken name is told at once; one beyond the pattern is provisional unless named."""
        token = self.site(name_pattern="pump-*")
        self.ask(token, "a", proposed="pump-1")
        self.ask(token, "b", proposed="valve")
        self.ask(token, "c", proposed="valve")
        found = {one.name: one.within for one in self.got(self.store.pending())}
        self.assertEqual(found, {"pump-1": True, "valve": False, "valve-2": False})
        self.assertFalse(self.accept("a").name_provisional)
        self.assertTrue(self.accept("b").name_provisional)
        named = self.accept("c", "tank-1")
        self.assertEqual((named.name, named.name_provisional), ("tank-1", False))

    def test_name_taken_meanwhile(self) -> None:
        """A name that another device got since is said, and nothing is used."""
        token = self.site()
        self.ask(token, "a")
        self.enrol(number=2, name="pump")
        self.failureResultOf(self.store.accept_pending(spki("a"), None, {}), NameTaken)
        self.assertEqual(self.waiting(), ["pump"])
        (found,) = [one for one in self.got(self.store.tokens()) if one.id == token.id]
        self.assertEqual((found.uses, found.waiting), (0, 1))
        self.assertEqual(self.accept("a", "pump-9").name, "pump-9")

    def test_source_range(self) -> None:
        """Beyond the invite's ranges nothing is told, whatever else is right."""
        token = self.site(sources=("10.0.0.0/8", "2001:db8::/32"))
        self.assertEqual(self.reason(token, "a"), Refusal.WRONG_SOURCE)
        self.assertEqual(self.reason(token, "a", host="?"), Refusal.WRONG_SOURCE)
        self.assertTrue(self.ask(token, "a", host="2001:db8::1").first)
        plain = self.invite(2, sources=("10.0.0.0/8",))
        self.assertEqual(self.reason(plain, "b"), Refusal.WRONG_SOURCE)
        self.assertIsInstance(self.ask(plain, "b", host="10.0.0.1"), TokenGrant)

    def test_wrong_secret(self) -> None:
        """An invite with a secret is not asked by without, nor the other way round."""
        token, public = self.site(), self.site(2, secret_hash=NO_SECRET)
        self.assertEqual(self.reason(token, "a", secret_hash=NO_SECRET), Refusal.MISMATCH)
        self.assertEqual(self.reason(public, "a", secret_hash=HASH), Refusal.MISMATCH)
        self.assertTrue(self.ask(public, "a").first)
        operator = NewToken(
            id=b"operator",
            secret_hash=NO_SECRET,
            kind="operator",
            expires_at=self.now + DAY,
            created_by="admin",
            name="eve",
            roles=("admin",),
        )
        self.failureResultOf(self.store.add_token(operator), StoreError)

    def test_bounds(self) -> None:
        """Rows are bounded for each source, each invite and in all; rejecting makes room."""
        for name, bound in (("MAX_FROM_SOURCE", 3), ("MAX_OF_INVITE", 5), ("MAX_PENDING", 7)):
            self.patch(pending, name, bound)
        one, two = self.site(1, uses_max=99), self.site(2, uses_max=99)
        for key in "abc":
            self.ask(one, key)
        self.assertEqual(self.reason(one, "d"), Refusal.FULL)
        self.assertFalse(self.ask(one, "a").first)
        for key in "de":
            self.ask(one, key, source="192.0.2.2")
        self.assertEqual(self.reason(one, "f", source="192.0.2.3"), Refusal.FULL)
        for key in "fg":
            self.ask(two, key, source="192.0.2.3")
        self.assertEqual(self.reason(two, "h", source="192.0.2.4"), Refusal.FULL)
        self.got(self.store.reject_pending(spki("f")))
        self.assertTrue(self.ask(two, "h", source="192.0.2.4").first)

    def test_rejected_keys_are_bounded(self) -> None:
        """Of rejected keys the newest are remembered."""
        self.patch(pending, "MAX_REJECTED", 2)
        token = self.site()
        for key in "abc":
            self.ask(token, key)
            self.now += 1
            self.got(self.store.reject_pending(spki(key)))
        self.assertTrue(self.ask(token, "a").first)
        self.assertEqual(self.reason(token, "c"), Refusal.REJECTED)

    def test_registered_key(self) -> None:
        """A key that is a device's already does not wait."""
        self.enrol(number=1)
        self.assertEqual(self.reason(self.site(2), "key-1"), Refusal.KEY_KNOWN)


class KeysTests(JoinCase):
    def keys(self, number: int, *known: KnownKey, **changes: Any) -> NewToken:
        """Make an invite for keys."""
        token = NewToken(
            **{
                "id": number.to_bytes(8, "big"),
                "secret_hash": HASH,
                "kind": "device",
                "expires_at": self.now + DAY,
                "created_by": "admin",
                "mode": "keys",
                **changes,
            }
        )
        self.got(self.store.add_token(token, known))
        return token

    def test_joins_by_its_key(self) -> None:
        """A known key is let in without any secret, under its name, once and for good."""
        token = self.keys(1, KnownKey(spki=spki("a"), name="pump-7"), KnownKey(spki=spki("b")))
        device, _ = self.enrolled(self.ask(None, "a"))
        self.assertEqual((device.name, device.name_provisional), ("pump-7", False))
        self.assertEqual(self.enrolled(self.ask(None, "a"))[0].id, device.id)
        other, _ = self.enrolled(self.ask(None, "b"))
        self.assertTrue(other.name_provisional)
        (found,) = self.got(self.store.tokens())
        self.assertEqual((found.uses, found.uses_max, found.public), (2, 2, True))
        self.assertEqual(self.got(self.store.token_keys(token.id)), [])

    def test_other_keys(self) -> None:
        """Another key is nobody, with and without the invite's id; the id is no secret's."""
        token = self.keys(1, KnownKey(spki=spki("a")))
        self.assertEqual(self.reason(None, "b"), Refusal.UNKNOWN)
        self.assertEqual(self.reason(token, "b", secret_hash=NO_SECRET), Refusal.MISMATCH)

    def test_name_taken(self) -> None:
        """The name is kept until it is free: the device gets it then, not another."""
        self.keys(1, KnownKey(spki=spki("a"), name="pump-7"))
        taken = self.enrol(number=2, name="pump-7")
        grant = self.ask(None, "a")
        self.failureResultOf(self.store.enrol_device(grant, "pump"), NameTaken)
        self.got(self.store.rename(taken.id, "pump-8"))
        self.assertEqual(self.enrolled(self.ask(None, "a"))[0].name, "pump-7")

    def test_revoked_and_expired(self) -> None:
        """A revoked or expired invite's keys are refused; with a public string they may wait."""
        token = self.keys(1, KnownKey(spki=spki("a")), expires_at=self.now + 1)
        self.now += 1
        self.assertEqual(self.reason(None, "a"), Refusal.EXPIRED)
        self.got(self.store.revoke_token(token.id))
        self.assertEqual(self.reason(None, "a"), Refusal.REVOKED)
        self.assertTrue(self.ask(self.site(2, secret_hash=NO_SECRET), "a").first)

    def test_known_later(self) -> None:
        """A device that waits is let in when its key becomes known, and waits no more."""
        public = self.site(1, secret_hash=NO_SECRET)
        self.ask(public, "a")
        self.keys(2, KnownKey(spki=spki("a"), name="pump-7"))
        self.assertEqual(self.enrolled(self.ask(public, "a"))[0].name, "pump-7")
        self.assertEqual(self.waiting(), [])

    def test_source_range(self) -> None:
        """Ranges hold for keys, too."""
        self.keys(1, KnownKey(spki=spki("a")), sources=("10.0.0.0/8",))
        self.assertEqual(self.reason(None, "a"), Refusal.WRONG_SOURCE)

    def test_adding(self) -> None:
        """Keys are added all or none: not those in use, nor names that are."""
        token = self.keys(1, KnownKey(spki=spki("a"), name="pump-1"))
        self.enrol(number=2, name="pump-2")
        fresh = KnownKey(spki=spki("b"))
        for bad, kind in (
            (KnownKey(spki=spki("a")), StoreError),
            (KnownKey(spki=spki("key-2")), StoreError),
            (KnownKey(spki=spki("c"), name="pump-1"), NameTaken),
            (KnownKey(spki=spki("c"), name="pump-2"), NameTaken),
            (KnownKey(spki=b"short"), StoreError),
        ):
            self.failureResultOf(self.store.add_token_keys(token.id, [fresh, bad]), kind)
        self.assertEqual(len(self.got(self.store.token_keys(token.id))), 1)
        self.assertEqual(self.got(self.store.add_token_keys(token.id, [fresh])), 2)
        self.failureResultOf(self.store.add_token_keys(bytes(8), [fresh]), NotFound)
        self.patch(token_keys, "MAX_OF_INVITE", 2)
        more = [KnownKey(spki=spki("c"))]
        self.failureResultOf(self.store.add_token_keys(token.id, more), LimitReached)

    def test_says_which_key(self) -> None:
        """A key without a name is told by its fingerprint, and a revoked one is called so."""
        self.keys(1, KnownKey(spki=spki("a")))
        failure = self.failureResultOf(
            self.store.add_token_keys((1).to_bytes(8, "big"), [KnownKey(spki=spki("a"))]),
            StoreError,
        )
        self.assertIn(fingerprint(spki("a")), str(failure.value))
        self.got(self.store.revoke_device(self.enrolled(self.ask(None, "a"))[0].id))
        failure = self.failureResultOf(
            self.store.add_token_keys((1).to_bytes(8, "big"), [KnownKey(spki=spki("a"))]),
            StoreError,
        )
        self.assertIn("needs a new one", str(failure.value))

    def test_one_name_twice(self) -> None:
        """Two keys of one request cannot have the same name."""
        token = self.keys(1, KnownKey(spki=spki("a")))
        twice = [KnownKey(spki=spki(key), name="pump-1") for key in "bc"]
        self.failureResultOf(self.store.add_token_keys(token.id, twice), NameTaken)
        self.assertEqual(len(self.got(self.store.token_keys(token.id))), 1)

    def test_removing(self) -> None:
        """One key can be taken out by its fingerprint, and put into another invite."""
        token = self.keys(1, KnownKey(spki=spki("a")), KnownKey(spki=spki("b")))
        removed = self.got(self.store.remove_token_key(spki("a")[:10]))
        self.assertEqual(removed.spki, spki("a"))
        self.assertEqual(self.reason(None, "a"), Refusal.UNKNOWN)
        self.assertEqual(len(self.got(self.store.token_keys(token.id))), 1)
        self.failureResultOf(self.store.remove_token_key(spki("a")[:10]), NotFound)
        self.keys(2, KnownKey(spki=spki("a")))
        self.enrolled(self.ask(None, "a"))
        self.failureResultOf(self.store.remove_token_key(spki("a")[:10]), NotFound)
