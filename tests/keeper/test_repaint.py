"""Real full-screen programs paint again for a terminal that is new to them (K24)."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any
from unittest import SkipTest

from tests.keeper.client import BIG, Stream
from tests.keeper.test_streams import KeeperCase

TERMINAL = {"rows": 24, "columns": 80, "term": "xterm"}
SIZES = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("up", flush=True)
while True:
    signal.sigwait([signal.SIGWINCH])
    print("size %d %d" % tuple(reversed(os.get_terminal_size(0))), flush=True)
"""


class RepaintTests(KeeperCase):
    def started(self, *argv: str, shows: bytes, **fields: Any) -> Stream:
        """A program whose first screen was seen and acknowledged."""
        stream = self.keeper.open(self.session, *argv, pty=TERMINAL, detach=True, **fields)
        stream.until(shows)
        stream.tell()
        return stream

    def attach(self) -> Stream:
        resume = {"consumed": 0, "limit": BIG, "events": 0}
        return self.keeper.open(self.session, "-", attempt=2, resume=resume)

    def test_two_sizes(self) -> None:
        """The program sees both sizes, even if the new terminal tells its own at once."""
        self.started(sys.executable, "-S", "-c", SIZES, shows=b"up")
        joined = self.attach()
        joined.event(1, "window", rows=24, columns=80)
        joined.until(b"size 24 80")
        self.assertEqual([b"size 23 80", b"size 24 80"], joined.stdout.split(b"\r\n")[-3:-1])

    def test_other_size(self) -> None:
        """A terminal of another size is painted for at that size, last."""
        self.started(sys.executable, "-S", "-c", SIZES, shows=b"up")
        joined = self.attach()
        joined.event(1, "window", rows=40, columns=100)
        joined.until(b"size 40 100")
        self.assertIn(b"size 23 80", joined.stdout)

    def editor(self, *argv: str) -> None:
        if shutil.which(argv[0]) is None:
            raise SkipTest(f"no {argv[0]} here")
        path = os.path.join(self.keeper.home, "letter")
        with open(path, "w", encoding="ascii") as file:
            file.writelines(f"line number {number}\n" for number in range(100))
        self.started(*argv, path, shows=b"line number 5", env={"HOME": self.keeper.home})
        joined = self.attach()
        self.assertGreater(joined.opened["gap"], 50)
        self.assertEqual(b"", joined.stdout)
        joined.until(b"line number 5")

    def test_less(self) -> None:
        """less shows its page to who attaches."""
        self.editor("less")

    def test_vi(self) -> None:
        """So does vi."""
        self.editor("vi", "-n")

    def test_shell(self) -> None:
        """A shell shows its prompt, and what was typed so far."""
        if shutil.which("bash") is None:
            raise SkipTest("no bash here")
        self.started("bash", "--norc", "-i", shows=b"$ " if os.geteuid() else b"# ")
        stream = self.keeper.open(self.session, "-", attempt=2, resume=None)
        stream.data(b"echo half")
        stream.until(b"half")
        stream.tell()
        resume = {"consumed": 0, "limit": BIG, "events": 0}
        joined = self.keeper.open(self.session, "-", attempt=3, resume=resume)
        joined.until(b"echo half")
