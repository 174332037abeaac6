"""What happens to sessions behind the SSH door when something on their way breaks."""

from __future__ import annotations

import atexit
import functools
import signal
import socket
import time

from twisted.conch.ssh.common import NS

from rshell.doors.ssh.transport import MAX_UNAUTHENTICATED_BYTES
from tests.functional.processes import lasting, until
from tests.functional.relay import Relay
from tests.functional.relayed import RelayedFleet
from tests.functional.ssh_door import SshCase, SshFleet
from tests.functional.terminal import Terminal
from tests.functional.test_ssh_door import PROMPT


class _RelayedSshFleet(SshFleet, RelayedFleet):
    """A fleet whose device comes through a relay, and with an SSH door."""


@functools.cache
def _relayed() -> _RelayedSshFleet:
    fleet = _RelayedSshFleet()
    atexit.register(fleet.close)
    try:
        fleet.start_all()
        fleet.known_key("id")
    except BaseException:
        fleet.close()
        raise
    return fleet


class CutTests(SshCase):
    def setUp(self) -> None:
        super().setUp()
        self.own = _relayed()
        self.own.repair()

    def ready(self) -> Terminal:
        terminal = self.terminal(self.own.ssh_command("pump-1", options=("-tt",)), self.own)
        terminal.expect(r"[#$>] ")
        terminal.type(PROMPT)
        terminal.expect("rdy> ")
        return terminal

    def test_link_cut(self) -> None:
        """A device's link is cut in the middle of output: every byte arrives once, in order."""
        count = 400_000
        program = self.own.start(self.own.ssh_command("pump-1", f"seq {count}; exit 9"))
        self.own.device_side.cut_after(300_000, "up")
        before = self.own.device_side.accepted
        done = program.finish(b"", 60)
        wanted = "".join(f"{n}\n" for n in range(1, count + 1)).encode()
        self.assertEqual((9, len(wanted)), (done.status, len(done.stdout)))
        self.assertEqual(wanted, done.stdout)
        self.assertEqual(b"", done.stderr)
        self.assertGreater(self.own.device_side.accepted, before)

    def test_typing_at_a_dead_link(self) -> None:
        """What is typed while the device is away arrives when it is back; the person is told."""
        terminal = self.ready()
        terminal.type("x=1\n")
        terminal.expect("rdy> ")
        self.own.device_side.arrival = "refuse"
        self.own.device_side.cut()
        terminal.expect("went away")
        terminal.type("echo '<'$((x+1))'>'\n")
        self.own.device_side.restore()
        terminal.expect("(?s)is back.*<2>|<2>.*is back", 60)
        terminal.type("exit 3\n")
        self.assertEqual(3, terminal.wait())

    def test_agent_killed(self) -> None:
        """The agent dies and another takes its place: the shell goes on."""
        terminal = self.ready()
        terminal.type("x=kept\n")
        terminal.expect("rdy> ")
        self.own.agent.kill()
        self.own.agent.start()
        terminal.type("echo $x-$((1+1))\n")
        terminal.expect("kept-2", 60)
        terminal.type("exit 4\n")
        self.assertEqual(4, terminal.wait())

    def test_gateway_stops(self) -> None:
        """A planned stop tells the client in one line; what ran is there afterwards."""
        terminal = self.ready()
        terminal.type("x=kept\n")
        terminal.expect("rdy> ")
        self.own.kill_gateway(signal.SIGTERM)
        terminal.expect("the gateway is going down")
        self.assertEqual(255, terminal.wait())
        self.own.restart_gateway()
        self.own.wait_live("pump-1")
        session = self.own.session("detached")["session"]
        again = self.terminal(self.own.cli("attach", session), self.own)
        again.type("echo $x-$((1+1))\n")
        again.expect("kept-2")
        again.type("exit 0\n")
        self.assertEqual(0, again.wait())

    def test_client_side_cut(self) -> None:
        """The client's path breaks without a word: what it ran, runs on, and can be continued."""
        relay = Relay(("127.0.0.1", self.own.ssh_port))
        self.addCleanup(relay.close)
        port = relay.where.rpartition(":")[2]
        options = ("-tt", f"-oPort={port}", "-oHostKeyAlias=[127.0.0.1]:" + str(self.own.ssh_port))
        terminal = self.terminal(self.own.ssh_command("pump-1", options=options), self.own)
        terminal.expect(r"[#$>] ")
        relay.cut()
        terminal.wait()
        self.assertEqual("shell", self.own.session("detached")["handler"])


class StrangerTests(SshCase):
    def setUp(self) -> None:
        super().setUp()
        self.own = self.own_ssh_fleet()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.own.ssh_port), 10)
        self.addCleanup(connection.close)
        return connection

    def _closed(self, connection: socket.socket, seconds: float) -> None:
        connection.settimeout(seconds)
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass

    def test_weak_algorithms(self) -> None:
        """A client that knows only weak algorithms is told that nothing fits."""
        with self.quiet_gateway(self.own):
            for option in (
                "-oKexAlgorithms=ecdh-sha2-nistp256",
                "-oKexAlgorithms=diffie-hellman-group14-sha1",
                "-oCiphers=aes128-cbc",
                "-oMACs=hmac-sha1",
                "-oHostKeyAlgorithms=ssh-rsa",
            ):
                options = (option, "-oLogLevel=INFO")
                done = self.own.ssh("pump-1", "true", options=options)
                self.assertEqual(255, done.status)
                self.assertIn(b"no matching", done.stderr)

    def test_strict(self) -> None:
        """OpenSSH and the door agree on strict key exchange and Curve25519 or better."""
        done = self.own.ssh("pump-1", "true", options=("-oLogLevel=DEBUG3",))
        if b"kex-strict-c-v00" in done.stderr:
            self.assertIn(b"will use strict KEX ordering", done.stderr)
        self.assertRegex(done.stderr, rb"kex: algorithm: (curve25519|mlkem768x25519)-sha256")

    def test_garbage(self) -> None:
        """Garbage, floods and half a hello end soon, and leave no traceback."""
        with self.quiet_gateway(self.own):
            for text in (
                b"GET / HTTP/1.1\r\n\r\n" * 1000,
                b"\x16\x03\x01" + bytes(5000),
                b"SSH-2.0-x\r\n" + b"\xff" * 1000,
                b"SSH-2.0-x\r\n" + b"\0\x08\0\0" + bytes(MAX_UNAUTHENTICATED_BYTES + 100),
                b"SSH-2.0-x\r\n" + b"\0\0\0\x1c\x0a\x05" + NS(b"ssh-userauth") + bytes(20),
            ):
                connection = self._connect()
                try:
                    connection.sendall(text)
                except OSError:
                    continue
                self._closed(connection, 10)
            self.assertEqual(255, self.own.ssh("pump-9", "true").status)

    @lasting("the login grace is half a minute")
    def test_grace(self) -> None:
        """Who says nothing is cut off after half a minute."""
        connection = self._connect()
        began = time.monotonic()
        self._closed(connection, 60)
        self.assertTrue(25 < time.monotonic() - began < 40)
        until(lambda: "was not let in" in self.own.log_text(), self.own.log_tail)
