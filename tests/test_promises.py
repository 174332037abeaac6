"""Tables of the documentation that name tests: of guarantees, and of threats; all of them exist."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

DOCS = Path(__file__).parents[1] / "docs"
#: Who may mean harm, in the words of the headings.
ACTORS = (
    "A stranger on the network",
    "On the path between",
    "A device that means harm",
    "Somebody with a stolen device, or a copy of one",
    "An operator who wants more than the roles grant",
    "Somebody with an operator's key",
    "A compromised gateway",
    "Somebody who reads, changes or stops the store",
    "A local user on a device",
)


def section(page: str, heading: str) -> str:
    """Return the text below a heading of the second rank."""
    return (DOCS / page).read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[str]:
    """Return the rows of the tables in a text, without their headings."""
    found = re.sub(r"^\|.*\n\|-.*\n", "", text, flags=re.MULTILINE)
    return [line for line in found.splitlines() if line.startswith("|")]


def names(row: str) -> list[str]:
    """Return the tests that a row names."""
    return re.findall(r"`(tests\.[\w.]+)`", row)


class NamedTests(SynchronousTestCase):
    def check(self, row: str) -> None:
        """Check that the tests of a row exist, and are tests."""
        for name in names(row):
            self.assertIsNotNone(namedAny(name), name)
            self.assertRegex(name, r"\.test_\w+(\.\w+(\.test_\w+)?)?$")

    def test_everywhere(self) -> None:
        """No page names a test that is not there."""
        for page in DOCS.glob("*.md"):
            self.check(page.read_text("utf-8"))

    def test_guarantees(self) -> None:
        """Each guarantee of the table in architecture.md names at least one test."""
        found = rows(section("architecture.md", "What survives what"))
        self.assertGreater(len(found), 12)
        for row in found:
            self.assertTrue(names(row), row)
            self.check(row)

    def test_threats(self) -> None:
        """Each threat of security.md names a test that shows what holds, or says why none does."""
        text = section("security.md", "Threats")
        parts = dict(re.findall(r"^### (.*)\n((?:(?!### ).*\n)*)", text + "\n", re.MULTILINE))
        for actor in ACTORS:
            self.assertGreater(len(rows(parts.get(actor, ""))), 3, actor)
        for row in rows(text):
            self.assertTrue(names(row) or "| not tested: " in row, row)
            self.check(row)
