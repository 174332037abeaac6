"""``twistd rshell``: its options, and the daemon as a real process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.config import BadConfig
from rshell.tap import Options, makeService

ROOT = Path(__file__).resolve().parents[1]
_RUN = "from twisted.scripts.twistd import run; run()"
LOOPBACK = "tcp:0:interface=127.0.0.1"
DEADLINE_SECONDS = 30.0
#: After a clean stop twistd -n dies by the signal that stopped it, for its parent to see.
SIGTERMED = -signal.SIGTERM


def wait_until(ready: Callable[[], Any], what: str) -> Any:
    """Return what ``ready`` returns as soon as that is true; fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if value := ready():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what}")


class OptionsTests(SynchronousTestCase):
    def config(self, *words: str) -> Any:
        """Return the settings of a command line."""
        options = Options()
        options.parseOptions(["--home", "/srv/x", *words])  # type: ignore[no-untyped-call]  # Twisted
        return options.config_record()

    def bad(self, *words: str) -> str:
        """Return the complaint about a command line."""
        text = str(self.assertRaises(BadConfig, self.config, *words))
        self.assertNotIn("\n", text)
        return text

    def file(self, text: str) -> str:
        """Return the path of a config file."""
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def test_defaults(self) -> None:
        """Links on 7411 at all addresses, and no other door."""
        config = self.config()
        self.assertEqual((config.links, config.ssh, config.web), (("tcp:7411",), "", ""))
        self.assertEqual(config.home, Path("/srv/x"))

    def test_several(self) -> None:
        """--links and --advertise may be given several times."""
        config = self.config(
            "--links", "tcp:1", "--links", "tcp:2", "--advertise", "a:5", "--advertise", "[::1]"
        )
        self.assertEqual(config.links, ("tcp:1", "tcp:2"))
        self.assertEqual(config.names()[:2], ("a", "::1"))

    def test_bound_address_is_named(self) -> None:
        """The address that links are bound to is in the certificate: it may be what is dialled."""
        config = self.config(
            "--links", "tcp:1:interface=10.0.0.5", "--links", r"tcp6:1:interface=\:\:"
        )
        self.assertIn("10.0.0.5", config.names())
        self.assertNotIn("::", config.names())

    def test_home(self) -> None:
        """The home is $RSHELL_HOME where no option says otherwise, and absolute."""
        options = Options()
        options.parseOptions([])  # type: ignore[no-untyped-call]  # Twisted
        before = os.environ.get("RSHELL_HOME")
        os.environ["RSHELL_HOME"] = "relative/place"
        try:
            self.assertEqual(options.config_record().home, Path.cwd() / "relative" / "place")
        finally:
            del os.environ["RSHELL_HOME"]
            if before is not None:
                os.environ["RSHELL_HOME"] = before

    def test_config_file(self) -> None:
        """The file comes before the options."""
        path = self.file('[gateway]\nlinks = ["tcp:5"]\nssh = "tcp:6"\nadvertise = ["gw"]\n')
        config = self.config("--config", path, "--ssh", "")
        self.assertEqual((config.links, config.ssh, config.advertise), (("tcp:5",), "", ("gw",)))

    def test_where_ssh_is_dialled(self) -> None:
        """The ssh door is where it is told to be, or advertised, or bound; loopback is loopback."""
        anywhere, here, inside = ("0.0.0.0", 2222), ("127.0.0.1", 2222), ("10.0.0.5", 2222)
        for words, bound, expected in (
            ((), anywhere, ("host", 2222)),
            ((), ("::", 2222), ("host", 2222)),
            ((), inside, ("10.0.0.5", 2222)),
            (("--advertise", "gw:7000"), inside, ("gw", 2222)),
            (("--advertise", "gw"), here, ("127.0.0.1", 2222)),
            (("--advertise", "gw"), ("::1", 2222), ("::1", 2222)),
            (("--advertise", "gw", "--advertise-ssh", "jump"), here, ("jump", 2222)),
            (("--advertise-ssh", "[fd00::1]:22"), anywhere, ("fd00::1", 22)),
        ):
            found = self.config(*words).ssh_address(bound, "host")
            self.assertEqual(found, expected, (words, bound))
        path = self.file('[gateway]\nadvertise_ssh = "jump:22"\n')
        self.assertEqual(self.config("--config", path).advertise_ssh, "jump:22")
        self.bad("--advertise-ssh", "a b")

    def test_admission_and_clones(self) -> None:
        """The file sets the rate of handshakes and what happens to clones; both have defaults."""
        config = self.config()
        self.assertEqual((config.handshakes_per_second, config.clones), (None, "alert"))
        text = '[admission]\nhandshakes_per_second = 150\n[clones]\naction = "quarantine"\n'
        config = self.config("--config", self.file(text))
        self.assertEqual((config.handshakes_per_second, config.clones), (150, "quarantine"))
        for bad in ("handshakes_per_second = 0", "rate = 5", 'handshakes_per_second = "fast"'):
            self.bad("--config", self.file(f"[admission]\n{bad}\n"))
        self.bad("--config", self.file('[clones]\naction = "ignore"\n'))

    def test_ssh(self) -> None:
        """The file sets when SSH connections get new keys, within what is sensible."""
        config = self.config()
        self.assertEqual((config.ssh_rekey_bytes, config.ssh_rekey_seconds), (2**30, 3600))
        text = "[ssh]\nrekey_bytes = 1048576\nrekey_seconds = 60\n"
        config = self.config("--config", self.file(text))
        self.assertEqual((config.ssh_rekey_bytes, config.ssh_rekey_seconds), (2**20, 60))
        for bad in ("rekey_bytes = 1000", "rekey_bytes = 2147483648", "rekey_seconds = 0", "x = 1"):
            self.bad("--config", self.file(f"[ssh]\n{bad}\n"))

    def test_bad_config_files(self) -> None:
        """A file that is absent, no TOML, or has unknown keys or wrong types is named."""
        self.assertIn("/no/such", self.bad("--config", "/no/such"))
        for text in ("x", "[gateway]\nlink = []", "[gateway]\nlinks = 'tcp:1'", "[other]", "\x00"):
            path = self.file(text)
            self.assertIn(path, self.bad("--config", path))
        binary = Path(self.mktemp())
        binary.write_bytes(b"\xff\xfe")
        self.assertIn(str(binary), self.bad("--config", str(binary)))

    def test_bad_values(self) -> None:
        """Hosts that are none, ports that are none, and a gateway without links are refused."""
        for host in (
            "",
            "a b",
            "gw:0",
            "gw:x",
            "gw:70000",
            "[::1",
            "[::1]9",
            "fe80::1%eth0",
            "http://gw",
            "g\N{LATIN SMALL LETTER E WITH ACUTE}",
            "a/b",
            "-a",
        ):
            self.bad("--advertise", host)
        self.bad("--links", "")

    def test_unknown_option(self) -> None:
        """An unknown option and a stray word are refused."""
        for words, said in ((["--nope"], "nope"), (["word"], "arguments")):
            error = self.assertRaises(usage.UsageError, self.config, *words)
            self.assertIn(said, str(error))

    def test_service_is_built_without_a_port(self) -> None:
        """Building the service sets the home up and opens nothing."""
        options = Options()
        home = Path(self.mktemp()).absolute()
        options.parseOptions(["--home", str(home), "--links", "nonsense"])  # type: ignore[no-untyped-call]  # Twisted
        self.assertTrue(IService.providedBy(makeService(options)))
        self.assertTrue((home / "ca" / "root.pem").exists())


class TwistdTests(SynchronousTestCase):
    """Each test starts ``twistd`` as a process of its own."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.home = self.directory / "home"
        self.log = self.directory / "log"
        self.pidfile = self.directory / "pid"
        self.endpoints = self.home / "endpoints.json"

    def start(self, *words: str, daemon: bool = False) -> subprocess.Popen[str]:
        """Start twistd; it is killed after the test if it still runs."""
        mode = ["-n", "--pidfile="]
        if daemon:
            mode = ["--logfile", str(self.log), "--pidfile", str(self.pidfile)]
        if "--links" not in words:
            words = ("--links", LOOPBACK, *words)
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, *mode, "rshell", "--home", str(self.home), *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'agent'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self._clean_up, process)
        return process

    def _clean_up(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
            process.communicate()
        if self.pidfile.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.pidfile.read_text()), signal.SIGKILL)

    def up(self) -> dict[str, Any]:
        """Wait until the doors listen; returns endpoints.json."""
        wait_until(self.endpoints.exists, "endpoints.json")
        found: dict[str, Any] = json.loads(self.endpoints.read_text())
        return found

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for the end; returns status, stdout and stderr."""
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, out, err

    def reach(self, address: str) -> None:
        """Connect: somebody listens there."""
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()

    def test_foreground(self) -> None:
        """twistd -n: real ports in endpoints.json, SIGTERM ends it cleanly and removes the file."""
        process = self.start("--links", LOOPBACK, "--links", LOOPBACK)
        endpoints = self.up()
        self.assertEqual(len(set(endpoints["links_all"])), 2)
        self.assertEqual(endpoints["links"], endpoints["links_all"][0])
        for address in endpoints["links_all"]:
            self.reach(address)
        process.send_signal(signal.SIGTERM)
        status, out, err = self.finish(process)
        self.assertEqual((status, err), (SIGTERMED, ""))
        self.assertFalse(self.endpoints.exists())
        self.assertIn("links on 127.0.0.1:", out)
        self.assertNotIn("Traceback", out)
        self.assertNotIn("PRIVATE KEY", out)

    def test_daemon(self) -> None:
        """twistd: the parent returns 0, the daemon serves until SIGTERM and leaves no pid file."""
        process = self.start(daemon=True)
        self.assertEqual(self.finish(process), (0, "", ""))
        self.reach(self.up()["links"])
        pid = int(self.pidfile.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon's end")
        self.assertFalse(self.endpoints.exists())
        self.assertFalse(self.pidfile.exists())
        self.assertNotIn("Traceback", self.log.read_text())

    def test_failed_start_leaves_no_pidfile(self) -> None:
        """A start that fails removes its pid file: the next one may get the same number."""
        self.start()
        port = self.up()["links"].rpartition(":")[2]
        home, pidfile = Path(self.mktemp()), Path(self.mktemp()).absolute()
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from twisted.scripts.twistd import run; run()",
                "-n",
                f"--pidfile={pidfile}",
                "rshell",
                "--home",
                str(home),
                "--links",
                f"tcp:{port}:interface=127.0.0.1",
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"Address already in use", done.stderr)
        self.assertFalse(pidfile.exists())

    def test_home_in_use(self) -> None:
        """A second gateway on a home is refused in one line and harms nothing of the first."""
        self.start()
        links = self.up()["links"]
        again = self.start("--links", "tcp:0:interface=127.0.0.1")
        status, _, error = self.finish(again)
        self.assertEqual(status, 1)
        self.assertEqual(len(error.splitlines()), 1, error)
        self.assertIn("already", error)
        self.assertTrue(self.endpoints.exists())
        self.reach(links)

    def test_second_start(self) -> None:
        """A gateway killed with SIGKILL starts again at once, on the same port."""
        process = self.start()
        port = self.up()["links"].rpartition(":")[2]
        process.kill()
        process.communicate()
        self.assertTrue(self.endpoints.exists(), "nobody could remove it")
        again = self.start("--links", f"tcp:{port}:interface=127.0.0.1")
        wait_until(lambda: self._listens(int(port)), "the second start")
        again.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(again)[0], SIGTERMED)

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _busy(self) -> str:
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return f"tcp:{listener.getsockname()[1]}:interface=127.0.0.1"

    def test_busy_port(self) -> None:
        """A busy port ends twistd -n with one line on stderr and a failing status."""
        endpoint = self._busy()
        status, _, err = self.finish(self.start("--links", LOOPBACK, "--links", endpoint))
        self.assertEqual(status, 1)
        self.assertEqual(err, f"rshell: cannot listen on {endpoint}: Address already in use\n")
        self.assertFalse(self.endpoints.exists())

    def test_busy_port_of_a_daemon(self) -> None:
        """A busy port ends the start of a daemon likewise, and no process stays behind."""
        endpoint = self._busy()
        status, out, err = self.finish(self.start("--links", endpoint, daemon=True))
        self.assertEqual((status, out), (1, ""))
        said = f"cannot listen on {endpoint}: Address already in use"
        self.assertEqual(err.count(said), 1)
        self.assertNotIn("Traceback", err)
        wait_until(lambda: not self._processes(), "the end of the failed daemon")
        self.assertFalse(self.endpoints.exists())

    def _processes(self) -> list[str]:
        """Return the processes that run on this test's home."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\x00")
                except OSError:
                    continue  # it ended meanwhile
                if str(self.home).encode() in words:
                    found.append(entry.name)
        return found

    def test_bad_endpoints(self) -> None:
        """What is no TCP endpoint ends the start with one line."""
        for endpoint in ("nonsense", "tcp:x", "tcp:99999", f"unix:{self.directory}/s", "ssl:0"):
            status, _, err = self.finish(self.start("--links", endpoint))
            self.assertEqual(status, 1, endpoint)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertIn(endpoint, err)

    def test_bad_values(self) -> None:
        """A bad value, a damaged or unusable home: one line and a failing status, both modes."""
        (self.directory / "file").write_text("x")
        for words in (
            ["--advertise", "a b"],
            ["--config", "/no/such"],
            ["--home", str(self.directory / "file")],
        ):
            for daemon in (False, True):
                status, _, err = self.finish(self.start(*words, daemon=daemon))
                self.assertEqual(status, 1, words)
                self.assertRegex(err, r"\Arshell: [^\n]+\n\Z")

    def test_doors_that_are_not_there(self) -> None:
        """--web is accepted; one line says that the door stays closed."""
        process = self.start("--web", "tcp:0")
        self.assertEqual(set(self.up()), {"links", "links_all"})
        process.send_signal(signal.SIGTERM)
        status, out, _ = self.finish(process)
        self.assertEqual(status, SIGTERMED)
        lines = [line for line in out.splitlines() if "--web tcp:0" in line]
        self.assertEqual(len(lines), 1)
        self.assertIn("stays closed", lines[0])

    def test_ssh_door(self) -> None:
        """--ssh opens a port and tells where; its host key is made once, and private."""
        process = self.start("--ssh", "tcp:0:interface=127.0.0.1")
        self.assertRegex(str(self.up()["ssh"]), r"\A127\.0\.0\.1:\d+\Z")
        key = self.home / "ssh_host_ed25519_key"
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        self.assertTrue(key.with_suffix(".pub").read_text().startswith("ssh-ed25519 "))
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(process)[0], SIGTERMED)

    def test_ssh_door_that_cannot_open(self) -> None:
        """A bad endpoint, or a host key that others can read: one line and a failing status."""
        self.home.mkdir(mode=0o700)
        for endpoint, why in (("nonsense:1", "not a server endpoint"), ("tcp:0", "chmod 600")):
            if endpoint == "tcp:0":
                (self.home / "ssh_host_ed25519_key").write_text("x")
                (self.home / "ssh_host_ed25519_key").chmod(0o644)
            status, _, err = self.finish(self.start("--ssh", endpoint))
            self.assertEqual(status, 1)
            self.assertRegex(err, r"\Arshell: [^\n]+\n\Z")
            self.assertIn(why, err)

    def test_version_and_help(self) -> None:
        """--help and --version say so and succeed without touching a home."""
        for word in ("--help", "--version"):
            status, out, err = self.finish(self.start(word))
            self.assertEqual((status, err), (0, ""))
            self.assertIn("rshell", out)
        self.assertFalse(self.home.exists())
