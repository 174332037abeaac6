"""Invites: who may use them, how often, and when."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

from sqlalchemy import URL, create_engine, event
from sqlalchemy.pool import NullPool

from rshell.store import tokens
from rshell.store.errors import NameTaken, NotFound, StoreError
from rshell.store.records import NewToken, OwnerKind, Refusal, TokenGrant, TokenRefused
from rshell.store.times import MINUTE
from tests.store.fixture import HASH, Loop, StoreTestCase, spki


class Using(StoreTestCase):
    def refusal(
        self,
        token_id: bytes,
        key: str,
        secret_hash: bytes = HASH,
        kind: OwnerKind = "device",
    ) -> Refusal:
        """Return why a use is refused."""
        result = self.got(self.store.use_token(token_id, secret_hash, spki(key), kind))
        assert isinstance(result, TokenRefused), result
        return result.reason

    def test_grant_carries_the_invites_terms(self) -> None:
        """A grant says what the invite said, and whose key it is bound to."""
        token = self.invite(name="pump-1", labels={"site": "berlin"})
        grant = self.use(token, "a")
        self.assertEqual(
            grant,
            TokenGrant(
                token_id=token.id,
                spki=spki("a"),
                kind="device",
                created_by="admin",
                name="pump-1",
                labels={"site": "berlin"},
            ),
        )

    def test_same_key_gets_the_same_certificate(self) -> None:
        """A lost reply is repeated to the same key for 15 minutes, even past expiry."""
        token = self.invite(expires_at=self.now + MINUTE)
        grant = self.use(token, "a")
        device = self.got(self.store.enrol_device(grant, "pump"))
        self.assertEqual(self.got(self.store.keep_certificate(grant, "PEM 1", 5)), "PEM 1")
        self.now += 15 * MINUTE
        again = self.use(token, "a")
        self.assertEqual((again.owner, again.certificate), (device.id, "PEM 1"))
        self.now += 1
        self.assertEqual(self.refusal(token.id, "a"), Refusal.TOO_LATE)

    def test_another_kind_does_not_use_it_up(self) -> None:
        """A device's invite tried as an operator's is refused and stays unused."""
        token = self.invite()
        self.assertEqual(self.refusal(token.id, "a", kind="operator"), Refusal.WRONG_KIND)
        self.use(token, "b")

    def test_crash_before_the_certificate(self) -> None:
        """A use whose device was not enrolled yet, or not answered, goes on where it was."""
        token = self.invite()
        self.use(token, "a")
        self.reopen()
        device = self.got(self.store.enrol_device(self.use(token, "a"), "pump"))
        self.reopen()
        again = self.use(token, "a")
        self.assertEqual(self.got(self.store.enrol_device(again, "other")), device)
        self.assertEqual(len(self.got(self.store.find_devices())), 1)

    def test_first_certificate_wins(self) -> None:
        """When two certificates were issued for one use, both callers answer with the first."""
        grant = self.use(self.invite(), "a")
        self.got(self.store.enrol_device(grant, "pump"))
        self.assertEqual(self.got(self.store.keep_certificate(grant, "PEM 1", 5)), "PEM 1")
        self.assertEqual(self.got(self.store.keep_certificate(grant, "PEM 2", 6)), "PEM 1")
        key = self.got(self.store.device_by_spki(spki("a")))
        assert key is not None
        self.assertEqual(key.key.not_after, 5)

    def test_another_key_is_refused(self) -> None:
        """A used invite is of no use to whoever else has it."""
        token = self.invite()
        self.use(token, "a")
        self.assertEqual(self.refusal(token.id, "b"), Refusal.REPLAY)

    def test_several_uses(self) -> None:
        """An invite for two devices makes two, and no third."""
        token = self.invite(uses_max=2)
        self.use(token, "a")
        self.use(token, "b")
        self.assertEqual(self.refusal(token.id, "c"), Refusal.REPLAY)
        self.use(token, "a")

    def test_refusals(self) -> None:
        """Unknown, wrong, expired and revoked invites are told apart for the audit."""
        token = self.invite()
        self.assertEqual(self.refusal(b"\xff" * 8, "a"), Refusal.UNKNOWN)
        self.assertEqual(self.refusal(b"", "a", b""), Refusal.UNKNOWN)
        self.assertEqual(self.refusal(token.id, "a", bytes(32)), Refusal.MISMATCH)
        self.assertEqual(self.refusal(token.id, "a", HASH[:-1]), Refusal.MISMATCH)
        self.now = token.expires_at
        self.assertEqual(self.refusal(token.id, "a"), Refusal.EXPIRED)
        self.got(self.store.revoke_token(token.id))
        self.assertEqual(self.refusal(token.id, "a"), Refusal.REVOKED)

    def test_failed_tries_use_nothing(self) -> None:
        """Refused tries do not use the invite up."""
        token = self.invite()
        for _ in range(3):
            self.refusal(token.id, "a", bytes(32))
        self.use(token, "a")

    def test_a_registered_key_cannot_join_again(self) -> None:
        """A key belongs to one device for ever, also after its revocation."""
        self.enrol()
        other = self.invite(2)
        self.assertEqual(self.refusal(other.id, "key-1"), Refusal.KEY_KNOWN)
        self.got(self.store.revoke_device("pump"))
        self.assertEqual(self.refusal(other.id, "key-1"), Refusal.KEY_KNOWN)

    def test_revoked_device_gets_no_repetition(self) -> None:
        """Within the 15 minutes, too, a revoked device's key is refused."""
        token = self.invite(uses_max=5)
        grant = self.use(token, "a")
        self.got(self.store.enrol_device(grant, "pump"))
        self.got(self.store.keep_certificate(grant, "PEM", 5))
        self.got(self.store.revoke_device("pump"))
        self.assertEqual(self.refusal(token.id, "a"), Refusal.REVOKED)
        self.failureResultOf(self.store.keep_certificate(grant, "PEM 2", 5), StoreError)
        self.use(token, "b")  # the others' invite is not void

    def test_revoked_between_use_and_enrolment(self) -> None:
        """An invite revoked after its use enrols nobody."""
        token = self.invite()
        grant = self.use(token, "a")
        self.got(self.store.revoke_token(token.id))
        self.failureResultOf(self.store.enrol_device(grant, "pump"), StoreError)

    def test_forged_grant(self) -> None:
        """A grant the store never gave enrols nobody."""
        token = self.invite()
        forged = TokenGrant(token_id=token.id, spki=spki("x"), kind="device", created_by="admin")
        self.failureResultOf(self.store.enrol_device(forged, "pump"), StoreError)
        operator = TokenGrant(
            token_id=token.id,
            spki=spki("x"),
            kind="operator",
            created_by="a",
            name="o",
            roles=("r",),
        )
        self.failureResultOf(self.store.enrol_operator(operator), StoreError)


class Making(StoreTestCase):
    def test_malformed(self) -> None:
        """Invites without the needed parts are refused."""
        good: dict[str, Any] = {
            "id": bytes(8),
            "secret_hash": HASH,
            "kind": "device",
            "expires_at": self.now + MINUTE,
            "created_by": "admin",
        }
        for change in (
            {"id": bytes(7)},
            {"secret_hash": bytes(20)},
            {"uses_max": 0},
            {"kind": "operator"},
            {"kind": "operator", "name": "ann"},
            {"kind": "gateway"},
            {"name": "pump-1", "uses_max": 2},
        ):
            self.failureResultOf(self.store.add_token(NewToken(**{**good, **change})), StoreError)
        self.got(self.store.add_token(NewToken(**good)))
        self.failureResultOf(self.store.add_token(NewToken(**good)), StoreError)

    def test_name_in_use(self) -> None:
        """An invite for a name in use is refused at once, not when the device joins."""
        self.enrol("pump")
        error = self.failureResultOf(
            self.store.add_token(
                NewToken(
                    id=bytes(8),
                    secret_hash=HASH,
                    kind="device",
                    expires_at=self.now,
                    created_by="a",
                    name="pump",
                )
            ),
            NameTaken,
        )
        self.assertIn("there is a device pump already", str(error.value))

    def test_listing_shows_no_hash(self) -> None:
        """Listings have the uses, and neither they nor reprs have the hash."""
        token = self.invite(labels={"a": "b"})
        self.use(token, "a")
        (listed,) = self.got(self.store.tokens())
        self.assertEqual((listed.uses, listed.uses_max, listed.labels), (1, 1, {"a": "b"}))
        self.assertNotIn(repr(HASH), repr(listed) + repr(token))
        self.assertFalse(hasattr(listed, "secret_hash"))

    def test_spent_ones_hide_none_that_holds(self) -> None:
        """However many invites were spent since, those that hold are listed; any is found by id."""
        self.patch(tokens, "MAX_LISTED", 2)
        open_one = self.invite(1)
        for number in range(2, 6):
            self.now += 1
            self.use(self.invite(number), f"key-{number}")
        listed = [token.id for token in self.got(self.store.tokens())]
        self.assertEqual(listed, [(5).to_bytes(8, "big"), (4).to_bytes(8, "big"), open_one.id])
        old = self.got(self.store.token((2).to_bytes(8, "big")))
        self.assertEqual((old.uses, old.uses_max), (1, 1))
        self.failureResultOf(self.store.token(bytes(8)), NotFound)

    def test_revoking_an_unknown_one(self) -> None:
        """Revoking an invite that is not there says so."""
        self.failureResultOf(self.store.revoke_token(bytes(8)), NotFound)


class Concurrency(StoreTestCase):
    def test_one_winner_among_a_hundred_threads(self) -> None:
        """Of 100 keys using one invite over 100 connections at once, exactly one wins."""
        token = self.invite()
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            poolclass=NullPool,
            connect_args={"timeout": 60, "isolation_level": None},
        )
        # a plain BEGIN: the UPDATE itself must decide, not the lock of BEGIN IMMEDIATE
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        start = threading.Barrier(100)
        results: list[object] = []

        def attempt(number: int) -> None:
            start.wait(30)
            while True:
                try:
                    with engine.begin() as connection:
                        results.append(
                            tokens.use_token(
                                connection,
                                token.id,
                                HASH,
                                spki(str(number)),
                                "device",
                                self.now,
                            )
                        )
                    return
                except Exception as error:
                    # a snapshot another thread has overtaken: SQLite asks to begin again
                    if not isinstance(error.__cause__, sqlite3.OperationalError):
                        results.append(error)
                        return

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        winners = [result for result in results if isinstance(result, TokenGrant)]
        losers = [result for result in results if isinstance(result, TokenRefused)]
        self.assertEqual((len(winners), len(losers), len(results)), (1, 99, 100))
        (listed,) = self.got(self.store.tokens())
        self.assertEqual(listed.uses, 1)

    def test_one_winner_through_the_store(self) -> None:
        """Of 100 uses asked for at once through the store's own threads, one wins."""
        from rshell.store.threads import PooledThreads

        token = self.invite()
        loop = Loop()
        store = self.open(PooledThreads(loop.call_from_thread))
        uses = [
            store.use_token(token.id, HASH, spki(str(number)), "device") for number in range(100)
        ]
        for use in uses:
            loop.run_until(use)
        kinds = [type(self.got(use)) for use in uses]
        self.assertEqual(kinds, [TokenGrant] + [TokenRefused] * 99)
        loop.run_until(store.close())
