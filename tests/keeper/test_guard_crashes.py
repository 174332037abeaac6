"""A change that must be confirmed, over a keeper that dies at each step (K50 to K52).

Real keepers and commands, all cases side by side: the wait for a deadline is one for all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.keeper.client import Stream, b64
from tests.keeper.test_reboot import RebootKeeper

#: The shortest time to confirm.
SECONDS = 5
FAILS, CONFIRMED = "exit 3", "confirmed"


class Expected(NamedTuple):
    """What is true after a crash at a point.

    Attributes:
        ends: How the command ends, or that it is confirmed.
        effects: What command and rollback have done.
        told: The outcome's (status, code) by the next keeper; None for no session.
    """

    ends: str
    effects: str
    told: tuple[str, str | None] | None


UNDONE = ("error", "rolled-back")
UNKNOWN = ("error", "rollback-unknown")
POINTS = {
    "jobs.confirm.armed.before": Expected(FAILS, "", None),
    "jobs.confirm.armed.after": Expected(FAILS, "undone", UNDONE),
    "jobs.confirm.ran.before": Expected(FAILS, "changed undone", UNDONE),
    "jobs.confirm.ran.after": Expected(FAILS, "changed undone", UNDONE),
    "jobs.confirm.rolling-back.before": Expected(FAILS, "changed undone", UNDONE),
    "jobs.confirm.rolling-back.after": Expected(FAILS, "changed", UNKNOWN),
    "confirm.rollback.spawned": Expected(FAILS, "changed undone", UNKNOWN),
    "jobs.confirm.rolled-back.before": Expected(FAILS, "changed undone", UNKNOWN),
    "jobs.confirm.rolled-back.after": Expected(FAILS, "changed undone", UNDONE),
    "jobs.confirm.confirmed.before": Expected(CONFIRMED, "changed undone", UNDONE),
    "jobs.confirm.confirmed.after": Expected(CONFIRMED, "changed", ("ok", None)),
    "jobs.confirm.told.before": Expected(CONFIRMED, "changed", ("ok", None)),
    "jobs.confirm.told.after": Expected(CONFIRMED, "changed", None),
}


class Case:
    """One home, and the keepers on it, of which the first dies at a point."""

    def __init__(self, test: SynchronousTestCase, point: str) -> None:
        self.point, self.expected = point, POINTS[point]
        self.home = Path(tempfile.mkdtemp(prefix="keeper-"))
        test.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.effects = self.home / "effects"
        self.key = os.urandom(16)
        self.keeper = RebootKeeper(str(self.home), RSHELL_CRASH_AT=point)
        test.addCleanup(self.end)

    def end(self) -> None:
        if self.keeper.process.poll() is None:
            self.keeper.die()

    def crash(self) -> None:
        """Go on until the keeper is dead, then start the next one."""
        try:
            self._run()
        except (AssertionError, OSError, KeyError):
            pass  # it died before it could answer
        self.keeper.process.wait(20)
        self.keeper = RebootKeeper(str(self.home))

    def _run(self) -> None:
        ends = "true" if self.expected.ends == CONFIRMED else self.expected.ends
        # the words between show that it lives on when nobody hears it
        undo = f"echo a; sleep 0.2; echo b; sleep 0.2; echo c; echo undone >> {self.effects}"
        confirm = {"seconds": SECONDS, "rollback": b64(undo)}
        line = b64(f"echo changed >> {self.effects}; {ends}")
        stream = Stream(self.keeper.connect())
        process = {"kind": "exec", "line": line, "confirm": confirm}
        stream.open(self.key, "-", handler="exec", process=process)
        while not stream.guards and stream.step():
            pass
        if self.expected.ends == CONFIRMED:
            stream = self._confirmed(stream)
        while stream.step():
            if stream.outcome is not None:
                stream.tell()

    def _confirmed(self, before: Stream) -> Stream:
        resume = {"consumed": before.consumed, "limit": 1 << 20, "events": before.events}
        stream = Stream(self.keeper.connect())
        dialled = int(time.monotonic() * 1000) + 1
        while time.monotonic() * 1000 < dialled:
            pass
        stream.open(
            self.key, "-", handler="exec", attempt=2, resume=resume, link_dialled_ms=dialled
        )
        stream.event(1, "confirm")
        return stream

    def session(self) -> dict[str, Any] | None:
        control = self.keeper.control()
        found = control.session(self.key)
        control.close()
        return found

    @property
    def done(self) -> str:
        """What was done, and how often."""
        return " ".join(self.effects.read_text().split()) if self.effects.exists() else ""


class GuardCrashTests(SynchronousTestCase):
    def test_every_step(self) -> None:
        """Whatever it died at: undone unless confirmed, at most once, and what is told is true."""
        cases = [Case(self, point) for point in POINTS]
        for case in cases:
            case.crash()
        for case in cases:
            told = None
            deadline = time.monotonic() + SECONDS + 15
            while (found := case.session()) is not None and found["state"] != "finished":
                self.assertLess(time.monotonic(), deadline, case.point)
                time.sleep(0.05)
            if found is not None:
                told = (found["outcome"]["status"], found["outcome"]["code"])
            while case.point.endswith("spawned") and "undone" not in case.done:
                self.assertLess(time.monotonic(), deadline, case.point)
                time.sleep(0.05)
            self.assertEqual(
                (case.expected.effects, case.expected.told), (case.done, told), case.point
            )
