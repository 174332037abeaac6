"""The keeper's loop and its socket, simulated: real pipes to processes, memory to the agent."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from rshell.testing.clocks import ProcessClock
from rshell.testing.wires import WireEnd
from rshell_agent.keeper import loop as loops

__all__ = ["KeeperListener", "KeeperSocket", "SimulatedLoop"]

#: Numbers of simulated sockets begin here, far above any real descriptor.
_FIRST_NUMBER = 1 << 40


class KeeperSocket:
    """The keeper's end of a wire, with the few methods of a socket that the keeper uses.

    Attributes:
        transport: The wire's end below it.
    """

    def __init__(self, number: int) -> None:
        self.transport: WireEnd | None = None
        self._number = number
        self._arrived: deque[bytes] = deque()
        self._ended = False

    # -- as the wire sees it, a protocol ---------------------------------------------------------

    def makeConnection(self, transport: WireEnd) -> None:
        """The wire is up."""
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        """Keep what arrives until the keeper reads it."""
        self._arrived.append(data)

    def connectionLost(self, reason: object) -> None:
        """The agent is gone: the keeper reads the end."""
        self._ended = True

    # -- as the keeper sees it, a socket ---------------------------------------------------------

    def ready(self, events: int) -> bool:
        """Return whether the keeper's loop would call."""
        readable = bool(self._arrived) or self._ended
        writable = self.transport is not None and self.transport.under_way < _SOCKET_BYTES
        return bool((events & loops.READ and readable) or (events & loops.WRITE and writable))

    def fileno(self) -> int:
        """Return the number by which the loop knows it."""
        return self._number

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Return SO_PEERCRED: our own user."""
        return struct.pack("3i", os.getpid(), os.geteuid(), os.getegid())

    def recv(self, size: int) -> bytes:
        """Return what arrived; b"" at the end."""
        if not self._arrived:
            if self._ended:
                return b""
            raise BlockingIOError
        data = self._arrived.popleft()
        if len(data) > size:
            self._arrived.appendleft(data[size:])
            data = data[:size]
        return data

    def sendmsg(self, buffers: list[bytes]) -> int:
        """Send as much as there is room for."""
        transport = self.transport
        if self._ended or transport is None:
            raise BrokenPipeError
        room = _SOCKET_BYTES - transport.under_way
        if room <= 0:
            raise BlockingIOError
        data = b"".join(buffers)[:room]
        transport.write(data)
        return len(data)

    def close(self) -> None:
        """Close; what was sent still arrives."""
        if self.transport is not None:
            self.transport.loseConnection()
        self._arrived.clear()


#: What a unix socket holds.
_SOCKET_BYTES = 64 * 1024


class KeeperListener:
    """The keeper's listening socket."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._number = loop.new_number()
        self._waiting: deque[KeeperSocket] = deque()
        loop.simulated[self._number] = self

    def offer(self) -> KeeperSocket:
        """Return the keeper's end of a new connection, which waits to be accepted."""
        sock = KeeperSocket(self._loop.new_number())
        self._loop.simulated[sock.fileno()] = sock
        self._waiting.append(sock)
        return sock

    def ready(self, events: int) -> bool:
        """Return whether somebody waits."""
        return bool(self._waiting)

    def fileno(self) -> int:
        """Return the number by which the loop knows it."""
        return self._number

    def accept(self) -> tuple[KeeperSocket, None]:
        """Return who waits longest."""
        if not self._waiting:
            raise BlockingIOError
        return self._waiting.popleft(), None

    def as_socket(self) -> socket.socket:
        """Return itself, as the keeper's server wants it typed."""
        found: Any = self
        result: socket.socket = found
        return result


class _Timer(loops.Timer):
    """A call to come that leaves nothing behind when it is cancelled."""

    due: Any

    def cancel(self) -> None:
        super().cancel()
        if self.due.active():
            self.due.cancel()


class SimulatedLoop(loops.Loop):
    """The keeper's loop on the fleet's clock; `turn` calls back whatever is ready now.

    Args:
        process: The keeper's time.
        report: Takes faults.

    Attributes:
        simulated: Sockets that are no descriptors, by number.
    """

    def __init__(self, process: ProcessClock, report: Callable[[str], None]) -> None:
        # not super().__init__: no epoll, no system clock
        self.running = True
        self.now = process.seconds
        self.simulated: dict[int, Any] = {}
        self._process = process
        self._report = report
        self._watching: dict[int, tuple[int, Callable[[], None]]] = {}
        self._poll = select.poll()
        self._numbers = itertools.count(_FIRST_NUMBER)

    def new_number(self) -> int:
        """Return a number for a simulated socket."""
        return next(self._numbers)

    def watch(self, fd: int, call: Callable[[], None], events: int) -> None:
        before = self._watching.get(fd)
        if not events:
            if before is not None:
                del self._watching[fd]
                if fd < _FIRST_NUMBER:
                    self._poll.unregister(fd)
            return
        self._watching[fd] = (events, call)
        if fd < _FIRST_NUMBER and (before is None or before[0] != events):
            self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        self.watch(fd, self.stop, 0)
        self.simulated.pop(fd, None)

    def after(self, seconds: float, call: Callable[[], None]) -> loops.Timer:
        timer = _Timer(self.now() + seconds, 0, call)
        timer.due = self._process.callLater(max(0.0, seconds), self._guarded, timer.fire)
        return timer

    def run(self) -> None:
        """The fleet turns it instead."""

    def turn(self, longest: float | None = None) -> bool:
        """Call back once for everything that is ready; return whether anything was."""
        if not self.running or self._process.dead or self._process.asleep:
            return False
        real = {fd for fd, _ in self._poll.poll(0)}
        ready = [
            fd
            for fd, (events, _) in self._watching.items()
            if (fd in real if fd < _FIRST_NUMBER else self.simulated[fd].ready(events))
        ]
        for fd in ready:
            found = self._watching.get(fd)
            if found is not None and not self._guarded(found[1]):
                self.unwatch(fd)
        return bool(ready)
