"""Unit tests of rshell.link.unix_sockets."""

from __future__ import annotations

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.unix_sockets import write_at_once


class Socket:
    """Takes ``room`` bytes, then none; a negative room is a broken connection."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent = b""

    def send(self, data: bytes) -> int:
        if self.room < 0:
            raise BrokenPipeError
        if self.room == 0:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)


class Transport(StringTransport):
    """A transport of Twisted, as far as that is asked."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.socket = Socket(room)
        self.dataBuffer = b""
        self._tempDataBuffer: list[bytes] = []


class WriteAtOnceTests(SynchronousTestCase):
    def _write(self, transport: Transport, *parts: bytes) -> tuple[bytes, bytes]:
        for part in parts:
            write_at_once(transport, part)
        return transport.socket.sent, transport.value()

    def test_idle(self) -> None:
        """What the kernel takes at once costs the transport nothing."""
        self.assertEqual(self._write(Transport(100), b"a", b"b"), (b"ab", b""))

    def test_full(self) -> None:
        """What the kernel does not take is the transport's, and nothing overtakes it."""
        transport = Transport(3)
        self.assertEqual(self._write(transport, b"abcde"), (b"abc", b"de"))
        transport.dataBuffer = b"de"
        transport.socket.room = 100
        self.assertEqual(self._write(transport, b"fg"), (b"abc", b"defg"))

    def test_waiting(self) -> None:
        """Bytes of the same turn that wait already go first."""
        transport = Transport(100)
        transport._tempDataBuffer.append(b"x")
        self.assertEqual(self._write(transport, b"y"), (b"", b"y"))

    def test_broken(self) -> None:
        """An error of the socket is left to the transport, which meets it, too."""
        self.assertEqual(self._write(Transport(-1), b"abc"), (b"", b"abc"))

    def test_ending(self) -> None:
        """A transport that is being closed decides itself what it still sends."""
        transport = Transport(100)
        transport.disconnecting = True
        self.assertEqual(self._write(transport, b"abc"), (b"", b"abc"))

    def test_no_socket(self) -> None:
        """A transport without a socket is written to as any."""
        transport = StringTransport()
        write_at_once(transport, b"abc")
        self.assertEqual(transport.value(), b"abc")
