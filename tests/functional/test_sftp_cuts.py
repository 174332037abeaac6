"""An SFTP transfer whose link is cut again and again: OpenSSH's client sees only a pause."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.functional.processes import Program, lasting, require, until
from tests.functional.relay import DOWN, UP, Relay
from tests.functional.relayed import DEVICE, RelayedCase

MIB = 1 << 20
#: Bytes a second: no machine is done before the test has cut what it wanted to cut.
SLOW = 3e6


class CutTests(RelayedCase):
    def setUp(self) -> None:
        require("sftp")
        super().setUp()

    def transfer(self, verb: str, source: Path, target: Path) -> Program:
        """Start a transfer and return when it has begun."""
        server = " ".join(map(str, self.fleet.far_cli("call", DEVICE, "sftp")))
        program = self.fleet.start(["sftp", "-b", "-", "-D", server])
        self.addCleanup(program.kill)
        assert program.process.stdin is not None
        program.process.stdin.write(f"{verb} {source} {target}\n".encode())
        program.process.stdin.close()
        program.process.stdin = None
        until(target.exists, "it has begun")
        return program

    def check(self, verb: str, relay: Relay, size: int, times: int) -> None:
        """Cut a transfer after so many of its bytes, each time somewhere else."""
        source, target = self.file("source"), self.file("target")
        source.write_bytes(data := os.urandom(size))
        relay.rate = SLOW
        program = self.transfer(verb, source, target)
        places = random.Random(times)
        for _ in range(times):
            before = relay.accepted
            relay.cut_after(places.randrange(1, 100_000), DOWN if verb == "get" else UP)
            self.wait_cut(relay, before)
        relay.rate = 0
        done = program.finish(None, 120)
        self.assert_status(0, done)
        self.assertEqual(data, target.read_bytes())

    def test_get(self) -> None:
        """The operator's link is cut four times while a file comes."""
        self.check("get", self.fleet.operator_side, 4 * MIB, 4)

    def test_put(self) -> None:
        """The operator's link is cut four times while a file goes."""
        self.check("put", self.fleet.operator_side, 4 * MIB, 4)

    @lasting("fifty cuts each way")
    def test_many(self) -> None:
        """The operator's link is cut fifty times while a file goes, and while it comes."""
        for verb in ("put", "get"):
            self.check(verb, self.fleet.operator_side, 24 * MIB, 50)
