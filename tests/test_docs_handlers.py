"""docs/handlers.md shows the example as it is, and the example works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import rshell
import rshell_agent
from rshell.handlers import Outcome
from rshell.interfaces import ICommandHandler
from rshell.testing import HandlerHarness
from rshell_agent.keeper.policy import PolicyFile
from tests.examples_page import EXAMPLE, PAGE, blocks, files, matches, sessions

HANDLERS = EXAMPLE.parent / "handlers"


class PageTests(SynchronousTestCase):
    def test_files(self) -> None:
        """Every file that the page shows is the example's, to the letter; none is left out."""
        shown = files()
        policy = shown.pop("agent.toml")
        for name, text in shown.items():
            self.assertEqual((EXAMPLE / name).read_text(), text, name)
        code = {
            str(path.relative_to(EXAMPLE))
            for path in EXAMPLE.rglob("*.py")
            if path.name != "__init__.py" and "build" not in path.parts
        }
        self.assertEqual(code | {"pyproject.toml", "setup.cfg"}, set(shown))
        home = Path(self.mktemp()).absolute()
        home.mkdir(mode=0o700)
        (home / "agent.toml").write_text(policy)
        report = PolicyFile(str(home), None).current().report()
        self.assertIsNone(report["error"])
        self.assertIn("diskusage", str(report["handlers"]))

    def test_snippets(self) -> None:
        """What else the page shows of Python can be compiled."""
        snippets = [text for text in blocks("python") if text not in files().values()]
        self.assertEqual(2, len(snippets))
        for text in snippets:
            body = "".join(f"    {line}\n" for line in text.splitlines())
            compile(f"async def run(self, request, channel, device):\n{body}", str(PAGE), "exec")

    def test_links(self) -> None:
        """What the page and the list of examples link to is there."""
        for page in (PAGE, EXAMPLE.parent / "README.md", EXAMPLE / "README.md"):
            for part in page.read_text().split("](")[1:]:
                target = part.partition(")")[0]
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_tests(self) -> None:
        """The example's own tests pass by the command shown, with the output shown."""
        ((command,),) = sessions("in examples/handler-diskusage")
        words = command.line.split()
        self.assertEqual("python", words[0])
        code = [EXAMPLE, *(Path(m.__file__ or "").parents[1] for m in (rshell, rshell_agent))]
        place = Path(self.mktemp()).absolute()
        place.mkdir()
        done = subprocess.run(
            [sys.executable, *words[1:3], "--temp-directory", str(place / "t"), *words[3:]],
            cwd=EXAMPLE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, code)),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.assertTrue(matches(command, done.stdout), done)


class KindsTests(SynchronousTestCase):
    """The three small plug-ins."""

    def harness(self, name: str, **more: Any) -> HandlerHarness:
        spec = importlib.util.spec_from_file_location(f"example_{name}", HANDLERS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # msgspec looks there for what annotations name
        sys.modules[spec.name] = module
        self.addCleanup(sys.modules.pop, spec.name, None)
        spec.loader.exec_module(module)
        (handler,) = (v for v in vars(module).values() if ICommandHandler.providedBy(v))
        harness = HandlerHarness(handler, **more)
        self.addCleanup(harness.close)
        return harness

    def test_countdown(self) -> None:
        """It streams a line a second with progress, and stops when it is cancelled."""
        harness = self.harness("countdown")
        call = harness.call({"start": 3})
        self.assertEqual(b"3\n", bytes(call.stdout))
        harness.advance(1)
        self.assertEqual(b"3\n2\n", bytes(call.stdout))
        self.assertIn(("progress", {"done": 1, "total": 3}), call.events)
        harness.advance(2)
        self.assertEqual(Outcome(status="ok"), call.outcome)
        again = harness.call({"start": 9})
        again.cancel()
        harness.advance(60)
        self.assertEqual(b"9\n", bytes(again.stdout))
        assert again.outcome is not None
        self.assertEqual("cancelled", again.outcome.code)

    def test_heaviest(self) -> None:
        """It has the keeper run ps, whose outcome is its own."""

        class Ps:
            def step(self, io: Any) -> bool:
                io.write(b"PID\n")
                io.exit(0)
                return True

        harness = self.harness("heaviest", programs={"ps": Ps})
        call = harness.call({"by": "memory"})
        self.assertEqual(
            (b"PID\n", "ok"), (bytes(call.stdout), call.outcome and call.outcome.status)
        )
        self.assertEqual(b"-rss", harness.runs[0][-1])
        refused = harness.call({"by": "colour"}).refused
        assert refused is not None
        self.assertEqual("bad-request", refused[0])

    def test_calculator(self) -> None:
        """It answers lines until the input ends; what is no sum is told so."""
        harness = self.harness("calculator")
        call = harness.call()
        call.write(b"3 * 4\n1 +")
        call.write(b" 1\nnonsense\n")
        self.assertEqual(b"12\n2\nsay it like this: 3 * 4\n", bytes(call.stdout))
        call.write_eof()
        self.assertEqual(Outcome(status="ok"), call.outcome)

    def test_clock(self) -> None:
        """Nothing of the examples looks for the reactor."""
        self.assertIsInstance(self.harness("countdown").clock, Clock)
        for path in EXAMPLE.parent.rglob("*.py"):
            self.assertNotIn("internet import reactor", path.read_text(), path.name)
