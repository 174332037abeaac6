"""The table of guarantees in docs/architecture.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


class PromiseTests(SynchronousTestCase):
    def test_named_tests_exist(self) -> None:
        """Each row names at least one test, and each of them can be found."""
        section = PAGE.read_text("utf-8").split("## What survives what")[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        self.assertGreater(len(rows), 12)
        for row in rows:
            names = re.findall(r"`(tests\.[\w.]+)`", row)
            self.assertTrue(names, row)
            for name in names:
                self.assertIsNotNone(namedAny(name), name)
