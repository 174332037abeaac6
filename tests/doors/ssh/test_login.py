"""Who is let in by a key, who is not, and how often somebody may try."""

from __future__ import annotations

import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.common import NS, getNS
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from rshell.doors.ssh.authentication import MAX_TRIES
from rshell.doors.ssh.names import BadUserName, Destination, read_user_name
from rshell.doors.ssh.penalties import MAX_SECONDS, MAX_SOURCES, Penalties, source_of
from rshell.doors.ssh.turned_away import LINGER_SECONDS, MAX_HEARD, MAX_LINGERING
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.wires import MemoryTransport


class HalfClosing(MemoryTransport):
    """Knows whether its own direction was closed."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class LoginTests(SshTestCase):
    def _asked(self, client: Client, method: bytes, rest: bytes = b"") -> None:
        client.sendPacket(50, NS(b"pump-1") + NS(b"ssh-connection") + NS(method) + rest)
        self.fleet.pump()

    def test_methods(self) -> None:
        """none tells what there is: public keys; passwords are not asked for."""
        client = self.connect()
        self.ask_for_login(client)
        self._asked(client, b"none")
        self._asked(client, b"password", b"\0" + NS(b"secret"))
        self._asked(client, b"keyboard-interactive", NS(b"") + NS(b""))
        self.assertEqual([NS(b"publickey") + b"\0"] * 3, client.got(51))

    def test_offered_first(self) -> None:
        """A known key that is offered is asked to sign; an unknown one is refused."""
        client = self.connect()
        self.ask_for_login(client)
        self.try_login(client, flags=b"\0")
        self.assertEqual([NS(b"ssh-ed25519") + NS(self.blob)], client.got(60))
        self.try_login(client, private=ed25519.Ed25519PrivateKey.generate(), flags=b"\0")
        self.assertEqual((1, 1), (len(client.got(60)), len(client.got(51))))
        self.try_login(client)
        self.assertEqual(1, len(client.got(52)))

    def test_entered(self) -> None:
        """Who enters is in the audit with the key, and the key knows when."""
        self.login()
        (row,) = self.fleet.audit("operator.entered", door="ssh")
        self.assertEqual(("ann", "192.0.2.77:40000"), (row.record.operator, row.record.address))
        (key,) = self.fleet.got(self.fleet.store.ssh_keys("ann"))
        self.assertEqual(key.fingerprint, row.record.details["key"])
        self.assertIsNotNone(key.last_used)
        self.assertEqual({}, self.door._waiting)
        self.assertEqual(0, len(self.door.penalties))

    def test_wrong_signatures(self) -> None:
        """A signature of another key, session, user or algorithm does not let in."""
        other = ed25519.Ed25519PrivateKey.generate()
        client = self.connect()
        self.ask_for_login(client)
        assert client.sessionID is not None
        body = NS(b"pump-1") + NS(b"ssh-connection") + NS(b"publickey") + b"\1"
        rest = NS(b"ssh-ed25519") + NS(self.blob)
        right = NS(client.sessionID) + bytes((50,)) + body + rest
        bad = [
            NS(NS(b"ssh-ed25519") + NS(other.sign(right))),
            NS(NS(b"ssh-ed25519") + NS(self.private.sign(right[4:]))),
            NS(NS(b"ssh-ed25519") + NS(self.private.sign(right.replace(b"pump-1", b"pump-2")))),
            NS(NS(b"ssh-rsa") + NS(self.private.sign(right))),
            NS(b""),
        ]
        for signature in bad:
            client.sendPacket(50, body + rest + signature)
            self.fleet.pump()
        self.assertEqual((5, 0), (len(client.got(51)), len(client.got(52))))
        good = NS(NS(b"ssh-ed25519") + NS(self.private.sign(right)))
        client.sendPacket(50, body + rest + good)
        self.fleet.pump()
        self.assertEqual(1, len(client.got(52)))

    def test_tries(self) -> None:
        """The sixth wrong key is the last."""
        client = self.connect()
        self.ask_for_login(client)
        for _ in range(MAX_TRIES + 2):
            if not client.lost:
                self.try_login(client, private=ed25519.Ed25519PrivateKey.generate())
        self.assertEqual(MAX_TRIES - 1, len(client.got(51)))
        self.assertEqual(b"too many authentication failures", client.goodbye)

    def turned_away(self) -> tuple[Any, HalfClosing]:
        turned: Any = self.door.buildProtocol(IPv4Address("TCP", "192.0.2.77", 1))
        transport = HalfClosing("192.0.2.77", 1)
        turned.makeConnection(transport)
        return turned, transport

    def test_turned_away_may_read_why(self) -> None:
        """What a client sends unasked meets no reset; but nobody is waited for for long."""
        self.door.penalties.add("192.0.2.77", 1_000)
        reader, left = self.turned_away()
        reader.dataReceived(b"SSH-2.0-x\r\n" + b"k" * 2_000)
        self.assertEqual((left.half_closed, left.aborted), (True, False))
        reader.connectionLost()
        flood, flooding = self.turned_away()
        flood.dataReceived(b"x" * (MAX_HEARD + 1))
        self.assertTrue(flooding.aborted)
        flood.connectionLost()
        silent = [self.turned_away()[1] for _ in range(MAX_LINGERING)]
        _, beyond = self.turned_away()
        self.assertEqual((beyond.half_closed, beyond.disconnecting), (False, True))
        self.assertEqual([one.aborted for one in silent], [False] * MAX_LINGERING)
        self.fleet.advance(LINGER_SECONDS + 1)
        self.assertEqual([one.aborted for one in silent], [True] * MAX_LINGERING)
        self.assertFalse(left.aborted)

    def test_penalties(self) -> None:
        """A source that fails on and on is turned away, others are not; in time it may again."""
        for _ in range(4):
            client = self.connect()
            self.ask_for_login(client)
            self.try_login(client, private=ed25519.Ed25519PrivateKey.generate())
            client.wire.cut()
        _, transport = self.turned_away()
        version, _, packet = b"".join(transport.sent).partition(b"\r\n")
        self.assertTrue(version.startswith(b"SSH-2.0-"))
        self.assertEqual(0, len(packet) % 8)
        length, padding = struct.unpack(">LB", packet[:5])
        self.assertEqual((len(packet) - 4, True), (length, padding >= 4))
        self.assertEqual(b"\x01" + u32(12), packet[5:10])
        self.assertIn(b"try again", getNS(packet[10:])[0])
        self.assertTrue(transport.half_closed)
        self.login(host="192.0.2.78")
        self.fleet.advance(20)
        self.login()

    def test_revoked(self) -> None:
        """A revoked operator is cut off and their keys are gone, also after a new invite."""
        fleet = self.fleet
        fleet.add_operator("boss")
        client = self.login()
        fleet.run(fleet.gateway.revocation.revoke_operator("ann"))
        fleet.pump()
        self.assertEqual(b"operator ann is revoked", client.goodbye)
        self.assertEqual([], fleet.got(fleet.store.ssh_keys("ann")))
        fleet.add_operator("ann")
        fleet.gateway.revocation.readmit("operator", "ann")
        client = self.connect()
        self.ask_for_login(client)
        self.try_login(client)
        self.assertEqual(1, len(client.got(51)))

    def test_revoked_meanwhile(self) -> None:
        """An operator who is revoked, or a key that is removed, while the row is written."""
        for what in ("operator", "key"):
            fingerprint = self.register(self.blob)
            client = self.connect()
            self.ask_for_login(client)
            self.fleet.threads.hold("write")
            self.try_login(client)
            self.assertEqual([], client.got(52))
            if what == "key":
                removed = self.fleet.store.remove_ssh_key("ann", fingerprint)
                removed.addCallback(
                    lambda key: self.fleet.gateway.revocation.key_removed("ann", key.fingerprint)
                )
            else:
                self.fleet.gateway.revocation._revoked.add(("operator", "ann"))
            self.fleet.threads.release()
            self.fleet.pump()
            self.assertEqual([], client.got(52), what)
            self.fleet.gateway.revocation.readmit("operator", "ann")
        self.assertEqual({}, self.fleet.gateway.revocation._operators)
        self.assertEqual(set(), self.fleet.gateway._links)

    def test_stopping(self) -> None:
        """A gateway that goes down lets nobody in."""
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.gateway.stopping = True
        self.try_login(client)
        self.assertEqual([], client.got(52))

    def test_store_fails(self) -> None:
        """Without a store nobody is let in, and the client is told to try again."""
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.got(self.fleet.store.close())
        self.try_login(client)
        self.assertTrue(client.lost)
        self.assertEqual(b"the gateway failed; try again", client.goodbye)

    def test_malformed(self) -> None:
        """Logins that are no logins end the connection."""
        for packet in (b"", NS(b"a"), NS(b"a") + NS(b"ssh-connection") + NS(b"publickey")):
            client = self.connect()
            self.ask_for_login(client)
            client.sendPacket(50, packet)
            self.fleet.pump()
            self.assertTrue(client.lost, packet)
        client = self.connect()
        self.ask_for_login(client)
        self.fleet.threads.hold("read")
        for _ in range(20):
            self.try_login(client)
        self.assertTrue(client.lost)
        self.fleet.threads.release()
        self.assertEqual([], self.flushLoggedErrors())


class KeyVerbTests(SshTestCase):
    def _call(self, who: str, verb: str, **request: object) -> object:
        operator = self.fleet.dial(self.ann if who == "ann" else self.bob)
        talk = operator.call(f"gateway.keys.{verb}", request=request)
        self.fleet.pump()
        return talk.code if talk.outcome is None else talk.answer()

    def setUp(self) -> None:
        super().setUp()
        self.bob = self.fleet.add_operator("bob", "viewer")

    def test_own_and_others(self) -> None:
        """Everybody manages their own keys; other people's take a role."""
        blob = self.blob_of(ed25519.Ed25519PrivateKey.generate())
        import base64

        line = f"ssh-ed25519 {base64.b64encode(blob).decode()} bob\x1b[2J"
        added = self._call("bob", "add", operator="bob", keys=line)
        assert isinstance(added, list), added
        self.assertTrue(added[0]["comment"].isprintable())
        self.assertEqual(added, self._call("bob", "list", operator="bob"))
        self.assertEqual("policy", self._call("bob", "list"))
        self.assertEqual("policy", self._call("bob", "add", operator="ann", keys=line))
        everybodys = self._call("ann", "list")
        assert isinstance(everybodys, list)
        self.assertEqual(["ann", "bob"], [row["operator"] for row in everybodys])
        # A key is one operator's.
        self.assertEqual("store", self._call("ann", "add", operator="ann", keys=line))
        name = added[0]["fingerprint"]
        self.assertEqual("policy", self._call("bob", "remove", operator="ann", fingerprint=name))
        self.assertEqual("not-found", self._call("ann", "remove", operator="ann", fingerprint=name))
        gone = self._call("bob", "remove", operator="bob", fingerprint=name)
        assert isinstance(gone, dict)
        self.assertEqual(0, gone["connections_closed"])
        self.assertEqual([], self._call("bob", "list", operator="bob"))
        self.assertEqual("not-found", self._call("ann", "add", operator="nobody", keys=line))
        self.assertEqual("bad-request", self._call("ann", "add", operator="ann", keys="x"))


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        """[LOGIN@]DEVICE; a login may hold an @, a device cannot."""
        self.assertEqual(Destination("pump-1"), read_user_name(b"pump-1"))
        self.assertEqual(Destination("pump-1", "root"), read_user_name(b"root@pump-1"))
        self.assertEqual(Destination("pump-1", "a@b.c"), read_user_name(b"a@b.c@pump-1"))
        self.assertTrue(read_user_name(b"console").is_console)

    def test_bad_names(self) -> None:
        """What names no device is refused in words that are safe to show."""
        for bad in (b"", b"@", b"@a", b"a@", b"\xff", b"x" * 65, b"a\x1b[2J", "a\u202eb".encode()):
            with self.assertRaises(BadUserName) as caught:
                read_user_name(bad)
            self.assertTrue(str(caught.exception).isprintable())


class PenaltyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.penalties = Penalties(lambda: self.now)

    def test_sums_up(self) -> None:
        """Time adds up, up to ten minutes, and runs out."""
        for _ in range(3):
            self.penalties.add("192.0.2.1", 5)
        self.assertFalse(self.penalties.refuses("192.0.2.1"))
        self.penalties.add("192.0.2.1", 5)
        self.assertTrue(self.penalties.refuses("192.0.2.1"))
        self.assertFalse(self.penalties.refuses("192.0.2.2"))
        for _ in range(1000):
            self.penalties.add("192.0.2.1", 5)
        self.now = MAX_SECONDS
        self.assertFalse(self.penalties.refuses("192.0.2.1"))
        self.assertEqual(0, len(self.penalties))

    def test_sources(self) -> None:
        """An IPv6 site is one source, and an IPv4 address is the same in IPv6's clothes."""
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::ffff:1"))
        self.assertNotEqual(source_of("2001:db8::1"), source_of("2001:db8:0:1::1"))
        self.assertEqual("192.0.2.1", source_of("::ffff:192.0.2.1"))
        self.assertEqual("fe80::/64", source_of("fe80::1%eth0"))
        self.assertEqual("", source_of(""))

    def test_bounded(self) -> None:
        """A crowd of sources costs a bounded amount of memory."""
        for number in range(MAX_SOURCES + 10):
            self.penalties.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        self.assertEqual(MAX_SOURCES, len(self.penalties))


class AddressTests(SshTestCase):
    def test_ipv6(self) -> None:
        """Addresses are written as elsewhere."""
        transport = self.door.buildProtocol(IPv6Address("TCP", "2001:db8::1", 5))
        self.assertEqual("[2001:db8::1]:5", getattr(transport, "address", None))
        self.assertEqual((b"a", b""), getNS(NS(b"a")))
