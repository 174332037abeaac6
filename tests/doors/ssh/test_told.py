"""What the door says by itself: what is not served, why a device is away, and what it counts."""

from __future__ import annotations

from twisted.conch.ssh.common import NS

from rshell.gateway.absences import ABSENCE_SECONDS
from rshell.handlers import Outcome
from tests.doors.ssh.client import Client, SshTestCase, u32
from tests.gateway.ends import DeviceEnd

X11 = b"\0" + NS(b"MIT-MAGIC-COOKIE-1") + NS(b"00") + u32(0)


class RefusedTests(SshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: DeviceEnd = self.fleet.dial(self.pump)

    def _asked(self, kind: bytes, data: bytes) -> bytes:
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"auth-agent-req@openssh.com")
        self.ask(client, 0, b"x11-req", X11)
        self.ask(client, 0, b"x11-req", X11)
        self.assertEqual(3, len(client.got(100)))
        self.ask(client, 0, kind, data)
        self.assertEqual(1, len(client.got(99)))
        return client.data(extended=True)

    def test_agent_and_x11(self) -> None:
        """Agent and X11 forwarding are refused in words, each once, and the command runs."""
        lines = self._asked(b"exec", NS(b"id")).splitlines()
        self.assertEqual(2, len(lines))
        self.assertTrue(lines[0].startswith(b"rshell: agent forwarding (-A) is refused"))
        self.assertIn(b"X11", lines[1])

    def test_programs(self) -> None:
        """sftp, which a program reads, is not told."""
        self.assertEqual(b"", self._asked(b"subsystem", NS(b"sftp")))


class AbsenceTests(SshTestCase):
    def _said(self, kind: bytes = b"exec", data: bytes = NS(b"id")) -> str:
        client = self.login()
        self.open(client)
        self.ask(client, 0, kind, data)
        return self._ended(client)

    def _ended(self, client: Client) -> str:
        self.fleet.pump()
        self.assertEqual(u32(255), client.requests()[b"exit-status"])
        text = client.data(extended=True).decode()
        self.assertRegex(text, r"\Arshell: [^\n]+\n\Z")
        return text

    def test_lost(self) -> None:
        """When it was seen, how long it has been away and why, as `rshell why` has it."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        self.fleet.advance(100)
        device.wire.cut()
        self.fleet.advance(65)
        words = r"pump-1 is offline: last seen .* UTC; away for 1 min \d+ s; lost: .*\(the link "
        words += r"lived .*\); it does not check in, .* \(see: rshell why pump-1\)"
        self.assertRegex(self._said(), words)
        self.assertRegex(self._said(b"subsystem", NS(b"sftp")), words)

    def test_never(self) -> None:
        """A device that never came says so."""
        self.assertRegex(
            self._said(), "pump-1 is offline: it has never connected; it does not check in"
        )

    def test_refused(self) -> None:
        """A device that is turned away is not said to be silent."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        device.wire.cut()
        self.fleet.advance(5)
        self.fleet.gateway.flights.refused(
            self.pump.owner, "192.0.2.1", "policy", "its \x1b is bad"
        )
        said = self._said()
        self.assertIn("refused: policy: its ", said)
        self.assertNotIn("\x1b", said)

    def test_slow_store(self) -> None:
        """A store that takes its time does not keep anybody waiting for these words."""
        client = self.login()
        self.open(client)
        self.fleet.threads.hold("write")
        self.ask(client, 0, b"exec", NS(b"id"))
        self.fleet.threads.hold("read")
        while self.fleet.threads.held and b"exit-status" not in client.requests():
            held = self.fleet.threads.held
            self.fleet.threads.release_one()
            self.fleet.pump()
            if self.fleet.threads.held >= held:
                break
        self.assertNotIn(b"exit-status", client.requests())
        self.fleet.advance(ABSENCE_SECONDS + 0.5)
        self.assertIn("pump-1 is offline", self._ended(client))
        self.fleet.threads.release()
        self.fleet.pump()

    def test_left_meanwhile(self) -> None:
        """Who leaves before is told nothing, and nothing breaks."""
        client = self.login()
        self.open(client)
        self.fleet.threads.hold("read", "write")
        self.ask(client, 0, b"exec", NS(b"id"))
        client.sendPacket(97, u32(0))
        client.wire.cut()
        self.fleet.threads.release()
        self.fleet.advance(5)
        self.assertEqual(0, len(self.fleet.gateway.switchboard))


class MetricsTests(SshTestCase):
    def _metrics(self) -> dict[str, float]:
        text = self.fleet.gateway.metrics.exposition(self.fleet.gateway)
        lines = [line for line in text.splitlines() if line.startswith("rshell_ssh_")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def test_counted(self) -> None:
        """Connections, logins, penalties, channels and bytes are counted."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        stranger = self.connect("192.0.2.5")
        self.ask_for_login(stranger)
        self.try_login(stranger, flags=b"\0")
        self.assertEqual(1.0, self._metrics()['rshell_ssh_connections{state="waiting"}'])
        stranger.wire.cut()
        client = self.login()
        self.open(client)
        self.open(client, b"x11")
        self.ask(client, 0, b"exec", NS(b"id"))
        device.accept().channel.write(bytes(5000))
        self.fleet.pump()
        found = self._metrics()
        wanted = {
            'rshell_ssh_connections{state="in"}': 1,
            'rshell_ssh_connections{state="waiting"}': 0,
            'rshell_ssh_channels{kind="session"}': 1,
            'rshell_ssh_channels_opened_total{kind="session"}': 1,
            "rshell_ssh_channels_refused_total": 1,
            'rshell_ssh_logins_total{method="key",outcome="ok"}': 1,
            'rshell_ssh_penalties_total{reason="nothing"}': 1,
            "rshell_ssh_sources_waiting": 1,
            "rshell_ssh_turned_away_total": 0,
            "rshell_ssh_handshakes_total": 1,
        }
        self.assertEqual(wanted, {name: found.get(name) for name in wanted})
        self.assertGreater(found['rshell_ssh_bytes_total{direction="out"}'], 5000)
        self.assertGreater(found["rshell_ssh_handshake_cpu_seconds_total"], 0)

    def test_ended(self) -> None:
        """What has ended is counted no more among what is open."""
        client = self.login()
        self.open(client)
        client.wire.cut()
        self.fleet.pump()
        found = self._metrics()
        self.assertEqual(0, found['rshell_ssh_channels{kind="session"}'])
        self.assertEqual(0, found['rshell_ssh_connections{state="in"}'])


class ForwardEndTests(SshTestCase):
    def test_closed_by_both(self) -> None:
        """A client that closes after both ends leaves the device its time to take the rest."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login()
        target = NS(b"localhost") + u32(80) + NS(b"127.0.0.1") + u32(1)
        self.open(client, b"direct-tcpip", extra=target)
        talk = device.accept()
        talk.channel.send_event("connected", {})
        talk.channel.loseConnection()
        talk.channel.pauseProducing()
        self.fleet.pump()
        self.send(client, 0, b"last words")
        client.sendPacket(96, u32(0))
        client.sendPacket(97, u32(0))
        self.fleet.pump()
        self.assertEqual(b"", bytes(talk.data))
        talk.channel.resumeProducing()
        self.fleet.pump()
        self.assertEqual((b"last words", True), (bytes(talk.data), talk.eof))
        talk.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(1, len(client.got(97)))

    def test_leaves_meanwhile(self) -> None:
        """A connection that ends meanwhile breaks it."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login()
        target = NS(b"localhost") + u32(80) + NS(b"127.0.0.1") + u32(1)
        self.open(client, b"direct-tcpip", extra=target)
        talk = device.accept()
        talk.channel.send_event("connected", {})
        talk.channel.loseConnection()
        self.fleet.pump()
        client.sendPacket(96, u32(0))
        client.sendPacket(97, u32(0))
        client.sendPacket(97, u32(0))
        self.fleet.pump()
        self.assertIsNone(talk.code)
        client.wire.cut()
        self.fleet.pump()
        self.assertEqual("cancelled", talk.code)
