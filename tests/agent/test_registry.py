"""Unit tests of rshell_agent.registry: what a plug-in must be, and what becomes of a bad one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rshell.handlers import MAX_CATALOGUE_BYTES
from rshell.interfaces import ICommandHandler, ITypedHandler
from rshell_agent.handlers import BUILT_IN
from rshell_agent.plugins import distribution_of, problem_of
from rshell_agent.registry import BadHandler, HandlerRegistry, check_handler

ROOT = Path(__file__).resolve().parents[2]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class LooseRequest(msgspec.Struct):
    text: str


@implementer(IPlugin, ICommandHandler)
class Good:
    name = "good"
    summary = "A good one."
    request_type: Any = Request
    priority = "bulk"

    async def run(self, request: Any, channel: Any, device: Any) -> Any:
        raise AssertionError


def changed(**attributes: Any) -> Good:
    handler = Good()
    for name, value in attributes.items():
        setattr(handler, name, value)
    return handler


class RegistryTests(SynchronousTestCase):
    def test_built_in(self) -> None:
        """Every built-in handler provides its interface and is described."""
        for handler in BUILT_IN:
            verifyObject(ICommandHandler, handler)
            self.assertEqual(handler.name, check_handler(handler).name)
        names = {handler.name for handler in BUILT_IN}
        self.assertLessEqual({"shell", "exec", "sftp", "forward", "reboot", "facts"}, names)

    def test_bad_ones(self) -> None:
        """Whatever breaks the interface is named as broken."""

        @implementer(ICommandHandler)
        class NoRun:
            name, summary, request_type, priority = "x", "x", Request, "normal"

        @implementer(ICommandHandler)
        class WrongRun(Good):
            async def run(self) -> Any:  # type: ignore[override]  # only what the test uses
                raise AssertionError

        class Undescribable(msgspec.Struct, forbid_unknown_fields=True):
            value: object.__class__  # type: ignore[name-defined]  # only what the test uses

        for bad in (
            NoRun(),
            WrongRun(),
            object(),
            changed(name="Upper"),
            changed(name="gateway.renew"),
            changed(name="catalogue"),
            changed(name=7),
            changed(summary=""),
            changed(summary="x" * 201),
            changed(priority="urgent"),
            changed(request_type=dict),
            changed(request_type=LooseRequest),
            changed(request_type=Undescribable),
        ):
            self.assertRaises(BadHandler, check_handler, bad)

    def test_bad_one_is_skipped(self) -> None:
        """A bad plug-in and a second of the same name cost nothing but themselves."""
        first = Good()
        registry = HandlerRegistry(
            [("a", changed(priority="urgent")), ("b", first), ("c", Good()), ("d", object())]
        )
        self.assertEqual({"good"}, registry.names)
        self.assertIs(first, registry.get("good"))
        self.assertIsNone(registry.get("other"))

    def test_catalogue(self) -> None:
        """The catalogue describes what is allowed, and names what is not."""
        registry = HandlerRegistry([("a", changed(name="one")), ("b", changed(name="two"))])
        one, two = msgspec.json.decode(registry.catalogue({"two", "three"}))
        self.assertEqual(("one", False, {}), (one["name"], one["allowed"], one["schema"]))
        self.assertEqual("two", two["name"])
        self.assertNotIn("allowed", two)
        self.assertIn("properties", str(two["schema"]))

    def test_catalogue_fits(self) -> None:
        """Many handlers with long schemas still make a catalogue that a gateway takes."""
        many = msgspec.defstruct(
            "Many", [(f"field_{n}", int) for n in range(90)], forbid_unknown_fields=True
        )
        names = [f"h{n}" for n in range(40)]
        registry = HandlerRegistry([("a", changed(name=n, request_type=many)) for n in names])
        encoded = registry.catalogue(names)
        self.assertLessEqual(len(encoded), MAX_CATALOGUE_BYTES)
        entries = msgspec.json.decode(encoded)
        self.assertEqual(sorted(names), [entry["name"] for entry in entries])
        self.assertTrue(any(entry["schema"] for entry in entries))

    def test_typed(self) -> None:
        """Types of results and events are announced, and must be types."""

        class Result(msgspec.Struct):
            total: int

        @implementer(IPlugin, ITypedHandler)
        class Typed(Good):
            result_type: Any = Result
            event_types: Any = {"found": Result}

        described = check_handler(Typed())
        self.assertIn("total", str(described.result))
        self.assertEqual(["found"], list(described.events))
        for wrong in (
            {"result_type": dict},
            {"event_types": {"found": int}},
            {"event_types": {"Not A Word": Result}},
            {"event_types": [Result]},
        ):
            typed = Typed()
            for name, value in wrong.items():
                setattr(typed, name, value)
            self.assertRaises(BadHandler, check_handler, typed)
        self.assertIsNone(check_handler(Good()).result)

    def test_huge_schema(self) -> None:
        """A handler whose types are described at length is refused, not the whole catalogue."""
        huge = msgspec.defstruct(
            "Huge", [(f"field_{n}", int) for n in range(999)], forbid_unknown_fields=True
        )
        error = self.assertRaises(BadHandler, check_handler, changed(request_type=huge))
        self.assertIn("8192", str(error))

    def test_hostile_attributes(self) -> None:
        """A plug-in whose attributes raise costs nothing but itself."""

        class Raising(Good):
            @property
            def name(self) -> str:  # type: ignore[override]  # as a bad plug-in would
                raise ZeroDivisionError("on purpose")

        registry = HandlerRegistry([("bad", Raising()), ("good", Good())])
        self.assertEqual({"good"}, registry.names)
        self.assertEqual(1, len(registry.problems))
        self.assertIn("bad: ", registry.problems[0])

    def test_problems(self) -> None:
        """What is wrong is told in a line for each, bounded, and whose name was taken first."""
        registry = HandlerRegistry([("a.first", Good()), ("b.second", Good())])
        (line,) = registry.problems
        self.assertIn("there is a handler of that name already, in a.first", line)
        many = HandlerRegistry([(f"m{n}\x1b[2J", object()) for n in range(40)])
        self.assertEqual(16, len(many.problems))
        self.assertIn("(and 24 more)", many.problems[-1])
        self.assertTrue(all(line.isprintable() for line in many.problems))

    def test_discovery(self) -> None:
        """A plug-in in a folder twisted/plugins of the path is found; a broken one is not fatal."""
        folder = Path(self.mktemp()).absolute() / "twisted" / "plugins"
        folder.mkdir(parents=True)
        (folder / "broken_one.py").write_text("import no_such_module_at_all\n")
        (folder / "leaving_one.py").write_text("import sys\nsys.exit(3)\n")
        (folder / "wrong_one.py").write_text("def (:\n")
        (folder / "class_one.py").write_text(
            "from tests.agent.test_registry import Good\nclass Mine(Good): pass\n"
        )
        (folder / "plain_one.py").write_text(
            "from rshell.interfaces import ICommandHandler\n"
            "from zope.interface import implementer\n"
            "@implementer(ICommandHandler)\nclass X: pass\nx = X()\n"
        )
        (folder / "good_one.py").write_text(
            "from tests.agent.test_registry import Good\nhandler = Good()\n"
        )
        paths = [str(folder.parents[1]), str(ROOT), str(ROOT / "agent")]
        code = (
            "import sys; from rshell_agent.registry import HandlerRegistry\n"
            "registry = HandlerRegistry.new(); print(*sorted(registry.problems), sep='\\n')\n"
            "print(sorted(registry.names), 'twisted.conch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            check=True,
            timeout=30,
        )
        *problems, last = done.stdout.decode().splitlines()
        names = sorted(["good", *(handler.name for handler in BUILT_IN)])
        self.assertEqual(f"{names} False", last, done.stderr)
        for (module, words), line in zip(
            (
                ("broken_one", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
                ("class_one", "the class Mine has no instance here: add one, as Mine()"),
                ("leaving_one", "cannot be imported: SystemExit: 3"),
                ("plain_one", "x provides ICommandHandler and not twisted.plugin.IPlugin"),
                ("wrong_one", "SyntaxError"),
            ),
            problems,
            strict=True,
        ):
            self.assertTrue(line.startswith(f"twisted.plugins.{module}: "), line)
            self.assertIn(words, line)

    def installed(self, editable: bool) -> tuple[Path, Path]:
        """Return (site directory, dropin) of a distribution as pip would have installed it."""
        site = Path(self.mktemp()).absolute()
        source = Path(self.mktemp()).absolute() if editable else site
        dropin = source / "twisted" / "plugins" / "acme_tools.py"
        dropin.parent.mkdir(parents=True)
        dropin.write_text("")
        info = site / "acme_tools-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Name: acme-tools\nVersion: 1.5\n")
        record = "acme_tools-1.5.dist-info/METADATA,,\n"
        (info / "RECORD").write_text(
            record if editable else f"twisted/plugins/acme_tools.py,,\n{record}"
        )
        if editable:
            url = {"url": source.as_uri(), "dir_info": {"editable": True}}
            (info / "direct_url.json").write_bytes(msgspec.json.encode(url))
        return site, dropin

    def test_distribution(self) -> None:
        """A broken dropin is told with the distribution that installed it, also if editable."""
        for editable in (False, True):
            site, dropin = self.installed(editable)
            self.patch(sys, "path", [str(site), *sys.path])
            problem = problem_of("twisted.plugins.acme_tools", str(dropin), "is broken\n  badly")
            self.assertEqual(
                "acme-tools 1.5, twisted.plugins.acme_tools: is broken badly", str(problem)
            )

    def test_damaged_records(self) -> None:
        """A distribution with damaged records hides no other, and nobody owns a stray file."""
        site, dropin = self.installed(False)
        bad = site / "bad-1.dist-info"
        bad.mkdir()
        (bad / "METADATA").write_bytes(b"\xff\xfe")
        (bad / "RECORD").write_bytes(b"\xff\xfe,,,\n")
        (bad / "direct_url.json").write_text("[")
        self.patch(sys, "path", [str(site), *sys.path])
        self.assertEqual("acme-tools 1.5", distribution_of(str(dropin)))
        self.assertEqual("", distribution_of("/nowhere/at/all.py"))
