"""The whole agent as a process of its own, with a real keeper, against a tiny gateway."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rshell.handlers import ExecRequest, ShellRequest, TerminalSize
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import read_csr
from rshell.link.core.messages import Open, Positions, Sessions
from rshell.link.protocol import LinkProtocol
from tests.agent.gateway import TinyGateway, reactor, reply
from tests.agent.running import PATHS, AgentCase, Program
from tests.identity.dev_fleet import fleet, gateway_tls


class RunTests(AgentCase):
    async def test_exec(self) -> None:
        """A command's output, error, exit status and hello arrive; the idle agent stays small."""
        agent = await self.agent()
        hello = self.gateway.hellos[0]
        self.assertTrue(hello.software.startswith("rshell-agent/"))
        self.assertEqual((1, "resume"), (hello.dial, hello.features[0]))
        self.assertEqual(64, len(hello.catalogue))
        assert hello.policy is not None
        self.assertIsNone(hello.policy.error)
        idle = agent.rss_kb
        print(f"\nidle agent: {idle} KB")  # noqa: T201  # a measurement worth seeing
        self.assertLess(idle, 50_000)
        line = b"printf 'a b'; printf err >&2; exit 3"
        talk = self.gateway.open("exec", ExecRequest(line=line))
        self.assertEqual(("none", ""), await talk.ended)
        self.assertEqual((b"a b", b"err"), (talk.output, talk.errors))
        self.assertEqual(("exit", 3), (talk.outcome["status"], talk.outcome["exit_code"]))

    async def test_input_and_bulk(self) -> None:
        """A megabyte through `cat` comes back unchanged, both ways under flow control."""
        await self.agent()
        talk = self.gateway.open("exec", ExecRequest(argv=[b"cat"]))
        data = os.urandom(1 << 20)
        await talk.opened
        talk.channel.write(data)
        talk.channel.loseConnection()
        await talk.ended
        self.assertEqual("ok", talk.outcome["status"])
        self.assertTrue(talk.output == data)

    async def test_shell(self) -> None:
        """A shell has the terminal size asked for, and a window event changes it."""
        await self.agent()
        size = TerminalSize(rows=33, columns=111, term="xterm")
        talk = self.gateway.open("shell", ShellRequest(terminal=size))
        await talk.opened
        talk.channel.write(b"PS1=; stty -echo; stty size; echo ready\n")
        await talk.until(lambda: b"33 111\r\nready\r\n" in talk.output)
        talk.channel.send_event("window", {"rows": 44, "columns": 99}, urgent=True)
        talk.channel.write(b"until stty size | grep 44; do :; done; exit 5\n")
        await talk.ended
        self.assertIn(b"44 ", talk.output)
        self.assertEqual(5, talk.outcome["exit_code"])

    async def test_shell_on_pipes(self) -> None:
        """A shell without a terminal takes a script: no echo, and its end is the end of input."""
        await self.agent()
        talk = self.gateway.open("shell", {"terminal": None})
        await talk.opened
        talk.channel.write(b"echo hi")
        talk.channel.loseConnection()
        await talk.ended
        self.assertEqual((b"hi\n", b"", "ok"), (talk.output, talk.errors, talk.outcome["status"]))

    async def test_agent_dies_session_lives(self) -> None:
        """A killed agent is one more hop broken: the next one resumes the shell."""
        agent = await self.agent()
        talk = self.gateway.open("shell", ShellRequest())
        await talk.opened
        talk.channel.write(b"PS1=; stty -echo; x=kept; echo re''ady\n")
        await talk.until(lambda: b"ready\r\n" in talk.output)
        await agent.kill()
        code, _ = await talk.ended
        self.assertEqual("link-lost", code)
        await self.agent()
        self.assertEqual(2, len(self.gateway.sessions))
        report = self.gateway.sessions[1].sessions[0]
        self.assertEqual(
            (talk.request.session, "alice", "shell", "running", False),
            (report.session, report.operator, report.handler, report.state, report.attached),
        )
        # From the beginning, as somebody joins it who has seen nothing (rule R8): what was taken
        # may be gone from the ring, and is counted.
        start = Positions(0, 0, 0)
        again = self.gateway.open(
            "shell", ShellRequest(), session=talk.request.session, attempt=2, resume=start
        )
        opened = await again.opened
        self.assertGreaterEqual(opened.gap + opened.replay, len(talk.output))
        again.channel.write(b"echo $x; exit\n")
        await again.ended
        self.assertIn(b"kept\r\n", again.output)

    async def test_terminated_agent_says_goodbye(self) -> None:
        """SIGTERM: GOAWAY shutdown, status 0, and the keeper with its session stays."""
        agent = await self.agent()
        talk = self.gateway.open("exec", ExecRequest(argv=[b"sleep", b"600"]))
        await talk.opened
        await agent.kill(signal.SIGTERM)
        self.assertEqual(0, await agent.ended, agent.errors)
        self.assertEqual("shutdown", self.gateway.goaways[0].code)
        self.assertNotEqual(0, self.keeper_pid())
        self.gateway.answer = Sessions(end=[talk.request.session])
        await self.agent()
        self.assertEqual(1, len(self.gateway.sessions[-1].sessions))

    async def test_refusals(self) -> None:
        """Unknown handlers, missing operators, wrong requests and commands are refused by code."""
        await self.agent()
        exec_true = ExecRequest(argv=[b"true"])
        for code, talk in (
            ("not-found", self.gateway.open("nonesuch", {})),
            ("bad-request", self.gateway.open("exec", exec_true, operator=None)),
            ("bad-request", self.gateway.open("exec", {"argv": ["not base64!"]})),
            ("bad-request", self.gateway.open("exec", {"line": "eA==", "colour": "red"})),
            ("not-found", self.gateway.open("exec", ExecRequest(argv=[b"/no/such/program"]))),
            ("policy", self.gateway.open("exec", exec_true, login="nobody")),
            ("lost", self.gateway.open("exec", exec_true, resume=Positions(0, 1000, 0))),
        ):
            ended = await talk.ended.addTimeout(9, reactor, lambda *_: ("nothing", ""))
            self.assertEqual(code, ended[0], (talk.request, self.agents[0].errors))

    async def test_catalogue(self) -> None:
        """The gateway, and nobody else, gets the catalogue whose digest HELLO told."""
        import hashlib

        await self.agent()
        talk = self.gateway.open("catalogue", {}, operator=None)
        await talk.ended
        self.assertEqual(self.gateway.hellos[0].catalogue, hashlib.sha256(talk.output).hexdigest())
        self.assertIn(b'"name":"exec"', talk.output)
        other = self.gateway.open("catalogue", {})
        self.assertEqual("not-found", (await other.ended)[0])

    async def test_second_run_is_refused(self) -> None:
        """One home, one agent: the second ends with one line and status 1."""
        await self.agent()
        second = Program("run", "--home", str(self.home))
        self.assertEqual(1, await second.ended)
        self.assertEqual(1, second.errors.count(b"\n"), second.errors)
        self.assertIn(b"already runs", second.errors)

    async def test_policy_denies(self) -> None:
        """A broken policy keeps the link, denies everything, and is told in HELLO."""
        (self.home / "agent.toml").write_text("[policy]\nhandlers = 7\n")
        await self.agent()
        hello = self.gateway.hellos[0]
        assert hello.policy is not None
        self.assertIn("handlers", str(hello.policy.error))
        talk = self.gateway.open("exec", ExecRequest(argv=[b"true"]))
        self.assertEqual("policy", (await talk.ended)[0])

    async def test_cancel_ends_the_process(self) -> None:
        """A RESET by the operator ends the command on the device."""
        await self.agent()
        talk = self.gateway.open("exec", ExecRequest(line=b"echo $$; exec sleep 600"))
        await talk.until(lambda: b"\n" in talk.output)
        pid = int(talk.output)
        os.kill(pid, 0)
        talk.channel.reset("cancelled", "enough")
        last = self.gateway.open(
            "exec", ExecRequest(line=b"while kill -0 %d 2>/dev/null; do sleep 0.05; done" % pid)
        )
        await last.ended
        self.assertEqual("ok", last.outcome["status"])

    async def test_status(self) -> None:
        """`status` shows a connected agent with status 0, and a stopped one with 1."""
        import json

        agent = await self.agent()
        talk = self.gateway.open("exec", ExecRequest(line=b"true"))
        await talk.ended
        shown = Program("status", "--json", "--home", str(self.home))
        self.assertEqual(0, await shown.ended, shown.errors)
        status = json.loads(shown.output)
        self.assertEqual(
            ("connected", "pump-17", 1), (status["state"], status["name"], status["epoch"])
        )
        await agent.kill()
        shown = Program("status", "--home", str(self.home))
        self.assertEqual(1, await shown.ended)
        self.assertIn(b"stopped", shown.output)


class RenewTests(AgentCase):
    def welcome(self) -> dict[str, Any]:
        return {"renew_only": True}

    async def test_renew_only(self) -> None:
        """Told to renew, the agent does so with a new key and dials again with it."""
        first = self.store.load()
        assert first is not None

        def renew(link: LinkProtocol, number: int, request: Open) -> None:
            import base64

            key = read_csr(base64.b64decode(request.request["csr"]))
            leaf = fleet().keys.issue_device(key, first.name.name, datetime.now(UTC))
            chain = chain_to_pem((leaf, fleet().keys.device.certificate)).decode()
            self.gateway._welcome = {}
            reply(link, number, request, {"chain": chain, "gateways": [self.gateway.address]})

        self.gateway.on_renew = renew
        await self.agent()
        self.assertEqual(2, len(self.gateway.hellos))
        renewed = self.store.load()
        assert renewed is not None
        self.assertNotEqual(first.certificate, renewed.certificate)
        self.assertIsNone(self.store.previous())
        self.assertEqual(renewed.certificate.serial_number, self.gateway.links[-1].peer.serial)


class AuthTests(AgentCase):
    async def test_unjoined_home(self) -> None:
        """A home that never joined is told how to, in one line."""
        empty = self.home / "empty"
        program = Program("run", "--home", str(empty))
        self.assertEqual(1, await program.ended)
        self.assertIn(b"rshell-agent join", program.errors)
        self.assertEqual(1, program.errors.count(b"\n"))

    async def test_wrong_gateway(self) -> None:
        """A gateway of another name gets no HELLO."""
        wrong = TinyGateway(gateway_tls("gateway-wrong-name"))
        self.addCleanup(lambda: Deferred.fromCoroutine(wrong.stop()))
        (self.home / "agent.toml").write_text(f'[link]\ngateways = ["{wrong.address}"]\n')
        program = Program("run", "--home", str(self.home))
        self.agents.append(program)
        await wrong.until(lambda: len(wrong.lost) > 0)
        self.assertEqual([], wrong.hellos)


class ImportTests(TestCase):
    async def test_what_is_not_imported(self) -> None:
        """The service pulls in neither conch nor SQLAlchemy nor the gateway."""
        code = (
            "import sys, rshell_agent.service, rshell_agent.tap\n"
            "bad = ('twisted.conch', 'sqlalchemy', 'rshell.gateway', 'rshell.store')\n"
            "print([name for name in bad if name in sys.modules])"
        )
        output: Deferred[bytes] = Deferred()

        class Run(ProcessProtocol):
            data = b""

            def childDataReceived(self, childFD: int, data: bytes) -> None:
                self.data += data

            def processEnded(self, reason: Failure) -> None:
                output.callback(self.data)

        environment = {**os.environ, "PYTHONPATH": PATHS}
        reactor.spawnProcess(Run(), sys.executable, [sys.executable, "-c", code], env=environment)
        self.assertEqual(b"[]\n", await output)
