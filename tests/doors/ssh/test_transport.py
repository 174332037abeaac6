"""The transport: what is agreed on, in which order packets may come, and what ends a connection."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from rshell.doors.ssh.transport import KEX_SECONDS, LOGIN_GRACE_SECONDS, Rekeying
from rshell.identity.ssh_keys import read_blob
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.wires import MemoryTransport


class StrictClient(Client):
    """A client that asks for strict key exchange, and keeps to it."""

    supportedKeyExchanges = [b"curve25519-sha256", b"kex-strict-c-v00@openssh.com"]

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        super()._keySetup(sharedSecret, exchangeHash)
        self.outgoingPacketSequence = 0

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        self.incomingPacketSequence = 0
        super().ssh_NEWKEYS(packet)


class _PostQuantum(Client):
    """A client for mlkem768x25519-sha256, which conch speaks as a server only."""

    supportedKeyExchanges = [b"mlkem768x25519-sha256"]

    def ssh_KEXINIT(self, packet: bytes) -> None:
        SSHTransportBase.ssh_KEXINIT(self, packet)
        self.kem = mlkem.MLKEM768PrivateKey.generate()
        self.curve = x25519.X25519PrivateKey.generate()
        raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.init = self.kem.public_key().public_bytes(*raw) + self.curve.public_key().public_bytes(
            *raw
        )
        self.sendPacket(30, NS(self.init))

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> None:
        host_key, reply, signature, _ = getNS(packet, 3)
        secret = self.kem.decapsulate(reply[:-32]) + self.curve.exchange(
            x25519.X25519PublicKey.from_public_bytes(reply[-32:])
        )
        shared = NS(hashlib.sha256(secret).digest())
        words: Any = (
            self.ourVersionString,
            self.otherVersionString,
            self.ourKexInitPayload,
            self.otherKexInitPayload,
            host_key,
            self.init,
            reply,
        )
        digest = hashlib.sha256(b"".join(NS(word) for word in words) + shared).digest()
        assert read_blob(host_key).verify(b"ssh-ed25519", signature, digest)
        self._keySetup(shared, digest)


class _Interloper(StrictClient):
    """Somebody on the path slips a packet in before the keys (CVE-2023-48795)."""

    def sendKexInit(self) -> None:
        super().sendKexInit()
        self.sendPacket(2, NS(b"x"))


class AgreementTests(SshTestCase):
    def test_offer(self) -> None:
        """The server offers what is strong, and nothing else."""
        client = self.connect()
        fields = getNS(client.otherKexInitPayload[17:], 8)[:8]
        self.assertEqual(
            [
                b"mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,"
                b"kex-strict-s-v00@openssh.com,ext-info-s",
                b"ssh-ed25519",
                b"aes128-ctr,aes256-ctr",
                b"aes128-ctr,aes256-ctr",
                b"hmac-sha2-256,hmac-sha2-512",
                b"hmac-sha2-256,hmac-sha2-512",
                b"none",
                b"none",
            ],
            list(fields),
        )
        self.assertEqual(1, client.secure)

    def test_post_quantum(self) -> None:
        """The hybrid exchange with ML-KEM agrees on keys."""
        client = self.connect(kind=_PostQuantum)
        self.ask_for_login(client)
        self.assertEqual(NS(b"ssh-userauth"), client.got(6)[0])

    def test_strict(self) -> None:
        """With a strict client packet numbers begin anew with each set of keys."""
        client = self.connect(kind=StrictClient)
        self.ask_for_login(client)
        self.try_login(client)
        self.assertEqual(1, len(client.got(52)))
        client.sendKexInit()
        self.fleet.pump()
        self.assertEqual(2, client.secure)
        self.open(client)
        self.assertEqual(1, len(client.got(91)))

    def test_strict_order(self) -> None:
        """A packet that was slipped in before a strict client's keys ends the connection."""
        client = self.connect(kind=_Interloper)
        self.assertTrue(client.lost)
        self.assertEqual(0, client.secure)

    def test_marker_is_no_exchange(self) -> None:
        """A client that offers the marker as its only exchange gets none."""

        class Marker(Client):
            supportedKeyExchanges = [b"kex-strict-s-v00@openssh.com"]

            def ssh_KEXINIT(self, packet: bytes) -> None:
                SSHTransportBase.ssh_KEXINIT(self, packet)

        client = self.connect(kind=Marker)
        self.assertTrue(client.lost)

    def test_weak(self) -> None:
        """What has nothing strong in common with us gets no connection."""
        weak = {
            "supportedKeyExchanges": [b"diffie-hellman-group14-sha1"],
            "supportedCiphers": [b"aes256-cbc"],
            "supportedMACs": [b"hmac-sha1"],
            "supportedPublicKeys": [b"ssh-rsa"],
            "supportedCompressions": [b"zlib"],
        }
        for name, value in weak.items():
            client = self.connect(kind=type("Weak", (Client,), {name: value}))
            self.assertTrue(client.lost, name)
            self.assertEqual(0, client.secure)
        self.assertEqual([], self.flushLoggedErrors())

    def test_signature_algorithms(self) -> None:
        """The server tells what logins may be signed with: no SHA-1."""

        class Told(Client):
            def sendKexInit(self) -> None:
                self.supportedKeyExchanges = [b"curve25519-sha256"]
                super().sendKexInit()

        info = self.connect(kind=Told).got(7)[0]
        name, value, _ = getNS(info[4:], 2)
        self.assertEqual(b"server-sig-algs", name)
        self.assertIn(b"sk-ssh-ed25519@openssh.com", value.split(b","))
        self.assertNotIn(b"ssh-rsa", value.split(b","))


class OrderTests(SshTestCase):
    def _ends(self, client: Client, number: int, payload: bytes = b"") -> None:
        client.sendPacket(number, payload)
        self.fleet.pump()
        self.assertTrue(client.lost, number)
        self.assertEqual([], self.flushLoggedErrors())

    def test_in_the_clear(self) -> None:
        """Before there are keys no service starts, and no message of one is taken."""
        for number in (5, 6, 21, 31, 50, 80, 90, 94, 192):

            class Early(Client):
                early = number

                def sendKexInit(self) -> None:
                    self.sendPacket(self.early, NS(b"ssh-userauth"))
                    super().sendKexInit()

            client = self.connect(host=f"198.51.100.{number}", kind=Early)
            self.assertTrue(client.lost, number)
        self.assertEqual([], self.flushLoggedErrors())

    def test_before_the_login(self) -> None:
        """Who has not logged in opens no channel, and agrees on keys once."""
        client = self.connect()
        self.ask_for_login(client)
        self._ends(client, 90, NS(b"session") + u32(0, 1, 1000))
        client = self.connect()
        self._ends(client, 5, NS(b"ssh-connection"))
        client = self.connect()
        client.sendKexInit()
        self.fleet.pump()
        self.assertTrue(client.lost)

    def test_malformed(self) -> None:
        """Packets that are cut short, or make no sense, end the connection without a traceback."""
        bad = [
            (90, b""),
            (90, NS(b"session") + u32(1)),
            (90, u32(2**32 - 1)),
            (94, u32(5) + NS(b"x")),
            (94, b"\0"),
            (93, u32(0)),
            (98, u32(0) + b"\0"),
            (80, b""),
            (31, b""),
            (30, b"x"),
            (21, b""),
            (91, u32(0, 0, 0, 0)),
            (192, b""),
        ]
        for number, payload in bad:
            self._ends(self.login(), number, payload)

    def test_second_login(self) -> None:
        """Logins after the login are ignored; services are not started twice."""
        client = self.login()
        self.try_login(client)
        self.open(client)
        self.assertEqual(1, len(client.got(91)))
        self._ends(client, 5, NS(b"ssh-userauth"))

    def test_garbage(self) -> None:
        """A peer that speaks no SSH, or far too much, is cut off; nothing is kept of it."""
        for text in (b"GET / HTTP/1.0\r\n" * 400, b"SSH-1.5-old\r\n", b"\0" * 5000):
            server: Any = self.connect().server
            fresh: Any = self.door.buildProtocol(server.transport.getPeer())
            wire = server.transport.__class__("192.0.2.9", 1)
            fresh.makeConnection(wire)
            fresh.dataReceived(text)
            self.assertTrue(fresh.closing, text[:20])
            fresh.connectionLost()

    def test_version(self) -> None:
        """The version is the first line, short, and of SSH 2; it may come in pieces."""
        long = b"SSH-2.0-" + b"x" * 245 + b"\r\n"
        for text, fine in (
            (b"SSH-2.0-x\r\n", True),
            (b"SSH-1.99-x y\n", True),
            (long, True),
            (b"x" + long, False),
            (long[:8] + b"x" + long[8:], False),
            (b"SSH-2.1-x\r\n", False),
            (b"hello\r\nSSH-2.0-x\r\n", False),
            (b"\nSSH-2.0-x\r\n", False),
            (u32(12) + bytes(12) + b"SSH-2.0-x\r\n", False),
        ):
            for size in (1, len(text)):
                server: Any = self.door.buildProtocol(
                    IPv4Address("TCP", f"192.0.2.{size % 250}", 1)
                )
                server.makeConnection(MemoryTransport("192.0.2.9", 1))
                for at in range(0, len(text), size):
                    server.dataReceived(text[at : at + size])
                self.assertEqual((fine, not fine), (server.gotVersion, server.closing), text)
                server.connectionLost()

    def test_first_segment(self) -> None:
        """A client that has much to offer may send it along with its version."""

        class Eager(Client):
            supportedKeyExchanges = [
                *(b"a-key-exchange-nobody-has-%04d" % n for n in range(300)),
                b"curve25519-sha256",
            ]

            def connectionMade(self) -> None:
                super().connectionMade()
                wire = self.transport
                words = list(wire.waiting)
                wire.waiting.clear()
                wire.waiting.append(b"".join(words))

        client = self.connect(kind=Eager)
        self.assertGreater(sum(map(len, client.wire.dialler.sent[:2])), 8192)
        self.assertEqual(1, client.secure)

    def test_damaged(self) -> None:
        """A flipped bit ends the connection."""
        client = self.login()
        client.wire.dialler.write(bytes(64))
        self.fleet.pump()
        self.assertTrue(client.lost)


class TimeTests(SshTestCase):
    def test_grace(self) -> None:
        """Who does not log in within half a minute is cut off, and nobody sooner."""
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.advance(LOGIN_GRACE_SECONDS - 1)
        self.assertFalse(client.lost)
        self.fleet.advance(1.5)
        self.assertTrue(client.lost)
        self.assertEqual(1, len(self.door.penalties))
        self.assertEqual({}, self.door._waiting)

    def test_grace_is_over_with_the_login(self) -> None:
        """Who has logged in stays."""
        client = self.login()
        self.fleet.advance(LOGIN_GRACE_SECONDS * 2)
        self.assertFalse(client.lost)


class RekeyTests(SshTestCase):
    rekeying = Rekeying(limit_bytes=100_000, limit_seconds=600.0)

    def test_by_time(self) -> None:
        """New keys are agreed upon after the time, and the connection goes on."""
        client = self.login()
        self.fleet.advance(599)
        self.assertEqual(1, client.secure)
        self.fleet.advance(2)
        self.assertEqual(2, client.secure)
        self.open(client)
        self.assertEqual(1, len(client.got(91)))

    def test_by_bytes(self) -> None:
        """New keys are agreed upon after the bytes, in the middle of output that loses none."""
        client, device = self.running()
        talk = device.accept()
        data = bytes(range(256)) * 1000
        talk.channel.write(data[:128_000])
        self.fleet.pump()
        talk.channel.write(data[128_000:])
        self.fleet.pump()
        self.assertEqual(data, client.data())
        self.assertGreaterEqual(client.secure, 3)

    def test_nothing_is_sent_meanwhile(self) -> None:
        """While keys change, output waits at the device, not in our memory."""
        client, device = self.running()
        talk = device.accept()
        self.fleet.pump()
        client.wire.held = True
        client.server._rekey()
        talk.channel.write(bytes(300_000))
        self.fleet.pump()
        self.assertLessEqual(len(client.server._blockedByKeyExchange or ()), 2)
        self.assertGreater(talk.channel.end.retained, 200_000)
        client.wire.held = False
        self.fleet.pump()
        self.assertEqual(300_000, len(client.data()))

    def test_never_finished(self) -> None:
        """A peer that does not answer our keys is cut off."""
        client = self.login()
        client.wire.held = True
        client.server._rekey()
        self.fleet.advance(KEX_SECONDS + 1)
        client.wire.held = False
        self.fleet.pump()
        self.assertTrue(client.lost)


class FloodTests(SshTestCase):
    def test_answers_nobody_reads(self) -> None:
        """A peer that asks on and on and does not read is cut off before it costs memory."""
        client = self.login()
        client.server.pauseProducing()
        for _ in range(100_000):
            if client.server.closing:
                break
            client.server.dispatchMessage(90, NS(b"nonsense") + struct.pack(">3L", 0, 1, 1000))
        self.assertTrue(client.server.closing)

    def test_many_strangers(self) -> None:
        """At the limit of connections without a login, the oldest of the busiest source goes."""
        quiet = self.connect(host="198.51.100.1")
        crowd = [self.connect(host="203.0.113.9") for _ in range(130)]
        self.assertFalse(quiet.lost)
        self.assertTrue(crowd[0].lost)
        self.assertFalse(crowd[-1].lost)
        self.assertEqual(128, len(self.door._waiting))


class InterfaceTests(SshTestCase):
    def test_producers(self) -> None:
        """What TCP and devices pause and resume provides the interface for it."""
        client = self.login()
        self.open(client)
        verifyObject(IPushProducer, client.server)
        (channel,) = client.server.service._channels.values()
        verifyObject(IPushProducer, channel)
