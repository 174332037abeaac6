"""Who belongs: invitations, joining, revocation, and the audit of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import AGENT, CLI, Finished, Program, end, environment, state, until


class PastingTests(FleetCase):
    def test_one_line_is_enough(self) -> None:
        """A join string that is pasted needs Enter, and no end of file, for either command."""
        for program in (CLI, AGENT):
            words = [*program, "join", "-", "--home", self.mktemp()]
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(Path(self.mktemp())),
            )
            self.addCleanup(end, process)
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(b"rsh1.nonsense\n")
            process.stdin.flush()
            self.assertNotEqual(process.wait(30), 0)
            self.assertIn(b"incomplete or damaged", process.stderr.read())
            process.stdin.close()
            process.stderr.close()


class JoinCase(FleetCase):
    def join(self, string: bytes, home: str, *options: str) -> Finished:
        """Run ``rshell-agent join -``."""
        command = [*AGENT, "join", "-", "--home", str(self.fleet.base / home), *options]
        return self.fleet.command(command, string)

    def assert_not_joined(self, done: Finished, home: str) -> None:
        self.assert_status(1, done)
        self.assertEqual(b"", done.stdout)
        self.assert_one_line(done.stderr)
        self.assertTrue(done.stderr.startswith(b"rshell-agent: "), done.stderr)
        self.assertFalse((self.fleet.base / home / "identity" / "current").exists())


class DeviceTests(JoinCase):
    def test_invitation(self) -> None:
        """invite prints the join string and nothing else."""
        done = self.fleet.rshell("invite", "device", "--name", "fresh-1", "--label", "a=b")
        self.assert_status(0, done)
        self.assertEqual(b"", done.stderr)
        host, port = self.fleet.address
        self.assertRegex(done.stdout.decode(), rf"\Arsh1\.{host}:{port}(\.[A-Za-z0-9_-]+){{3}}\n\Z")
        answer = self.fleet.rshell("invite", "device", "--name", "fresh-1", "--json")
        self.assertTrue(json.loads(answer.stdout)["join"].startswith("rsh1."))

    def test_private_files(self) -> None:
        """What a join leaves is readable by its owner only."""
        agent = self.fleet.agents["pump-1"]
        for place in (agent.home, agent.home / "identity", self.fleet.home / "admin"):
            self.assertEqual(0o700, stat.S_IMODE(place.stat().st_mode), place)
        keys = [*self.fleet.base.glob("*/**/*.key"), *self.fleet.base.glob("*/**/*key*.pem")]
        self.assertTrue(keys)
        for path in keys:
            self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode), path)

    def test_spent(self) -> None:
        """A join string holds for one use."""
        string = self.fleet.invite("device", "--name", "spent-1")
        self.assert_status(0, self.join(string, "spent-1"))
        self.assertTrue((self.fleet.base / "spent-1" / "identity" / "current").exists())
        done = self.join(string, "spent-2")
        self.assert_not_joined(done, "spent-2")
        self.assertIn(b"auth", done.stderr)

    def test_several_uses(self) -> None:
        """--uses 2 holds for two devices, which propose their names, and no third."""
        words = ("--uses", "2", "--auto-accept", "--label", "batch=7")
        string = self.fleet.invite("device", *words)
        for number in (1, 2):
            self.assert_status(0, self.join(string, f"batch-{number}", "--name", f"batch-{number}"))
        self.assert_not_joined(self.join(string, "batch-3", "--name", "batch-3"), "batch-3")
        names = sorted(row["name"] for row in self.fleet.devices("batch=7"))
        self.assertEqual(["batch-1", "batch-2"], names)

    def test_expired(self) -> None:
        """A join string that has expired is refused."""
        string = self.fleet.invite("device", "--name", "late-1", "--ttl", "1s")
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 1.1, "a second passes", 5)
        self.assert_not_joined(self.join(string, "late-1"), "late-1")

    def test_wrong_kind(self) -> None:
        """An operator's join string makes no device, and a device's no operator."""
        operator = self.fleet.invite("operator", "kind-1", "--role", "admin")
        self.assert_not_joined(self.join(operator, "kind-1"), "kind-1")
        device = self.fleet.invite("device", "--name", "kind-2")
        done = self.fleet.command(
            [*CLI, "--home", str(self.fleet.base / "kind-2"), "join", "-"], device
        )
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)

    def test_garbage(self) -> None:
        """What is no join string is refused before anything is dialled."""
        good = self.fleet.invite("device", "--name", "fresh-2").decode().strip()
        for text in ("", "\n", "hello\n", "rsh1.", good[:-1], good + "A", "rsh9" + good[4:]):
            self.assert_not_joined(self.join(text.encode(), "garbage"), "garbage")
        self.assert_not_joined(self.join(b"\xff\xfe\x00" * 50 + b"\n", "garbage"), "garbage")

    def test_wrong_port(self) -> None:
        """A gateway that is not there gives one line that says so."""
        good = self.fleet.invite("device", "--name", "fresh-3").decode()
        port = self.fleet.address[1]
        done = self.join(good.replace(f":{port}.", ":1.").encode(), "wrong-port")
        self.assert_not_joined(done, "wrong-port")
        self.assertIn(b"refused", done.stderr)

    def test_wrong_pin(self) -> None:
        """A gateway of another fleet is not told the secret."""
        good = self.fleet.invite("device", "--name", "fresh-4").decode().strip()
        head, pin, rest = good.rsplit(".", 3)[0], good.rsplit(".", 3)[1], good.rsplit(".", 2)[1:]
        forged = ".".join([head, ("B" if pin[0] == "A" else "A") + pin[1:], *rest])
        self.assert_not_joined(self.join(forged.encode(), "wrong-pin"), "wrong-pin")
        self.assert_status(0, self.join(good.encode(), "right-pin"))

    def test_again(self) -> None:
        """A home that has joined joins again with --force only."""
        string = self.fleet.invite("device", "--name", "again-1")
        self.assert_status(0, self.join(string, "again-1"))
        before = self.fleet.device("again-1")["id"]
        second = self.fleet.invite("device", "--name", "again-2")
        done = self.join(second, "again-1")
        self.assert_status(1, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"--force", done.stderr)
        self.assert_status(0, self.join(second, "again-1", "--force"))
        self.assertNotEqual(before, self.fleet.device("again-2")["id"])

    def test_taken_name(self) -> None:
        """A name belongs to one device: the second join under it is refused or invited not."""
        done = self.fleet.rshell("invite", "device", "--name", "pump-1")
        if done.status == 0:
            done = self.join(done.stdout, "taken")
        self.assertNotEqual(0, done.status)
        self.assert_one_line(done.stderr)
        self.assertIn("pump-1", self.fleet.live())


class OperatorTests(FleetCase):
    def operator(self, fleet: Fleet, name: str) -> Path:
        """Invite and join an operator; return the profile."""
        profile = fleet.base / f"profile-{name}"
        string = fleet.invite("operator", name, "--role", "admin")
        done = fleet.command([*CLI, "--home", str(profile), "join", "-"], string)
        self.assert_status(0, done)
        self.assertEqual(0o700, stat.S_IMODE(profile.stat().st_mode))
        return profile

    def as_operator(self, fleet: Fleet, profile: Path, *arguments: str) -> Finished:
        return fleet.command([*CLI, "--home", str(profile), *arguments])

    def test_profile(self) -> None:
        """An operator who joined works from the profile, under their own name."""
        profile = self.operator(self.fleet, "ann")
        me = self.as_operator(self.fleet, profile, "whoami", "--json")
        self.assertEqual({"name": "ann", "roles": ["admin"], "admin": True}, json.loads(me.stdout))
        done = self.as_operator(self.fleet, profile, "run", "pump-1", "--", "echo from ann")
        self.assertEqual((0, b"from ann\n"), (done.status, done.stdout))
        rows = json.loads(self.fleet.rshell("audit", "--json", "--operator", "ann").stdout)
        ran = [row for row in rows if row["handler"] == "exec"]
        self.assertEqual("pump-1", ran[0]["device"])

    def test_default_profile(self) -> None:
        """Without --home a join writes ~/.config/rshell, and later commands use it."""
        home = self.fleet.base / "home-dora"
        home.mkdir()
        string = self.fleet.invite("operator", "dora", "--role", "admin")
        environ = {"HOME": str(home)}
        self.assert_status(0, self.fleet.command([*CLI, "join", "-"], string, environ=environ))
        self.assertTrue((home / ".config" / "rshell" / "identity").is_dir())
        done = self.fleet.command([*CLI, "whoami"], environ=environ)
        self.assert_status(0, done)
        self.assertIn(b"dora", done.stdout)

    def test_join_again(self) -> None:
        """A profile is replaced only on demand."""
        profile = self.operator(self.fleet, "eve")
        string = self.fleet.invite("operator", "eve-2", "--role", "admin")
        done = self.fleet.command([*CLI, "--home", str(profile), "join", "-"], string)
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"--replace", done.stderr)

    def test_revoked(self) -> None:
        """Revoking an operator ends their command within a second, and lets them do no more."""
        profile = self.operator(self.fleet, "bob")
        program: Program = self.fleet.start(
            [*CLI, "--home", str(profile), "run", "pump-1", "--", "echo $$; exec sleep 300"],
            stdin=subprocess.DEVNULL,
        )
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        self.assert_status(0, self.fleet.rshell("revoke", "operator", "bob"))
        began = time.monotonic()
        until(lambda: state(pid) in ("", "Z"), "the command ended", 5, 0.01)
        self.assertLess(time.monotonic() - began, 1)
        done = program.finish(seconds=10)
        self.assert_status(255, done)
        self.assertIn(b"revoked", done.stderr)
        after = self.as_operator(self.fleet, profile, "run", "pump-1", "--", "true")
        self.assert_status(255, after)
        self.assert_one_line(after.stderr)
        self.assertIn(b"revoked", after.stderr)

    def test_last_administrator(self) -> None:
        """The last administrator cannot be revoked."""
        fleet = self.own_fleet()
        done = fleet.rshell("revoke", "operator", "admin")
        self.assert_status(255, done)
        self.assert_one_line(done.stderr)
        self.assert_status(0, fleet.rshell("whoami"))

    def test_unknown_role(self) -> None:
        """An operator is invited with a role that exists."""
        done = self.fleet.rshell("invite", "operator", "zed", "--role", "emperor")
        self.assert_status(255, done)
        self.assertEqual(b"", done.stdout)
        self.assert_one_line(done.stderr)
        self.assertIn(b"emperor", done.stderr)


class RevokedDeviceTests(FleetCase):
    def test_revoked(self) -> None:
        """Revoking a device ends its link within a second, and it stays out."""
        agent = self.fleet.join("gone-1")
        self.addCleanup(agent.stop)
        agent.start()
        self.fleet.wait_live("gone-1")
        program = self.fleet.start(
            self.fleet.cli("run", "gone-1", "--", "echo on; exec sleep 300"),
            stdin=subprocess.DEVNULL,
        )
        assert program.process.stdout is not None
        self.assertEqual(b"on\n", program.process.stdout.readline())
        start = self.fleet.log_size()
        began = time.monotonic()
        self.assert_status(0, self.fleet.rshell("revoke", "device", "gone-1"))
        until(lambda: "gone-1 epoch" in self.fleet.log_text(start), "its link ended", 5, 0.01)
        self.assertLess(time.monotonic() - began, 3)  # a command's start included
        done = program.finish(seconds=15)
        self.assert_status(255, done)
        self.assertIn(b"revoked", done.stderr)
        self.assert_status(255, self.fleet.run("gone-1", "--", "true"))
        # it would dial again in minutes only: a new agent dials at once
        agent.kill()
        agent.start()
        until(lambda: agent.log_text().count("revoked") >= 2, lambda: agent.log_text()[-500:], 20)
        self.assertNotIn("gone-1", self.fleet.live())

    def test_unknown(self) -> None:
        """Revoking what does not exist gives 255 and its name."""
        for kind in ("device", "operator"):
            done = self.fleet.rshell("revoke", kind, "nobody-here")
            self.assert_status(255, done)
            self.assert_one_line(done.stderr)
            self.assertIn(b"nobody-here", done.stderr)


class AuditTests(FleetCase):
    def rows(self, *arguments: str) -> list[dict[str, object]]:
        done = self.fleet.rshell("audit", "--json", *arguments)
        self.assert_status(0, done)
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows

    def test_who_did_what(self) -> None:
        """Each command has its row: who, which device, as whom, from where, and how it ended."""
        self.run_on("valve-1", "exit 5")
        ended = until(
            lambda: [row for row in self.rows("--device", "valve-1") if row["exit_code"] == 5],
            "the row of the end",
            10,
        )
        opened = [
            row
            for row in self.rows("--device", "valve-1")
            if row["session"] == ended[0]["session"] and row is not ended[0]
        ]
        row = opened[0] if opened else ended[0]
        self.assertEqual(
            ("admin", "valve-1", "exec", "link"),
            (row["operator"], row["device"], row["handler"], row["door"]),
        )
        self.assertRegex(str(row["address"]), r"^127\.0\.0\.1:\d+$")

    def test_refusals_and_joins(self) -> None:
        """Refusals, invitations, joins and revocations are there too."""
        self.fleet.run("valve-1", "--as", "daemon", "--", "id")
        agent = self.fleet.join("audited-1")
        self.fleet.rshell("revoke", "device", "audited-1")
        agent.stop()
        rows = self.rows("--limit", "200")
        refused = [row for row in rows if row["code"] == "policy" and row["login"] == "daemon"]
        self.assertTrue(refused, rows)
        kinds = " ".join(str(row["kind"]) for row in rows)
        for word in ("invite", "join", "revoke"):
            self.assertIn(word, kinds)

    def test_table(self) -> None:
        """For people it is a table."""
        self.run_on("valve-1", "true")
        done = self.fleet.rshell("audit", "--limit", "5")
        self.assert_status(0, done)
        lines = done.stdout.decode().splitlines()
        self.assertEqual(6, len(lines))
        self.assertTrue(lines[0].startswith("SEQ"))
        self.assertNotIn(os.fsdecode(self.fleet.home), done.stdout.decode())
