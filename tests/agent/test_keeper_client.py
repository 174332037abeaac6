"""The agent's client of the keeper, against a keeper played by the test over a real socket."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rshell_agent import __version__, keeper_client
from rshell_agent.keeper import wire
from rshell_agent.keeper_client import KeeperClient, KeeperUnavailable
from tests.agent.gateway import reactor

Answers = Callable[[dict[str, Any]], list[dict[str, Any]]]


class FakeKeeper(Protocol):
    """Answers HELLO with a version, and calls as the test says."""

    def __init__(self, version: str, answers: Answers) -> None:
        self._version = version
        self._answers = answers
        self._decoder = wire.Decoder()

    def dataReceived(self, data: bytes) -> None:
        for kind, _, payload in self._decoder.feed(data):
            body = wire.parse_map(payload)
            if kind == wire.HELLO:
                self.send(wire.WELCOME, {"proto": 1, "pid": 1, "version": self._version})
            else:
                for part in self._answers(body):
                    self.send(wire.REPLY, {"id": body["id"], **part})

    def send(self, kind: int, body: dict[str, Any]) -> None:
        transport: Any = self.transport
        transport.write(wire.encode_map(kind, body))


class KeeperClientTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="agent-"))
        self.addCleanup(shutil.rmtree, self.home, True)
        self.connections: list[FakeKeeper] = []

    def play(self, version: str, answers: Answers) -> Any:
        """Listen as a keeper of that version."""

        def build() -> FakeKeeper:
            self.connections.append(FakeKeeper(version, answers))
            return self.connections[-1]

        factory = Factory.forProtocol(build)
        factory.noisy = False
        return reactor.listenUNIX(str(self.home / "keeper.sock"), factory)

    def client(self, **options: Any) -> KeeperClient:
        client = KeeperClient(reactor, self.home, **options)
        self.addCleanup(client.stop)
        return client

    async def test_calls(self) -> None:
        """Lists of several REPLYs are joined; errors and strange ids do no harm."""

        def answers(call: dict[str, Any]) -> list[dict[str, Any]]:
            if call["call"] == "sessions":
                return [{"sessions": [1], "more": True}, {"sessions": [2, 3]}]
            if call["call"] == "echo":
                return [{"id": 999}, {"heard": call["word"]}]
            return [{"error": {"code": "not-found", "message": "no such call"}}]

        port = self.play(__version__, answers)
        self.addCleanup(port.stopListening)
        client = self.client()
        self.assertEqual({"sessions": [1, 2, 3]}, await client.call("sessions"))
        self.assertEqual({"heard": "x"}, await client.call("echo", word="x"))
        with self.assertRaises(KeeperUnavailable):
            await client.call("nonsense")
        self.assertEqual(1, len(self.connections))

    async def test_several_wait_for_one_start(self) -> None:
        """Callers that come while the connection is made share it."""
        port = self.play(__version__, lambda call: [{"n": call["id"]}])
        self.addCleanup(port.stopListening)
        client = self.client()
        calls = [Deferred.fromCoroutine(client.call("x")) for _ in range(3)]
        self.assertEqual([1, 2, 3], sorted([(await call)["n"] for call in calls]))
        self.assertEqual(1, len(self.connections))

    async def test_no_answer(self) -> None:
        """A keeper that hangs is reported, not waited for."""
        self.patch(keeper_client, "CALL_SECONDS", 0.05)
        port = self.play(__version__, lambda call: [])
        self.addCleanup(port.stopListening)
        with self.assertRaises(KeeperUnavailable):
            await self.client().call("policy")

    async def test_nobody_there(self) -> None:
        """With `start = false` nothing is spawned, and the absence is told in time."""
        self.patch(keeper_client, "START_SECONDS", 0.2)
        with self.assertRaises(KeeperUnavailable):
            await self.client(start_keeper=False).ensure()
        self.assertEqual([], os.listdir(self.home))

    async def test_stop_while_starting(self) -> None:
        """Stopping in the middle of a start leaves nothing behind."""
        client = self.client(start_keeper=False)
        starting = Deferred.fromCoroutine(client.ensure())
        client.stop()
        with self.assertRaises(KeeperUnavailable):
            await starting

    async def test_older_keeper_with_sessions_is_kept(self) -> None:
        """A keeper of another version that holds sessions stays in use."""
        port = self.play("0.0.1", lambda call: [{"retiring": False}])
        self.addCleanup(port.stopListening)
        client = self.client()
        await client.ensure()
        self.assertEqual("0.0.1", client.identity["version"])

    async def test_idle_older_keeper_is_replaced(self) -> None:
        """One without sessions makes room, and a keeper of our version takes its place."""

        def answers(call: dict[str, Any]) -> list[dict[str, Any]]:
            self.addCleanup(port.stopListening)
            reactor.callLater(0, port.stopListening)
            return [{"retiring": True}]

        port = self.play("0.0.1", answers)
        client = self.client()
        await client.ensure()
        self.assertEqual(__version__, client.identity["version"])
        os.kill(client.identity["pid"], signal.SIGTERM)

    async def test_older_keeper_is_replaced_later(self) -> None:
        """One that was kept is asked again, and is replaced once its sessions have ended."""
        self.patch(keeper_client, "RETIRE_SECONDS", 0.01)
        asked: list[str] = []
        changes: list[bool] = []

        def answers(call: dict[str, Any]) -> list[dict[str, Any]]:
            asked.append(call["call"])
            if len(asked) < 4:
                return [{"retiring": False}]
            self.addCleanup(port.stopListening)
            reactor.callLater(0, port.stopListening)
            return [{"retiring": True}]

        port = self.play("0.0.1", answers)
        replaced: Deferred[None] = Deferred()

        def changed() -> None:
            changes.append(client.connected)
            if client.identity.get("version") == __version__:
                replaced.callback(None)

        client = self.client(changed=changed)
        await client.ensure()
        self.assertEqual("0.0.1", client.identity["version"])
        await replaced
        os.kill(client.identity["pid"], signal.SIGTERM)
        self.assertEqual((["retire"] * 4, [True, False, True]), (asked, changes))

    async def test_older_keeper_dies_in_between(self) -> None:
        """One that dies before it is asked again is replaced as any other."""
        port = self.play("0.0.1", lambda call: [{"retiring": False}])
        client = self.client()
        await client.ensure()
        await port.stopListening()
        transport: Any = self.connections[0].transport
        transport.loseConnection()
        await deferLater(reactor, 0.01)
        await client.ensure()
        self.assertEqual(__version__, client.identity["version"])
        os.kill(client.identity["pid"], signal.SIGTERM)

    async def test_stream_finds_it_gone(self) -> None:
        """A stream that finds the keeper gone before we heard of it waits for the next one."""
        port = self.play(__version__, lambda call: [])
        client = self.client()
        await client.ensure()
        await port.stopListening()
        stream = Protocol()
        await client.connect_stream(stream)
        self.assertTrue(stream.connected)
        transport: Any = stream.transport
        transport.abortConnection()
        await client.ensure()
        self.assertNotEqual(1, client.identity["pid"])
        os.kill(client.identity["pid"], signal.SIGTERM)

    async def test_no_common_version(self) -> None:
        """A keeper that refuses our version is named as the reason, and is left alone."""
        self.patch(keeper_client, "START_SECONDS", 0.2)
        message = "this keeper speaks version 2"

        class Newer(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                body: dict[str, object] = {"code": "version", "message": message}
                transport.write(wire.encode_map(wire.REFUSED, body))
                transport.loseConnection()

        factory = Factory.forProtocol(Newer)
        factory.noisy = False
        port = reactor.listenUNIX(str(self.home / "keeper.sock"), factory)
        self.addCleanup(port.stopListening)
        with self.assertRaisesRegex(KeeperUnavailable, message):
            await self.client(start_keeper=False).ensure()

    async def test_garbage(self) -> None:
        """A keeper that breaks the protocol costs its connection, and is called again."""
        port = self.play(__version__, lambda call: [{"ok": True}] if call["call"] == "x" else [])
        self.addCleanup(port.stopListening)
        client = self.client()
        await client.ensure()
        waiting = client._control
        assert waiting is not None
        pending = waiting.call("unanswered", {})
        transport: Any = self.connections[0].transport
        transport.write(b"\x63\x00\x00\x00\x00\x00\x00\x00")
        with self.assertRaises(KeeperUnavailable):
            await pending
        self.assertEqual({"ok": True}, await client.call("x"))
        self.assertEqual(2, len(self.connections))
