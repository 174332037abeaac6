"""Unit tests of rshell_agent.job_notes: from the keeper's journal to the flight recorder."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.job_notes import JobNotes
from rshell_agent.keeper_client import KeeperUnavailable

REBOOT = {
    "job": "a" * 32, "kind": "reboot", "state": "done", "operator": "ann", "reason": "kernel",
    "message": "back with another boot id", "seconds": 41.5,
}  # fmt: skip


class NotesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.jobs: Any = []
        self.calls: list[tuple[str, Any]] = []
        self.notes: list[tuple[str, str, Any]] = []
        self.error: KeeperUnavailable | None = None

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        self.calls.append((name, fields.get("jobs")))
        if self.error is not None:
            raise self.error
        return {"jobs": self.jobs} if name == "jobs" else {}

    def note(self, kind: str, message: str = "", *, target: str = "", seconds: Any = None,
             **details: Any) -> None:  # fmt: skip
        self.notes.append((kind, message, seconds))

    def carry(self) -> None:
        keeper: Any = self
        self.successResultOf(Deferred.fromCoroutine(JobNotes(keeper, self).carry()))

    def test_noted(self) -> None:
        """An outcome is noted with who asked and why, and then the keeper is told so."""
        self.jobs = [REBOOT]
        self.carry()
        self.assertEqual([("reboot", "done; asked for by ann; kernel; back with another boot id",
                           41.5)], self.notes)  # fmt: skip
        self.assertEqual([("jobs", None), ("noted", ["a" * 32])], self.calls)

    def test_nothing(self) -> None:
        """Without jobs nothing is noted; without a keeper, or with an older one, neither."""
        self.carry()
        self.error = KeeperUnavailable("no such call: jobs")
        self.carry()
        self.assertEqual(([], 2), (self.notes, len(self.calls)))

    def test_malformed(self) -> None:
        """What a keeper says that is no job is left out, or noted as far as it makes sense."""
        self.jobs = [7, {"kind": "x" * 99, "seconds": "soon"}]
        self.carry()
        self.assertEqual(["job"], [kind for kind, _, _ in self.notes])
        self.assertEqual([None], [seconds for _, _, seconds in self.notes])
