"""Shells that outlive their links and their operators: sessions, attach, viewers (R7 to R10)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import Any

from tests.functional.processes import Program, lasting, require, state, until
from tests.functional.relayed import DEVICE, RelayedCase
from tests.functional.terminal import Terminal

#: What is seen after a repaint: tmux's own line with the window's name.
PAINTED = "p4inted"


class ShellCase(RelayedCase):
    def leave(self, terminal: Terminal) -> str:
        """Kill a terminal's rshell; return the session that is detached then."""
        terminal.process.kill()
        terminal.process.wait()
        return str(self.fleet.session("detached")["session"])

    def attach(self, session: str, *options: str, **size: Any) -> Terminal:
        """Attach at another terminal."""
        return self.terminal("attach", *options, session[:8], **size)

    def quit(self, terminal: Terminal) -> None:
        terminal.type("exit 5\n")
        self.assertEqual(5, terminal.wait())
        self.assertEqual(terminal.initial, terminal.mode())


class BrokenLinkTests(ShellCase):
    def _numbers_survive(self, terminal: Terminal, breaks: int) -> None:
        """Check that output that was produced over breaks is whole and in order."""
        terminal.expect("^done\r\n", 60)
        # Without the line that said that the link is away.
        shown = re.sub(rb"\x1b7\x1b\[1;1H.*?\x1b8", b"", terminal.seen)
        found = [int(line) for line in re.findall(rb"^n(\d+)\r$", shown, re.M)]
        self.assertEqual(list(range(1, breaks * 1000 + 1)), found)
        self.quit(terminal)

    def test_cut_while_typing(self) -> None:
        """What is typed while a link is away arrives, once and in order."""
        terminal = self.ready()
        for relay in (self.fleet.operator_side, self.fleet.device_side):
            before = relay.accepted
            relay.arrival = "hold"
            relay.cut()
            terminal.type("echo 'it was'' typed' | tr a-z A-Z\n")
            until(lambda: relay.accepted > before, "it dials")  # noqa: B023  # called at once
            relay.restore()
            terminal.expect("^IT WAS TYPED\r\n", 60)
        self.assertEqual(2, terminal.seen.count(b"IT WAS TYPED"))
        self.quit(terminal)

    def test_output_over_breaks(self) -> None:
        """Output goes on where it was after the operator's, the device's and both links broke."""
        terminal = self.ready()
        near, far = self.fleet.operator_side, self.fleet.device_side
        terminal.type(
            "for i in 1 2 3 4 5 6; do seq -f n%.0f $((i*1000-999)) $((i*1000)); sleep 1; done;"
            " echo do''ne\n"
        )
        for number, relays in ((100, (near,)), (1100, (far,)), (2100, (near, far))):
            terminal.expect(f"^n{number}\r\n")
            for relay in relays:
                relay.cut()
        self._numbers_survive(terminal, 6)

    def test_gateway_killed(self) -> None:
        """A shell goes on through another gateway process."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        self.fleet.kill_gateway()
        self.fleet.restart_gateway()
        terminal.type("echo sti''ll $$\n")
        terminal.expect(f"^still {pid}\r\n", 60)
        self.quit(terminal)

    def test_agent_killed(self) -> None:
        """A shell goes on through another agent process."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        self.fleet.agent.kill()
        self.fleet.agent.start()
        terminal.type("echo sti''ll $$\n")
        terminal.expect(f"^still {pid}\r\n", 60)
        self.quit(terminal)

    def test_notice(self) -> None:
        """One line at the top tells of the break and how to quit; ~. quits at once."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        self.fleet.operator_side.arrival = "refuse"
        self.fleet.operator_side.cut()
        terminal.expect(rb"pump-1: link lost \d+ s, retrying, ~\. quits", 10)
        began = time.monotonic()
        terminal.type("\r~.")
        self.assertEqual(255, terminal.wait(10))
        self.assertLess(time.monotonic() - began, 3)
        self.assertEqual(terminal.initial, terminal.mode())
        # It could not be told to end: it lives, and we are told how to go on.
        self.assertEqual("S", state(pid))
        found = terminal.expect(r"rshell attach ([0-9a-f]{8})")
        self.fleet.operator_side.restore()
        row = self.fleet.session("detached")
        self.assertEqual(found.group(1).decode(), row["session"][:8])

    def test_window_while_away(self) -> None:
        """A window that changed while the link was away has the new size after."""
        terminal = self.ready()
        before = self.fleet.operator_side.accepted
        self.fleet.operator_side.arrival = "refuse"
        self.fleet.operator_side.cut()
        terminal.resize(44, 133)
        until(lambda: self.fleet.operator_side.accepted > before, "it dials")
        self.fleet.operator_side.restore()
        terminal.type("until stty size | grep '44 133'; do sleep 0.1; done\n")
        terminal.expect(r"^44 133\r\n")
        self.quit(terminal)


class AttachTests(ShellCase):
    def test_killed_and_attached(self) -> None:
        """A shell whose rshell was killed is listed as detached, and goes on elsewhere."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        terminal.type("cd /; kept=va''lue; echo ke''pt\n")
        terminal.expect("^kept\r\n")
        session = self.leave(terminal)
        row = self.fleet.session("detached")
        self.assertEqual(
            (DEVICE, "shell", "admin", 0, None),
            tuple(row[key] for key in ("device", "handler", "operator", "viewers", "outcome")),
        )
        text = self.fleet.rshell("sessions").stdout.decode()
        self.assertRegex(text, rf"{session[:8]} +{DEVICE} +shell .* detached")
        again = self.attach(session)
        again.type('echo "<$$|$PWD|$kept>"\n')
        again.expect(rf"^<{pid}\|/\|value>")
        self.assertEqual("attached", self.fleet.session("attached")["state"])
        self.quit(again)
        until(lambda: state(pid) == "", "the shell ended", 10)
        self.assertEqual([], [r for r in self.fleet.sessions() if r["state"] != "finished"])

    def test_output_meanwhile(self) -> None:
        """What was written while nobody was attached comes first, whole and once."""
        terminal = self.ready()
        go = self.file("go")
        terminal.type(
            f"echo go''ing; until test -e {go}; do sleep 0.1; done; seq -f n%.0f 1 9000;"
            f" echo do''ne; touch {go}2\n"
        )
        terminal.expect("^going\r\n")
        session = self.leave(terminal)
        go.touch()
        until(lambda: go.with_name(go.name + "2").exists(), "it was written")
        again = self.attach(session)
        again.expect("^done\r\n")
        found = [int(line) for line in re.findall(rb"^n(\d+)\r$", again.seen, re.M)]
        self.assertEqual(list(range(1, 9001)), found)
        again.expect("rdy> ")
        self.quit(again)

    def test_left_with_d(self) -> None:
        """~d leaves the shell running and says how to go on."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        terminal.expect("rdy> ")
        terminal.type("\r~d")
        self.assertEqual(255, terminal.wait(10))
        session = terminal.expect(r"rshell attach ([0-9a-f]{8})").group(1).decode()
        self.assertEqual(terminal.initial, terminal.mode())
        self.assertEqual("S", state(pid))
        again = self.attach(session)
        self.assertEqual(pid, self.shell_pid(again))
        self.quit(again)

    def test_hung_up(self) -> None:
        """A terminal that hangs up leaves the shell running."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        terminal.process.send_signal(signal.SIGHUP)
        self.assertEqual(129, terminal.wait(10))
        session = str(self.fleet.session("detached")["session"])
        self.assertEqual("S", state(pid))
        self.quit(self.attach(session))

    def test_across_restarts(self) -> None:
        """A detached shell is found and continued after gateway and agent were killed."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        session = self.leave(terminal)
        self.fleet.kill_gateway()
        self.fleet.agent.kill()
        self.fleet.restart_gateway()
        self.fleet.agent.start()
        self.fleet.wait_live(DEVICE)
        self.assertEqual(session, self.fleet.session("detached")["session"])
        again = self.attach(session)
        self.assertEqual(pid, self.shell_pid(again))
        self.quit(again)

    def test_size(self) -> None:
        """The shell's terminal gets the size of the one that attached."""
        terminal = self.ready(rows=30, columns=100)
        session = self.leave(terminal)
        again = self.attach(session, rows=41, columns=120)
        again.type("until stty size | grep '41 120'; do sleep 0.1; done\n")
        again.expect(r"^41 120\r\n")
        self.quit(again)

    def test_command(self) -> None:
        """A command whose rshell was killed waits with its output and is continued by attach."""
        fleet = self.fleet
        program = fleet.start(
            fleet.far_cli("run", DEVICE, "-n", "--", "echo $$; seq 1 300000; exit 6"),
            stdin=subprocess.DEVNULL,
        )
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        # Not a byte more is read: the keeper's ring and the pipes fill.
        program.process.kill()
        program.kill()
        session = str(fleet.session("detached")["session"])
        self.assertEqual("S", state(pid))
        done = fleet.far("attach", session)
        self.assertEqual(6, done.status, done.stderr)
        self.assertTrue(done.stdout.endswith(b"\n299999\n300000\n"))
        numbers = done.stdout.split(b"\n", 1)[1].split()
        last = int(numbers[-1])
        self.assertEqual(list(range(last - len(numbers) + 1, last + 1)), [int(n) for n in numbers])

    def test_finished(self) -> None:
        """The end of a command that nobody waited for is there for whoever attaches, once."""
        fleet, go = self.fleet, self.file("go")
        program = fleet.start(
            fleet.far_cli(
                "run", DEVICE, "-n", "--", f"echo $$; until test -e {go}; do sleep 0.1; done;"
                "echo last words; exit 6",
            ),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert program.process.stdout is not None
        pid = int(program.process.stdout.readline())
        program.kill()
        session = str(fleet.session("detached")["session"])
        go.touch()
        until(lambda: state(pid) == "", "it ends", 10)
        done = fleet.far("attach", session)
        self.assertEqual(6, done.status, done.stderr)
        self.assertTrue(done.stdout.endswith(b"last words\n"), done.stdout)
        again = fleet.far("attach", session)
        self.assert_status(255, again)
        self.assertNotIn(b"last words", again.stdout)

    def test_ended_by_id(self) -> None:
        """rshell sessions --end ends a detached shell."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        session = self.leave(terminal)
        done = self.fleet.rshell("sessions", "--end", session[:8])
        self.assert_status(0, done)
        until(lambda: state(pid) == "", "the shell ended", 10)

    def test_not_found(self) -> None:
        """An id that is none gives 255 and one line."""
        for word in ("00000000", "xyz", "0"):
            done = self.fleet.far("attach", word)
            self.assert_status(255, done)
            self.assert_one_line(done.stderr.replace(b"\nrshell: ", b" "))

    def test_somebody_elses(self) -> None:
        """Another operator cannot attach to a session, or watch it, however much they may."""
        terminal = self.ready()
        session = self.leave(terminal)
        words = ("--select", "*", "--allow", "*", "--as", "*", "--forward", "*")
        self.assert_status(0, self.fleet.rshell("roles", "set", "everything", *words))
        who = self.fleet.operator("eve", "everything")
        self.assertNotIn(session, str(self.fleet.far("sessions", "--json", who=who).stdout))
        for options in ((), ("--watch",), ("--take",)):
            done = self.fleet.far("attach", *options, session, who=who)
            self.assert_status(255, done)
            self.assertNotIn(b"rdy>", done.stdout)
        self.quit(self.attach(session))


class ScreenTests(ShellCase):
    def test_tmux_paints_again(self) -> None:
        """A full-screen program paints itself for a terminal that has nothing on its screen."""
        require("tmux")
        terminal = self.ready()
        socket = self.fleet.base / "tm"
        terminal.type(f"tmux -S {socket} new -n {PAINTED[:-1]}''d 'echo in''side; read x'\n")
        both = f"(?s)inside.*{PAINTED}|{PAINTED}.*inside"  # tmux paints its line before or after
        terminal.expect(both)
        session = self.leave(terminal)
        again = self.attach(session)
        again.expect(both)
        again.type("\n")
        again.expect("rdy> ")
        self.quit(again)

    def test_top_paints_again(self) -> None:
        """So does one that paints seldom by itself."""
        require("top")
        terminal = self.ready()
        terminal.type("top -d 300 -p 1; clear\n")
        terminal.expect("PID")
        session = self.leave(terminal)
        again = self.attach(session)
        again.expect("PID", 10)
        again.type("q")
        again.expect("rdy> ")
        self.quit(again)

    def test_same_terminal_again(self) -> None:
        """After a break that was told, a full-screen program repairs the line that covered it."""
        require("top")
        terminal = self.ready()
        terminal.type("top -d 300 -p 1; clear\n")
        terminal.expect("PID")
        self.fleet.operator_side.arrival = "refuse"
        self.fleet.operator_side.cut()
        terminal.expect("link lost", 10)
        self.fleet.operator_side.restore()
        terminal.expect("PID", 20)
        terminal.type("q")
        terminal.expect("rdy> ")
        self.quit(terminal)

    def test_old_questions(self) -> None:
        """Questions to a terminal that is gone are not asked again; new ones are."""
        terminal = self.ready()
        go = self.file("go")
        terminal.type(
            f"echo go''ing; until test -e {go}; do sleep 0.1; done;"
            f" printf 'q\\e[6n\\e[c\\e[>c\\e]11;?\\a\\eZq';"
            f" touch {go}2\n"
        )
        terminal.expect("^going\r\n")
        session = self.leave(terminal)
        go.touch()
        until(lambda: go.with_name(go.name + "2").exists(), "it asked")
        again = self.attach(session)
        again.expect("rdy> ")
        self.assertIn(b"qq", again.seen)
        for question in (b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b]11;?", b"\x1bZ"):
            self.assertNotIn(question, again.seen)
        # A live one arrives, and so does the answer.
        again.type("printf 'now\\e[6n'; read -rs -d R -p '' answer; echo \"<${answer:1}>\"\n")
        again.expect(rb"^now\x1b\[6n")
        again.type("\x1b[7;9R")
        again.expect(r"<\[7;9>")
        self.quit(again)


class ViewerTests(ShellCase):
    def test_watch(self) -> None:
        """A second terminal watches: it sees everything and what it types goes nowhere."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        session = str(self.fleet.session("attached")["session"])
        watching = self.attach(session)
        watching.expect("watching it \\(--take takes it over\\)")
        until(lambda: self.fleet.session("attached")["viewers"] == 1, "the viewer is counted", 10)
        terminal.type("echo a''b\n")
        terminal.expect("^ab\r\n")
        watching.expect("ab\r\n")
        watching.type("echo tres''passed\n")
        terminal.type("echo c''d\n")
        terminal.expect("^cd\r\n")
        watching.expect("cd\r\n")
        self.assertNotIn(b"trespassed", terminal.seen + watching.seen)
        watching.type("\x03")
        self.assertEqual(0, watching.wait(10))
        self.assertEqual(watching.initial, watching.mode())
        until(lambda: self.fleet.session("attached")["viewers"] == 0, "the viewer is gone", 10)
        self.assertEqual("S", state(pid))
        self.quit(terminal)

    def test_watched_end(self) -> None:
        """Whoever watches is told the end, and gets the status."""
        terminal = self.ready()
        session = str(self.fleet.session("attached")["session"])
        watching = self.attach(session, "--watch")
        until(lambda: self.fleet.session("attached")["viewers"] == 1, "the viewer is counted", 10)
        self.quit(terminal)
        self.assertEqual(5, watching.wait(10))

    def test_take(self) -> None:
        """--take displaces the driver, who is told so and ends."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        session = str(self.fleet.session("attached")["session"])
        taking = self.attach(session, "--take")
        self.assertEqual(255, terminal.wait(15))
        self.assertEqual(terminal.initial, terminal.mode())
        self.assertIn(b"rshell: ", terminal.seen[-300:])
        self.assertEqual(pid, self.shell_pid(taking))
        self.quit(taking)

    def test_take_from_a_frozen_one(self) -> None:
        """A driver whose link stands still is displaced as well, and hears of it later."""
        terminal = self.ready()
        pid = self.shell_pid(terminal)
        session = str(self.fleet.session("attached")["session"])
        self.fleet.operator_side.freeze()
        taking = self.attach(session, "--take")
        self.assertEqual(pid, self.shell_pid(taking))
        self.fleet.operator_side.thaw()
        self.assertEqual(255, terminal.wait(15))
        self.assertEqual(pid, self.shell_pid(taking))
        self.quit(taking)

    def test_slow_viewer(self) -> None:
        """A viewer that reads nothing does not slow the driver."""
        terminal = self.ready()
        session = str(self.fleet.session("attached")["session"])
        watching: Program = self.fleet.start(
            self.fleet.far_cli("attach", "--watch", session), stdin=subprocess.PIPE
        )
        self.addCleanup(watching.kill)
        until(lambda: self.fleet.session("attached")["viewers"] == 1, "the viewer is counted", 10)
        os.kill(watching.pid, signal.SIGSTOP)
        terminal.type("seq 1 200000; echo do''ne\n")
        terminal.expect("^done\r\n", 60)
        os.kill(watching.pid, signal.SIGCONT)
        self.quit(terminal)
        done = watching.finish(b"")
        self.assertEqual(5, done.status)
        self.assertIn(b"bytes of output were left out: this end was too slow", done.stderr)


class RightsTests(ShellCase):
    def test_revoked_meanwhile(self) -> None:
        """An operator who is revoked while the device is away has no session left on it."""
        who = self.fleet.operator("ann")
        terminal = self.ready(who=who)
        pid = self.shell_pid(terminal)
        terminal.process.kill()
        terminal.process.wait()
        self.fleet.agent.kill()
        self.assert_status(0, self.fleet.rshell("revoke", "operator", who))
        self.assertEqual("S", state(pid))
        self.fleet.agent.start()
        self.fleet.wait_live(DEVICE)
        until(lambda: state(pid) == "", "the shell ended", 15)

    def test_revoked_at_work(self) -> None:
        """An operator who is revoked is put out at once, and what ran for them ends."""
        who = self.fleet.operator("bob")
        terminal = self.ready(who=who)
        pid = self.shell_pid(terminal)
        self.assert_status(0, self.fleet.rshell("revoke", "operator", who))
        self.assertEqual(255, terminal.wait(15))
        self.assertEqual(terminal.initial, terminal.mode())
        until(lambda: state(pid) == "", "the shell ended", 15)


class OverflowTests(ShellCase):
    @lasting("a shell nobody is attached to waits for 60 s")
    def test_overflow(self) -> None:
        """What nobody read for more than a minute is overwritten, counted and told."""
        terminal = self.ready()
        ready = self.file("written")
        terminal.type(f"echo go''ing; sleep 2; seq 1 200000; touch {ready}; echo do''ne\n")
        terminal.expect("^going\r\n")
        session = self.leave(terminal)
        time.sleep(20)  # the program waits: nothing is lost in the first minute
        self.assertFalse(ready.exists())
        until(ready.exists, "it runs on after a minute", 90)
        again = self.attach(session)
        gap = again.expect(
            rb"rshell: ([\d,]+) bytes of earlier output were shown elsewhere, or", 20
        )
        again.expect("^done\r\n")
        shown = sum(len(line) + 2 for line in again.seen.split(b"\r\n") if line.isdigit())
        gone = int(gap.group(1).replace(b",", b""))
        whole = sum(len(str(n)) + 2 for n in range(1, 200001))
        # The first piece may have been read by the one who was killed, a line may be cut in two.
        self.assertLess(abs(whole - gone - shown), 2000)
        self.assertGreater(shown, 200_000)
        again.expect("rdy> ")
        self.quit(again)
