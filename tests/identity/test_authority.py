"""What the authorities issue, and how a gateway keeps them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.authority import (
    FleetKeys,
    KeyAbsent,
    fleet_of,
    new_fleet,
    renewal_time,
)
from rshell.identity.files import UnsafeDirectory, make_private_dir, write_atomic
from rshell.identity.fleet_home import DamagedHome, FleetHome, GatewayLeaf, HomeBusy
from rshell.identity.keys import make_csr, new_key, read_csr, spki_hash
from rshell.identity.names import BadPeerName, peer_name_of
from tests.identity.dev_fleet import SCRIPT, fleet, make_dev

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
DEVICE = "b166f084-07d6-42eb-b4b1-03feb245e542"


class Fraction:
    """A random source which always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


class AuthorityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.keys = new_fleet(NOW)

    def extension(self, certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> object:
        return certificate.extensions.get_extension_for_class(kind).value

    def test_authorities(self) -> None:
        """Three CAs under one root, each for one purpose, none able to make CAs."""
        keys = self.keys
        root = keys.root.certificate
        usages = {
            keys.device: ExtendedKeyUsageOID.CLIENT_AUTH,
            keys.operator: ExtendedKeyUsageOID.CLIENT_AUTH,
            keys.gateway: ExtendedKeyUsageOID.SERVER_AUTH,
        }
        for authority, usage in usages.items():
            certificate = authority.certificate
            certificate.verify_directly_issued_by(root)
            self.assertEqual(
                self.extension(certificate, x509.BasicConstraints),
                x509.BasicConstraints(ca=True, path_length=0),
            )
            self.assertEqual(
                self.extension(certificate, x509.ExtendedKeyUsage), x509.ExtendedKeyUsage([usage])
            )
            self.assertEqual(fleet_of(certificate), keys.fleet)
            life = certificate.not_valid_after_utc - NOW
            self.assertTrue(timedelta(days=3640) < life < timedelta(days=3660))
        self.assertTrue(root.not_valid_after_utc - NOW > timedelta(days=7290))

    def test_leaves(self) -> None:
        """Leaves are no CAs, sign only, have one purpose, and begin an hour ago."""
        public = new_key().public_key()
        client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
        leaves = (
            (self.keys.issue_device(public, DEVICE, NOW), client, 90),
            (self.keys.issue_operator(public, "alice", NOW), client, 90),
            (self.keys.issue_gateway(public, ["gw.example", "::1"], NOW), server, 365),
        )
        for leaf, usage, days in leaves:
            self.assertFalse(
                leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            )
            self.assertEqual(
                self.extension(leaf, x509.ExtendedKeyUsage), x509.ExtendedKeyUsage([usage])
            )
            usages = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
            self.assertTrue(usages.digital_signature)
            self.assertFalse(usages.key_cert_sign)
            self.assertEqual(leaf.not_valid_before_utc, NOW - timedelta(hours=1))
            self.assertEqual(
                leaf.not_valid_after_utc - leaf.not_valid_before_utc, timedelta(days=days)
            )
        self.assertEqual(peer_name_of(leaves[0][0]).name, DEVICE)
        self.assertNotEqual(leaves[0][0].serial_number, leaves[1][0].serial_number)

    def test_clock_of_1970(self) -> None:
        """A clock that stands before the fleet's begin dates nothing before it."""
        early = datetime(1970, 1, 2, tzinfo=UTC)
        leaf = self.keys.issue_device(new_key().public_key(), DEVICE, self.keys.moment(early))
        begin = self.keys.device.certificate.not_valid_before_utc
        self.assertGreaterEqual(leaf.not_valid_before_utc, begin)
        self.assertEqual(self.keys.moment(NOW + timedelta(days=1)), NOW + timedelta(days=1))

    def test_gateway_names(self) -> None:
        """DNS names and addresses are told apart."""
        leaf = self.keys.issue_gateway(new_key().public_key(), ["gw.example", "192.0.2.1"], NOW)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["gw.example"])
        self.assertEqual(
            [str(address) for address in names.get_values_for_type(x509.IPAddress)], ["192.0.2.1"]
        )

    def test_bad_names(self) -> None:
        """What is no id, no operator's name or no host is refused."""
        public = new_key().public_key()
        self.assertRaises(BadPeerName, self.keys.issue_device, public, "pump-7", NOW)
        self.assertRaises(BadPeerName, self.keys.issue_operator, public, "Alice/..", NOW)
        for names in ([], [""], ["a b"], ["user@host"], ["host:7411"], ["a/b"]):
            self.assertRaises(ValueError, self.keys.issue_gateway, public, names, NOW)

    def test_requests(self) -> None:
        """A request's key becomes the certificate's."""
        key = new_key()
        leaf = self.keys.issue_device(read_csr(make_csr(key)), DEVICE, NOW)
        self.assertEqual(leaf.public_key(), key.public_key())

    def test_within_authority(self) -> None:
        """No leaf outlives its CA."""
        late = self.keys.device.certificate.not_valid_after_utc - timedelta(days=10)
        leaf = self.keys.issue_device(new_key().public_key(), DEVICE, late)
        self.assertEqual(leaf.not_valid_after_utc, self.keys.device.certificate.not_valid_after_utc)

    def test_key_absent(self) -> None:
        """Without its key a CA says so, by name."""
        bare = attrs.evolve(self.keys, gateway=attrs.evolve(self.keys.gateway, key=None))
        error = self.assertRaises(
            KeyAbsent, bare.issue_gateway, new_key().public_key(), ["gw"], NOW
        )
        self.assertIn("rshell gateway CA", str(error))

    def test_keys_hidden(self) -> None:
        """Private keys are not in the repr."""
        self.assertNotIn("PrivateKey", repr(self.keys))

    def test_renewal_time(self) -> None:
        """Renewal is due between 2/3 - 1/20 and 2/3 of the life."""
        leaf = self.keys.issue_device(new_key().public_key(), DEVICE, NOW)
        begin = leaf.not_valid_before_utc
        self.assertEqual(renewal_time(leaf, Fraction(0.0)), begin + timedelta(days=60))
        self.assertEqual(renewal_time(leaf, Fraction(1.0)), begin + timedelta(days=55.5))
        moment = renewal_time(leaf)
        self.assertTrue(begin + timedelta(days=55) < moment <= begin + timedelta(days=60))


class FleetHomeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = make_private_dir(Path(self.mktemp()))
        self.home = FleetHome(self.path)
        self.keys: FleetKeys = fleet().keys

    def leaf(self) -> GatewayLeaf:
        leaf = make_dev().gateway(self.keys, ("localhost",), NOW)
        return GatewayLeaf(leaf.key, leaf.chain)

    def test_round_trip(self) -> None:
        """What was stored is loaded, keys 0600 and directories 0700."""
        self.assertFalse(self.home.exists())
        self.home.create(self.keys)
        self.assertTrue(self.home.exists())
        loaded = self.home.load()
        self.assertEqual(loaded.fleet, self.keys.fleet)
        self.assertEqual(loaded.gateway.certificate, self.keys.gateway.certificate)
        loaded.issue_device(new_key().public_key(), DEVICE, NOW)
        self.assertEqual((self.path / "ca").stat().st_mode & 0o777, 0o700)
        for key in (self.path / "ca").glob("*.key"):
            self.assertEqual(key.stat().st_mode & 0o777, 0o600)

    def test_never_replaced(self) -> None:
        """A second creation is refused and changes nothing."""
        self.home.create(self.keys)
        self.assertRaises(FileExistsError, self.home.create, new_fleet(NOW))
        self.assertEqual(self.home.load().fleet, self.keys.fleet)
        self.assertEqual([entry.name for entry in self.path.iterdir()], ["ca"])

    def test_half_made(self) -> None:
        """A creation that fails half way leaves nothing that looks like a fleet."""
        keyless = attrs.evolve(self.keys, gateway=attrs.evolve(self.keys.gateway, key=None))
        self.assertRaises(KeyAbsent, self.home.create, keyless)
        self.assertFalse(self.home.exists())
        self.assertEqual(list(self.path.iterdir()), [])

    def test_without_the_exported_keys(self) -> None:
        """Without root and gateway CA keys devices are still admitted, gateways not made."""
        self.home.create(self.keys)
        self.assertIsNot(self.home.load(issuing=True, root=True).gateway.key, None)
        self.home.remove_exported()
        self.home.remove_exported()
        loaded = self.home.load(issuing=True, root=True)
        self.assertIs(loaded.root.key, None)
        self.assertRaises(
            KeyAbsent, loaded.issue_gateway, new_key().public_key(), ["localhost"], NOW
        )
        loaded.issue_operator(new_key().public_key(), "alice", NOW)

    def test_keys_are_read_for_issuing_only(self) -> None:
        """Who does not issue gateways has neither the root's nor the gateway CA's key in memory."""
        self.home.create(self.keys)
        loaded = self.home.load()
        self.assertEqual((loaded.root.key, loaded.gateway.key), (None, None))
        self.assertIsNot(loaded.device.key, None)

    def test_one_at_a_time(self) -> None:
        """Who finds the home locked is told so; afterwards it is free."""
        with self.home.locked():
            self.assertRaises(HomeBusy, self.home.locked().__enter__)
        with self.home.locked():
            pass

    def test_remembers_leaves(self) -> None:
        """Every certificate of a gateway is listed before it is used, the oldest first."""
        self.home.create(self.keys)
        leaves = [self.leaf(), self.leaf()]
        for leaf in [*leaves, leaves[1]]:
            self.home.save_leaf(leaf)
        self.assertEqual(self.home.leaves(), tuple(leaf.chain[0] for leaf in leaves))
        (self.path / "ca" / "gateways.pem").write_bytes(b"no certificate")
        self.assertEqual(self.home.leaves(), (leaves[1].chain[0],))

    def test_request_key(self) -> None:
        """The key of a request stays until the certificate is in place."""
        self.home.create(self.keys)
        self.assertIs(self.home.pending_request(), None)
        key = self.home.request_key()
        self.assertEqual(
            spki_hash(self.home.request_key().public_key()), spki_hash(key.public_key())
        )
        fresh = self.home.request_key(fresh=True)
        self.assertNotEqual(spki_hash(fresh.public_key()), spki_hash(key.public_key()))
        self.home.answered()
        self.assertIs(self.home.pending_request(), None)
        (self.path / "gateway.request.key").write_bytes(b"no key")
        (self.path / "gateway.request.key").chmod(0o600)
        self.assertRaises(DamagedHome, self.home.request_key)

    def test_mixed_up(self) -> None:
        """Files which do not belong together are refused by name."""
        self.home.create(self.keys)
        other = FleetHome(make_private_dir(Path(self.mktemp())))
        other.create(new_fleet(NOW))
        stolen = (other.home / "ca" / "device-ca.key").read_bytes()
        write_atomic(self.path / "ca" / "device-ca.key", stolen)
        self.assertIn("device-ca.key", str(self.assertRaises(DamagedHome, self.home.load)))
        foreign = (other.home / "ca" / "device-ca.pem").read_bytes()
        write_atomic(self.path / "ca" / "device-ca.pem", foreign)
        self.assertIn("device-ca.pem", str(self.assertRaises(DamagedHome, self.home.load)))
        os.unlink(self.path / "ca" / "device-ca.pem")
        self.assertIn("device-ca.pem", str(self.assertRaises(DamagedHome, self.home.load)))

    def test_impostor(self) -> None:
        """An authority which bears the fleet's name but not its root's signature is refused."""
        self.home.create(self.keys)
        other = FleetHome(make_private_dir(Path(self.mktemp())))
        other.create(new_fleet(NOW, self.keys.fleet))
        for name in ("device-ca.pem", "device-ca.key"):
            write_atomic(self.path / "ca" / name, (other.home / "ca" / name).read_bytes())
        self.assertIn("device-ca.pem", str(self.assertRaises(DamagedHome, self.home.load)))

    def test_leaf(self) -> None:
        """The gateway's own key and chain are kept, and replaced by later ones."""
        self.assertIs(self.home.load_leaf(), None)
        for leaf in (self.leaf(), self.leaf()):
            self.home.save_leaf(leaf)
            loaded = self.home.load_leaf()
            assert loaded is not None
            self.assertEqual(loaded.chain, leaf.chain)
        self.assertEqual(
            sorted(path.name for path in self.path.iterdir()), ["gateway.key", "gateway.pem"]
        )

    def test_leaf_interrupted(self) -> None:
        """A power cut between the two renames is finished on the next load."""
        old, new = self.leaf(), self.leaf()
        self.home.save_leaf(new)
        os.rename(self.path / "gateway.key", self.path / "kept.key")
        os.rename(self.path / "gateway.pem", self.path / "kept.pem")
        self.home.save_leaf(old)
        # as if save_leaf(new) had stopped after renaming the key
        os.rename(self.path / "kept.key", self.path / "gateway.key")
        os.rename(self.path / "kept.pem", self.path / "gateway.next.pem")
        for _ in range(2):
            loaded = self.home.load_leaf()
            assert loaded is not None
            self.assertEqual(loaded.chain, new.chain)

    def test_leaf_mismatch(self) -> None:
        """A certificate of another key is refused."""
        self.home.save_leaf(self.leaf())
        chain = (self.path / "gateway.pem").read_bytes()
        self.home.save_leaf(self.leaf())
        write_atomic(self.path / "gateway.pem", chain)
        self.assertRaises(DamagedHome, self.home.load_leaf)


class FileTests(SynchronousTestCase):
    def test_private_dir(self) -> None:
        """It is made with its parents, and accepted when it is there already."""
        path = Path(self.mktemp()) / "a" / "b"
        self.assertEqual(make_private_dir(path), path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o700)
        make_private_dir(path)

    def test_unsafe(self) -> None:
        """Open modes, files and symbolic links are refused with the remedy."""
        path = make_private_dir(Path(self.mktemp()))
        path.chmod(0o750)
        error = self.assertRaises(UnsafeDirectory, make_private_dir, path)
        self.assertIn(f"chmod 700 {path}", str(error))
        self.assertEqual(path.stat().st_mode & 0o777, 0o750)
        path.chmod(0o700)
        link = Path(self.mktemp())
        link.symlink_to(path.resolve())
        self.assertRaises(UnsafeDirectory, make_private_dir, link)
        (path / "file").touch()
        self.assertRaises(UnsafeDirectory, make_private_dir, path / "file")

    def test_atomic(self) -> None:
        """A file is replaced as a whole; a failed write leaves the old one and no rubbish."""
        directory = make_private_dir(Path(self.mktemp()))
        path = directory / "file"
        write_atomic(path, b"one")
        write_atomic(path, b"two", 0o644)
        self.assertEqual(path.read_bytes(), b"two")
        self.assertEqual(path.stat().st_mode & 0o777, 0o644)
        (directory / "taken").mkdir()
        (directory / "taken" / "x").touch()
        self.assertRaises(OSError, write_atomic, directory / "taken", b"three")
        self.assertEqual(sorted(os.listdir(directory)), ["file", "taken"])


class MakeDevTests(SynchronousTestCase):
    def test_command(self) -> None:
        """The script writes a fleet which loads, and refuses to do it twice."""
        directory = Path(self.mktemp()).resolve()
        command = [sys.executable, str(SCRIPT), str(directory), "--devices", "3"]
        subprocess.run(command, check=True, timeout=60)
        home = FleetHome(directory / "gateway")
        self.assertIsNotNone(home.load_leaf())
        home.load()
        self.assertTrue((directory / "device-3.pem").exists())
        again = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
        self.assertEqual(again.returncode, 1)
        self.assertIn("already", again.stderr)
        self.assertNotIn("Traceback", again.stderr)
