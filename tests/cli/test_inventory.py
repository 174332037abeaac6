"""``rshell inventory``: what Ansible and ssh are told, and what a device cannot make of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.ansible_inventory import AnsibleInventory, make_inventory
from rshell.cli.main import cli
from rshell.cli.ssh_settings import SshSettings, ssh_config
from rshell.client import Device, RshellError, SshDoor
from tests.cli.rshell_process import CliCase, listed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
DOOR = {"host": "gw.example.net", "port": 2222, "host_keys": [KEY]}
SSH = SshSettings("gw.example.net", 2222, (KEY,), Path("/p/ssh_known_hosts"))


def device(name: str, **more: Any) -> Device:
    """Return a device that is live."""
    return Device(id=f"id-{name}", name=name, **({"state": "live"} | more))


def made(*devices: Device, **options: Any) -> AnsibleInventory:
    return make_inventory(devices, SSH, **options)


class GroupTests(SynchronousTestCase):
    def groups(self, *devices: Device, **options: Any) -> dict[str, list[str]]:
        """Return the groups that have hosts, but for the one of all devices."""
        listing = made(*devices, **options).listing
        groups = {name: group["hosts"] for name, group in listing.items() if name != "_meta"}
        self.assertEqual(groups.pop("rshell_devices"), sorted(one.name for one in devices))
        return {name: hosts for name, hosts in groups.items() if hosts}

    def test_labels_and_states(self) -> None:
        """Labels and states make groups; what a group's name cannot have becomes _."""
        pump = device("pump-1", labels={"site": "berlin", "1st": "a.b/c", "Retired": ""})
        valve = device("valve-1", labels={"site": "berlin"}, state="lost")
        self.assertEqual(
            self.groups(valve, pump),
            {
                "rshell_live": ["pump-1"],
                "rshell_lost": ["valve-1"],
                "site_berlin": ["pump-1", "valve-1"],
                "_1st_a_b_c": ["pump-1"],
                "Retired_": ["pump-1"],
            },
        )

    def test_every_state(self) -> None:
        """Each state has its group, also one that no device is in."""
        listing = made().listing
        states = {"rshell_live", "rshell_suspect", "rshell_lost", "rshell_never"}
        self.assertEqual(set(listing), {"_meta", "rshell_devices"} | states)

    def test_collision(self) -> None:
        """Labels that would be one group get one each, and that is told."""
        pump = device("pump-1", labels={"site": "a-b"})
        valve = device("valve-1", labels={"site": "a_b"})
        groups = self.groups(pump, valve)
        self.assertNotIn("site_a_b", groups)
        (first, second) = sorted(name for name in groups if name.startswith("site_"))
        self.assertCountEqual([groups[first], groups[second]], [["pump-1"], ["valve-1"]])
        notes = "\n".join(made(pump, valve).notes)
        self.assertIn("site=a-b", notes)
        self.assertIn("site=a_b", notes)
        self.assertEqual(groups, self.groups(valve, pump))

    def test_reserved(self) -> None:
        """A label cannot make itself the group of a state."""
        groups = self.groups(device("pump-1", labels={"rshell": "lost"}))
        self.assertNotIn("rshell_lost", groups)
        self.assertEqual(len([name for name in groups if name.startswith("rshell_lost_")]), 1)

    def test_facts(self) -> None:
        """Facts make groups when asked, in names of their own; lists and absent ones are told."""
        pump = device("pump-1", facts={"os": "arch", "memory": {"swap": True}})
        valve = device("valve-1", facts={"os": ["a"], "memory": {"swap": 5}})
        self.assertEqual(self.groups(pump), {"rshell_live": ["pump-1"]})
        found = made(pump, valve, group_by_facts=["os", "memory.swap"])
        self.assertEqual(found.listing["fact_os_arch"], {"hosts": ["pump-1"]})
        self.assertEqual(found.listing["fact_memory_swap_true"], {"hosts": ["pump-1"]})
        self.assertEqual(found.listing["fact_memory_swap_5"], {"hosts": ["valve-1"]})
        self.assertEqual(found.notes, ("no single value for os: valve-1",))

    def test_facts_take_no_group(self) -> None:
        """A device cannot tell itself into a label's group, nor take that group's name away."""
        trusted = device("pump-1", labels={"fact": "os_x"}, facts={"os": "y"})
        hostile = device("valve-1", facts={"os": "x"})
        groups = self.groups(trusted, hostile, group_by_facts=["os"])
        self.assertEqual(groups["fact_os_x"], ["pump-1"])
        other = [name for name in groups if name.startswith("fact_os_x_")]
        self.assertEqual([groups[name] for name in other], [["valve-1"]])

    def test_left_out(self) -> None:
        """A revoked device is not there; nor is one that chose its own name, which is told."""
        found = made(device("db-1", name_provisional=True), device("old", revoked=True))
        self.assertEqual(found.listing["_meta"]["hostvars"], {})
        self.assertEqual(found.listing["rshell_live"], {"hosts": []})
        (note,) = found.notes
        self.assertIn("rshell rename db-1 db-1", note)


class VariableTests(SynchronousTestCase):
    def test_variables(self) -> None:
        """A host is reached at the gateway, as itself; a login goes in front."""
        variables = made(device("pump-1", labels={"b": "2", "a": "1"})).host("pump-1")
        self.assertEqual(
            (variables["ansible_host"], variables["ansible_port"], variables["ansible_user"]),
            ("gw.example.net", 2222, "pump-1"),
        )
        self.assertEqual(variables["rshell_labels"], {"a": "1", "b": "2"})
        self.assertEqual(variables["rshell_state"], "live")
        self.assertIs(variables["ansible_ssh_host_key_checking"], True)
        self.assertIn(
            "-oUserKnownHostsFile=/p/ssh_known_hosts", variables["ansible_ssh_common_args"]
        )
        self.assertEqual(
            made(device("pump-1"), login="root").host("pump-1")["ansible_user"], "root@pump-1"
        )
        self.assertEqual(made(device("pump-1")).host("nope"), {})

    def test_facts_are_unsafe(self) -> None:
        """Text of a device is marked so that no template is taken from it, at any depth."""
        hostile = "{{ lookup('pipe', 'id') }}\x1b[2J"
        facts = {
            "a": hostile,
            "b": [{"c": hostile, "n": 5, "t": True, "z": None}],
            "__ansible_vault": hostile,
            "__ansible_unsafe": hostile,
            "x": {"__ansible_type": "x", "{{ y }}": 1},
            "deep": {"d": {"d": {"d": {"d": {"d": hostile}}}}},
        }
        told = made(device("pump-1", facts=facts)).host("pump-1")["rshell_facts"]
        safe = {"__ansible_unsafe": "{{ lookup('pipe', 'id') }}\N{REPLACEMENT CHARACTER}[2J"}
        self.assertEqual(told["a"], safe)
        self.assertEqual(told["b"], [{"c": safe, "n": 5, "t": True, "z": None}])
        self.assertEqual(told["x"], {})
        self.assertEqual(set(told), {"a", "b", "x", "deep"})
        self.assertNotIn("lookup", json.dumps(told["deep"]))


class SshTests(SynchronousTestCase):
    def test_config(self) -> None:
        """Each device is a host, and all of them are behind the gateway's pinned key."""
        text = ssh_config(["valve-1", "pump-1"], SSH, "root")
        self.assertIn("Host pump-1\n    User root@pump-1\nHost valve-1\n", text)
        self.assertIn("Host pump-1 valve-1\n    HostName gw.example.net\n    Port 2222\n", text)
        self.assertIn("    HostKeyAlias rshell-gateway\n", text)
        self.assertNotIn("HostName", ssh_config([], SSH, None))

    def test_odd_file_names(self) -> None:
        """Spaces and percent signs in the file's name survive; what cannot is refused."""
        door = SshDoor(**DOOR)
        ssh = SshSettings.of(door, Path("/my place/100%/known"))
        self.assertIn('UserKnownHostsFile "/my place/100%%/known"', ssh_config(["a"], ssh, None))
        self.assertIn(
            '-oUserKnownHostsFile="/my place/100%%/known"', shlex.split(ssh.common_arguments())
        )
        for name in ('a"b', "a\\b", "a\nb", "${HOME}x", "{{x}}", "{%x"):
            with self.assertRaises(RshellError) as caught:
                SshSettings.of(door, Path(f"/p/{name}"))
            self.assertEqual(caught.exception.code, "bad-request", name)

    def test_odd_doors(self) -> None:
        """What a gateway tells goes into no file if it is no address and no key."""
        for changed in (
            {"host": "gw\nHost *"},
            {"host": "-oProxyCommand=x"},
            {"port": 0},
            {"host_keys": []},
            {"host_keys": [f"{KEY}\nother ssh-rsa AAAA"]},
            {"host_keys": ["@cert-authority * x"]},
        ):
            with self.assertRaises(RshellError):
                SshSettings.of(SshDoor(**(DOOR | changed)), Path("/p/x"))

    def test_keep(self) -> None:
        """The pin is written once, replaced when the key changes, and over nothing else."""
        file = Path(self.mktemp())
        ssh = SshSettings.of(SshDoor(**DOOR), file)
        ssh.keep()
        self.assertEqual(file.read_text(), f"rshell-gateway {KEY}\n")
        before = file.stat().st_ino
        ssh.keep()
        self.assertEqual(file.stat().st_ino, before)
        other = KEY.replace("OMqqnk", "AAAAAA")
        SshSettings.of(SshDoor(**(DOOR | {"host_keys": [other]})), file).keep()
        self.assertEqual(file.read_text(), f"rshell-gateway {other}\n")
        file.write_text(f"github.com {KEY}\nrshell-gateway {KEY}\n")
        folder = Path(self.mktemp())
        folder.mkdir()
        for place in (file, Path("/dev/null"), folder, Path("/proc/nope/x")):
            with self.assertRaises(RshellError) as caught:
                SshSettings.of(SshDoor(**DOOR), place).keep()
            self.assertIn("--known-hosts-file", caught.exception.hint)
        self.assertIn("github.com", file.read_text())


class CommandTests(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.gateway.answers["doors"] = {"ssh": DOOR}
        self.gateway.answers["devices"] = [
            listed("pump-2", labels={"site": "berlin"}, facts={"os": "arch"}),
            listed("pump-1", "lost"),
        ]

    async def test_ansible(self) -> None:
        """--list and nothing say the same; --host tells of one; the key is kept in the profile."""
        done = await self.rshell("inventory", "--ansible", "--list")
        self.assertEqual((done.status, done.err), (0, b""))
        listing = json.loads(done.out)
        self.assertEqual(listing["site_berlin"], {"hosts": ["pump-2"]})
        file = self.home / "admin" / "ssh_known_hosts"
        self.assertEqual(file.read_text(), f"rshell-gateway {KEY}\n")
        hostvars = listing["_meta"]["hostvars"]
        self.assertIn(str(file), hostvars["pump-1"]["ansible_ssh_common_args"])
        again = await self.rshell("inventory", "--ansible")
        self.assertEqual(again.out, done.out)
        one = await self.rshell("inventory", "--ansible", "--host", "pump-2")
        self.assertEqual(json.loads(one.out), hostvars["pump-2"])

    async def test_options(self) -> None:
        """A selector, a login, an address, another file and facts are passed on."""
        file = Path(self.mktemp()).absolute()
        done = await self.rshell(
            *("inventory", "--ansible", "site=berlin", "--as", "root", "--ssh-address", "jump:22"),
            *("--known-hosts-file", str(file), "--facts", "memory,facts.disks"),
            *("--group-by-fact", "os"),
        )
        listing = json.loads(done.out)
        variables = listing["_meta"]["hostvars"]["pump-2"]
        self.assertEqual(variables["ansible_user"], "root@pump-2")
        self.assertEqual((variables["ansible_host"], variables["ansible_port"]), ("jump", 22))
        self.assertTrue(file.exists())
        self.assertEqual(listing["fact_os_arch"], {"hosts": ["pump-2"]})
        self.assertEqual(done.err, b"rshell: no single value for os: pump-1\n")
        asked = [stream.request for stream in self.gateway.requests][-1]
        self.assertEqual(asked, {"selector": "site=berlin", "facts": ["disks", "memory", "os"]})

    async def test_ssh(self) -> None:
        """A config for ssh, and the line that pins the gateway."""
        done = await self.rshell("inventory", "--ssh-config")
        self.assertIn(b"Host pump-1\n    User pump-1\n", done.out)
        done = await self.rshell("inventory", "--known-hosts")
        self.assertEqual(done.out.decode(), f"rshell-gateway {KEY}\n")

    async def test_help(self) -> None:
        """Without saying for whom it is the help; with half of it, wrong usage."""
        done = await self.rshell("inventory")
        self.assertEqual(done.status, 0)
        self.assertIn(b"--ansible", done.out)
        done = await self.rshell("inventory", "--ansible", "a in (")
        self.assertEqual((done.status, done.out, self.gateway.requests), (2, b"", []))

    def test_wrong_usage(self) -> None:
        """Half of a question, and what neither ssh nor Ansible may be told, is refused here."""
        for words in (
            ("site=berlin",),
            ("--list",),
            ("--as", "root"),
            ("--ssh-address", "gw"),
            ("--ssh-config", "--host", "x"),
            ("--known-hosts", "--facts", "os"),
            ("--known-hosts", "pump-1"),
            ("--ansible", "--list", "--host", "x"),
            ("--ansible", "--as", "a b"),
            ("--ansible", "--as", "{{x}}"),
            ("--ansible", "--facts", "../x{"),
            ("--ansible", "--ssh-address", "-oProxyCommand=x"),
            ("--ansible", "--ssh-address", "gw:0"),
            ("--ansible", "--ssh-address", "gw:99999"),
        ):
            done = CliRunner().invoke(cli, ["inventory", *words])
            self.assertEqual(done.exit_code, 2, words)

    async def test_no_door(self) -> None:
        """A gateway without an ssh door is told, with what to do; for Ansible it is a failure."""
        self.gateway.answers["doors"] = {"ssh": None}
        done = await self.rshell("inventory", "--ansible", "--list")
        self.assertEqual((done.status, done.out), (255, b""))
        self.assertIn(b"--ssh tcp:2222", done.err)
