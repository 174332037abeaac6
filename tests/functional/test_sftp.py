"""OpenSSH's sftp and scp on the ``sftp`` handler of real devices (docs/sftp.md).

``rshell call DEVICE sftp`` is what the client speaks to, instead of ssh and a server behind it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest

from rshell_agent.workers.sftp import wire
from rshell_agent.workers.sftp.wire import string, u32
from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import (
    Finished,
    Program,
    children,
    lasting,
    peak_kb,
    require,
    reset_peak,
    rss_kb,
    until,
)

#: Kbit/s of a transfer that something happens to on its way: 8 MiB take about two seconds.
SLOW = 32_000
PIECE = 1024 * 1024


def request(kind: int, number: int, body: bytes) -> bytes:
    return wire.head(kind, number, len(body)) + body


HELLO = u32(5) + bytes([wire.INIT]) + u32(3)


class SftpCase(FleetCase):
    """A folder that both the client and the devices see, being on one machine.

    Attributes:
        here: The client's side.
        there: The device's.
    """

    def setUp(self) -> None:
        require("sftp")
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="rsf-")))
        self.addCleanup(shutil.rmtree, self.base, True)
        self.here, self.there = self.base / "here", self.base / "there"
        self.here.mkdir()
        self.there.mkdir()

    def server(self, fleet: Fleet, device: str, *arguments: str) -> str:
        """Return the command that pipes SFTP to a device."""
        return " ".join(map(str, fleet.cli("call", device, "sftp", *arguments)))

    def start_sftp(
        self, fleet: Fleet, device: str, *options: str, arguments: tuple[str, ...] = ()
    ) -> Program:
        server = self.server(fleet, device, *arguments)
        return fleet.start(["sftp", *options, "-b", "-", "-D", server])

    def sftp(
        self,
        batch: str,
        *options: str,
        device: str = "pump-1",
        arguments: tuple[str, ...] = (),
        fleet: Fleet | None = None,
    ) -> Finished:
        """Run a batch in the two folders; a failing line ends it, unless it begins with -."""
        program = self.start_sftp(fleet or self.fleet, device, *options, arguments=arguments)
        start = f"cd {self.there}\nlcd {self.here}\n"
        return program.finish((start + batch).encode(), 60)

    def random_file(self, path: Path, size: int) -> bytes:
        data = os.urandom(size)
        path.write_bytes(data)
        return data


class ClientTests(SftpCase):
    def test_batch(self) -> None:
        """A batch of everything that the client can do leaves what it would leave by ssh."""
        data = self.random_file(self.here / "up", 3 * PIECE + 17)
        (self.here / "empty").touch()
        done = self.sftp(
            "mkdir d\nput up d/a\nput empty\nls -l d\nget d/a down\nrename d/a d/b\n"
            "ln d/b hard\nln -s d/b soft\nchmod 600 hard\ncp d/b copy\nget soft linked\n"
            "-rename empty d/none/x\nrename empty hard2\nsymlink nowhere dangling\ndf -h\n"
            "-get nothing\n-rmdir d\nrm d/b\nrmdir d\nls -1a\nput -f up synced\npwd\n"
        )
        self.assert_status(0, done)
        self.assertEqual(data, (self.here / "down").read_bytes())
        self.assertEqual(data, (self.here / "linked").read_bytes())
        names = {"hard", "soft", "copy", "hard2", "dangling", "synced"}
        self.assertEqual(names, set(os.listdir(self.there)))
        for name in ("hard", "copy", "synced"):
            self.assertEqual(data, (self.there / name).read_bytes())
        self.assertEqual(0o600, stat.S_IMODE((self.there / "hard").stat().st_mode))
        self.assertEqual("nowhere", os.readlink(self.there / "dangling"))
        listed = done.stdout.decode()
        self.assertRegex(listed, r"(?m)^-rw-r--r-- .* 3145745 .* d/a$")
        self.assertIn("%Capacity", listed)
        self.assertIn(f"Remote working directory: {self.there}", listed)
        self.assertIn(b"not found", done.stderr)

    def test_resume(self) -> None:
        """reput and reget go on where a file was cut, in both directions."""
        data = self.random_file(self.here / "up", 2 * PIECE + 3)
        (self.there / "up").write_bytes(data[:PIECE])
        (self.here / "back").write_bytes(data[: PIECE + 1])
        done = self.sftp("reput up\nreget up back\n")
        self.assert_status(0, done)
        self.assertEqual(data, (self.there / "up").read_bytes())
        self.assertEqual(data, (self.here / "back").read_bytes())

    def test_sizes(self) -> None:
        """Whatever size of requests, and number on the way, the content is the same."""
        data = self.random_file(self.here / "up", PIECE + 1)
        for options in (("-R", "1"), ("-B", "1000", "-R", "500"), ("-B", "261120", "-R", "64")):
            done = self.sftp("put up\nget up down\n", *options)
            self.assert_status(0, done)
            self.assertEqual(data, (self.there / "up").read_bytes(), options)
            self.assertEqual(data, (self.here / "down").read_bytes(), options)

    def test_tree(self) -> None:
        """Trees go up and down with modes and times, whatever their files are called."""
        tree = self.here / "tree"
        (tree / "a/b").mkdir(parents=True)
        names = [b"a/plain", b"a/b/sp ace", b"a/b/\xff\xfe", b"a/b/new\nline", "a/ü".encode()]
        for name in names:
            path = Path(os.fsdecode(os.fsencode(tree) + b"/" + name))
            path.write_bytes(name)
            os.chmod(path, 0o640)
            os.utime(path, (1_000_000_000, 1_100_000_000))
        done = self.sftp("put -rp tree\nget -rp tree back\n")
        self.assert_status(0, done)
        for copy in (self.there / "tree", self.here / "back"):
            for name in names:
                path = Path(os.fsdecode(os.fsencode(copy) + b"/" + name))
                self.assertEqual(name, path.read_bytes())
                info = path.stat()
                told = (stat.S_IMODE(info.st_mode), info.st_mtime)
                self.assertEqual((0o640, 1_100_000_000), told, path)

    def test_scp(self) -> None:
        """scp, which speaks SFTP nowadays, copies trees both ways, relative to the home too."""
        wrapper = self.base / "server"
        wrapper.write_text(f"#!/bin/sh\nexec {self.server(self.fleet, 'pump-1')}\n")
        wrapper.chmod(0o700)
        data = self.random_file(self.here / "up", PIECE)
        scp = ["scp", "-q", "-r", "-p", "-D", str(wrapper)]
        for source, target in (
            (str(self.here), f"device:{self.there}/tree"),
            (f"device:{self.there}/tree/up", str(self.here / "down")),
        ):
            self.assert_status(0, self.fleet.command([*scp, source, target]))
        self.assertEqual(data, (self.here / "down").read_bytes())
        done = self.fleet.command([*scp, "device:~/no-such-file", str(self.here)])
        self.assertEqual(1, done.status)
        self.assertIn(b"No such file", done.stderr)

    def test_read_only(self) -> None:
        """A read-only session reads, and changes nothing."""
        (self.there / "f").write_bytes(b"data")
        done = self.sftp("get f\n-put f g\n-rm f\n-chmod 600 f\n", arguments=("read_only=true",))
        self.assert_status(0, done)
        self.assertEqual(3, done.stderr.lower().count(b"permission denied"), done)
        self.assertEqual(["f"], os.listdir(self.there))

    def test_call(self) -> None:
        """``rshell call`` pipes packets through as it is; nonsense is answered in one line."""
        stat_root = request(wire.STAT, 7, string(b"/"))
        done = self.fleet.rshell("call", "pump-1", "sftp", data=HELLO + stat_root)
        self.assert_status(0, done)
        self.assertEqual(wire.VERSION, done.stdout[4])
        self.assertIn(bytes([wire.ATTRS]) + u32(7), done.stdout)
        done = self.fleet.rshell("call", "pump-1", "sftp", data=b"GET / HTTP/1.0\r\n\r\n")
        self.assert_status(2, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"SFTP greeting", done.stderr)


class PolicyTests(SftpCase):
    def test_roots(self) -> None:
        """The device's roots hold in SFTP: links, dots and /proc lead nowhere outside."""
        agent = self.added("sftp-1")
        (self.base / "secret").write_bytes(b"secret")
        (self.there / "ro").mkdir()
        (self.there / "rw").mkdir()
        (self.there / "rw/out").symlink_to(self.base)
        (self.there / "rw/file").symlink_to("../../secret")
        os.mkfifo(self.there / "rw/fifo")
        agent.configure(
            f'[policy]\nread = ["{self.there}"]\nwrite = ["{self.there}/rw"]\nmax_file_size = 100\n'
        )
        (self.here / "small").write_bytes(b"x" * 100)
        (self.here / "large").write_bytes(b"x" * 101)
        outside = (f"{self.base}/secret", "rw/out/secret", "rw/file", "../secret", "rw/fifo")
        inside_proc = f"/proc/self/root{self.base}/secret"
        batch = "".join(f"-get {path} x\n" for path in (*outside, inside_proc))
        batch += "".join(f"-put small {path}\n" for path in outside)
        batch += "-put small ro/f\n-rename rw/out/secret rw/s\n-ln ../secret rw/s\n-ls /\n"
        batch += "put small rw/small\n-put large rw/large\nls\n"
        done = self.sftp(batch, device="sftp-1")
        self.assert_status(0, done)
        self.assertFalse((self.here / "x").exists())
        self.assertEqual(b"secret", (self.base / "secret").read_bytes())
        self.assertEqual({"here", "there", "secret"}, set(os.listdir(self.base)))
        self.assertEqual([], os.listdir(self.there / "ro"))
        self.assertEqual(100, (self.there / "rw/small").stat().st_size)
        self.assertLessEqual((self.there / "rw/large").stat().st_size, 100)
        agent.configure('[policy]\nhandlers = ["shell"]\n')
        done = self.sftp("ls\n", device="sftp-1")
        self.assertEqual(255, done.status)
        self.assertIn(b"does not allow the handler sftp", done.stderr)

    def test_login(self) -> None:
        """The session is the login's: its home, its rights, its files."""
        if os.getuid() != 0:
            raise SkipTest("only root can become somebody else")
        agent = self.added("sftp-2")
        agent.configure('[policy]\nlogins = ["nobody"]\n')
        os.chmod(self.base, 0o755)  # nobody has to pass
        os.chmod(self.there, 0o777)  # and to write
        (self.base / "private").mkdir(mode=0o700)
        (self.here / "f").write_bytes(b"data")
        batch = f"put f\n-ls {self.base}/private\n-put f {self.base}/f\n"
        done = self.sftp(batch, device="sftp-2", arguments=("--as", "nobody"))
        self.assert_status(0, done)
        self.assertNotEqual(0, (self.there / "f").stat().st_uid)
        self.assertFalse((self.base / "f").exists())
        self.assertEqual(2, done.stderr.lower().count(b"permission denied"), done)


class SurvivalTests(SftpCase):
    def transfer(self, fleet: Fleet, batch: str, path: Path) -> Program:
        """Start a slow transfer and return when a part of it has arrived."""
        program = self.start_sftp(fleet, "solo-1", "-l", str(SLOW))
        assert program.process.stdin is not None
        program.process.stdin.write(batch.encode())
        program.process.stdin.close()
        program.process.stdin = None
        until(lambda: path.exists() and path.stat().st_size >= PIECE, "a part arrived", 30)
        return program

    def test_killed(self) -> None:
        """Agent and gateway killed on the way: the client notices nothing, and no byte is wrong."""
        fleet = self.own_fleet("solo-1")
        data = self.random_file(self.here / "f", 8 * PIECE)
        agent = fleet.agents["solo-1"]
        up = self.transfer(fleet, f"put {self.here}/f {self.there}/f\n", self.there / "f")
        agent.kill(signal.SIGKILL)
        agent.start()
        self.assert_status(0, up.finish(None, 60))
        self.assertEqual(data, (self.there / "f").read_bytes())
        down = self.transfer(fleet, f"get {self.there}/f {self.here}/g\n", self.here / "g")
        agent.kill(signal.SIGKILL)
        agent.start()
        fleet.kill_gateway()
        fleet.restart_gateway()
        self.assert_status(0, down.finish(None, 60))
        self.assertEqual(data, (self.here / "g").read_bytes())

    def test_client_killed(self) -> None:
        """A client that is killed ends its session's input, and the worker goes."""
        fleet = self.own_fleet("solo-1")
        self.random_file(self.here / "f", 8 * PIECE)
        program = self.transfer(fleet, f"put {self.here}/f {self.there}/f\n", self.there / "f")
        rows = fleet.rshell("sessions", "--json").stdout
        self.assertIn(b'"sftp"', rows)
        program.process.send_signal(signal.SIGINT)
        program.finish(None, 30)
        until(
            lambda: b'"sftp"' not in fleet.rshell("sessions", "--json").stdout, "it ended", 30, 0.2
        )

    @lasting("2 GiB through gateway and agent, up and down")
    def test_large(self) -> None:
        """2 GiB go both ways with the right digest, and nobody's memory grows with them."""
        fleet = self.own_fleet("solo-1")
        agent = fleet.agents["solo-1"]
        self.sftp("ls\n", device="solo-1", fleet=fleet)
        keeper = agent.keeper_pid()
        with (self.here / "f").open("wb") as file:
            for _ in range(32):
                file.write(os.urandom(PIECE))
                file.seek(63 * PIECE, os.SEEK_CUR)
            file.truncate(2048 * PIECE)
        before = {pid: rss_kb(pid) for pid in (fleet.gateway_pid, agent.pid, keeper)}
        for pid in before:
            reset_peak(pid)
        program = self.start_sftp(fleet, "solo-1")
        assert program.process.stdin is not None
        batch = f"put {self.here}/f {self.there}/f\nget {self.there}/f {self.here}/g\n"
        program.process.stdin.write(batch.encode())
        program.process.stdin.close()
        program.process.stdin = None
        (worker,) = until(lambda: children(keeper), "a worker runs")
        watched = Watched(worker)
        until(lambda: watched.gone() or program.process.poll() is not None, "the end", 1200, 1)
        self.assert_status(0, program.finish(None, 60))
        digests = [digest(path) for path in (self.here / "f", self.there / "f", self.here / "g")]
        self.assertEqual(1, len(set(digests)))
        grown = {pid: peak_kb(pid) - kb for pid, kb in before.items()}
        print(f"\ngrown {grown} kB, worker {watched.peak} kB")  # noqa: T201  # a measurement
        self.assertLess(max(grown.values()), 32 * 1024)
        self.assertLess(watched.peak, 32 * 1024)


class Watched:
    """The most memory that a process had, while it lives."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0

    def gone(self) -> bool:
        """Look; tell whether it has ended."""
        try:
            self.peak = max(self.peak, peak_kb(self.pid))
        except OSError:
            return True
        return False


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
