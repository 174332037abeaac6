"""Workers: children of the keeper that run code of ours as the login (K44 to K46)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants, wire
from rshell_agent.keeper.worker import drop_protection
from tests.keeper.client import AGENT_FOLDER, Keeper, Stream
from tests.keeper.test_streams import KeeperCase, alive

DOUBLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "doubles")
PROGRAM = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); import rshell_agent.workers as w; "
    "w.__path__.insert(0, sys.argv[4]); from rshell_agent.keeper.main import run; "
    "from rshell_agent.keeper.constants import Times; "
    "sys.exit(run(sys.argv[2], None, Times(**json.loads(sys.argv[3]))))"
)


class WorkerKeeper(Keeper):
    """A keeper that finds other workers than the product's."""

    def __init__(self, environment: dict[str, str] | None = None, folder: str = AGENT_FOLDER):
        self.environment, self.folder = environment or {}, folder
        super().__init__()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, self.folder, self.home]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen([*command, json.dumps(self.times), DOUBLES], env=environment)


class Hasty(Stream):
    """An operator who cancels in the same breath."""

    def send(self, kind: int, payload: bytes | dict[str, Any], flags: int = 0) -> None:
        super().send(kind, payload, flags)
        if kind == wire.OPEN:
            self.event(1, "cancel")


class WorkerCase(KeeperCase):
    environment: dict[str, str] = {}

    def setUp(self) -> None:
        self.keeper = WorkerKeeper(self.environment)
        self.addCleanup(self.keeper.stop)
        self.session = os.urandom(16)

    def worker(self, do: str, /, key: bytes | None = None, **argument: Any) -> Stream:
        login = argument.pop("login", None)
        process = {"kind": "worker", "worker": "files", "argument": {"do": do, **argument}}
        key = key or os.urandom(16)
        return self.keeper.open(key, "-", handler="files", process=process, login=login)

    def refusal(self, handler: str, **process: Any) -> tuple[str, str]:
        process = {"kind": "worker", "worker": handler} | process
        return self.keeper.refused(os.urandom(16), "-", handler=handler, process=process)

    def told(self, **fields: Any) -> dict[str, Any]:
        """Return what a worker sees of itself."""
        stream = self.worker("tell", **fields)
        outcome = stream.finish()
        self.assertEqual((outcome["status"], stream.stderr), ("ok", b""))
        told: dict[str, Any] = json.loads(stream.stdout)
        return told


class WorkerTests(WorkerCase):
    def test_wide_window(self) -> None:
        """A worker that moves files is given twice the credit of other processes (K22)."""
        worker, other = self.worker("wait"), self.keeper.open(self.session, "cat")
        self.assertEqual(worker.opened["limit"], constants.WIDE_WINDOW)
        self.assertEqual(other.opened["limit"], constants.WINDOW)

    def test_what_it_has(self) -> None:
        """It has three pipes, the policy's roots and nothing else of the keeper's."""
        idle = self.keeper.open(self.session, "cat")  # the keeper holds the pipes of another one
        told = self.told(note=["ä", 1])
        own = pwd.getpwuid(os.geteuid())
        self.assertEqual(told["argument"], {"do": "tell", "note": ["ä", 1]})
        self.assertEqual(sorted(told["links"]), ["0", "1", "2", "3"])
        self.assertEqual(told["links"].pop("3"), "/")  # the root that policy names
        self.assertTrue(all(link.startswith("pipe:") for link in told["links"].values()), told)
        self.assertEqual(told["comm"], "rshell-files")
        self.assertEqual((told["sid"], told["parent"]), (told["pid"], self.keeper.process.pid))
        self.assertEqual((told["cwd"], told["umask"]), (own.pw_dir, "0022"))
        self.assertEqual(told["blocked"], 0)
        ignored = told["ignored"] & 0x7FFFFFFF  # the C library's own are beyond
        self.assertEqual(ignored, 1 << (signal.SIGXFSZ - 1))  # then a write says EFBIG
        self.assertEqual(told["caught"], 0)
        expected = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "RSHELL_SESSION", "RSHELL_OPERATOR"}
        self.assertEqual(set(told["env"]) - {"LANG", "LC_CTYPE"}, expected)
        self.assertEqual((told["env"]["HOME"], told["env"]["USER"]), (own.pw_dir, own.pw_name))
        self.assertEqual(told["env"]["RSHELL_OPERATOR"], "ann")
        idle.data(b"", end=True)
        idle.finish()

    def test_seen_from_outside(self) -> None:
        """/proc shows nothing of the keeper's in a worker, nor of a worker in the keeper."""
        before = self.keeper_descriptors()
        stream = self.worker("wait")
        stream.until(b"waiting")
        pid = stream.opened["pid"]
        links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        self.assertEqual(sorted(link[:5] for link in links), ["/", "pipe:", "pipe:", "pipe:"])
        stream.event(1, "cancel")
        self.assertEqual(stream.finish()["signal"], "TERM")
        stream.close()
        self.eventually(lambda: self.keeper_descriptors() <= before)
        with open(f"/proc/{self.keeper.process.pid}/maps", encoding="ascii") as file:
            self.assertNotIn("resource.", file.read())  # a worker's import, none of the keeper's

    def keeper_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.keeper.process.pid}/fd"))

    def test_bytes(self) -> None:
        """Input, its end, output and exit status are those of any process."""
        stream = self.worker("echo", status=7)
        sent = os.urandom(200_000)
        stream.data(sent, end=True)
        outcome = stream.finish()
        self.assertEqual((outcome["status"], outcome["exit_code"]), ("exit", 7))
        self.assertEqual(stream.stdout, sent)

    def test_much(self) -> None:
        """Megabytes pass, and the keeper keeps none of them."""
        stream = self.worker("flood", bytes=32 << 20)
        stream.keep = 0
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertEqual(stream.consumed, 32 << 20)
        control = self.keeper.control()
        self.assertLess(control.call("status")["rss_kb"], 24_000)
        control.close()

    def test_resume(self) -> None:
        """It goes on for an operator who comes back, as any session."""
        stream = self.worker("echo", key=self.session)
        stream.data(b"one ")
        stream.until(b"one ")
        consumed = stream.consumed
        stream.close()
        self.detached()
        resume = {"consumed": consumed, "limit": 1 << 40, "events": 0}
        again = self.keeper.open(self.session, "-", handler="files", attempt=2, resume=resume)
        self.assertTrue(again.opened["attached"])
        again.data(b"two", end=True)
        self.assertEqual(again.finish()["status"], "ok")
        self.assertEqual(again.stdout, b"two")

    def test_crash(self) -> None:
        """A worker's fault is one harmless line and status 70, and no fault of the keeper's."""
        stream = self.worker("crash")
        self.assertEqual(stream.finish()["exit_code"], 70)
        self.assertRegex(
            stream.stderr.decode(),
            r"\Athe worker files failed: RuntimeError: a line\?and \?\[31manother"
            r" \(files\.py:\d+\)\n\Z",
        )
        stream = self.worker("nothing_said")
        self.assertEqual(stream.finish()["exit_code"], 70)

    def test_exits(self) -> None:
        """It may leave by sys.exit; what it printed is not lost."""
        stream = self.worker("leave", status=3)
        self.assertEqual(stream.finish()["exit_code"], 3)
        self.assertEqual(stream.stdout, b"last words\n")

    def test_broken_pipe(self) -> None:
        """Writing to nobody ends it quietly."""
        self.assertEqual(self.worker("pipe").finish()["signal"], "PIPE")

    def test_cancelled_at_once(self) -> None:
        """A cancel right behind OPEN ends it by TERM, not by the KILL that follows later."""
        process = {"kind": "worker", "worker": "files", "argument": {"do": "wait"}}
        for _ in range(10):
            for handler, fields in (("files", {"process": process}), ("exec", {})):
                stream = Hasty(self.keeper.connect())
                stream.open(os.urandom(16), "sleep", "60", handler=handler, **fields)
                self.assertEqual(stream.finish()["signal"], "TERM")

    def test_timeout(self) -> None:
        """`timeout_ms` holds for workers, too."""
        process = {"kind": "worker", "worker": "files", "argument": {"do": "wait"}}
        process["timeout_ms"] = 100
        stream = self.keeper.open(os.urandom(16), "-", handler="files", process=process)
        self.assertEqual(stream.finish()["status"], "timeout")

    def test_refusals(self) -> None:
        """What cannot be a worker is refused, with the reason, and nothing runs."""
        self.assertEqual(self.refusal("files", worker="tail")[0], "bad-request")
        self.assertEqual(self.refusal("exec", worker="files")[0], "bad-request")
        self.assertEqual(self.refusal("facts", worker="facts")[0], "bad-request")
        self.assertEqual(self.refusal("files", worker="os")[0], "bad-request")
        self.assertEqual(self.refusal("files", argument=[1])[0], "bad-request")
        self.assertEqual(self.refusal("files", argument={"x": "y" * 9000})[0], "bad-request")
        self.assertEqual(self.refusal("files", pty={"rows": 1, "columns": 1})[0], "bad-request")
        self.assertEqual(self.refusal("files", cwd="Lw==")[0], "bad-request")
        self.assertEqual(self.refusal("files", argv=["Lw=="])[0], "bad-request")
        home = [["SE9NRQ==", "L2V0Yw=="]]  # HOME=/etc: a root of ~/ would be beneath it
        self.assertEqual(self.refusal("files", env=home)[0], "bad-request")
        code, message = self.refusal("tail")
        self.assertEqual(code, "not-found")
        self.assertIn("No module named 'there_is_no_such_module'", message)
        self.keeper.policy('[policy]\nhandlers = ["files", "plug-in"]\n')
        self.assertEqual(self.refusal("sftp")[0], "policy")
        self.assertEqual(self.refusal("plug-in", worker="files")[0], "bad-request")
        code, _ = self.keeper.refused(os.urandom(16), "true", handler="files")
        self.assertEqual(code, "bad-request")  # to allow files is not to allow exec

    def test_policy(self) -> None:
        """The device's roots hold in the worker, whoever asked, and a change holds for the next."""
        folder = tempfile.mkdtemp(prefix="worker-")
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "x")
        self.assertEqual(self.worker("write", path=path, bytes=9).finish()["status"], "ok")
        self.assertEqual(os.stat(path).st_mode & 0o7777, 0o1644)  # neither set-id bit
        stream = self.worker("read", path=path)
        stream.finish()
        self.assertEqual(stream.stdout, b"x" * 9)
        self.keeper.policy(f'[policy]\nread = ["/etc"]\nwrite = ["{folder}"]\nmax_file_size = 5\n')
        stream = self.worker("read", path=path)
        self.assertEqual(stream.finish()["exit_code"], 1)
        expected = f"Denied: the device's policy does not allow {path}"
        self.assertEqual(stream.stderr.decode(), expected)
        stream = self.worker("write", path=path + "2", bytes=6)
        stream.finish()
        self.assertEqual(stream.stderr, b"OSError: 27")  # EFBIG
        self.assertEqual(os.stat(path + "2").st_size, 5)
        told = self.told()
        self.assertEqual((told["file_limit"], told["confined"]), (5, [5, False]))

    def test_crash_variable(self) -> None:
        """An operator cannot set a crash point, for the variable comes from the device only."""
        self.assertNotIn("RSHELL_CRASH_AT", self.told()["env"])


class CrashPointTests(WorkerCase):
    environment = {"RSHELL_CRASH_AT": "x:2"}

    def test_handed_down(self) -> None:
        """A test's crash point reaches the workers."""
        self.assertEqual(self.told()["env"]["RSHELL_CRASH_AT"], "x:2")


class LoginTests(WorkerCase):
    def setUp(self) -> None:
        if os.geteuid():
            self.skipTest("needs root")
        super().setUp()
        self.keeper.policy('[policy]\nlogins = ["self", "nobody"]\n')

    def test_login(self) -> None:
        """It is the login before it does anything, with no way back."""
        entry = pwd.getpwnam("nobody")
        told = self.told(login="nobody")
        self.assertEqual(told["uid"], [entry.pw_uid] * 3)
        self.assertEqual(told["gid"], [entry.pw_gid] * 3)
        self.assertEqual(told["groups"], os.getgrouplist("nobody", entry.pw_gid))
        self.assertEqual(told["env"]["USER"], "nobody")
        self.assertEqual(told["comm"], "rshell-files")
        stream = self.worker("read", path="/etc/shadow", login="nobody")
        stream.finish()
        self.assertEqual(stream.stderr, b"PermissionError: Permission denied")

    def test_files(self) -> None:
        """As another login it opens, makes and changes what that login may."""
        folder = tempfile.mkdtemp(prefix="nobody-")
        self.addCleanup(shutil.rmtree, folder)
        uid = pwd.getpwnam("nobody").pw_uid
        os.chown(folder, uid, -1)
        stream = self.worker("use", path=f"{folder}/x", login="nobody")
        self.assertEqual(stream.finish()["status"], "ok", stream.stderr)
        self.assertEqual(stream.stdout.decode(), f"mine 100640 {uid}")
        stream = self.worker("read", path="/etc/passwd", login="nobody")
        stream.finish()
        self.assertIn(b"nobody", stream.stdout)

    def test_memory(self) -> None:
        """What the keeper had in memory can be read neither by the policy nor past it."""
        stream = self.worker("own_memory", login="nobody")
        stream.finish()
        self.assertEqual(json.loads(stream.stdout), ["Denied"] * 3 + ["PermissionError"])

    def test_unreadable_installation(self) -> None:
        """A login that cannot read our installation can still use workers."""
        home = tempfile.mkdtemp(prefix="installed-")
        self.addCleanup(shutil.rmtree, home)
        os.chmod(home, 0o700)
        source = os.path.join(AGENT_FOLDER, "rshell_agent")
        shutil.copytree(source, os.path.join(home, "rshell_agent"))
        keeper = WorkerKeeper(folder=home)
        self.addCleanup(keeper.stop)
        self.keeper, usual = keeper, self.keeper
        keeper.policy('[policy]\nlogins = ["nobody"]\n')
        self.assertEqual(self.told()["env"]["USER"], "nobody")
        self.keeper = usual


class ProtectionTests(SynchronousTestCase):
    def test_dropped(self) -> None:
        """The keeper's protection from the out-of-memory killer is not handed down; more is."""
        path = self.mktemp()
        for before, after in (("-800\n", "0"), ("0\n", "0\n"), ("300\n", "300\n")):
            with open(path, "w", encoding="ascii") as file:
                file.write(before)
            drop_protection(path)
            with open(path, encoding="ascii") as file:
                self.assertEqual(file.read(), after)
        drop_protection("/no/such/file")


class EndTests(WorkerCase):
    def test_keeper_killed(self) -> None:
        """A worker whose keeper was killed finds the end of its input (K36)."""
        stream = self.worker("echo")
        pid = stream.opened["pid"]
        self.keeper.process.kill()
        self.keeper.process.wait(15)
        self.eventually(lambda: not alive(pid))
