"""What an operator sees when something is wrong: one line, a status, a code; never a traceback."""

from __future__ import annotations

import json
import os
import socket
import stat

from tests.functional.fleet import FleetCase
from tests.functional.processes import AGENT, CLI, TWISTD, Finished


class UsageTests(FleetCase):
    def test_bad_options(self) -> None:
        """Wrong usage ends with 2, one line and where to find help."""
        for words in (
            ["run"],
            ["run", "pump-1"],
            ["run", "--timeout", "soon", "pump-1", "--", "true"],
            ["run", "--timeout", "-1", "pump-1", "--", "true"],
            ["run", "--line", "--argv", "pump-1", "--", "true"],
            ["devices", "--no-such-option"],
            ["no-such-verb"],
            ["invite", "device", "--ttl", "0"],
            ["invite", "device", "--name", "Bad Name"],
            ["invite", "device", "--label", "no-value"],
            ["invite", "operator", "bob"],
            ["label", "pump-1"],
            ["revoke", "planet", "earth"],
            ["shell"],
        ):
            done = self.fleet.command([*CLI, *words])
            self.assertEqual((2, b""), (done.status, done.stdout), words)
            self.assert_one_line(done.stderr)
            self.assertTrue(done.stderr.startswith(b"rshell: "), done.stderr)
            self.assertIn(b"--help", done.stderr)

    def test_bad_options_in_json(self) -> None:
        """With --json wrong usage has a code too."""
        done = self.fleet.command([*CLI, "--json", "devices", "--no-such-option"])
        self.assertEqual(2, done.status)
        self.assertEqual("usage", json.loads(done.stdout)["error"]["code"])

    def test_agent_options(self) -> None:
        """rshell-agent answers wrong usage with 2 as well."""
        for words in ([], ["fly"], ["join", "--no-such"], ["run", "--no-such-option"]):
            done = self.fleet.command([*AGENT, *words])
            self.assertEqual((2, b""), (done.status, done.stdout), words)
            self.assertIn(b"usage: rshell-agent", done.stderr)
            self.assertNotIn(b"Traceback", done.stderr)
        done = self.fleet.command([*AGENT, "join", "--home", str(self.fleet.base / "nobody")])
        self.assertEqual((2, b""), (done.status, done.stdout))
        self.assert_one_line(done.stderr)
        self.assertIn(b"give a join string", done.stderr)

    def test_help(self) -> None:
        """Every verb has help with an example, without a gateway."""
        for words in ([], ["run"], ["shell"], ["invite"], ["invite", "device"], ["devices"]):
            done = self.fleet.command([*CLI, *words, "--help"])
            self.assertEqual((0, b""), (done.status, done.stderr))
            self.assertIn(b"rshell", done.stdout)


class NoGatewayTests(FleetCase):
    def failing(self, *words: str, code: str) -> Finished:
        """Run a command that fails, as text and as JSON."""
        done = self.fleet.command([*CLI, *words])
        self.assert_status(255, done)
        self.assertEqual(b"", done.stdout)
        self.assert_one_line(done.stderr)
        self.assertTrue(done.stderr.startswith(b"rshell: "), done.stderr)
        answer = self.fleet.command([*CLI, "--json", *words])
        self.assert_status(255, answer)
        error = json.loads(answer.stdout)["error"]
        self.assertEqual(code, error["code"])
        self.assertTrue(error["message"])
        return done

    def test_unknown_home(self) -> None:
        """A home that does not exist is named."""
        done = self.failing("--home", "/no/such/home", "devices", code="not-configured")
        self.assertIn(b"/no/such/home", done.stderr)

    def test_no_home(self) -> None:
        """A machine that is nobody's says how to become somebody's."""
        done = self.failing("devices", code="not-configured")
        self.assertIn(b"rshell join", done.stderr)

    def test_not_running(self) -> None:
        """A gateway that is not running is said so, with how to start it."""
        fleet = self.own_fleet()
        assert fleet.gateway is not None
        fleet.gateway.terminate()
        fleet.gateway.wait()
        done = self.failing("--home", str(fleet.home), "devices", code="not-configured")
        self.assertIn(b"twistd", done.stderr)

    def test_gateway_vanished(self) -> None:
        """A gateway that was killed is said to be unreachable, at its address."""
        fleet = self.own_fleet()
        address = ":".join(map(str, fleet.address))
        assert fleet.gateway is not None
        fleet.gateway.kill()
        fleet.gateway.wait()
        done = self.failing("--home", str(fleet.home), "devices", code="unreachable")
        self.assertIn(address.encode(), done.stderr)


class GatewayStartTests(FleetCase):
    def failing(self, *words: str) -> bytes:
        """Start a gateway that cannot start; return what it said."""
        done = self.fleet.command([*TWISTD, "-n", "--pidfile=", "rshell", *words], seconds=30)
        self.assertNotEqual(0, done.status)
        said = done.stdout + done.stderr
        self.assertNotIn(b"Traceback", said)
        return said

    def lines(self, said: bytes) -> list[bytes]:
        return [line for line in said.splitlines() if line.startswith(b"rshell: ")]

    def test_busy_port(self) -> None:
        """A port that is taken ends the start with one line that names it."""
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        home = str(self.fleet.base / "busy")
        said = self.failing("--home", home, "--links", f"tcp:{port}:interface=127.0.0.1")
        self.assertEqual(1, len(self.lines(said)), said)
        self.assertIn(str(port).encode(), self.lines(said)[0])
        self.assertIn(b"in use", self.lines(said)[0])

    def test_busy_port_as_daemon(self) -> None:
        """Without -n the start fails too, and leaves nothing running."""
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        place = self.fleet.base / "daemon"
        place.mkdir()
        done = self.fleet.command(
            [
                *TWISTD,
                f"--pidfile={place}/pid",
                f"--logfile={place}/log",
                "rshell",
                "--home",
                str(place / "home"),
                "--links",
                f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1",
            ]
        )
        self.assertNotEqual(0, done.status)
        self.assertIn(b"in use", done.stdout + done.stderr)
        self.assertFalse((place / "home" / "endpoints.json").exists())

    def test_bad_endpoints(self) -> None:
        """An endpoint that is none is named."""
        for links in ("tcp:notaport", "nonsense:1", "tcp:99999999", "unix:/tmp/x.sock"):
            home = str(self.fleet.base / "bad-links")
            said = self.failing("--home", home, "--links", links)
            self.assertEqual(1, len(self.lines(said)), said)
            self.assertIn(links.encode(), self.lines(said)[0])

    def test_no_links(self) -> None:
        """A gateway without links says that it needs some."""
        said = self.failing("--home", str(self.fleet.base / "no-links"), "--links", "")
        self.assertEqual(1, len(self.lines(said)), said)

    def test_unusable_home(self) -> None:
        """A home that cannot be made is named, for gateway and agent alike."""
        blocked = self.fleet.base / "blocked"
        blocked.write_text("a file")
        said = self.failing("--home", str(blocked / "gw"), "--links", "tcp:0:interface=127.0.0.1")
        self.assertEqual(1, len(self.lines(said)), said)
        self.assertIn(os.fsencode(blocked), said)
        for words in (["run"], ["status"], ["join", "-"]):
            done = self.fleet.command([*AGENT, *words, "--home", str(blocked / "agent")], b"x\n")
            self.assert_status(1, done)
            self.assert_one_line(done.stderr)

    def test_open_home(self) -> None:
        """A home that others may read is refused or closed, never used as it is."""
        home = self.fleet.base / "open-home"
        home.mkdir(mode=0o777)
        home.chmod(0o777)
        agent = self.fleet.join("open-1")
        self.addCleanup(self.fleet.remove, agent)
        agent.home.chmod(0o777)
        done = self.fleet.command([*AGENT, "run", "--home", str(agent.home)], seconds=20)
        self.assertEqual(1, done.status)
        self.assert_one_line(done.stderr)
        self.assertIn(os.fsencode(agent.home), done.stderr)
        said = self.failing("--home", str(home), "--links", "tcp:0:interface=127.0.0.1")
        self.assertIn(os.fsencode(home), said)
        self.assertEqual(0o777, stat.S_IMODE(home.stat().st_mode))

    def test_bad_config(self) -> None:
        """A configuration file that is wrong is named, with what is wrong in it."""
        config = self.fleet.base / "gw.toml"
        for text, word in (("[gateway", b"gw.toml"), ("[gateway]\nlinkz = 1\n", b"linkz")):
            config.write_text(text)
            said = self.failing("--home", str(self.fleet.base / "cfg"), "--config", str(config))
            self.assertEqual(1, len(self.lines(said)), said)
            self.assertIn(word, self.lines(said)[0])

    def test_unjoined_agent(self) -> None:
        """An agent on an empty home says how to join."""
        done = self.fleet.command([*AGENT, "run", "--home", str(self.fleet.base / "empty")])
        self.assert_status(1, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"rshell-agent join", done.stderr)
