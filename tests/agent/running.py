"""The agent as a process of its own, beside a tiny gateway: what functional tests start from."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rshell.identity.credentials import Credentials, CredentialStore
from rshell.identity.fleet_home import chain_to_pem
from tests.agent.gateway import TinyGateway, reactor
from tests.identity.dev_fleet import fleet, gateway_tls

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "agent")])

TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


class Program(ProcessProtocol):
    """A run of the command; `ended` fires with its exit status (negative for a signal)."""

    def __init__(
        self, *arguments: str, stdin: bytes = b"", path: str = "", twistd: bool = False
    ) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, PATHS]))}
        start = ["-m", "rshell_agent"] if not twistd else ["-c", TWISTD]
        command = [sys.executable, *start, *arguments]
        self.process = reactor.spawnProcess(self, command[0], command, env=environment)
        self.process.write(stdin)
        self.process.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.output += data

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.ended.callback(-value.signal if value.signal else value.exitCode)

    @property
    def rss_kb(self) -> int:
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

    @property
    def running(self) -> bool:
        return not self.ended.called

    async def kill(self, number: int = signal.SIGKILL) -> None:
        if self.running:
            os.kill(self.process.pid, number)
            ended: Deferred[None] = Deferred()
            self.ended.addBoth(lambda result: (ended.callback(None), result)[1])
            await ended


class AgentCase(TestCase):
    """A joined home, a gateway, and what it takes to end both."""

    timeout = 60
    extra_path = ""

    def setUp(self) -> None:
        # unix sockets and keepers outlive trial's own directories, so not mktemp()
        self.home = Path(tempfile.mkdtemp(prefix="agent-"))
        self.addCleanup(shutil.rmtree, self.home, True)
        self.gateway = TinyGateway(gateway_tls(), **self.welcome())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.gateway.stop()))
        self.store = CredentialStore(self.home)
        self.join_as("device-1")
        self.agents: list[Program] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end()))

    def welcome(self) -> dict[str, Any]:
        return {}

    def join_as(self, name: str) -> None:
        leaf = fleet().leaves[name]
        root = chain_to_pem((fleet().keys.root.certificate,))
        self.store.save(
            Credentials.new(leaf.key, chain_to_pem(leaf.chain), root, (self.gateway.address,))
        )

    async def end(self) -> None:
        for agent in self.agents:
            await agent.kill()
        keeper = self.keeper_pid()
        if keeper:
            os.kill(keeper, signal.SIGTERM)

    def keeper_pid(self) -> int:
        """The keeper of this home, 0 if there is none."""
        for pid in _pids():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(self.home) in command and b"-S" in command:
                return pid
        return 0

    async def agent(self) -> Program:
        """Start an agent and wait until it has reported its sessions."""
        links, reports = len(self.gateway.hellos), len(self.gateway.sessions)
        program = Program("run", "--home", str(self.home), path=self.extra_path)
        self.agents.append(program)
        try:
            await self.gateway.until(
                lambda: len(self.gateway.hellos) > links and len(self.gateway.sessions) > reports
            )
        except Exception:
            self.fail(f"no link: {program.errors.decode()}")
        return program


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
