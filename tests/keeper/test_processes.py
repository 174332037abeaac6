"""What a process gets, and how it ends, with a real keeper."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from rshell_agent.keeper import wire
from tests.keeper.client import Stream, b64
from tests.keeper.test_streams import TERMINAL, KeeperCase, alive


class TerminalTests(KeeperCase):
    def job(self, stream: Stream, command: bytes) -> int:
        """Type a background job into the shell and return its process number."""
        stream.data(command + b" echo pid=$((0 + $!))=\n")
        while (found := re.search(rb"pid=(\d+)=\r\n", stream.stdout)) is None:
            self.assertTrue(stream.step())
        return int(found[1])

    def test_size(self) -> None:
        """The size is there before the program starts, and follows window events (K26, K34)."""
        # not `stty` in the trap: a shell may miss a WINCH that comes while it runs the last one's
        line = "trap 'echo changed' WINCH; while :; do stty size; sleep 0.05; done"
        stream = self.keeper.open(self.session, line=line, pty=TERMINAL)
        stream.until(b"33 77\r\n")
        stream.event(1, "window", rows=50, columns=120)
        stream.until(b"50 120\r\n")
        stream.event(2, "window", rows=0, columns=0)
        stream.until(b"24 80\r\n")
        stream.event(3, "window", rows=99999, columns=1)
        stream.until(b"1000 1\r\n")
        self.assertIn(b"changed\r\n", stream.stdout)

    def test_environment(self) -> None:
        """TERM, session and operator are set; the keeper's own environment stays its own (K35)."""
        line = "tty; env | sort"
        stream = self.run_to_end(line=line, pty=TERMINAL, env={"COLOUR": "yes"}, cwd="/tmp")
        env = dict(e.split("=", 1) for e in stream.stdout.decode().split("\r\n")[1:-1])
        self.assertTrue(stream.stdout.startswith(b"/dev/pts/"))
        self.assertEqual(env["TERM"], "xterm-256color")
        self.assertEqual(env["RSHELL_SESSION"], self.session.hex())
        self.assertEqual((env["RSHELL_OPERATOR"], env["COLOUR"]), ("ann", "yes"))
        self.assertEqual(env["PWD"], "/tmp")
        allowed = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TERM", "COLOUR"}
        allowed |= {"RSHELL_SESSION", "RSHELL_OPERATOR", "PWD", "OLDPWD", "SHLVL", "_"}
        self.assertLessEqual(set(env), allowed)

    def test_odd_term(self) -> None:
        """A TERM that could be a path or a control sequence becomes xterm."""
        pty = {**TERMINAL, "term": "../x"}
        self.assertEqual(self.run_to_end(line="echo $TERM", pty=pty).stdout, b"xterm\r\n")

    def test_interrupt(self) -> None:
        """INT reaches the foreground process, not the shell around it (K26)."""
        stream = self.keeper.open(self.session, pty=TERMINAL)
        stream.data(b"(trap 'echo got''ten; exit' INT; echo rea''dy; sleep 30; sleep 30)\n")
        stream.until(b"ready\r\n")
        stream.event(1, "signal", signal="INT")
        stream.until(b"gotten\r\n")
        stream.data(b"exit 4\n")
        self.assertEqual(stream.finish()["exit_code"], 4)

    def test_end_of_input(self) -> None:
        """The end of input is typed to a terminal (K23)."""
        stream = self.keeper.open(self.session, line="cat; echo over", pty=TERMINAL)
        stream.data(b"a\n", end=True)
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertIn(b"over", stream.stdout)

    def test_end_of_input_is_typed_once(self) -> None:
        """A resumed end of input is not typed again, and a newcomer may go on typing (K23)."""
        line = "cat; echo o''ne; cat; echo t''wo"
        stream = self.keeper.open(self.session, line=line, pty=TERMINAL)
        stream.data(b"a\n", end=True)
        stream.until(b"one\r\n")
        resume = {"consumed": 0, "limit": 1 << 30, "events": 0}
        again = self.keeper.open(self.session, line=line, attempt=2, resume=resume)
        self.assertEqual(again.opened["consumed"], 2)
        again.data(b"", end=True)
        newcomer = self.keeper.open(self.session, line=line, attempt=3, resume=resume)
        newcomer.data(b"b\n")
        newcomer.until(b"b\r\nb\r\n")
        self.assertNotIn(b"two", newcomer.stdout)
        newcomer.data(b"", end=True)
        newcomer.until(b"two\r\n")

    def test_nonsense_from_the_operator(self) -> None:
        """Unknown signals and windows without sense are counted, and change nothing (K26)."""
        line = "stty size; read x; stty size; exit 6"
        stream = self.keeper.open(self.session, line=line, pty=TERMINAL)
        stream.until(b"33 77\r\n")
        odd_signals = ("FOO", "", "x" * 99, 9, None, ["INT"], "\n")
        for number, name in enumerate(odd_signals, 1):
            stream.event(number, "signal", signal=name)
        odd_windows: tuple[dict[str, object], ...] = (
            {},
            {"rows": 5},
            {"rows": "5", "columns": 5},
            {"rows": -1, "columns": 5},
            {"rows": 1.5, "columns": None},
        )
        for number, fields in enumerate(odd_windows, 8):
            stream.event(number, "window", **fields)
        while stream.granted[2] < 12:
            self.assertTrue(stream.step())
        stream.data(b"\n")
        self.assertEqual(stream.finish()["exit_code"], 6)
        self.assertEqual(stream.stdout.count(b"33 77\r\n"), 2)

    def test_cancelled_shell(self) -> None:
        """Cancelling an interactive shell ends it and its background jobs (K31)."""
        stream = self.keeper.open(self.session, pty=TERMINAL)
        pid = self.job(stream, b"sleep 1000 &")
        stream.event(1, "cancel")
        self.assertEqual(stream.finish()["status"], "signal")
        self.eventually(lambda: not alive(pid))

    def test_background_survives(self) -> None:
        """nohup keeps a job alive after the shell's normal end (K28)."""
        stream = self.keeper.open(self.session, pty=TERMINAL)
        pid = self.job(stream, b"nohup sleep 1000 >/dev/null 2>&1 &")
        stream.data(b"exit\n")
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertTrue(alive(pid))
        os.kill(pid, 9)


class EndTests(KeeperCase):
    def test_background_child(self) -> None:
        """A background child that holds the pipes delays the outcome by the drain only (K28)."""
        began = time.monotonic()
        stream = self.run_to_end(
            line="echo first; (sleep 0.1; echo second; exec sleep 50) & echo $!"
        )
        self.assertLess(time.monotonic() - began, 5)
        words = stream.stdout.split()
        self.assertEqual((words[0], words[2]), (b"first", b"second"))
        self.assertTrue(alive(int(words[1])))
        os.kill(int(words[1]), 9)

    def test_background_writer(self) -> None:
        """A background child that writes for ever is cut after the drain (K28)."""
        stream = self.keeper.open(self.session, line="yes & echo $! >&2")
        stream.keep = 1
        stream.finish()
        self.assertEqual((stream.outcome or {})["status"], "ok")
        self.assertGreater(stream.consumed, 1 << 20)
        self.eventually(lambda: not alive(int(stream.stderr)))  # by SIGPIPE

    def test_slow_operator(self) -> None:
        """What was written before the end arrives whole, however late credit comes (K28)."""
        command = "head -c 300000 /dev/zero; sleep 5 & exit 5"
        stream = self.keeper.open(self.session, line=command, limit=0)
        pid = stream.opened["pid"]
        self.eventually(lambda: not alive(pid))
        time_over = time.monotonic() + 1.0
        self.eventually(lambda: time.monotonic() > time_over)
        stream.tell(1 << 40)
        self.assertEqual(stream.finish()["exit_code"], 5)
        self.assertEqual(len(stream.stdout), 300000)

    def test_ignores_term(self) -> None:
        """What ignores TERM is killed later, and its whole group with it (K31)."""
        line = "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done"
        stream = self.keeper.open(self.session, line=line)
        stream.until(b"\n")
        child = int(stream.stdout)
        stream.event(1, "cancel")
        outcome = stream.finish()
        self.assertEqual((outcome["status"], outcome["signal"]), ("signal", "KILL"))
        self.eventually(lambda: not alive(child))

    def test_group_that_outlives_its_leader(self) -> None:
        """Children that ignore TERM are killed, also after their leader heeded it (K31)."""
        line = "(trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000) & echo $!; wait"
        stream = self.keeper.open(self.session, line=line)
        stream.until(b"ready")
        while stream.stdout.count(b"\n") < 2:
            stream.step()
        child = next(int(w) for w in stream.stdout.split() if w != b"ready")
        stream.event(1, "cancel")
        self.assertEqual(stream.finish()["signal"], "TERM")
        self.eventually(lambda: not alive(child))

    def test_signals(self) -> None:
        """A process ended by a signal says by which (K27)."""
        stream = self.keeper.open(self.session, "sleep", "60")
        stream.event(1, "signal", signal="USR1")
        outcome = stream.finish()
        self.assertEqual((outcome["status"], outcome["signal"]), ("signal", "USR1"))
        self.assertIsNone(outcome["exit_code"])

    def test_timeout(self) -> None:
        """A process that takes too long ends as timed out, its output is kept (K31)."""
        stream = self.run_to_end(line="echo begun; sleep 60", timeout_ms=200)
        outcome = stream.outcome or {}
        self.assertEqual((outcome["status"], outcome["exit_code"]), ("timeout", None))
        self.assertEqual(stream.stdout, b"begun\n")

    def test_revoked(self) -> None:
        """Revocation ends a session at once, and its outcome says so (K33)."""
        stream = self.keeper.open(self.session, "sleep", "60")
        control = self.keeper.control()
        ended = control.call("end", sessions=[b64(self.session)], reason="ann left")
        self.assertEqual(ended, {"ended": [b64(self.session)]})
        outcome = stream.finish()
        self.assertEqual((outcome["status"], outcome["code"]), ("error", "revoked"))
        self.assertEqual(outcome["message"], "ann left")


class PipeTests(KeeperCase):
    def test_shell_on_pipes(self) -> None:
        """A login shell without a terminal reads its commands to their end (K14)."""
        stream = self.keeper.open(self.session)
        stream.data(b"echo hi; tty; case $0 in -*) echo login; esac; echo e >&2", end=True)
        self.assertEqual(stream.finish()["status"], "ok")
        self.assertEqual(stream.stdout, b"hi\nnot a tty\nlogin\n")
        self.assertEqual(stream.stderr, b"e\n")

    def test_closed_input(self) -> None:
        """Whoever joins after the end of input may send more: it counts as consumed (K23)."""
        stream = self.keeper.open(self.session, line="cat; echo o''ver; exec sleep 60")
        stream.data(b"", end=True)
        stream.until(b"over\n")
        newcomer = self.keeper.open(self.session, line="x", attempt=2)
        newcomer.data(b"more", end=True)
        while newcomer.granted[0] < 4:
            self.assertTrue(newcomer.step())
        newcomer.event(1, "cancel")
        self.assertEqual(newcomer.finish()["signal"], "TERM")

    def test_reset_without_a_code(self) -> None:
        """RESET cancels, however odd its code: the operator has left (K30)."""
        for body in ({"code": ""}, {"code": "a\nb"}, {"code": 7}, {}):
            key = os.urandom(16)
            stream = self.keeper.open(key, "sleep", "60")
            pid = stream.opened["pid"]
            stream.send(wire.RESET, body)
            self.eventually(lambda pid=pid: not alive(pid))

    def test_reset_with_unread_output(self) -> None:
        """What a cancelled process wrote has no reader: its session ends with the process (K30)."""
        folder = f"/proc/{self.keeper.process.pid}/fd"
        control = self.keeper.control()
        control.call("sessions")
        before = len(os.listdir(folder))
        stream = self.keeper.open(self.session, "cat", "/dev/zero", limit=1000)
        stream.until(bytes(1000))
        pid = stream.opened["pid"]
        # As long as there is room, it sleeps nowhere in a pipe.
        self.eventually(lambda: "pipe" in Path(f"/proc/{pid}/wchan").read_text())
        control.call("sessions")
        stream.send(wire.RESET, {"code": "cancelled", "message": ""})
        self.eventually(lambda: len(os.listdir(folder)) == before)


class StartTests(KeeperCase):
    def test_not_found(self) -> None:
        """Commands and folders that do not exist are refused, and the id stays unused (K15)."""
        code, message = self.keeper.refused(self.session, "no-such-command")
        self.assertEqual((code, message), ("not-found", "command not found: no-such-command"))
        code, message = self.keeper.refused(self.session, "true", cwd="/no/such/folder")
        self.assertEqual(
            (code, message), ("not-found", "No such file or directory: /no/such/folder")
        )
        code, message = self.keeper.refused(self.session, "/etc/passwd")
        self.assertEqual((code, message), ("not-found", "Permission denied: /etc/passwd"))
        self.run_to_end("true")

    def test_shells_own_error(self) -> None:
        """A line is the shell's own affair: 127."""
        stream = self.run_to_end(line="no-such-command")
        self.assertEqual((stream.outcome or {})["exit_code"], 127)

    def test_bad_requests(self) -> None:
        """Requests that are malformed or dangerous are refused by name (K14, K35)."""
        for name in ("LD_PRELOAD", "PYTHONPATH", "IFS", "BASH_ENV", "RSHELL_OPERATOR", "a b", ""):
            code, message = self.keeper.refused(self.session, "true", env={name: "x"})
            self.assertEqual(code, "bad-request")
            self.assertIn(name, message)
        for fields in (
            {"attempt": 0},
            {"handler": "shell"},
            {"session": "AAAA"},
            {"operator": "a\nb"},
            {"detach": 1},
            {"process": None},
            {"process": {"kind": "exec"}},
            {"process": {"kind": "exec", "argv": [b64("a\0b")]}},
            {"process": {"kind": "exec", "argv": [b64("a")], "line": b64("b")}},
            {"process": {"kind": "shell", "line": b64("b")}},
            {"process": {"kind": "dance"}},
            {"process": {"kind": "worker"}},
            {"process": {"kind": "worker", "worker": "files"}},
            {"limit": -1},
            {"resume": {"consumed": 0}},
        ):
            code, _ = self.keeper.refused(self.session, "true", **fields)
            self.assertEqual(code, "bad-request", fields)

    def test_policy(self) -> None:
        """Policy decides on handlers and logins at each OPEN, also for a join (K8, K17)."""
        stream = self.keeper.open(self.session, "cat")
        self.assertEqual(self.keeper.refused(os.urandom(16), "true", login="nobody")[0], "policy")
        self.assertEqual(self.keeper.refused(os.urandom(16), "true", handler="odd")[0], "policy")
        self.keeper.policy('[policy]\nhandlers = ["shell", "odd"]\n')
        self.assertEqual(self.keeper.refused(os.urandom(16), "true")[0], "policy")
        self.assertEqual(self.keeper.refused(self.session, "cat", attempt=2)[0], "policy")
        self.keeper.open(os.urandom(16), "true", handler="odd").finish()
        stream.data(b"", end=True)
        self.assertEqual(stream.finish()["status"], "ok")

    def test_exec_for_other_handlers(self) -> None:
        """No built-in handler but exec takes a command; one that a plug-in brings does (K14)."""
        built_in = ("files", "sftp", "tail", "reboot", "forward", "facts", "shell")
        for handler in built_in:
            code, message = self.keeper.refused(os.urandom(16), "true", handler=handler)
            self.assertEqual((code, message), ("bad-request", f"{handler} does not take kind exec"))
            if handler != "shell":
                self.assertEqual(
                    self.keeper.refused(os.urandom(16), handler=handler)[0], "bad-request"
                )
        self.keeper.policy('[policy]\nhandlers = ["facts", "plugged"]\n')
        self.assertEqual(self.keeper.refused(os.urandom(16), "true", handler="exec")[0], "policy")
        self.assertEqual(
            self.keeper.refused(os.urandom(16), "true", handler="facts")[0], "bad-request"
        )
        self.keeper.open(os.urandom(16), "true", handler="plugged").finish()
        self.assertEqual(self.keeper.refused(os.urandom(16), handler="plugged")[0], "bad-request")

    def test_bad_policy(self) -> None:
        """A policy that is no TOML denies everything and is reported (K8)."""
        self.keeper.policy("[policy\n")
        code, message = self.keeper.refused(self.session, "true")
        self.assertEqual(code, "policy")
        self.assertIn("agent.toml", message)
        self.assertIn("agent.toml", self.keeper.control().call("policy")["error"])

    def test_max_sessions(self) -> None:
        """More sessions than policy allows are refused as overload, finished ones do not count."""
        self.keeper.policy("[policy]\nmax_sessions = 1\n")
        stream = self.keeper.open(self.session, "cat")
        self.assertEqual(self.keeper.refused(os.urandom(16), "true")[0], "overload")
        stream.data(b"", end=True)
        stream.finish(acknowledge=False)
        self.keeper.open(os.urandom(16), "true").finish()

    def test_another_login(self) -> None:
        """A root keeper runs a process as the login asked for, with its terminal (K34)."""
        if os.geteuid():
            self.skipTest("needs root")
        self.keeper.policy('[policy]\nlogins = ["daemon"]\n')
        line = "id -un; id -Gn; echo $HOME; stat -c %U $(tty); umask"
        stream = self.run_to_end("sh", "-c", line, pty=TERMINAL)
        lines = stream.stdout.decode().split("\r\n")
        self.assertEqual(lines[0], "daemon")
        self.assertNotIn("root", lines[1].split())
        self.assertEqual(lines[3:5], ["daemon", "0022"])
