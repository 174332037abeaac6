"""Random and damaged bytes at every stage of an SSH connection, from fixed seeds.

Whatever comes: the connection goes on or ends cleanly, the log has its one line and no traceback,
and nothing is left of it.  A failure names its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.common import NS
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol
from twisted.logger import globalLogPublisher

from rshell.doors.ssh.channel import LOCAL_WINDOW
from rshell.doors.ssh.connection import MAX_CHANNELS, MAX_FORWARDS
from rshell.doors.ssh.session import SessionChannel
from rshell.doors.ssh.transport import LOGIN_GRACE_SECONDS, MAX_UNAUTHENTICATED_BYTES
from rshell.gateway.parking import GRACE_SECONDS
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.ends import DeviceEnd
from tests.gateway.wires import Wire

#: How many connections each test makes: of strangers, of operators, and with a MiB sent on each.
CONNECTIONS, OPERATORS, LARGE = 120, 50, 25
#: Most of what a server of SSH knows, and some that it does not.
NUMBERS = (*range(2, 8), 20, 21, *range(30, 35), *range(50, 54), 60, 61, *range(80, 83))
CHANNEL_NUMBERS = tuple(range(90, 101))
EDGES = (0, 1, 2, 7, 255, 256, 32767, 32768, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    b"", b"session", b"direct-tcpip", b"x11", b"auth-agent@openssh.com", b"exec", b"shell",
    b"pty-req", b"env", b"window-change", b"subsystem", b"sftp", b"signal", b"TERM", b"127.0.0.1",
    b"eow@openssh.com", b"tcpip-forward", b"keepalive@openssh.com", b"ssh-connection",
    b"ssh-userauth", b"publickey", b"password", b"none", b"ssh-ed25519", b"\xff\xfe", b"\x1b[2J",
    b"x" * 3000,
)  # fmt: skip


class _Raw(Protocol):
    """A peer that sends what it is told."""

    def __init__(self) -> None:
        self.lost = False

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class _Deafened(Client):
    """A client that agrees on the first keys, and afterwards only notes what comes."""

    deaf = False

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if self.deaf:
            self.packets.append((messageNum, payload))
        else:
            super().dispatchMessage(messageNum, payload)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Damage bytes in one to three ways."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        cut = rng.randint(1, 40)
        match rng.randrange(6):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + cut :]
            case 2:
                data = data[:at] + rng.randbytes(cut) + data[at:]
            case 3:
                data = data[:at] + data[max(0, at - cut) : at] + data[at:]
            case 4:
                data = data[:at] + u32(rng.choice(EDGES)) + data[at + 4 :]
            case _:
                data = data[:at]
    return data


def nonsense(rng: random.Random) -> bytes:
    """Make up a payload of things that payloads are made of."""
    parts: list[bytes] = []
    for _ in range(rng.randint(0, 7)):
        match rng.randrange(5):
            case 0:
                parts.append(u32(rng.choice(EDGES)))
            case 1:
                parts.append(bytes(NS(rng.choice(WORDS))))
            case 2:
                parts.append(bytes((rng.randrange(3),)))
            case 3:
                parts.append(u32(rng.choice(EDGES)) + rng.randbytes(rng.randint(0, 40)))
            case _:
                parts.append(rng.randbytes(rng.randint(0, 200)))
    return b"".join(parts)


class FuzzCase(SshTestCase):
    """What all stages have in common."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)

    def _observe(self, event: dict[str, Any]) -> None:
        if str(event.get("log_namespace", "")).startswith("rshell."):
            self.lines.append(str(event.get("log_format")))

    def each(self, run: Callable[[random.Random, str], None], count: int = CONNECTIONS) -> None:
        """Run something with a generator and an address of its own, again and again."""
        for seed in range(count):
            self.fleet.wires = [wire for wire in self.fleet.wires if not wire.over]
            self.lines.clear()
            try:
                run(random.Random(seed), f"198.18.{seed >> 8}.{seed & 255}")
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            # A fault of ours would be logged with its traceback, and turn up here.
            self.assertEqual([], self.flushLoggedErrors(), f"seed {seed}")

    def assert_gone(self, wire: Wire) -> None:
        """Check that nothing is left once the connection is over; cut it if it is not."""
        if not wire.over:
            wire.cut()
        self.fleet.pump()
        self.assertEqual({}, self.door._waiting)
        self.assertEqual(1, len(self.lines), self.lines)


class StrangerTests(FuzzCase):
    def raw(self, host: str, pieces: list[bytes]) -> tuple[Any, Wire]:
        """Send bytes from a stranger; return the server's side of it."""
        server: Any = self.door.buildProtocol(IPv4Address("TCP", host, 40_000))
        wire = Wire(_Raw(), server, host, 40_000)
        self.fleet.wires.append(wire)
        server.makeConnection(wire.gateway)
        for piece in pieces:
            wire.dialler.write(piece)
        self.fleet.pump()
        return server, wire

    def first_words(self) -> list[bytes]:
        """Return what a good client sends until there are keys."""
        client = self.connect(host="203.0.113.1")
        words = list(client.wire.dialler.sent)
        client.wire.cut()
        return words

    def test_random_bytes(self) -> None:
        """Noise, with and without a version before it, is never more than a bounded buffer."""

        def run(rng: random.Random, host: str) -> None:
            first = rng.choice([b"", b"SSH-2.0-x\r\n", b"SSH-1.99-y z\n", b"SSH-2.0-" + b"v" * 300])
            if rng.random() < 0.5:
                first += u32(rng.choice((16, 60_000, 1_000_000)))  # of a packet that never ends
            pieces = [rng.randbytes(rng.randint(1, 4000)) for _ in range(rng.randint(1, 40))]
            server, wire = self.raw(host, [first, *pieces])
            self.assertTrue(server.closing or len(server.buf) <= MAX_UNAUTHENTICATED_BYTES)
            self.assert_gone(wire)

        self.each(run)

    def test_damaged_first_words(self) -> None:
        """A key exchange that was damaged anywhere gives nobody keys that the other has not."""
        words = self.first_words()
        self.lines.clear()

        def run(rng: random.Random, host: str) -> None:
            pieces = list(words)
            at = rng.randrange(len(pieces))
            pieces[at] = mutated(rng, pieces[at])
            if rng.random() < 0.4:
                rng.shuffle(pieces)
            server, wire = self.raw(host, pieces)
            self.assertFalse(server.authenticated)
            self.assert_gone(wire)

        self.each(run)

    def test_waits_in_vain(self) -> None:
        """Whoever leaves a damaged exchange lying about is cut off when the grace is over."""
        words = self.first_words()
        rng = random.Random(1)
        wires = [
            self.raw(f"198.18.7.{n}", [mutated(rng, word) for word in words])[1] for n in range(30)
        ]
        self.fleet.advance(LOGIN_GRACE_SECONDS + 3, 1)
        self.assertEqual([True] * 30, [wire.over for wire in wires])
        self.assertEqual({}, self.door._waiting)
        self.assertEqual([], self.flushLoggedErrors())

    def test_before_the_login(self) -> None:
        """Messages of any number and content, encrypted as they should be, let nobody in."""

        def run(rng: random.Random, host: str) -> None:
            client = self.connect(host=host, kind=_Deafened)
            client.deaf = True
            if rng.random() < 0.7:
                self.ask_for_login(client)
            numbers = (50,) * 20 + NUMBERS + CHANNEL_NUMBERS
            for _ in range(20):
                if client.wire.over:
                    break
                client.sendPacket(rng.choice(numbers), nonsense(rng))
                self.fleet.pump()
            self.assertFalse(client.server.authenticated)
            self.assertEqual([], client.got(52))
            self.assert_gone(client.wire)

        self.each(run)

    def test_damaged_logins(self) -> None:
        """A login with any of its bytes changed is no login."""

        def run(rng: random.Random, host: str) -> None:
            client = self.connect(host=host, kind=_Deafened)
            self.ask_for_login(client)
            body = bytes(NS(b"pump-1") + NS(b"ssh-connection") + NS(b"publickey") + b"\1")
            body += NS(b"ssh-ed25519") + NS(self.blob)
            signature = self.private.sign(NS(client.sessionID) + bytes((50,)) + body)
            good = body + NS(NS(b"ssh-ed25519") + NS(signature))
            bad = mutated(rng, good)
            # What follows a login is not looked at, and any truth is as good as another.
            flag = len(NS(b"pump-1") + NS(b"ssh-connection") + NS(b"publickey"))
            while (bad[:flag] + b"\1" + bad[flag + 1 :]).startswith(good) and bad[flag]:
                bad = mutated(rng, good)
            client.deaf = True
            client.sendPacket(50, bad)
            self.fleet.pump()
            self.assertFalse(client.server.authenticated)
            self.assert_gone(client.wire)

        self.each(run)


class OperatorTests(FuzzCase):
    def entered(self, host: str) -> _Deafened:
        """Return a client that is in, and agrees on no more keys."""
        client = self.login(host=host, kind=_Deafened)
        assert isinstance(client, _Deafened)
        client.deaf = True
        return client

    def message(self, rng: random.Random, client: Client) -> tuple[int, bytes]:
        """Make a message up: mostly one that may come, for a channel that may be there."""
        channels = getattr(client.server.service, "_channels", {}).values()
        opened = [channel.id for channel in channels if channel.confirmed]
        if rng.random() < 0.02:
            return rng.choice(NUMBERS + CHANNEL_NUMBERS + (192, 255)), nonsense(rng)
        number = rng.choice(EDGES) if rng.random() < 0.01 else rng.choice(opened or [0])
        channel, word = u32(number), bytes(NS(rng.choice(WORDS)))
        if not opened or rng.random() < 0.2:
            kind = bytes(NS(rng.choice((b"session", b"session", b"direct-tcpip", b"x11"))))
            target = bytes(NS(b"127.0.0.1")) + u32(rng.choice(EDGES)) + bytes(NS(b"::1")) + u32(1)
            packet = rng.choice((0, 255, 256, 32768, 2**32 - 1))
            numbers = u32(rng.choice(EDGES), rng.choice(EDGES), packet)
            return 90, kind + numbers + (target if rng.random() < 0.9 else nonsense(rng))
        match rng.randrange(10):
            case 0 | 1:
                return 98, channel + NS(b"exec") + b"\1" + NS(b"id")
            case 2:
                more = b"".join((word, u32(rng.choice(EDGES)) * 4, word))
                return 98, channel + word + bytes((rng.randrange(2),)) + more
            case 3:
                numbers = u32(rng.choice(EDGES), rng.choice(EDGES), 0, 0)
                return 98, channel + NS(b"pty-req") + b"\1" + word + numbers + word
            case 4 | 5:
                return 94, channel + NS(bytes(rng.choice((0, 1, 100, 5000, 32768))))
            case 6:
                return 95, channel + u32(rng.choice(EDGES)) + NS(bytes(100))
            case 7:
                return 93, channel + u32(rng.choice((0, 1, 2**16, 2**20)))
            case 8:
                return 80, word + bytes((rng.randrange(2),)) + nonsense(rng)
            case _:
                return rng.choice((2, 50, 96, 97)), channel

    def check(self, server: Any) -> None:
        """Check what must hold at any time."""
        channels = list(getattr(server.service, "_channels", {}).values())
        sessions = sum(isinstance(channel, SessionChannel) for channel in channels)
        self.assertLessEqual(sessions, MAX_CHANNELS)
        self.assertLessEqual(len(channels) - sessions, MAX_FORWARDS)
        for channel in channels:
            self.assertLessEqual(0, channel.local_window)
            self.assertLessEqual(channel.local_window, LOCAL_WINDOW)
            self.assertLess(channel.remote_window, 2**32)

    def test_after_the_login(self) -> None:
        """Messages in any order, for channels that are there or not, leave nothing behind."""
        device: DeviceEnd = self.fleet.dial(self.pump)

        taken = 0

        def run(rng: random.Random, host: str) -> None:
            nonlocal taken
            client = self.entered(host)
            for _ in range(80):
                if client.wire.over:
                    break
                taken += 1
                before = len(device.requests)
                client.sendPacket(*self.message(rng, client))
                self.fleet.pump()
                if len(device.requests) > before and rng.random() < 0.7:
                    device.accept().channel.write(rng.randbytes(rng.choice((1, 40_000))))
                    self.fleet.pump()
                self.check(client.server)
            server = client.server
            if not client.wire.over:
                client.wire.cut()
            self.fleet.pump()
            self.assertIsNone(server.service)
            gateway = self.fleet.gateway
            self.assertEqual((0, 0), (gateway.revocation.links_of("ann"), len(gateway._links)))
            entered = "operator {name} entered by ssh from {address}"
            told = ("operator {name} at {address} left", entered)
            self.assertEqual([], [line for line in self.lines if line not in told])

        self.each(run, OPERATORS)
        self.assertEqual(0, len(self.door._waiting))
        # What the device still runs is waited for, and not for ever.
        self.fleet.advance(GRACE_SECONDS + 5, 1)
        self.assertEqual(0, len(self.fleet.gateway.switchboard))
        # That most of them were judged, not cut off with the first.
        self.assertGreater(taken, 20 * OPERATORS)
        self.assertGreater(len(device.requests), 2 * OPERATORS)

    def test_damaged_packets(self) -> None:
        """A stream that is damaged on its way ends at the damage; nothing of it is believed."""
        device: DeviceEnd = self.fleet.dial(self.pump)

        def run(rng: random.Random, host: str) -> None:
            client = self.entered(host)
            self.open(client)
            wire = client.wire
            wire.held = True
            self.fleet.pump()
            client.sendPacket(98, u32(0) + NS(b"exec") + b"\1" + NS(b"id"))
            client.sendPacket(94, u32(0) + NS(bytes(300)))
            packets = list(wire.dialler.waiting)
            wire.dialler.waiting.clear()
            before = len(device.requests)
            good = b"".join(packets)
            bad = mutated(rng, packets[0]) + packets[1]
            wire.held = False
            if bad != good:
                wire.dialler.write(bad)
                # Whatever length a damaged packet claims, so much is more than there may be.
                wire.dialler.write(bytes(1 << 20))
                self.fleet.pump()
                self.assertTrue(wire.over)
                # A packet that was only cut off behind its end was whole.
                whole = bad.startswith(packets[0])
                self.assertEqual(before + whole, len(device.requests))

        self.each(run, LARGE)
