"""What the device allows."""

from __future__ import annotations

import json
import os
import pwd
import re
import tomllib

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.jobs.settings import RebootSettings
from rshell_agent.keeper.policy import LIMITS, LISTS, Policy, PolicyError, PolicyFile
from rshell_agent.keeper.targets import parse_rule
from rshell_agent.keeper.wire import Map, Refused

OWN = pwd.getpwuid(os.geteuid()).pw_name


class PolicyTests(SynchronousTestCase):
    def policy(self, **section: object) -> Policy:
        return Policy(section, os.geteuid(), os.geteuid())

    def test_defaults(self) -> None:
        """Without a section, built-in handlers run as the keeper's own user, others not at all."""
        policy = self.policy()
        self.assertEqual(policy.account("exec", None).name, OWN)
        self.assertEqual(policy.account("exec", "self").name, OWN)
        self.assertEqual(policy.account("exec", OWN).name, OWN)
        self.assertRaises(Refused, policy.account, "my-plug-in", None)
        self.assertRaises(Refused, policy.account, "exec", "nobody")
        self.assertEqual(policy.limits, LIMITS)

    def test_handlers(self) -> None:
        """A list of handlers is the whole truth."""
        policy = self.policy(handlers=["my-plug-in"])
        policy.account("my-plug-in", None)
        error = self.assertRaises(Refused, policy.account, "shell", None)
        self.assertEqual(error.code, "policy")

    def test_logins(self) -> None:
        """The first login is the default, and the keeper's own user is not meant unless named."""
        policy = self.policy(logins=["no-such-login", "daemon"])
        error = self.assertRaises(Refused, policy.account, "exec", None)
        self.assertIn(error.code, ("not-found", "policy"))
        self.assertIn("no-such-login", str(error))
        for login in ("self", OWN):
            error = self.assertRaises(Refused, policy.account, "exec", login)
            self.assertEqual(error.code, "policy")
        self.assertRaises(Refused, self.policy(logins=[]).account, "exec", None)

    def test_wrong_types(self) -> None:
        """Values of a wrong type or form make a bad policy."""
        bad: list[Map] = [
            {"handlers": "shell"},
            {"handlers": ["she ll"]},
            {"handlers": [1]},
            {"logins": [""]},
            {"logins": ["x" * 65]},
            {"handlers": ["x"] * 65},
            {"read": "/"},
            {"read": ["etc"]},
            {"write": ["~root"]},
            {"write": [""]},
            {"deny_read": ["../x"]},
            {"deny_write": [7]},
            {"read": ["/a\0b"]},
            {"read": ["/" + "x" * 1024]},
            {"read": ["/"] * 65},
            {"forward": ["localhost"]},
            {"forward": ["localhost:0"]},
            {"forward": ["10.0.0.0/99:80"]},
            {"forward_back": ["*"]},
            {"setid": 1},
            {"setid": "true"},
            {"max_file_size": -1},
            {"max_file_size": "1M"},
            {"max_file_size": True},
            {"max_sessions": "3"},
            {"max_sessions": True},
            {"exec_limit_seconds": -1},
        ]
        for section in bad:
            with self.assertRaises(PolicyError):
                Policy(section, 0, 0)

    def test_limits(self) -> None:
        """Limits can be lowered; higher ones are named and do not hold."""
        policy = self.policy(max_sessions=3, detached_max=99)
        self.assertEqual((policy.limits["max_sessions"], policy.limits["detached_max"]), (3, 8))
        self.assertIn("detached_max", policy.warnings[0])

    def test_places(self) -> None:
        """What workers may touch: everything their login may, unless the file names less (K45)."""
        rules = self.policy().rules()
        self.assertEqual((rules["read"], rules["write"]), (["/"], ["/"]))
        self.assertEqual((rules["deny_read"], rules["deny_write"]), ([], []))
        self.assertEqual((rules["max_file_size"], rules["setid"]), (0, False))
        rules = self.policy(
            read=["/srv", "~"], write=[], deny_read=["~/.ssh"], max_file_size=9, setid=True
        ).rules()
        self.assertEqual((rules["read"], rules["write"]), (["/srv", "~"], []))
        self.assertEqual(rules["deny_read"], ["~/.ssh"])
        self.assertEqual((rules["max_file_size"], rules["setid"]), (9, True))

    def test_targets(self) -> None:
        """Only the device itself may be forwarded to, and it listens for nobody, unless named."""
        report = self.policy().report()
        self.assertEqual((report["forward"], report["forward_back"]), (["localhost:*"], []))
        rules = ["10.0.0.0/8:443", "*.example:80", "[::1]:22", "unix:/run/x.sock", "db:1-9"]
        report = self.policy(forward=rules, forward_back=["localhost:8080"]).report()
        self.assertEqual(report["forward"], rules)
        self.assertEqual(report["forward_back"], ["localhost:8080"])

    def test_digest(self) -> None:
        """Each change of what is allowed changes the digest."""
        changes: list[Map] = [
            {},
            {"read": []},
            {"write": []},
            {"deny_read": ["/x"]},
            {"deny_write": ["/x"]},
            {"forward": []},
            {"forward_back": ["*:80"]},
            {"setid": True},
            {"max_file_size": 1},
            {"max_sessions": 1},
        ]
        digests = {self.policy(**change).report()["digest"] for change in changes}
        self.assertEqual(len(digests), len(changes))

    def test_unknown_key(self) -> None:
        """An unknown key is named, and not fatal (K8)."""
        self.assertEqual(self.policy(handler=["x"]).warnings, ["[policy] handler: unknown"])

    def test_boundary(self) -> None:
        """A root keeper for another user's agent refuses self, and warns of root (K9)."""
        policy = Policy({}, 0, 65534)
        self.assertRaises(Refused, policy.account, "exec", None)
        self.assertRaises(Refused, policy.account, "exec", "root")
        policy = Policy({"logins": ["root"]}, 0, 65534)
        self.assertIn("guard rail", policy.warnings[0])


class DocumentTests(SynchronousTestCase):
    """docs/policy.md says what is so."""

    def setUp(self) -> None:
        path = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "policy.md")
        with open(path, encoding="utf-8") as file:
            self.text = file.read()

    def test_examples(self) -> None:
        """Each example is a good policy without a warning."""
        blocks = re.findall(r"```toml\n(.*?)```", self.text, re.DOTALL)
        self.assertGreater(len(blocks), 1)
        for block in blocks:
            policy = Policy(tomllib.loads(block)["policy"], os.geteuid(), os.geteuid())
            self.assertEqual(policy.warnings, [])

    def test_keys(self) -> None:
        """The table holds every key, with its default."""
        rows = self.rows(self.text.partition("## `[reboot]`")[0])
        expected = {**LISTS, **LIMITS, "max_file_size": 0, "setid": False}
        self.assertEqual({key: json.loads(text) for key, text in rows}, expected)

    def rows(self, text: str) -> list[tuple[str, str]]:
        return re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)

    def test_reboot(self) -> None:
        """So does the table of [reboot], and these are the defaults."""
        rows = dict(self.rows(self.text.partition("## `[reboot]`")[2]))
        rows["boot_id_file"] = json.dumps(rows["boot_id_file"])
        section = {key: json.loads(text) for key, text in rows.items()}
        self.assertEqual(vars(RebootSettings(section)), vars(RebootSettings()))
        changed = {"command": ["a"], "poweroff_command": ["b"], "restart_agent_command": ["c"]}
        numbers = {"min_interval_seconds": 1, "max_per_hour": 1, "patience_seconds": 1}
        self.assertEqual(set(rows), {*changed, *numbers, "boot_id_file"})
        other = vars(RebootSettings({**changed, **numbers, "boot_id_file": "/x"}))
        self.assertEqual([], [k for k, v in vars(RebootSettings()).items() if other[k] == v])

    def test_targets(self) -> None:
        """Each target shown is one."""
        table = self.text.partition("## Targets")[2].partition("\n\nLink-local")[0]
        rows = re.findall(r"^\| (`.*`) \|", table, re.MULTILINE)
        targets = [target for row in rows for target in re.findall(r"`([^`]+)`", row)]
        self.assertGreater(len(targets), 6)
        for target in targets:
            parse_rule(target)


class PolicyFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.mkdir(self.home, 0o700)
        self.path = os.path.join(self.home, "agent.toml")

    def write(self, data: bytes) -> None:
        with open(self.path, "wb") as file:
            file.write(data)

    def test_missing(self) -> None:
        """No file means the defaults."""
        self.assertIsNone(PolicyFile(self.home, None).current().error)

    def test_bad(self) -> None:
        """What cannot be read denies everything and tells why (K8)."""
        for text in (b"[policy", b"policy = 3", b"\xff", b"[policy]\nhandlers=3", b"#" * (1 << 21)):
            self.write(text)
            policy = PolicyFile(self.home, None).current()
            self.assertIn(self.path, policy.error or "")
            self.assertRaises(Refused, policy.account, "exec", None)
            self.assertEqual(policy.report()["handlers"], [])
            self.assertEqual(policy.report()["forward"], [])
            self.assertEqual((policy.rules()["read"], policy.rules()["write"]), ([], []))

    def test_changes(self) -> None:
        """A changed file counts at once, and changes the digest."""
        file = PolicyFile(self.home, None)
        first = file.current().report()["digest"]
        self.write(b'[policy]\nhandlers = ["exec"]\n[link]\nmode = "connected"')
        self.assertEqual(file.current().handlers, ["exec"])
        self.assertNotEqual(file.current().report()["digest"], first)
        os.unlink(self.path)
        self.assertEqual(file.current().report()["digest"], first)

    def test_place(self) -> None:
        """A root keeper refuses a policy in a folder that others may write (K9)."""
        if os.geteuid():
            self.skipTest("needs root")
        os.chmod(self.home, 0o777)
        self.assertIn("others than root", PolicyFile(self.home, None).current().error or "")
        os.chmod(self.home, 0o1777)
        self.assertIsNone(PolicyFile(self.home, None).current().error)

    def test_home_of_another_user(self) -> None:
        """With a home of the agent's own user, policy must come from elsewhere (K9, K4)."""
        if os.geteuid():
            self.skipTest("needs root")
        os.chown(self.home, 65534, -1)
        file = PolicyFile(self.home, None)
        self.assertIn("others than root", file.current().error or "")
        self.assertIn(65534, file.served_uids)
        elsewhere = os.path.abspath(self.mktemp())
        with open(elsewhere, "w", encoding="ascii") as text:
            text.write('[policy]\nlogins = ["daemon"]\n')
        os.chmod(elsewhere, 0o644)
        policy = PolicyFile(self.home, elsewhere).current()
        self.assertIsNone(policy.error)
        self.assertEqual(policy.account("exec", None).name, "daemon")

    def test_agent_user(self) -> None:
        """The user named by the file is served; a name without a user makes the policy bad (K4)."""
        if os.geteuid():
            self.skipTest("needs root")
        self.write(b'[keeper]\nagent_user = "daemon"\n[policy]\nlogins = ["nobody"]')
        file = PolicyFile(self.home, None)
        self.assertIsNone(file.current().error)
        self.assertIn(pwd.getpwnam("daemon").pw_uid, file.served_uids)
        self.assertRaises(Refused, file.current().account, "exec", "self")
        self.write(b'[keeper]\nagent_user = "no-such-user"')
        self.assertIn("no-such-user", file.current().error or "")
