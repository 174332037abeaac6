"""Devices behind an HTTP proxy: with a password, refused, and left hanging."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from pathlib import Path

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import AGENT, lasting, until

USER, SECRET = "site", "p%:w@rd/7"
#: The same in a URL.
ENCODED = "site:p%25%3Aw%40rd%2F7"


class Proxy:
    """An HTTP proxy that knows CONNECT only.

    Attributes:
        mode: ``ok``; ``hang`` takes the request and never answers; any other text is the
            status line of a refusal.
        asked: The requests' heads.
        times: When they came, monotonic seconds.
    """

    def __init__(self) -> None:
        self.mode = "ok"
        self.asked: list[bytes] = []
        self.times: list[float] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = client.recv(1)
            if not data:
                return
            head += data
        self.times.append(time.monotonic())
        self.asked.append(head)
        if self.mode == "hang":
            return
        wanted = b"Basic " + base64.b64encode(f"{USER}:{SECRET}".encode())
        if self.mode != "ok" or wanted not in head:
            status = "407 Proxy Authentication Required" if self.mode == "ok" else self.mode
            body = b"<html>go away</html>"
            client.sendall(
                f"HTTP/1.1 {status}\r\nProxy-Authenticate: Basic realm=x\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            client.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        target = socket.create_connection((host.strip("[]"), int(port)))
        self._sockets.append(target)
        client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
        threading.Thread(target=_pump, args=(client, target), daemon=True).start()
        _pump(target, client)

    def cut(self) -> None:
        """End all tunnels."""
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was over
            end.close()
        self._sockets.clear()

    def close(self) -> None:
        """End everything; safe to call again."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.cut()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them is gone


class ProxyTests(FleetCase):
    def setUp(self) -> None:
        self.proxy = Proxy()
        self.addCleanup(self.proxy.close)

    def behind(self, name: str, secret: str = ENCODED) -> Agent:
        """Start a device that dials through the proxy."""
        agent = self.fleet.join(name)
        self.addCleanup(self.fleet.remove, agent)
        agent.configure(f'[link]\nproxy = "http://{secret}@127.0.0.1:{self.proxy.port}"\n')
        return agent.start()

    def status_of(self, agent: Agent) -> str:
        done = self.fleet.command([*AGENT, "status", "--json", "--home", str(agent.home)])
        return done.stdout.decode()

    def assert_no_secret(self, agent: Agent) -> None:
        """Check that the password is nowhere but in the file where it was put."""
        texts = [self.status_of(agent), agent.log_text()]
        done = self.fleet.command([*AGENT, "status", "--home", str(agent.home)])
        texts.append((done.stdout + done.stderr).decode())
        files = [path for path in Path(agent.home).rglob("*") if path.is_file()]
        # The configuration, and the copy of its last good link, hold it and nobody else reads them.
        known = {"agent.toml", "link.toml"}
        for path in files:
            if path.name in known:
                self.assertEqual(0, path.stat().st_mode & 0o077 if path.name == "link.toml" else 0)
            else:
                texts.append(path.read_bytes().decode(errors="replace"))
        told = self.fleet.rshell("why", agent.name, "--json").stdout.decode()
        coded = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        for text in (*texts, told):
            for secret in (SECRET, ENCODED.partition(":")[2], coded):
                self.assertNotIn(secret, text)

    def test_with_password(self) -> None:
        """A device comes in through the proxy, works, and gives its password to nobody else."""
        agent = self.behind("proxied-1")
        self.fleet.wait_live("proxied-1")
        host, port = self.fleet.address
        self.assertEqual(
            f"CONNECT {host}:{port} HTTP/1.1".encode(), self.proxy.asked[0][:-2].split(b"\r\n")[0]
        )
        data = bytes(range(256)) * 4096
        done = self.fleet.run("proxied-1", "--", "cat", data=data)
        self.assertEqual((0, data), (done.status, done.stdout))
        self.assert_no_secret(agent)
        # The tunnel breaks: it comes back, through the proxy again.
        epoch, asked = self.fleet.device("proxied-1")["epoch"], len(self.proxy.asked)
        self.proxy.cut()
        until(lambda: self.fleet.device("proxied-1")["epoch"] > epoch, agent.log_text, 30, 0.2)
        self.assertGreater(len(self.proxy.asked), asked)

    def test_refused(self) -> None:
        """What the proxy says when it refuses is told; the device gets in when it agrees."""
        self.proxy.mode = "403 Forbidden by policy"
        agent = self.behind("proxied-2")
        until(lambda: "403" in self.status_of(agent), lambda: self.status_of(agent), 20, 0.3)
        self.assertIn("proxy", json.loads(self.status_of(agent))["last_error"])
        until(lambda: len(self.proxy.asked) >= 2, "it tries again", 20)
        self.proxy.mode = "ok"
        self.fleet.wait_live("proxied-2", seconds=40)
        self.assert_no_secret(agent)

    def test_wrong_password(self) -> None:
        """A wrong password is told as such."""
        agent = self.behind("proxied-3", "site:wrong-one")
        until(lambda: "407" in self.status_of(agent), lambda: self.status_of(agent), 20, 0.3)
        self.assertNotIn("wrong-one", self.status_of(agent) + agent.log_text())

    def test_nobody_there(self) -> None:
        """A proxy that is not there is the reason that is told."""
        self.proxy.close()
        agent = self.behind("proxied-4")
        until(lambda: "proxy" in self.status_of(agent), lambda: self.status_of(agent), 20, 0.3)

    @lasting("it takes most of a minute")
    def test_hanging(self) -> None:
        """A proxy that never answers is given up and asked again; then the device gets in."""
        self.proxy.mode = "hang"
        agent = self.behind("proxied-5")
        until(lambda: self.proxy.asked, agent.log_text, 20)
        began = time.monotonic()
        until(lambda: len(self.proxy.asked) >= 2, agent.log_text, 40)
        self.assertLess(time.monotonic() - began, 30)
        self.proxy.mode = "ok"
        self.fleet.wait_live("proxied-5", seconds=60)
