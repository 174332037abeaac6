"""The example of docs/handlers.md: built, installed into a fresh environment, called for real."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import setuptools

from tests.examples_page import EXAMPLE, Command, matches, sessions
from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import until

POLICY = '[policy]\nhandlers = ["shell", "exec", "facts", "diskusage"]\n'


def installed(base: Path) -> Path:
    """Build the example, install it into a fresh environment, and return its interpreter.

    What it depends on is taken from where we run, so that nothing is downloaded.
    """
    source, wheels, fresh = base / "source", base / "wheels", base / "fresh"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    own = int(setuptools.__version__.partition(".")[0]) >= 71  # builds wheels by itself
    isolation = ["--no-build-isolation"] if own else []
    build = [*pip, "wheel", "-q", "--no-deps", *isolation, "-w", str(wheels), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    wheel = [str(path) for path in wheels.glob("*.whl")]
    install = [*pip, "--python", str(python), "install", "-q", "--no-deps", "--no-index", *wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    (site,) = fresh.glob("lib/python3*/site-packages")
    ours = sysconfig.get_paths()["purelib"]
    (site / "zz-dependencies.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


class ExampleTests(FleetCase):
    def device(self, fleet: Fleet) -> Agent:
        """Return a live pump-17 that runs from the fresh environment."""
        agent = fleet.join("pump-17")
        agent.command = (str(installed(fleet.base)), "-P", "-m", "rshell_agent")
        agent.configure(POLICY)
        agent.start()
        fleet.wait_live("pump-17")
        return agent

    def test_tutorial(self) -> None:
        """Every command that the tutorial shows prints what it shows."""
        fleet = self.own_fleet()
        self.device(fleet)
        until(lambda: fleet.device("pump-17")["handlers"], "the catalogue", 20)
        (commands,) = sessions("")
        self.assertGreater(len(commands), 5)
        for command in commands:
            self.check(fleet, command)
        began = time.monotonic()
        timed = fleet.rshell("call", "pump-17", "diskusage", "paths=/", "--timeout", "0.001")
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn(timed.status, (124, 0), timed)  # 0: a root that is measured in no time
        self.assertIn(b"/etc", fleet.rshell("audit", "--device", "pump-17", "--json").stdout)

    def check(self, fleet: Fleet, command: Command) -> None:
        words = shlex.split(command.line)
        self.assertEqual("rshell", words[0])
        done = fleet.rshell(*words[1:])
        self.assertNotIn(b"Traceback", done.stderr)
        shown = (done.stdout + done.stderr).decode()
        self.assertTrue(matches(command, shown), f"$ {command.line}\n{shown}")

    def test_broken(self) -> None:
        """A plug-in that breaks is told with its distribution, here and on the device."""
        fleet = self.own_fleet()
        agent = fleet.join("pump-17")
        python = installed(fleet.base)
        agent.command = (str(python), "-P", "-m", "rshell_agent")
        (site,) = python.parents[1].glob("lib/python3*/site-packages")
        module = site / "rshell_diskusage" / "measuring.py"
        module.write_text("import no_such_module\n")
        agent.configure(POLICY)
        agent.start()
        fleet.wait_live("pump-17")
        words = (
            "rshell-handler-diskusage 1.0, twisted.plugins.rshell_diskusage_plugin: cannot be "
            "imported: ModuleNotFoundError: No module named 'no_such_module'"
        )
        listed = until(
            lambda: (done := fleet.rshell("handlers", "pump-17")).status == 0 and done,
            "the catalogue",
            20,
        )
        self.assertIn(words.encode(), listed.stderr)
        self.assertNotIn(b"diskusage", listed.stdout)
        self.assertEqual([words], fleet.device("pump-17")["problems"])
        status = fleet.command([*agent.command, "status", "--home", str(agent.home), "--json"])
        self.assertEqual([words], json.loads(status.stdout)["plugin_problems"])
        refused = fleet.rshell("call", "pump-17", "diskusage", "paths=/")
        self.assert_status(255, refused)
        self.assertIn(b"no handler diskusage", refused.stderr)
