"""The gateway's own certificate while it runs, the list of revoked gateways, and the notes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from rshell.gateway.ca_report import in_use
from rshell.gateway.certificates import (
    AUDIT_RETRY_SECONDS,
    CARE_SECONDS,
    REMIND_SECONDS,
    TELL_SECONDS,
)
from rshell.gateway.home import prepare_home
from rshell.gateway.new_admin import replace_admin
from rshell.identity.authority import issue_gateway, renewal_time
from rshell.identity.ca_journal import note, waiting
from rshell.identity.credentials import CredentialStore
from rshell.identity.fleet_home import FleetHome, GatewayLeaf
from rshell.identity.gateway_leaf import fingerprint
from rshell.identity.keys import new_key, spki_hash
from rshell.identity.revoked import REVOKED_FEATURE, list_to_bytes, sign_revoked
from rshell.link.core.messages import Advice, RevokedGateways
from rshell.store.errors import StoreUnavailable
from tests.gateway.ends import End
from tests.gateway.fleet import DAY, NAMES, FleetTestCase

A = bytes(range(32))


class CertificatesCase(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.files = FleetHome(self.fleet.path)
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.heard)
        self.addCleanup(globalLogPublisher.removeObserver, self.heard)

    def heard(self, event: LogEvent) -> None:
        """Keep what the certificates' part logs."""
        if "certificates" in event.get("log_namespace", ""):
            self.said.append(formatEvent(event))

    def lines_with(self, word: str) -> list[str]:
        """Return what was logged with that word."""
        return [line for line in self.said if word in line]

    @property
    def used(self) -> str:
        """Fingerprint of what new connections see."""
        return fingerprint(self.fleet.gateway.certificates.leaf.chain[0])

    def new_leaf(self, days: int = 365) -> GatewayLeaf:
        """Make a certificate as the machine with the bundle does."""
        keys = self.files.load(issuing=True, root=True)
        key = new_key()
        now = datetime.fromtimestamp(self.fleet.wall(), UTC)
        leaf = issue_gateway(
            keys.gateway, key.public_key(), ["gw.example.net", *NAMES], now, timedelta(days=days)
        )
        return GatewayLeaf(key, (leaf, keys.gateway.certificate, keys.root.certificate))

    def install(self, leaf: GatewayLeaf) -> None:
        """Put it in place as `rshell ca install` does."""
        with self.files.locked():
            self.files.save_leaf(leaf)

    def tell(self, number: int, *spkis: bytes) -> RevokedGateways:
        """Put a list in place."""
        told = sign_revoked(self.files.load(issuing=True, root=True).root, number, spkis)
        with self.files.locked():
            self.files.revoked_path.write_bytes(list_to_bytes(told))
        return told

    def rows(self, kind: str) -> list[Any]:
        """Return audit rows of a kind."""
        return [row.record for row in self.fleet.audit(kind)]


class LeafTests(CertificatesCase):
    def test_installed_while_it_runs(self) -> None:
        """A certificate that is put in place is used within two seconds, and no link is lost."""
        end = self.fleet.dial(self.pump)
        leaf = self.new_leaf()
        self.install(leaf)
        self.fleet.advance(2)
        self.assertEqual(self.used, fingerprint(leaf.chain[0]))
        self.assertIsNone(end.lost)
        state = in_use(self.fleet.path)
        assert state is not None
        self.assertEqual(state.leaf, self.used)

    def test_renewed_by_itself(self) -> None:
        """At two thirds of its life it is renewed with a new key, for the same names, audited."""
        before = self.fleet.gateway.certificates.leaf.chain[0]
        self.install(self.new_leaf(days=3))
        self.fleet.advance(2)
        short = self.used
        self.fleet.clock.advance(1.5 * DAY)
        self.assertEqual(self.used, short)
        self.fleet.clock.advance(0.6 * DAY)
        self.fleet.clock.advance(CARE_SECONDS + 1)
        renewed = self.fleet.gateway.certificates.leaf.chain[0]
        self.assertNotIn(fingerprint(renewed), (short, fingerprint(before)))
        stored = self.files.load_leaf()
        assert stored is not None
        self.assertEqual(renewed, stored.chain[0])
        self.assertGreater(renewed.not_valid_after_utc - before.not_valid_after_utc, timedelta())
        self.assertEqual(len(self.files.leaves()), 3)
        self.fleet.advance(2)
        self.assertEqual(
            [record.details["gateway"] for record in self.rows("ca.leaf-renewed")],
            [fingerprint(renewed)],
        )

    def test_clock_that_was_ahead(self) -> None:
        """What was issued while the clock was years ahead is replaced when the clock is right."""
        keys = self.files.load(issuing=True)
        key = new_key()
        later = datetime.fromtimestamp(self.fleet.wall(), UTC) + timedelta(days=1000)
        chain = (keys.gateway.certificate, keys.root.certificate)
        leaf = keys.issue_gateway(key.public_key(), NAMES, later)
        self.install(GatewayLeaf(key, (leaf, *chain)))
        self.fleet.advance(2)
        self.assertEqual(self.used, fingerprint(leaf))
        self.fleet.clock.advance(CARE_SECONDS + 1)
        now = self.fleet.gateway.certificates.leaf.chain[0]
        self.assertLess(now.not_valid_before_utc, datetime.now(UTC))

    def test_cannot_renew(self) -> None:
        """Without the gateway CA's key it goes on with what it has, and says so once a day."""
        self.install(self.new_leaf(days=30))
        self.files.remove_exported()
        self.fleet.advance(2)
        used = self.used
        self.fleet.clock.advance(21 * DAY)
        self.fleet.clock.pump([CARE_SECONDS] * 4)
        self.assertEqual(self.used, used)
        said = self.lines_with("was moved away")
        self.assertEqual(len(said), 1, said)
        self.assertIn("rshell ca request", said[0])
        self.fleet.clock.pump([CARE_SECONDS] * int(REMIND_SECONDS / CARE_SECONDS + 1))
        self.assertEqual(len(self.lines_with("was moved away")), 2)
        left = self.fleet.gateway.certificates.seconds_left()
        self.assertTrue(7 * DAY < left < 9 * DAY, left)
        self.assertIn(
            "rshell_certificate_seconds_left",
            self.fleet.gateway.metrics.exposition(self.fleet.gateway),
        )

    def test_damaged(self) -> None:
        """A certificate that does not fit is not used; the one before stays, and it is logged."""
        used = self.used
        for content in (b"", b"nonsense", (self.fleet.path / "ca" / "root.pem").read_bytes()):
            (self.fleet.path / "gateway.pem").write_bytes(content)
            self.fleet.advance(2)
            self.assertEqual(self.used, used)
        self.assertTrue(self.lines_with("cannot be used"))

    def test_busy(self) -> None:
        """While a command works on the home the gateway waits, and then looks."""
        leaf = self.new_leaf()
        used = self.used
        with self.files.locked():
            self.files.save_leaf(leaf)
            self.fleet.advance(5)
            self.assertEqual(self.used, used)
        self.fleet.advance(2)
        self.assertEqual(self.used, fingerprint(leaf.chain[0]))

    def test_keys_are_not_kept(self) -> None:
        """A gateway that runs holds neither the root's nor the gateway CA's key."""
        keys = self.fleet.gateway.home.keys
        self.assertEqual((keys.root.key, keys.gateway.key), (None, None))

    def test_names(self) -> None:
        """An address that is not in the certificate is said at the start."""
        self.fleet.crash()
        self.assertEqual(len(self.lines_with("not for gw.example.net")), 1)

    def test_start_renews_at_two_thirds(self) -> None:
        """A start renews what is past two thirds of its life, and nothing before."""
        certificate = self.fleet.home.leaf.chain[0]
        due = renewal_time(certificate)
        early = prepare_home(self.fleet.path, NAMES, now=due - timedelta(days=30))
        self.assertEqual(early.leaf.chain[0], certificate)
        late = prepare_home(self.fleet.path, NAMES, now=due + timedelta(days=30))
        self.assertNotEqual(late.leaf.chain[0], certificate)

    def test_stops(self) -> None:
        """A gateway that stopped says that it uses nothing."""
        self.fleet.run(self.fleet.gateway.stop())
        self.assertIsNone(in_use(self.fleet.path))


class RevokedTests(CertificatesCase):
    def setUp(self) -> None:
        super().setUp()
        self.advice: dict[End, list[Advice]] = {}
        self.dials = 0

    def dial(self, peer: Any, *features: str) -> End:
        """Dial and note every ADVICE."""
        end: End = self.fleet.dial(peer, features=["resume", *features])
        self.advice[end] = []
        end.link.advised = self.advice[end].append
        return end

    def welcomed(self, peer: Any = None) -> RevokedGateways | None:
        """Dial once more and return the list that WELCOME told."""
        self.dials += 1
        end: End = self.fleet.dial(peer or self.pump, dial=self.dials)
        assert end.welcome is not None
        return end.welcome.revoked_gateways

    def test_in_welcome(self) -> None:
        """Every WELCOME tells the list that is in place: of devices and of operators."""
        self.assertIsNone(self.welcomed())
        told = self.tell(3, A)
        self.fleet.advance(2)
        for peer in (self.pump, self.ann):
            self.assertEqual(self.welcomed(peer), told)

    def test_told_to_those_who_are_there(self) -> None:
        """Links in use are told a new list if they know the feature; others are left alone."""
        pump = self.dial(self.pump, REVOKED_FEATURE)
        ann = self.dial(self.ann, REVOKED_FEATURE)
        old = self.dial(self.fleet.enrol("pump-9"))
        gone = self.dial(self.fleet.add_operator("bob"), REVOKED_FEATURE)
        gone.link.abort("gone")
        self.fleet.pump()
        told = self.tell(3, A)
        self.fleet.advance(2 + TELL_SECONDS)
        for end in (pump, ann):
            self.assertEqual([advice.revoked_gateways for advice in self.advice[end]], [told])
        self.assertEqual(self.advice[old], [])
        self.assertIsNone(old.lost)

    def test_older_list(self) -> None:
        """A list with a lower number that is put into the home is not told."""
        told = self.tell(5, A)
        self.fleet.advance(2)
        self.tell(4)
        self.fleet.advance(2)
        self.assertEqual(self.welcomed(), told)

    def test_broken_list(self) -> None:
        """A list that is broken or foreign is not told, and keeps nobody from starting."""
        foreign = sign_revoked(attrs.evolve(self.files.load().root, key=new_key()), 9, [A])
        for content in (b"", b"nonsense", b"{}", list_to_bytes(foreign)):
            self.files.revoked_path.write_bytes(content)
            self.fleet.advance(2)
            self.assertIsNone(self.welcomed())
        self.fleet.crash()
        self.assertIsNone(self.welcomed())

    def test_after_a_restart(self) -> None:
        """A restarted gateway tells it from its first WELCOME on."""
        told = self.tell(5, A)
        self.fleet.crash()
        self.assertEqual(self.welcomed(), told)


class NotesTests(CertificatesCase):
    def test_into_the_audit_log(self) -> None:
        """What the local commands noted is in the audit log within two seconds, once."""
        note(self.fleet.path, "ca.install", 5, {"gateway": "x"})
        self.fleet.advance(5)
        (record,) = self.rows("ca.install")
        self.assertEqual((record.door, record.details["gateway"]), ("local", "x"))
        self.assertTrue(record.details["user"])
        self.fleet.advance(5)
        self.assertEqual(len(self.rows("ca.install")), 1)

    def test_from_before_the_start(self) -> None:
        """What was noted while no gateway ran is there after its start."""
        note(self.fleet.path, "ca.export-root", 5, {})
        self.fleet.crash()
        self.fleet.advance(2)
        self.assertEqual(len(self.rows("ca.export-root")), 1)

    def test_store_that_takes_nothing(self) -> None:
        """While the log takes no rows the notes wait on disk, and are tried again."""
        store = self.fleet.store

        class Full:
            def append_audit(self, record: Any) -> Deferred[int]:
                return fail(StoreUnavailable("no space left"))

        self.fleet.gateway.store = Full()  # type: ignore[assignment]  # all that is asked
        note(self.fleet.path, "ca.install", 5, {})
        self.fleet.advance(10)
        self.assertTrue(waiting(self.fleet.path))
        self.assertEqual(len(self.lines_with("wait for the audit log")), 1)
        self.fleet.gateway.store = store
        self.fleet.advance(AUDIT_RETRY_SECONDS + 2)
        self.assertEqual(len(self.rows("ca.install")), 1)
        self.assertFalse(waiting(self.fleet.path))

    def test_notes_that_cannot_be_read(self) -> None:
        """Notes that cannot be read are not thrown away."""
        taken_away = self.fleet.path / "ca.journal.taken"
        taken_away.mkdir()
        note(self.fleet.path, "ca.install", 5, {})
        self.fleet.advance(10)
        taken_away.rmdir()
        self.fleet.advance(AUDIT_RETRY_SECONDS + 2)
        self.assertEqual(len(self.rows("ca.install")), 1)


class ShownTests(CertificatesCase):
    def test_over_a_link(self) -> None:
        """An administrator elsewhere sees authorities, gateways and what is revoked, no key."""
        self.files.remove_exported()
        end = self.fleet.dial(self.ann)
        talk = end.call("gateway.ca")
        self.fleet.pump()
        answer = talk.answer()
        self.assertEqual(
            {one["name"]: one["key"] for one in answer["authorities"]},
            {"root": "away", "device CA": "here", "operator CA": "here", "gateway CA": "away"},
        )
        self.assertEqual([one["state"] for one in answer["gateways"]], ["in use"])
        self.assertEqual(answer["gateways"][0]["fingerprint"], self.used)
        self.assertNotIn("PRIVATE", msgspec.json.encode(answer).decode())


class NewAdminTests(CertificatesCase):
    def test_old_keys_are_worthless(self) -> None:
        """The local administrator has a new key, and the ones before are revoked."""
        path = self.fleet.path
        store = CredentialStore(path / "admin")
        before = store.load()
        assert before is not None
        self.fleet.got(self.fleet.store.close())
        now = datetime.now(UTC)
        self.assertEqual(replace_admin(Path(path), now), 1)
        after = store.load()
        assert after is not None
        self.assertIsNone(store.previous())
        self.assertEqual(replace_admin(Path(path), now), 1)
        last = store.load()
        assert last is not None
        self.fleet.start()
        statuses = {
            key.spki: key.status
            for key in self.fleet.got(self.fleet.store.keys_of("operator", "admin"))
        }
        spkis = [spki_hash(held.key.public_key()) for held in (before, after, last)]
        self.assertEqual([statuses[spki] for spki in spkis], ["revoked", "revoked", "active"])
        self.assertEqual(len(self.rows("ca.new-admin")), 2)
