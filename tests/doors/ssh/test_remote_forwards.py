"""``ssh -R`` and ``ssh -J``: what the device is asked, in which order, and what is bounded."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh.common import NS, getNS

from rshell.doors.ssh.connection import MAX_FORWARDS
from rshell.doors.ssh.remote_forwards import MAX_LISTENERS, MAX_WAITING
from rshell.link.core.messages import Outcome
from rshell.store.records import Grant
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.ends import DeviceEnd, Talk

ID = "0" * 31


class RemoteCase(SshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: DeviceEnd = self.fleet.dial(self.pump)

    def request(self, client: Client, kind: bytes, data: bytes) -> None:
        """Send a global request that wants an answer."""
        client.sendPacket(80, NS(kind) + b"\1" + data)
        self.fleet.pump()

    def asked(self, index: int = -1) -> dict[str, Any]:
        """Return what the device was asked."""
        opened = self.device.requests[index][1]
        self.assertEqual("forward", opened.handler)
        return opened.request

    def listening(self, client: Client, host: bytes = b"localhost", port: int = 0) -> Talk:
        """Have the device listen at port 4000."""
        self.request(client, b"tcpip-forward", NS(host) + u32(port))
        talk = self.device.accept()
        talk.channel.send_event("listening", {"host": "127.0.0.1", "port": 4000})
        self.fleet.pump()
        return talk

    def arrive(self, talk: Talk, last: str = "a") -> None:
        """Somebody connects at the device."""
        body = {"id": ID + last, "host": "127.0.0.1", "port": 5000}
        talk.channel.send_event("connection", body)
        self.fleet.pump()

    def confirm(self, client: Client, number: int = 0) -> Talk:
        """Open the client's end, and the device's."""
        client.sendPacket(91, u32(number, 70 + number, 1 << 20, 32768))
        self.fleet.pump()
        talk = self.device.accept()
        self.fleet.pump()
        return talk


class ListenTests(RemoteCase):
    def test_any_port(self) -> None:
        """A client that asks for any port is told which, once the device listens."""
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.assertEqual({"listen": {"host": "localhost", "port": 0}}, self.asked())
        self.assertEqual([], client.got(81))
        self.device.accept().channel.send_event("listening", {"host": "127.0.0.1", "port": 4000})
        self.fleet.pump()
        self.assertEqual([u32(4000)], client.got(81))

    def test_places(self) -> None:
        """A port that was named has no answer but yes; an empty host is every address."""
        client = self.login()
        self.listening(client, b"", 4000)
        self.assertEqual({"listen": {"host": "*", "port": 4000}}, self.asked())
        self.assertEqual([b""], client.got(81))
        self.request(client, b"streamlocal-forward@openssh.com", NS(b"/run/x"))
        self.assertEqual({"listen": {"path": "/run/x"}}, self.asked())

    def test_order(self) -> None:
        """Answers come in the order of the requests, keep-alives among them."""
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.request(client, b"keepalive@openssh.com", b"")
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(1))
        self.assertEqual((1, []), (len(self.device.requests), client.got(82)))
        self.device.accept().channel.send_event("listening", {"port": 4000})
        self.fleet.pump()
        self.assertEqual([81, 82], [kind for kind, _ in client.packets if kind in (81, 82)])
        self.assertEqual(2, len(self.device.requests))
        self.device.refuse("policy", "no")
        self.fleet.pump()
        self.assertEqual([81, 82, 82], [kind for kind, _ in client.packets if kind in (81, 82)])

    def test_refused(self) -> None:
        """What the device denies is told, to the session that begins next."""
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"0.0.0.0") + u32(80))
        self.device.refuse("policy", "not \x1b[31mallowed")
        self.fleet.pump()
        self.assertEqual(1, len(client.got(82)))
        self.assertIn(b"-R 0.0.0.0:80 is refused: not", client.got(4)[0])
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"id"))
        text = client.data(extended=True).decode()
        self.assertRegex(text, r"\Arshell: -R 0\.0\.0\.0:80 is refused: not [^\x1b]*allowed\n\Z")

    def test_roles(self) -> None:
        """Without a grant for it nothing is asked of the device."""
        client = self.login()
        self.fleet.add_operator("boss")
        self.fleet.run(self.fleet.gateway.rights.assign("ann", (), ("admin",)))
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.assertEqual((1, []), (len(client.got(82)), self.device.requests))

    def test_role_without_it(self) -> None:
        """A refusal names what would allow it."""
        self.fleet.add_role("ops", Grant(handlers=("exec",), forward=("*",)))
        self.fleet.run(self.fleet.gateway.rights.assign("ann", ("ops",), ()))
        self.fleet.add_operator("boss")
        self.fleet.run(self.fleet.gateway.rights.assign("ann", (), ("admin",)))
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.fleet.pump()
        self.assertEqual((1, []), (len(client.got(82)), self.device.requests))
        (told,) = client.got(4)
        words = "role ops grants no listening there on pump-1; it takes: rshell roles set ... "
        self.assertIn((words + "--forward-back localhost:*").encode(), told)

    def test_away(self) -> None:
        """A device that is away ends a connection that has no session, with words."""
        self.device.wire.cut()
        self.fleet.advance(1)
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.fleet.advance(1)
        assert client.goodbye is not None
        self.assertIn(b"pump-1 is offline", client.goodbye)

    def test_limits(self) -> None:
        """So many places at most, ports that are ports, and no crowd of requests."""
        client = self.login()
        for _ in range(MAX_LISTENERS):
            self.listening(client)
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(65536))
        self.assertEqual((MAX_LISTENERS, 2), (len(client.got(81)), len(client.got(82))))
        client = self.login()
        for _ in range(MAX_WAITING + 2):
            client.sendPacket(80, NS(b"tcpip-forward") + b"\1" + NS(b"localhost") + u32(0))
        self.fleet.pump()
        self.assertTrue(client.lost)
        client = self.login()
        self.request(client, b"tcpip-forward", NS(b"localhost"))
        self.assertTrue(client.lost)

    def test_cancel(self) -> None:
        """A place is cancelled by what was asked for, or the port that was told; once."""
        client = self.login()
        talk = self.listening(client)
        for data, good in (
            (NS(b"localhost") + u32(9), False),
            (NS(b"0.0.0.0") + u32(4000), False),
            (NS(b"localhost") + u32(4000), True),
            (NS(b"localhost") + u32(4000), False),
        ):
            before = len(client.got(81))
            self.request(client, b"cancel-tcpip-forward", data)
            self.assertEqual(good, len(client.got(81)) > before)
        self.assertEqual("cancelled", talk.code)

    def test_ends_with_the_connection(self) -> None:
        """The device listens no longer than the connection lives."""
        client = self.login()
        talk = self.listening(client)
        self.arrive(talk)
        client.wire.cut()
        self.fleet.pump()
        self.assertEqual("cancelled", talk.code)
        self.assertEqual(0, len(self.fleet.gateway.switchboard))

    def test_device_stops(self) -> None:
        """A device that listens no more ends a connection without a session; others are told."""
        with_session, without = self.login(), self.login()
        self.open(with_session)
        self.ask(with_session, 0, b"exec", NS(b"id"))
        for client in (with_session, without):
            talk = self.listening(client)
            talk.channel.finish(Outcome(status="refused", code="policy", message="changed"))
            self.fleet.pump()
        words = b"pump-1 listens no more at localhost:0: changed"
        self.assertEqual((words, None), (without.goodbye, with_session.goodbye))
        self.assertIn(words, with_session.data(extended=True))

    def test_console(self) -> None:
        """The console is no device that could listen."""
        client = self.login(b"console")
        self.request(client, b"tcpip-forward", NS(b"localhost") + u32(0))
        self.assertEqual((1, []), (len(client.got(82)), self.device.requests))


class ConnectionTests(RemoteCase):
    def test_both_ways(self) -> None:
        """A connection at the device becomes a channel; bytes and both ends pass."""
        client = self.login()
        self.arrive(self.listening(client))
        (opening,) = client.got(90)
        kind, rest = getNS(opening)
        self.assertEqual(b"forwarded-tcpip", kind)
        host, rest = getNS(rest[12:])
        self.assertEqual((b"localhost", u32(4000)), (host, rest[:4]))
        peer, port = getNS(rest[4:])
        self.assertEqual((b"127.0.0.1", u32(5000)), (peer, port))
        talk = self.confirm(client)
        self.assertEqual({"accept": ID + "a"}, self.asked())
        talk.channel.write(b"hello")
        self.send(client, 0, b"there")
        self.assertEqual((b"hello", b"there"), (client.data(), bytes(talk.data)))
        talk.channel.loseConnection()
        self.fleet.pump()
        self.assertEqual(1, len(client.got(96)))
        client.sendPacket(96, u32(0))
        client.sendPacket(97, u32(0))
        self.fleet.pump()
        # The client is done, and the device is not: all that was sent arrives.
        self.assertTrue(talk.eof)
        self.assertEqual((None, 0), (talk.code, len(client.got(97))))
        talk.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(1, len(client.got(97)))

    def test_closed_early(self) -> None:
        """A client that closes in the middle breaks the connection at the device."""
        client = self.login()
        self.arrive(self.listening(client))
        talk = self.confirm(client)
        client.sendPacket(97, u32(0))
        self.fleet.pump()
        self.assertEqual(("cancelled", 1), (talk.code, len(client.got(97))))

    def test_not_wanted(self) -> None:
        """What the client does not open is ended at the device."""
        client = self.login()
        self.arrive(self.listening(client))
        client.sendPacket(92, u32(0, 2) + NS(b"connect failed") + NS(b""))
        self.fleet.pump()
        self.assertEqual({"accept": ID + "a", "drop": True}, self.asked())

    def test_gone_meanwhile(self) -> None:
        """A connection that is gone by then is closed at the client."""
        client = self.login()
        self.arrive(self.listening(client))
        client.sendPacket(91, u32(0, 70, 1 << 20, 32768))
        self.fleet.pump()
        self.device.refuse("not-found", "no such connection waits")
        self.fleet.pump()
        self.assertEqual(1, len(client.got(97)))

    def test_answers_that_nobody_asked_for(self) -> None:
        """Answers for channels that are not ours to open, or twice, end the connection."""
        for packet, number in ((91, 5), (92, 5), (91, 0)):
            client = self.login()
            self.open(client, b"direct-tcpip", extra=NS(b"localhost") + u32(80) + NS(b"") + u32(0))
            client.sendPacket(packet, u32(number, 1, 1 << 20, 32768) + NS(b"") + NS(b""))
            self.fleet.pump()
            self.assertTrue(client.lost)
        client = self.login()
        self.arrive(self.listening(client))
        self.confirm(client)
        client.sendPacket(91, u32(0, 70, 1 << 20, 32768))
        self.fleet.pump()
        self.assertTrue(client.lost)

    def test_many(self) -> None:
        """So many channels at once; the next connection waits at the device until one is free."""
        client = self.login()
        talk = self.listening(client)
        for index in range(MAX_FORWARDS + 1):
            body = {"id": f"{index:032x}", "host": "", "port": 0}
            talk.channel.send_event("connection", body)
            self.fleet.pump()
            if index % 64 == 0:
                self.fleet.advance(2)  # devices may not send events without end
        self.assertEqual(MAX_FORWARDS, len(client.got(90)))
        client.sendPacket(92, u32(0, 2) + NS(b"") + NS(b""))
        self.fleet.pump()
        self.assertEqual(MAX_FORWARDS + 1, len(client.got(90)))


class JumpTests(RemoteCase):
    def _jump(self, client: Client, host: bytes, port: int = 22) -> None:
        target = NS(host) + u32(port) + NS(b"127.0.0.1") + u32(1)
        self.open(client, b"direct-tcpip", extra=target)

    def test_jump(self) -> None:
        """On the console a host is a device, and the port its own, by the right to forward."""
        self.fleet.run(self.fleet.gateway.rights.assign("ann", ("berlin",), ("admin",)))
        client = self.login(b"console")
        self._jump(client, b"pump-1")
        opened = self.device.requests[-1][1]
        self.assertEqual(("forward", None), (opened.handler, opened.login))
        self.assertEqual({"host": "localhost", "port": 22}, self.asked())
        talk = self.device.accept()
        talk.channel.send_event("connected", {"host": "127.0.0.1", "port": 22})
        talk.channel.write(b"SSH-2.0-x")
        self.fleet.pump()
        self.assertEqual((1, b"SSH-2.0-x"), (len(client.got(91)), client.data()))

    def setUp(self) -> None:
        super().setUp()
        self.fleet.add_role("berlin", Grant(select="name=pump-1", forward=("localhost:22",)))

    def test_refused(self) -> None:
        """Another port of a device of theirs is refused with the reason; a device that is not
        theirs, one that is not there, other hosts and sockets as what does not exist.
        """
        self.fleet.enrol("pump-8")
        self.fleet.run(self.fleet.gateway.rights.assign("ann", ("berlin",), ("admin",)))
        client = self.login(b"console")
        self._jump(client, b"pump-1", 23)
        for host in (b"pump-8", b"pump-9", b"localhost", b"10.0.0.1", b"", b"\x1b[2J"):
            self._jump(client, host)
        self.open(client, b"direct-streamlocal@openssh.com", extra=NS(b"/x") + NS(b"") + u32(0))
        texts = [getNS(payload[8:])[0].decode() for payload in client.got(92)]
        self.assertEqual(8, len(texts))
        self.assertTrue(all(text.isprintable() and text for text in texts), texts)
        words = "role berlin grants no forward to that target on pump-1; "
        self.assertIn(words + "it takes: rshell roles set ... --forward localhost:23", texts[0])
        self.assertTrue(texts[1].startswith("there is no device 'pump-8'"))
        self.assertEqual(texts[1], texts[2].replace("pump-9", "pump-8"))
        self.assertEqual([], self.device.requests)
        # The right to forward is none to the console.
        self.open(client)
        self.ask(client, channel(client), b"exec", NS(b"1"))
        self.assertEqual([], client.got(94))

    def test_away(self) -> None:
        """A device that is away is told with what is known of it."""
        self.device.wire.cut()
        self.fleet.advance(5)
        client = self.login(b"console")
        self._jump(client, b"pump-1")
        text = getNS(client.got(92)[-1][8:])[0].decode()
        self.assertRegex(
            text,
            r"\Apump-1 is offline: last seen [^;]*; away for 5.* s; lost: .*; it does not check",
        )


def channel(client: Client) -> int:
    """Return the server's number of the newest channel."""
    return int(struct.unpack(">2L", client.got(91)[-1][:8])[1])
