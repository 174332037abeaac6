"""rshell ls, cat and rm with a real gateway and agent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.functional.fleet import Agent, FleetCase
from tests.functional.processes import Program, children, environment, state, until
from tests.functional.terminal import Terminal


class FilesCase(FleetCase):
    def setUp(self) -> None:
        # Where every login can look; not trial's directory.
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="rsh-files-")))
        self.addCleanup(shutil.rmtree, self.base, True)
        self.base.chmod(0o755)

    def at(self, name: str = "", device: str = "pump-1") -> str:
        return f"{device}:{self.base}" + (f"/{name}" if name else "")

    def tree(self) -> None:
        (self.base / "sub").mkdir()
        for name in ("b.log", "a.log", ".hidden", "sub/c.log"):
            (self.base / name).write_text(name)
        (self.base / "link").symlink_to("sub")


class ListTests(FilesCase):
    def test_names(self) -> None:
        """A directory's names are listed in order, hidden ones only with -a."""
        self.tree()
        done = self.fleet.rshell("ls", self.at())
        self.assert_status(0, done)
        self.assertEqual(b"a.log\nb.log\nlink\nsub\n", done.stdout)
        done = self.fleet.rshell("ls", "-a", self.at())
        self.assertEqual(b".hidden\na.log\nb.log\nlink\nsub\n", done.stdout)

    def test_long(self) -> None:
        """-l shows mode, owner, size, time and where links lead."""
        self.tree()
        os.chmod(self.base / "a.log", 0o640)
        lines = self.fleet.rshell("ls", "-l", self.at()).stdout.decode().splitlines()
        self.assertRegex(lines[0], r"^-rw-r----- 1 \S+ +\S+ +5 \d{4}-\d\d-\d\d \d\d:\d\d a\.log$")
        self.assertTrue(lines[2].startswith("l"), lines)
        self.assertTrue(lines[2].endswith("link -> sub"), lines)

    def test_patterns_and_places(self) -> None:
        """Patterns are matched on the device; several places and devices are told apart."""
        self.tree()
        done = self.fleet.rshell("ls", self.at("*.log"))
        self.assertEqual(f"{self.base}/a.log\n{self.base}/b.log\n".encode(), done.stdout)
        done = self.fleet.rshell("ls", self.at("sub"), self.at("sub", "pump-2"))
        title = f"{self.base}/sub:\nc.log\n"
        self.assertEqual(f"pump-1:{title}\npump-2:{title}".encode(), done.stdout)
        done = self.fleet.rshell("ls", "-d", self.at("sub"))
        self.assertEqual(f"{self.base}/sub\n".encode(), done.stdout)

    def test_json(self) -> None:
        """--json is one array, whatever fails; names are as they are."""
        self.tree()
        hostile = b"\x1b[2J\xff"
        with open(os.fsencode(self.base) + b"/" + hostile, "wb"):
            pass
        done = self.fleet.rshell("ls", "--json", self.at(), self.at("missing"))
        self.assertEqual(1, done.status)
        self.assert_one_line(done.stderr)
        rows = json.loads(done.stdout)
        self.assertEqual(5, len(rows))
        self.assertIn("path_b64", rows[0])
        row = rows[1]
        self.assertEqual(("pump-1", f"{self.base}/a.log", "file", 5), (
            row["device"], row["path"], row["kind"], row["size"]))  # fmt: skip
        self.assertEqual("sub", rows[3]["target"])
        done = self.fleet.rshell("ls", "--json", self.at("missing"))
        self.assertEqual((1, []), (done.status, json.loads(done.stdout)))

    def test_hostile_names(self) -> None:
        """Names cannot move the cursor, colour the terminal or pretend to be two."""
        for name in (b"\x1b]0;owned\x07", b"a\nb", b"\xff", b"\xc2\x9b2J"):
            with open(os.fsencode(self.base) + b"/" + name, "wb"):
                pass
        for words in (["ls"], ["ls", "-l"]):
            done = self.fleet.rshell(*words, self.at())
            self.assertEqual(4, done.stdout.count(b"\n"))
            self.assertNotIn(b"\x1b", done.stdout)
            done.stdout.decode("utf-8")

    def test_failures(self) -> None:
        """What is missing fails alone with 1; a device that is missing, with 255; nonsense is 2."""
        self.tree()
        done = self.fleet.rshell("ls", self.at("missing"), self.at("a.log"))
        self.assertEqual((1, f"{self.base}/a.log\n".encode()), (done.status, done.stdout))
        self.assertIn(b"No such file", done.stderr)
        done = self.fleet.rshell("ls", "no-such-device:/", "no-such-device:/etc", self.at("a.log"))
        self.assertEqual(255, done.status)
        self.assert_one_line(done.stderr)
        self.assertIn(b"a.log", done.stdout)
        for word in ("/etc", "root@pump-1:/", ":x"):
            done = self.fleet.rshell("ls", word)
            self.assertEqual(2, done.status)
            self.assert_one_line(done.stderr)


class CatTests(FilesCase):
    def test_bytes(self) -> None:
        """Files come as they are, one after the other, compressed or not."""
        content = os.urandom(1_500_000)
        (self.base / "f").write_bytes(content)
        (self.base / "g").write_bytes(b"\x1b[2J\xff")
        done = self.fleet.rshell("cat", self.at("f"), self.at("g"))
        self.assert_status(0, done)
        self.assertEqual(content + b"\x1b[2J\xff", done.stdout)

    def test_no_size(self) -> None:
        """A file of /proc is read to its end."""
        done = self.fleet.rshell("cat", "pump-1:/proc/version")
        self.assertEqual(Path("/proc/version").read_bytes(), done.stdout)

    def test_failures(self) -> None:
        """What is no file is refused, and the next is shown."""
        (self.base / "f").write_text("f")
        os.mkfifo(self.base / "fifo")
        done = self.fleet.rshell(
            "cat", self.at(), self.at("fifo"), "pump-1:/dev/zero", self.at("f")
        )
        self.assertEqual((1, b"f"), (done.status, done.stdout))
        self.assertEqual(3, done.stderr.count(b"\n"))
        self.assertNotIn(b"Traceback", done.stderr)

    def test_json(self) -> None:
        """--json tells content and outcome, one object a line."""
        (self.base / "f").write_text("f\n")
        done = self.fleet.rshell("cat", "--json", self.at("f"), self.at("missing"))
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual({"device": "pump-1", "stream": "stdout", "data": "f\n"}, rows[0])
        self.assertEqual("ok", rows[1]["outcome"]["status"])
        self.assertEqual("not-found", rows[2]["error"]["code"])

    def test_reader_leaves(self) -> None:
        """When nobody reads any more it ends quietly, and so does the worker on the device."""
        with open(self.base / "f", "wb") as file:
            file.truncate(64 << 20)
        command = " ".join([*map(str, self.fleet.cli("cat", self.at("f")))])
        done = self.fleet.command(["sh", "-c", f"{command} | head -c 10"])
        self.assertEqual((0, bytes(10), b""), (done.status, done.stdout, done.stderr))

    def test_terminal(self) -> None:
        """On a terminal control characters are shown, not acted upon; --raw passes them."""
        (self.base / "f").write_bytes(b"a\x1b[31mb\tc\r\n")
        for words, shown in (([], "a\ufffd\\[31mb"), (["--raw"], "a\x1b\\[31mb")):
            command = self.fleet.cli("cat", *words, self.at("f"))
            terminal = Terminal(command, environment(self.fleet.base), self.fleet.base)
            self.addCleanup(terminal.close)
            terminal.expect(shown)
            self.assertEqual(0, terminal.wait())

    def test_agent_killed(self) -> None:
        """An agent that is killed in the middle costs no byte."""
        agent = self.added("reader-1")
        content = os.urandom(6_000_000)
        (self.base / "f").write_bytes(content)
        program = self.fleet.start(self.fleet.cli("cat", self.at("f", "reader-1")))
        begun = self.read(program, 100_000)
        agent.kill()
        agent.start()
        done = program.finish(seconds=60)
        self.assertEqual(0, done.status, done.stderr)
        self.assertEqual(content, begun + done.stdout)

    def read(self, program: Program, size: int) -> bytes:
        """Return the beginning of what it writes, at least so much."""
        assert program.process.stdout is not None
        begun = b""
        while len(begun) < size:
            begun += os.read(program.process.stdout.fileno(), size)
        return begun

    def test_interrupted(self) -> None:
        """Ctrl-C ends it at once with 130, and the worker with it."""
        agent = self.added("reader-2")
        with open(self.base / "f", "wb") as file:
            file.truncate(64 << 20)
        program = self.fleet.start(self.fleet.cli("cat", self.at("f", "reader-2")))
        self.read(program, 1000)
        self.assertEqual(1, len(workers(agent)))
        program.process.send_signal(signal.SIGINT)
        # Nobody reads what it wrote.
        self.assertEqual(130, program.process.wait(20))
        until(lambda: not workers(agent), "the worker ends", 15)


def workers(agent: Agent) -> list[int]:
    """Return the workers of a device's keeper that run."""
    return [pid for pid in children(agent.keeper_pid()) if state(pid) not in ("", "Z")]


class RemoveTests(FilesCase):
    def test_removed(self) -> None:
        """-y removes without a question: files, links, and with -r whole directories."""
        self.tree()
        done = self.fleet.rshell("rm", "-y", self.at("*.log"), self.at("link"))
        self.assert_status(0, done)
        self.assertEqual([".hidden", "sub"], sorted(os.listdir(self.base)))
        done = self.fleet.rshell("rm", "-y", self.at("sub"))
        self.assertEqual(1, done.status)
        self.assertIn(b"-r", done.stderr)
        done = self.fleet.rshell("rm", "-r", "-y", "--json", self.at("sub"))
        self.assert_status(0, done)
        told = {"device": "pump-1", "path": f"{self.base}/sub", "removed": 2}
        self.assertEqual(told, json.loads(done.stdout))
        self.assertEqual(1, self.fleet.rshell("rm", "-y", self.at("sub")).status)
        self.assert_status(0, self.fleet.rshell("rm", "-f", "-y", self.at("sub")))

    def test_nobody_to_ask(self) -> None:
        """Without -y and without a terminal nothing is removed."""
        self.tree()
        done = self.fleet.rshell("rm", self.at("a.log"), data=b"y\n")
        self.assertEqual(255, done.status)
        self.assert_one_line(done.stderr)
        self.assertIn(b"-y", done.stderr)
        self.assertTrue((self.base / "a.log").exists())

    def test_asked(self) -> None:
        """At a terminal it asks, with what patterns match; only a yes removes."""
        self.tree()
        for answer, left in (("n\n", True), ("\n", True), ("\x03", True), ("y\n", False)):
            command = self.fleet.cli("rm", self.at("*.log"))
            terminal = Terminal(command, environment(self.fleet.base), self.fleet.base)
            self.addCleanup(terminal.close)
            terminal.expect("b.log")
            terminal.expect(r"Remove these 2\? \[y/N\]")
            terminal.type(answer)
            self.assertEqual(130 if answer == "\x03" else 0, terminal.wait(), answer)
            self.assertEqual(left, (self.base / "a.log").exists(), answer)

    def test_never(self) -> None:
        """The home, the root and dots are not removed."""
        for path in ("/", "~", ".", "..", ""):
            done = self.fleet.rshell("rm", "-r", "-y", f"pump-1:{path}")
            self.assertEqual(1, done.status, path)


class PolicyTests(FilesCase):
    def test_policy(self) -> None:
        """What the device's policy does not allow is refused by the device, whoever asks."""
        self.tree()
        (self.base / "out").symlink_to("/etc/passwd")
        agent = self.added("confined-1")
        self.roots(agent)
        self.logins(agent)
        agent.configure('[policy]\nhandlers = ["exec"]\n')
        done = self.fleet.rshell("ls", "confined-1:/")
        self.assertEqual(255, done.status)
        self.assert_one_line(done.stderr)

    def roots(self, agent: Agent) -> None:
        agent.configure(f'[policy]\nread = ["{self.base}"]\nwrite = ["{self.base}/sub"]\n')
        self.assert_status(0, self.fleet.rshell("cat", self.at("a.log", "confined-1")))
        places = ["confined-1:/etc/passwd", self.at("out", "confined-1"), "confined-1:../etc"]
        done = self.fleet.rshell("cat", "--json", *places)
        self.assertEqual(1, done.status)
        codes = [json.loads(line)["error"]["code"] for line in done.stdout.splitlines()]
        self.assertEqual(["policy"] * 3, codes)
        done = self.fleet.rshell(
            "rm", "-y", self.at("a.log", "confined-1"), self.at("sub/c.log", "confined-1")
        )
        self.assertEqual(1, done.status)
        self.assertIn(b"policy", done.stderr)
        self.assertTrue((self.base / "a.log").exists())
        self.assertFalse((self.base / "sub" / "c.log").exists())

    def logins(self, agent: Agent) -> None:
        if os.geteuid():
            return  # only root becomes somebody else
        agent.configure('[policy]\nlogins = ["self", "nobody"]\n')
        (self.base / "a.log").chmod(0o600)
        self.assert_status(0, self.fleet.rshell("cat", self.at("a.log", "confined-1")))
        both = [self.at("a.log", "confined-1"), self.at("b.log", "confined-1")]
        done = self.fleet.rshell("cat", "--as", "nobody", *both)
        self.assertEqual((1, b"b.log"), (done.status, done.stdout))
        self.assertIn(b"Permission denied", done.stderr)
        self.assertEqual(255, self.fleet.rshell("ls", "--as", "daemon", both[0]).status)
