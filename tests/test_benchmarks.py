"""What the benchmarks compute and print; their measurements are run by ``make bench``."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from benchmarks.fleet_device import AgeingClock, source_address
from benchmarks.grown import sizes_of
from benchmarks.notebook import Goal, Notebook
from benchmarks.pinning import Pins, pinned
from benchmarks.proc import Memory, parse_busy, parse_cpu, parse_memory
from benchmarks.results import Figures, Found, read_results, section_of, write_results
from benchmarks.schedule import GROWN, SECTIONS, clock, in_order, plan
from benchmarks.summary import quantile, ratio, summarise
from benchmarks.tables import markdown_section, number, rows_of, text_section, text_table

MACHINE = {
    "cores": 2,
    "model": "a|b",
    "kernel": "6.1",
    "python": "3.11",
    "openssl": "OpenSSL 3.5",
    "commit": "abc",
    "date": "2026-01-01",
    "load_before": 0.1,
    "quick": False,
}


def book_with(*samples: tuple[str, float]) -> Notebook:
    """Return a notebook with samples of one quantity."""
    book = Notebook("echo", "keystrokes")
    for who, value in samples:
        book.add("echo", value, "ms", who)
    return book


class SummaryTests(SynchronousTestCase):
    """Medians, spreads, quantiles, ratios."""

    def test_quantile(self) -> None:
        """The nearest rank, whatever the order; nothing has no quantile."""
        values = list(range(100, 0, -1))
        self.assertEqual([quantile(values, q) for q in (0, 0.5, 0.95, 1)], [1, 51, 96, 100])
        self.assertEqual(quantile([7.0], 0.95), 7.0)
        self.assertRaises(ValueError, quantile, [], 0.5)

    def test_summary(self) -> None:
        """One outlier moves the most, not the median."""
        told = summarise([3, 1, 2, 100, 2])
        self.assertEqual((told.median, told.low, told.high, told.count), (2, 1, 100, 5))
        self.assertEqual((told.quartile_low, told.quartile_high), (2, 3))
        self.assertEqual(summarise([1, 2]).median, 1.5)
        self.assertRaises(ValueError, summarise, [])

    def test_ratio(self) -> None:
        """Nothing is a multiple of nothing."""
        self.assertEqual(ratio(3, 2), 1.5)
        self.assertIsNone(ratio(3, 0))


class NotebookTests(SynchronousTestCase):
    """Rounds and samples."""

    def rounds(self, book: Notebook, *, warm_up: bool = True) -> list[int]:
        self.patch(book, "say", lambda text: None)
        seen = []
        for one in book.rounds(warm_up=warm_up):
            seen.append(one)
            book.add("echo", one, "ms")
        return seen

    def test_warm_up(self) -> None:
        """What the warm-up measures is forgotten."""
        book = Notebook("echo", "", repeats=3)
        self.assertEqual(self.rounds(book), [0, 1, 2, 3])
        self.assertEqual([figure.samples for figure in book.figures], [[1, 2, 3]])

    def test_no_warm_up(self) -> None:
        """Where each round starts anew, all of them count."""
        book = Notebook("echo", "", quick=True)
        self.assertEqual(self.rounds(book, warm_up=False), [1, 2])
        self.assertEqual(book.figures[0].samples, [1, 2])

    def test_broken_off(self) -> None:
        """A warm-up that is broken off does not swallow what comes after it."""
        book = Notebook("echo", "")
        self.patch(book, "say", lambda text: None)
        rounds = book.rounds()
        next(rounds)
        rounds.close()  # type: ignore[attr-defined]  # it is a generator
        book.add("echo", 1, "ms")
        self.assertEqual(book.figures[0].samples, [1])

    def test_at_least_five(self) -> None:
        """A full run has at least five samples of everything."""
        self.assertGreaterEqual(Notebook("echo", "").repeats, 5)

    def test_goals(self) -> None:
        """A goal is a bound from above or from below; the bound itself keeps it."""
        self.assertTrue(Goal(2).held_by(2))
        self.assertFalse(Goal(2).held_by(2.1))
        self.assertTrue(Goal(2, at_most=False).held_by(2))
        self.assertFalse(Goal(2, at_most=False).held_by(1.9))


class TableTests(SynchronousTestCase):
    """What people see."""

    def test_table(self) -> None:
        """Words stand to the left, numbers to the right."""
        text = text_table(["what", "who", "ms"], [["echo", "rshell", "7.0"], ["e", "ssh", "123.5"]])
        self.assertEqual(text.splitlines()[2:], ["echo  rshell    7.0", "e     ssh     123.5"])

    def test_numbers(self) -> None:
        """Three digits mean something."""
        told = [number(value) for value in (12345, 123.4, 12.34, 1.234, 0.01234, 0, -1.5)]
        self.assertEqual(told, ["12,345", "123", "12.3", "1.23", "0.0123", "0", "-1.50"])

    def test_ratio(self) -> None:
        """Others are told as multiples of ours, of the same quantity at the nearest place."""
        book = book_with(("ssh -R", 4.0), ("rshell", 2.0))
        book.add("echo", 8.0, "ms", "ssh -R", at=100, along="devices")
        for at, value in ((90, 4.0), (1_000, 1.0)):
            book.add("memory", value, "KB", at=at, along="devices")
        book.add("memory", 8.0, "KB", "ssh -R", at=100, along="devices")
        cells = [(row[0], row[1], row[5]) for row in rows_of(book.figures)]
        self.assertEqual(
            cells,
            [
                ("echo, ms", "ssh -R", "2.00"),
                ("echo, ms", "rshell", ""),
                ("echo, 100 devices, ms", "ssh -R", ""),
                ("memory, 90 devices, KB", "rshell", ""),
                ("memory, 1,000 devices, KB", "rshell", ""),
                ("memory, 100 devices, KB", "ssh -R", "2.00"),
            ],
        )

    def test_goals(self) -> None:
        """A goal says whether it was kept; a quick run judges nothing."""
        for value, quick, verdict in (
            (1.0, False, "≤ 2 kept"),
            (3.0, False, "≤ 2 MISSED"),
            (3.0, True, "≤ 2\n"),
        ):
            book = Notebook("echo", "", quick=quick)
            book.add("echo", value, "ms", goal=Goal(2))
            self.assertIn(verdict, text_section(book))

    def test_left_out(self) -> None:
        """Who is missing is named with the reason, in both forms."""
        book = book_with(("rshell", 1.0))
        book.leave_out("nginx", "not installed")
        book.note("a note")
        book.note("a note")
        self.assertIn("left out: nginx: not installed", text_section(book))
        page = markdown_section(section_of(book, MACHINE))
        self.assertIn("* Left out: nginx: not installed.", page)
        self.assertEqual(page.count("* a note"), 1)

    def test_markdown(self) -> None:
        """The page says on what machine and commit; bars in cells break no table."""
        page = markdown_section(section_of(book_with(("a|b", 1.0)), MACHINE))
        self.assertIn("commit abc", page)
        self.assertIn("| echo, ms | a\\|b | 1.00 |", page)


class ResultsTests(SynchronousTestCase):
    """results.json."""

    def test_merge(self) -> None:
        """A section that is measured again replaces itself and nothing else."""
        directory = Path(self.mktemp())
        for section, value in (("echo", 1.0), ("bulk", 2.0), ("echo", 3.0)):
            book = Notebook(section, "")
            book.add("it", value, "ms", goal=Goal(9))
            write_results(directory, [section_of(book, MACHINE)])
        told = json.loads((directory / "results.json").read_text())["sections"]
        samples = {one["name"]: one["figures"][0]["samples"] for one in told}
        self.assertEqual(samples, {"echo": [3.0], "bulk": [2.0]})
        self.assertEqual(told[0]["machine"], MACHINE)
        self.assertEqual((directory / "results.md").read_text().count("\n## "), 2)

    def test_found(self) -> None:
        """A quantity is found at its least, greatest and nearest place; else there is none."""
        book = Notebook("echo", "")
        for at, value in ((5_000, 3.0), (0, 1.0), (0, 2.0), (0, 9.0)):
            book.add("p99", value, "ms", at=at, along="devices", goal=Goal(2))
        found = Found([section_of(book, MACHINE)])
        first, last = found.first("echo", "p99"), found.last("echo", "p99")
        self.assertEqual(first, Figures(2.0, 1.0, 9.0, 0, Goal(2)))
        self.assertEqual(last, Figures(3.0, 3.0, 3.0, 5_000, Goal(2)))
        self.assertEqual(found.near("echo", "p99", 20_000), last)
        self.assertEqual(found.near("echo", "p99", 100), first)
        self.assertIsNone(found.first("echo", "p50"))
        self.assertIsNone(found.near("bulk", "p99", 0))
        self.assertIsNone(found.first("echo", "p99", "ssh -R"))

    def test_nothing_yet(self) -> None:
        """Where nothing was measured there is nothing, and no error."""
        self.assertEqual(read_results(Path(self.mktemp())), [])


class ProcTests(SynchronousTestCase):
    """What is read from /proc."""

    def test_cpu(self) -> None:
        """User and system time, own and of ended children; brackets in a name do not count."""
        stat = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 5 0 0"
        self.assertEqual(parse_cpu(stat, 100), 1.27)

    def test_memory(self) -> None:
        """Resident, shared by parts, allocated; older kernels say less of the last."""
        head = "5-7 ---p 00000000 00:00 0    [rollup]\nRss:    90 kB\nPss:    50 kB\n"
        self.assertEqual(parse_memory(head + "Pss_Anon:   30 kB\n"), Memory(90, 50, 30))
        self.assertEqual(parse_memory(head + "Anonymous:   40 kB\n"), Memory(90, 50, 40))

    def test_no_memory(self) -> None:
        """What is empty or cut off is no memory of 0."""
        for text in ("", "Rss: 90 kB\n", "Rss: many\nPss: 5 MB\n"):
            self.assertRaises(ValueError, parse_memory, text)

    def test_busy(self) -> None:
        """Nanoseconds on a processor; how often and how long it waited does not count."""
        self.assertEqual(parse_busy("1500000000 7 9\n"), 1.5)


class PlanTests(SynchronousTestCase):
    """What runs when, where, and for how long."""

    def test_fits(self) -> None:
        """All of it takes no longer than the page says, and every section is a module."""
        self.assertLess(plan(SECTIONS), 45 * 60)
        for name in SECTIONS:
            module = importlib.import_module(f"benchmarks.{name}")
            self.assertTrue(module.TITLE)
            self.assertEqual(hasattr(module, "visit"), name in GROWN, name)
            self.assertEqual(hasattr(module, "measure"), name not in GROWN, name)

    def test_order(self) -> None:
        """Sections run in their own order, each once; none named means all."""
        self.assertEqual(in_order(["soak", "echo", "soak"]), ["echo", "soak"])
        self.assertEqual(in_order([]), list(SECTIONS))
        self.assertEqual(SECTIONS[-len(GROWN) :], GROWN)

    def test_growing(self) -> None:
        """Who alone looks at a fleet waits for it to grow."""
        self.assertGreater(plan(["many"]), plan(["many", "fleet_size"]) - plan(["fleet_size"]))

    def test_clock(self) -> None:
        """Minutes and seconds."""
        self.assertEqual([clock(0.4), clock(61), clock(3599.6)], ["0:00", "1:01", "60:00"])

    def test_sizes(self) -> None:
        """A fleet that may not be as large as a section wants is as large as it may be."""
        for most, sizes in ((None, (1_000, 5_000, 20_000)), (3_000, (1_000, 3_000)), (9, (9,))):
            book = Notebook("many", "", most=most)
            self.assertEqual(sizes_of(book, (1_000, 5_000, 20_000), (1,)), sizes)
        self.assertEqual(sizes_of(Notebook("many", "", quick=True), (1_000,), (20,)), (20,))

    def test_pins(self) -> None:
        """Gateways have the first core, the ends the second; with one core nobody is moved."""
        pins = Pins({3, 1, 2})
        self.assertEqual((pins.gateway_core, pins.ends_core), (1, 2))
        alone = Pins({3})
        self.assertEqual((alone.gateway_core, alone.ends_core), (None, None))
        alone.gateways([os.getpid()])

    def test_pinned(self) -> None:
        """A measurement that pins says so, and gives all cores back."""
        book, before = Notebook("echo", ""), os.sched_getaffinity(0)
        with pinned(book) as pins:
            expected = before if pins.ends_core is None else {pins.ends_core}
            self.assertEqual(os.sched_getaffinity(0), expected)
        self.assertEqual(os.sched_getaffinity(0), before)
        self.assertEqual(len(book.notes), 1)


class SimulatedTests(SynchronousTestCase):
    """The simulated fleet."""

    def test_addresses(self) -> None:
        """Devices dial from many addresses, all of them loopback and valid."""
        found = {source_address(number) for number in range(0, 1_000_000, 63)}
        self.assertGreater(len(found), 15_000)
        for address in found:
            parts = [int(part) for part in address.split(".")]
            self.assertEqual((parts[0], len(parts)), (127, 4))
            self.assertTrue(all(0 <= part <= 255 for part in parts))

    def test_ageing(self) -> None:
        """A clock that was moved on shows it; what waits, waits as long as it would have."""
        reactor = Clock()
        ageing = AgeingClock(reactor)
        verifyObject(IReactorTime, ageing)
        called: list[float] = []
        ageing.callLater(5, lambda: called.append(ageing.seconds()))
        ageing.age(60)
        self.assertEqual(ageing.seconds(), 60)
        reactor.advance(4.9)
        self.assertEqual(called, [])
        self.assertEqual(len(ageing.getDelayedCalls()), 1)
        reactor.advance(0.2)
        self.assertEqual(called, [ageing.seconds()])
