"""`rshell-agent policy check`: what is said of a policy, and that it is what holds."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.main import main
from rshell_agent.policy_check import (
    BadQuestion,
    CannotCheck,
    Question,
    check_policy,
)
from tests.keeper.client import Keeper

OWN = pwd.getpwuid(os.geteuid()).pw_name


class CheckCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="policy-"))
        self.addCleanup(shutil.rmtree, self.home)

    def write(self, text: str) -> None:
        (self.home / "agent.toml").write_text(text)

    def check(self, *words: str | None, **fields: Any) -> tuple[bool, str]:
        """Return the verdict and what people read."""
        lines: list[str] = []
        question = Question(*words, **fields)
        allowed = check_policy(self.home, None, question, False, lines.append)
        return allowed, "\n".join(lines)

    def document(self, *words: str | None, **fields: Any) -> dict[str, Any]:
        lines: list[str] = []
        check_policy(self.home, None, Question(*words, **fields), True, lines.append)
        (line,) = lines
        found: dict[str, Any] = json.loads(line)
        return found


class WholeTests(CheckCase):
    def test_defaults(self) -> None:
        """Without a file the defaults are told as such, and what the policy is worth."""
        allowed, text = self.check()
        self.assertTrue(allowed)
        self.assertIn("agent.toml does not exist; no keeper runs", text)
        self.assertIn("logins: self  [not set: the default]", text)
        self.assertIn("forward: localhost:*  [not set: the default]", text)
        self.assertIn("forward_back: none", text)
        self.assertIn("max_file_size: no limit", text)
        self.assertIn("guard rail, not a boundary", text)
        self.assertNotIn("warning", text)

    def test_sources(self) -> None:
        """Each value is told with the line it comes from."""
        self.write(
            '# [policy]\n[link]\nread = 7\n\n[policy]  # ours\n  handlers=["exec"]\n'
            '"write" = [\n "/tmp",\n]\nmax_sessions = 3\n'
        )
        _, text = self.check()
        self.assertIn("handlers: exec  [agent.toml line 6]", text)
        self.assertIn("write: /tmp  [agent.toml line 7]", text)
        self.assertIn("max_sessions: 3  [agent.toml line 10]", text)
        self.assertIn("read: /  [not set: the default]", text)
        self.assertIn("warning: agent.toml: [link] read: unknown", text)
        keys = self.document()["keys"]
        self.assertEqual(keys["write"], {"value": ["/tmp"], "set": True, "line": 7})
        self.assertEqual(keys["read"], {"value": ["/"], "set": False, "line": None})

    def test_warnings(self) -> None:
        """What its owner may not have meant is named."""
        self.write(
            '[odd]\n[policy]\nhandlerz = []\nread = ["/srv"]\nwrite = ["/no/such", "/tmp"]\n'
            "max_sessions = 9999\n"
        )
        warnings = "\n".join(self.document()["warnings"])
        for words in (
            "[odd] is unknown",
            "handlerz: unknown",
            "/no/such is no folder",
            "/tmp is beneath no root of read",
            "max_sessions: 9999 is too high",
            "the handlers shell and exec are allowed",
        ):
            self.assertIn(words, warnings)

    def test_bad_policy(self) -> None:
        """A policy that cannot be used is one line that says why, and status 1."""
        for text in ("[policy", "[policy]\nread = 7\n", '[policy]\nforward = ["x"]\n'):
            self.write(text)
            error = self.assertRaises(CannotCheck, self.check)
            self.assertIn("denies everything", str(error))
            self.assertIn("agent.toml", str(error))
            self.assertNotIn("\n", str(error))
            document = self.document()
            self.assertFalse(document["allowed"])
            self.assertIn("agent.toml", document["error"])
            allowed, told = self.check("exec")
            self.assertFalse(allowed)
            self.assertIn("denies everything", told)

    def test_no_home(self) -> None:
        """A home or file that is not there is told."""
        for home, path in ((Path("/no/such"), None), (self.home, "/no/such")):
            error = self.assertRaises(
                CannotCheck, check_policy, home, path, Question(), False, self.fail
            )
            self.assertIn("/no/such", str(error))

    def test_hostile_text(self) -> None:
        """Control characters in a policy are not passed on to the terminal."""
        self.write('[policy]\nread = ["/\\u001b[2J"]\n"\\u001b[31m" = 1\n')
        _, text = self.check()
        self.assertTrue(all(line.isprintable() for line in text.split("\n")))
        self.assertNotIn("\x1b", text)


class QuestionTests(CheckCase):
    def test_handlers(self) -> None:
        """Whether a handler is allowed, and by what."""
        allowed, text = self.check("exec")
        self.assertTrue(allowed)
        self.assertIn("handlers: not set, so all built-in ones", text)
        self.assertIn(f"login {OWN}:", text)
        self.assertIn("any, within what", text)
        self.write('[policy]\nhandlers = ["files", "du"]\n')
        self.assertTrue(self.check("du")[0])
        allowed, text = self.check("exec")
        self.assertFalse(allowed)
        self.assertIn('denied   handlers = ["files", "du"] [agent.toml line 2]', text)
        allowed, text = self.check("other")
        self.assertFalse(allowed)
        self.assertIn("must be named there", text)

    def test_logins(self) -> None:
        """Whether a login is allowed, exists, and can be become."""
        self.assertIn("does not allow the login nobody", self.check("exec", login="nobody")[1])
        self.write('[policy]\nlogins = ["no-such-login", "nobody"]\n')
        allowed, text = self.check("exec")
        self.assertFalse(allowed)
        self.assertIn("no such login: no-such-login", text)
        allowed, text = self.check("exec", login="nobody")
        self.assertEqual(allowed, os.geteuid() == 0)
        self.write("[policy]\nlogins = []\n")
        self.assertFalse(self.check("exec")[0])
        self.assertTrue(self.check("facts")[0])  # no process of a login
        self.assertFalse(self.check("facts", login="root")[0])

    def test_paths(self) -> None:
        """Whether a path may be read and written, where it leads, and by which key."""
        top = os.path.realpath(tempfile.mkdtemp(prefix="place-"))
        self.addCleanup(shutil.rmtree, top)
        for name in ("r", "w", "w/no"):
            os.mkdir(f"{top}/{name}")
        os.symlink("../r", f"{top}/w/out")
        self.write(
            f'[policy]\nread = ["{top}"]\nwrite = ["{top}/w"]\ndeny_write = ["{top}/w/no"]\n'
        )

        def steps(path: str) -> dict[str, tuple[bool, str]]:
            found = self.document("files", path)["question"]["steps"]
            return {step["what"]: (step["allowed"], step["why"]) for step in found}

        found = steps(f"{top}/w/new")
        self.assertTrue(found["read"][0] and found["write"][0])
        self.assertIn("No such file", found["system"][1])
        found = steps(f"{top}/w/out")
        self.assertEqual((found["read"][0], found["write"][0]), (True, False))
        self.assertIn(f"{top}/r: a folder", found["system"][1])
        self.assertIn("[agent.toml line 3]", found["write"][1])
        found = steps(f"{top}/w/no/x")
        self.assertEqual((found["read"][0], found["write"][0]), (True, False))
        self.assertIn("deny_write", found["write"][1])
        found = steps("/etc/passwd")
        self.assertEqual((found["read"][0], found["write"][0]), (False, False))
        self.assertNotIn("system", found)
        self.assertFalse(self.check("tail", "/etc/passwd")[0])
        self.assertTrue(self.check("sftp", f"{top}/r/x")[0])
        for path in ("", "/a\0b", "/" + "x" * 300):
            self.assertFalse(self.check("files", path)[0])

    def test_paths_as_login(self) -> None:
        """A path is walked as the login that would."""
        if os.geteuid():
            self.skipTest("needs root")
        self.write('[policy]\nlogins = ["nobody"]\n')
        os.mkdir(self.home / "closed", 0o700)
        allowed, text = self.check("files", str(self.home / "closed" / "x"))
        self.assertTrue(allowed)  # the policy has nothing against it
        self.assertIn("nobody finds at", text)
        self.assertIn("Permission denied", text)

    def test_targets(self) -> None:
        """Whether a target may be forwarded to, or listened at."""
        self.write('[policy]\nforward = ["localhost:22", "*.example:80"]\n')
        self.assertTrue(self.check("forward", "127.0.0.1:22")[0])
        allowed, text = self.check("forward", "db.example:80")
        self.assertTrue(allowed)
        self.assertIn("checked at each connection", text)
        for target in ("localhost:23", "169.254.169.254:80", "unix:/run/x"):
            self.assertFalse(self.check("forward", target)[0])
        allowed, text = self.check("forward", "localhost:8080", back=True)
        self.assertFalse(allowed)
        self.assertIn("forward_back: nothing", text)

    def test_senseless(self) -> None:
        """What makes no sense is told, not answered."""
        for words, back in (
            (("exec", "/x"), False),
            (("exec",), True),
            (("forward",), True),
            (("forward", "nonsense"), False),
        ):
            self.assertRaises(BadQuestion, self.check, *words, back=back)


class BoundaryTests(CheckCase):
    def test_separate(self) -> None:
        """A root keeper with an agent of its own, other logins, and root's own file: a boundary."""
        if os.geteuid():
            self.skipTest("needs root")
        os.chown(self.home, pwd.getpwnam("nobody").pw_uid, -1)
        policy = Path(tempfile.mkdtemp(prefix="etc-")) / "agent.toml"
        self.addCleanup(shutil.rmtree, policy.parent)

        def found(text: str) -> dict[str, Any]:
            policy.write_text(text)
            lines: list[str] = []
            check_policy(self.home, str(policy), Question(), True, lines.append)
            document: dict[str, Any] = json.loads(lines[0])
            return document

        self.assertTrue(found('[policy]\nlogins = ["daemon"]\n')["boundary"])
        document = found('[policy]\nlogins = ["daemon", "root"]\n')
        self.assertFalse(document["boundary"])
        holds = {c["what"]: c["holds"] for c in document["conditions"]}
        self.assertEqual(sorted(holds.values()), [False, True, True, True])
        self.assertFalse(holds["logins name neither root nor the agent's user"])
        self.assertFalse(found('[policy]\nlogins = ["nobody"]\n')["boundary"])
        os.chmod(policy.parent, 0o777)
        document = found('[policy]\nlogins = ["daemon"]\n')
        self.assertFalse(document["boundary"])
        self.assertIn("can be written by others than root", document["error"])

    def test_running_keeper(self) -> None:
        """A keeper that runs is asked whether this is the policy it obeys."""
        keeper = Keeper(str(self.home))
        try:
            self.write('[policy]\nhandlers = ["exec"]\n')
            found = self.document()["keeper"]
            self.assertEqual(found["pid"], keeper.process.pid)
            self.assertEqual((found["uid"], found["same_policy"]), (os.geteuid(), True))
            self.assertIn("obeys it", self.check()[1])
            other = self.home / "other.toml"
            other.write_text("[policy]\n")
            lines: list[str] = []
            check_policy(self.home, str(other), Question(), False, lines.append)
            self.assertIn("obeys another policy", "\n".join(lines))
        finally:
            keeper.stop_and_keep()


class CommandTests(CheckCase):
    def run_main(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(["policy", "check", "--home", str(self.home), *words])
            except SystemExit as end:
                status = int(end.code or 0)
        return status, out.getvalue(), err.getvalue()

    def test_statuses(self) -> None:
        """0 is allowed, 1 is denied or unusable, 2 is a wrong question."""
        for status, words in (
            (0, []),
            (0, ["exec"]),
            (0, ["files", "/tmp/x"]),
            (0, ["--json", "files", "/tmp/x"]),
            (1, ["exec", "--as", "no-such-login"]),
            (1, ["files", "--as", "no-such-login", "/tmp/x"]),
            (1, ["forward", "--back", "localhost:80"]),
            (1, ["--policy", "/no/such"]),
            (2, ["exec", "x"]),
            (2, ["exec", "x", "y"]),
            (2, ["--nonsense"]),
        ):
            found, out, err = self.run_main(*words)
            self.assertEqual(found, status, (words, out, err))
            self.assertEqual(bool(err), status == 2 or "--policy" in words, (words, err))

    def test_nobody_reads(self) -> None:
        """Output that nobody reads any more ends it quietly, as SIGPIPE would."""
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-P", "-m", "rshell_agent", "policy", "check"]
        try:
            done = subprocess.run(
                [*command, "--home", str(self.home)],
                check=False,
                stdout=writing,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                timeout=60,
            )
        finally:
            os.close(writing)
        self.assertEqual((141, b""), (done.returncode, done.stderr))
