"""A third party's handler, from a file on the device to an operator's command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.functional.fleet import Agent, FleetCase

PLUGIN = '''
import msgspec
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome
from rshell.interfaces import ICommandHandler


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to say, and how often."""

    word: str
    times: int = 1
    loud: bool = False


@implementer(IPlugin, ICommandHandler)
class Say:
    name = "say"
    summary = "Say a word"
    request_type = Request
    priority = "normal"

    async def run(self, request, channel, device):
        word = request.word.upper() if request.loud else request.word
        channel.write(f"{word}\\n".encode() * request.times)
        if request.word == "crash":
            raise RuntimeError("as asked")
        return Outcome(status="ok", result={"said": request.times})


@implementer(IPlugin, ICommandHandler)
class Hidden(Say):
    name = "hidden"


say = Say()
hidden = Hidden()
'''


class PluginTests(FleetCase):
    def device(self, name: str, handlers: str) -> Agent:
        """Return a live device with the plug-in installed and ``handlers`` allowed."""
        place = self.fleet.base / f"plugins-{name}"
        folder = place / "twisted" / "plugins"
        folder.mkdir(parents=True)
        (folder / "acme_say.py").write_text(PLUGIN)
        (folder / "acme_broken.py").write_text("import no_such_module\n")
        agent = self.fleet.join(name)
        self.addCleanup(self.fleet.remove, agent)
        agent.paths = (Path(place),)
        agent.configure(f"[policy]\nhandlers = {handlers}\n")
        agent.start()
        self.fleet.wait_live(name)
        return agent

    def test_call(self) -> None:
        """A handler enabled by name is listed with its arguments and can be called."""
        self.device("plug-1", '["exec", "say"]')
        listed = self.fleet.rshell("handlers", "plug-1")
        self.assert_status(0, listed)
        self.assertRegex(listed.stdout.decode(), r"(?m)^say +yes +Say a word .*word=text")
        self.assertIn(b"[times=integer]", listed.stdout)
        self.assertRegex(listed.stdout.decode(), r"(?m)^hidden +no ")
        self.assertIn(b"twisted.plugins.acme_broken: cannot be imported", listed.stderr)
        rows = json.loads(self.handlers_json("plug-1"))
        self.assertEqual(["exec", "say"], sorted(row["name"] for row in rows if row["allowed"]))
        done = self.fleet.rshell("call", "plug-1", "say", "word=hi there", "times=2", "loud=yes")
        self.assert_status(0, done)
        self.assertTrue(done.stdout.startswith(b"HI THERE\nHI THERE\n"), done.stdout)
        self.assertIn(b'"said": 2', done.stdout)
        # what is wrong is refused here or there, by name
        for words, named in (
            (["times=2"], b"word"),
            (["word=x", "times=many"], b"times"),
            (["word=x", "times:=1.5"], b"times"),
            (["word:=7"], b"word"),
            (["word=x", "volume=3"], b"volume"),
            (["word"], b"word"),
        ):
            wrong = self.fleet.rshell("call", "plug-1", "say", *words)
            self.assert_status(255, wrong)
            self.assertEqual(b"", wrong.stdout)
            self.assert_one_line(wrong.stderr)
            self.assertIn(named, wrong.stderr)
        hidden = self.fleet.rshell("call", "plug-1", "hidden", "word=x")
        self.assert_status(255, hidden)
        crashed = self.fleet.rshell("call", "plug-1", "say", "word=crash")
        self.assert_status(255, crashed)
        self.assertNotIn(b"Traceback", crashed.stderr)
        self.assert_status(0, self.run_on("plug-1", "true"))

    def handlers_json(self, name: str) -> bytes:
        return self.fleet.rshell("handlers", name, "--json").stdout

    def test_not_enabled(self) -> None:
        """A handler that is installed and not named in the policy cannot be called."""
        self.device("plug-2", '["exec"]')
        rows = {row["name"]: row["allowed"] for row in json.loads(self.handlers_json("plug-2"))}
        self.assertEqual((True, False), (rows["exec"], rows["say"]))
        done = self.fleet.rshell("call", "plug-2", "say", "word=x")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"say", done.stderr)

    def test_built_in_by_call(self) -> None:
        """A built-in handler can be called with typed arguments too."""
        done = self.fleet.rshell("call", "pump-1", "exec", "argv=echo", "argv=a b")
        self.assertEqual((0, b"a b\n"), (done.status, done.stdout))
        done = self.fleet.rshell("call", "pump-1", "exec", "line=exit 9", "timeout_ms=5000")
        self.assert_status(9, done)
