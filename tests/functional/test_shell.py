"""``rshell shell`` at a real terminal."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import environment, require, state, until
from tests.functional.terminal import Terminal

#: Marks where a prompt ends, and what a command printed: the echo of what we type never matches.
#: Without the marks that readline puts around pasted text.
PROMPT = "bind 'set enable-bracketed-paste off' 2>/dev/null; PS1='rdy''> '\n"

#: A program that says how large its terminal is, at once when a line is typed.
SIZE_AT_EACH_KEY = """
import fcntl, os, struct, termios
print("rea" + "dy", flush=True)
while os.read(0, 9):
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    print("size", rows, columns, flush=True)
"""


class ShellCase(FleetCase):
    def shell(self, *arguments: str, fleet: Fleet | None = None, **size: int) -> Terminal:
        """Start ``rshell shell`` at a terminal of its own."""
        fleet = fleet or self.fleet
        terminal = Terminal(
            fleet.cli("shell", *arguments), environment(fleet.base), fleet.base, **size
        )
        self.addCleanup(terminal.close)
        return terminal

    def ready(self, *arguments: str, fleet: Fleet | None = None, **size: int) -> Terminal:
        """The same, and wait for the shell's prompt."""
        terminal = self.shell(*(arguments or ("pump-1",)), fleet=fleet, **size)
        terminal.expect(r"[#$>] ")
        terminal.type(PROMPT)
        terminal.expect("rdy> ")
        return terminal

    def quit(self, terminal: Terminal) -> None:
        terminal.type("exit 0\n")
        self.assertEqual(0, terminal.wait())


class SessionTests(ShellCase):
    def test_prompt_and_echo(self) -> None:
        """There is a prompt, what is typed is echoed once, and output follows."""
        terminal = self.ready()
        terminal.type("echo a''b\n")
        terminal.expect(r"echo a''b\r\nab\r\nrdy> ")
        self.assertEqual(1, terminal.seen.count(b"echo a''b"))
        self.quit(terminal)

    def test_login_shell(self) -> None:
        """It is the login's own shell, as a login shell, in its home, on a terminal."""
        terminal = self.ready()
        terminal.type('echo "<$0|$PWD|$(tty)>"\n')
        account = pwd.getpwuid(os.getuid())
        shell = os.path.basename(account.pw_shell)
        terminal.expect(rf"^<-{shell}\|{account.pw_dir}\|/dev/pts/\d+>")
        self.quit(terminal)

    def test_size_and_resize(self) -> None:
        """The device's terminal has our size, and follows when ours changes."""
        require("stty")
        terminal = self.ready(rows=37, columns=111)
        terminal.type("stty size\n")
        terminal.expect(r"^37 111\r\n")
        for rows, columns in ((50, 140), (24, 80), (11, 33)):
            terminal.resize(rows, columns)
            terminal.type(f"until stty size | grep '{rows} {columns}'; do :; done\n")
            terminal.expect(rf"^{rows} {columns}\r\n")
        self.quit(terminal)

    def test_key_behind_a_resize(self) -> None:
        """A key typed after our terminal was resized finds the new size, also when we are slow."""
        terminal = self.ready(rows=37, columns=111)
        terminal.type("stty -echo; exec python3 -c '" + SIZE_AT_EACH_KEY + "'\n")
        terminal.expect("ready")
        for rows, columns in ((50, 140), (24, 80), (11, 90), (12, 91), (13, 92)):
            os.kill(terminal.process.pid, signal.SIGSTOP)
            terminal.resize(rows, columns)
            terminal.type("k\n")
            os.kill(terminal.process.pid, signal.SIGCONT)
            terminal.expect(r"size (\d+) (\d+)\r\n")
            self.assertIn(f"size {rows} {columns}\r\n".encode(), terminal.seen)
        terminal.type("\x04")
        self.assertEqual(0, terminal.wait())

    def test_term(self) -> None:
        """TERM on the device is ours."""
        terminal = self.ready()
        terminal.type('echo "<$TERM>"\n')
        terminal.expect("^<xterm-256color>")
        self.quit(terminal)

    def test_interrupt(self) -> None:
        """^C interrupts what runs on the device, not us."""
        terminal = self.ready()
        # A program that has answered is in the foreground and starts nothing more: shells that are
        # interrupted as they begin a program may wait for its end instead.
        terminal.type("echo go''ing; cat\n")
        terminal.expect("^going\r\n")
        terminal.type("meow\n")
        terminal.expect("meow\r\nmeow\r\n")
        terminal.type("\x03")
        terminal.expect("rdy> ", 5)
        terminal.type("echo $?\n")
        terminal.expect(r"^130\r\n")
        self.quit(terminal)

    def test_end_of_file(self) -> None:
        """^D at the prompt ends the shell."""
        terminal = self.ready()
        terminal.type("(exit 5)\n")
        terminal.expect("rdy> ")
        terminal.type("\x04")
        self.assertEqual(5, terminal.wait())

    def test_exit_status(self) -> None:
        """The shell's exit status is ours, and the terminal is as it was."""
        terminal = self.ready()
        self.assertNotEqual(terminal.initial, terminal.mode())
        terminal.type("exit 42\n")
        self.assertEqual(42, terminal.wait())
        self.assertEqual(terminal.initial, terminal.mode())

    def test_signal_status(self) -> None:
        """A shell that was killed gives 128 and the signal's number."""
        terminal = self.ready()
        terminal.type("kill -9 $$\n")
        self.assertEqual(137, terminal.wait())
        self.assertEqual(terminal.initial, terminal.mode())

    def test_much_output(self) -> None:
        """A flood of output arrives whole and in order."""
        terminal = self.ready()
        terminal.type("seq 1 60000; echo do''ne\n")
        terminal.expect("^done\r\n", 60)
        numbers = [line for line in terminal.seen.split(b"\r\n") if line.isdigit()]
        self.assertEqual([b"%d" % n for n in range(1, 60001)], numbers)
        self.quit(terminal)

    def test_full_screen_program(self) -> None:
        """A full-screen program, here tmux, runs as at home."""
        require("tmux")
        terminal = self.ready()
        socket = self.fleet.base / "tm"
        terminal.type(f"tmux -S {socket} new 'echo in''side; stty size; read x; exit'\n")
        terminal.expect("inside")
        terminal.expect("29 100")
        terminal.type("\n")
        terminal.expect("rdy> ")
        self.quit(terminal)


class LeavingTests(ShellCase):
    def device_shell(self, terminal: Terminal) -> int:
        terminal.type('echo "<$$>"\n')
        return int(terminal.expect(r"^<(\d+)>\r\n").group(1))

    def test_escape(self) -> None:
        """~. at the beginning of a line disconnects, and ends the shell."""
        terminal = self.ready()
        pid = self.device_shell(terminal)
        terminal.expect("rdy> ")
        terminal.type("\r~.")
        self.assertEqual(255, terminal.wait(10))
        self.assertIn(b"disconnected", terminal.seen)
        self.assertEqual(terminal.initial, terminal.mode())
        until(lambda: state(pid) == "", "the shell ended", 10)

    def test_escape_elsewhere(self) -> None:
        """~. within a line is text, and ~~ is one ~."""
        terminal = self.ready()
        terminal.type("echo 'a~.b'\n")
        terminal.expect(r"^a~\.b\r\n")
        terminal.expect("rdy> ")
        terminal.type("~~ 2>&1 | grep -o irector\n")
        terminal.expect(r"^irector\r\n")
        self.quit(terminal)

    def test_terminated(self) -> None:
        """kill -TERM of rshell leaves the terminal as it was, and ends the shell."""
        terminal = self.ready()
        pid = self.device_shell(terminal)
        terminal.process.send_signal(signal.SIGTERM)
        self.assertEqual(143, terminal.wait(10))
        self.assertEqual(terminal.initial, terminal.mode())
        until(lambda: state(pid) == "", "the shell ended", 10)

    def test_hangup(self) -> None:
        """A terminal that hangs up ends rshell; the shell lives on, listed, until it is ended."""
        terminal = self.ready()
        pid = self.device_shell(terminal)
        terminal.process.send_signal(signal.SIGHUP)
        self.assertEqual(129, terminal.wait(10))
        self.end_detached(pid)

    def test_closed_terminal(self) -> None:
        """A terminal that is gone, as when its window is closed, does not end the shell either."""
        terminal = self.ready()
        pid = self.device_shell(terminal)
        terminal.hang_up()
        self.end_detached(pid)

    def end_detached(self, pid: int) -> None:
        """Find the one detached shell in the listing, and end it from there."""

        def detached() -> list[Any]:
            rows = json.loads(self.fleet.rshell("sessions", "--json").stdout)
            return [row for row in rows if row["state"] == "detached"]

        until(lambda: len(detached()) == 1, "it is listed as detached", 10)
        self.assertNotEqual("", state(pid))
        done = self.fleet.rshell("sessions", "--end", detached()[0]["session"][:8])
        self.assert_status(0, done)
        until(lambda: state(pid) == "", "the shell ended", 10)

    def test_nohup_survives(self) -> None:
        """What was started with nohup or setsid survives the shell, as with ssh."""
        terminal = self.ready()
        terminal.type('nohup sleep 300 >/dev/null 2>&1 & echo "<$!>"\n')
        pid = int(terminal.expect(r"^<(\d+)>\r\n").group(1))
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        terminal.expect("rdy> ")
        self.quit(terminal)
        self.assertEqual("S", state(pid))

    def test_gateway_killed(self) -> None:
        """When the gateway is killed, rshell says so, and ~. leaves; the shell lives on."""
        fleet = self.own_fleet("solo-1")
        terminal = self.ready("solo-1", fleet=fleet)
        pid = self.device_shell(terminal)
        self.addCleanup(_kill, pid)
        assert fleet.gateway is not None
        fleet.gateway.kill()
        terminal.expect(r"solo-1: link lost \d+ s, retrying, ~\. quits")
        terminal.type("\r~.")
        self.assertEqual(255, terminal.wait(10))
        self.assertEqual(terminal.initial, terminal.mode())
        self.assertIn(b"rshell attach ", terminal.seen[-400:])
        self.assertNotIn(b"Traceback", terminal.seen)
        self.assertEqual("S", state(pid))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class WithoutTerminalTests(ShellCase):
    def test_script_on_input(self) -> None:
        """Without a terminal the input is passed on as it is."""
        done = self.fleet.rshell("shell", "pump-1", data=b"echo sc''ript\nexit 3\n")
        self.assert_status(3, done)
        self.assertIn(b"script\n", done.stdout)

    def test_refused(self) -> None:
        """An unknown device gives 255 and one line; the terminal was never changed."""
        terminal = self.shell("nowhere")
        self.assertEqual(255, terminal.wait())
        self.assertEqual(1, terminal.seen.count(b"\n"), terminal.seen)
        self.assertIn(b"nowhere", terminal.seen)
        self.assertEqual(terminal.initial, terminal.mode())


class LoginTests(ShellCase):
    def setUp(self) -> None:
        if os.getuid() != 0:
            raise SkipTest("only root can be somebody else")
        others = [
            account
            for account in pwd.getpwall()
            if account.pw_uid >= 1000
            and account.pw_shell.endswith("sh")
            and os.path.isdir(account.pw_dir)
        ]
        if not others:
            raise SkipTest("there is no other login with a shell")
        self.login = others[0].pw_name

    def test_other_login(self) -> None:
        """--as runs shell and commands as a login that policy allows, and only as such."""
        agent = self.fleet.join("multi-1")
        self.addCleanup(self.fleet.remove, agent)
        agent.configure(f'[policy]\nlogins = ["self", "{self.login}"]\n')
        agent.start()
        self.fleet.wait_live("multi-1")
        done = self.fleet.run("multi-1", "--as", self.login, "--", "id -un; echo $HOME $USER; pwd")
        self.assert_status(0, done)
        home = pwd.getpwnam(self.login).pw_dir
        self.assertEqual(
            [self.login, f"{home} {self.login}", home], done.stdout.decode().splitlines()
        )
        terminal = self.shell("multi-1", "--as", self.login)
        terminal.expect(r"[#$>] ")
        terminal.type('echo "<$(id -un)>"; exit 4\n')
        terminal.expect(f"<{self.login}>")
        self.assertEqual(4, terminal.wait())
        refused = self.fleet.run("multi-1", "--as", "daemon", "--", "id")
        self.assert_status(255, refused)
        self.assertIn(b"does not allow the login daemon", refused.stderr)

    def test_no_such_login(self) -> None:
        """A login that policy names and the device does not have is refused by name."""
        agent = self.fleet.join("multi-2")
        self.addCleanup(self.fleet.remove, agent)
        agent.configure('[policy]\nlogins = ["self", "no-such-login"]\n')
        agent.start()
        self.fleet.wait_live("multi-2")
        refused = self.fleet.run("multi-2", "--as", "no-such-login", "--", "id")
        self.assert_status(255, refused)
        self.assertIn(b"no-such-login", refused.stderr)

    def test_refused_shell(self) -> None:
        """A shell as a login that policy does not allow says so, in one line."""
        done = self.fleet.start(
            self.fleet.cli("shell", "pump-1", "--as", "daemon"), stdin=subprocess.DEVNULL
        ).finish()
        self.assert_status(255, done)
        self.assertIn(b"does not allow the login daemon", done.stderr)
