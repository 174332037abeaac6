"""Opening the database: engines, pragmas, migrations, and errors in plain words.

SQLite in WAL mode, so that readers never wait for the writer.  ``synchronous=FULL`` for
every commit, not only for audit rows: in WAL mode it costs one fsync per commit, group
commit shares that among all that wait, and the audit row of a command, the consumed
invite and the start counter must all survive a power cut once they were acknowledged.
``NORMAL`` would lose the last commits and with them the promise.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from rshell.store.errors import StoreError, StoreUnavailable

__all__ = ["explain", "migrate", "open_reader", "open_writer", "sqlite_path"]

# Another process (a backup, sqlite3 at a prompt) may hold the lock; longer than any of
# those should, shorter than an operator's patience.
BUSY_TIMEOUT_MS = 5_000

_MIGRATIONS = Path(__file__).parent / "migrations"

# SQLite's primary result names -> what to tell the operator.
_PLAIN = {
    "SQLITE_READONLY": "is not writable",
    "SQLITE_CANTOPEN": "cannot be opened or created",
    "SQLITE_PERM": "may not be accessed",
    "SQLITE_AUTH": "may not be accessed",
    "SQLITE_NOTADB": "is not an rshell database, or is damaged",
    "SQLITE_CORRUPT": "is damaged: restore it from a backup",
    "SQLITE_FULL": "cannot grow: the disk is full",
    "SQLITE_IOERR": "cannot be read or written: input/output error",
    "SQLITE_BUSY": "is locked by another process",
    "SQLITE_LOCKED": "is locked by another process",
}


def sqlite_path(location: str | Path) -> Path:
    """Return the file meant by a path or a ``sqlite:///`` URL.

    Raises:
        StoreError: a URL of another database, or one without a file.
    """
    if isinstance(location, Path) or "://" not in location:
        return Path(location)
    try:
        url = make_url(location)
    except ArgumentError:
        raise StoreError("the store's URL cannot be understood") from None
    if url.get_backend_name() != "sqlite":
        # never echo the URL: it may hold a password
        raise StoreError(f"the store cannot use {url.get_backend_name()} yet, only sqlite")
    if not url.database or url.database == ":memory:":
        raise StoreError("the store needs a file, not a database in memory")
    return Path(url.database)


def open_writer(path: Path) -> Engine:
    """Return the engine of the one writer; creates the file, mode 0600.

    Raises:
        StoreUnavailable: the file cannot be created or is not private enough to create.
    """
    try:
        # SQLite gives the -wal and -shm files the mode of the main one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from None
    return _engine(path, begin="BEGIN IMMEDIATE", connections=1, pragmas=("journal_mode=WAL",))


def open_reader(path: Path, connections: int) -> Engine:
    """Return the engine of the readers, which cannot write."""
    return _engine(path, begin="BEGIN", connections=connections, pragmas=("query_only=ON",))


def _engine(path: Path, *, begin: str, connections: int, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        # the pool hands one connection to one thread at a time
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )
    wanted = ("synchronous=FULL", "foreign_keys=ON", *pragmas)

    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        # Python's own transaction handling neither begins before SELECT nor lets
        # savepoints and DDL be transactional; ours begins explicitly, below.
        connection.isolation_level = None
        for pragma in wanted:
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to this version's, in one transaction.

    Raises:
        StoreError: a newer rshell wrote this database.
    """
    # a third of a second of imports that only a starting gateway needs
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    # '%' would be interpolation to configparser
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    known = {step.revision for step in script.walk_revisions()}
    with engine.begin() as connection:
        present = set(MigrationContext.configure(connection).get_current_heads())
        if unknown := present - known:
            raise StoreError(
                f"the database was written by a newer rshell (schema {min(unknown)}, "
                f"this one knows up to {max(known)}): upgrade rshell"
            )
        if present != set(script.get_heads()):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def explain(error: BaseException, path: Path) -> StoreError:
    """Turn whatever a database call raised into one line that names file and cause."""
    if isinstance(error, StoreError):
        return error
    # A full disk may end the transaction under a savepoint; the first cause is then
    # found behind the complaint about the savepoint.
    cause: BaseException | None = error
    while cause is not None:
        name = _result_name(cause)
        for known, words in _PLAIN.items():
            if name.startswith(known):
                return StoreUnavailable(f"{path} {words}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, DatabaseError):
        return StoreError(f"{path} refused it: {error.orig}")
    if isinstance(error, SQLAlchemyError):
        # str() of these may show parameters, which can be secrets
        return StoreError(f"{path}: {type(error).__name__}")
    return StoreError(f"{type(error).__name__}: {error}")


def _result_name(error: BaseException) -> str:
    original = error.orig if isinstance(error, DatabaseError) else error
    return str(getattr(original, "sqlite_errorname", ""))
