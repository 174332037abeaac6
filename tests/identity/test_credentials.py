"""What a joined machine keeps, and its idea of the time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.files import UnsafeDirectory, make_private_dir
from rshell.identity.keys import new_key, spki_hash
from tests.identity.dev_fleet import credentials

BUILT = datetime(2026, 11, 1, tzinfo=UTC)


class CredentialTests(SynchronousTestCase):
    def test_new(self) -> None:
        """The name comes from the certificate, and the key does not show."""
        held = credentials("operator")
        self.assertEqual(held.name.name, "alice")
        self.assertNotIn("PrivateKey", repr(held))

    def test_misfits(self) -> None:
        """A key without its certificate, or no certificate at all, is refused."""
        good = credentials("device-1")
        chain, root = good.certificate_chain_pem, good.root_pem
        for arguments in (
            (new_key(), chain, root),
            (good.key, b"", root),
            (good.key, root, root),
            (good.key, chain, b"nothing"),
        ):
            self.assertRaises(CredentialsDamaged, Credentials.new, *arguments, ())


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = make_private_dir(Path(self.mktemp()))
        self.store = CredentialStore(self.home)
        self.first = credentials("device-1")
        self.second = credentials("operator")

    def same(self, found: Credentials | None, expected: Credentials) -> None:
        assert found is not None
        self.assertEqual(found.certificate_chain_pem, expected.certificate_chain_pem)
        self.assertEqual(found.root_pem, expected.root_pem)
        self.assertEqual((found.name, found.gateways), (expected.name, expected.gateways))
        self.assertEqual(found.key.public_key(), expected.key.public_key())

    def logged(self) -> list[LogEvent]:
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observer(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        return events

    def test_nothing(self) -> None:
        """A machine which never joined has no credentials, and looking makes no files."""
        self.assertIs(self.store.load(), None)
        self.assertIs(self.store.previous(), None)
        self.store.confirm()
        self.assertEqual(os.listdir(self.home), [])

    def test_two_slots(self) -> None:
        """New credentials count at once; the old ones stay until the new ones connected."""
        self.store.save(self.first)
        self.same(self.store.load(), self.first)
        self.assertIs(self.store.previous(), None)
        self.store.save(self.second)
        self.same(CredentialStore(self.home).load(), self.second)
        self.same(self.store.previous(), self.first)
        self.store.confirm()
        self.assertIs(self.store.previous(), None)
        self.same(self.store.load(), self.second)
        self.assertEqual(len(list(self.home.rglob("key.pem"))), 1)

    def test_private(self) -> None:
        """Directories are 0700 and files 0600; a home open to others is refused."""
        self.store.save(self.first)
        for path in self.home.rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o077, 0)
        (self.home / "identity").chmod(0o755)
        self.assertRaises(UnsafeDirectory, self.store.save, self.second)

    def test_fall_back(self) -> None:
        """Whatever file of the counting slot is damaged, the other slot is used, and logged."""
        for name, content in (
            ("key.pem", b"rubbish"),
            ("chain.pem", b""),
            ("root.pem", b"\xff\x00"),
            ("gateways.json", b"{"),
            ("key.pem", None),
        ):
            self.home = make_private_dir(Path(self.mktemp()))
            self.store = CredentialStore(self.home)
            self.store.save(self.first)
            self.store.save(self.second)
            self.damage("b", name, content)
            events = self.logged()
            self.same(self.store.load(), self.first)
            self.assertIn("using the other slot", str(events[0]["log_format"]))
            # and the next ones go over the damaged slot, not over the good one
            self.store.save(self.second)
            self.same(self.store.load(), self.second)
            self.same(self.store.previous(), self.first)

    def damage(self, slot: str, name: str, content: bytes | None) -> None:
        path = self.home / "identity" / slot / name
        if content is None:
            os.unlink(path)
        else:
            path.write_bytes(content)

    def test_nothing_usable(self) -> None:
        """With both slots damaged it says so, instead of looking like a new machine."""
        self.store.save(self.first)
        self.damage("a", "key.pem", b"rubbish")
        error = self.assertRaises(CredentialsDamaged, self.store.load)
        self.assertNotIn("rubbish", str(error))
        self.store.save(self.second)
        self.same(self.store.load(), self.second)

    def test_power_cut_while_saving(self) -> None:
        """Files in the other slot without the flip of the pointer change nothing."""
        self.store.save(self.first)
        pointer = self.home / "identity" / "current"
        before = pointer.read_bytes()
        self.store.save(self.second)
        pointer.write_bytes(before)
        self.same(self.store.load(), self.first)

    def test_power_cut_in_the_first_save(self) -> None:
        """A complete first slot without a pointer counts; a half-written one does not."""
        self.store.save(self.first)
        os.unlink(self.home / "identity" / "current")
        self.same(self.store.load(), self.first)
        self.damage("a", "gateways.json", None)
        self.assertIs(self.store.load(), None)

    def test_pending_key(self) -> None:
        """The key of a join is the same until credentials are saved, then there is a new one."""
        first = self.store.pending_key()
        again = CredentialStore(self.home).pending_key()
        self.assertEqual(again.public_key(), first.public_key())
        self.store.save(self.first)
        renewal = self.store.pending_key()
        self.assertNotEqual(renewal.public_key(), first.public_key())

    def test_pending_key_in_use(self) -> None:
        """A pending key which was saved before a power cut is not taken for a renewal."""
        path = self.home / "identity" / "pending.key"
        self.store.save(self.first)
        path.write_bytes((self.home / "identity" / "a" / "key.pem").read_bytes())
        path.chmod(0o600)
        key = self.store.pending_key()
        self.assertNotEqual(spki_hash(key.public_key()), spki_hash(self.first.key.public_key()))
        self.assertEqual(self.store.pending_key().public_key(), key.public_key())

    def test_pending_key_damaged(self) -> None:
        """A damaged pending key is replaced."""
        self.store.pending_key()
        (self.home / "identity" / "pending.key").write_bytes(b"rubbish")
        self.assertEqual(
            self.store.pending_key().public_key(), self.store.pending_key().public_key()
        )


class ClockFloorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = make_private_dir(Path(self.mktemp()))
        self.wall = Clock()
        self.monotonic = Clock()

    def clock(self, home: Path | None = None) -> ClockFloor:
        return ClockFloor(home, BUILT, self.wall.seconds, self.monotonic.seconds)

    def set_wall(self, moment: datetime) -> None:
        self.wall.rightNow = moment.timestamp()

    def test_untrusted(self) -> None:
        """A clock before the build time is wrong for certain; the floor stands in for it."""
        clock = self.clock()
        self.assertFalse(clock.trusted)
        self.assertEqual(clock.effective_now(), BUILT)
        self.set_wall(BUILT)
        self.assertTrue(clock.trusted)
        self.set_wall(BUILT + timedelta(days=3))
        self.assertEqual(clock.effective_now(), BUILT + timedelta(days=3))

    def test_certificate(self) -> None:
        """The begin of our certificate raises the floor and never lowers it."""
        clock = self.clock()
        clock.at_least(BUILT + timedelta(days=5))
        clock.at_least(BUILT - timedelta(days=5))
        self.assertEqual(clock.floor, BUILT + timedelta(days=5))

    def test_learn(self) -> None:
        """What a gateway tells raises the floor; an earlier time does not lower it."""
        clock = self.clock()
        clock.learn(BUILT + timedelta(days=9))
        clock.learn(BUILT + timedelta(days=2))
        self.assertEqual(clock.floor, BUILT + timedelta(days=9))
        self.assertFalse(clock.trusted)

    def test_absurd_server(self) -> None:
        """A gateway with a clock past its own certificate's end cannot lock us out."""
        clock = self.clock(self.home)
        clock.learn(BUILT + timedelta(days=30000), not_after=BUILT + timedelta(days=365))
        self.assertEqual(clock.floor, BUILT)
        self.assertEqual(os.listdir(self.home), [])

    def test_logical(self) -> None:
        """After a gateway told the time, it runs on whatever the system clock does."""
        clock = self.clock()
        self.assertEqual(clock.logical_now(), BUILT)
        clock.learn(BUILT + timedelta(days=1))
        self.monotonic.advance(90)
        self.set_wall(BUILT + timedelta(days=4000))
        self.assertEqual(clock.logical_now(), BUILT + timedelta(days=1, seconds=90))

    def test_kept(self) -> None:
        """The last known time survives a restart."""
        self.clock(self.home).learn(BUILT + timedelta(days=7))
        self.assertEqual(self.clock(self.home).floor, BUILT + timedelta(days=7))

    def test_saved_hourly(self) -> None:
        """Storing happens at most once an hour, and at shutdown."""
        path = self.home / "clock"
        clock = self.clock(self.home)
        clock.learn(BUILT + timedelta(hours=1))
        stored = path.read_bytes()
        self.monotonic.advance(3599)
        clock.learn(BUILT + timedelta(hours=2))
        self.assertEqual(path.read_bytes(), stored)
        self.monotonic.advance(1)
        clock.learn(BUILT + timedelta(hours=3))
        self.assertEqual(self.clock(self.home).floor, BUILT + timedelta(hours=3))
        self.monotonic.advance(60)
        clock.save()
        self.assertEqual(self.clock(self.home).floor, BUILT + timedelta(hours=3, seconds=60))

    def test_only_forward(self) -> None:
        """A later run which learns an earlier time does not set the stored one back."""
        self.clock(self.home).learn(BUILT + timedelta(days=7))
        clock = self.clock(self.home)
        clock.learn(BUILT + timedelta(days=1))
        clock.save()
        self.assertEqual(self.clock(self.home).floor, BUILT + timedelta(days=7))

    def test_not_rewritten(self) -> None:
        """Storing what is stored already spares the flash."""
        clock = self.clock(self.home)
        clock.learn(BUILT + timedelta(days=7))
        inode = (self.home / "clock").stat().st_ino
        clock.save()
        self.assertEqual((self.home / "clock").stat().st_ino, inode)

    def test_never_told(self) -> None:
        """The system's own clock is never stored: it may be decades ahead."""
        self.set_wall(BUILT + timedelta(days=30000))
        self.clock(self.home).save()
        self.assertEqual(os.listdir(self.home), [])

    def test_damaged(self) -> None:
        """A damaged file counts as none."""
        for content in (b"", b"soon", b"9" * 40, b"\xff"):
            (self.home / "clock").write_bytes(content)
            self.assertEqual(self.clock(self.home).floor, BUILT)

    def test_unwritable(self) -> None:
        """A time which cannot be stored is still known."""
        clock = self.clock(self.home / "gone")
        clock.learn(BUILT + timedelta(days=1))
        self.assertEqual(clock.floor, BUILT + timedelta(days=1))
