"""Strangers, liars and noise at the links port: a clean close, one log line, nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rshell.identity.authority import FleetKeys
from rshell.identity.credentials import Credentials, CredentialStore
from rshell.identity.fleet_home import FleetHome, chain_to_pem
from rshell.identity.keys import make_csr, new_key, save_key
from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import CLI, fds, peak_kb, require, reset_peak, rss_kb, until
from tests.functional.wire import TYPES, Wire, context
from tests.identity.dev_fleet import fleet as other_fleet
from tests.identity.dev_fleet import make_dev


class HostileCase(FleetCase):
    def folder(self, leaf: Any) -> Path:
        """Write a make-dev leaf where `context` finds it."""
        folder = self.fleet.base / f"leaf-{time.monotonic_ns()}"
        folder.mkdir(mode=0o700)
        (folder / "chain.pem").write_bytes(chain_to_pem(leaf.chain))
        save_key(folder / "key.pem", leaf.key)
        return folder

    def keys(self) -> FleetKeys:
        """Return the authorities of the fleet under attack."""
        return FleetHome(self.fleet.home).load()

    def identity(self, agent: Agent) -> Path:
        return agent.home / "identity" / "a"

    def wire(self) -> Wire:
        made = Wire(self.fleet.address)
        self.addCleanup(made.close)
        return made

    def lines(self, start: int, peer: str) -> list[str]:
        return [
            line
            for line in self.fleet.log_text(start).splitlines()
            if peer + " " in line or peer + ":" in line
        ]

    def refused(self, start: int, wires: dict[str, Wire], pattern: str = r"\S") -> None:
        """Check that each connection has exactly one line, which gives a reason."""
        for name, wire in wires.items():
            until(partial(self.lines, start, wire.peer), f"a line about {name}", 10)
            found = self.lines(start, wire.peer)
            self.assertEqual(1, len(found), (name, found))
            self.assertRegex(
                found[0], r"(refused a (connection|join) from|was not admitted).*: \S", name
            )
            self.assertRegex(found[0], pattern, name)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Check that the gateway keeps its descriptors, and a command its link and output."""
        fleet = self.fleet
        count = fds(fleet.gateway_pid)
        reset_peak(fleet.gateway_pid)
        memory = rss_kb(fleet.gateway_pid)
        epoch = fleet.device("pump-2")["epoch"]
        program = fleet.start(fleet.cli("run", "pump-2", "--", "cat"))
        stdin, stdout = program.process.stdin, program.process.stdout
        assert stdin is not None
        assert stdout is not None

        def echo(word: bytes) -> None:
            stdin.write(word + b"\n")
            stdin.flush()
            self.assertEqual(word + b"\n", stdout.readline())

        echo(b"before")
        with self.quiet_gateway(fleet):
            yield
            echo(b"after")
        self.assertEqual(0, program.finish().status)
        self.assertEqual(epoch, fleet.device("pump-2")["epoch"])
        until(lambda: fds(fleet.gateway_pid) <= count, lambda: str(fds(fleet.gateway_pid)), 10)
        self.assertLess(peak_kb(fleet.gateway_pid) - memory, 20_000)


class NoiseTests(HostileCase):
    def test_no_tls(self) -> None:
        """HTTP, random bytes, zeros, ssh, half a handshake and nothing at all are not TLS."""
        start = self.fleet.log_size()
        noises: dict[str, bytes] = {
            "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "connect": b"CONNECT x:443 HTTP/1.1\r\n\r\n",
            "random": os.urandom(4096),
            "zeros": bytes(10 << 20),
            "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
            "half": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(32),
            "frame": b"\x01\x00\x00\x02\x00\x00\x00\x00{}",
            "nothing": b"",
        }
        with self.undisturbed():
            wires = {}
            for name, noise in noises.items():
                wires[name] = self.wire().send(noise)
                if name in ("half", "nothing"):
                    wires[name].socket.shutdown(socket.SHUT_WR)
            for wire in wires.values():
                wire.until_closed()
            self.refused(start, wires)

    def test_slow(self) -> None:
        """Silence before TLS, half a handshake, no HELLO and no JOIN end within the limit."""
        agent = self.fleet.join("probe-1")
        self.addCleanup(self.fleet.remove, agent)
        start = self.fleet.log_size()
        began = time.monotonic()
        with self.undisturbed():
            wires = {
                "silence": self.wire(),
                "half": self.wire().send(b"\x16\x03\x01\x02\x00\x01"),
                "no hello": self.wire().secure(context(self.identity(agent))),
                "half a hello": self.wire()
                .secure(context(self.identity(agent)))
                .send(b"\x01\x00\x01\x00\x00\x00\x00\x00{"),
                "no join": self.wire().secure(context(alpn="rshell-join/1")),
            }
            for name, wire in wires.items():
                wire.until_closed(20)
                took = time.monotonic() - began
                self.assertLess(took, 18 if name == "no join" else 13, name)
            self.assertGreater(time.monotonic() - began, 9)
            self.refused(start, wires)

    def test_tls_versions(self) -> None:
        """TLS 1.2 is refused, by Python's ssl and by openssl s_client."""
        openssl = require("openssl")
        start = self.fleet.log_size()
        wire = self.wire()
        with self.assertRaises(OSError):
            wire.secure(context(version=ssl.TLSVersion.TLSv1_2))
        self.refused(start, {"1.2": wire})
        start = self.fleet.log_size()
        host, port = self.fleet.address
        done = self.fleet.command(
            [openssl, "s_client", "-connect", f"{host}:{port}", "-tls1_2", "-alpn", "rshell/1"]
        )
        self.assertNotEqual(0, done.status)
        found = until(
            lambda: [
                line
                for line in self.fleet.log_text(start).splitlines()
                if "refused a connection" in line
            ],
            "a line",
            10,
        )
        self.assertEqual(1, len(found), found)

    def test_alpn(self) -> None:
        """A ClientHello without one of our protocols is refused."""
        for alpn in (None, "h2", "rshell/2"):
            start = self.fleet.log_size()
            wire = self.wire()
            try:
                wire.secure(context(alpn=alpn)).until_closed()
            except ssl.SSLError:
                pass
            self.refused(start, {str(alpn): wire})


class IdentityTests(HostileCase):
    def test_certificates(self) -> None:
        """No certificate and certificates that prove nothing admit nobody."""
        keys, make, now = self.keys(), make_dev(), datetime.now(UTC)
        leaves = {
            "another fleet's": other_fleet().leaves["device-1"],
            "another fleet's operator": other_fleet().leaves["operator"],
            "self-signed": make.self_signed_device(keys.fleet, now),
            "forged": make.forged_device(keys, now),
            "expired": make.device(keys, now - timedelta(days=180)),
            "not registered": make.device(keys, now),
            "not registered operator": make.operator(keys, "mallory", now),
            "not registered admin": make.operator(keys, "admin", now),
            "another authority's": other_fleet().leaves["expired-stranger-device"],
        }
        start = self.fleet.log_size()
        with self.undisturbed():
            wires = {"none": self.wire().secure(context())}
            for name, leaf in leaves.items():
                wires[name] = self.wire().secure(context(self.folder(leaf))).hello()
            for wire in wires.values():
                self.assertNotIn(b"epoch", wire.until_closed())
            self.refused(start, wires)

    def test_revoked_device(self) -> None:
        """A revoked device's key admits nobody, however often it dials."""
        agent = self.fleet.join("probe-2")
        self.addCleanup(agent.stop)
        self.assert_status(0, self.fleet.rshell("revoke", "device", "probe-2"))
        start = self.fleet.log_size()
        wires = {}
        for number in range(5):
            wire = self.wire().secure(context(self.identity(agent))).hello()
            kind, goaway = wire.read_frame()
            self.assertEqual((TYPES["GOAWAY"], "revoked"), (kind, goaway["code"]))
            wire.until_closed()
            wires[str(number)] = wire
        self.refused(start, wires, "revoked")

    def test_expired_but_registered(self) -> None:
        """A device that slept past its certificate renews it by itself (rule E4)."""
        agent = self.fleet.join("sleeper-1")
        self.addCleanup(self.fleet.remove, agent)
        store, keys = CredentialStore(agent.home), self.keys()
        known = store.load()
        assert known is not None
        past = datetime.now(UTC) - timedelta(days=180)
        stale = keys.issue_device(known.key.public_key(), known.name.name, past)
        chain = chain_to_pem((stale, keys.device.certificate))
        root = chain_to_pem((known.root,))
        store.save(Credentials.new(known.key, chain, root, known.gateways))
        agent.start()
        self.fleet.wait_live("sleeper-1")
        renewed = CredentialStore(agent.home).load()
        assert renewed is not None
        self.assertGreater(renewed.certificate.not_valid_after_utc, datetime.now(UTC))
        self.assert_status(0, self.run_on("sleeper-1", "true"))

    def test_device_as_operator(self) -> None:
        """A device's credentials make no operator: not for `rshell`, not on the wire (G1)."""
        agent = self.fleet.join("probe-3")
        self.addCleanup(self.fleet.remove, agent)
        done = self.fleet.command([*CLI, "--home", str(agent.home), "devices"])
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        wire = self.wire().secure(context(self.identity(agent))).hello()
        self.assertEqual(TYPES["WELCOME"], wire.read_frame()[0])
        wire.open("gateway.devices", 1, request={"selector": "*"})
        wire.open("exec", 3, device="pump-1", request={"line": "aWQ="})
        answers: dict[int, str] = {}
        while len(answers) < 2:
            kind, body = wire.read_frame()
            if kind == TYPES["OPEN"]:
                continue  # the gateway asks for the catalogue
            self.assertEqual(TYPES["REFUSED"], kind, body)
            answers[len(answers)] = body["code"]
        self.assertNotIn("exec", str(answers))
        wire.socket.close()

    def test_operator_as_device(self) -> None:
        """An operator's credentials make no device: an agent with them is none in any listing."""
        impostor = Agent(self.fleet, "impostor", self.fleet.base / "impostor")
        self.addCleanup(impostor.stop)
        shutil.copytree(self.fleet.home / "admin", impostor.home)
        host, number = self.fleet.address
        impostor.configure(f'[link]\ngateways = ["{host}:{number}"]\n')
        start, before = self.fleet.log_size(), self.fleet.live()
        impostor.start()

        def tried() -> bool:
            assert impostor.process is not None
            log, port = impostor.log_text(), str(self.fleet.address[1])
            return impostor.process.poll() is not None or port in log or "connected" in log

        until(tried, impostor.log_text, 20)
        self.assertNotIn("is live", self.fleet.log_text(start))
        self.assertEqual(before, self.fleet.live())
        self.assertNotIn("Traceback", impostor.log_text() + self.fleet.log_text(start))


class FrameTests(HostileCase):
    def test_bad_frames(self) -> None:
        """A registered device that breaks the protocol loses its link, with one line."""
        agent = self.fleet.join("probe-4")
        self.addCleanup(self.fleet.remove, agent)
        made = context(self.identity(agent))
        attacks: dict[str, Callable[[Wire], object]] = {
            "zeros": lambda wire: wire.send(bytes(10 << 20)),
            "random": lambda wire: wire.send(b"\x7f" + os.urandom(100_000)),
            "too long": lambda wire: wire.send(b"\x01\x00\xff\xff\x00\x00\x00\x00"),
            "no hello first": lambda wire: wire.open("gateway.renew"),
            "not JSON": lambda wire: wire.send(b"\x01\x00\x00\x02\x00\x00\x00\x00[["),
            "wrong types": lambda wire: wire.hello(dial="one"),
            "no version": lambda wire: wire.hello(protocol={"min": 7, "max": 9}),
            "hello twice": lambda wire: wire.hello().hello(),
        }
        with self.undisturbed():
            for name, attack in attacks.items():
                start = self.fleet.log_size()
                wire = self.wire().secure(made)
                attack(wire)
                wire.until_closed()
                if name == "hello twice":
                    until(partial(self._ended, start), name, 10)
                else:
                    self.refused(start, {name: wire})

    def _ended(self, start: int) -> bool:
        """Whether a link was admitted and lost, or lost before: that is a race."""
        text = self.fleet.log_text(start)
        return ("probe-4 epoch" in text and " lost" in text) or "was not admitted" in text

    def test_bad_joins(self) -> None:
        """Nonsense on a join connection is answered by a clean close and one line."""
        attacks: dict[str, Callable[[Wire], object]] = {
            "zeros": lambda wire: wire.send(bytes(1 << 20)),
            "not JSON": lambda wire: wire.send(b"\x20\x00\x00\x02\x00\x00\x00\x00[["),
            "hello": lambda wire: wire.hello(),
            "no such invite": lambda wire: wire.frame(
                "JOIN",
                {
                    "kind": "device",
                    "id": "AAAAAAAAAAA=",
                    "secret": "AAECAwQFBgcICQoLDA0ODxAREhM=",
                    "csr": _csr(),
                    "name": "x",
                    "facts": {},
                },
            ),
        }
        with self.undisturbed():
            for name, attack in attacks.items():
                start = self.fleet.log_size()
                wire = self.wire().secure(context(alpn="rshell-join/1"))
                attack(wire)
                wire.until_closed()
                until(partial(self.lines, start, wire.peer), name, 10)
                self.assertEqual(1, len(self.lines(start, wire.peer)), name)


def _csr() -> str:
    return b64encode(make_csr(new_key())).decode()


class CrowdTests(HostileCase):
    def test_many_at_once(self) -> None:
        """Three hundred silent strangers keep no device and no operator out."""
        crowd = [self.wire() for _ in range(300)]
        began = time.monotonic()
        done = self.run_on("pump-1", "echo still here")
        self.assertEqual(b"still here\n", done.stdout)
        self.assertLess(time.monotonic() - began, 8)
        for wire in crowd:
            wire.socket.close()
        until(lambda: fds(self.fleet.gateway_pid) < 100, "their descriptors are closed", 15)

    def test_listening_sockets(self) -> None:
        """The gateway listens where it was told to and nowhere else; agents listen nowhere."""
        _, port = self.fleet.address
        self.assertEqual([("0100007F", port)], _listening(self.fleet.gateway_pid))
        agent = self.fleet.agents["pump-1"]
        for pid in (agent.pid, agent.keeper_pid()):
            self.assertEqual([], _listening(pid))


def _listening(pid: int) -> list[tuple[str, int]]:
    """Return (address in hexadecimal, port) of the IP sockets on which a process listens."""
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for row in rows:
            fields = row.split()
            if fields[9] in own and (table.startswith("udp") or fields[3] == "0A"):
                address, _, port = fields[1].partition(":")
                found.append((address, int(port, 16)))
    return found
