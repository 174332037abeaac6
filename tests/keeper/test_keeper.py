"""The keeper as a process."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import wire
from rshell_agent.keeper.command import socket_address, spawn_keeper_command
from rshell_agent.policy import PolicyReport
from tests.keeper.client import AGENT_FOLDER, Keeper, Peer, Stream
from tests.keeper.test_streams import KeeperCase


class ShapeTests(KeeperCase):
    def test_second_keeper(self) -> None:
        """A second keeper on the same home ends at once, silently, with status 0 (K1)."""
        second = subprocess.run(
            spawn_keeper_command(self.keeper.home), capture_output=True, timeout=20, check=False
        )
        self.assertEqual((second.returncode, second.stdout, second.stderr), (0, b"", b""))
        self.run_to_end("true")

    def test_files(self) -> None:
        """Socket, lock and log are the owner's alone (K2, K3)."""
        for name in ("keeper.sock", "keeper.lock", "keeper.log"):
            mode = stat.S_IMODE(os.stat(os.path.join(self.keeper.home, name)).st_mode)
            self.assertEqual(mode, 0o600, name)
        pid = self.keeper.process.pid
        self.assertEqual(os.getsid(pid), pid)
        self.assertEqual(os.readlink(f"/proc/{pid}/fd/0"), "/dev/null")

    def test_home_vanishes(self) -> None:
        """Without its home the keeper ends its sessions and itself (K5)."""
        stream = self.keeper.open(self.session, "sleep", "60")
        shutil.rmtree(self.keeper.home)
        self.assertEqual(stream.finish(acknowledge=False)["code"], "stopped")
        stream.close()
        self.assertEqual(self.keeper.process.wait(15), 0)

    def test_sigterm(self) -> None:
        """SIGTERM ends even a stubborn process, tells why, then the keeper ends (K5)."""
        stream = self.keeper.open(
            self.session, line="trap '' TERM; echo up; while :; do sleep 9; done"
        )
        stream.until(b"up")
        self.keeper.process.terminate()
        self.assertEqual(stream.finish()["code"], "stopped")
        self.assertEqual(self.keeper.process.wait(15), 0)
        self.assertNotIn("keeper.sock", os.listdir(self.keeper.home))

    def test_killed(self) -> None:
        """After SIGKILL a new keeper takes the home over, and does not guess about old sessions."""
        self.keeper.open(self.session, "sleep", "1").close()
        self.keeper.process.kill()
        self.keeper.process.wait()
        self.keeper.process = Keeper(self.keeper.home, **self.keeper.times).process
        code, _ = self.keeper.refused(self.session, "true", attempt=2, age_ms=60_000)
        self.assertEqual(code, "unknown")

    def test_many_sessions(self) -> None:
        """After 200 sessions there is no descriptor, zombie or memory more than before (K28)."""
        control = self.keeper.control()

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{self.keeper.process.pid}/fd"))

        self.run_to_end("true")
        self.eventually(lambda: descriptors() > 0)
        before = descriptors()
        for number in range(200):
            pty = {"rows": 1, "columns": 1, "term": "vt100"} if number % 3 == 0 else None
            self.keeper.open(os.urandom(16), "true", pty=pty).finish()
        self.eventually(lambda: descriptors() == before)
        pid = self.keeper.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            self.assertEqual(file.read(), "")
        status = control.call("status")
        self.assertEqual(status["sessions"], 0)
        self.assertLess(status["rss_kb"], 16 * 1024)

    def test_retire(self) -> None:
        """A keeper without sessions makes room for a newer one; a busy one does not (K33)."""
        control = self.keeper.control()
        stream = self.keeper.open(self.session, "cat")
        self.assertEqual(control.call("retire"), {"retiring": False})
        stream.data(b"", end=True)
        stream.finish()
        self.assertEqual(control.call("retire"), {"retiring": True})
        self.assertEqual(self.keeper.process.wait(15), 0)

    def test_long_policy(self) -> None:
        """However long a policy's lists are, the agent gets them whole, in frames that fit."""
        control = self.keeper.control()
        paths = [f"/{number}/" + "ä" * 1000 for number in range(64)]
        lists = "\n".join(f"{key} = {json.dumps(paths)}" for key in ("read", "write"))
        forward = [f"host{number}.example:1-65535" for number in range(64)]
        back = '"localhost:8080"'
        self.keeper.policy(f"[policy]\n{lists}\nforward={forward}\nforward_back=[{back}]\n")
        answer = control.call("policy")
        report = PolicyReport.read(answer)
        self.assertEqual((report.read_roots, report.write_roots), (tuple(paths), tuple(paths)))
        self.assertEqual(report.forward, tuple(forward))
        self.assertEqual(report.forward_back, ("localhost:8080",))
        self.assertEqual((report.error, answer["deny_read"]), (None, []))
        self.keeper.policy("[policy]\nread = 7\n")
        report = PolicyReport.read(control.call("policy"))
        self.assertEqual((report.read_roots, report.forward), ((), ()))
        self.assertIn("read", report.error or "")

    def test_log_rotates(self) -> None:
        """The log is kept below its size by one older file (K2)."""
        path = os.path.join(self.keeper.home, "keeper.log")
        self.keeper.stop_and_keep()
        with open(path, "ab") as file:
            file.truncate((1 << 20) - 10)
        self.keeper.process = Keeper(self.keeper.home, **self.keeper.times).process
        self.assertLess(os.stat(path).st_size, 1000)
        self.assertEqual(os.stat(path + ".1").st_size, (1 << 20) - 10)


class IdleTests(KeeperCase):
    times = {"idle": 0.5}

    def test_idle(self) -> None:
        """It stays while there is an agent or a session, and ends some time after both (K5)."""
        control = self.keeper.control()
        self.keeper.open(self.session, "sleep", "0.8").close()
        control.close()
        pid = self.keeper.process.pid
        control = self.keeper.control()
        self.eventually(lambda: (control.session(self.session) or {})["state"] == "finished")
        control.call("acknowledge", sessions=[wire.base64(self.session)])
        self.assertEqual(control.call("status")["pid"], pid)
        control.close()
        self.assertEqual(self.keeper.process.wait(15), 0)


class GarbageTests(KeeperCase):
    times = {"hello": 0.4}

    def test_garbage(self) -> None:
        """Bytes that are no protocol close their own connection only, with one line (K6)."""
        good = self.keeper.open(self.session, "cat")
        for data in (
            b"\xff" * 64,
            b"GET / HTTP/1.1\r\n\r\n",
            wire.encode(wire.HELLO, b"{"),
            wire.encode(wire.OPEN, b"{}"),
            wire.encode(wire.HELLO, b'{"proto":{"min":1,"max":1},"purpose":"x"}'),
            struct.pack(">BBHI", wire.HELLO, 0, 65535, 0),
        ):
            peer = Peer(self.keeper.connect())
            peer.socket.sendall(data)
            kind, _, _ = peer.frame() or (0, 0, b"")
            self.assertEqual(kind, wire.RESET)
            self.assertIsNone(peer.frame())
        lines = [line for line in self.keeper.log().splitlines() if "connection fails" in line]
        self.assertEqual(len(lines), 6)
        good.data(b"fine", end=True)
        good.finish()
        self.assertEqual(good.stdout, b"fine")

    def test_bad_frames_on_a_stream(self) -> None:
        """A stream that breaks a rule is closed and its session lives (K6)."""
        for number, (kind, payload) in enumerate(
            [
                (wire.LIMIT, b"short"),
                (wire.LIMIT, struct.pack(">QQQ", 5, 5, 0)),
                (wire.EVENT, b"{}"),
                (wire.HELLO, b"{}"),
                (wire.OPEN, b"{}"),
            ]
        ):
            stream = self.keeper.open(self.session, "cat", attempt=number + 1)
            stream.send(kind, payload)
            frame = stream.frame()
            self.assertEqual((frame or (0,))[0], wire.RESET, payload)
        stream = self.keeper.open(self.session, "cat", attempt=99)
        stream.data(b"x", end=True)
        self.assertEqual(stream.finish()["status"], "ok")

    def test_silence(self) -> None:
        """HELLO, and OPEN on a stream, must come in time; idle control connections stay (K13)."""
        control = self.keeper.control()
        for peer in (Peer(self.keeper.connect()), Stream(self.keeper.connect())):
            kind, _, _ = peer.frame() or (0, 0, b"")
            self.assertEqual(kind, wire.RESET)
        self.assertIn("pid", control.call("status"))

    def test_version(self) -> None:
        """A peer that speaks other versions only is refused (K13)."""
        peer = Peer(self.keeper.connect())
        peer.send(wire.HELLO, {"proto": {"min": 2, "max": 9}, "purpose": "control"})
        kind, _, payload = peer.frame() or (0, 0, b"")
        self.assertEqual((kind, json.loads(payload)["code"]), (wire.REFUSED, "version"))
        self.assertIsNone(peer.frame())

    def test_unknown_call(self) -> None:
        """An unknown call is answered, the connection stays (K33)."""
        control = self.keeper.control()
        self.assertEqual(control.call("dance")["error"]["code"], "not-found")
        self.assertIn("pid", control.call("status"))

    def test_other_users(self) -> None:
        """Another user is not served, even if it reaches the socket (K4)."""
        if os.geteuid():
            self.skipTest("needs root")
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        os.chmod(self.keeper.home, 0o711)
        os.chmod(os.path.join(self.keeper.home, "keeper.sock"), 0o666)
        with socket_address(self.keeper.home) as address:
            os.seteuid(65534)
            try:
                sock.connect(address)
            finally:
                os.seteuid(0)
        self.assertEqual(sock.recv(1), b"")
        sock.close()


class HundredTests(KeeperCase):
    def test_long_answer(self) -> None:
        """A list that does not fit one frame comes in parts (K33)."""
        for _ in range(100):
            stream = self.keeper.open(os.urandom(16), "true", operator="o" * 200)
            stream.finish(acknowledge=False)
            stream.close()
        control = self.keeper.control()
        self.assertEqual(len(control.call("sessions")["sessions"]), 100)

    def test_descriptors_run_out(self) -> None:
        """Without descriptors an OPEN is refused, and later ones work again."""
        pid = self.keeper.process.pid
        now = len(os.listdir(f"/proc/{pid}/fd"))
        old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + 4, old[1]))
        self.assertEqual(self.keeper.refused(self.session, "true")[0], "overload")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
        self.run_to_end("true")


class ImportTests(SynchronousTestCase):
    def test_standard_library_only(self) -> None:
        """The keeper imports nothing but the standard library and itself, and few of that."""
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); import rshell_agent.keeper.main, json; "
            "import rshell_agent.keeper.command; print(json.dumps(sorted(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, AGENT_FOLDER],
            capture_output=True,
            check=True,
            timeout=30,
        )
        modules = set(json.loads(done.stdout))
        ours = {m for m in modules if m.partition(".")[0] == "rshell_agent"}
        foreign = {m.partition(".")[0] for m in modules - ours} - sys.stdlib_module_names
        self.assertEqual(foreign, {"__main__"})
        names = {m.partition(".")[2].partition(".")[0] for m in ours}
        self.assertEqual(names, {"", "jobs", "keeper"})
        heavy = {"asyncio", "subprocess", "typing", "logging", "argparse", "tomllib", "ssl"}
        self.assertEqual(modules & heavy, set())

    def test_command_line(self) -> None:
        """A wrong command line or home is told on standard error."""
        for arguments, status in (([], 2), (["--help"], 2), (["/no/such/home"], 1)):
            command = [*spawn_keeper_command("/")[:-1], *arguments]
            done = subprocess.run(command, capture_output=True, timeout=20, check=False)
            self.assertEqual(done.returncode, status)
            self.assertNotEqual(done.stderr, b"")
            self.assertNotIn(b"Traceback", done.stderr)
