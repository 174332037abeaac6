"""Both ways to start a program give it the same, fail the same, and leave the keeper as it was."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from rshell_agent.keeper import spawn, wire
from rshell_agent.keeper.child import ALL_SIGNALS
from rshell_agent.keeper.mounts import Mounts, all_local
from rshell_agent.keeper.process import Account, Command, Process, start_error
from rshell_agent.keeper.wire import Refused, base64
from tests.keeper.inprocess import InProcess

_ROOT = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
_INTERNAL = 3 << 31  # 32 and 33 are the C library's own: nobody else can set them, or put them back


class StartCase(SynchronousTestCase):
    """Starts programs the one way or the other.

    Attributes:
        forked: Whether by fork.
    """

    forked = False

    def setUp(self) -> None:
        self.patch(spawn.MOUNTS, "look", lambda: not self.forked)
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)

    def start(self, *argv: str, **fields: Any) -> Process:
        """Start; the caller reads what is written."""
        body = {"kind": "exec", "argv": [base64(word.encode()) for word in argv], **fields}
        if "cwd" in body:
            body["cwd"] = base64(body["cwd"].encode())
        command, account = Command(body), Account(None)
        process = Process(command, account, {})
        if process.status is not None:
            os.set_blocking(process.status, True)
            told = os.read(process.status, 512)
            os.close(process.status)
            if told:
                self.ended(process)
                raise start_error(told, command, account)
        self.assertEqual(process.status is not None, self.forked)
        return process

    def ended(self, process: Process) -> bytes:
        """Read to the end, and let go of everything; return what was written."""
        written = b""
        for fd in process.outputs:
            os.set_blocking(fd, True)
        if process.slave is not None:  # else its other side has no end
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            os.close(process.slave)
        for fd in process.outputs:
            try:
                while part := os.read(fd, 65536):
                    written += part
            except OSError:  # EIO, a terminal's end
                pass
            os.close(fd)
        if process.stdin is not None:
            os.close(process.stdin)
        process.reap()
        return written

    def run_to_end(self, *argv: str, **fields: Any) -> bytes:
        return self.ended(self.start(*argv, **fields))

    def refusal(self, *argv: str, **fields: Any) -> tuple[str, str]:
        error = self.assertRaises(Refused, self.start, *argv, **fields)
        return error.code, str(error).replace(self.folder, "…")

    def file(self, name: str, content: bytes = b"", mode: int = 0o755) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path


class SpawnTests(StartCase):
    def status(self, **fields: Any) -> tuple[dict[str, str], list[str]]:
        """Return what the kernel tells of a program: `status` by name, `stat` after its name."""
        text = self.run_to_end("cat", "/proc/self/status", "/proc/self/stat", **fields).decode()
        lines = text.replace("\r", "").splitlines()
        told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return told, lines[-1].rpartition(")")[2].split()

    def test_process(self) -> None:
        """It leads a session of its own without a terminal, with default signals and mask (K34)."""
        for number in (signal.SIGPIPE, signal.SIGUSR1, signal.SIGRTMIN + 3):
            before = signal.signal(number, signal.SIG_IGN)
            self.addCleanup(signal.signal, number, before)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
        process = self.start("cat", "/proc/self/status", "/proc/self/stat")
        pid = process.pid
        lines = self.ended(process).decode().splitlines()
        told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for mask in ("SigBlk", "SigIgn", "SigCgt"):
            self.assertEqual(int(told[mask], 16) & ~_INTERNAL, 0, mask)
        self.assertEqual(told["Umask"], "0022")
        parent, group, session, terminal = lines[-1].rpartition(")")[2].split()[1:5]
        self.assertEqual((int(group), int(session), terminal), (pid, pid, "0"))
        self.assertEqual(int(parent), os.getpid())

    def test_terminal(self) -> None:
        """With a terminal that is its controlling one, it is in front, and knows its size."""
        pty = {"rows": 33, "columns": 77, "term": "xterm"}
        told, stat = self.status(pty=pty)
        self.assertNotEqual(stat[4], "0")
        self.assertEqual(stat[5], told["Pid"])
        self.assertEqual(int(told["SigIgn"], 16) & ~_INTERNAL, 0)
        written = self.run_to_end("sh", "-c", "tty; stty size; echo again > /dev/tty", pty=pty)
        name, size, again = written.decode().split("\r\n")[:3]
        self.assertRegex(name, "^/dev/pts/[0-9]+$")
        self.assertEqual((size, again), ("33 77", "again"))

    def test_descriptors(self) -> None:
        """It has 0 to 2 and nothing of the keeper's, which has as many as before."""
        before = len(os.listdir("/proc/self/fd"))
        # whoever started us may hand down more; a keeper closes it (K2)
        inherited = {fd for fd in range(3, 1024) if _inheritable(fd)}
        for pty in (None, {"rows": 24, "columns": 80}):
            listed = self.run_to_end("ls", "/proc/self/fd", pty=pty)
            found = {int(name) for name in listed.split()} - inherited
            self.assertEqual(len(found - {0, 1, 2}), 1, found)  # what lists
        for _ in range(3):
            self.refusal("no-such-command")
            self.refusal("true", cwd="/no/such/folder")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_streams(self) -> None:
        """Output and errors come apart, and input arrives."""
        process = self.start("sh", "-c", "read line; echo out $line; echo err >&2")
        assert process.stdin is not None
        os.write(process.stdin, b"in\n")
        output, error = process.outputs
        os.set_blocking(output, True)
        os.set_blocking(error, True)
        self.assertEqual((os.read(output, 99), os.read(error, 99)), (b"out in\n", b"err\n"))
        self.ended(process)

    def test_folder(self) -> None:
        """It begins where it was asked to, else in the login's home, else in /."""
        here, mask = os.getcwd(), os.umask(0o077)
        self.addCleanup(os.umask, mask)
        self.assertEqual(self.run_to_end("pwd", cwd=self.folder).decode(), self.folder + "\n")
        home = os.path.realpath(Account(None).home)
        self.assertEqual(self.run_to_end("readlink", "/proc/self/cwd").decode(), home + "\n")
        account = Account(None)
        account.home = "/no/such/home"
        process = Process(Command({"kind": "exec", "argv": [base64(b"pwd")]}), account, {})
        self.assertEqual(self.ended(process), b"/\n")
        if process.status is not None:
            os.close(process.status)
        self.refusal("true", cwd="/no/such/folder")
        self.assertEqual((os.getcwd(), os.umask(0o077)), (here, 0o077))

    def test_environment(self) -> None:
        """Its environment is what was made for it."""
        env = [[base64(b"COLOUR"), base64(b"blau \xff")]]
        told = dict(
            v.split(b"=", 1) for v in self.run_to_end("env", "-0", env=env).split(b"\0")[:-1]
        )
        self.assertEqual(told[b"COLOUR"], b"blau \xff")
        self.assertEqual(
            told.keys() - {b"LANG"},
            {b"HOME", b"USER", b"LOGNAME", b"SHELL", b"PATH", b"COLOUR"},
        )

    def test_path(self) -> None:
        """Each folder of PATH is tried in turn, past what is there and cannot be executed."""
        for name, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
            os.mkdir(os.path.join(self.folder, name))
            self.file(f"{name}/thing", b"#!/bin/sh\necho " + name.encode() + b"\n", mode)
        folders = ":".join(
            ["/no", self.file("plain"), *(f"{self.folder}/{n}" for n in ("one", "two"))]
        )
        env = [[base64(b"PATH"), base64(f"{folders}::{self.folder}/three".encode())]]
        self.assertEqual(self.run_to_end("thing", env=env), b"two\n")
        self.assertEqual(self.run_to_end("three/thing", env=env, cwd=self.folder), b"three\n")

    def test_refusals(self) -> None:
        """What cannot be executed is refused with the reason, by name, and nothing has run."""
        busy = self.file("busy")
        shutil.copy("/bin/true", busy)
        writer = os.open(busy, os.O_WRONLY)
        self.addCleanup(os.close, writer)
        os.mkdir(os.path.join(self.folder, "closed"))
        self.file("closed/thing", b"#!/bin/sh\n", 0o644)
        env = [[base64(b"PATH"), base64(f"{self.folder}/closed:/nowhere".encode())]]
        tried: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
            (("no-such-command",), {}, "command not found: no-such-command"),
            (("",), {}, "ValueError: execve: argv first element cannot be empty: "),
            (("/no/such/file",), {}, "command not found: /no/such/file"),
            ((busy + "/below",), {}, "command not found: …/busy/below"),
            ((self.folder,), {}, "Permission denied: …"),
            ((self.file("plain", b"#!/bin/sh\n", 0o644),), {}, "Permission denied: …/plain"),
            (("thing",), {"env": env}, "Permission denied: thing"),
            ((busy,), {}, "Text file busy: …/busy"),
            ((self.file("odd", b"what?"),), {}, "Exec format error: …/odd"),
            ((self.file("old", b"#!/no/such/sh\n"),), {}, "command not found: …/old"),
            (("true", "x" * 200_000), {}, "Argument list too long: true"),
            (("true",), {"cwd": "/no/such/folder"}, "No such file or directory: /no/such/folder"),
            (("true",), {"cwd": busy}, "Not a directory: …/busy"),
        ]
        for argv, fields, expected in tried:
            code, message = self.refusal(*argv, **fields)
            self.assertEqual((code, message), ("not-found", expected))

    def test_protection(self) -> None:
        """What the out-of-memory killer spares does not hand that down, and is spared after it."""
        path = "/proc/self/oom_score_adj"
        with open(path, encoding="ascii") as file:
            before = file.read()
        try:
            _write(path, "-7")
        except OSError as error:
            raise SkipTest("needs the right to be protected") from error
        self.addCleanup(_write, path, before)
        self.assertEqual(self.run_to_end("cat", path), b"0\n")
        self.refusal("no-such-command")
        with open(path, encoding="ascii") as file:
            self.assertEqual(file.read(), "-7\n")


class ForkTests(SpawnTests):
    """The same by fork."""

    forked = True


class RuleTests(StartCase):
    def test_who(self) -> None:
        """Workers, other logins, folders of /proc and streams in the way are for fork."""
        own, other = Account(None), Account(None)
        other.switch = True
        plain = {"kind": "exec", "argv": [base64(b"true")]}
        worker = {"kind": "worker", "worker": "files"}
        cases = [
            (plain, own, [3, 4, 5], True),
            ({**plain, "cwd": base64(b"/tmp")}, own, [3, 4, 5], True),
            ({"kind": "shell", "pty": {"rows": 2, "columns": 2}}, own, [3, 3, 3], True),
            (plain, other, [3, 4, 5], False),
            (worker, own, [3, 4, 5], False),
            (plain, own, [1, 4, 5], False),
            ({**plain, "cwd": base64(b"/proc/self/fd")}, own, [3, 4, 5], False),
        ]
        for body, account, stdio, expected in cases:
            self.assertIs(spawn.can(Command(dict(body)), account, stdio), expected, body)
        self.patch(spawn.MOUNTS, "look", lambda: False)
        self.assertFalse(spawn.can(Command(dict(plain)), own, [3, 4, 5]))

    def test_without_setsid(self) -> None:
        """A C library that cannot begin a session, or no process left, leaves it to fork.

        Another program of that name, in the next folder, is not tried for that.
        """
        folders = [[base64(b"PATH"), base64(b"/usr/bin:/bin:/usr/bin")]]
        tried: list[object] = []
        for error in (NotImplementedError(), OSError(11, "no process")):

            def fails(file: object, *_: object, wrong: Exception = error, **__: object) -> int:
                tried.append(file)
                raise wrong

            self.patch(os, "posix_spawn", fails)
            self.forked = True
            self.patch(spawn.MOUNTS, "look", lambda: True)
            self.assertEqual(self.run_to_end("echo", "here", env=folders), b"here\n")
        self.assertEqual(tried, [b"/usr/bin/echo"] * 2)

    def test_protection(self) -> None:
        """Protection is given up and taken back as it was; its lack costs one look."""
        path = self.file("oom")
        for before, during in (("-800\n", "0"), ("0\n", "0\n"), ("300\n", "300\n")):
            _write(path, before)
            protection = spawn.give_up_protection(path)
            self.assertEqual(_read(path), during)
            if protection is not None:
                spawn.take_back_protection(protection, path)
            self.assertEqual(_read(path), before)
        self.assertIsNone(spawn.give_up_protection("/no/such/file"))

    def test_all_signals(self) -> None:
        """No signal is forgotten."""
        self.assertEqual(set(ALL_SIGNALS), set(signal.valid_signals()))


class CostTests(SynchronousTestCase):
    """What a command costs the keeper, in counts."""

    def test_one_turn(self) -> None:
        """HELLO and OPEN that come together have both answers within one turn, without a fork."""

        def fork() -> int:
            raise AssertionError("a copy of the keeper")

        self.patch(os, "fork", fork)
        self.patch(spawn.MOUNTS, "look", lambda: True)
        looked: list[object] = []
        getpwuid = pwd.getpwuid
        self.patch(pwd, "getpwuid", lambda uid: looked.append(uid) or getpwuid(uid))
        keeper = InProcess(real=True)
        self.addCleanup(keeper.stop)
        peer = keeper.socket()
        self.addCleanup(peer.close)
        peer.setblocking(False)
        hello = {"proto": {"min": 1, "max": 1}, "purpose": "stream"}
        opening = {
            "session": base64(os.urandom(16)),
            "attempt": 1,
            "age_ms": 0,
            "operator": "ann",
            "handler": "exec",
            "limit": 1 << 20,
            "process": {"kind": "exec", "argv": [base64(b"true")]},
        }
        peer.sendall(wire.encode_map(wire.HELLO, hello) + wire.encode_map(wire.OPEN, opening))
        self.assertTrue(keeper.loop.turn(0))
        answers = [kind for kind, _, _ in wire.Decoder().feed(peer.recv(65536))]
        self.assertEqual(answers[:2], [wire.WELCOME, wire.OPENED])
        self.assertEqual(len(looked), 1)  # one look into passwd

    def test_hello_alone(self) -> None:
        """A HELLO that comes alone is answered at once."""
        keeper = InProcess()
        self.addCleanup(keeper.stop)
        peer = keeper.socket()
        self.addCleanup(peer.close)
        peer.setblocking(False)
        hello = {"proto": {"min": 1, "max": 1}, "purpose": "control"}
        peer.sendall(wire.encode_map(wire.HELLO, hello))
        keeper.loop.turn(0)
        answers = [kind for kind, _, _ in wire.Decoder().feed(peer.recv(65536))]
        self.assertEqual(answers, [wire.WELCOME])


class MountTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """File systems with a server, or unknown ones, are not local, but where nobody works."""
        line = "40 27 0:40 / %s rw,nosuid shared:7 master:1 - %s server:/x rw\n"
        for place, kind, expected in [
            ("/home", "ext4", True),
            ("/mnt/a\\040b", "btrfs", True),
            ("/home", "nfs4", False),
            ("/home/ann/gvfs", "fuse.gvfsd-fuse", False),
            ("/media", "fuseblk", False),
            ("/srv", "9p", False),
            ("/misc", "autofs", False),
            ("/new", "whatever", False),
            ("/proc/sys/fs/binfmt_misc", "autofs", True),
            ("/proc/meminfo", "fuse.lxcfs", True),
            ("/boot", "autofs", True),
            ("/bootleg", "autofs", False),
        ]:
            listed = _ROOT + (line % (place, kind)).encode()
            self.assertIs(all_local(listed), expected, (place, kind))

    def test_nonsense(self) -> None:
        """What cannot be understood is not local."""
        for listed in (
            b"",
            b"\n",
            b"x\n",
            _ROOT + b"27 1 254:0\n",
            b"1 2 - ext4\n",
            b"\xff - \xff",
        ):
            self.assertFalse(all_local(listed), listed)

    def test_this_system(self) -> None:
        """The kernel's own list is read once, and again when it says so."""
        mounts = Mounts()
        with open("/proc/self/mountinfo", "rb") as file:
            expected = all_local(file.read())
        self.assertIs(mounts.look(), expected)
        self.addCleanup(os.close, mounts._file)
        read: list[None] = []
        self.patch(mounts, "_read", lambda: read.append(None))
        self.assertIs(mounts.look(), expected)
        self.assertEqual(read, [])
        self.patch(mounts, "_changes", _Changed())
        mounts.look()
        self.assertEqual(len(read), 1)


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


class _Changed:
    def poll(self, _: int) -> list[tuple[int, int]]:
        return [(0, 0)]


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
