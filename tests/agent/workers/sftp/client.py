"""A client that sends any packet, right or wrong, to a server that runs in a thread."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.serving import Broken, Conversation
from rshell_agent.workers.sftp.state import State
from rshell_agent.workers.sftp.wire import Fields, string, u32, u64

__all__ = ["Answer", "SftpCase", "SftpClient", "attributes"]

#: Nothing here takes this long; a server that hangs fails its test.
SECONDS = 30
#: The wall clock of listings: 2026-07-01 12:00:00 UTC.
NOW = 1782907200.0


def attributes(
    size: int | None = None,
    owner: tuple[int, int] | None = None,
    permissions: int | None = None,
    times: tuple[int, int] | None = None,
) -> bytes:
    """Build attributes as a client sends them."""
    flags, body = 0, b""
    if size is not None:
        flags, body = flags | 1, body + u64(size)
    if owner is not None:
        flags, body = flags | 2, body + u32(owner[0]) + u32(owner[1])
    if permissions is not None:
        flags, body = flags | 4, body + u32(permissions)
    if times is not None:
        flags, body = flags | 8, body + u32(times[0]) + u32(times[1])
    return u32(flags) + body


@attrs.frozen
class Answer:
    """A reply: its type, the request's id, and what follows."""

    kind: int
    number: int
    body: bytes

    def fields(self) -> Fields:
        return Fields(memoryview(self.body))

    @property
    def code(self) -> int:
        assert self.kind == wire.STATUS, self
        return self.fields().u32()

    @property
    def message(self) -> str:
        fields = self.fields()
        fields.u32()
        return fields.string().decode()

    @property
    def value(self) -> bytes:
        """The string of a HANDLE or DATA."""
        assert self.kind in (wire.HANDLE, wire.DATA), (self, self.message)
        return self.fields().string()

    @property
    def names(self) -> list[tuple[bytes, bytes]]:
        """File name and long name of each entry of a NAME."""
        assert self.kind == wire.NAME, (self, self.message)
        fields, found = self.fields(), []
        for _ in range(fields.u32()):
            found.append((fields.string(), fields.string()))
            if fields.u32():
                fields.u64()
                for _ in range(5):
                    fields.u32()
        assert not fields.left
        return found

    @property
    def stat(self) -> tuple[int, ...]:
        """The numbers of an ATTRS: size, uid, gid, permissions, atime, mtime."""
        assert self.kind == wire.ATTRS, (self, self.message)
        fields = self.fields()
        assert fields.u32() == 0xF
        return (fields.u64(), *(fields.u32() for _ in range(5)))


class SftpClient:
    """One session; `end` closes it and tells how the server left."""

    def __init__(self, confined: Confined, read_only: bool = False) -> None:
        self.state = State(confined, read_only, clock=lambda: NOW)
        source, self._to = os.pipe()
        self._from, sink = os.pipe()
        self._theirs = (source, sink)
        self._buffer = b""
        self._next = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            Conversation(self.state, *self._theirs).run()
        except BaseException as error:
            self.failure = error
        finally:
            for fd in self._theirs:
                os.close(fd)

    # -- sending and receiving ------------------------------------------------------------------

    def raw(self, data: bytes) -> None:
        """Send any bytes; in a thread if they may not fit the pipe."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._to, view) :]

    def send(self, kind: int, *parts: bytes) -> int:
        """Send a request; return its id."""
        self._next += 1
        body = b"".join(parts)
        self.raw(wire.head(kind, self._next, len(body)) + body)
        return self._next

    def packet(self) -> bytes | None:
        """Return the next packet's type and body; None at the end."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._size():
            ready, _, _ = select.select([self._from], [], [], SECONDS)
            assert ready, "the server does not answer"
            data = os.read(self._from, 1 << 20)
            if not data:
                assert not self._buffer, self._buffer
                return None
            self._buffer += data
        end = 4 + self._size()
        packet, self._buffer = self._buffer[4:end], self._buffer[end:]
        return packet

    def _size(self) -> int:
        return int.from_bytes(self._buffer[:4], "big")

    def answer(self) -> Answer:
        """Return the next reply."""
        packet = self.packet()
        assert packet is not None, self.failure
        return Answer(packet[0], int.from_bytes(packet[1:5], "big"), packet[5:])

    def ask(self, kind: int, *parts: bytes) -> Answer:
        """Send a request and return its reply."""
        number = self.send(kind, *parts)
        answer = self.answer()
        assert answer.number == number, (answer, number)
        return answer

    def extended(self, name: bytes, *parts: bytes) -> Answer:
        return self.ask(wire.EXTENDED, string(name), *parts)

    def greet(self, version: int = 3) -> dict[bytes, bytes]:
        """Say INIT; return the extensions that the server has."""
        self.raw(u32(5) + bytes([wire.INIT]) + u32(version))
        packet = self.packet()
        assert packet is not None
        assert packet[0] == wire.VERSION
        fields = Fields(memoryview(packet)[1:])
        assert fields.u32() == 3
        found = {}
        while fields.left:
            name = fields.string()
            found[name] = fields.string()
        return found

    def end(self) -> BaseException | None:
        """Close the input; return what ended the server, None for a good end."""
        if self._to >= 0:
            os.close(self._to)
            self._to = -1
            while self.packet() is not None:
                pass
            self._thread.join(SECONDS)
            assert not self._thread.is_alive()
            os.close(self._from)
        return self.failure

    # -- what tests do often --------------------------------------------------------------------

    def open(
        self, path: bytes | Path, flags: int = wire.OPEN_READ, attrs: bytes = u32(0)
    ) -> Answer:
        return self.ask(wire.OPEN, string(os.fsencode(path)), u32(flags), attrs)

    def handle(self, path: bytes | Path, flags: int = wire.OPEN_READ) -> bytes:
        return string(self.open(path, flags).value)

    def on(self, kind: int, path: bytes | Path, *parts: bytes) -> Answer:
        """Send a request that begins with a path."""
        return self.ask(kind, string(os.fsencode(path)), *parts)


class SftpCase(SynchronousTestCase):
    """A folder, a policy that allows it, and a client.

    Attributes:
        base: Holds `root` and things outside of it.
        root: What the policy allows.
    """

    def setUp(self) -> None:
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="rsf-")))
        self.addCleanup(shutil.rmtree, self.base, True)
        self.root = self.base / "root"
        self.root.mkdir()
        self.client = self.connect()

    def connect(
        self, read: list[str] | None = None, write: list[str] | None = None, **options: Any
    ) -> SftpClient:
        """Return a client that was greeted; its server ends well, or the test fails."""
        read_only = options.pop("read_only", False)
        confined = Confined(
            [str(self.root)] if read is None else read,
            [str(self.root)] if write is None else write,
            home=os.fsencode(self.root),
            **options,
        )
        self.addCleanup(confined.close)
        client = SftpClient(confined, read_only)
        self.addCleanup(self._end, client)
        client.greet()
        return client

    def _end(self, client: SftpClient) -> None:
        if not isinstance(client.end(), Broken | None):
            raise AssertionError(client.failure)

    def assert_code(self, code: int, answer: Answer) -> None:
        self.assertEqual((wire.STATUS, code), (answer.kind, answer.code), answer)

    def assert_ok(self, answer: Answer) -> None:
        self.assert_code(wire.OK, answer)
