"""Our standard streams, without ever touching their flags.

A terminal or pipe is shared with the shell that started us: ``O_NONBLOCK`` set here would stay
set there, and regular files cannot be polled by epoll at all.  So each stream has a thread that
blocks in read(2) or write(2), with a bounded hand-over to the reactor; that is one path for
terminals, pipes, sockets and files.  The threads are daemons: one that blocks for ever does not
keep the process.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rshell.client.errors import RshellError

__all__ = ["ByteSink", "ByteSource", "CannotWrite", "say"]

#: A sink that holds more than this is full: whoever feeds it must stop.
HIGH_BYTES = 64 * 1024
#: One write(2): large enough for throughput, small enough to notice a closed pipe soon.
WRITE_BYTES = 64 * 1024
READ_BYTES = 64 * 1024


class CannotWrite(RshellError):
    """A standard stream takes no more: a full disk, a terminal that is gone; ``cannot-write``.

    Not for a pipe that nobody reads any more: that ends us quietly, as SIGPIPE would.

    Args:
        number: The errno.
        stderr: Which stream.
    """

    def __init__(self, number: int, stderr: bool = False) -> None:
        name = "error" if stderr else "output"
        text = f"cannot write standard {name}: {os.strerror(number)}"
        super().__init__("cannot-write", text, "")


def say(text: str) -> None:
    """Write a verb's own short answer to standard output, at once.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        CannotWrite: It takes no more for another reason.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(error.errno or errno.EIO) from None


class ByteSink:
    """Writes to a file descriptor in a thread, in order.

    Args:
        reactor: For calls back into its thread.
        descriptor: Where to write; it stays open.
        changed: Called, in the reactor's thread, when `full` or `error` changed.

    Attributes:
        full: Whether to feed no more now.
        error: The errno that ended it, ``EPIPE`` if nobody reads any more; None while it lasts.
    """

    def __init__(self, reactor: Any, descriptor: int, changed: Callable[[], None]) -> None:
        self.full = False
        self.error: int | None = None
        self._reactor = reactor
        self._descriptor = descriptor
        self._changed = changed
        self._lock = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._pending = 0
        self._thread: threading.Thread | None = None
        self._drained: list[Deferred[None]] = []

    @property
    def broken(self) -> bool:
        """Whether it takes no more, for whatever reason; what is written is dropped."""
        return self.error is not None

    def write(self, data: bytes) -> None:
        """Write bytes later; look at `full` afterwards."""
        if not data or self.broken:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rshell-write", daemon=True)
            self._thread.start()
        with self._lock:
            self._queue.append(data)
            self._pending += len(data)
            self._lock.notify()
        if self._pending > HIGH_BYTES and not self.full:
            self.full = True
            self._changed()

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires when all was written, or the sink broke."""
        waiting: Deferred[None] = Deferred()
        if self._pending == 0 or self.broken:
            waiting.callback(None)
        else:
            self._drained.append(waiting)
        return waiting

    def _run(self) -> None:
        """The thread: take what is queued, write it, tell."""
        while True:
            with self._lock:
                while not self._queue:
                    self._lock.wait()
                data = self._take()
            error = self._write_all(data)
            self._reactor.callFromThread(self._written, len(data), error)
            if error is not None:
                return

    def _take(self) -> bytes:
        """Join small writes; a larger one goes alone."""
        taken = [self._queue.popleft()]
        size = len(taken[0])
        while self._queue and size + len(self._queue[0]) <= WRITE_BYTES:
            taken.append(self._queue.popleft())
            size += len(taken[-1])
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _write_all(self, data: bytes) -> int | None:
        """Write all of it; return the errno of what prevented that."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view[:WRITE_BYTES]) :]
            except BlockingIOError:
                # Somebody else made it non-blocking.
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll()
            except OSError as error:
                return error.errno or errno.EIO
        return None

    def _written(self, size: int, error: int | None) -> None:
        with self._lock:
            self._pending -= size
            if error is not None:
                self._queue.clear()
                self._pending = 0
        was = (self.full, self.broken)
        self.error = self.error or error
        self.full = not self.broken and self._pending > HIGH_BYTES
        if self._pending == 0:
            waiting, self._drained = self._drained, []
            for deferred in waiting:
                deferred.callback(None)
        if was != (self.full, self.broken):
            self._changed()


@implementer(IPushProducer)
class ByteSource:
    """Reads a file descriptor in a thread; a push producer with at most one chunk on its way.

    Args:
        reactor: For calls into its thread.
        descriptor: What to read; it stays open.
        received: Takes each chunk, in the reactor's thread; ``b""`` is the end, said once.
    """

    def __init__(self, reactor: Any, descriptor: int, received: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received
        self._go = threading.Semaphore(0)
        self._paused = False
        self._owed = False
        self._stopped = False
        self._started = False

    def start(self) -> None:
        """Begin to read; nothing is read before."""
        if not self._started and not self._stopped:
            self._started = True
            threading.Thread(target=self._run, name="rshell-read", daemon=True).start()
            self._next()

    def _next(self) -> None:
        if self._paused:
            self._owed = True
        else:
            self._go.release()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._owed:
            self._owed = False
            self._go.release()

    def stopProducing(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        """The thread: read one chunk each time it is asked to."""
        while True:
            self._go.acquire()
            if self._stopped:
                return
            data = self._read()
            self._reactor.callFromThread(self._arrived, data)
            if not data:
                return

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._descriptor, select.POLLIN)
                poller.poll()
            except OSError:
                return b""  # a terminal that hung up, a descriptor that is closed

    def _arrived(self, data: bytes) -> None:
        if self._stopped:
            return
        if not data:
            self._stopped = True
        self._received(data)
        if data:
            self._next()
