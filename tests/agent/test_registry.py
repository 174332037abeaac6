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

from rshell.interfaces import ICommandHandler
from rshell_agent.handlers import BUILT_IN
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
        self.assertLessEqual({"shell", "exec", "sftp", "forward", "reboot"}, names)

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
        """The catalogue holds what is allowed, whatever else there is."""
        registry = HandlerRegistry([("a", changed(name="one")), ("b", changed(name="two"))])
        entries = msgspec.json.decode(registry.catalogue({"two", "three"}))
        self.assertEqual(["two"], [entry["name"] for entry in entries])
        self.assertIn("properties", str(entries[0]["schema"]))

    def test_discovery(self) -> None:
        """A plug-in in a folder twisted/plugins of the path is found; a broken one is not fatal."""
        folder = Path(self.mktemp()).absolute() / "twisted" / "plugins"
        folder.mkdir(parents=True)
        (folder / "broken_one.py").write_text("import no_such_module_at_all\n")
        (folder / "good_one.py").write_text(
            "from tests.agent.test_registry import Good\nhandler = Good()\n"
        )
        paths = [str(folder.parents[1]), str(ROOT), str(ROOT / "agent")]
        code = (
            "import sys; from rshell_agent.registry import HandlerRegistry\n"
            "print(sorted(HandlerRegistry.new().names), 'twisted.conch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            check=True,
            timeout=30,
        )
        names = sorted(["good", *(handler.name for handler in BUILT_IN)])
        self.assertEqual(f"{names} False\n".encode(), done.stdout, done.stderr)
