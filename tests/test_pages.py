"""The pages for people: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples" / "README.md"]


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class LinkTests(SynchronousTestCase):
    def test_links(self) -> None:
        """Each link within the repository leads to a file, and to a heading if it names one."""
        checked = 0
        for page in PAGES:
            text = re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if "://" in target:
                    continue
                name, _, anchor = target.partition("#")
                place = (page.parent / name).resolve() if name else page
                self.assertTrue(place.exists(), f"{page.name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(place), f"{page.name}: {target}")
                checked += 1
        self.assertGreater(checked, 40)
