"""The socket and its connections: HELLO, then control calls or one session's stream."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable

import rshell_agent
from rshell_agent.keeper import constants as c
from rshell_agent.keeper import loop as loops
from rshell_agent.keeper import wire
from rshell_agent.keeper.policy import LISTS
from rshell_agent.keeper.session import Session
from rshell_agent.keeper.sessions import Sessions
from rshell_agent.keeper.viewer import Viewer
from rshell_agent.keeper.wire import Map, Refused, WireError

__all__ = ["Connection", "Server"]

_READ_BYTES = 4 * (wire.HEADER.size + wire.MAX_PAYLOAD)  # what an agent reads of its link at once


class Connection:
    """One accepted connection; it owns its socket. Sessions use `send`, `flush`, `close`."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server, self._socket = server, sock
        self._loop = server.loop
        self._decoder = wire.Decoder()
        self._out: deque[bytes] = deque()
        self.pending = 0  # bytes given to `send` and not yet taken by the kernel
        self._closed = self._closing = False
        self._session: Session | Viewer | None = None
        self.purpose = ""
        self.largest = wire.MAX_PAYLOAD  # bytes of DATA that the peer takes in one frame
        self._deadline = self._loop.after(server.times.hello, self._too_slow)
        self._loop.watch(sock.fileno(), self._ready, loops.READ)

    def _too_slow(self) -> None:
        self.fail("HELLO or OPEN did not come in time")

    def send(self, frame: bytes) -> None:
        """Queue a frame; `flush` sends."""
        if not self._closed:
            self._out.append(frame)
            self.pending += len(frame)

    def flush(self) -> None:
        """Give the kernel what it takes; the rest goes when it is ready."""
        if self._closed:
            return
        try:
            while self._out:
                sent = self._socket.sendmsg([self._out[i] for i in range(min(16, len(self._out)))])
                self.pending -= sent
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.popleft())
                if sent:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            pass
        except OSError:  # not from here: the caller is in the middle of something
            self._loop.after(0, self._lost)
            return
        if self._closing and not self._out:
            self._loop.after(0, self._lost)
        reading = 0 if self.pending >= c.READ_PAUSE or self._closing else loops.READ
        writing = loops.WRITE if self._out else 0
        self._loop.watch(self._socket.fileno(), self._ready, reading | writing)

    def close(self, why: str) -> None:
        """Close at once; what was not read or sent is gone. A reason goes to the log."""
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        self._out.clear()
        self.pending = 0
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._server.closed(self)
        if why:
            self._server.log(f"connection closed: {why}")

    def _over(self) -> bool:
        return self._closed or self._closing

    def _lost(self) -> None:
        if not self._closed:
            self.close("")
            session, self._session = self._session, None
            if session is not None and session.connection is self:
                session.detached()

    def refuse(self, refusal: Refused) -> None:
        """Answer REFUSED and close once that is sent."""
        body: Map = {"code": refusal.code, "message": str(refusal)[:1024]}
        self._session = None
        self._last(wire.encode_map(wire.REFUSED, body))

    def fail(self, why: str) -> None:
        """Tell the peer which rule it broke, and close."""
        self._server.log(f"connection fails: {why}")
        session, self._session = self._session, None
        if session is not None and session.connection is self:
            session.detached()
        self._last(wire.encode_map(wire.RESET, {"code": "protocol", "message": why[:1024]}))

    def _last(self, frame: bytes) -> None:
        self.send(frame)
        self._closing = True
        self._deadline.cancel()
        self._deadline = self._loop.after(self._server.times.hello, self._lost)
        self.flush()

    def _ready(self) -> None:
        if self._out:
            self.flush()
            if self._session is not None and self.pending < c.SEND_HIGH:
                self._session.pump()
        if self._over() or self.pending >= c.READ_PAUSE:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        new = not self.purpose
        try:
            for kind, flags, payload in self._decoder.feed(data):
                self._received(kind, flags, payload)
                if self._over():
                    return
            if new:
                self.flush()
        except WireError as error:
            self.fail(str(error))
        except Refused as refusal:
            self.refuse(refusal)

    def _received(self, kind: int, flags: int, payload: bytes) -> None:
        if self._session is not None:
            self._session.received(kind, flags, payload)
        elif not self.purpose and kind == wire.HELLO:
            self._hello(wire.parse_map(payload))
        elif self.purpose == "control" and kind == wire.CALL:
            self._call(wire.parse_map(payload))
        elif self.purpose == "stream" and kind == wire.OPEN:
            self._deadline.cancel()
            self._session = self._server.sessions.open(self, wire.parse_map(payload))
        else:
            raise WireError(f"frame type {kind} is not expected here")

    def _hello(self, body: Map) -> None:
        proto = wire.submap(body, "proto") or {}
        if not wire.integer(proto, "min") <= 1 <= wire.integer(proto, "max"):
            raise Refused("version", "this keeper speaks version 1")
        self.purpose = wire.text(body, "purpose", 16)
        if self.purpose not in ("control", "stream"):
            raise WireError("purpose: neither control nor stream")
        if self.purpose == "control":
            self._deadline.cancel()
        if body.get(wire.LARGE) is True:
            self.largest = wire.MAX_DATA
        # `_ready` flushes: with the answer to an OPEN that came along, it wakes the agent once
        self.send(wire.encode_map(wire.WELCOME, {"proto": 1, **self._server.identity()}))

    def _call(self, call: Map) -> None:
        number = wire.integer(call, "id")
        for part in self._server.answer(call):
            self.send(wire.encode_map(wire.REPLY, {"id": number, **part}))
        self.flush()


class Server:
    """Accepts, and answers control calls.

    Args:
        sessions: What is served.
        listener: Where peers connect; without one they are handed over by `serve`.
        log: Takes lines.
    """

    def __init__(
        self, sessions: Sessions, listener: socket.socket | None, log: Callable[[str], None]
    ) -> None:
        self.sessions, self.log = sessions, log
        self.loop, self.times = sessions.loop, sessions.times
        self._listener = listener
        self._connections: set[Connection] = set()
        sessions.touches.ready = self._tell_touched
        self._watch()

    def _watch(self) -> None:
        listener = self._listener
        if listener is not None:
            self.loop.watch(listener.fileno(), lambda: self._accept(listener), loops.READ)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor left: look again later instead of spinning
            self.log(f"cannot accept: {error.strerror}")
            self.loop.unwatch(listener.fileno())
            self.loop.after(1.0, self._watch)
            return
        sock.setblocking(False)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", raw)
        self.sessions.policy.current()
        if uid not in self.sessions.policy.served_uids:
            self.log(f"connection refused: user {uid} is not served")
            sock.close()
        elif len(self._connections) >= c.MAX_CONNECTIONS:
            self.log("connection refused: too many")
            sock.close()
        else:
            self.serve(sock)

    def serve(self, sock: socket.socket) -> None:
        """Take a connected socket, which does not block, from a peer that may be served."""
        self._connections.add(Connection(self, sock))

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    @property
    def controlled(self) -> bool:
        """Whether an agent holds a control connection."""
        return any(connection.purpose == "control" for connection in self._connections)

    def _tell_touched(self) -> None:
        """Tell agents that there is something to fetch (K55)."""
        for connection in tuple(self._connections):
            if connection.purpose == "control" and connection.pending < c.READ_PAUSE:
                connection.send(wire.encode(wire.TOUCHED, b"{}", wire.IGNORABLE))
                connection.flush()

    def identity(self) -> Map:
        """Return what WELCOME and `status` tell."""
        uptime = int((self.loop.now() - self.sessions.began) * 1000)
        version = rshell_agent.__version__
        return {
            "pid": os.getpid(),
            "uptime_ms": uptime,
            "version": version,
            # an older keeper would take a viewer's OPEN for an attach, and run without a guard
            "features": ["view", "confirm", "touched", wire.LARGE],
        }

    def answer(self, call: Map) -> list[Map]:
        """Return the REPLYs to a CALL, without their id (K33)."""
        name, sessions = wire.text(call, "call", 32), self.sessions
        if name == "sessions":
            return _parts("sessions", sessions.describe())
        if name == "end":
            return _parts("ended", sessions.end(call))
        if name == "acknowledge":
            return _parts("acknowledged", sessions.acknowledge(call))
        if name == "jobs" and sessions.jobs is not None:
            return _parts("jobs", sessions.jobs.unnoted())
        if name == "noted" and sessions.jobs is not None:
            return _parts("noted", sessions.jobs.noted(call))
        if name == "touched":
            return _parts("touched", sessions.touches.unnoted())
        if name == "touches-noted":
            return _parts("noted", sessions.touches.noted(call))
        if name == "policy":
            return _policy_parts(sessions.policy.current().report())
        if name == "status":
            with open("/proc/self/statm", "rb", 0) as file:
                pages = int(file.read().split()[1])
            rss = pages * os.sysconf("SC_PAGESIZE") // 1024
            return [{**self.identity(), "sessions": len(sessions), "rss_kb": rss}]
        if name == "retire":
            idle = not sessions.needed
            if idle:
                self.loop.after(0.1, self._retire)  # after the answer
            return [{"retiring": idle}]
        return [{"error": {"code": "not-found", "message": f"no such call: {name}"}}]

    def _retire(self) -> None:
        if not self.sessions.needed:  # an OPEN may have come meanwhile
            self.loop.stop()


def _policy_parts(report: Map) -> list[Map]:
    """Return the report so that each part fits one frame: the long lists come by themselves."""
    report["warnings"] = _fitting(report["warnings"])
    found: list[Map] = []
    for key in LISTS:
        if key not in ("handlers", "logins"):
            found += _parts(key, list(report.pop(key)))  # type: ignore[call-overload]  # lists of text
    return [{**part, "more": True} for part in found] + [report]


def _parts(key: str, items: list[object]) -> list[Map]:
    """Return maps that each fit one frame; all but the last say `more`."""
    parts: list[Map] = []
    batch: list[object] = []
    size = 0
    for item in items:
        length = len(wire.dump(item)) + 1
        if batch and size + length > wire.MAX_PAYLOAD - 128:
            parts.append({key: batch, "more": True})
            batch, size = [], 0
        batch.append(item)
        size += length
    return [*parts, {key: batch}]


def _fitting(texts: object) -> list[object]:
    """Return as many of the texts as fit beside the rest of a reply."""
    found: list[object] = []
    for text in texts if isinstance(texts, list) else []:
        found.append(str(text)[:256])
        if len(wire.dump(found)) > wire.MAX_PAYLOAD // 4:
            break
    return found
