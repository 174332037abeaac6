"""What the store's tests share: a clock to turn, threads to hold, keys to name."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, event
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.store.records import Device, NewToken, TokenGrant
from rshell.store.store import Store
from rshell.store.threads import InlineThreads, Threads
from rshell.store.times import MINUTE

T = TypeVar("T")

START = 1_800_000_000_000_000  # some day in 2027
HASH = hashlib.sha256(b"the secret").digest()


def spki(name: str) -> bytes:
    """Return a key's hash that is the same for the same name."""
    return hashlib.sha256(name.encode()).digest()


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the statements that stores execute."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        found.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


class HeldThreads(InlineThreads):
    """Inline threads whose writer waits until ``release``."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.stopped = False

    def in_writer(self, work: Callable[[], None]) -> None:
        self.held.append(work)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        timer = (seconds, call)
        self.timers.append(timer)

        def cancel() -> None:
            if timer in self.timers:
                self.timers.remove(timer)

        return cancel

    def release(self) -> None:
        """Run the batch that was handed over first."""
        self.held.pop(0)()

    def stop(self) -> None:
        self.stopped = True


class Loop:
    """Stands for the reactor: runs what threads hand over, in the test's thread."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def call_from_thread(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def run_until(self, deferred: Deferred[Any]) -> None:
        """Run calls until *deferred* fired; raises ``queue.Empty`` after 30 s of nothing."""
        while not deferred.called:
            self._calls.get(timeout=30)()


class StoreTestCase(SynchronousTestCase):
    """A store in a fresh file, inline, with ``self.now`` for its clock."""

    def setUp(self) -> None:
        self.now = START
        self.path = Path(self.mktemp())
        self.store = self.open()

    def open(self, threads: Threads | None = None) -> Store:
        store = Store.open(self.path, threads or InlineThreads(), lambda: self.now)
        self.addCleanup(store.close)
        return store

    def reopen(self) -> None:
        """Close the store and open its file again."""
        self.successResultOf(self.store.close())
        self.store = self.open()

    def got(self, deferred: Deferred[T]) -> T:
        """Return what *deferred* fired with."""
        result: T = self.successResultOf(deferred)
        return result

    def invite(self, number: int = 1, **changes: Any) -> NewToken:
        """Keep an invite for one device and return it."""
        values: dict[str, Any] = {
            "id": number.to_bytes(8, "big"),
            "secret_hash": HASH,
            "kind": "device",
            "expires_at": self.now + 60 * MINUTE,
            "created_by": "admin",
            **changes,
        }
        token = NewToken(**values)
        self.got(self.store.add_token(token))
        return token

    def use(self, token: NewToken, key: str) -> TokenGrant:
        """Use an invite that holds."""
        grant = self.got(self.store.use_token(token.id, HASH, spki(key), token.kind))
        assert isinstance(grant, TokenGrant), grant
        return grant

    def enrol(self, proposed: str = "pump", number: int = 1, **changes: Any) -> Device:
        """Enrol a device whose key is named after the invite's number."""
        grant = self.use(self.invite(number, **changes), f"key-{number}")
        return self.got(self.store.enrol_device(grant, proposed))
