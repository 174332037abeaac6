"""The worker of files under test: its server in this process, or the whole worker in a child."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import selectors
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rshell.client.files.frames import (
    ABORT,
    COPY,
    DATA,
    DATA_OUT,
    END,
    END_OUT,
    ERROR,
    HOLE,
    HOLE_OUT,
    NOTE,
    REPLY,
    REQUEST,
    FrameReader,
    copy_frame,
    frame,
    hole_frame,
    map_frame,
    request_frame,
)
from rshell_agent.workers.confined import Confined
from rshell_agent.workers.files.desk import Desk
from rshell_agent.workers.files.frames import Input, Output
from rshell_agent.workers.files.serving import Server
from rshell_agent.workers.touched import Touches
from tests.client.files.pair import worker_command

__all__ = [
    "ABORT",
    "COPY",
    "DATA",
    "END",
    "HOLE",
    "REQUEST",
    "TRANSFER",
    "Answer",
    "Child",
    "FilesCase",
    "copy_frame",
    "digest_of",
    "end_frame",
    "frame",
    "hole_frame",
    "map_frame",
    "put_frames",
    "request_frame",
]

TRANSFER = "abcdefgh12"
#: A worker that says nothing for so long is stuck.
PATIENCE_SECONDS = 30.0


@attrs.define
class Answer:
    """All that came back for one request."""

    last: dict[str, Any] = attrs.field(factory=dict)
    kind: int = 0
    first: dict[str, Any] = attrs.field(factory=dict)
    items: list[Any] = attrs.field(factory=list)
    notes: list[dict[str, Any]] = attrs.field(factory=list)
    #: Bytes and lengths of holes, in order.
    pieces: list[bytes | int] = attrs.field(factory=list)

    @property
    def code(self) -> str:
        """The error's code; "" if it was done."""
        return str(self.last["code"]) if self.kind == ERROR else ""

    @property
    def data(self) -> bytes:
        """The content, holes filled."""
        return b"".join(p if isinstance(p, bytes) else bytes(p) for p in self.pieces)

    @property
    def paths(self) -> list[bytes]:
        """The paths of a listing's entries, or of a glob."""
        texts = [item["path"] if isinstance(item, dict) else item for item in self.items]
        return [base64.b64decode(text) for text in texts]

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame; return whether it was the last."""
        if kind == DATA_OUT:
            unpack = {0: bytes, 1: zlib.decompress}[payload[0]]
            self.pieces.append(unpack(payload[1:]))
        elif kind == HOLE_OUT:
            self.pieces.append(int.from_bytes(payload, "big"))
        else:
            value = json.loads(payload)
            if kind == NOTE:
                self.notes.append(value)
                return False
            self.items.extend(value.get("entries", value.get("paths", ())))
            if kind == REPLY and value.get("more"):
                self.first = value
                return False
            self.last, self.kind = value, kind
            return True
        return False


def digest_of(content: bytes) -> str:
    """Return what END says of a content."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def end_frame(number: int, content: bytes) -> bytes:
    """Return the END of an upload."""
    return map_frame(END, number, {"digest": digest_of(content), "size": len(content)})


def put_frames(number: int, path: bytes, content: bytes, **fields: Any) -> bytes:
    """Return a whole upload."""
    given = {"path": path, "size": len(content), "transfer": TRANSFER, **fields}
    resumed = (fields.get("resume") or {}).get("from", 0)
    blocks = [
        frame(DATA, number, b"\0" + content[start : start + 100_000])
        for start in range(resumed, len(content), 100_000)
    ]
    return b"".join([request_frame(number, "put", given), *blocks, end_frame(number, content)])


def answers_in(frames: Iterator[tuple[int, int, bytes]]) -> dict[int, Answer]:
    """Return the answers by request."""
    found: dict[int, Answer] = {}
    for kind, number, payload in frames:
        assert kind in (REPLY, DATA_OUT, HOLE_OUT, END_OUT, ERROR, NOTE)
        found.setdefault(number, Answer()).take(kind, payload)
    return found


class FilesCase(SynchronousTestCase):
    """A home, and the worker's server upon it, in this process.

    Attributes:
        sent: Called with what the server has written so far, before it goes on.
        ready: Whether there is more input at hand.
        policy: Keywords of `Confined`.
        touches: What it is told of what was touched.
    """

    def setUp(self) -> None:
        self.home = Path(os.path.realpath(self.mktemp()))
        self.home.mkdir(parents=True)
        self.sent: Callable[[bytearray], None] = lambda _: None
        self.ready: Callable[[], bool] = lambda: False
        self.policy: dict[str, Any] = {"read": ["/"], "write": ["/"]}
        self.touches = Touches()

    def path(self, name: str) -> bytes:
        return os.fsencode(self.home / name)

    def serve(self, data: bytes) -> dict[int, Answer]:
        """Give the server these frames and return its answers."""
        pieces = iter([data])
        return self.serve_from(lambda: next(pieces, b""))

    def serve_from(self, read: Callable[[], bytes]) -> dict[int, Answer]:
        """Give the server what `read` returns, until that is nothing; return its answers."""
        answers = FrameReader()
        answers.feed(self.exchange(read))
        found = answers_in(answers.frames())
        self.assertEqual(0, answers.waiting)
        return found

    def exchange(self, read: Callable[[], bytes]) -> bytes:
        """Serve a session in this process; return what the server wrote."""
        written = bytearray()

        def write(buffers: Sequence[bytes | memoryview]) -> int:
            for buffer in buffers:
                written.extend(buffer)
            self.sent(written)
            return sum(map(len, buffers))

        before = len(os.listdir("/proc/self/fd"))
        output = Output(write, self.touches.flush)
        with Confined(home=os.fsencode(self.home), **self.policy) as confined:
            confined.touches = self.touches
            try:
                Server(Desk(confined, Input(lambda _: read(), self.ready)), output).run()
            finally:
                self.written = bytes(written)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")), "a descriptor was left open")
        return bytes(written)

    def ask(self, op: str, **fields: Any) -> Answer:
        """Send one request and return its answer."""
        named = {name.rstrip("_"): value for name, value in fields.items()}
        return self.serve(request_frame(1, op, named))[1]

    def put(self, path: bytes, content: bytes, **fields: Any) -> Answer:
        """Upload a file."""
        return self.serve(put_frames(1, path, content, **fields))[1]

    def names(self) -> list[str]:
        """Return what is in the home."""
        return sorted(os.listdir(self.home))


class Child:
    """A worker in a process of its own.

    Args:
        home: Its home.
        crash_at: Where it kills itself.
        policy: Keywords of `Confined`; everything is allowed without.
    """

    def __init__(self, home: Path, crash_at: str = "", **policy: Any) -> None:
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        if crash_at:
            environment["RSHELL_CRASH_AT"] = crash_at
        read, write = policy.pop("read", ["/"]), policy.pop("write", ["/"])
        self.process = subprocess.Popen(
            worker_command(read, write, **policy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=home,
        )
        assert self.process.stdout is not None
        self._frames = FrameReader()
        self._wait = selectors.DefaultSelector()
        self._wait.register(self.process.stdout, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        """Write frames."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def answer(self) -> Answer:
        """Wait for the answer to the oldest request.

        Raises:
            EOFError: The worker has gone.
        """
        answer = Answer()
        while True:
            for kind, _, payload in self._frames.frames():
                if answer.take(kind, payload):
                    return answer
            assert self.process.stdout is not None
            if not self._wait.select(PATIENCE_SECONDS):
                raise AssertionError("the worker does not answer")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError
            self._frames.feed(data)

    def finish(self, data: bytes = b"") -> tuple[int, bytes, bytes]:
        """Send the rest, end the input; return status, output and complaints."""
        try:
            output, errors = self.process.communicate(data, timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._wait.close()
        return self.process.returncode, output, errors

    def kill(self) -> None:
        """End it."""
        self.process.kill()
        self.finish()


def part_names(names: Sequence[str]) -> list[str]:
    """Return those that are part files."""
    return [name for name in names if re.fullmatch(r"\.rshell-[a-z0-9]+\.part", name)]
