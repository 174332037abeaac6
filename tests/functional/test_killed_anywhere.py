"""A gateway that dies by SIGKILL anywhere: what it keeps as evidence is sound and complete.

Killed at random moments and at points inside the store's writer and the recorder, with sessions
beginning and ending meanwhile.  A file on the device is the witness of what really ran.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import create_engine, text

from rshell.access.asciicast import read_cast
from rshell.store.audit import unfinished
from rshell.store.verifying import verify
from tests.functional.fleet import Fleet
from tests.functional.processes import environment, lasting, until
from tests.functional.terminal import Terminal
from tests.functional.test_recordings import EvidenceCase

#: In the normal form, which has to be short.
KILLS = 8
#: Of each fleet: everybody's back-off grows with each kill (rule C6).
IN_A_ROW = 4
POINTS = (
    "store.before-commit",
    "store.committed",
    "recording.appended",
    "recording.compressed",
    "recording.renamed",
)


class Evidence:
    """What a dead gateway left behind, read from a copy."""

    def __init__(self, home: Path, scratch: Path) -> None:
        for name in ("rshell.sqlite", "rshell.sqlite-wal"):
            if (home / name).exists():
                shutil.copy(home / name, scratch / name)
        engine = create_engine(f"sqlite:///{scratch / 'rshell.sqlite'}")
        with engine.connect() as connection:
            self.verdict = verify(connection)
            self.open = unfinished(connection)
            found = connection.execute(
                text("select distinct session from audit where kind = 'session' and opens = 1")
            )
            self.sessions = {row.session for row in found}
        engine.dispose()
        for path in scratch.glob("rshell.sqlite*"):
            path.unlink()


class KilledAnywhereTests(EvidenceCase):
    def setUp(self) -> None:
        self.terminals: list[Terminal] = []
        self.logged = 0

    def kill_some(self, rng: random.Random, kills: int) -> None:
        fleet = self.own_fleet("felled-1")
        self.logged = 0
        witness, scratch = fleet.base / "witness", fleet.base / "scratch"
        scratch.mkdir()
        witness.touch()
        for turn in range(kills):
            shown = self.felled(fleet, witness, rng)
            evidence = Evidence(fleet.home, scratch)
            self.assertTrue(evidence.verdict.sound, evidence.verdict)
            self.assert_witnessed(witness, evidence)
            self.assert_readable(fleet, shown)
            fleet.gateway_prefix = ()
            if turn < kills - 1:
                self.arm(fleet, rng)
            self.come_back(fleet)
        self.settled(fleet, witness, scratch)
        fleet.close()  # its terminals count on: of fifty fleets, they would take the machine

    def arm(self, fleet: Fleet, rng: random.Random) -> None:
        """Have the next gateway die at a point, unless it is killed before."""
        if rng.random() < 0.6:
            turn = rng.randrange(1, 30)
            fleet.gateway_prefix = ("env", f"RSHELL_CRASH_AT={rng.choice(POINTS)}:{turn}")

    def come_back(self, fleet: Fleet) -> None:
        for _ in range(3):
            try:
                fleet.restart_gateway()
                break
            except AssertionError:  # it died while it started
                fleet.gateway_prefix = ()
        agent = fleet.agents["felled-1"]
        agent.kill()
        self.logged = len(agent.log_text())
        agent.start()

    def felled(self, fleet: Fleet, witness: Path, rng: random.Random) -> int:
        """Let sessions begin and end until the gateway dies; return what a shell had shown."""
        gateway = fleet.gateway
        assert gateway is not None
        command = f"echo $RSHELL_SESSION >> {witness}; sleep 0.{rng.randrange(4)}"
        run = fleet.start(fleet.cli("run", "felled-1", "--", command), stdin=subprocess.DEVNULL)
        shown = 0
        deadline = time.monotonic() + 4 + 3 * rng.random()
        try:
            until(lambda: gateway.poll() is not None or self.is_back(fleet), "it is back", 60)
            if gateway.poll() is None:
                shell = self.opened(fleet)
                shell.expect(r"[#$>] ", 60)
                shell.type("i=0; while sleep 0.05; do i=$((i+1)); echo n$i; done\n")
                shown = int(shell.expect(r"^n(\d+)\r\n", 60).group(1))
                deadline = time.monotonic() + 1.5 + rng.random()
        except AssertionError:
            if gateway.poll() is None:
                raise  # only a gateway that died may fail us
        while gateway.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # the moment of death is what is random
        if gateway.poll() is None:
            fleet.kill_gateway()
        else:
            shown = 0  # it died earlier than what was shown had to be written
        run.process.kill()
        run.process.wait()
        while self.terminals:
            self.terminals.pop().close()
        return shown

    def opened(self, fleet: Fleet) -> Terminal:
        terminal = Terminal(fleet.cli("shell", "felled-1"), environment(fleet.base), fleet.base)
        self.addCleanup(terminal.close)
        self.terminals.append(terminal)
        return terminal

    def is_back(self, fleet: Fleet) -> bool:
        return "connected to" in fleet.agents["felled-1"].log_text()[self.logged :]

    def assert_witnessed(self, witness: Path, evidence: Evidence) -> None:
        ran = set(witness.read_text().split())
        self.assertEqual(set(), ran - evidence.sessions, "it ran, and no row says so")

    def assert_readable(self, fleet: Fleet, shown: int) -> None:
        texts = []
        for path in sorted((fleet.home / "recordings").rglob("*.cast")):
            data = path.read_bytes()
            if data:
                texts.append(self.text(list(read_cast(data)[1])))
        if shown:
            numbers = [int(n) for told in texts for n in re.findall(r"^n(\d+)\r$", told, re.M)]
            self.assertIn(shown, numbers)

    def settled(self, fleet: Fleet, witness: Path, scratch: Path) -> None:
        """In the end the log is sound, signed, and says of each session that it ended."""
        fleet.wait_live("felled-1", seconds=60)
        self.assert_status(0, fleet.rshell("audit", "--verify"))
        for row in self.recordings(fleet):
            if any(path.stat().st_size for path in fleet.home.rglob(f"*{row['session']}*.cast*")):
                self.fetched(fleet, row["session"])  # else it died before the first line
        fleet.kill_gateway()
        evidence = Evidence(fleet.home, scratch)
        self.assertTrue(evidence.verdict.sound, evidence.verdict)
        self.assert_witnessed(witness, evidence)
        self.assertEqual([], [row.record for row in evidence.open if row.record.kind == "session"])
        self.assertTrue(evidence.sessions)

    def spooled(self, point: str) -> None:
        """Let an end wait in the spool because the store is locked, and die at a point."""
        fleet = self.own_fleet("felled-1")
        fleet.kill_gateway()
        fleet.gateway_prefix = ("env", f"RSHELL_CRASH_AT={point}")
        self.logged = len(fleet.agents["felled-1"].log_text())
        self.come_back(fleet)
        until(lambda: self.is_back(fleet), "it is back", 60)
        go, gateway = fleet.base / "go", fleet.gateway
        assert gateway is not None
        command = f"echo begun; while [ ! -e {go} ]; do sleep 0.1; done; exit 3"
        run = fleet.start(fleet.cli("run", "felled-1", "--", command), stdin=subprocess.DEVNULL)
        assert run.process.stdout is not None
        self.assertEqual(b"begun\n", run.process.stdout.readline())
        with closing(sqlite3.connect(fleet.home / "rshell.sqlite", isolation_level=None)) as lock:
            lock.execute("begin immediate")
            go.touch()
            until(lambda: (fleet.home / "audit.spool").read_bytes()[:1] == b"{", "it waits", 60)
            lock.execute("rollback")
        until(lambda: gateway.poll() is not None, "the gateway's end", 60)
        run.process.kill()
        run.process.wait()
        fleet.gateway_prefix = ()
        self.come_back(fleet)
        done = fleet.rshell("audit", "--kind", "session", "--json")
        ends = [row for row in json.loads(done.stdout) if row["refers"] is not None]
        self.assertEqual([("exit", 3)], [(row["status"], row["exit_code"]) for row in ends])
        self.assert_status(0, fleet.rshell("audit", "--verify"))

    def test_spool(self) -> None:
        """An end that waits for a locked store is written by the next gateway, as it was."""
        self.spooled("spool.noted")

    @lasting("waits for a locked store once more")
    def test_spool_written(self) -> None:
        """Nor is one written twice that was written just before the gateway died."""
        self.spooled("spool.written")

    def test_anywhere(self) -> None:
        """The log is sound, recordings are readable, and nothing ran without a row."""
        for seed in range(KILLS // IN_A_ROW):
            self.kill_some(random.Random(seed), IN_A_ROW)

    @lasting("200 kills")
    def test_often(self) -> None:
        """However often."""
        for seed in range(100, 100 + 200 // IN_A_ROW):
            self.kill_some(random.Random(seed), IN_A_ROW)
