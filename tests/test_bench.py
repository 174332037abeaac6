"""What the benchmark prints and judges; its measurements themselves are run by ``make bench``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.report import Goal, Report, quantile, table


class ReportTests(SynchronousTestCase):
    """Tables, quantiles, verdicts."""

    def test_quantile(self) -> None:
        """The nearest rank, whatever the order; nothing has no quantile."""
        values = list(range(100, 0, -1))
        self.assertEqual([quantile(values, q) for q in (0, 0.5, 0.95, 1)], [1, 51, 96, 100])
        self.assertEqual(quantile([7.0], 0.95), 7.0)
        self.assertRaises(ValueError, quantile, [], 0.5)

    def test_table(self) -> None:
        """The first column stands to the left, numbers to the right."""
        text = table(["link", "p95"], [["2 Mbit/s", "7.0"], ["20", "123.5"]])
        self.assertEqual(text.splitlines()[2:], ["2 Mbit/s    7.0", "20        123.5"])

    def test_missed_goal(self) -> None:
        """One goal missed is a section failed, and says FAIL."""
        held, missed = Goal("a", "1 ms", True), Goal("b", "9 ms", False)
        self.assertTrue(Report("t", goals=(held,)).held)
        report = Report("t", goals=(held, missed))
        self.assertFalse(report.held)
        self.assertIn("PASS  a: 1 ms\nFAIL  b: 9 ms", report.text())

    def test_skipped(self) -> None:
        """A section that cannot run says why, and misses nothing."""
        report = Report("t", skipped="needs root")
        self.assertTrue(report.held)
        self.assertIn("skipped: needs root", report.text())
