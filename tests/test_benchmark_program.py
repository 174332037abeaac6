"""Running measurements: what becomes of those that break off, and of a run that is stopped."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import grown
from benchmarks.grown import walk
from benchmarks.notebook import Goal, Notebook
from benchmarks.program import main
from benchmarks.schedule import SECONDS, clock
from benchmarks.site import most_devices


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def section(self, name: str, **functions: Callable[..., Any]) -> None:
        """Put a module of our own in the place of a section."""
        module = ModuleType(f"benchmarks.{name}")
        for key, value in {"TITLE": f"the {name}", **functions}.items():
            setattr(module, key, value)
        before = sys.modules.get(module.__name__)

        def put_back() -> None:
            if before is None:
                del sys.modules[module.__name__]
            else:
                sys.modules[module.__name__] = before

        self.addCleanup(put_back)
        sys.modules[module.__name__] = module


def writes(value: float) -> Callable[[Notebook], None]:
    """Return a measurement that writes one sample down."""
    return lambda book: book.add("it", value, "ms", goal=Goal(2))


def raises(error: BaseException) -> Callable[..., None]:
    """Return a measurement that breaks off."""

    def measure(*_: object) -> None:
        raise error

    return measure


class ProgramTests(_Case):
    """Sections one after the other."""

    def run_all(self, *options: str) -> tuple[int, list[str]]:
        """Run two sections; return the status and the names of those written down."""
        directory = Path(self.mktemp())
        status = main(["startup", "device", "--out", str(directory), *options])
        path = directory / "results.json"
        told = json.loads(path.read_text())["sections"] if path.exists() else []
        return status, [one["name"] for one in told]

    def test_all(self) -> None:
        """Sections run in their order; the page has all of them."""
        for name in ("device", "startup"):
            self.section(name, measure=writes(1.0))
        self.assertEqual(self.run_all(), (0, ["startup", "device"]))
        self.assertIn("2 of 2 done", self.err.getvalue())
        self.assertIn(f"startup {clock(SECONDS['startup'])}", self.err.getvalue())

    def test_failed(self) -> None:
        """A section that breaks off fails the run and stops no other one."""
        self.section("startup", measure=raises(OSError("no door listens")))
        self.section("device", measure=writes(1.0))
        self.assertEqual(self.run_all(), (1, ["device"]))
        self.assertIn("no door listens", self.err.getvalue())
        self.assertIn("failed: startup", self.err.getvalue())

    def test_stopped(self) -> None:
        """A run that is stopped keeps what had ended; SIGTERM means afterwards what it did."""
        before = signal.getsignal(signal.SIGTERM)
        self.section("startup", measure=writes(1.0))
        self.section("device", measure=lambda book: signal.raise_signal(signal.SIGTERM))
        self.assertEqual(self.run_all(), (130, ["startup"]))
        self.assertEqual(signal.getsignal(signal.SIGTERM), before)

    def test_missed(self) -> None:
        """A goal that is missed fails a full run, which names the section, and no small one."""
        for name in ("device", "startup"):
            self.section(name, measure=writes(3.0))
        self.assertEqual(self.run_all()[0], 1)
        self.assertIn("missed a goal: startup, device", self.err.getvalue())
        self.assertEqual(self.run_all("--repeats", "1")[0], 0)

    def test_bad_options(self) -> None:
        """A section that there is not, and counts that mean nothing, are told in one line."""
        for words in (["nothing"], ["--repeats", "0"], ["--devices", "-1"], ["--minutes", "x"]):
            error = self.assertRaises(SystemExit, main, words)
            self.assertEqual(error.code, 2, words)


class _FakeGrown:
    def __init__(self) -> None:
        self.count = 0
        self.grew: list[int] = []

    def grow(self, count: int) -> None:
        self.count = count
        self.grew.append(count)


class _FakeSite:
    def __enter__(self) -> _FakeSite:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @staticmethod
    def rest(seconds: float) -> None:
        """No time passes."""


class WalkTests(_Case):
    """Sections that share a fleet."""

    def walk(self, *names: str) -> tuple[list[str], list[int]]:
        """Let sections look at a fleet of nobody; return who ended how, and how it grew."""
        fleet = _FakeGrown()
        self.patch(grown, "Site", _FakeSite)
        self.patch(grown, "_new", lambda site, largest: fleet)
        books = {name: Notebook(name, "") for name in names}
        ended = [f"{one.name}: {one.error}" for one in walk(books, lambda text: None)]
        return ended, fleet.grew

    def test_sizes(self) -> None:
        """The fleet grows once for all; each section has ended with its last size."""
        seen: list[tuple[str, int]] = []
        for name, sizes in (("many", (200,)), ("fleet_size", (0, 100, 300))):
            self.section(
                name,
                sizes=lambda book, sizes=sizes: sizes,
                visit=lambda book, fleet, count: seen.append((book.section, count)),
            )
        ended, grew = self.walk("fleet_size", "many")
        self.assertEqual(ended, ["many: None", "fleet_size: None"])
        self.assertEqual(grew, [100, 200, 300])
        self.assertEqual(
            seen, [("fleet_size", 0), ("fleet_size", 100), ("many", 200), ("fleet_size", 300)]
        )

    def test_broken(self) -> None:
        """One that breaks off looks no more; the others go on."""
        self.section("many", sizes=lambda book: (1, 2), visit=raises(OSError("no answer")))
        self.section("soak", sizes=lambda book: (2,), visit=lambda book, fleet, count: None)
        self.assertEqual(self.walk("many", "soak")[0], ["many: no answer", "soak: None"])

    def test_descriptors(self) -> None:
        """A fleet larger than descriptors allow is smaller, and the notes say so."""
        seen: list[int] = []
        notes: list[str] = []

        def visit(book: Notebook, fleet: object, count: int) -> None:
            seen.append(count)
            notes.extend(book.notes)

        self.section("soak", sizes=lambda book: (10**9,), visit=visit)
        self.walk("soak")
        self.assertEqual(seen, [most_devices(10**9)])
        self.assertIn("descriptors", notes[0])
