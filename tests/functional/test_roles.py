"""Roles, by the documented commands: one handler on one site as one login, and nothing else."""

from __future__ import annotations

import json
import os
import pwd
import time

from tests.functional.fleet import FleetCase
from tests.functional.processes import CLI, Finished, Program, until

LOGIN = pwd.getpwuid(os.getuid()).pw_name
LIMITED = ("--select", "site=berlin", "--allow", "exec", "--as", LOGIN)


class RoleCase(FleetCase):
    def setUp(self) -> None:
        """An operator with a role of their own, on the shared fleet."""
        self.role = f"r-{self.id().rpartition('.')[2].replace('_', '-')}"
        self.name = f"op-{self.role}"
        self.home = str(self.fleet.base / self.name)
        self.admin("roles", "set", self.role, *LIMITED)
        string = self.fleet.invite("operator", self.name, "--role", self.role)
        joined = self.fleet.command([*CLI, "--home", self.home, "join", "-"], string)
        self.assert_status(0, joined)
        self.addCleanup(self._remove)

    def _remove(self) -> None:
        self.fleet.rshell("revoke", "operator", self.name)
        self.fleet.rshell("roles", "remove", self.role, "--force")

    def admin(self, *words: str) -> Finished:
        """Run a command as the administrator, which must succeed."""
        done = self.fleet.rshell(*words)
        self.assert_status(0, done)
        return done

    def start(self, *words: str) -> Program:
        """Start a command as the operator."""
        return self.fleet.start([*CLI, "--home", self.home, *words])

    def ours(self, *words: str) -> Finished:
        """Run a command as the operator."""
        return self.start(*words).finish()


class LimitedTests(RoleCase):
    def test_granted(self) -> None:
        """What is granted works: the command, as the login, on the devices of the selector."""
        done = self.ours("run", "site=berlin", "--as", LOGIN, "--json", "--", "true")
        self.assert_status(0, done)
        rows = json.loads(self.ours("devices", "--json").stdout)
        names = {row["name"] for row in rows}
        self.assertLessEqual({"pump-1", "valve-1"}, names)
        self.assertNotIn("pump-2", names)
        audit = json.loads(self.admin("audit", "--json", "--operator", self.name).stdout)
        rules = {row["rule"] for row in audit if row["handler"] == "exec" and not row["refers"]}
        self.assertEqual({f"{self.role}/1"}, rules)

    def test_everything_else(self) -> None:
        """Everything else is refused: with ``policy``, or as what does not exist."""
        file = self.fleet.base / f"{self.role}.txt"
        file.write_text("x")
        cases = {
            ("run", "pump-1", "--", "true"): "policy",
            ("run", "pump-1", "--as", "nobody", "--", "true"): "policy",
            ("run", "pump-2", "--as", LOGIN, "--", "true"): "not-found",
            ("run", "pump-99", "--as", LOGIN, "--", "true"): "not-found",
            ("shell", "pump-1", "--as", LOGIN): "policy",
            ("ls", "pump-1:/"): "policy",
            ("cp", str(file), "pump-1:/tmp/"): "policy",
            ("tail", "pump-1:/etc/hostname"): "policy",
            ("reboot", "pump-1"): "policy",
            ("forward", "pump-1", "0:localhost:22"): "policy",
            ("call", "pump-1", "shell"): "policy",
            ("facts", "pump-2"): "not-found",
            ("roles", "assign", self.name, "admin"): "policy",
            ("audit", "--operator", "admin"): "policy",
        }
        # A few at a time: each is a process of its own.
        waiting, wrong = list(cases.items()), []
        while waiting:
            some, waiting = waiting[:5], waiting[5:]
            started = [(words, code, self.start("--json", *words)) for words, code in some]
            for words, code, program in started:
                done = program.finish()
                told = f'"code":"{code}"'.encode() in done.stdout or b" grants no " in done.stderr
                if not done.status or not told:
                    wrong.append((words, code, done.status, done.stdout, done.stderr))
        self.assertEqual([], wrong)

    def test_check(self) -> None:
        """A check explains, and its status says which it is."""
        yes = self.ours("roles", "check", self.name, "pump-1", "exec", "--as", LOGIN)
        self.assertEqual((0, f"yes: role {self.role}/1"), (yes.status, _first(yes)))
        no = self.ours("roles", "check", self.name, "pump-1", "shell")
        self.assertEqual(
            (1, f"no: role {self.role} grants no shell on pump-1"), (no.status, _first(no))
        )
        self.assertIn(b"it does not allow shell", no.stdout)


class ChangingTests(RoleCase):
    def test_lost_while_it_runs(self) -> None:
        """A command ends within a second when its role is taken away, here and on the device."""
        script = "echo $$; exec sleep 300"
        running = self.start("run", "pump-1", "--as", LOGIN, "--", "sh", "-c", script)
        assert running.process.stdout is not None
        pid = int(running.process.stdout.readline())
        self.admin("roles", "unassign", self.name, self.role)
        began = time.monotonic()
        done = running.finish()
        self.assertLess(time.monotonic() - began, 5)  # on any machine; 0.1 s on a quiet one
        self.assertEqual(255, done.status)
        self.assertIn(b"no longer granted", done.stderr)
        until(lambda: not os.path.exists(f"/proc/{pid}"), "gone on the device", 15)
        self.assert_status(0, self.ours("devices"))
        self.admin("roles", "assign", self.name, self.role)
        self.assert_status(0, self.ours("run", "pump-1", "--as", LOGIN, "--", "true"))

    def test_removed(self) -> None:
        """A role that is in use is removed by force only."""
        refused = self.fleet.rshell("roles", "remove", self.role)
        self.assert_status(255, refused)
        self.assertIn(b"is in use", refused.stderr)
        self.assert_one_line(refused.stderr)
        removed = self.admin("roles", "remove", self.role, "--force")
        self.assertIn(f"taken from {self.name}".encode(), removed.stdout)
        rows = json.loads(self.admin("operators", "--json").stdout)
        self.assertEqual([], next(row["roles"] for row in rows if row["name"] == self.name))


def _first(done: Finished) -> str:
    return done.stdout.decode().splitlines()[0]
