"""``rshell forward -R``: the device listens, connections come to the operator's side."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

from tests.functional.fleet import Agent, FleetCase
from tests.functional.forwarders import Forwarder, Server, connect, digest, report, talk
from tests.functional.processes import until

#: More than a keeper, an agent and their caches need to see a changed file.
SECONDS = 30


class BackTests(FleetCase):
    def device(self, name: str, *rules: str) -> Agent:
        """Return a device that may listen where the rules say."""
        agent = self.added(name)
        self.allow(agent, *rules)
        return agent

    def allow(self, agent: Agent, *rules: str) -> None:
        listed = ", ".join(f'"{rule}"' for rule in rules)
        agent.configure(f"[policy]\nforward_back = [{listed}]\n")

    def test_connections(self) -> None:
        """What connects to the device's port or socket talks to ours, many at once."""
        path = f"{self.fleet.base}/back.sock"
        self.device("back-1", "localhost:*", f"unix:{path}")
        server = Server(self, report)
        forwarder = Forwarder(
            self,
            self.fleet,
            "-R",
            "back-1",
            f"0:localhost:{server.port}",
            f"{path}:localhost:{server.port}",
            specs=2,
        )
        self.assertEqual("127.0.0.1", forwarder.places[0]["host"])
        self.assertEqual({"path": path}, forwarder.places[1])
        payloads = [os.urandom(20_000) for _ in range(40)]
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda data: talk(forwarder.port, data), payloads))
        for data, answer in zip(payloads, answers, strict=True):
            self.assertEqual(digest(data) + data, answer)
        self.assertEqual(digest(b"x") + b"x", talk(path, b"x"))
        self.assertEqual(130, forwarder.stop())
        until(lambda: not os.path.exists(path), "the device listens no more")
        with self.assertRaises(ConnectionRefusedError):
            connect(forwarder.port)

    def test_nobody_here(self) -> None:
        """If nothing listens on our side the connection is reset and told; the listener stays."""
        self.device("back-2", "localhost:*")
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        forwarder = Forwarder(self, self.fleet, "-R", "back-2", f"0:localhost:{port}")
        with connect(forwarder.port) as connection, self.assertRaises(ConnectionResetError):
            connection.recv(1)
        (ended,) = forwarder.ended()
        self.assertEqual("unreachable", ended["code"])
        connect(forwarder.port).close()
        self.assertEqual(2, len(forwarder.ended(2)))

    def test_policy_changes(self) -> None:
        """A policy that no longer allows it ends the listener and the command."""
        agent = self.device("back-3", "localhost:*")
        server = Server(self, report)
        forwarder = Forwarder(self, self.fleet, "-R", "back-3", f"0:localhost:{server.port}")
        self.allow(agent)
        done = forwarder.program.finish(seconds=SECONDS)
        self.assertEqual(255, done.status)
        self.assertEqual("policy", forwarder.rows()[-1]["error"]["code"])
        with self.assertRaises(ConnectionRefusedError):
            connect(forwarder.port)

    def test_taken(self) -> None:
        """A port that is taken on the device is told so."""
        self.device("back-4", "localhost:*")
        server = Server(self, report)
        done = self.fleet.rshell("forward", "-R", "back-4", f"{server.port}:localhost:1")
        self.assertEqual(255, done.status)
        self.assertIn(b"in use on the device", done.stderr)
        self.assert_one_line(done.stderr)
