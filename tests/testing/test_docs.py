"""What docs/testing.md shows, runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase, TestSuite

import rshell

PAGE = Path(rshell.__path__[0]).parent / "docs" / "testing.md"


def blocks() -> list[str]:
    """Return the page's Python, in order."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


class DocumentationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.handler, self.fleet, self.program = blocks()
        self.names: dict[str, Any] = {"__name__": "documentation"}
        exec(compile(self.handler, str(PAGE), "exec"), self.names)

    def test_handler(self) -> None:
        """The handler and its tests are complete, and the tests pass."""
        case = self.names["CountTests"]
        tests = [name for name in vars(case) if name.startswith("test_")]
        self.assertEqual(len(tests), 4)
        result = TestResult()
        TestSuite([case(name) for name in tests]).run(result)
        problems = [text for _, text in [*result.errors, *result.failures]]
        self.assertEqual(problems, [])
        self.assertEqual(result.successes, 4)

    def test_fleet(self) -> None:
        """The fleet does what the page says, with the page's own program too."""
        program = "\n".join("    " + line for line in self.program.splitlines())
        run = '    done = fleet.run(ann.client.run("pump-2", line="shout", input=b"hey"))\n'
        exec(compile(f"{self.fleet}{program}\n{run}", str(PAGE), "exec"), self.names)
        self.assertEqual(self.names["done"].stdout, b"HEY")

    def test_verbs(self) -> None:
        """Every verb and attribute that the page names is there."""
        from rshell.testing import HandlerCall, SimulatedFleet

        page = PAGE.read_text().partition("\n## Other SSH clients")[0]
        table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        verbs = {name for cell in table for name in re.findall(r"`([a-z_]+)", cell)}
        self.assertGreater(len(verbs), 15)
        self.assertEqual({name for name in verbs if not hasattr(SimulatedFleet, name)}, set())
        calls = ("write", "write_eof", "send_event", "cancel", "hang_up", "cut_link", "pause")
        self.assertEqual([name for name in calls if not hasattr(HandlerCall, name)], [])
