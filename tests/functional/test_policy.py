"""The device's own policy has the last word."""

from __future__ import annotations

import json

from tests.functional.fleet import FleetCase
from tests.functional.processes import AGENT, until


class PolicyTests(FleetCase):
    def test_handler_not_allowed(self) -> None:
        """A handler that the policy leaves out is refused with the code ``policy``."""
        agent = self.fleet.join("strict-1")
        self.addCleanup(self.fleet.remove, agent)
        agent.configure('[policy]\nhandlers = ["shell"]\n')
        agent.start()
        self.fleet.wait_live("strict-1")
        done = self.fleet.run("--json", "strict-1", "--", "true")
        self.assert_status(255, done)
        outcome = json.loads(done.stdout.splitlines()[-1])["outcome"]
        self.assertEqual(("refused", "policy"), (outcome["status"], outcome["code"]))
        self.assertIn("exec", outcome["message"])
        self.assertNotIn("exec", self.fleet.device("strict-1")["handlers"])
        shell = self.fleet.rshell("shell", "strict-1", data=b"exit 0\n")
        self.assert_status(0, shell)

    def test_bad_policy(self) -> None:
        """A bad policy denies everything, keeps the link, and is picked up when fixed."""
        agent = self.added("strict-2")
        epoch = self.fleet.device("strict-2")["epoch"]
        agent.configure('[policy]\nhandlers = "exec"\n')
        done = self.fleet.run("--json", "strict-2", "--", "true")
        self.assert_status(255, done)
        outcome = json.loads(done.stdout.splitlines()[-1])["outcome"]
        self.assertEqual(("refused", "policy"), (outcome["status"], outcome["code"]))
        self.assertEqual("live", self.fleet.device("strict-2")["state"])
        refused = self.fleet.rshell("shell", "strict-2", data=b"exit 0\n")
        self.assert_status(255, refused)
        check = self.fleet.command([*AGENT, "policy", "check", "--home", str(agent.home)])
        self.assertEqual(1, check.status)
        self.assertIn(b"handlers", check.stderr)
        agent.configure('[policy]\nhandlers = ["exec"]\n')
        until(lambda: self.fleet.run("strict-2", "--", "true").status == 0, "fixed", 20, 0.3)
        self.assertEqual(epoch, self.fleet.device("strict-2")["epoch"])

    def test_shown(self) -> None:
        """A policy that becomes bad, or good, while the agent is connected shows in `devices`."""
        agent = self.added("strict-5")
        agent.configure('[policy]\nhandlers = "exec"\n')
        self.assert_status(255, self.fleet.run("strict-5", "--", "true"))
        until(lambda: self.fleet.device("strict-5")["policy_error"], "shown as bad", 15)
        agent.configure('[policy]\nhandlers = ["exec"]\n')
        until(lambda: self.fleet.run("strict-5", "--", "true").status == 0, "fixed", 20, 0.3)
        until(lambda: not self.fleet.device("strict-5")["policy_error"], "shown as good", 15)

    def test_broken_toml(self) -> None:
        """A file that is no TOML denies everything as well, from the start."""
        agent = self.fleet.join("strict-3")
        self.addCleanup(self.fleet.remove, agent)
        agent.configure("[policy\nhandlers = [")
        agent.start()
        self.fleet.wait_live("strict-3")
        self.assertIn("agent.toml", self.fleet.device("strict-3")["policy_error"])
        self.assertIn(b"bad policy", self.fleet.rshell("devices", "strict-3").stdout)
        done = self.fleet.run("strict-3", "--", "true")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"policy", done.stderr)

    def test_unknown_keys(self) -> None:
        """Unknown keys are named by `policy check`, and change nothing."""
        agent = self.fleet.join("strict-4")
        self.addCleanup(self.fleet.remove, agent)
        agent.configure('[policy]\nhandlerz = ["exec"]\nlogins = ["self"]\n')
        done = self.fleet.command([*AGENT, "policy", "check", "--home", str(agent.home)])
        self.assert_status(0, done)
        self.assertIn(b"handlerz", done.stdout)
        self.assertIn(b"exec", done.stdout)
