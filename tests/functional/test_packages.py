"""The demo, and the wheels installed far away from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.functional.processes import CLI, LONG, REQUIRE_ALL, environment, pids

ROOT = Path(__file__).resolve().parents[2]


class DemoTests(SynchronousTestCase):
    def test_once(self) -> None:
        """`rshell demo --once` runs real commands on three devices and leaves nothing behind."""
        with tempfile.TemporaryDirectory(prefix="rsh-") as home:
            environ = {**environment(Path(home)), "TMPDIR": home}
            done = subprocess.run(
                [*CLI, "demo", "--once"],
                env=environ,
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=120,
            )
            self.assertEqual(0, done.returncode, done)
            for name in (b"pump-1", b"pump-2", b"valve-1"):
                self.assertRegex(done.stdout, rb"(?m)^" + name + rb": Linux ")
            self.assertIn(b"valve-1: done", done.stderr + done.stdout)
            self.assertNotIn(b"Traceback", done.stdout + done.stderr)
            left = [pid for pid in pids() if home.encode() in _command(pid)]
            for pid in left:
                if b"-S" not in _command(pid).split(b"\0"):  # a keeper sees its home go, and goes
                    self.fail(f"{_command(pid)!r} was left behind")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class WheelTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not (LONG or REQUIRE_ALL):
            raise SkipTest("set RSHELL_LONG=1 or RSHELL_REQUIRE_ALL=1")
        if not (ROOT / "setup.cfg").exists():
            raise SkipTest("not in a checkout")

    def test_installed(self) -> None:
        """Wheels in a fresh environment bring commands, twistd plug-ins and migrations."""
        with tempfile.TemporaryDirectory(prefix="rsh-") as place:
            self._check(Path(place))

    def _check(self, place: Path) -> None:
        # built from a copy: a build leaves folders behind
        copy = place / "src"
        copy.mkdir()
        for name in ("rshell", "agent", "twisted"):
            subprocess.run(["cp", "-r", str(ROOT / name), f"{copy}/"], check=True)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            (copy / name).write_bytes((ROOT / name).read_bytes())
        wheels = place / "wheels"
        self._finished(
            place,
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            str(wheels),
            str(copy),
            str(copy / "agent"),
        )
        fresh = place / "venv"
        venv.create(fresh, with_pip=True)
        python = str(fresh / "bin" / "python")
        self._finished(
            place,
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            *(str(path) for path in wheels.glob("*.whl")),
        )
        # What they depend on is taken from where we run, so that nothing is downloaded.
        target = self._finished(
            place, python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        ).strip()
        (Path(target) / "zz-dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        for command, wanted in (
            (["rshell", "--version"], "rshell "),
            (["rshell", "run", "--help"], "SELECTOR"),
            (["rshell-inventory", "--help"], "--ansible"),
            (["rshell-agent", "--version"], "rshell-agent "),
        ):
            self.assertIn(
                wanted, self._finished(place, str(fresh / "bin" / command[0]), *command[1:])
            )
        for plugin in ("rshell", "rshell-agent"):
            said = self._finished(
                place,
                python,
                "-P",
                "-c",
                "from twisted.scripts.twistd import run; run()",
                plugin,
                "--help",
            )
            self.assertIn("--home", said)
        code = (
            "import rshell.store.migrations as m, os, rshell; d = list(m.__path__)[0];"
            "print(rshell.__file__, sorted(os.listdir(d)), os.listdir(d + '/versions'))"
        )
        found = self._finished(place, python, "-P", "-c", code)
        self.assertIn(str(fresh), found)
        self.assertIn("env.py", found)
        self.assertIn("v0001_first.py", found)

    def _finished(self, place: Path, *command: str) -> str:
        environ = {
            name: value for name, value in environment(place).items() if name != "PYTHONPATH"
        }
        done = subprocess.run(
            command,
            cwd="/",
            env={**environ, "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        self.assertEqual(0, done.returncode, done)
        return done.stdout
