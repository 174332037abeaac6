"""An SSH client that does what a test says, packet by packet, joined to the door in memory."""

from __future__ import annotations

import struct
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed

from rshell.doors.ssh.door import SshDoor
from rshell.doors.ssh.transport import QuietLogger, Rekeying, SshTransport
from rshell.identity.ssh_keys import read_blob
from tests.gateway.ends import DeviceEnd
from tests.gateway.fleet import FleetTestCase
from tests.gateway.wires import Wire

__all__ = ["Client", "SshTestCase", "channel_of", "u32"]


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}L", *numbers)


class Client(SSHClientTransport):
    """A client's transport: it agrees on keys by itself, the rest is the test's.

    Attributes:
        packets: What came after the keys, (number, payload), oldest first.
        goodbye: The server's last words.
        secure: How many times keys were agreed.
    """

    _log: Any = QuietLogger()
    supportedKeyExchanges = [b"curve25519-sha256"]  # conch's own shape
    supportedPublicKeys = [b"ssh-ed25519"]
    supportedCiphers = [b"aes256-ctr"]
    supportedMACs = [b"hmac-sha2-256"]
    supportedCompressions = [b"none"]

    def __init__(self) -> None:
        self.packets: list[tuple[int, bytes]] = []
        self.goodbye: bytes | None = None
        self.lost = False
        self.secure = 0
        self.wire: Wire
        self.server: SshTransport

    def verifyHostKey(self, hostKey: bytes, fingerprint: str) -> Deferred[bool]:
        return succeed(True)

    def connectionSecure(self) -> None:
        self.secure += 1

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        self.goodbye = description

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum in (1, 20, 21, 31):
            super().dispatchMessage(messageNum, payload)
        else:
            self.packets.append((messageNum, payload))

    def got(self, number: int) -> list[bytes]:
        """Return the payloads of packets of that number."""
        return [payload for kind, payload in self.packets if kind == number]

    def data(self, extended: bool = False) -> bytes:
        """Return what came on all channels."""
        if extended:
            return b"".join(getNS(payload[8:])[0] for payload in self.got(95))
        return b"".join(getNS(payload[4:])[0] for payload in self.got(94))

    def requests(self) -> dict[bytes, bytes]:
        """Return what the server asked of channels: name and data."""
        pairs = [getNS(payload[4:]) for payload in self.got(98)]
        return {name: rest[1:] for name, rest in pairs}


def channel_of(client: Client) -> tuple[int, int]:
    """Return the server's number of the newest channel, and what it lets us send."""
    _, number, window, _ = struct.unpack(">4L", client.got(91)[-1][:16])
    return number, window


class SshTestCase(FleetTestCase):
    """A fleet with an SSH door, and an operator ``ann`` who has a key."""

    rekeying = Rekeying()

    def setUp(self) -> None:
        super().setUp()
        self.door = SshDoor(
            self.fleet.gateway, Key(ed25519.Ed25519PrivateKey.generate()), rekeying=self.rekeying
        )
        self.private = ed25519.Ed25519PrivateKey.generate()
        self.blob = self.blob_of(self.private)
        self.register(self.blob)

    @staticmethod
    def blob_of(private: ed25519.Ed25519PrivateKey) -> bytes:
        raw = private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        blob: bytes = NS(b"ssh-ed25519") + NS(raw)
        return blob

    def register(self, blob: bytes, operator: str = "ann") -> str:
        key = read_blob(blob)
        store = self.fleet.store
        self.fleet.got(store.add_ssh_keys(operator, [key]))
        return key.fingerprint

    def connect(self, host: str = "192.0.2.77", kind: type[Client] = Client) -> Client:
        """Connect and agree on keys."""
        client = kind()
        server: Any = self.door.buildProtocol(IPv4Address("TCP", host, 40_000))
        client.server = server
        client.wire = Wire(client, server, host, 40_000)
        self.fleet.wires.append(client.wire)
        server.makeConnection(client.wire.gateway)
        client.makeConnection(client.wire.dialler)
        self.fleet.pump()
        return client

    def ask_for_login(self, client: Client) -> None:
        client.sendPacket(5, NS(b"ssh-userauth"))
        self.fleet.pump()

    def try_login(
        self,
        client: Client,
        user: bytes = b"pump-1",
        private: ed25519.Ed25519PrivateKey | None = None,
        flags: bytes = b"\1",
    ) -> None:
        """Send a signed login."""
        private = private or self.private
        blob = self.blob_of(private)
        body = bytes(NS(user) + NS(b"ssh-connection") + NS(b"publickey") + flags)
        body += NS(b"ssh-ed25519") + NS(blob)
        if flags == b"\1":
            signature = private.sign(NS(client.sessionID) + bytes((50,)) + body)
            body += NS(NS(b"ssh-ed25519") + NS(signature))
        client.sendPacket(50, body)
        self.fleet.pump()

    def login(self, user: bytes = b"pump-1", **more: Any) -> Client:
        """Connect and log in."""
        client = self.connect(**more)
        self.ask_for_login(client)
        self.try_login(client, user)
        self.assertEqual(1, len(client.got(52)), (client.packets, client.goodbye))
        return client

    def open(
        self,
        client: Client,
        kind: bytes = b"session",
        window: int = 1 << 21,
        packet: int = 32768,
        extra: bytes = b"",
    ) -> None:
        """Ask for a channel."""
        client.sendPacket(90, NS(kind) + u32(7, window, packet) + extra)
        self.fleet.pump()

    def ask(self, client: Client, number: int, name: bytes, data: bytes = b"") -> None:
        """Send a channel request that wants an answer."""
        client.sendPacket(98, u32(number) + NS(name) + b"\1" + data)
        self.fleet.pump()

    def send(self, client: Client, number: int, data: bytes) -> None:
        """Send data on a channel."""
        client.sendPacket(94, u32(number) + NS(data))
        self.fleet.pump()

    def running(
        self, command: bytes = b"id", window: int = 1 << 21, **more: Any
    ) -> tuple[Any, DeviceEnd]:
        """Return a client whose command has come to the device, which has not answered."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login(**more)
        self.open(client, window=window)
        self.ask(client, 0, b"exec", NS(command))
        return client, device
