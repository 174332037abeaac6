"""Quarantine, link generations, last proofs of life, and the migration that brought them."""

from __future__ import annotations

import sqlite3

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from twisted.trial.unittest import SynchronousTestCase

from rshell.store.database import _MIGRATIONS
from rshell.store.devices import Heard, Seen
from rshell.store.errors import NotFound
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from tests.store.fixture import StoreTestCase


class Quarantine(StoreTestCase):
    def test_there_and_back(self) -> None:
        """A device is quarantined, with reason and time, until it is released."""
        self.enrol("pump")
        device = self.got(self.store.quarantine("pump", "two of it"))
        self.assertEqual((device.quarantined_at, device.quarantine_reason), (self.now, "two of it"))
        self.assertTrue(device.active)
        released = self.got(self.store.release("pump"))
        self.assertEqual((released.quarantined_at, released.quarantine_reason), (None, None))

    def test_first_reason_stays(self) -> None:
        """A second quarantine changes neither time nor reason."""
        self.enrol("pump")
        first = self.got(self.store.quarantine("pump", "one"))
        self.now += 5
        self.assertEqual(self.got(self.store.quarantine("pump", "two")), first)

    def test_release_forgets_the_generation(self) -> None:
        """After a release any generation is the first."""
        device = self.enrol("pump")
        self.got(self.store.record_seen(device.id, 1, Seen(link_generation=9)))
        self.assertEqual(self.got(self.store.release("pump")).link_generation, 0)

    def test_nobody(self) -> None:
        """Unknown and revoked devices are neither quarantined nor released."""
        self.enrol("pump")
        self.got(self.store.revoke_device("pump"))
        for name in ("pump", "nobody"):
            self.failureResultOf(self.store.quarantine(name, "x"), NotFound)
            self.failureResultOf(self.store.release(name), NotFound)


class Seeing(StoreTestCase):
    def test_generation_never_falls(self) -> None:
        """A lower generation of a newer link does not undo a higher one."""
        device = self.enrol("pump")
        self.got(self.store.record_seen(device.id, 1, Seen(link_generation=6)))
        self.got(self.store.record_seen(device.id, 2, Seen(link_generation=5)))
        found = self.got(self.store.device("pump"))
        assert found is not None
        self.assertEqual((found.epoch, found.link_generation), (2, 6))

    def test_heard_before_it_was_noticed(self) -> None:
        """The time of the last proof of life is the one that is told."""
        device = self.enrol("pump")
        self.got(self.store.record_seen(device.id, 1, Seen(), self.now - 60_000_000))
        found = self.got(self.store.device("pump"))
        assert found is not None
        self.assertEqual(found.last_seen, self.now - 60_000_000)

    def test_many_at_once(self) -> None:
        """Proofs of life of many devices are written at once, each for its own epoch only."""
        first, second = self.enrol("pump", 1), self.enrol("valve", 2)
        for device in (first, second):
            self.got(self.store.record_seen(device.id, 3, Seen()))
        heard = [Heard(first.id, 3, self.now + 7), Heard(second.id, 2, self.now + 7)]
        self.got(self.store.record_heard(heard))
        seen = {device.name: device.last_seen for device in self.got(self.store.find_devices())}
        self.assertEqual(seen, {"pump": self.now + 7, "valve": self.now})

    def test_count(self) -> None:
        """Only active devices that were heard since then are counted."""
        for number, name in enumerate(("a", "b", "c", "d")):
            device = self.enrol(name, number)
            if name != "d":
                self.got(self.store.record_seen(device.id, 1, Seen(), 100 + number))
        self.assertEqual(self.got(self.store.count_seen_since(101)), 2)
        self.got(self.store.revoke_device("c"))
        self.assertEqual(self.got(self.store.count_seen_since(101)), 1)
        self.assertEqual(self.store.writes_waiting, 0)


class Migrating(SynchronousTestCase):
    def test_told_becomes_presented(self) -> None:
        """A database of the first schema keeps its devices, which raise no alert when they come."""
        path = self.mktemp()
        engine = create_engine(f"sqlite:///{path}")
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.set_main_option("path_separator", "os")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
        engine.dispose()
        database = sqlite3.connect(path)
        row = "INSERT INTO devices (id, name, name_provisional, status, created_at, epoch, dial, "
        row += "link_generation, facts) VALUES (?, ?, 0, 'active', 1, 7, 1, ?, '{}')"
        database.executemany(row, [("i1", "never", 0), ("i2", "told", 4)])
        database.commit()
        database.close()
        store = Store.open(path, InlineThreads())
        self.addCleanup(store.close)
        found = self.successResultOf(store.find_devices())
        self.assertEqual(
            [(device.name, device.link_generation, device.quarantined_at) for device in found],
            [("never", 0, None), ("told", 3, None)],
        )
