"""Bulk through the SSH door: both ways, with new keys all the while, and with scp, sftp, -L, -W."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import threading
from pathlib import Path

from tests.functional.processes import lasting, peak_kb, require, reset_peak, until
from tests.functional.ssh_door import SshCase

MIB = 1024 * 1024
#: New keys for each megabyte, as the client asks for them.
REKEY = ("-oRekeyLimit=1M",)


class TransferCase(SshCase):
    def setUp(self) -> None:
        super().setUp()
        self.base = self.fleet.base / self.id().rpartition(".")[2]
        self.base.mkdir()
        self.addCleanup(shutil.rmtree, self.base, True)

    def file(self, size: int) -> tuple[Path, bytes]:
        """Make a file; return it and its content."""
        data = os.urandom(size)
        path = self.base / "file"
        path.write_bytes(data)
        return path, data


class BulkTests(TransferCase):
    def both_ways(self, size: int) -> None:
        data = os.urandom(size)
        done = self.fleet.ssh("pump-1", "cat", options=REKEY, data=data, seconds=120)
        self.assertEqual(0, done.status, done.stderr)
        self.assertEqual(hashlib.sha256(data).digest(), hashlib.sha256(done.stdout).digest())

    def test_both_ways(self) -> None:
        """Bytes come through whole both ways at once, with new keys for each megabyte."""
        self.both_ways(8 * MIB)

    @lasting("50 MB both ways")
    def test_both_ways_long(self) -> None:
        """The same, longer."""
        self.both_ways(50 * MIB)

    def test_stderr(self) -> None:
        """Bulk on both output channels comes through, each on its own."""
        line = "head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait"
        done = self.fleet.ssh("pump-1", line)
        self.assertEqual(
            (0, 3_000_000, 3_000_000), (done.status, len(done.stdout), len(done.stderr))
        )

    def test_reader_that_does_not_read(self) -> None:
        """A client that stops costs the gateway no memory, and other sessions no time."""
        program = self.fleet.start(self.fleet.ssh_command("pump-1", "yes; touch never"))
        self.addCleanup(program.kill)
        fleet = self.fleet
        self.assertEqual(0, fleet.ssh("pump-1", "true").status)
        reset_peak(fleet.gateway_pid)
        before = peak_kb(fleet.gateway_pid)
        program.process.send_signal(signal.SIGSTOP)
        # A second session on the same device moves 16 MiB meanwhile.
        done = fleet.ssh("pump-1", f"head -c {16 * MIB} /dev/zero | wc -c")
        self.assertEqual(f"{16 * MIB}\n".encode(), done.stdout)
        self.assertEqual(0, fleet.ssh("pump-1", "cat >/dev/null", data=bytes(16 * MIB)).status)
        self.assertLess(peak_kb(fleet.gateway_pid) - before, 12 * 1024)


class FileTests(TransferCase):
    def test_sftp(self) -> None:
        """OpenSSH's sftp puts and gets a file, and lists it."""
        require("sftp")
        path, data = self.file(3 * MIB)
        script = (
            f"put {path} {self.base}/there\nls -l {self.base}\nget {self.base}/there {path}.2\n"
        )
        command = ["sftp", *self.fleet.options(), *REKEY, "-b", "-", "pump-1@127.0.0.1"]
        done = self.fleet.command(command, script.encode())
        self.assertEqual(0, done.status, done)
        self.assertEqual(data, Path(f"{path}.2").read_bytes())

    def test_scp(self) -> None:
        """OpenSSH's scp copies both ways."""
        require("scp")
        path, data = self.file(3 * MIB)
        words = ["scp", *self.fleet.options(), "-q"]
        for source, target in (
            (str(path), f"pump-1@127.0.0.1:{self.base}/there"),
            (f"pump-1@127.0.0.1:{self.base}/there", f"{path}.2"),
        ):
            done = self.fleet.command([*words, source, target])
            self.assertEqual(0, done.status, done)
        self.assertEqual(data, Path(f"{path}.2").read_bytes())

    def test_tar(self) -> None:
        """A tree goes through tar on both sides, as people do it."""
        self.file(MIB)
        (self.base / "out").mkdir()
        done = self.fleet.ssh("pump-1", f"tar c -C {self.base} file")
        unpacked = self.fleet.command(["tar", "x", "-C", str(self.base / "out")], done.stdout)
        self.assertEqual(0, unpacked.status, unpacked)
        same = (self.base / "out" / "file").read_bytes() == (self.base / "file").read_bytes()
        self.assertTrue(same)

    def test_documented_settings(self) -> None:
        """The settings that docs/operators.md shows work with ssh and scp, host key pinned."""
        page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text("utf-8")
        block = next(part for part in page.split("```") if part.startswith("\nHost gw\n"))
        block = block.replace("gw.example.net", "127.0.0.1")
        block = block.replace("2222", str(self.fleet.ssh_port)).replace("~/.ssh", str(self.base))
        known = self.base / "known_hosts"
        public = (self.fleet.home / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        known.write_text(f"rshell-gateway {' '.join(public)}\n")
        config = self.base / "config"
        key = self.fleet.base / "id"
        config.write_text(f"{block}\n IdentityFile {key}\n UserKnownHostsFile {known}\n")
        words = ("-F", str(config), "-oStrictHostKeyChecking=yes", "-oIdentitiesOnly=yes")
        for _ in range(2):
            done = self.fleet.command(
                ["ssh", *words, "-oControlPersist=no", "pump-1@gw", "echo in"]
            )
            self.assertEqual((0, b"in\n"), (done.status, done.stdout), done)
        path, data = self.file(1000)
        target = f"pump-1@gw:{self.base}/there"
        done = self.fleet.command(["scp", "-q", *words, "-oControlPath=none", str(path), target])
        self.assertEqual(0, done.status, done)
        self.assertEqual(data, (self.base / "there").read_bytes())

    def test_rsync(self) -> None:
        """rsync brings a file over, and only what changed afterwards."""
        require("rsync")
        path, data = self.file(MIB)
        shell = " ".join(str(word) for word in ["ssh", *self.fleet.options()])
        target = f"pump-1@127.0.0.1:{self.base}/there"
        done = self.fleet.command(["rsync", "-e", shell, str(path), target])
        self.assertEqual(0, done.status, done)
        self.assertEqual(data, (self.base / "there").read_bytes())


class _Echo:
    """Listens on loopback, and sends back what it gets until the end, then an end of its own."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    def close(self) -> None:
        self._socket.close()


class ForwardTests(TransferCase):
    def setUp(self) -> None:
        super().setUp()
        self.echo = _Echo()
        self.addCleanup(self.echo.close)

    def test_stdio(self) -> None:
        """-W joins standard input and output to a port of the device, with both ends."""
        data = os.urandom(MIB)
        options = ("-W", f"127.0.0.1:{self.echo.port}")
        done = self.fleet.ssh("pump-1", options=options, data=data)
        self.assertEqual((0, data), (done.status, done.stdout))

    def test_local(self) -> None:
        """-L brings a port of the device to this machine; many connections share one ssh."""
        path = self.base / "socket"
        options = ("-N", "-L", f"{path}:127.0.0.1:{self.echo.port}")
        program = self.fleet.start(self.fleet.ssh_command("pump-1", options=options))
        self.addCleanup(program.kill)
        until(path.exists, lambda: "ssh listens")
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(str(path))
                connection.sendall(b"hello")
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                while data := connection.recv(100):
                    answer += data
                self.assertEqual(b"hello", answer)

    def test_refused(self) -> None:
        """A port where nobody listens, or that the policy denies: the client says why."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        told = ("-oLogLevel=INFO",)
        done = self.fleet.ssh("pump-1", options=(*told, "-W", f"127.0.0.1:{port}"))
        self.assertNotEqual(0, done.status)
        self.assertIn(b"refused", done.stderr)
        done = self.fleet.ssh("pump-1", options=(*told, "-W", "192.0.2.1:80"))
        self.assertNotEqual(0, done.status)
        self.assertIn(b"policy", done.stderr)
