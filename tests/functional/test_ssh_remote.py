"""``ssh -R``, ``-J``, what is refused, and devices that are away, with stock OpenSSH."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.functional.fleet import Agent
from tests.functional.forwarders import Server, digest, report, talk
from tests.functional.processes import require, until
from tests.functional.ssh_door import SshCase, shared_ssh_fleet

#: The device that listens for operators; by default none does.
BACK = "sshback-1"
MIB = 1024 * 1024


@functools.cache
def _listener() -> Agent:
    fleet = shared_ssh_fleet()
    agent = fleet.join(BACK)
    places = f'"localhost:*", "unix:{fleet.base}/back/*.sock"'
    (fleet.base / "back").mkdir()
    agent.configure(f'[policy]\nforward = ["localhost:*"]\nforward_back = [{places}]\n')
    agent.start()
    fleet.wait_live(BACK)
    return agent


class RemoteCase(SshCase):
    def setUp(self) -> None:
        super().setUp()
        _listener()
        self.control = self.fleet.base / f"ctl-{self.id().rpartition('.')[2][:20]}"

    def master(self) -> None:
        """Begin a connection that others use."""
        options = ("-N", "-M", f"-oControlPath={self.control}")
        program = self.fleet.start(self.fleet.ssh_command(BACK, options=options))
        self.addCleanup(program.kill)
        until(self.control.exists, lambda: "the master's socket")
        self.program = program

    def control_it(self, *words: str) -> bytes:
        """Have the master do something; return what it says."""
        options = (f"-oControlPath={self.control}", *words)
        done = self.fleet.ssh(BACK, options=options)
        self.assertEqual(0, done.status, done)
        return done.stdout


class RemoteForwardTests(RemoteCase):
    def test_port(self) -> None:
        """-R 0: the device listens at a port that is told; every byte and both ends pass."""
        server = Server(self, report)
        self.master()
        place = f"0:127.0.0.1:{server.port}"
        port = int(self.control_it("-O", "forward", "-R", place))
        data = os.urandom(MIB)
        for _ in range(3):
            self.assertEqual(digest(data) + data, talk(port, data))
        self.assertEqual((3, []), (server.accepted, server.errors))
        listening = self.fleet.rshell("sessions", "--json", BACK).stdout
        self.assertIn(b'"handler":"forward"', listening)
        self.control_it("-O", "cancel", "-R", place)
        until(lambda: not _answers(port), lambda: "it listens no more")

    def test_socket(self) -> None:
        """A unix socket of the device, too; it goes with the connection."""
        server = Server(self, report)
        path = f"{self.fleet.base}/back/x.sock"
        self.master()
        self.control_it("-O", "forward", "-R", f"{path}:127.0.0.1:{server.port}")
        self.assertEqual(digest(b"hello") + b"hello", talk(path, b"hello"))
        self.control_it("-O", "exit")
        until(lambda: not Path(path).exists(), lambda: "the socket is gone")

    def test_refused(self) -> None:
        """What a device's policy denies fails, with the reason on standard error."""
        options = ("-R", "0:127.0.0.1:9")
        done = self.fleet.ssh("pump-1", "sleep 1; echo ran", options=options)
        self.assertEqual((0, b"ran\n"), (done.status, done.stdout))
        self.assertIn(b"rshell: -R localhost:0 is refused: ", done.stderr)
        self.assertIn(b"forward_back", done.stderr)
        strict = (*options, "-N", "-oExitOnForwardFailure=yes")
        self.assertEqual(255, self.fleet.ssh("pump-1", options=strict).status)

    def test_nobody_there(self) -> None:
        """A connection that the client cannot pass on is broken at the device, and no other."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = gone.getsockname()[1]
        server = Server(self, report)
        self.master()
        bad = int(self.control_it("-O", "forward", "-R", f"0:127.0.0.1:{nobody}"))
        good = int(self.control_it("-O", "forward", "-R", f"0:127.0.0.1:{server.port}"))
        try:
            self.assertEqual(b"", talk(bad, b""))
        except ConnectionError:
            pass
        self.assertEqual(digest(b"x") + b"x", talk(good, b"x"))


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except OSError:
        return False
    return True


class JumpTests(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        sshd, keygen = require("sshd"), require("ssh-keygen")
        self.folder = self.fleet.base / "jump"
        self.folder.mkdir()
        self.addCleanup(shutil.rmtree, self.folder, True)
        host = self.folder / "host"
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(host)], check=True)
        config = self.folder / "sshd"
        config.write_text(
            f"HostKey {host}\nAuthorizedKeysFile {self.fleet.base}/id.pub\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd gives up its rights

        def serve(connection: socket.socket) -> None:
            command = [sshd, "-i", "-e", "-f", str(config)]
            subprocess.run(
                command, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL, check=False
            )

        self.server = Server(self, serve)

    def jump(
        self, device: str, command: str, data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Go to a device's own sshd, as docs/operators.md shows it, by a file of settings."""
        settings = self.folder / "config"
        public = (self.fleet.home / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        known = self.folder / "known"
        known.write_text(f"[127.0.0.1]:{self.fleet.ssh_port} {' '.join(public)}\n")
        settings.write_text(
            f"IdentityFile {self.fleet.base}/id\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {known}\nBatchMode yes\n"
            f"Host {device}\n StrictHostKeyChecking no\n UserKnownHostsFile {known}-2\n"
        )
        gateway = f"console@127.0.0.1:{self.fleet.ssh_port}"
        words = ["-F", str(settings), "-J", gateway, "-p", str(self.server.port)]
        done = self.fleet.command(["ssh", *words, device, command], data)
        return subprocess.CompletedProcess(words, done.status, done.stdout, done.stderr)

    def test_jump(self) -> None:
        """-J console@GATEWAY DEVICE is SSH from end to end with the device's own sshd."""
        done = self.jump("pump-1", "wc -c; exit 7", bytes(300_000))
        self.assertEqual((7, b"300000\n"), (done.returncode, done.stdout), done.stderr)

    def test_refused(self) -> None:
        """A device that there is not is named, and hosts beyond the devices are none."""
        for host in ("pump-99", "localhost"):
            done = self.jump(host, "id")
            self.assertEqual(255, done.returncode)
            self.assertIn(f"there is no device '{host}' on which you may".encode(), done.stderr)


class AwayTests(RemoteCase):
    def test_away(self) -> None:
        """Every program is told, on standard error, since when a device is away and why."""
        fleet = self.fleet
        agent = self.added("sshaway-1")
        agent.stop()
        until(lambda: fleet.device("sshaway-1")["state"] == "lost", lambda: "it is away")
        file = fleet.base / "away.txt"
        file.write_text("x")
        options = fleet.options()
        there = "sshaway-1@127.0.0.1"
        told = ("-oLogLevel=INFO",)
        control = (f"-oControlPath={self.control}", "-oControlPersist=5", "-oControlMaster=auto")
        for words in (
            fleet.ssh_command("sshaway-1", "id"),
            fleet.ssh_command("sshaway-1", options=("-T",)),
            fleet.ssh_command("sshaway-1", "id", options=control),
            fleet.ssh_command("sshaway-1", "id", options=control),
            ["scp", *options, str(file), f"{there}:/tmp/never"],
            ["scp", "-O", *options, f"{there}:/tmp/never", str(file)],
            ["sftp", *options, "-b", "/dev/null", there],
            fleet.ssh_command("sshaway-1", options=(*told, "-W", "localhost:22")),
            fleet.ssh_command("sshaway-1", options=("-N", "-R", "0:127.0.0.1:9")),
        ):
            done = fleet.command(words, seconds=30)
            self.assertNotEqual(0, done.status, words)
            self.assertRegex(
                done.stderr,
                rb"sshaway-1 is offline: last seen .* UTC; away for .*; lost: .*; it does not ch",
                words,
            )
        fleet.ssh("sshaway-1", options=(*control, "-O", "exit"))


class RefusedTests(SshCase):
    def test_agent(self) -> None:
        """-A with an agent: no agent on the device, a line that says so, and the command runs."""
        agent = require("ssh-agent")
        path = self.fleet.base / "agent.sock"
        program = self.fleet.start([agent, "-D", "-a", str(path)])
        self.addCleanup(program.kill)
        until(path.exists, lambda: "the agent's socket")
        options = ("-A", f"-oIdentityAgent={path}")
        done = self.fleet.ssh("pump-1", "echo [$SSH_AUTH_SOCK]", options=options)
        self.assertEqual((0, b"[]\n"), (done.status, done.stdout))
        self.assertIn(b"rshell: agent forwarding (-A) is refused", done.stderr)

    def test_x11(self) -> None:
        """-X: no display on the device, and the command runs."""
        options = ("-X", "-oLogLevel=INFO")
        done = self.fleet.command(
            self.fleet.ssh_command("pump-1", "echo [$DISPLAY]", options=options),
            environ={"DISPLAY": ":99"},
        )
        self.assertEqual((0, b"[]\n"), (done.status, done.stdout))
        self.assertIn(b"X11", done.stderr)

    def test_command_at_a_terminal(self) -> None:
        """-t gives a command the terminal, of its size, and its status comes back."""
        words = self.fleet.ssh_command("pump-1", "stty size; exit 4", options=("-t",))
        terminal = self.terminal(words, self.fleet, rows=33, columns=99)
        terminal.expect(r"33 99\r\n")
        self.assertEqual(4, terminal.wait())

    def test_metrics(self) -> None:
        """`rshell metrics` counts what came by ssh."""
        self.assertEqual(0, self.fleet.ssh("pump-1", "true").status)
        text = self.fleet.rshell("metrics").stdout.decode()
        self.assertRegex(text, r'rshell_ssh_logins_total\{method="key",outcome="ok"\} [1-9]')
        # Whatever this fleet's other tests have cost before.
        self.assertRegex(text, r"rshell_ssh_handshake_cpu_seconds_total (?!0\.0\n)[0-9.e-]+\n")
