"""Figures on pages for people: computed from results.json, and never by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from benchmarks.machine import ROOT
from benchmarks.notebook import Goal, Notebook
from benchmarks.pages import NOTHING, PAGES, fill, write_pages
from benchmarks.performance import LINES, missing_picks, performance_table
from benchmarks.plots import PLOTS, curve_of, draw
from benchmarks.results import read_results, section_of
from benchmarks.sizing import (
    STEPS,
    Constants,
    constants_of,
    constants_table,
    size_of,
    size_table,
)
from benchmarks.tools import has_module

MACHINE = {
    "cores": 2,
    "model": "a processor",
    "memory": "8 GB",
    "kernel": "6.1",
    "python": "3.11",
    "openssl": "OpenSSL 3.5",
    "commit": "abc",
    "date": "2026-01-01T00:00:00+00:00",
    "load_before": 0.1,
    "quick": False,
}
#: Figures that are easy to reckon with.
EACH = Constants(
    base_mb=80.0,
    device_kb=30.0,
    kernel_kb=2.0,
    idle_percent=0.0005,
    return_ms=1.2,
    link_bytes=7_500.0,
    day_kb=512.0,
)


def measured(*figures: tuple[str, str, float, float | None]) -> list[dict[str, Any]]:
    """Return sections with figures: section, quantity, value, place."""
    books: dict[str, Notebook] = {}
    for section, what, value, at in figures:
        book = books.setdefault(section, Notebook(section, section))
        book.add(what, value, "", at=at, along="" if at is None else "devices", goal=Goal(50))
    return [section_of(book, MACHINE) for book in books.values()]


def constants() -> list[dict[str, Any]]:
    """Return sections in which all constants of `EACH` are."""
    return measured(
        ("startup", "memory, nobody connected", EACH.base_mb, 0),
        ("startup", "memory, nobody connected", 999.0, 20_000),
        ("fleet_size", "gateway's memory an idle live device", 99.0, 1_000),
        ("fleet_size", "gateway's memory an idle live device", EACH.device_kb, 20_000),
        ("fleet_size", "kernel's memory a connection, one end", EACH.kernel_kb, 20_000),
        ("fleet_size", "gateway's processor use, fleet idle", 10.0, 20_000),
        ("comeback", "gateway's processor time a device", EACH.return_ms, 10_000),
        (
            "going_live",
            "bytes on the network a device going live, both ways, headers included",
            EACH.link_bytes,
            1_000,
        ),
        ("device", "bytes a day on an idle link, headers included", EACH.day_kb, None),
    )


class SizeTests(SynchronousTestCase):
    """How large a gateway must be."""

    def test_constants(self) -> None:
        """Constants are of the largest fleet; a gateway's own memory is of one that knows none."""
        self.assertEqual(constants_of(constants()), EACH)

    def test_missing_constant(self) -> None:
        """Without one of them nothing is reckoned, whichever it is."""
        for left_out in {section["name"] for section in constants()}:
            kept = [section for section in constants() if section["name"] != left_out]
            self.assertIsNone(constants_of(kept), left_out)
        self.assertIsNone(constants_of([]))

    def test_size(self) -> None:
        """Everything grows with the devices; only the gateway's own memory does not."""
        told = size_of(10_000, EACH)
        self.assertEqual(told.memory_mb, 80 + 10_000 * 32 / 1024)
        self.assertAlmostEqual(told.heartbeat_cores, 0.05)
        self.assertAlmostEqual(told.comeback_cores, 0.2)
        self.assertAlmostEqual(told.comeback_seconds, 15.0)
        self.assertEqual(told.conntrack, 20_000)
        self.assertEqual(told.day_mb, 5_000)
        self.assertAlmostEqual(told.peak_mbit, 10.0)

    def test_descriptors(self) -> None:
        """A tenth of the descriptors stays free, and some are the gateway's own."""
        for devices in STEPS:
            told = size_of(devices, EACH).descriptors
            self.assertGreaterEqual(told * 0.9, devices + 300)
            self.assertLess(told * 0.9, devices + 300 + 1_024)
            self.assertEqual(told % 1_024, 0)

    def test_addresses(self) -> None:
        """An address has 64,512 ports; one device more needs another address."""
        found = [size_of(devices, EACH).addresses for devices in (1, 64_512, 64_513, 1_000_000)]
        self.assertEqual(found, [1, 1, 2, 16])

    def test_tables(self) -> None:
        """A column a step, large figures in larger units."""
        told = size_table(EACH)
        self.assertEqual({line.count("|") for line in told}, {len(STEPS) + 2})
        self.assertIn("| memory | 111 MB | 392 MB | 3.13 GB | 30.6 GB |", told)
        self.assertIn(
            "| all back at one gateway, after | 1.50 s | 15.0 s | 2.50 min | 25.0 min |", told
        )
        self.assertIn("| an idle link, network, both ways | 512 KB a day |", constants_table(EACH))


class PerformanceTests(SynchronousTestCase):
    """README's table."""

    def test_missing(self) -> None:
        """What was not measured is not in the table; a goal that was missed is told so."""
        sections = measured(("echo", "echo, idle, p50", 0.5, None))
        self.assertEqual(len(performance_table(sections)), 3)
        self.assertIn("| keystroke echo, median, ms | **0.5** | ≤ 50 |  |  |  |",
                      performance_table(sections))  # fmt: skip
        sections = measured(("echo", "echo, idle, p50", 51, None))
        self.assertIn("≤ 50 missed", performance_table(sections)[-1])

    def test_place(self) -> None:
        """A line says at how many devices it was measured, not how many were wished for."""
        (line,) = performance_table(
            measured(("fleet_size", "gateway's memory an idle live device", 30.0, 17_700))
        )[2:]
        self.assertIn("at 17,700, KB", line)

    def test_missing_picks(self) -> None:
        """What a section that ran should have and has not is named; of others nothing is said."""
        told = missing_picks(measured(("echo", "echo, idle, p50", 0.5, None)))
        self.assertEqual({pick.section for pick in told}, {"echo"})
        self.assertNotIn(LINES[9].ours, told)
        self.assertIn(LINES[9].ssh[0], told)
        self.assertEqual(missing_picks([]), [])


class PageTests(SynchronousTestCase):
    """What is filled in."""

    def test_pages(self) -> None:
        """The pages say what results.json has; before there are figures they say just that."""
        sections = read_results(ROOT / "benchmarks")
        for name, parts in PAGES.items():
            text = (ROOT / name).read_text("utf-8")
            self.assertEqual(
                fill(text, parts, sections), text, f"{name}: run python -m benchmarks.pages"
            )
            if not sections:
                self.assertEqual(text.count(NOTHING), len(parts), name)

    def test_fill(self) -> None:
        """What stands between markers is replaced, and nothing else; again changes nothing."""
        root = Path(self.mktemp())
        (root / "docs").mkdir(parents=True)
        for name, parts in PAGES.items():
            marks = [f"before\n<!-- figures: {one} -->\nold\n<!-- end of figures -->\nafter\n"
                     for one in parts]  # fmt: skip
            (root / name).write_text("".join(marks), "utf-8")
        self.assertEqual(len(write_pages(root, constants())), len(PAGES))
        self.assertEqual(write_pages(root, constants()), [])
        text = (root / "docs/scaling.md").read_text("utf-8")
        self.assertNotIn("old", text)
        self.assertEqual(text.count("before\n"), text.count("after\n"))
        self.assertIn("| devices | 1,000 | 10,000 | 100,000 | 1,000,000 |", text)
        self.assertIn("commit `abc`", text)

    def test_quick(self) -> None:
        """What --quick has measured is quoted nowhere."""
        sections = [{**one, "machine": {**MACHINE, "quick": True}} for one in constants()]
        for parts in PAGES.values():
            marks = "".join(f"<!-- figures: {one} -->\n<!-- end of figures -->\n" for one in parts)
            self.assertEqual(fill(marks, parts, sections).count(NOTHING), len(parts))

    def test_no_markers(self) -> None:
        """A page that has lost its markers is an error, not left as it is."""
        (parts, *_) = PAGES.values()
        for text in ("", "<!-- figures: performance -->\nno end"):
            self.assertRaises(ValueError, fill, text, parts, [])


class PlotTests(TestCase):
    """Curves."""

    def sections(self) -> list[dict[str, Any]]:
        return measured(
            ("echo_fleet", "echo among others, p99", 3.0, 5_000),
            ("echo_fleet", "echo among others, p99", 1.0, 0),
            ("many", "no-op on devices", 1.0, 100),
            *[("comeback", "seconds until this share of 9 devices is back", float(at), at)
              for at in (10, 50, 100)],
        )  # fmt: skip

    def test_curves(self) -> None:
        """A quantity with counts on it is a curve, sorted; one point is none."""
        found = {plot.name: curve_of(plot, self.sections()) for plot in PLOTS}
        drawn = {name: curve for name, curve in found.items() if curve is not None}
        self.assertEqual(set(drawn), {"echo", "comeback"})
        (points,) = drawn["echo"].lines.values()
        self.assertEqual([(one.at, one.median) for one in points], [(0, 1.0), (5_000, 3.0)])
        self.assertEqual(drawn["echo"].goals, [50])

    def test_same(self) -> None:
        """The same figures give the same files, small ones."""
        if not has_module("matplotlib"):
            self.assertIsNone(draw(self.sections(), Path(self.mktemp())))
            return
        first, second = (
            draw(self.sections(), Path(self.mktemp()) / number) for number in ("first", "second")
        )
        assert first is not None
        assert second is not None
        self.assertEqual([one.read_bytes() for one in first], [one.read_bytes() for one in second])
        self.assertTrue(all(one.stat().st_size < 100_000 for one in first))
        self.assertFalse(any(b"<dc:date>" in one.read_bytes() for one in first))

    def test_frozen(self) -> None:
        """A plot is a record: it cannot be changed by whoever draws it."""
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, PLOTS[0], "name", "x")
