"""Opening, migrating and refusing databases."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from twisted.trial.unittest import SynchronousTestCase

from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.schema import metadata
from rshell.store.store import Store
from rshell.store.threads import InlineThreads
from tests.store.fixture import StoreTestCase


class Opening(StoreTestCase):
    def test_new_file_is_private(self) -> None:
        """The database and its side files can be read by their owner only."""
        self.got(self.store.next_start())
        for path in self.path.parent.glob(self.path.name + "*"):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_migrations_make_the_schema(self) -> None:
        """The migrations and the tables in schema.py describe the same database."""
        engine = create_engine(f"sqlite:///{self.path}")
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            self.assertEqual(compare_metadata(context, metadata), [])

    def test_schema_is_portable(self) -> None:
        """Every table and index can be written for PostgreSQL."""
        dialect = postgresql.dialect()
        for table in metadata.sorted_tables:
            self.assertIn("CREATE TABLE", str(CreateTable(table).compile(dialect=dialect)))
            for index in table.indexes:
                str(CreateIndex(index).compile(dialect=dialect))

    def test_reopening_keeps_everything(self) -> None:
        """What was acknowledged is there after closing and opening again."""
        device = self.enrol("pump-1", labels={"site": "berlin"})
        self.got(self.store.set_fleet("f1"))
        self.reopen()
        self.assertEqual(self.got(self.store.device("pump-1")), device)
        self.assertEqual(self.got(self.store.fleet()), "f1")

    def test_url(self) -> None:
        """A sqlite URL names the same file as a path."""
        self.got(self.store.set_fleet("f1"))
        again = Store.open(f"sqlite:///{self.path.absolute()}", InlineThreads())
        self.addCleanup(again.close)
        self.assertEqual(self.got(again.fleet()), "f1")

    def test_percent_in_path(self) -> None:
        """A path with characters special to URLs and configuration files works."""
        self.path = Path(self.mktemp() + "%20?x=1#y")
        store = self.open()
        self.got(store.set_fleet("f1"))
        self.assertTrue(self.path.exists())

    def test_writes_are_synced(self) -> None:
        """The writer's connection is in WAL mode and syncs every commit."""
        pragmas = self.got(
            self.store._writer.write(
                lambda connection: [
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys")
                ]
            )
        )
        self.assertEqual(pragmas, ["wal", 2, 1])

    def test_readers_cannot_write(self) -> None:
        """A write that strays into a reader is refused by the database."""
        deferred = self.store._read(
            lambda connection: connection.exec_driver_sql("DELETE FROM tokens")
        )
        self.failureResultOf(deferred, StoreError)


class Refusing(SynchronousTestCase):
    def refused(self, location: str | Path) -> str:
        """Return the one line with which *location* is refused."""
        error = self.assertRaises(StoreError, Store.open, location, InlineThreads())
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_newer_schema(self) -> None:
        """A database of a newer rshell is refused, untouched, and the remedy named."""
        path = Path(self.mktemp())
        self.successResultOf(Store.open(path, InlineThreads()).close())
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.close()
        self.assertIn("newer rshell (schema 9999", self.refused(path))
        with sqlite3.connect(path) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchall()
        database.close()
        self.assertEqual(found, [("9999",)])

    def test_not_a_database(self) -> None:
        """A file that is something else is refused and left as it is."""
        path = Path(self.mktemp())
        path.write_bytes(b"[link]\n" * 1000)
        self.assertIn("is not an rshell database", self.refused(path))
        self.assertEqual(path.read_bytes(), b"[link]\n" * 1000)

    def test_damaged(self) -> None:
        """A database whose pages were overwritten is refused."""
        path = Path(self.mktemp())
        self.successResultOf(Store.open(path, InlineThreads()).close())
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 8000)
        self.assertIn("damaged", self.refused(path))

    def test_missing_folder(self) -> None:
        """A folder that does not exist is named."""
        path = Path(self.mktemp()) / "rshell.db"
        self.assertEqual(self.refused(path), f"{path} cannot be opened: No such file or directory")

    def test_read_only_home(self) -> None:
        """A home one may not write to is refused with its path, existing file or not."""
        home = Path(tempfile.mkdtemp(prefix="rshell-test"))
        self.addCleanup(home.rmdir)
        existing = home / "old.db"
        self.successResultOf(Store.open(existing, InlineThreads()).close())
        self.addCleanup(existing.unlink)
        home.chmod(0o555)
        existing.chmod(0o444)
        if os.geteuid() == 0:
            os.seteuid(65534)  # root may write everywhere
            self.addCleanup(os.seteuid, 0)
        for path in (existing, home / "new.db"):
            self.assertEqual(self.refused(path), f"{path} cannot be opened: Permission denied")

    def test_locked(self) -> None:
        """A database another process keeps locked is refused after the busy timeout."""
        path = Path(self.mktemp())
        self.successResultOf(Store.open(path, InlineThreads()).close())
        other = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.patch(__import__("rshell.store.database").store.database, "BUSY_TIMEOUT_MS", 10)
        self.assertIn("is locked by another process", self.refused(path))

    def test_other_databases(self) -> None:
        """Other databases are refused, and the URL, which may hold a password, not shown."""
        for url in ("postgresql://me:hunter2@db/rshell", "sqlite://", "sqlite:///:memory:", "x://"):
            self.assertNotIn("hunter2", self.refused(url))

    def test_failed_open_starts_no_threads(self) -> None:
        """A refused database leaves no threads behind."""

        class Counting(InlineThreads):
            started = 0

            def start(self) -> None:
                self.started += 1

        threads = Counting()
        self.assertRaises(StoreUnavailable, Store.open, Path("/dev/null/x"), threads)
        self.assertEqual(threads.started, 0)
