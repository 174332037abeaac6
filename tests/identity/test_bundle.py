"""The bundle: what opens it, what does not, and that it never replaces a file."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime
from pathlib import Path

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.authority import KeyAbsent, new_fleet
from rshell.identity.bundle import (
    BadBundle,
    Bundle,
    WrongPassphrase,
    open_bundle,
    read_bundle,
    seal_bundle,
    write_new,
)
from rshell.identity.keys import spki_hash
from tests.identity.dev_fleet import fleet

PASSPHRASE = "correct horse battery"
#: Tests guess nothing: scrypt's cost is for those who do.
CHEAP = 16


def bundle() -> Bundle:
    """Return the authorities of the tests' fleet."""
    keys = fleet().keys
    return Bundle(keys.fleet, keys.root, keys.gateway)


class SealTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """What was sealed opens with its passphrase, and holds both keys."""
        found = open_bundle(seal_bundle(bundle(), PASSPHRASE, CHEAP), PASSPHRASE)
        self.assertEqual(found.fleet, bundle().fleet)
        for one, other in ((found.root, bundle().root), (found.gateway, bundle().gateway)):
            self.assertEqual(one.certificate, other.certificate)
            self.assertEqual(
                spki_hash(one.signing_key().public_key()),
                spki_hash(other.signing_key().public_key()),
            )

    def test_no_key_in_the_clear(self) -> None:
        """Neither the file nor the record's repr shows a key, and no two files are alike."""
        data = seal_bundle(bundle(), PASSPHRASE, CHEAP)
        self.assertNotIn(b"PRIVATE", data)
        self.assertNotIn("PrivateKey", repr(bundle()))
        self.assertNotEqual(data, seal_bundle(bundle(), PASSPHRASE, CHEAP))

    def test_wrong_passphrase(self) -> None:
        """Another passphrase, one letter off or empty, opens nothing."""
        data = seal_bundle(bundle(), PASSPHRASE, CHEAP)
        for wrong in ("", PASSPHRASE[:-1], PASSPHRASE.upper(), PASSPHRASE + " "):
            self.assertRaises(WrongPassphrase, open_bundle, data, wrong)

    def test_passphrases(self) -> None:
        """One that is too short is refused; one that is not UTF-8 works like any other."""
        for bad in ("", "short", "x" * 2000):
            self.assertRaises(BadBundle, seal_bundle, bundle(), bad, CHEAP)
        odd = b"p\xe9ssphrase that is long".decode("utf-8", "surrogateescape")
        open_bundle(seal_bundle(bundle(), odd, CHEAP), odd)

    def test_without_a_key(self) -> None:
        """What is not here is not sealed."""
        bare = attrs.evolve(bundle(), root=attrs.evolve(bundle().root, key=None))
        self.assertRaises(KeyAbsent, seal_bundle, bare, PASSPHRASE, CHEAP)

    def test_cut_short(self) -> None:
        """A file that was cut anywhere is no bundle, and says so in one line."""
        data = seal_bundle(bundle(), PASSPHRASE, CHEAP)
        for length in (0, 1, 100, len(data) // 2, len(data) - 3):
            error = self.assertRaises(BadBundle, open_bundle, data[:length], PASSPHRASE)
            self.assertNotIn("\n", str(error))

    def test_garbage(self) -> None:
        """Other files are no bundles: JSON, noise, something endless, depths of brackets."""
        for data in (b"{}", b"[]", os.urandom(500), b"x" * 100_000, b"[" * 60_000, b"\xff{"):
            self.assertRaises(BadBundle, open_bundle, data, PASSPHRASE)

    def test_changed(self) -> None:
        """A bundle whose plain part was changed does not open: it is bound to the sealed one."""
        stranger = new_fleet(datetime.now(UTC))
        other = Bundle(stranger.fleet, stranger.root, stranger.gateway)
        mine = msgspec.json.decode(seal_bundle(bundle(), PASSPHRASE, CHEAP))
        theirs = msgspec.json.decode(seal_bundle(other, PASSPHRASE, CHEAP))
        for key in ("fleet", "certificates"):
            header = {**mine["header"], key: theirs["header"][key]}
            data = msgspec.json.encode({**mine, "header": header})
            self.assertRaises(WrongPassphrase, open_bundle, data, PASSPHRASE)

    def test_too_hard(self) -> None:
        """A bundle that asks for the machine's whole memory is refused before it is tried."""
        document = msgspec.json.decode(seal_bundle(bundle(), PASSPHRASE, CHEAP))
        document["header"]["kdf"]["n"] = 2**30
        data = msgspec.json.encode(document)
        error = self.assertRaises(BadBundle, open_bundle, data, PASSPHRASE)
        self.assertNotIsInstance(error, WrongPassphrase)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_new(self) -> None:
        """It is written for its owner only, and read back."""
        path = self.directory / "b"
        write_new(path, seal_bundle(bundle(), PASSPHRASE, CHEAP))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        open_bundle(read_bundle(path), PASSPHRASE)

    def test_replaces_nothing(self) -> None:
        """A file, a directory and a dangling link are left alone."""
        (self.directory / "file").write_bytes(b"precious")
        (self.directory / "directory").mkdir()
        (self.directory / "link").symlink_to("elsewhere")
        for name in ("file", "directory", "link"):
            self.assertRaises(FileExistsError, write_new, self.directory / name, b"x")
        self.assertEqual((self.directory / "file").read_bytes(), b"precious")
        self.assertFalse((self.directory / "elsewhere").exists())

    def test_full_disk(self) -> None:
        """What could not be written whole leaves nothing behind."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        self.assertRaises(OSError, write_new, self.directory / "b", b"x" * 1000)
        self.assertEqual(list(self.directory.iterdir()), [])
