"""Sessions behind the door: what a device gets, what a client gets, and what is bounded."""

from __future__ import annotations

import base64
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.common import NS, getNS

from rshell.access.recordings import RecordingPolicy
from rshell.doors.ssh.channel import CREDIT_STEP, LOCAL_WINDOW
from rshell.gateway.parking import GRACE_SECONDS
from rshell.link.core.messages import Outcome, Positions
from rshell.store.records import Grant
from tests.doors.ssh.client import Client, SshTestCase, channel_of, u32
from tests.gateway.ends import DeviceEnd, LastingTalk


def status(client: Client) -> int | None:
    """Return the exit status the client was told."""
    data = client.requests().get(b"exit-status")
    return None if data is None else int(struct.unpack(">L", data)[0])


def pty(columns: int = 80, rows: int = 24, term: bytes = b"xterm-256color") -> bytes:
    """Return the fields of a pty-req."""
    return bytes(NS(term)) + u32(columns, rows, 0, 0) + bytes(NS(b""))


def lasting(device: DeviceEnd) -> LastingTalk:
    """Accept the newest request, as a keeper does."""
    number, request = device.requests[-1]
    talk = LastingTalk(device.link)
    talk.channel.accept(number, request)
    return talk


class RequestTests(SshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: DeviceEnd = self.fleet.dial(self.pump)

    def _request(self) -> dict[str, Any]:
        return self.device.requests[-1][1].request

    def test_exec(self) -> None:
        """exec runs a line on pipes, with the language settings that were sent."""
        client = self.login(b"root@pump-1")
        self.open(client)
        for name in (b"LANG", b"LC_ALL", b"PATH", b"LD_PRELOAD", b"LC_A=B"):
            self.ask(client, 0, b"env", NS(name) + NS(b"x"))
        self.ask(client, 0, b"exec", NS(b"id \xff"))
        self.assertEqual((2 + 1, 3), (len(client.got(99)), len(client.got(100))))
        opened = self.device.requests[-1][1]
        self.assertEqual(("exec", "root", "ann"), (opened.handler, opened.login, opened.operator))
        self.assertEqual(base64.b64encode(b"id \xff").decode(), self._request()["line"])
        self.assertIsNone(self._request().get("terminal"))
        names = [base64.b64decode(name) for name, _ in self._request()["environment"]]
        self.assertEqual([b"LANG", b"LC_ALL"], names)

    def test_shell(self) -> None:
        """pty-req and shell open a login shell on a terminal; sizes and types are tamed."""
        for given, wanted in (
            (pty(), {"rows": 24, "columns": 80, "term": "xterm-256color"}),
            (pty(2**32 - 1, 0, b"\x1b]"), {"rows": 0, "columns": 1000, "term": "xterm"}),
        ):
            client = self.login()
            self.open(client)
            self.ask(client, 0, b"pty-req", given)
            self.ask(client, 0, b"shell")
            self.assertEqual(
                ("shell", wanted),
                (self.device.requests[-1][1].handler, self._request()["terminal"]),
            )

    def test_subsystem(self) -> None:
        """The subsystem sftp is the handler sftp; there is no other."""
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"subsystem", NS(b"netconf"))
        self.assertEqual(1, len(client.got(100)))
        self.ask(client, 0, b"subsystem", NS(b"sftp"))
        self.assertEqual("sftp", self.device.requests[-1][1].handler)

    def test_once(self) -> None:
        """A channel runs one thing; agents, X11 and unknown requests are refused."""
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"a"))
        for name in (
            b"exec",
            b"shell",
            b"pty-req",
            b"auth-agent-req@openssh.com",
            b"x11-req",
            b"_x",
        ):
            self.ask(client, 0, name, NS(b"b"))
        self.assertEqual(6, len(client.got(100)))
        self.assertEqual(1, len(self.device.requests))

    def test_channels(self) -> None:
        """Ten sessions fit a connection; unknown types and tiny packets are refused."""
        client = self.login()
        for _ in range(11):
            self.open(client)
        self.assertEqual((10, 1), (len(client.got(91)), len(client.got(92))))
        self.open(client, b"x11")
        self.open(client, b"direct-tcpip", packet=16)
        self.assertEqual(3, len(client.got(92)))
        client.sendPacket(80, NS(b"keepalive@openssh.com") + b"\1")
        self.fleet.pump()
        self.assertEqual(1, len(client.got(82)))

    def test_window_and_signal(self) -> None:
        """Sizes and signals reach the device at once; a signal that is none is refused."""
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"pty-req", pty())
        self.ask(client, 0, b"shell")
        talk = self.device.accept()
        self.fleet.pump()
        self.ask(client, 0, b"window-change", u32(100, 30, 0, 0))
        self.ask(client, 0, b"signal", NS(b"USR1"))
        self.ask(client, 0, b"signal", NS(b"NOPE"))
        self.assertIn(("window", {"rows": 30, "columns": 100}), talk.events)
        self.assertIn(("signal", {"signal": "USR1"}), talk.events)
        self.assertEqual(1, len(client.got(100)))


class OutcomeTests(SshTestCase):
    def _ended(self, outcome: Outcome) -> Client:
        client, device = self.running()
        talk = device.accept()
        talk.channel.write(b"out")
        talk.channel.write_stderr(b"err")
        talk.channel.finish(outcome)
        self.fleet.pump()
        self.assertEqual((b"out", b"err"), (client.data(), client.data(extended=True)[:3]))
        self.assertEqual((1, 1), (len(client.got(96)), len(client.got(97))))
        return client

    def test_status(self) -> None:
        """The command's own status is the exit status."""
        self.assertEqual(0, status(self._ended(Outcome(status="ok"))))

    def test_failed(self) -> None:
        """So is a failing one; the audit has the session's end, by this door."""
        self.assertEqual(3, status(self._ended(Outcome(status="exit", exit_code=3))))
        begin, end = self.fleet.audit("session")
        self.assertEqual(
            ("ann", "ssh", "exec"), (begin.record.operator, begin.record.door, begin.record.handler)
        )
        self.assertEqual(
            (begin.seq, "exit", 3), (end.refers, end.record.status, end.record.exit_code)
        )
        self.assertEqual(0, len(self.fleet.gateway.switchboard))

    def test_signal(self) -> None:
        """The signal that ended it is told."""
        client = self._ended(Outcome(status="signal", signal="KILL"))
        self.assertEqual(b"KILL", getNS(client.requests()[b"exit-signal"])[0])

    def test_hostile_signal(self) -> None:
        """A signal that is none is an error in words; nothing of it moves the cursor."""
        client = self._ended(Outcome(status="signal", signal="\x1b[2J"))
        self.assertEqual(255, status(client))
        self.assertNotIn(b"\x1b", client.data(extended=True))

    def test_timeout(self) -> None:
        """A time limit is 124, as with timeout(1)."""
        self.assertEqual(124, status(self._ended(Outcome(status="timeout", message="too late"))))

    def test_refused_by_device(self) -> None:
        """What the device refuses is said in its words, made safe."""
        client, device = self.running()
        device.refuse("policy", "login \x1b[31mroot is not allowed")
        self.fleet.pump()
        self.assertEqual(255, status(client))
        text = client.data(extended=True).decode()
        self.assertRegex(text, r"\Arshell: pump-1: login .*root is not allowed.*\n\Z")
        self.assertNotIn("\x1b", text)


class RefusalTests(SshTestCase):
    def _said(self, user: bytes) -> str:
        client = self.login(user)
        self.open(client)
        self.ask(client, 0, b"exec", NS(b"id"))
        self.assertEqual(255, status(client))
        return client.data(extended=True).decode()

    def test_same_words(self) -> None:
        """Who may not use a device reads the same as if there were none."""
        self.fleet.dial(self.pump)
        self.fleet.add_operator("bob", "viewer")
        unknown = self._said(b"pump-9")
        fingerprint = self.register_for("bob")
        self.assertNotEqual("", fingerprint)
        forbidden = self._said(b"pump-1")
        self.assertEqual(unknown.replace("pump-9", "pump-1"), forbidden)

    def register_for(self, operator: str) -> str:
        self.private = ed25519.Ed25519PrivateKey.generate()
        return self.register(self.blob_of(self.private), operator)

    def test_offline(self) -> None:
        """A device that is away is told at once."""
        self.assertIn("pump-1 is offline", self._said(b"pump-1"))

    def test_names(self) -> None:
        """User names that name nothing are explained."""
        for user in (b"", b"\xff", b"@pump-1", b"root@", b"x" * 65, b"a\nb", b"console"):
            self.assertRegex(self._said(user), r"\Arshell: [^\n]+\n\Z")

    def test_store_fails(self) -> None:
        """What cannot be written down is not done."""
        self.fleet.dial(self.pump)
        client = self.login()
        self.open(client)
        self.fleet.got(self.fleet.store.close())
        self.ask(client, 0, b"exec", NS(b"id"))
        self.assertEqual(255, status(client))


class RoleTests(SshTestCase):
    def test_taken_away(self) -> None:
        """A role that is taken away ends what it granted, with a line that says so."""
        client, device = self.running()
        device.accept()
        self.fleet.pump()
        self.fleet.run(self.fleet.gateway.rights.assign("ann", (), ("admin",)))
        self.fleet.pump()
        self.assertEqual(255, status(client))
        self.assertIn(b"no longer granted", client.data(extended=True))
        (end,) = self.fleet.audit("session", code="policy")
        self.assertEqual("ann", end.record.operator)


class FlowTests(SshTestCase):
    def test_credit_follows_the_device(self) -> None:
        """A client may be a window ahead of a device that does not read, and no byte more."""
        client, device = self.running()
        talk = device.accept()
        talk.channel.pauseProducing()
        self.fleet.pump()
        number, window = channel_of(client)
        self.assertEqual(LOCAL_WINDOW, window)
        sent, credit = 0, window
        while credit >= 32768 and sent < 8 * LOCAL_WINDOW:
            self.send(client, number, bytes(32768))
            sent += 32768
            credit = window - sent + sum(struct.unpack(">2L", told)[1] for told in client.got(93))
        # The window, what the device's end takes, and what waits for its link.
        self.assertLess(sent, LOCAL_WINDOW + 512 * 1024)
        talk.channel.resumeProducing()
        self.fleet.pump()
        self.assertEqual(sent, len(talk.data))
        self.send(client, number, bytes(32768))
        credit = (
            window - sent - 32768 + sum(struct.unpack(">2L", told)[1] for told in client.got(93))
        )
        self.assertGreater(credit, LOCAL_WINDOW - CREDIT_STEP - 1)

    def test_beyond_the_window(self) -> None:
        """A client that sends more than it may is cut off."""
        client, device = self.running()
        device.accept().channel.pauseProducing()
        self.fleet.pump()
        number, _ = channel_of(client)
        for _ in range(100):
            if client.lost:
                break
            self.send(client, number, bytes(32768))
        self.assertTrue(client.lost)
        client = self.login()
        self.open(client)
        self.send(client, 0, bytes(32769))
        self.assertTrue(client.lost)

    def test_client_window(self) -> None:
        """Output beyond the client's window stays on the device, in order, on both channels."""
        client, device = self.running(window=1000)
        talk = device.accept()
        talk.channel.write(b"a" * 900)
        talk.channel.write_stderr(b"b" * 900)
        talk.channel.write(b"c" * 500_000)
        talk.channel.finish(Outcome(status="ok"))
        self.fleet.pump()
        self.assertEqual(1000, len(client.data()) + len(client.data(extended=True)))
        self.assertGreater(talk.channel.end.retained, 200_000)
        self.assertIsNone(status(client))
        client.sendPacket(93, u32(0, 2**31))
        self.fleet.pump()
        self.assertEqual(b"a" * 900 + b"c" * 500_000, client.data())
        self.assertEqual(b"b" * 900, client.data(extended=True))
        self.assertEqual(0, status(client))
        client.sendPacket(93, u32(0, 2**32 - 1))
        client.sendPacket(93, u32(0, 2**32 - 1))
        self.fleet.pump()
        self.assertTrue(client.lost)

    def test_full_transport(self) -> None:
        """While TCP takes nothing, nothing is put into its queue."""
        client, device = self.running()
        talk = device.accept()
        self.fleet.pump()
        client.server.pauseProducing()
        talk.channel.write(bytes(500_000))
        self.fleet.pump()
        self.assertEqual(b"", client.data())
        self.assertGreater(talk.channel.end.retained, 200_000)
        client.server.resumeProducing()
        self.fleet.pump()
        self.assertEqual(500_000, len(client.data()))

    def test_input_ends(self) -> None:
        """The end of input reaches the device behind all bytes; output goes on."""
        client, device = self.running()
        talk = device.accept()
        self.fleet.pump()
        self.send(client, 0, b"last")
        client.sendPacket(96, u32(0))
        self.fleet.pump()
        self.assertEqual((b"last", True), (bytes(talk.data), talk.eof))
        talk.channel.write(b"more")
        self.fleet.pump()
        self.assertEqual(b"more", client.data())

    def test_early_input(self) -> None:
        """What is sent before the gate has answered arrives, once, with its end."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login()
        self.open(client)
        self.fleet.threads.hold("write")
        self.ask(client, 0, b"exec", NS(b"cat"))
        self.send(client, 0, b"early")
        client.sendPacket(96, u32(0))
        self.fleet.pump()
        self.assertEqual([], device.requests)
        self.fleet.threads.release()
        self.fleet.pump()
        talk = device.accept()
        self.fleet.pump()
        self.assertEqual((b"early", True), (bytes(talk.data), talk.eof))

    def test_reader_gone(self) -> None:
        """After eow output is dropped, and the next of it brings SIGPIPE, once."""
        client, device = self.running()
        talk = device.accept()
        self.fleet.pump()
        self.ask(client, 0, b"eow@openssh.com")
        self.assertEqual([], talk.events)
        talk.channel.write(b"x" * 5000)
        talk.channel.write(b"y" * 5000)
        talk.channel.write_stderr(b"err")
        self.fleet.pump()
        self.assertEqual([("signal", {"signal": "PIPE"})], talk.events)
        self.assertEqual((b"", b"err"), (client.data(), client.data(extended=True)))


class ToldTests(SshTestCase):
    """What the gateway tells who uses plain ssh: a line on standard error."""

    def setUp(self) -> None:
        super().setUp()
        recording = RecordingPolicy(mode="input", on_failure="mark")
        self.fleet.gateway.recordings.policy = recording
        grant = Grant(handlers=("*",), idle_limit=60, record="input")
        self.fleet.add_role("ops", grant)
        self.fleet.add_operator("zoe", "ops")
        self.private = ed25519.Ed25519PrivateKey.generate()
        self.register(self.blob_of(self.private), "zoe")
        self.device: DeviceEnd = self.fleet.dial(self.pump)
        self.client = self.login()
        self.open(self.client)
        self.ask(self.client, 0, b"pty-req", pty())
        self.ask(self.client, 0, b"shell")
        self.talk = lasting(self.device)
        self.fleet.pump()

    def said(self) -> bytes:
        return self.client.data(extended=True)

    def test_recorded(self) -> None:
        """That input is recorded is said before anything else, once, whatever the link does."""
        self.assertEqual(self.said(), b"rshell: what you type here is recorded, passwords too\r\n")
        self.device.wire.cut()
        again: DeviceEnd = self.fleet.dial(self.pump, dial=2)
        self.fleet.advance(1)
        self.talk.channel.accept(*again.requests[-1], link=again.link)
        self.fleet.pump()
        self.assertEqual(self.said().count(b"recorded"), 1)

    def test_idle(self) -> None:
        """A line says that the session will end, another that it has, with the status 124."""
        self.fleet.advance(48)
        self.assertRegex(
            self.said(), rb"\r\nrshell: this session ends in 1\d seconds: nobody types"
        )
        self.send(self.client, 0, b"x")
        self.fleet.advance(50)
        self.assertIsNone(status(self.client))
        self.fleet.advance(14)
        self.assertIn(b"nothing was typed for 1m, the limit of ops/1", self.said())
        self.assertEqual(status(self.client), 124)

    def test_taken_over(self) -> None:
        """Who takes it over from elsewhere is named, and the channel ends with 255."""
        boss = self.fleet.dial(self.ann)
        _, request = self.device.requests[-1]
        joining = {"session": request.session, "attempt": 2, "resume": Positions(0, 4096, 0)}
        boss.ask("shell", **joining)
        self.fleet.pump()
        self.assertRegex(self.said(), rb"pump-1: taken over by ann \(link, 192\.0\.2\.\d+:\d+\)")
        self.assertEqual(status(self.client), 255)


class AwayTests(SshTestCase):
    def test_device_comes_back(self) -> None:
        """A device's link breaks: the session goes on over the next, no byte lost or doubled."""
        client, device = self.running()
        talk = lasting(device)
        talk.channel.write(b"one ")
        self.fleet.pump()
        device.wire.cut()
        talk.channel.write(b"two ")
        self.send(client, 0, b"typed meanwhile")
        self.fleet.advance(5)
        again: DeviceEnd = self.fleet.dial(self.pump, dial=2)
        self.fleet.advance(1)
        number, request = again.requests[-1]
        self.assertEqual((2, device.requests[-1][1].session), (request.attempt, request.session))
        talk.channel.accept(number, request, link=again.link)
        talk.channel.write(b"three")
        talk.channel.finish(Outcome(status="exit", exit_code=4))
        self.fleet.pump()
        self.assertEqual((b"one two three", b"typed meanwhile"), (client.data(), bytes(talk.data)))
        self.assertEqual((4, b""), (status(client), client.data(extended=True)))

    def test_told_at_a_terminal(self) -> None:
        """A person at a terminal is told when the device is away for more than a moment."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login()
        self.open(client)
        self.ask(client, 0, b"pty-req", pty())
        self.ask(client, 0, b"shell")
        talk = lasting(device)
        self.fleet.pump()
        device.wire.cut()
        self.fleet.advance(1)
        self.assertEqual(b"", client.data(extended=True))
        self.fleet.advance(2)
        self.assertIn(b"pump-1 went away", client.data(extended=True))
        again: DeviceEnd = self.fleet.dial(self.pump, dial=2)
        self.fleet.advance(1)
        talk.channel.accept(*again.requests[-1], link=again.link)
        self.fleet.pump()
        self.assertIn(b"pump-1 is back", client.data(extended=True))

    def test_grace_is_over(self) -> None:
        """A device that does not come back ends the session with a word, and 255."""
        client, device = self.running()
        lasting(device)
        self.fleet.pump()
        device.wire.cut()
        self.fleet.advance(GRACE_SECONDS - 2)
        self.assertIsNone(status(client))
        self.fleet.advance(6)
        self.assertEqual(255, status(client))
        self.assertIn(b"pump-1", client.data(extended=True))
        self.assertEqual(0, len(self.fleet.gateway.switchboard))

    def test_device_forgot(self) -> None:
        """A device that does not know the session any more says so, and that is told."""
        client, device = self.running()
        lasting(device)
        self.fleet.pump()
        device.wire.cut()
        again: DeviceEnd = self.fleet.dial(self.pump, dial=2)
        self.fleet.advance(1)
        again.refuse("lost", "")
        self.fleet.pump()
        self.assertEqual(255, status(client))

    def test_no_answer(self) -> None:
        """A device that answers nothing for half a minute is given up."""
        client, device = self.running()
        self.fleet.advance(31)
        self.assertEqual(255, status(client))
        self.assertIn(b"did not answer", client.data(extended=True))
        self.assertFalse(device.link.waiting(device.requests[-1][0]))


class LeavingTests(SshTestCase):
    def _reset(self, user_leaves: str) -> tuple[Client, LastingTalk]:
        client, device = self.running()
        talk = lasting(device)
        self.fleet.pump()
        if user_leaves == "closes":
            client.sendPacket(97, u32(0))
        elif user_leaves == "says goodbye":
            client.sendPacket(1, u32(11) + NS(b"disconnected by user") + NS(b""))
        else:
            client.wire.cut()
        self.fleet.pump()
        self.assertEqual(0, len(self.fleet.gateway.switchboard))
        return client, talk

    def test_closes(self) -> None:
        """A channel that is closed ends what ran; the connection goes on."""
        client, talk = self._reset("closes")
        self.assertEqual("cancelled", talk.code)
        self.assertEqual(1, len(client.got(97)))
        self.open(client)
        self.assertEqual(2, len(client.got(91)))

    def test_dropbear_is_woken(self) -> None:
        """Dropbear's client gets an empty packet after its last channel; no other needs one."""
        for software, woken in ((b"dropbear_2022.83", 1), (b"OpenSSH_9.2", 0)):
            kind = type("Named", (Client,), {"ourVersionString": b"SSH-2.0-" + software})
            client = self.login(kind=kind)
            self.open(client)
            number, _ = channel_of(client)
            self.assertEqual([], client.got(2))
            client.sendPacket(97, u32(number))
            self.fleet.pump()
            self.assertEqual([u32(0)] * woken, client.got(2))
            self.assertEqual(
                [97, 2][: 1 + woken], [kind for kind, _ in client.packets[-1 - woken :]]
            )

    def test_says_goodbye(self) -> None:
        """So does a client that leaves on purpose."""
        self.assertEqual("cancelled", self._reset("says goodbye")[1].code)

    def test_vanishes(self) -> None:
        """What runs for a client that is gone without a word, runs on."""
        _, talk = self._reset("vanishes")
        self.assertIsNone(talk.code)
        self.assertEqual(1, len(talk.detached))
        self.assertEqual("link-lost", self.fleet.audit("session")[-1].record.code)

    def test_vanishes_before_the_gate_answers(self) -> None:
        """A command whose client is gone while it waits at the gate never runs."""
        device: DeviceEnd = self.fleet.dial(self.pump)
        client = self.login()
        self.open(client)
        self.fleet.threads.hold("write")
        self.ask(client, 0, b"exec", NS(b"id"))
        client.wire.cut()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual([], device.requests)
        self.assertEqual(0, len(self.fleet.gateway.switchboard))

    def test_gateway_stops(self) -> None:
        """A planned stop tells the client, and leaves what runs to go on."""
        client, device = self.running()
        talk = lasting(device)
        self.fleet.pump()
        self.fleet.gateway._send_away(list(self.fleet.gateway._links), 0)
        self.fleet.pump()
        self.assertEqual(b"the gateway is going down", client.goodbye)
        self.assertIn(b"going down", client.data(extended=True))
        self.assertIsNone(talk.code)

    def test_key_removed(self) -> None:
        """A key that is removed takes with it what runs for whoever came in by it."""
        client, device = self.running()
        talk = lasting(device)
        self.fleet.pump()
        (key,) = self.fleet.got(self.fleet.store.ssh_keys("ann"))
        ended = self.fleet.gateway.revocation.key_removed("ann", key.fingerprint)
        self.fleet.pump()
        self.assertEqual((1, b"this key was removed"), (ended, client.goodbye))
        self.assertEqual("cancelled", talk.code)

    def test_taken_over(self) -> None:
        """rshell attach takes a session over; the ssh that had it ends with a word."""
        client, device = self.running()
        lasting(device)
        self.fleet.pump()
        ann = self.fleet.dial(self.ann)
        first = device.requests[-1][1]
        ann.ask("exec", session=first.session, attempt=2)
        self.fleet.pump()
        self.assertEqual(255, status(client))
        self.assertIn(b"taken over", client.data(extended=True))
