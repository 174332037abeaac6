"""A gateway's directory: first start, later starts, and what is wrong with it in one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.home import ADMIN_NAME, GatewayHome, HomeError, prepare_home
from rshell.identity.credentials import CredentialStore
from rshell.identity.fleet_home import FleetHome
from rshell.identity.keys import spki_hash
from rshell.store.records import OperatorKey
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from tests.gateway.fleet import NAMES, template_home


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


class HomeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def copy(self) -> None:
        """Begin with a home that was set up before."""
        shutil.copytree(template_home(), self.path)

    def prepare(self, *names: str, **more: Any) -> GatewayHome:
        """Start."""
        return prepare_home(self.path, names or NAMES, **more)

    def complaint(self) -> str:
        """Start, which must fail; returns the text."""
        error = self.assertRaises(HomeError, self.prepare)
        text = str(error)
        self.assertNotIn("\n", text)
        return text

    def in_store(self, ask: Any) -> Any:
        """Return what the store answers."""
        store = Store.open(self.path / "rshell.sqlite", InlineThreads())
        try:
            return self.successResultOf(ask(store))
        finally:
            store.close()

    def admin(self) -> OperatorKey | None:
        """Return who the local administrator's stored key belongs to."""
        credentials = CredentialStore(self.path / "admin").load()
        assert credentials is not None
        spki = spki_hash(credentials.key.public_key())
        found: OperatorKey | None = self.in_store(lambda store: store.operator_by_spki(spki))
        return found


class FirstStartTests(HomeTestCase):
    def test_makes_everything(self) -> None:
        """The first start makes authorities, leaf, store and administrator, all private."""
        home = self.prepare()
        made = {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}
        names = {
            f"ca/{ca}.{s}"
            for ca in ("root", "device-ca", "operator-ca", "gateway-ca")
            for s in ("key", "pem")
        }
        self.assertLessEqual(names | {"gateway.key", "gateway.pem", "rshell.sqlite"}, made)
        for path in [self.path, *self.path.rglob("*")]:
            wanted = 0o700 if path.is_dir() else 0o600
            self.assertEqual(mode(path), wanted, str(path))
        self.assertEqual(home.root_pin, spki_hash(home.keys.root.certificate.public_key()))

    def test_local_administrator(self) -> None:
        """Operator ``admin`` exists, active, with the key that lies in HOME/admin."""
        self.prepare()
        found = self.admin()
        assert found is not None
        self.assertEqual((found.operator.name, found.operator.roles), (ADMIN_NAME, ("admin",)))
        self.assertIsNone(found.refusal(0))

    def test_under_any_umask(self) -> None:
        """An open umask does not open the home."""
        self.addCleanup(os.umask, os.umask(0))
        self.prepare()
        for path in self.path.rglob("*"):
            self.assertEqual(mode(path) & 0o077, 0, str(path))

    def test_keys_have_no_repr(self) -> None:
        """The repr of a home shows no private key."""
        self.assertNotIn("PrivateKey", repr(self.prepare()))


class LaterStartTests(HomeTestCase):
    def test_reuses(self) -> None:
        """A second start changes no key and no certificate."""
        self.copy()
        files = [
            *self.path.glob("ca/*"),
            *self.path.glob("gateway.*"),
            *self.path.rglob("admin/*/*"),
        ]
        before = {path: path.read_bytes() for path in files if path.is_file()}
        self.prepare()
        self.assertGreater(len(before), 10)
        self.assertEqual({path: path.read_bytes() for path in before}, before)

    def test_new_name_reissues_the_leaf(self) -> None:
        """A name that is new is in the leaf from the next start on, the old ones too."""
        self.copy()
        old = FleetHome(self.path).load_leaf()
        home = self.prepare("gw.example.net", *NAMES)
        certificate = home.leaf.chain[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertIn("gw.example.net", names.get_values_for_type(x509.DNSName))
        self.assertIn("localhost", names.get_values_for_type(x509.DNSName))
        assert old is not None
        self.assertNotEqual(certificate, old.chain[0])
        self.assertEqual(self.prepare("gw.example.net").leaf.chain[0], certificate)

    def test_old_leaf_is_renewed(self) -> None:
        """A leaf with less than 60 days left is renewed at start."""
        self.copy()
        old = FleetHome(self.path).load_leaf()
        assert old is not None
        later = old.chain[0].not_valid_after_utc - timedelta(days=59)
        self.assertNotEqual(self.prepare(now=later).leaf.chain[0], old.chain[0])

    def test_without_the_gateway_cas_key(self) -> None:
        """With the keys moved away a gateway runs with the leaf it has."""
        self.copy()
        FleetHome(self.path).remove_exported()
        leaf = FleetHome(self.path).load_leaf()
        assert leaf is not None
        self.assertEqual(self.prepare("new.example.net").leaf.chain[0], leaf.chain[0])

    def test_administrator_renews(self) -> None:
        """The administrator's certificate is renewed in time, with a new registered key."""
        self.copy()
        before = self.admin()
        self.prepare(now=datetime.now(UTC) + timedelta(days=80))
        after = self.admin()
        assert before is not None
        assert after is not None
        self.assertNotEqual(before.key.spki, after.key.spki)
        self.assertEqual(after.key.status, "active")

    def test_renewal_that_was_cut_off(self) -> None:
        """A start that died between the store and the file is completed by the next one."""
        self.copy()
        credentials = CredentialStore(self.path / "admin")
        present = credentials.load()
        assert present is not None
        old = spki_hash(present.key.public_key())
        new = spki_hash(credentials.pending_key().public_key())
        self.in_store(lambda store: store.renew_key(old, new, 0))
        self.prepare(now=datetime.now(UTC) + timedelta(days=80))
        found = self.admin()
        assert found is not None
        self.assertEqual((found.key.spki, found.key.status), (new, "active"))

    def test_first_start_that_was_cut_off(self) -> None:
        """An administrator in the store without credentials on disk gets them at the next start."""
        self.copy()
        shutil.rmtree(self.path / "admin")
        self.prepare()
        found = self.admin()
        assert found is not None
        self.assertEqual((found.operator.name, found.key.status), (ADMIN_NAME, "active"))

    def test_revoked_administrator_stays_revoked(self) -> None:
        """A revoked local administrator neither comes back nor keeps the gateway from starting."""
        self.copy()
        self.in_store(lambda store: store.revoke_operator(ADMIN_NAME))
        for days in (0, 80, 300):
            self.prepare(now=datetime.now(UTC) + timedelta(days=days))
        shutil.rmtree(self.path / "admin")
        self.prepare()
        self.assertIsNone(CredentialStore(self.path / "admin").load())
        operator = self.in_store(lambda store: store.operator(ADMIN_NAME))
        self.assertFalse(operator.active)

    def test_revoked_key_of_the_administrator(self) -> None:
        """A revoked key of the administrator is not renewed into a good one."""
        self.copy()
        found = self.admin()
        assert found is not None
        self.in_store(lambda store: store.revoke_key(found.key.spki))
        self.prepare(now=datetime.now(UTC) + timedelta(days=80))
        keys = self.in_store(lambda store: store.keys_of("operator", ADMIN_NAME))
        self.assertEqual([key.status for key in keys], ["revoked"])


class DamagedTests(HomeTestCase):
    def test_damaged_files(self) -> None:
        """A missing, empty, foreign or half-written file is named in one line."""
        cases = {
            "ca/root.pem": b"",
            "ca/device-ca.pem": b"nonsense",
            "ca/operator-ca.key": b"\x00",
            "gateway.key": b"",
            "gateway.pem": b"-----BEGIN",
            "rshell.sqlite": b"no database" * 99,
        }
        for name, content in cases.items():
            self.path = Path(self.mktemp()).absolute()
            self.copy()
            (self.path / name).write_bytes(content)
            text = self.complaint()
            self.assertIn(name.partition("/")[2].partition(".")[0] or name.partition(".")[0], text)
            self.assertEqual((self.path / name).read_bytes()[:99], content[:99])

    def test_half_made_authorities(self) -> None:
        """A home whose authorities are not complete is damaged, not set up again over it."""
        self.copy()
        (self.path / "ca" / "device-ca.pem").unlink()
        self.assertIn("restore it from a backup", self.complaint())
        self.assertFalse((self.path / "ca" / "device-ca.pem").exists())

    def test_left_over_temporary(self) -> None:
        """What a first start that was killed left behind does not disturb the next."""
        self.path.mkdir(mode=0o700)
        (self.path / ".ca.abc").mkdir()
        self.prepare()

    def test_open_key(self) -> None:
        """A key that others can read is refused."""
        self.copy()
        (self.path / "gateway.key").chmod(0o644)
        self.assertIn("0600", self.complaint())

    def test_open_home(self) -> None:
        """A home that others can write is refused."""
        self.copy()
        self.path.chmod(0o777)
        self.assertIn(str(self.path), self.complaint())

    def test_home_is_a_file(self) -> None:
        """A home that is a file is refused with a way out."""
        self.path.write_text("x")
        self.assertIn("--home", self.complaint())

    def test_unwritable(self) -> None:
        """A home that cannot be written is refused with a way out."""
        self.assertIn(
            "--home",
            str(self.assertRaises(HomeError, prepare_home, Path("/proc/rshell-home"), NAMES)),
        )

    def test_store_of_another_fleet(self) -> None:
        """A store that belongs to another fleet is refused."""
        self.copy()
        with closing(sqlite3.connect(self.path / "rshell.sqlite")) as database:
            database.execute("UPDATE meta SET value='other' WHERE key='fleet'")
            database.commit()
        self.assertIn("the store of", self.complaint())


class EndpointsTests(HomeTestCase):
    def test_written_and_removed(self) -> None:
        """endpoints.json holds what is said and is removed, twice without complaint."""
        self.copy()
        home = self.prepare()
        home.write_endpoints({"links": "127.0.0.1:1"})
        file = self.path / "endpoints.json"
        self.assertEqual(msgspec.json.decode(file.read_bytes()), {"links": "127.0.0.1:1"})
        home.remove_endpoints()
        home.remove_endpoints()
        self.assertFalse(file.exists())
