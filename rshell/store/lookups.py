"""Who registered a key: what is asked while one answer is under way shares the next.

Each read costs a change of threads both ways, and a transaction; with a fleet that returns, more
than the query itself.  At rest a key is looked up at once: no timer, no delay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rshell.store.errors import StoreError, StoreUnavailable
from rshell.store.records import DeviceKey

__all__ = ["MAX_KEYS", "MAX_WAITING", "KeyLookups"]

#: Of one read: bounds how long the first waits for the last, to a few milliseconds.
MAX_KEYS = 64
#: Far more than links may wait for their HELLO; beyond it the readers have stopped.
MAX_WAITING = 50_000

Found = Sequence[DeviceKey | None]


class KeyLookups:
    """Gathers look-ups of devices by their keys.

    Args:
        read: Looks several up in one read, in order.
    """

    def __init__(self, read: Callable[[Sequence[bytes]], Deferred[Found]]) -> None:
        self._read = read
        self._waiting: list[tuple[bytes, Deferred[DeviceKey | None]]] = []
        self._reading = False
        #: Whether `_next` is at it: a read that is refused at once is answered within it.
        self._beginning = False

    def find(self, spki: bytes) -> Deferred[DeviceKey | None]:
        """Return who registered a key, by a read that begins after this call."""
        done: Deferred[DeviceKey | None] = Deferred()
        if len(self._waiting) >= MAX_WAITING:
            done.errback(StoreUnavailable("the store cannot keep up: try again later"))
            return done
        self._waiting.append((spki, done))
        self._next()
        return done

    def _next(self) -> None:
        if self._beginning:
            return
        self._beginning = True
        # A loop: a store that is closed or full refuses each of hundreds of reads at once.
        while self._waiting and not self._reading:
            self._begin()
        self._beginning = False

    def _begin(self) -> None:
        self._reading = True
        batch, self._waiting = self._waiting[:MAX_KEYS], self._waiting[MAX_KEYS:]
        reading = self._read([spki for spki, _ in batch])
        waiters = [done for _, done in batch]
        reading.addCallbacks(
            lambda found: self._answer(waiters, found),
            lambda failure: self._fail(waiters, failure),
        )

    def _answer(self, waiters: list[Deferred[DeviceKey | None]], found: Found) -> None:
        self._reading = False
        # The next read begins before callbacks run: they may take their time.
        self._next()
        for done, one in zip(waiters, found, strict=True):
            done.callback(one)

    def _fail(self, waiters: list[Deferred[DeviceKey | None]], failure: Failure) -> None:
        self._reading = False
        self._next()
        error = failure.value
        for done in waiters:
            # One exception raised in many coroutines would collect their tracebacks.
            fresh = type(error)(*error.args) if isinstance(error, StoreError) else error
            done.errback(fresh)
