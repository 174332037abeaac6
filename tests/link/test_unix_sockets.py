"""Unit tests of rshell.link.unix_sockets."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rshell.link.unix_sockets import connect_at_once, write_at_once


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


class Caller(Protocol):
    """Says hello, and fires with what it hears."""

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.heard.callback(data)
        transport: Any = self.transport
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None)


class ConnectTests(TestCase):
    def listen(self, backlog: int = 5) -> tuple[str, socket.socket]:
        """Return where somebody listens, and who."""
        path = f"/proc/self/fd/{self.directory()}/s"  # a path may have 107 bytes
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen(backlog)
        return path, listener

    def directory(self) -> int:
        """Return a new directory, open."""
        name = self.mktemp()
        os.makedirs(name)
        number = os.open(name, os.O_RDONLY)
        self.addCleanup(os.close, number)
        return number

    async def test_connected(self) -> None:
        """It is connected when the call returns, hears what is said, and lets go of it all."""
        path, listener = self.listen()
        caller = Caller()
        self.assertTrue(connect_at_once(reactor, path, caller))
        self.assertIsNotNone(caller.transport)
        peer, _ = listener.accept()
        peer.settimeout(10)
        peer.send(b"welcome")
        self.assertEqual(await caller.heard, b"welcome")
        await caller.over
        self.assertEqual(peer.recv(100), b"hello")
        self.assertEqual(peer.recv(100), b"", "no duplicate of its socket stays open")
        peer.close()

    def test_nobody(self) -> None:
        """Where nobody listens, or the queue is full, it leaves all to who can wait."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertFalse(connect_at_once(reactor, f"/proc/self/fd/{before}/none", Caller()))
        self.assertFalse(connect_at_once(reactor, "/" + 200 * "x", Caller()))  # no such address
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        path, listener = self.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(path)
            caller = Caller()
            self.assertFalse(connect_at_once(reactor, path, caller))
            self.assertIsNone(caller.transport)
        listener.close()
        self.assertFalse(connect_at_once(reactor, path, Caller()))

    def test_other_reactors(self) -> None:
        """A reactor that cannot take a connected socket is not asked to."""
        path, _ = self.listen()
        self.assertFalse(connect_at_once(Clock(), path, Caller()))


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
