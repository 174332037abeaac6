"""Each client, each item: OpenSSH, paramiko, asyncssh, Dropbear and PuTTY at the SSH door."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.interop.clients import MIB, Client
from tests.functional.interop.dropbear import Dropbear
from tests.functional.interop.libraries import Asyncssh, Paramiko
from tests.functional.interop.openssh import OpenSsh
from tests.functional.interop.putty import Putty
from tests.functional.interop.sshd import Sshd
from tests.functional.processes import (
    environment,
    lasting,
    peak_kb,
    require,
    reset_peak,
    rss_kb,
    until,
)
from tests.functional.ssh_door import SshCase, SshFleet
from tests.functional.terminal import Terminal

#: Sessions at once on one connection.
CHANNELS = 10
#: A client that has not moved its bytes after this long, and 2 s for each MiB, never will.
STALL_SECONDS = 90


@functools.cache
def rekeying_fleet() -> SshFleet:
    """Return a fleet whose gateway asks for new keys after each megabyte."""
    fleet = SshFleet()
    atexit.register(fleet.close)
    config = fleet.base / "config.toml"
    config.write_text(f"[ssh]\nrekey_bytes = {MIB}\n")
    fleet.gateway_options = (*fleet.gateway_options, "--config", str(config))
    fleet.start_gateway()
    fleet.join("pump-1").start()
    fleet.known_key("id")
    fleet.wait_live("pump-1")
    return fleet


class Echo:
    """Listens on loopback, and sends back what comes, until its end."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Case(SshCase):
    """What the items use."""

    kind: type[Client]

    def setUp(self) -> None:
        super().setUp()
        for program in self.kind.programs:
            require(program)
        self.client = self.kind(self.fleet)
        name = "-".join(self.id().split(".")[-2:])
        self.base = self.fleet.base / name
        self.base.mkdir()
        self.addCleanup(shutil.rmtree, self.base, True)

    def environ(self) -> dict[str, str]:
        """Return the environment of a client."""
        return environment(self.fleet.base)

    def logins(self) -> int:
        """Return how many connections the shared gateway let in."""
        return self.fleet.log_text().count(" entered by ssh ")

    def exchanged(self, command: list[str | bytes], data: bytes) -> bytes:
        """Send to a program that ends only when its input does, once all has come back."""
        program = self.fleet.start(command)
        self.addCleanup(program.kill)
        stdin, stdout = program.process.stdin, program.process.stdout
        assert stdin is not None
        assert stdout is not None
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(stdout.read, len(data))
            stdin.write(data)
            stdin.flush()
            answer = received.result(60)
        program.finish(b"", 30)
        return answer

    def bulk(self, fleet: SshFleet, size_mib: int, *, rekey: bool = True) -> bytes:
        """Send so much through ``cat`` on the device; return what the client told."""
        block = os.urandom(MIB)
        program = fleet.start(self.client.run("pump-1", "cat", rekey=rekey, verbose=True))
        self.addCleanup(program.kill)
        process = program.process
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        sent, received = hashlib.sha256(), hashlib.sha256()
        reset_peak(fleet.gateway_pid)
        resident = rss_kb(fleet.gateway_pid)

        def send() -> None:
            with stdin:
                for n in range(size_mib):
                    data = n.to_bytes(8, "big") + block[8:]
                    sent.update(data)
                    stdin.write(data)

        # One that stalls is ended, so that what it told is seen, and the run goes on.
        watchdog = threading.Timer(STALL_SECONDS + size_mib * 2, program.process.kill)
        watchdog.start()
        self.addCleanup(watchdog.cancel)
        with ThreadPoolExecutor(2) as pool:
            sending, telling = pool.submit(send), pool.submit(stderr.read)
            count = 0
            while data := stdout.read1(MIB):  # type: ignore[attr-defined]  # a BufferedReader
                received.update(data)
                count += len(data)
                program.sample()
            told = telling.result(60)
            error = sending.exception(60)
        watchdog.cancel()
        self.assertEqual((0, size_mib * MIB, None), (process.wait(60), count, error), told[-2000:])
        self.assertEqual(sent.digest(), received.digest())
        grown = peak_kb(fleet.gateway_pid) - resident
        if size_mib > 100:
            self.report(size_mib, time.monotonic() - program.started, grown, program.peak_kb, told)
        # Two windows, and what the sockets took: nothing that grows with what was sent.
        self.assertLess(grown, 24 * 1024)
        return told

    def report(self, size_mib: int, seconds: float, grown: int, peak: int, told: bytes) -> None:
        rate = size_mib * MIB / seconds / 1e6
        print(  # noqa: T201  # the figures are what the long form is for
            f"\n{self.id().rpartition('.')[2]} {self.kind.__name__}: {rate:.1f} MB/s each way, "
            f"gateway +{grown} KiB, client {peak} KiB, {self.client.exchanges(told)} key exchanges"
        )


class _Items:
    """The list; a client's tests are this and its `kind`."""

    def test_command(self) -> None:
        """Output, standard error and exit status come back apart."""
        done = self.fleet.command(self.client.run("pump-1", "echo out; echo err >&2; exit 7"))
        self.assertEqual((7, b"out\n", b"err\n"), (done.status, done.stdout, done.stderr))

    def test_input(self) -> None:
        """Standard input reaches the command, every byte of it, and its end."""
        data = os.urandom(100_000)
        done = self.fleet.command(self.client.run("pump-1", "sha256sum; echo over"), data)
        told = f"{hashlib.sha256(data).hexdigest()}  -\nover\n".encode()
        self.assertEqual((0, told), (done.status, done.stdout), done.stderr)

    def test_signal(self) -> None:
        """A command that a signal ended is told from one that exited."""
        done = self.fleet.command(self.client.run("pump-1", "kill -TERM $$"))
        self.assertEqual(self.client.signal_status, done.status, done)
        self.assertIn(self.client.tells_signal, done.stderr)

    def test_terminal(self) -> None:
        """A shell at a terminal has its size, follows a resize, and takes ^C."""
        terminal = Terminal(
            self.client.shell("pump-1"), self.environ(), self.fleet.base, rows=31, columns=97
        )
        self.addCleanup(terminal.close)
        terminal.expect(r"[#$>] ", 40)
        terminal.type("stty size; echo TERM=$TERM.\n")
        terminal.expect(r"31 97\r\n", 40)
        terminal.expect(r"TERM=[a-z0-9-]+\.\r\n", 40)
        terminal.resize(40, 120)
        # The new size travels beside what is typed: ask until it is there.
        terminal.type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo si''zed\n")
        terminal.expect(r"sized\r\n", 40)
        # A program that has answered is in the foreground and starts nothing more: shells that are
        # interrupted as they begin a program may wait for its end instead.
        terminal.type("echo go''ing; cat\n")
        terminal.expect(r"going\r\n", 40)
        terminal.type("meow\n")
        terminal.expect(r"meow\r\nmeow\r\n", 40)
        terminal.type(b"\x03")
        # What is typed before it is acted on is dropped with it, by the terminal.
        terminal.expect(r"[#$>] ", 40)
        terminal.type("echo ba''ck; exit 5\n")
        terminal.expect(r"back\r\n", 40)
        self.assertEqual(5, terminal.wait(40))

    def test_forward(self) -> None:
        """A port of the device is joined to standard input and output."""
        echo = Echo()
        self.addCleanup(echo.close)
        data = os.urandom(300_000)
        received = self.exchanged(self.client.forward("pump-1", echo.port), data)
        self.assertEqual(data, received)

    def test_jump(self) -> None:
        """The device's own sshd is reached end to end, with the door as the jump host."""
        sshd = Sshd(self.base / "sshd")
        self.addCleanup(sshd.close)
        command = self.client.jump("pump-1", sshd.port, sshd.key, "cat; exit 9")
        done = self.fleet.command(command, b"to the end")
        self.assertEqual((9, b"to the end"), (done.status, done.stdout), done)

    def test_files(self) -> None:
        """A file is put, got back, renamed and listed by SFTP."""
        here, data = self.base / "here", os.urandom(2 * MIB)
        here.write_bytes(data)
        away = self.base / "away"
        away.mkdir()
        command, told = self.client.files(
            "pump-1",
            [
                ("put", str(here), f"{away}/there"),
                ("rename", f"{away}/there", f"{away}/renamed"),
                ("get", f"{away}/renamed", str(self.base / "back")),
                ("ls", str(away)),
            ],
        )
        done = self.fleet.command(command, told)
        self.assertEqual(0, done.status, done)
        self.assertEqual(data, (self.base / "back").read_bytes())
        self.assertEqual(["renamed"], os.listdir(away))
        self.assertIn(b"renamed", done.stdout)

    def test_channels(self) -> None:
        """Ten sessions at once share one connection, and one login."""
        before = self.logins()
        gate = self.base / "in"
        line = (
            f"echo >> {gate}; until [ $(wc -l < {gate}) = {CHANNELS} ]; do sleep 0.05; done; echo"
        )
        done = self.client.several("pump-1", [f"{line} {n}" for n in range(CHANNELS)])
        for n, one in enumerate(done):
            self.assertEqual((0, f"{n}\n".encode()), (one.status, one.stdout), one)
        self.assertEqual(1, self.logins() - before)

    def test_algorithms(self) -> None:
        """Client and door agree on the best key exchange that the client has."""
        done = self.fleet.command(self.client.run("pump-1", "true", verbose=True))
        self.assertEqual(0, done.status, done)
        agreed = self.client.agreed(done.stderr)
        if agreed is not None:
            self.assertEqual(self.client.key_exchange, agreed, done.stderr)

    def test_bulk_client_rekeys(self) -> None:
        """8 MiB go both ways at once and come back whole; the client wants new keys each MiB."""
        told = self.bulk(self.fleet, 8)
        exchanges = self.client.exchanges(told)
        if exchanges is not None:
            self.assertGreater(exchanges, 6, told)

    def test_bulk_gateway_rekeys(self) -> None:
        """The same, when it is the gateway who wants new keys for each MiB of both directions."""
        self.client = self.kind(rekeying_fleet())
        told = self.bulk(rekeying_fleet(), 8, rekey=False)
        exchanges = self.client.exchanges(told)
        if exchanges is not None:
            self.assertGreater(exchanges, 10, told)

    def test_bulk_both_rekey(self) -> None:
        """The same, when both sides want new keys, now and then at the same moment."""
        self.client = self.kind(rekeying_fleet())
        self.bulk(rekeying_fleet(), 4)

    @lasting("1 GiB both ways")
    def test_bulk_long(self) -> None:
        """1 GiB both ways, the client's new keys for each MiB."""
        self.bulk(self.fleet, 1024)

    @lasting("1 GiB both ways")
    def test_bulk_gateway_rekeys_long(self) -> None:
        """1 GiB both ways, the gateway's new keys for each MiB."""
        self.client = self.kind(rekeying_fleet())
        self.bulk(rekeying_fleet(), 1024, rekey=False)


class OpenSshTests(_Items, _Case):
    kind = OpenSsh


class ParamikoTests(_Items, _Case):
    kind = Paramiko


class AsyncsshTests(_Items, _Case):
    kind = Asyncssh


class PuttyTests(_Items, _Case):
    kind = Putty


class DropbearTests(_Items, _Case):
    kind = Dropbear

    def test_channels(self) -> None:
        """A session and five tunnels at once share one connection: it shares no sessions."""
        echo = Echo()
        self.addCleanup(echo.close)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        before = self.logins()
        assert isinstance(self.client, Dropbear)
        program = self.fleet.start(self.client.tunnels("pump-1", "cat", port, echo.port))
        self.addCleanup(program.kill)
        until(lambda: _listens(port), "dbclient listens")
        tunnels = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(5)]
        for n, tunnel in enumerate(tunnels):
            tunnel.sendall(b"%d" % n)
        self.assertEqual(b"01234", b"".join(tunnel.recv(1) for tunnel in tunnels))
        for tunnel in tunnels:
            tunnel.close()
        self.assertEqual(b"over", program.finish(b"over").stdout)
        self.assertEqual(1, self.logins() - before)


class DocumentationTests(SynchronousTestCase):
    def test_matrix(self) -> None:
        """docs/testing.md has a row for each item of the list, and no other."""
        page = (Path(__file__).parents[3] / "docs" / "testing.md").read_text("utf-8")
        table = page.partition("<!-- interop -->")[2].partition("<!-- /interop -->")[0]
        items = [name for name in vars(_Items) if name.startswith("test_")]
        self.assertEqual(items, re.findall(r"^\| `(\w+)`", table, re.M))


def _listens(port: int) -> bool:
    """Whether a port is listened at, without connecting to it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)
