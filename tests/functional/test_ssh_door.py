"""Stock ``ssh`` into devices: shells, commands, signals, who is let in, and who is not."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess

from tests.functional.fleet import Fleet
from tests.functional.processes import environment, state, until
from tests.functional.ssh_door import SshCase, SshFleet
from tests.functional.terminal import Terminal

#: Marks where a prompt ends: the echo of what is typed never matches, nor do readline's marks.
PROMPT = "bind 'set enable-bracketed-paste off' 2>/dev/null; PS1='rdy''> '\n"


class CommandTests(SshCase):
    def test_command(self) -> None:
        """A command's output, standard error and exit status come back apart."""
        done = self.fleet.ssh("pump-1", "echo out; echo err >&2; exit 7")
        self.assertEqual((7, b"out\n", b"err\n"), (done.status, done.stdout, done.stderr))

    def test_input(self) -> None:
        """Standard input reaches the command, with its end; arguments keep their quoting."""
        done = self.fleet.ssh("pump-1", "cat; printf '<%s>' 'a  b'", data=b"in\0put")
        self.assertEqual((0, b"in\0put<a  b>"), (done.status, done.stdout))

    def test_signal(self) -> None:
        """A command that a signal ends fails, as with sshd; its status is 255."""
        self.assertEqual(255, self.fleet.ssh("pump-1", "kill -TERM $$").status)

    def test_shell_from_a_pipe(self) -> None:
        """A shell without a terminal takes commands from standard input."""
        done = self.fleet.ssh("pump-1", options=("-T",), data=b"echo $((6*7)); exit 3\n")
        self.assertEqual((3, b"42\n"), (done.status, done.stdout))

    def test_environment(self) -> None:
        """Language settings go along; nothing else does."""
        options = ("-oSetEnv=LC_RSHELL=yes LD_PRELOAD=/no", "-T")
        done = self.fleet.ssh("pump-1", "echo $LC_RSHELL-$LD_PRELOAD", options=options)
        self.assertEqual(b"yes-\n", done.stdout)

    def test_reader_goes(self) -> None:
        """A command whose output nobody reads any more ends, as by SIGPIPE."""
        words = [str(word) for word in self.fleet.ssh_command("pump-1", "yes; echo $? >&2")]
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(self.fleet.base),
        ) as process:
            assert process.stdout is not None
            self.assertEqual(b"y\n", process.stdout.readline())
            process.stdout.close()
            self.assertNotEqual(None, process.wait(20))

    def test_login(self) -> None:
        """The user name may say a login; one that the device does not allow is refused."""
        done = self.fleet.ssh("nosuchlogin@pump-1", "id")
        self.assertEqual((255, b""), (done.status, done.stdout))
        self.assertIn(b"rshell: pump-1: ", done.stderr)
        self.assert_one_line(done.stderr)

    def test_unknown_device(self) -> None:
        """An unknown device: one line, 255; what was typed cannot move the cursor."""
        done = self.fleet.ssh("nope\x1b[2J", "id")
        self.assertEqual(255, done.status)
        self.assert_one_line(done.stderr)
        self.assertNotIn(b"\x1b", done.stderr)
        self.assertIn(b"rshell devices", self.fleet.ssh("nope", "id").stderr)

    def test_too_long(self) -> None:
        """A command that does not fit is refused in one line, and runs nowhere."""
        done = self.fleet.ssh("pump-1", "true " + "x" * 50_000)
        self.assertEqual(255, done.status)
        self.assertIn(b"at most", done.stderr)

    def test_refused_forwards(self) -> None:
        """Agents, X11 and -R reach nothing; the command itself runs."""
        done = self.fleet.ssh("pump-1", "echo [$SSH_AUTH_SOCK$DISPLAY]", options=("-A", "-X"))
        self.assertEqual((0, b"[]\n"), (done.status, done.stdout))
        options = ("-R", "0:127.0.0.1:9", "-oExitOnForwardFailure=yes")
        self.assertEqual(255, self.fleet.ssh("pump-1", "id", options=options).status)

    def test_audit(self) -> None:
        """Who came by ssh, by which key, and what they ran, is in the audit log."""
        self.assertEqual(0, self.fleet.ssh("pump-2", "true audited").status)
        rows = json.loads(self.fleet.rshell("audit", "--json", "--limit", "20").stdout)
        row = next(row for row in rows if row["kind"] == "session" and row["door"] == "ssh")
        self.assertEqual(
            ("admin", "pump-2", "exec"), (row["operator"], row["device"], row["handler"])
        )
        self.assertTrue(
            any(row["kind"] == "operator.entered" and row["door"] == "ssh" for row in rows)
        )

    def test_many_channels(self) -> None:
        """One connection carries ten sessions at once; more are refused, and it goes on."""
        path = self.fleet.base / "mux"
        mux = (f"-oControlPath={path}", "-oControlMaster=no")
        master = self.fleet.start(
            self.fleet.ssh_command("pump-1", options=("-N", "-M", f"-oControlPath={path}"))
        )
        self.addCleanup(master.kill)
        until(path.exists, lambda: "the master's socket")
        gate = self.fleet.base / "gate"
        waiting = f"until [ -e {gate} ]; do sleep 0.1; done"
        running = [
            self.fleet.start(
                self.fleet.ssh_command(
                    "pump-1",
                    f"echo {n} >> {gate}.in; {waiting}; echo {n}",
                    options=mux,
                )
            )
            for n in range(10)
        ]  # fmt: skip
        entered = self.fleet.base / "gate.in"
        until(
            lambda: entered.exists() and len(entered.read_text().split()) == 10,
            lambda: "ten sessions",
        )
        self.assertEqual(
            255, self.fleet.ssh("pump-1", "true", options=(*mux, "-oProxyCommand=false")).status
        )
        gate.touch()
        for n, program in enumerate(running):
            self.assertEqual(f"{n}\n".encode(), program.finish(b"", 30).stdout)
        self.assertEqual(0, self.fleet.ssh("pump-1", "true", options=mux).status)


class TerminalTests(SshCase):
    def ready(self, fleet: Fleet | None = None, *words: str, **size: int) -> Terminal:
        fleet = fleet or self.fleet
        assert isinstance(fleet, SshFleet)
        terminal = self.terminal(
            fleet.ssh_command("pump-1", *words, options=("-tt",)), fleet, **size
        )
        terminal.expect(r"[#$>] ")
        terminal.type(PROMPT)
        terminal.expect("rdy> ")
        return terminal

    def test_shell(self) -> None:
        """A login shell on a terminal of the right size and type, which follows a resize."""
        terminal = self.ready(rows=31, columns=97)
        terminal.type("stty size; echo $TERM\n")
        terminal.expect(r"31 97\r\n" + re.escape(os.environ.get("TERM", "xterm"))[:2])
        terminal.resize(40, 120)
        terminal.type("sleep 0.3; stty size\n")
        terminal.expect(r"40 120\r\n")
        terminal.type("exit 5\n")
        self.assertEqual(5, terminal.wait())

    def test_interrupt(self) -> None:
        """^C reaches what runs in the foreground at once, though it floods the terminal."""
        terminal = self.ready()
        terminal.type("yes\n")
        terminal.expect(r"y\r\ny\r\n")
        terminal.type(b"\x03")
        terminal.expect("rdy> ")
        terminal.type("exit\n")
        terminal.wait()

    def test_left_on_purpose(self) -> None:
        """~. ends the shell on the device, and what was started in it."""
        terminal = self.ready()
        terminal.type("echo pid=$$.\n")
        pid = int(terminal.expect(r"pid=(\d+)\.")[1])
        terminal.type("\n~.")
        terminal.wait()
        until(lambda: state(pid) in ("", "Z"), lambda: "the shell's end")

    def test_client_killed(self) -> None:
        """A shell outlives a client that is gone without a word, and is attached to again."""

        def states() -> dict[str, str]:
            rows = json.loads(self.fleet.rshell("sessions", "--json", "pump-1").stdout)
            return {row["session"]: row["state"] for row in rows}

        others = set(states())  # of other tests, which may be about to end
        terminal = self.ready()
        mine = (set(states()) - others).pop()
        terminal.type("x=kept; echo pid=$$.\n")
        pid = int(terminal.expect(r"pid=(\d+)\.")[1])
        terminal.process.send_signal(signal.SIGKILL)
        terminal.wait()
        until(lambda: states()[mine] == "detached", lambda: str(states()), 20, 0.2)
        self.assertNotIn(state(pid), ("", "Z"))
        again = self.terminal(self.fleet.cli("attach", mine), self.fleet)
        again.type("echo $x-$((1+1))\n")
        again.expect("kept-2")
        again.type("exit 0\n")
        self.assertEqual(0, again.wait())


class LoginTests(SshCase):
    def test_kinds_of_keys(self) -> None:
        """ed25519, all of ecdsa and a long rsa key let in; a short one is refused when added."""
        for bits, kind in (
            (None, "ed25519"),
            (256, "ecdsa"),
            (384, "ecdsa"),
            (521, "ecdsa"),
            (3072, "rsa"),
        ):
            words = ("-t", kind, *(("-b", str(bits)) if bits else ()))
            key = self.fleet.known_key(f"k-{kind}-{bits}", "admin", *words)
            self.assertEqual(0, self.fleet.ssh("pump-1", "true", key=key).status, words)
        short = self.fleet.new_key("short", "-t", "rsa", "-b", "2048")
        done = self.fleet.rshell("keys", "add", "admin", f"{short}.pub")
        self.assertEqual(255, done.status)
        self.assertIn(b"3072", done.stderr)

    def test_bad_keys(self) -> None:
        """Private keys, nonsense, damaged keys, options and other people's keys are refused."""
        key = self.fleet.new_key("mine")
        line = key.with_name("mine.pub").read_text()
        blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x03abc").decode()
        bad = [
            key.read_text(),
            "nonsense",
            "",
            f"command=x {line}",
            f"ssh-ed25519 {blob}",
            "ssh-dss AAAA",
        ]
        for text in bad:
            done = self.fleet.rshell("keys", "add", "admin", data=text.encode())
            self.assertEqual(255, done.status, text)
            self.assert_one_line(done.stderr)
        done = self.fleet.rshell("keys", "add", "nobody", f"{key}.pub")
        self.assertEqual(255, done.status)
        self.assertIn(b"nobody", done.stderr)

    def test_removed_key(self) -> None:
        """A key that is removed lets nobody in, and who is in by it is cut off at once."""
        fleet = self.own_ssh_fleet("pump-1")
        key = fleet.known_key("second")
        program = fleet.start(
            fleet.ssh_command("pump-1", f"touch {fleet.base}/in; sleep 100", key=key)
        )
        until((fleet.base / "in").exists, lambda: "the command runs")
        row = next(
            row
            for row in json.loads(fleet.rshell("keys", "list", "--json").stdout)
            if row["comment"] == "second"
        )
        self.assertNotEqual(None, row["last_used"])
        done = fleet.rshell("keys", "remove", "admin", row["fingerprint"])
        self.assertIn(b"1 connection closed", done.stdout)
        ended = program.finish(b"", 10)
        self.assertEqual(255, ended.status)
        self.assertIn(b"this key was removed", ended.stderr)
        self.assertEqual(255, fleet.ssh("pump-1", "true", key=key).status)

    def test_revoked_operator(self) -> None:
        """A revoked operator's connections end within a second, and their keys are forgotten."""
        fleet = self.own_ssh_fleet("pump-1")
        assert fleet.rshell("invite", "operator", "bob", "--role", "admin").status == 0
        joined = fleet.command(
            [*fleet.cli()[:-2], "--home", str(fleet.base / "bob"), "join", "-"],
            fleet.invite("operator", "bob", "--role", "admin"),
        )
        self.assertEqual(0, joined.status, joined)
        key = fleet.known_key("bobs", "bob")
        program = fleet.start(
            fleet.ssh_command("pump-1", f"touch {fleet.base}/in; sleep 100", key=key)
        )
        until((fleet.base / "in").exists, lambda: "the command runs")
        self.assertEqual(0, fleet.rshell("revoke", "operator", "bob").status)
        ended = program.finish(b"", 5)
        self.assertEqual(255, ended.status)
        self.assertIn(b"bob is revoked", ended.stderr)
        self.assertEqual(255, fleet.ssh("pump-1", "true", key=key).status)
        self.assertEqual([], json.loads(fleet.rshell("keys", "list", "bob", "--json").stdout))

    def test_unknown_key(self) -> None:
        """Unknown keys are refused; a source that goes on trying is turned away for a while."""
        fleet = self.own_ssh_fleet()
        key = fleet.new_key("stranger")
        with self.quiet_gateway(fleet):
            for _ in range(4):
                done = fleet.ssh("pump-1", "true", key=key)
                self.assertEqual(255, done.status)
                self.assertIn(b"Permission denied (publickey)", done.stderr)
            done = fleet.ssh("pump-1", "true", key=key)
            self.assertEqual(255, done.status)
            self.assertIn(b"Not allowed at this time: try again", done.stderr)

    def test_offline(self) -> None:
        """A device that is away is reported at once, with what to do."""
        fleet = self.own_ssh_fleet()
        fleet.join("pump-9")
        done = fleet.ssh("pump-9", "true", seconds=10)
        self.assertEqual(255, done.status)
        self.assertIn(
            b"pump-9 is offline: it has never connected; it does not check in, it dials by itself "
            b"(see: rshell why pump-9)",
            done.stderr,
        )
