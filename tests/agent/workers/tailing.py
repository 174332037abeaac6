"""A tail worker without a process: its records in a file, its clock in the test's hand."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.workers.confined import Confined
from rshell_agent.workers.tail.following import Following
from rshell_agent.workers.tail.opened import read_mark
from rshell_agent.workers.tail.records import Records
from rshell_agent.workers.tail.request import Request

__all__ = ["Tailed", "TailingCase"]


class NoWakeups:
    """Stands in for `Wakeups`: the test says when to look."""

    def watch_file(self, descriptor: int) -> int:
        return descriptor

    def watch_folder(self, descriptor: int) -> int:
        return descriptor

    def unwatch(self, watch: int) -> None:
        pass

    def wait(self) -> bool:
        raise AssertionError("nobody waits here")


class Tailed:
    """One worker.

    Attributes:
        following: The worker's own.
        now: Monotonic seconds, as it sees them.
        records: All that was told so far.
    """

    def __init__(self, case: TailingCase, marks: list[dict[str, Any]] | None, **fields: Any):
        self.now = 1000.0
        self.records: list[dict[str, Any]] = []
        self._fd = os.memfd_create("records")
        case.addCleanup(os.close, self._fd)
        paths = [base64.b64encode(os.fsencode(path)).decode() for path in fields.pop("paths")]
        roots = fields.pop("read", ["/"])
        self.following = Following(
            Request({"paths": paths, "follow": True, **fields}, 0.0),
            Confined(roots, []),
            Records(self._fd),
            NoWakeups(),  # type: ignore[arg-type]  # it has the methods that are called
            None if marks is None else [read_mark(mark) for mark in marks],
            now=lambda: self.now,
            wall=lambda: 2_000_000_000.0,
        )
        self.following.begin()
        self._take()

    def _take(self) -> None:
        size = os.lseek(self._fd, 0, os.SEEK_CUR)
        data = os.pread(self._fd, size, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.ftruncate(self._fd, 0)
        self.records += [json.loads(line) for line in data.splitlines()]

    def step(self, seconds: float = 0.0) -> None:
        """Let time pass, look, and read all there is."""
        self.now += seconds
        self.following.look()
        while self.following.turn():
            pass
        self._take()

    def lines(self) -> list[str]:
        """Return the lines so far, whatever file they are of."""
        return [
            record["line"] if "line" in record else repr(base64.b64decode(record["b64"]))
            for record in self.records
            if "kind" not in record
        ]

    def codes(self) -> list[str]:
        """Return the notes' codes so far."""
        return [record["code"] for record in self.records if record.get("kind") == "note"]

    def dropped(self) -> int:
        """Return how many lines were said to be left out."""
        return sum(r["count"] for r in self.records if r.get("kind") == "dropped")

    def marks(self) -> list[dict[str, Any]]:
        """Return what an operator's end would know of the places."""
        known: dict[int, dict[str, Any]] = {}
        for record in self.records:
            kind, file = record.get("kind"), record.get("file")
            if kind == "file":
                known[file] = dict(record)
            elif kind == "end":
                del known[file]
            elif kind in (None, "dropped", "at"):
                known[file].update(pos=record["pos"], mid=bool(record.get("part")))
        return list(known.values())


class TailingCase(SynchronousTestCase):
    """Tests with a folder and workers in it."""

    def setUp(self) -> None:
        self.folder = Path(os.path.realpath(self.mktemp()))
        self.folder.mkdir(parents=True)
        self.log = self.folder / "app.log"

    def append(self, text: str | bytes, path: Path | None = None) -> None:
        """Write at the end of a log."""
        with (path or self.log).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def tail(self, *paths: Path | str, **fields: Any) -> Tailed:
        """Return a worker that has begun."""
        marks = fields.pop("marks", None)
        return Tailed(self, marks, paths=paths or [self.log], **fields)
