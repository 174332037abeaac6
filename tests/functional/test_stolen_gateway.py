"""The procedures of docs/operations.md about the fleet's root, run on real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from rshell.identity.fleet_home import FleetHome
from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import AGENT, CLI, Finished, until

PASSPHRASE = "a stick in a safe"


class CaCase(FleetCase):
    def setUp(self) -> None:
        self.own = self.own_fleet("thieved-1")
        self.agent: Agent = self.own.agents["thieved-1"]
        self.secret = self.own.base / "passphrase"
        self.secret.write_text(PASSPHRASE + "\n")
        self.bundle = self.own.base / "fleet.bundle"

    def ca(self, *words: str | Path, home: Path | None = None, status: int = 0) -> Finished:
        """Run ``rshell ca`` on a home; a bundle's passphrase is given with it."""
        secret = ["--passphrase-file", str(self.secret)] if "--bundle" in words else []
        done = self.own.command(
            [*CLI, "ca", *map(str, words), *secret, "--home", str(home or self.own.home)]
        )
        self.assertEqual(done.status, status, done)
        self.assertNotIn(b"Traceback", done.stderr)
        return done

    def offline(self, *words: str | Path, status: int = 0) -> Finished:
        """Run it as on the machine with the bundle: without any home."""
        options = ["--bundle", str(self.bundle), "--passphrase-file", str(self.secret)]
        command = [*CLI, "ca", *map(str, words), *options]
        done = self.own.command(command, environ={"RSHELL_HOME": ""})
        self.assertEqual(done.status, status, done)
        return done

    def export(self) -> None:
        """Move the root's and the gateway CA's key away."""
        self.ca("export-root", self.bundle, "--passphrase-file", self.secret)

    def told(self) -> int:
        """Return the number of the list that the device keeps, as its status tells."""
        done = self.own.command([*AGENT, "status", "--json", "--home", str(self.agent.home)])
        number: int = json.loads(done.stdout)["revoked_gateways"]
        return number

    def last_error(self) -> str:
        """Return why the device has no link, as its status tells."""
        done = self.own.command([*AGENT, "status", "--json", "--home", str(self.agent.home)])
        text: str = json.loads(done.stdout)["last_error"]
        return text


class ExportTests(CaCase):
    def test_goes_on_without_the_keys(self) -> None:
        """With its keys away a gateway runs on, restarts, is certified anew, and loses no link."""
        keys = FleetHome(self.own.home).load(issuing=True, root=True)
        self.export()
        self.assertFalse((self.own.home / "ca" / "root.key").exists())
        self.assertFalse((self.own.home / "ca" / "gateway-ca.key").exists())
        epoch = self.own.device("thieved-1")["epoch"]
        request, leaf = self.own.base / "req.pem", self.own.base / "leaf.pem"
        self.ca("request", "--out", request)
        self.offline("certify", request, "--days", "30", "--out", leaf)
        self.assertIn(b"the gateway uses it", self.ca("install", leaf).stdout)
        # the same link still, and a command through it
        self.assertEqual(self.own.run("thieved-1", "--", "true").status, 0)
        self.assertEqual(self.own.device("thieved-1")["epoch"], epoch)
        shown = json.loads(self.ca("show", "--json").stdout)
        self.assertEqual([one["state"] for one in shown["gateways"]], ["replaced", "in use"])
        self.own.kill_gateway()
        self.own.restart_gateway()
        self.own.wait_live("thieved-1")
        for key in (keys.root.key, keys.gateway.key):
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            number = key.private_numbers().private_value
            self.assertFalse(self.holds(number), "the key is in the gateway's memory")
        # the check can find what is there: the key that the gateway does use
        used = FleetHome(self.own.home).load().operator.key
        assert isinstance(used, ec.EllipticCurvePrivateKey)
        self.assertTrue(self.holds(used.private_numbers().private_value))
        kinds = [json.loads(row)["kind"] for row in self.audit() if b'"ca.' in row]
        self.assertEqual(kinds, ["ca.export-root", "ca.install"])

    def audit(self) -> list[bytes]:
        """Return the audit log, a row a line."""
        done = self.own.rshell("audit", "export", "--to", "-")
        return done.stdout.splitlines()

    def holds(self, number: int) -> bool:
        """Tell whether the gateway's memory holds a private key, in either order of bytes."""
        needles = [number.to_bytes(32, order) for order in ("big", "little")]
        maps = Path(f"/proc/{self.own.gateway_pid}/maps").read_text()
        with open(f"/proc/{self.own.gateway_pid}/mem", "rb", 0) as memory:
            for line in maps.splitlines():
                found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
                if found is None:
                    continue
                begin, end = (int(word, 16) for word in found.groups())
                try:
                    content = os.pread(memory.fileno(), end - begin, begin)
                except OSError:
                    continue
                if any(needle in content for needle in needles):
                    return True
        return False


class StolenTests(CaCase):
    def test_procedure(self) -> None:
        """A stolen gateway's copy is refused by devices and operators that were told of it."""
        self.export()
        joined = self.own.base / "ann"
        string = self.own.invite("operator", "ann", "--role", "admin")
        self.assertEqual(
            self.own.command([*CLI, "join", "-", "--home", str(joined)], string).status, 0
        )
        # the thief takes the machine; what is left is the backup and the bundle
        stolen = self.own.base / "stolen"
        self.own.kill_gateway()
        shutil.copytree(self.own.home, stolen)
        self.control(stolen, joined)
        self.procedure()
        self.own.restart_gateway()
        self.redial()
        self.own.wait_live("thieved-1")
        # HOME/admin of the thief is nobody here any more, the new one is
        (stolen / "endpoints.json").write_bytes((self.own.home / "endpoints.json").read_bytes())
        nobody = self.own.command([*CLI, "--home", str(stolen), "devices"])
        self.assertEqual(nobody.status, 255, nobody)
        self.assertIn(b"revoked", nobody.stderr)
        verified = self.own.rshell(
            "audit", "--verify", "--key", str(self.own.base / "old-audit.pub")
        )
        self.assertEqual(verified.status, 0, verified)
        done = self.own.command([*CLI, "--home", str(joined), "devices"])
        self.assertEqual(done.status, 0, done)
        until(lambda: self.told() > 0, self.agent.log_text)
        # what an administrator elsewhere sees
        shown = json.loads(self.ca("show", "--json", home=joined).stdout)
        self.assertEqual([one["state"] for one in shown["gateways"]], ["revoked", "in use"])
        self.thief_is_refused(stolen, joined)

    def control(self, stolen: Path, joined: Path) -> None:
        """Before the procedure the thief's copy is believed: so the rest can fail."""
        thief = self.thief(stolen)
        self.redial()
        try:
            thief.wait_live("thieved-1")
        finally:
            thief.kill_gateway()

    def redial(self) -> None:
        """Start the agent anew: its back-off would wait ever longer, up to two minutes."""
        self.agent.kill()
        self.agent.start()

    def thief(self, stolen: Path) -> Fleet:
        """Start the copy on the address that everybody dials."""
        thief = Fleet()
        thief.home = stolen
        self.addCleanup(thief.close)
        host, port = self.own._last_address
        return thief.start_gateway(f"tcp:{port}:interface={host}")

    def procedure(self) -> None:
        """Do what docs/operations.md says under "The gateway was stolen"."""
        base, home = self.own.base, self.own.home
        shutil.copy(home / "ca" / "gateways.pem", base / "old.pem")
        leaf, every = base / "leaf.pem", Path(f"{self.bundle}.certified")
        self.ca("request", "--new-key", "--out", base / "req.pem")
        self.offline("certify", base / "req.pem", "--out", leaf)
        words = ("revoke-gateway", base / "old.pem", every, "--except", leaf)
        self.offline(*words, "--out", base / "revoked.json")
        self.ca("install", leaf)
        self.ca("install", base / "revoked.json")
        self.ca("new-admin")
        (home / "audit.key").rename(base / "old-audit.key")
        (home / "audit.pub").rename(base / "old-audit.pub")

    def thief_is_refused(self, stolen: Path, joined: Path) -> None:
        """The copy answers where everybody dials, and nobody says a word to it."""
        self.own.kill_gateway()
        thief = self.thief(stolen)
        # it knows the list from its disk
        size = len(self.agent.log_text())
        self.redial()
        until(lambda: "key is revoked" in self.agent.log_text()[size:], self.agent.log_text, 60)
        until(lambda: "key is revoked" in self.last_error(), self.agent.log_text, 60)
        self.assertEqual(thief.live(), set())
        refused = self.own.command([*CLI, "--home", str(joined), "devices"])
        self.assertEqual(refused.status, 255, refused)
        self.assertIn(b"this gateway's key is revoked", refused.stderr)
        # the true one comes back, and everybody with it
        thief.kill_gateway()
        self.own.restart_gateway()
        self.redial()
        self.own.wait_live("thieved-1")
