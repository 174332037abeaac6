"""``rshell forward`` with real gateways, agents and sockets: ports and sockets of a device here."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.functional.fleet import FleetCase
from tests.functional.forwarders import (
    Forwarder,
    Server,
    connect,
    digest,
    echo,
    receive,
    report,
    talk,
)
from tests.functional.processes import CLI, environment, lasting, require, rss_kb, until
from tests.functional.relay import DOWN, UP
from tests.functional.relayed import DEVICE, RelayedCase

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class ConnectionTests(FleetCase):
    def forwarder(self, *arguments: str, specs: int = 1) -> Forwarder:
        return Forwarder(self, self.fleet, *arguments, specs=specs)

    def _many(self, size: int) -> None:
        server = Server(self, report)
        forwarder = self.forwarder("pump-1", f"0:localhost:{server.port}")
        payloads = [noise(size, seed) for seed in range(200)]
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda data: talk(forwarder.port, data), payloads))
        for data, answer in zip(payloads, answers, strict=True):
            self.assertEqual(digest(data), answer[:64])
            self.assertEqual(digest(data), digest(answer[64:]))
        self.assertEqual(200, server.accepted)
        self.assertEqual([], server.errors)
        self.assertEqual(130, forwarder.stop())

    def test_many(self) -> None:
        """200 connections at once: every byte of each, both ways."""
        self._many(32 * 1024)

    @lasting("200 MB each way")
    def test_many_long(self) -> None:
        """200 connections at once of 1 MB each: every byte of each, both ways."""
        self._many(MIB)

    def test_half_close(self) -> None:
        """The end of either direction is told, and the other one goes on."""
        server = Server(self, report)
        forwarder = self.forwarder("-v", "pump-1", f"0:localhost:{server.port}")
        # we end first: the answer to all of it comes after
        answer = talk(forwarder.port, b"question")
        self.assertEqual(digest(b"question") + b"question", answer)
        (ended,) = forwarder.ended()
        self.assertEqual({"sent": 8, "received": 72, "status": "ok"}, ended)
        # the device's side ends first: what we say after that arrives
        heard: list[bytes] = []

        def ends_first(connection: socket.socket) -> None:
            connection.sendall(b"banner")
            connection.shutdown(socket.SHUT_WR)
            heard.append(receive(connection))

        other = Server(self, ends_first)
        second = self.forwarder("pump-1", f"0:localhost:{other.port}")
        with connect(second.port) as connection:
            self.assertEqual(b"banner", receive(connection))
            connection.sendall(b"after the end")
            connection.shutdown(socket.SHUT_WR)
            until(lambda: heard, "the target has it")
        self.assertEqual([b"after the end"], heard)

    def test_unix_sockets(self) -> None:
        """Sockets on either side, beside a port, with one command; ours is for us alone."""
        folder = self.fleet.base
        remote, here = f"{folder}/remote.sock", f"{folder}/here.sock"
        server = Server(self, report, remote)
        plain = Server(self, report)
        agent = self.added("fw-unix")
        agent.configure(f'[policy]\nforward = ["unix:{folder}/*.sock", "localhost:*"]\n')
        forwarder = self.forwarder(
            "fw-unix", f"0:{remote}", f"{here}:{remote}", f"{here}2:localhost:{plain.port}", specs=3
        )
        self.assertEqual({"path": here}, forwarder.places[1])
        self.assertEqual(0o600, stat.S_IMODE(os.stat(here).st_mode))
        for place in (forwarder.port, here, f"{here}2"):
            self.assertEqual(digest(b"hello") + b"hello", talk(place, b"hello"))
        self.assertEqual((2, 1), (server.accepted, plain.accepted))
        forwarder.program.kill()
        self.assertTrue(os.path.exists(here))
        again = self.forwarder("fw-unix", f"{here}:{remote}")
        self.assertEqual(digest(b"") + b"", talk(here, b""))
        self.assertEqual(130, again.stop())
        self.assertFalse(os.path.exists(here))

    def test_refused_targets(self) -> None:
        """What the device's policy denies is said in words before anything listens."""
        targets = {
            "169.254.169.254:80": b"metadata",
            "[::ffff:169.254.169.254]:80": b"metadata",
            "0.0.0.0:80": b"unspecified",
            "[::]:80": b"unspecified",
            "2852039166:80": b"four decimal numbers",
            "0xa9.0xfe.0xa9.0xfe:80": b"four decimal numbers",
            "EXAMPLE.com.:80": b"does not allow forwarding to example.com:80",
            "b\u00fccher.example:80": b"xn--bcher-kva.example:80",
            "/run/docker.sock": b"unix:/run/docker.sock",
        }
        started = {
            target: self.fleet.start(self.fleet.cli("forward", "pump-1", f"0:{target}"))
            for target in targets
        }
        for target, program in started.items():
            done = program.finish()
            self.assertEqual(255, done.status, target)
            self.assertIn(targets[target], done.stderr)
            self.assertTrue(done.stderr.startswith(b"rshell: pump-1: "), done.stderr)
            self.assert_one_line(done.stderr)
            self.assertEqual(b"", done.stdout)

    def test_cannot_begin(self) -> None:
        """An unknown device, a port that is taken, nonsense: one line, and a status of its own."""
        taken = Server(self, echo)
        for arguments, status, text in (
            (("nobody", "0:localhost:80"), 255, b"no device is called 'nobody'"),
            (("pump-1", f"{taken.port}:localhost:80"), 255, b"Address already in use"),
            (("pump-1", "/nowhere/x.sock:localhost:80"), 255, b"cannot listen at /nowhere/x.sock"),
            (("pump-1", "80"), 2, b"is no forward"),
            (("pump-1", "0:localhost:http"), 2, b"'http' is no port"),
            (("pump-*", "0:localhost:80"), 2, b"one device"),
            (("-R", "pump-1", "0:localhost:80"), 255, b"does not allow listening at localhost:0"),
            (("--stdio", "pump-1", "localhost:80", "x:1"), 2, b"--stdio takes one"),
        ):
            done = self.fleet.rshell("forward", *arguments)
            self.assertEqual(status, done.status, done)
            self.assertIn(text, done.stderr)
            self.assert_one_line(done.stderr)

    def test_nothing_there(self) -> None:
        """A connection that the device cannot make is reset and told; the next one is served."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        forwarder = self.forwarder("pump-1", f"0:localhost:{port}")
        with connect(forwarder.port) as connection, self.assertRaises(ConnectionResetError):
            connection.sendall(b"x")
            receive(connection)
        (ended,) = forwarder.ended()
        self.assertEqual("refused-connection", ended["code"])
        self.assertIn(f"localhost:{port} refused", ended["message"])
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(30)
            with connect(forwarder.port) as connection, listener.accept()[0] as other:
                connection.sendall(b"x")
                self.assertEqual(b"x", other.recv(1))

    def test_reset(self) -> None:
        """A reset at either end is a reset at the other one, not an end in order."""

        def breaks(connection: socket.socket) -> None:
            connection.recv(1)
            linger = b"\1\0\0\0\0\0\0\0"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        server = Server(self, breaks)
        forwarder = self.forwarder("pump-1", f"0:localhost:{server.port}")
        with connect(forwarder.port) as connection, self.assertRaises(ConnectionResetError):
            connection.sendall(b"x")
            receive(connection)
        self.assertEqual("reset", forwarder.ended()[0]["code"])
        patient = Server(self, echo)
        second = self.forwarder("pump-1", f"0:localhost:{patient.port}")
        with connect(second.port) as connection:
            connection.sendall(b"x")
            self.assertEqual(b"x", connection.recv(1))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: patient.errors, "the target sees the reset")
        self.assertIsInstance(patient.errors[0], ConnectionResetError)

    def test_limit(self) -> None:
        """At the limit connections wait, none is dropped, and each is served in its turn."""
        server = Server(self, echo)
        forwarder = self.forwarder("--connections", "2", "pump-1", f"0:localhost:{server.port}")
        connections = [connect(forwarder.port) for _ in range(5)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.sendall(b"x")
        for connection in connections[:2]:
            self.assertEqual(b"x", connection.recv(1))
        self.assertEqual(2, server.accepted)
        for number, connection in enumerate(connections):
            if number >= 2:
                self.assertEqual(b"x", connection.recv(1))
            connection.close()
        until(lambda: server.accepted == 5, "all were served")

    def test_interrupted(self) -> None:
        """Signals end it at once, with its connections, and with their own status."""
        server = Server(self, echo)
        for number in (signal.SIGINT, signal.SIGTERM):
            forwarder = self.forwarder("pump-1", f"0:localhost:{server.port}")
            with connect(forwarder.port) as connection:
                connection.sendall(b"x")
                self.assertEqual(b"x", connection.recv(1))
                done = forwarder.program
                done.process.send_signal(number)
                finished = done.finish()
                self.assertEqual(128 + number, finished.status)
                self.assertEqual(b"", finished.stderr)
                with self.assertRaises(ConnectionResetError):
                    receive(connection)
        until(lambda: len(server.errors) == 2, "the target hears of it")

    def test_words(self) -> None:
        """Without --json there is a line to read: where it listens, and with -v each connection."""
        server = Server(self, report)
        out = Path(self.mktemp())
        with out.open("wb") as stdout:
            program = self.fleet.start(
                self.fleet.cli("forward", "-v", "pump-1", f"0:localhost:{server.port}"),
                stdout=stdout.fileno(),
            )
        line = until(out.read_text, "it listens").split()
        self.assertEqual(["->", "pump-1", f"localhost:{server.port}"], line[1:])
        host, _, port = line[0].rpartition(":")
        self.assertEqual("127.0.0.1", host)
        talk(int(port), b"hello")
        assert program.process.stderr is not None
        said = b""
        while said.count(b"\n") < 2:
            self.assertTrue(select.select([program.process.stderr], [], [], 30)[0], said)
            said += os.read(program.process.stderr.fileno(), 4096)
        told = said.splitlines(keepends=True)
        self.assertRegex(told[0], rb"rshell: pump-1: connection 1 from 127.0.0.1:\d+: 0:local")
        self.assertEqual(b"rshell: pump-1: connection 1: 5 bytes sent, 69 received\n", told[1])
        program.process.send_signal(signal.SIGINT)
        self.assertEqual(130, program.finish().status)

    def test_slow_reader(self) -> None:
        """A connection that nobody reads stalls alone, and costs next to no memory."""

        def endless(connection: socket.socket) -> None:
            while True:
                connection.sendall(bytes(1 << 16))

        server, other = Server(self, endless), Server(self, report)
        forwarder = self.forwarder(
            "pump-1", f"0:localhost:{server.port}", f"0:localhost:{other.port}", specs=2
        )
        pids = (forwarder.program.pid, self.fleet.agents["pump-1"].pid, self.fleet.gateway_pid)
        second = int(forwarder.places[1]["port"])
        talk(second, noise(MIB))
        before = [rss_kb(pid) for pid in pids]
        with connect(forwarder.port) as stalled:
            left = 65536
            while left:  # with a timeout MSG_WAITALL does not wait
                left -= len(stalled.recv(left))
            for seed in range(4):
                data = noise(MIB, seed)
                self.assertEqual(digest(data), talk(second, data)[:64])
            grown = [rss_kb(pid) - old for pid, old in zip(pids, before, strict=True)]
            self.assertLess(max(grown), 12_000, grown)

    def test_agent_killed(self) -> None:
        """Connections end with the agent; the forward serves again once it is back."""
        server = Server(self, echo)
        agent = self.added("fw-killed")
        forwarder = self.forwarder("fw-killed", f"0:localhost:{server.port}")
        with connect(forwarder.port) as connection:
            connection.sendall(b"x")
            self.assertEqual(b"x", connection.recv(1))
            agent.kill()
            agent.start()
            with self.assertRaises(ConnectionResetError):
                receive(connection)
        self.assertEqual("lost", forwarder.ended()[0]["status"])
        self.fleet.wait_live("fw-killed")
        with connect(forwarder.port) as connection:
            connection.sendall(b"y")
            self.assertEqual(b"y", connection.recv(1))


class StdioTests(FleetCase):
    def test_both_ends(self) -> None:
        """Input ends, the answer still comes, and the status says that all went well."""
        server = Server(self, report)
        data = noise(MIB)
        done = self.fleet.rshell(
            "forward", "--stdio", "pump-1", f"localhost:{server.port}", data=data
        )
        self.assertEqual((0, b""), (done.status, done.stderr))
        self.assertEqual(digest(data), done.stdout[:64])
        self.assertEqual(data, done.stdout[64:])

    def test_output_ends_first(self) -> None:
        """When the target has said all, our output ends though our input does not."""
        server = Server(self, lambda connection: connection.sendall(b"bye"))
        program = self.fleet.start(
            self.fleet.cli("forward", "--stdio", "pump-1", f"localhost:{server.port}")
        )
        assert program.process.stdout is not None
        self.assertEqual(b"bye", program.process.stdout.read())
        done = program.finish()
        self.assertEqual(0, done.status, done)

    def test_refused(self) -> None:
        """Nothing listens there: one line, 255."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        done = self.fleet.rshell("forward", "--stdio", "pump-1", f"localhost:{port}")
        self.assertEqual(255, done.status)
        self.assertIn(b"refused the device's connection", done.stderr)
        self.assert_one_line(done.stderr)

    def test_ssh(self) -> None:
        """OpenSSH reaches a device's sshd with it as its ProxyCommand."""
        ssh, keygen, sshd = require("ssh"), require("ssh-keygen"), require("sshd")
        folder = self.fleet.base / "ssh"
        folder.mkdir()
        for name in ("host", "user"):
            command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        (folder / "keys").write_bytes((folder / "user.pub").read_bytes())
        config = folder / "config"
        config.write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/keys\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd gives up its rights

        def serve(connection: socket.socket) -> None:
            command = [sshd, "-i", "-e", "-f", str(config)]
            subprocess.run(
                command, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL, check=False
            )

        server = Server(self, serve)
        proxy = " ".join([*CLI, "--home", str(self.fleet.home), "forward", "--stdio", "pump-1"])
        options = [
            f"ProxyCommand={proxy} localhost:{server.port}",
            "StrictHostKeyChecking=no",
            f"UserKnownHostsFile={folder}/known",
            f"IdentityFile={folder}/user",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        words = [word for option in options for word in ("-o", option)]
        done = self.fleet.command(
            [ssh, "-F", "none", *words, "pump-1", "wc -c; exit 7"],
            bytes(300_000),
            environ=environment(self.fleet.base),
        )
        self.assertEqual((7, b"300000\n"), (done.status, done.stdout), done.stderr)


class CutTests(RelayedCase):
    def test_cut(self) -> None:
        """Links cut within a transfer, on either side: every byte once, both sockets stay open."""
        server = Server(self, echo)
        far, near = self.fleet.device_side, self.fleet.operator_side
        forwarder = Forwarder(
            self, self.fleet, DEVICE, f"0:localhost:{server.port}", cli=self.fleet.far_cli
        )
        data = noise(3 * MIB)
        near.rate = 2e6
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(talk, forwarder.port, data)
            for relay, direction in ((near, UP), (far, DOWN), (near, DOWN)):
                before, passed = relay.accepted, relay.passed[direction]
                until(lambda: relay.passed[direction] > passed, "bytes flow")  # noqa: B023
                relay.cut_after(50_000, direction)
                self.wait_cut(relay, before)
            near.rate = 0
            self.assertEqual(digest(data), digest(answer.result(90)))
        self.assertEqual((1, []), (server.accepted, server.errors))

    def test_idle_cut(self) -> None:
        """A connection that says nothing survives, too, and hears what was said meanwhile."""
        said = []

        def late(connection: socket.socket) -> None:
            connection.sendall(b"hello")
            until(lambda: said, "it was cut")
            connection.sendall(b"again")

        server = Server(self, late)
        forwarder = Forwarder(
            self, self.fleet, DEVICE, f"0:localhost:{server.port}", cli=self.fleet.far_cli
        )
        with connect(forwarder.port) as connection:
            self.assertEqual(b"hello", connection.recv(5))
            before = self.fleet.operator_side.accepted
            began = time.monotonic()
            self.fleet.operator_side.cut()
            said.append(True)
            self.assertEqual(b"again", receive(connection))
            self.wait_cut(self.fleet.operator_side, before)
            self.assertLess(time.monotonic() - began, 20)
