"""Where the store's work runs.  The store itself decides only what runs, and in what order.

``PooledThreads`` is for the gateway, ``InlineThreads`` for unit tests and small tools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.threadpool import ThreadPool

__all__ = ["InlineThreads", "PooledThreads", "Threads"]

Call = Callable[[], None]

# One for look-ups while the other lists or checks the audit; more only contend for the
# interpreter's lock (measured: a look-up costs 0.24 ms with one, 0.5 ms with four).
DEFAULT_READERS = 2


class Threads(Protocol):
    """How the store gets off the reactor's thread and back onto it."""

    @property
    def readers(self) -> int:
        """How many reads may run at once."""

    def start(self) -> None:
        """Make ready; called once, after the database could be opened."""

    def in_writer(self, work: Call) -> None:
        """Run *work*, which never raises, after all earlier ones."""

    def in_reader(self, work: Call) -> None:
        """Run *work*, which never raises, at any time in any thread."""

    def in_reactor(self, call: Call) -> None:
        """Called from a worker: run *call* in the thread the store was called in."""

    def later(self, seconds: float, call: Call) -> Call:
        """Run *call* in the thread the store was called in, in a while or sooner.

        Returns:
            What cancels it, or has no effect any more.
        """

    def stop(self) -> None:
        """End the threads; called in the reactor's thread once nothing is under way."""


class InlineThreads:
    """Run everything at once in the caller's thread."""

    readers = 1

    def start(self) -> None:
        """Nothing to start."""

    def in_writer(self, work: Call) -> None:
        """Run it now."""
        work()

    def in_reader(self, work: Call) -> None:
        """Run it now."""
        work()

    def in_reactor(self, call: Call) -> None:
        """Run it now."""
        call()

    def later(self, seconds: float, call: Call) -> Call:
        """Run it now."""
        call()
        return _nothing

    def stop(self) -> None:
        """Nothing to stop."""


class PooledThreads:
    """One writer thread and a few readers.

    Args:
        call_from_thread: the reactor's ``callFromThread``.
        call_later: its ``callLater``; without it nothing is put off.
        readers: how many threads read.
        name: of the pools, for those who look at threads.
    """

    def __init__(
        self,
        call_from_thread: Callable[[Call], object],
        readers: int = DEFAULT_READERS,
        name: str = "rshell-store",
        *,
        call_later: Callable[[float, Call], IDelayedCall] | None = None,
    ) -> None:
        self.readers = readers
        self._call_from_thread = call_from_thread
        self._call_later = call_later
        self._writer = ThreadPool(1, 1, f"{name}-writer")
        self._reader = ThreadPool(1, readers, f"{name}-reader")

    def start(self) -> None:
        """Start both pools."""
        self._writer.start()
        self._reader.start()

    def in_writer(self, work: Call) -> None:
        """Queue *work* for the writer."""
        self._writer.callInThread(work)

    def in_reader(self, work: Call) -> None:
        """Queue *work* for any reader."""
        self._reader.callInThread(work)

    def in_reactor(self, call: Call) -> None:
        """Hand *call* to the reactor."""
        self._call_from_thread(call)

    def later(self, seconds: float, call: Call) -> Call:
        """Set a timer."""
        if self._call_later is None:
            call()
            return _nothing
        timer = self._call_later(seconds, call)

        def cancel() -> None:
            if timer.active():
                timer.cancel()

        return cancel

    def stop(self) -> None:
        """Join all threads; immediate, since they are idle by then."""
        self._writer.stop()
        self._reader.stop()


def _nothing() -> None:
    pass
