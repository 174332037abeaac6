"""Ansible, as it is: the play book of examples/ansible on devices, through the ssh door."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import sys
import time
from pathlib import Path

from rshell.cli.ansible_inventory import make_inventory
from rshell.cli.ssh_settings import SshSettings
from rshell.client import Device
from tests.functional.processes import CLI, REQUIRE_ALL, Finished
from tests.functional.ssh_door import SshCase

EXAMPLE = Path(__file__).parents[2] / "examples" / "ansible"
#: Beside the interpreter: where pip puts it.
ANSIBLE = Path(sys.executable).parent


class AnsibleCase(SshCase):
    def setUp(self) -> None:
        super().setUp()
        if not (ANSIBLE / "ansible-playbook").exists():
            if REQUIRE_ALL:
                self.fail("ansible-core is not installed")
            self.skipTest("ansible-core is not installed")
        # Where modules land on our devices: in the home of who runs the tests.
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        for place in (home / ".ansible", home / ".ansible" / "tmp"):
            if not place.exists():
                self.addCleanup(self.remove_empty, place)

    @staticmethod
    def remove_empty(place: Path) -> None:
        try:
            place.rmdir()
        except OSError:
            pass  # somebody else's by now

    def ansible(self, folder: Path, program: str, *words: str, **environ: str) -> Finished:
        """Run a program of Ansible's in a folder, with a home that ends with the test."""
        home = folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        others = [f"--unset={name}" for name in os.environ if name.startswith("ANSIBLE_")]
        return self.fleet.command(
            ["env", "-C", str(folder), *others, str(ANSIBLE / program), *words],
            seconds=500,
            environ={
                "HOME": str(home),
                "PATH": f"{folder / 'bin'}:{ANSIBLE}:{os.environ['PATH']}",
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",  # Ansible starts in no other
                "SSH_AUTH_SOCK": "",
                "ANSIBLE_TIMEOUT": "100",  # to log in, on a machine with much else to do
                # The device's Python is the one that runs us; looking for one is not the point.
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                **environ,
            },
        )


class PlaybookTests(AnsibleCase):
    def example(self) -> Path:
        """Return a copy of the example, and have `rshell` on its path."""
        folder = self.fleet.base / f"ansible-{time.monotonic_ns()}"
        shutil.copytree(EXAMPLE, folder)
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.addCleanup(self.end_masters, folder)
        (folder / "bin").mkdir()
        command = folder / "bin" / "rshell"
        command.write_text(f'#!/bin/sh\nexec {shlex.join(CLI)} "$@"\n')
        command.chmod(0o755)
        return folder

    def end_masters(self, folder: Path) -> None:
        """End the connections that ssh keeps for the next command."""
        for socket in folder.glob("home/.ansible/cp/*"):
            self.fleet.command(["ssh", "-F", "/dev/null", "-S", str(socket), "-O", "exit", "x"])

    def play(self, folder: Path, out: str, *words: str, **environ: str) -> Finished:
        return self.ansible(
            folder,
            "ansible-playbook",
            "playbook.yml",
            "-e",
            f"directory={folder / out}",
            *words,
            RSHELL_HOME=str(self.fleet.home),
            RSHELL_SELECT="site=kiln",
            ANSIBLE_PRIVATE_KEY_FILE=str(self.fleet.base / "id"),
            **environ,
        )

    def test_playbook(self) -> None:
        """The play book does its work on devices that are there, and tells those that are not."""
        self.added("kiln-1", "site=kiln")
        self.added("kiln-2", "site=kiln")
        away = self.fleet.join("kiln-3", "site=kiln")
        self.addCleanup(self.fleet.remove, away)
        folder = self.example()
        done = self.play(folder, "out")
        self.assertEqual(done.status, 4, done)  # some host was unreachable
        self.assertIn(b"kiln-3 is offline: it has never connected", done.stdout + done.stderr)
        for name in ("kiln-1", "kiln-2"):
            self.assertIn(f"name = {name}\n", (folder / "out" / f"{name}.conf").read_text())
            copied = (folder / "out" / f"{name}.txt").read_bytes()
            self.assertEqual(copied, (EXAMPLE / "files" / "notes.txt").read_bytes())
        self.assertFalse((folder / "out" / "kiln-3.conf").exists())
        done = self.fleet.rshell("audit", "--json", "--device", "kiln-1", "--handler", "exec")
        addresses = [row["address"] for row in json.loads(done.stdout)]
        self.assertGreater(len(addresses), 8)
        # ControlPersist: one connection for all of them.
        self.assertEqual(len(set(addresses)), 1, addresses)

        # Again, with modules as files, through standard input instead of sftp, on one device.
        words = ("--limit", "rshell_live:&site_kiln:!kiln-2")
        done = self.play(
            folder,
            "again",
            *words,
            ANSIBLE_PIPELINING="0",
            ANSIBLE_SSH_TRANSFER_METHOD="piped",
            # Of no effect: the pinned key is looked at all the same.
            ANSIBLE_HOST_KEY_CHECKING="False",
        )
        self.assertEqual(done.status, 0, done)
        self.assertTrue((folder / "again" / "kiln-1.conf").exists())
        self.assertFalse((folder / "again" / "kiln-2.conf").exists())

    def test_host_key(self) -> None:
        """A gateway with another host key than the pinned one is not talked to."""
        self.added("kiln-4", "site=kiln")
        folder = self.example()
        other = self.fleet.new_key(f"other-{time.monotonic_ns()}")
        public = " ".join(Path(f"{other}.pub").read_text().split()[:2])
        pinned = folder / "pinned"
        pinned.write_text(f"rshell-gateway {public}\n")
        listing = self.fleet.rshell("inventory", "--ansible", "site=kiln").stdout.decode()
        kept = str(self.fleet.home / "admin" / "ssh_known_hosts")
        (folder / "listing.json").write_text(listing.replace(kept, str(pinned)))
        script = folder / "inventory.sh"
        script.write_text(f"#!/bin/sh\nexec cat {folder / 'listing.json'}\n")
        done = self.play(folder, "out", ANSIBLE_HOST_KEY_CHECKING="False")
        self.assertEqual(done.status, 4, done)
        self.assertIn(b"Host key verification failed", done.stdout + done.stderr)


class SshConfigTests(SshCase):
    def test_host_for_every_device(self) -> None:
        """With what --ssh-config prints, ssh needs a device's name only, and the key is pinned."""
        printed = self.fleet.rshell("inventory", "--ssh-config", "--known-hosts-file", "pin file")
        self.assert_status(0, printed)
        config = self.fleet.base / "rshell.conf"
        config.write_bytes(printed.stdout)
        ssh = [
            "ssh",
            "-F",
            str(config),
            "-oBatchMode=yes",
            "-oControlPath=none",
            "-oLogLevel=ERROR",
        ]
        key = ["-oIdentitiesOnly=yes", "-i", str(self.fleet.base / "id")]
        done = self.fleet.command([*ssh, *key, "pump-2", "echo $RSHELL_SESSION"])
        self.assert_status(0, done)
        self.assertRegex(done.stdout, rb"^[0-9a-f]{32}\n$")
        (self.fleet.base / "pin file").write_text("rshell-gateway ssh-ed25519 AAAA\n")
        done = self.fleet.command([*ssh, *key, "pump-2", "true"])
        self.assertEqual(done.status, 255)
        self.assertIn(b"verification failed", done.stderr)


class FactTests(AnsibleCase):
    def test_no_template_is_taken(self) -> None:
        """What a device tells of itself is text to Ansible, and never evaluated on its machine."""
        folder = self.fleet.base / f"facts-{time.monotonic_ns()}"
        folder.mkdir()
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        hostile = f"{{{{ lookup('ansible.builtin.pipe', 'touch {folder}/done') }}}}"
        facts = {"os": hostile, "disks": [{"name": hostile}]}
        device = Device(id="i", name="kiln-9", state="live", facts=facts)
        ssh = SshSettings("127.0.0.1", 1, ("ssh-ed25519 AAAA",), folder / "known")
        listing = json.dumps(make_inventory([device], ssh, group_by_facts=["os"]).listing)
        (folder / "listing.json").write_text(listing)
        script = folder / "inventory.sh"
        script.write_text(f"#!/bin/sh\nexec cat {folder / 'listing.json'}\n")
        script.chmod(0o755)
        words = ("-i", str(script), "kiln-9", "-m", "debug", "-a", "var=rshell_facts")
        done = self.ansible(folder, "ansible", *words)
        self.assertEqual(done.status, 0, done)
        self.assertEqual(done.stdout.count(b"lookup("), 2, done)
        self.assertFalse((folder / "done").exists())
