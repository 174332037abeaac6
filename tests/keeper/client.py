"""A keeper in a process of its own, and a small blocking client for it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from rshell_agent.keeper import wire
from rshell_agent.keeper.command import socket_address

AGENT_FOLDER = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(sys.modules[wire.__name__].__file__ or "")))
)
PROGRAM = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); "
    "from rshell_agent.keeper.main import run; from rshell_agent.keeper.constants import Times; "
    "sys.exit(run(sys.argv[2], None, Times(**json.loads(sys.argv[3]))))"
)
BIG = 1 << 40  # a limit nobody reaches


class Keeper:
    """Starts a keeper on a home of its own, `times` being shorter waits."""

    def __init__(self, home: str | None = None, **times: float) -> None:
        self.home = home or tempfile.mkdtemp(prefix="keeper-")
        self.times = {"kill": 0.4, "drain": 0.4, "tick": 0.1, "idle": 30.0, **times}
        self.process = self.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                self.connect().close()
                break
            except OSError:
                assert time.monotonic() < deadline, self.log()
                assert self.process.poll() is None, self.log()
                select.select([], [], [], 0.01)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, AGENT_FOLDER, self.home]
        return subprocess.Popen([*command, json.dumps(self.times)])

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        with socket_address(self.home) as address:
            sock.connect(address)
        sock.settimeout(15)
        return sock

    def log(self) -> str:
        path = os.path.join(self.home, "keeper.log")
        return open(path, encoding="ascii").read() if os.path.exists(path) else ""

    def stop_and_keep(self) -> int:
        """End it and return its exit status; its home stays."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def stop(self) -> int:
        """End it and return its exit status; its log must not hold a fault."""
        status = self.stop_and_keep()
        log = self.log()
        shutil.rmtree(self.home, ignore_errors=True)
        assert "fault:" not in log, log
        return status

    def policy(self, text: str) -> None:
        path = os.path.join(self.home, "agent.toml")
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def control(self) -> Control:
        return Control(self.connect())

    def open(self, key: bytes, *argv: str, **fields: Any) -> Stream:
        """Open a stream and expect OPENED; see `Stream.open`."""
        stream = Stream(self.connect())
        stream.open(key, *argv, **fields)
        assert stream.refused is None, stream.refused
        return stream

    def refused(self, key: bytes, *argv: str, **fields: Any) -> tuple[str, str]:
        """Open a stream and expect REFUSED; return code and message."""
        stream = Stream(self.connect())
        stream.open(key, *argv, **fields)
        assert stream.refused is not None, stream.opened
        assert stream.frame() is None
        stream.close()
        return stream.refused["code"], stream.refused["message"]


def b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


class Peer:
    """Frames over a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._decoder = wire.Decoder()
        self._frames: list[tuple[int, int, bytes]] = []

    def send(self, kind: int, payload: bytes | dict[str, Any], flags: int = 0) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.socket.sendall(wire.encode(kind, data, flags))

    def frame(self) -> tuple[int, int, bytes] | None:
        """Return the next frame, or None when the keeper closed."""
        while not self._frames:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:  # it closed with something of ours unread
                return None
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        return self._frames.pop(0)

    def hello(self, purpose: str, **fields: Any) -> dict[str, Any]:
        self.send(wire.HELLO, {"proto": {"min": 1, "max": 1}, "purpose": purpose, **fields})
        kind, _, payload = self.frame() or (0, 0, b"")
        assert kind == wire.WELCOME, (kind, payload)
        welcome: dict[str, Any] = json.loads(payload)
        return welcome

    def close(self) -> None:
        self.socket.close()


class Control(Peer):
    """A control connection."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.welcome = self.hello("control")
        self._count = 0

    def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """Make a call; lists of several REPLYs are joined."""
        self._count += 1
        self.send(wire.CALL, {"id": self._count, "call": name, **fields})
        joined: dict[str, Any] = {}
        while True:
            kind, _, payload = self.frame() or (0, 0, b"")
            assert kind == wire.REPLY, kind
            reply = json.loads(payload)
            assert reply.pop("id") == self._count
            more = reply.pop("more", False)
            for key, value in reply.items():
                joined[key] = joined[key] + value if key in joined else value
            if not more:
                return joined

    def session(self, session: bytes) -> dict[str, Any] | None:
        found = [s for s in self.call("sessions")["sessions"] if s["session"] == b64(session)]
        return found[0] if found else None


class Stream(Peer):
    """A stream connection: the operator's end of one attachment."""

    def __init__(self, sock: socket.socket, **hello: Any) -> None:
        super().__init__(sock)
        self.hello("stream", **hello)
        self.largest = 0  # bytes of the largest DATA
        self.opened: dict[str, Any] = {}
        self.refused: dict[str, Any] | None = None
        self.consumed = self.limit = self.events = 0
        self.stdout = self.stderr = b""
        self.keep = 1 << 24  # bytes of stdout; what comes later is only counted
        self.ended = False
        self.outcome: dict[str, Any] | None = None
        self.gaps: list[tuple[int, int]] = []  # of a viewer: (place, bytes left out)
        self.guards: list[dict[str, Any]] = []  # what was told of a change that waits
        self.granted = (0, 0, 0)

    def open(
        self,
        key: bytes,
        *argv: str,
        line: str | None = None,
        handler: str | None = None,
        pty: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        timeout_ms: int | None = None,
        **fields: Any,
    ) -> None:
        """Send OPEN and take the answer. With neither argv nor line it is the shell."""
        kind = "exec" if argv or line is not None else "shell"
        process: dict[str, Any] = {"kind": kind, "timeout_ms": timeout_ms, "pty": pty}
        process["env"] = [[b64(k), b64(v)] for k, v in (env or {}).items()]
        process["cwd"] = None if cwd is None else b64(cwd)
        if argv:
            process["argv"] = [b64(a) for a in argv]
        if line is not None:
            process["line"] = b64(line)
        body: dict[str, Any] = {"session": b64(key), "attempt": 1, "age_ms": 0, "operator": "ann"}
        body |= {"handler": handler or kind, "login": None, "limit": BIG, "process": process}
        body |= {"detach": kind == "shell"} | fields
        resume = body.get("resume") or {}
        self.consumed, self.events = resume.get("consumed", 0), resume.get("events", 0)
        self.limit = (resume or body).get("limit", 0)
        self.send(wire.OPEN, body)
        answer, _, payload = self.frame() or (0, 0, b"{}")
        if answer == wire.OPENED:
            self.opened = json.loads(payload)
            self.consumed += self.opened.get("gap", 0)
            self.limit += self.opened.get("gap", 0)
            opened = self.opened
            self.granted = (opened["consumed"], opened["limit"], opened["events"])
        else:
            assert answer == wire.REFUSED, (answer, payload)
            self.refused = json.loads(payload)

    def data(self, data: bytes, end: bool = False) -> None:
        pieces = [data[i : i + wire.MAX_PAYLOAD] for i in range(0, len(data), wire.MAX_PAYLOAD)]
        for piece in pieces:
            self.send(wire.DATA, piece)
        if end:
            self.send(wire.DATA, b"", wire.EOF)

    def event(self, seq: int, kind: str, **fields: Any) -> None:
        self.send(wire.EVENT, {"seq": seq, "at": 0, "kind": kind, **fields}, wire.URGENT)

    def tell(self, limit: int | None = None) -> None:
        """Say what was consumed."""
        self.limit = max(self.limit, limit or 0)
        self.send(wire.LIMIT, struct.pack(">QQQ", self.consumed, self.limit, self.events))

    def step(self) -> bool:
        """Take one frame, checking it against the rules; False when the keeper closed."""
        found = self.frame()
        if found is None:
            return False
        kind, flags, payload = found
        if kind == wire.DATA:
            assert not (self.ended and payload), "data after the end"
            if flags & wire.STDERR:
                self.stderr += payload
            else:
                self.stdout += payload if len(self.stdout) < self.keep else b""
            self.largest = max(self.largest, len(payload))
            self.consumed += len(payload)
            assert self.consumed <= self.limit, "sent beyond the limit"
            self.ended = self.ended or bool(flags & wire.EOF)
        elif kind == wire.LIMIT:
            self.granted = struct.unpack(">QQQ", payload)
        elif kind == wire.EVENT:
            event = json.loads(payload)
            assert event["seq"] == self.events + 1, event
            assert event["at"] == self.consumed, "an ordered event at a wrong place"
            self.events += 1
            if event["kind"] == "gap":
                assert event["bytes"] > 0, event
                self.gaps.append((event["at"], event["bytes"]))
            elif event["kind"] == "guard":
                self.guards.append(event)
            else:
                assert self.ended, "the outcome comes after the end of output"
                self.outcome = event
        else:
            raise AssertionError((kind, payload))
        return True

    def until(self, needle: bytes) -> bytes:
        """Read until stdout holds `needle`."""
        while needle not in self.stdout:
            assert self.step(), (needle, self.stdout)
        return self.stdout

    def finish(self, acknowledge: bool = True) -> dict[str, Any]:
        """Read, consuming at once, to the outcome; with `acknowledge` to the closing too."""
        told = self.consumed
        while self.outcome is None:
            assert self.step(), "closed before the outcome"
            if self.consumed - told >= 65536:
                told = self.consumed
                self.tell()
        if acknowledge:
            self.tell()
            assert self.frame() is None
            self.close()
        return self.outcome
