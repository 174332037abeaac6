"""The agent with real keepers that end, die, report, or run under twistd; and with a plug-in."""

from __future__ import annotations

import itertools
import json
import os
import signal

from rshell.handlers import ExecRequest
from rshell.identity.credentials import CredentialStore
from rshell.link.core.messages import Positions, Sessions
from tests.agent.running import AgentCase, Program

PLUGIN = """
import msgspec
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome
from rshell.interfaces import ICommandHandler


class Request(msgspec.Struct, forbid_unknown_fields=True):
    prefix: str = ""


@implementer(IPlugin, ICommandHandler)
class Reverse:
    name = "reverse"
    summary = "Send the input back to front."
    request_type = Request
    priority = "normal"

    async def run(self, request, channel, device):
        text = b""
        while data := await channel.read():
            text += data
        channel.write(request.prefix.encode() + text[::-1])
        return Outcome(status="ok")


reverse = Reverse()
"""


class KeeperTests(AgentCase):
    async def test_gateway_ends_sessions(self) -> None:
        """S2: a session that the gateway does not let live is ended at once."""
        agent = await self.agent()
        talk = self.gateway.open("exec", ExecRequest(line=b"echo $$; exec sleep 600"))
        await talk.until(lambda: b"\n" in talk.output)
        pid = int(talk.output)
        await agent.kill()
        self.gateway.answer = Sessions(end=[talk.request.session])
        await self.agent()
        watch = self.gateway.open(
            "exec", ExecRequest(line=b"while kill -0 %d 2>/dev/null; do sleep 0.05; done" % pid)
        )
        await watch.ended
        self.assertEqual("ok", watch.outcome["status"])

    async def test_outcome_reported_and_acknowledged(self) -> None:
        """S1, S2: an outcome nobody collected is reported until the gateway acknowledges it."""
        agent = await self.agent()
        talk = self.gateway.open("exec", ExecRequest(line=b"echo $$; exec sleep 600"))
        await talk.until(lambda: b"\n" in talk.output)
        await agent.kill()
        os.kill(int(talk.output), signal.SIGTERM)
        self.gateway.answer = Sessions(acknowledged=[talk.request.session])
        agent = await self.agent()
        (report,) = self.gateway.sessions[-1].sessions
        assert report.outcome is not None
        self.assertEqual(
            (talk.request.session, "finished", "signal", "TERM"),
            (report.session, report.state, report.outcome.status, report.outcome.signal),
        )
        again = self.gateway.open("exec", ExecRequest(argv=[b"true"]))
        await again.ended
        await agent.kill()
        await self.agent()
        left = [report.session for report in self.gateway.sessions[-1].sessions]
        self.assertNotIn(talk.request.session, left)

    async def test_keeper_dies(self) -> None:
        """A keeper that is killed loses its sessions, loudly, and is replaced for new ones."""
        agent = await self.agent()
        talk = self.gateway.open("exec", ExecRequest(argv=[b"sleep", b"600"]))
        await talk.opened
        first = self.keeper_pid()
        os.kill(first, signal.SIGKILL)
        self.assertEqual("link-lost", (await talk.ended)[0])
        session, resume = talk.request.session, Positions(0, 1000, 0)
        code = "link-lost"
        for attempt in itertools.count(2):  # a dying process may still take a connection
            resumed = self.gateway.open("exec", {}, session=session, attempt=attempt, resume=resume)
            code = (await resumed.ended)[0]
            if code != "link-lost":
                break
        self.assertEqual("lost", code)
        again = self.gateway.open("exec", ExecRequest(argv=[b"true"]))
        await again.ended
        self.assertEqual("ok", again.outcome["status"])
        self.assertNotEqual(first, self.keeper_pid())
        self.assertIn(b"the keeper is gone", agent.errors)

    async def test_long_home(self) -> None:
        """A home whose path is longer than a socket's address may be works like any other."""
        self.home = self.home / ("x" * 120)
        self.store = CredentialStore(self.home)
        self.join_as("device-1")
        await self.agent()
        talk = self.gateway.open("exec", ExecRequest(argv=[b"true"]))
        await talk.ended
        self.assertEqual("ok", talk.outcome["status"])

    async def test_plug_in(self) -> None:
        """A plug-in's handler runs once policy names it, and is in the catalogue."""
        folder = self.home / "extra" / "twisted" / "plugins"
        folder.mkdir(parents=True)
        (folder / "reverse_plugin.py").write_text(PLUGIN)
        (self.home / "agent.toml").write_text('[policy]\nhandlers = ["exec", "reverse"]\n')
        self.extra_path = str(self.home / "extra")
        await self.agent()
        talk = self.gateway.open("reverse", {"prefix": ">"})
        await talk.opened
        talk.channel.write(b"abc")
        talk.channel.loseConnection()
        await talk.ended
        self.assertEqual((b">cba", "ok"), (talk.output, talk.outcome["status"]))
        catalogue = self.gateway.open("catalogue", {}, operator=None)
        await catalogue.ended
        allowed = {
            entry["name"]: entry.get("allowed", True) for entry in json.loads(catalogue.output)
        }
        self.assertTrue(allowed["reverse"])
        self.assertFalse(allowed["shell"])


class TwistdTests(AgentCase):
    async def test_twistd(self) -> None:
        """`twistd -n rshell-agent` is the same agent; a second one is refused in one line."""
        arguments = ("-n", "--pidfile=", "rshell-agent", "--home", str(self.home))
        program = Program(*arguments, twistd=True)
        self.agents.append(program)
        await self.gateway.until(lambda: len(self.gateway.sessions) > 0)
        talk = self.gateway.open("exec", ExecRequest(argv=[b"true"]))
        await talk.ended
        self.assertEqual("ok", talk.outcome["status"])
        second = Program(*arguments, twistd=True)
        self.assertEqual(1, await second.ended)
        self.assertIn(b"already runs", second.errors)
        await program.kill(signal.SIGTERM)
        self.assertEqual("shutdown", self.gateway.goaways[0].code)
