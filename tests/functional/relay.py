"""A TCP relay that misbehaves on command: it cuts, freezes, delays, and counts its bytes.

It runs in a thread of its own, so that a test can wait for a program while bytes flow.  What it is
not: a network.  Both kernels still acknowledge what the relay has not read; for a path on which
packets vanish see `namespaces`.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from typing import Literal

__all__ = ["DOWN", "UP", "Connection", "Flow", "Relay"]

#: The directions: from whoever dialled to the target, and back.
UP, DOWN = "up", "down"
#: What one direction may hold; delayed bytes wait here.
ROOM = 1 << 20
#: A close with this is a RST: nothing is flushed, nobody lingers.
RESET = struct.pack("ii", 1, 0)

Arrival = Literal["pass", "refuse", "hold"]


class Flow:
    """One direction of a connection."""

    def __init__(self, name: str, source: socket.socket, sink: socket.socket) -> None:
        self.name = name
        self.source = source
        self.sink = sink
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False
        self.closed = False

    def take(self, data: bytes, due: float) -> None:
        """Keep what was read until it is due."""
        self.waiting.append((due, data))
        self.size += len(data)

    def give(self, most: int) -> int:
        """Send at most so many bytes of what waits first; return how many went."""
        due, data = self.waiting.popleft()
        sent = self.sink.send(data[:most])
        if sent < len(data):
            self.waiting.appendleft((due, data[sent:]))
        self.size -= sent
        return sent


class Connection:
    """Two sockets and what flows between them.

    Attributes:
        frozen: Nothing is read or written; both sockets stay open.
        began: When it came, monotonic seconds.
    """

    def __init__(self, near: socket.socket, far: socket.socket | None) -> None:
        self.near = near
        self.far = far
        self.frozen = far is None
        self.began = time.monotonic()
        self.over = False
        self.flows = () if far is None else (Flow(UP, near, far), Flow(DOWN, far, near))

    def reset(self) -> None:
        """End both sides at once."""
        self.over = True
        for end in (self.near, self.far):
            if end is not None:
                try:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                except OSError:
                    pass  # it was gone already
                end.close()

    def finish(self) -> None:
        """End both sides politely, once both have ended."""
        self.over = True
        self.near.close()
        if self.far is not None:
            self.far.close()


class Relay:
    """Takes connections at `address` and passes them on to ``target``.

    Args:
        target: Where to connect to; may be changed at any time.
        host: The address to listen at.

    Attributes:
        delay: Seconds that each byte waits.
        rate: Bytes a second and direction, all connections together; 0 is without limit.
        accepted: How many connections came.
        times: When they came, monotonic seconds.
        passed: Bytes that went through, by direction.
        arrival: What happens to a new connection: it is passed on, refused by a reset, or held
            (accepted and never read).
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self.target = target
        self.delay = 0.0
        self.rate = 0.0
        self.arrival: Arrival = "pass"
        self.times: list[float] = []
        self.passed = {UP: 0, DOWN: 0}
        self._cut_at: dict[str, int] = {}
        self._tokens = {UP: 0.0, DOWN: 0.0}
        self._filled = time.monotonic()
        self._connections: list[Connection] = []
        self._lock = threading.RLock()
        self._ending = False
        self._listener = socket.create_server((host, 0), backlog=128)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._bell, self._rung = socket.socketpair()
        self._rung.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    # -- from the test ---------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The address as ``host:port``."""
        return "{}:{}".format(*self.address)

    @property
    def accepted(self) -> int:
        return len(self.times)

    def open(self) -> int:
        """Return how many connections are up and not frozen."""
        with self._lock:
            return sum(not one.frozen for one in self._connections)

    def total(self) -> int:
        """Return how many bytes went through in both directions."""
        return self.passed[UP] + self.passed[DOWN]

    def cut(self) -> int:
        """Reset every connection; return how many there were."""
        with self._lock:
            count = len(self._connections)
            for connection in self._connections:
                connection.reset()
            self._connections.clear()
        self._ring()
        return count

    def cut_after(self, count: int, direction: str) -> None:
        """Reset every connection when exactly ``count`` more bytes went in a direction."""
        with self._lock:
            self._cut_at[direction] = self.passed[direction] + count
        self._ring()

    def restore(self) -> None:
        """Do what a good relay does; what was cut stays cut."""
        with self._lock:
            self.arrival = "pass"
            self.delay = self.rate = 0.0
            self._cut_at.clear()
        self.thaw()

    def freeze(self) -> int:
        """Leave every connection open and move nothing; new ones pass. Return how many."""
        with self._lock:
            for connection in self._connections:
                connection.frozen = True
            return len(self._connections)

    def thaw(self) -> None:
        """Let frozen connections go on; those that were held are reset."""
        with self._lock:
            for connection in self._connections:
                if connection.far is None:
                    connection.reset()
                connection.frozen = False
        self._ring()

    def black_hole(self) -> None:
        """Freeze every connection, and hold new ones."""
        with self._lock:
            self.arrival = "hold"
            self.freeze()

    def close(self) -> None:
        """End everything."""
        self._ending = True
        self._ring()
        self._thread.join()
        self.cut()
        for end in (self._listener, self._bell, self._rung):
            end.close()

    def _ring(self) -> None:
        try:
            self._bell.send(b".")
        except OSError:
            pass  # full: it will wake; or closed

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            poll = select.poll()
            with self._lock:
                wait = self._register(poll)
            ready = dict(poll.poll(wait * 1000))
            with self._lock:
                self._refill()
                if self._rung.fileno() in ready:
                    self._rung.recv(4096)
                if self._listener.fileno() in ready:
                    self._accept()
                for connection in list(self._connections):
                    self._serve(connection, ready)
                self._connections = [one for one in self._connections if not one.over]

    def _register(self, poll: select.poll) -> float:
        """Say what we wait for; return for how long at most, seconds."""
        poll.register(self._rung, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        now, wait = time.monotonic(), 0.5
        wanted: dict[int, int] = {}
        for connection in self._connections:
            if connection.frozen:
                continue
            for flow in connection.flows:
                if not flow.ended and flow.size < ROOM:
                    number = flow.source.fileno()
                    wanted[number] = wanted.get(number, 0) | select.POLLIN
                if not flow.waiting:
                    continue
                if flow.waiting[0][0] > now:
                    wait = min(wait, flow.waiting[0][0] - now)
                elif self.rate and self._tokens[flow.name] < 1:
                    wait = min(wait, 0.01)
                else:
                    number = flow.sink.fileno()
                    wanted[number] = wanted.get(number, 0) | select.POLLOUT
        for number, events in wanted.items():
            poll.register(number, events)
        return wait

    def _refill(self) -> None:
        now = time.monotonic()
        for name in self._tokens:
            earned = self._tokens[name] + self.rate * (now - self._filled)
            self._tokens[name] = min(max(self.rate / 20, 2048), earned)
        self._filled = now

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # none left
            self.times.append(time.monotonic())
            far = None
            try:
                if self.arrival == "pass":
                    far = socket.create_connection(self.target, 5)
                    far.setblocking(False)
            except OSError:
                Connection(near, None).reset()
                continue
            near.setblocking(False)
            for end in (near, far):
                if end is not None:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(near, far)
            if self.arrival == "refuse":
                connection.reset()
            else:
                self._connections.append(connection)

    def _serve(self, connection: Connection, ready: dict[int, int]) -> None:
        if connection.frozen or connection.over:
            return
        try:
            for flow in connection.flows:
                if ready.get(flow.source.fileno(), 0) & (select.POLLIN | select.POLLHUP):
                    self._read(flow)
                self._write(flow)
                if self._is_over(connection):
                    return
            if all(flow.closed for flow in connection.flows):
                connection.finish()
        except BlockingIOError:
            pass
        except OSError:
            connection.reset()

    @staticmethod
    def _is_over(connection: Connection) -> bool:
        """Whether `cut_after` ended it while it was served."""
        return connection.over

    def _read(self, flow: Flow) -> None:
        if flow.ended or flow.size >= ROOM:
            return
        data = flow.source.recv(65536)
        if data:
            flow.take(data, time.monotonic() + self.delay)
        else:
            flow.ended = True

    def _write(self, flow: Flow) -> None:
        now = time.monotonic()
        while flow.waiting and flow.waiting[0][0] <= now:
            most = len(flow.waiting[0][1])
            if self.rate:
                most = min(most, int(self._tokens[flow.name]))
            left = self._cut_at.get(flow.name, -1) - self.passed[flow.name]
            if flow.name in self._cut_at:
                most = min(most, left)
            if most <= 0 and flow.name not in self._cut_at:
                return  # no tokens
            try:
                sent = flow.give(most) if most > 0 else 0
            except BlockingIOError:
                return
            self._tokens[flow.name] -= sent
            self.passed[flow.name] += sent
            if flow.name in self._cut_at and sent >= left:
                del self._cut_at[flow.name]
                self.cut()
                return
            if sent == 0:
                return
        if flow.ended and not flow.waiting and not flow.closed:
            flow.closed = True
            flow.sink.shutdown(socket.SHUT_WR)
