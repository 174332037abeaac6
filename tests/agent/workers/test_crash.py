"""Crash points."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.keeper.client import AGENT_FOLDER

PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from rshell_agent.workers.crash import crash_point\n"
    "for name in sys.argv[2:]:\n    crash_point(name); sys.stdout.write(name); sys.stdout.flush()"
)


class CrashPointTests(SynchronousTestCase):
    def passed(self, variable: str | None) -> tuple[int, str]:
        """Pass a, b, a, b, a; return the end and what was passed."""
        environment = {k: v for k, v in os.environ.items() if k != "RSHELL_CRASH_AT"}
        if variable is not None:
            environment["RSHELL_CRASH_AT"] = variable
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, AGENT_FOLDER, *"ababa"]
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, timeout=60
        )
        return done.returncode, done.stdout.decode()

    def test_named(self) -> None:
        """A process is killed when it passes the named point for the named time, only then."""
        self.assertEqual(self.passed(None), (0, "ababa"))
        self.assertEqual(self.passed(""), (0, "ababa"))
        self.assertEqual(self.passed("c"), (0, "ababa"))
        self.assertEqual(self.passed("a"), (-signal.SIGKILL, ""))
        self.assertEqual(self.passed("b:2"), (-signal.SIGKILL, "aba"))
        self.assertEqual(self.passed("a:4"), (0, "ababa"))
