"""``rshell console`` and ``ssh console@gw`` at real terminals."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tests.functional.fleet import Fleet, FleetCase
from tests.functional.processes import environment, lasting, until
from tests.functional.ssh_door import SshCase
from tests.functional.terminal import Terminal

#: The prompt as it is drawn, with nothing behind it.
PROMPT = r">>> \x1b\[K\r\x1b\[4C"


class ConsoleCase(FleetCase):
    def console(self, fleet: Fleet | None = None, **size: Any) -> Terminal:
        """Open a console at a terminal of its own, and wait for its prompt."""
        fleet = fleet or self.fleet
        terminal = Terminal(fleet.cli("console"), environment(fleet.base), fleet.base, **size)
        self.addCleanup(terminal.close)
        terminal.expect("Every line is written to the audit log before it runs")
        terminal.expect(PROMPT)
        return terminal

    def ask(self, terminal: Terminal, line: str, answer: str, seconds: float = 15) -> None:
        """Type a line, wait for its answer and for the next prompt."""
        terminal.type(f"{line}\r")
        terminal.expect(answer, seconds)
        terminal.expect(PROMPT)

    def leave(self, terminal: Terminal) -> None:
        terminal.type(b"\x04")
        self.assertEqual(0, terminal.wait())
        self.assertEqual(terminal.mode(), terminal.initial)


class LineTests(ConsoleCase):
    def test_python(self) -> None:
        """Values are shown, errors are told, and the line after them is taken as any other."""
        with self.quiet_gateway(self.fleet):
            terminal = self.console()
            self.ask(terminal, "6*7", r"^42\r$")
            self.ask(terminal, "_ + 1", r"^43\r$")
            self.ask(terminal, "1/0", "ZeroDivisionError: division by zero")
            self.ask(terminal, "print('a\\x1b[31mb')", "^a\ufffd\\[31mb\r$")
            self.leave(terminal)

    def test_await(self) -> None:
        """await works at the top level; a Deferred is shown when it fires, above what is typed."""
        terminal = self.console()
        self.ask(terminal, "done = await fleet['pump-1'].run('echo he''llo')", r"\r\n")
        self.ask(terminal, "done.stdout", r"^'hello\\n'\r$")
        later = "from twisted.internet.task import deferLater as later"
        self.ask(terminal, later, r"\r\n")
        self.ask(terminal, "d = later(client.reactor, 1, lambda: 'fi'+'red')", r"\r\n")
        self.ask(terminal, "d", "<Deferred #1>")
        terminal.type("20")
        terminal.expect("Deferred #1 fired: 'fired'")
        self.ask(terminal, "+2", r"^22\r$")
        self.leave(terminal)

    def test_odd_bytes(self) -> None:
        """No bytes kill the line: broken UTF-8, endless sequences, half a string, NULs."""
        terminal = self.console()
        for odd in (
            b"\xff\xfe\x80",
            b"\x1b[" + b"9" * 3000,
            b"\x1b[<M\x1bO~\x1bZ\x1b[200~",
            b"'half\r",
            b"((((((\r\x03",
            b"\x00\x01\x1c\x1d\x1e",
            b"('\\\r\x03",
            b"-" * 3000 + b"1\r",
            b"\xe4\xb8",
        ):
            terminal.type(odd + b"\x03")
            terminal.expect(PROMPT)
        self.ask(terminal, "len('h\u00e9\u4e2d')", r"^3\r$")
        self.leave(terminal)

    def test_history_and_editing(self) -> None:
        """Up brings a line back, also in the next console; keys edit it."""
        terminal = self.console()
        self.ask(terminal, "first = 40", r"\r\n")
        terminal.type(b"\x1b[A")
        terminal.expect("first = ")
        self.ask(terminal, "2", r"\r\n")
        self.ask(terminal, "first", r"^402\r$")
        self.leave(terminal)
        again = self.console()
        terminal = again
        terminal.type(b"\x1bOA\x1bOA\x1b[H")
        terminal.type(b"xx = \x05\x17\x17+ 0\x15'kept'\r")
        terminal.expect(r"^'kept'\r$")
        self.leave(terminal)

    def test_long_line_and_resize(self) -> None:
        """A line longer than the window scrolls sideways, and a smaller window keeps it whole."""
        terminal = self.console(rows=24, columns=40)
        terminal.type("'" + "ab" * 60 + "'.count('b')")
        terminal.expect(r"count\(")
        terminal.resize(20, 30)
        self.ask(terminal, "", r"^60\r$")
        self.leave(terminal)

    def test_completion(self) -> None:
        """Tab completes names, devices and what a device can do, from its own catalogue."""
        terminal = self.console()
        terminal.type("sessi\t")
        terminal.expect("sessions")
        terminal.type('\x15fleet["val\t')
        terminal.expect("valve-1")
        terminal.type(".\t")
        terminal.expect("reboot")
        terminal.type("fac\t")
        terminal.expect(r"facts\x1b\[K")
        terminal.type(b"\x03")
        terminal.expect(PROMPT)
        self.leave(terminal)

    def test_interrupt(self) -> None:
        """Ctrl-C ends what is awaited, also on the device, and forgets half a statement."""
        terminal = self.console()
        terminal.type("fleet['pump-1'].run('exec sleep 987')\r")
        running = ["run", "pump-1", "--", "pgrep", "-f", "^sleep 987"]
        until(lambda: self.fleet.rshell(*running).status == 0, "the command runs", 20, 0.2)
        terminal.type(b"\x03")
        terminal.expect("interrupted")
        terminal.expect(PROMPT)
        until(lambda: self.fleet.rshell(*running).status == 1, "the command ended", 20, 0.2)
        terminal.type("if True:\r")
        terminal.expect(r"\.\.\. \x1b\[K")
        terminal.type(b"\x03")
        terminal.expect(PROMPT)
        self.ask(terminal, "5", r"^5\r$")
        self.leave(terminal)


class BlockedTests(ConsoleCase):
    def test_others_go_on(self) -> None:
        """``while True: pass`` is interrupted, costs nobody a link, and a shell echoes again."""
        fleet = self.fleet
        epochs = {row["name"]: row["epoch"] for row in fleet.devices()}
        shell = Terminal(fleet.cli("shell", "pump-2"), environment(fleet.base), fleet.base)
        self.addCleanup(shell.close)
        shell.expect(r"[#$>] ")
        terminal = self.console()
        begun = time.monotonic()
        terminal.type("while True: pass\r\r")
        terminal.expect("\r\n.*\r\n")
        shell.type("echo st''ill\r")
        terminal.expect("interrupted: it kept the gateway", 20)
        self.assertLess(time.monotonic() - begun, 15)
        shell.expect(r"\rstill\r")
        terminal.expect(PROMPT)
        self.ask(terminal, "'alive'", r"^'alive'\r$")
        self.leave(terminal)
        self.assertEqual(epochs, {row["name"]: row["epoch"] for row in fleet.devices()})
        shell.type("exit 0\r")
        self.assertEqual(0, shell.wait())

    @lasting("two more waits of 5 s")
    def test_kinds_of_blocking(self) -> None:
        """A system call that waits is interrupted, too, and so is what catches everything."""
        terminal = self.console()
        self.ask(terminal, "import time", r"\r\n")
        self.ask(terminal, "time.sleep(60)", "interrupted: it kept the gateway", 20)
        terminal.type("while True:\r try: pass\r except BaseException: pass\r\r")
        terminal.expect("interrupted: it kept the gateway", 40)
        terminal.expect(PROMPT)
        self.leave(terminal)


class FleetObjectsTests(ConsoleCase):
    def test_shell_takes_over(self) -> None:
        """A shell takes the terminal with its size, and gives it back; Ctrl-] leaves it behind."""
        terminal = self.console(rows=33, columns=99)
        terminal.type("fleet['pump-1'].shell()\r")
        terminal.expect("has the terminal")
        terminal.expect(r"[#$>] ")
        terminal.type("stty size; exit 3\r")
        terminal.expect(r"33 99\r")
        terminal.expect("back at the console; pump-1: exit status 3")
        terminal.expect(PROMPT)
        terminal.type("fleet['pump-1'].shell()\r")
        terminal.expect(r"[#$>] ")
        terminal.type(b"\x1d")
        session = terminal.expect(r"rshell attach ([0-9a-f]{8})").group(1).decode()
        terminal.expect(PROMPT)
        self.ask(terminal, "sessions", f"{session}.*detached")
        ending = "[sessions.end(s) for s in await sessions()]"
        self.ask(terminal, f"for call in {ending}: await call\r", r"\r\n")
        self.leave(terminal)

    def test_many(self) -> None:
        """A selection runs with a table, folds what is identical, and tells failures."""
        terminal = self.console()
        line = "fleet.select('site=berlin').run('sleep 1; echo same')"
        terminal.type(f"{line}\r")
        terminal.expect("valve-1 +running")
        terminal.expect(r"pump-1, valve-1:.*\r\nsame\r\n.*2 of 2 succeeded")
        terminal.expect(PROMPT)
        self.ask(terminal, "fleet.select('site=mars').run('id')", "no-match: no device matches")
        self.ask(terminal, "[d.device for d in _.failed] if hasattr(_, 'failed') else 0", r"^\[\]")
        self.leave(terminal)

    def test_files_and_logs(self) -> None:
        """Files go there and back, and their ends are shown."""
        source = self.fleet.base / "put.txt"
        source.write_text("one\ntwo\x1b[2J\n")
        there, back = self.fleet.base / "there.txt", self.fleet.base / "back.txt"
        terminal = self.console()
        self.ask(terminal, f"fleet['pump-1'].put({str(source)!r}, {str(there)!r})", "copied=1")
        self.ask(terminal, f"fleet['pump-1'].get({str(there)!r}, {str(back)!r})", "copied=1")
        self.assertEqual(back.read_bytes(), source.read_bytes())
        self.ask(terminal, f"fleet['pump-1'].tail({str(there)!r}, lines=1)", "^two\ufffd\\[2J\r$")
        self.leave(terminal)

    def test_listings_and_handlers(self) -> None:
        """sessions, links, why, metrics, help, and a handler as a method."""
        terminal = self.console(columns=150)
        self.ask(terminal, "fleet", "valve-1 +live")
        self.ask(terminal, "links", "pump-2 +live +[0-9a-f]+")
        self.ask(terminal, "why('pump-1')", "gateway +live")
        self.ask(terminal, "metrics('streams_opened')", "rshell_streams_opened_total")
        self.ask(terminal, "help(fleet['pump-1'].tail)", r"tail\(")
        self.ask(terminal, "help(fleet['pump-1'].sftp)", r"sftp\(")
        self.ask(terminal, "fleet['pump-1'].exec(line='echo by''name')", r"^byname\r$")
        self.ask(terminal, "fleet['pump-1'].exec(lines=1)", "there is no argument 'lines'")
        self.ask(terminal, "fleet['nobody'].run('id')", "not-found|no device is called")
        self.leave(terminal)


class ProgramTests(ConsoleCase):
    def test_one_line(self) -> None:
        """-c runs a line; its output is plain, an error goes to stderr and is status 1."""
        done = self.fleet.rshell("console", "-c", "fleet['pump-1'].run('echo hi')")
        self.assertEqual((0, b"hi\n", b""), (done.status, done.stdout, done.stderr))
        done = self.fleet.rshell("console", "-c", "x = 1\n1/0")
        self.assertEqual((1, b""), (done.status, done.stdout))
        self.assertTrue(done.stderr.endswith(b"ZeroDivisionError: division by zero\n"), done)

    def test_program(self) -> None:
        """Without a terminal all input is one program; one that is no Python is not begun."""
        program = (
            b"print('begun')\nfor n in (1, 2):\n    await fleet['pump-1'].run('true')\n    n\n"
        )
        done = self.fleet.rshell("console", data=program)
        self.assertEqual((0, b"begun\n1\n2\n"), (done.status, done.stdout))
        done = self.fleet.rshell("console", data=b"print('begun')\nfor\n")
        self.assertEqual((1, b""), (done.status, done.stdout))
        self.assertIn(b"SyntaxError", done.stderr)
        done = self.fleet.rshell("console", data=b"#" * 300_000)
        self.assertEqual(255, done.status)
        self.assertIn(b"a program of more than", done.stderr)

    def test_audited(self) -> None:
        """Every line is in the audit log with its console, as is what it did on devices."""
        self.fleet.rshell("console", "-c", "fleet['pump-1'].run('echo audited-by-name')")
        rows = json.loads(self.fleet.rshell("audit", "--json", "--limit", "12").stdout)
        kinds = [row["kind"] for row in rows]
        self.assertIn("console.line", kinds)
        line = next(row for row in rows if row["kind"] == "console.line")
        self.assertIn("audited-by-name", line["summary"])
        ran = next(r for r in rows if r["handler"] == "exec" and r["summary"])
        self.assertEqual("echo audited-by-name", ran["summary"])
        self.assertLess(line["seq"], ran["seq"])
        opened = next(r for r in rows if r["kind"] == "console" and r["session"] == line["session"])
        self.assertEqual("admin", opened["operator"])


class SshConsoleTests(SshCase):
    def test_terminal(self) -> None:
        """``ssh console@gw`` is the same console, with its size, and ends with Ctrl-D."""
        fleet = self.fleet
        terminal = self.terminal(fleet.ssh_command("console", options=("-tt",)), fleet)
        terminal.expect(PROMPT)
        terminal.type("fleet['pump-1'].run('echo by''ssh')\r")
        terminal.expect(r"^byssh\r")
        terminal.expect(PROMPT)
        terminal.type("fleet['pump-1'].shell()\r")
        terminal.expect(r"[#$>] ")
        terminal.type("stty size; exit\r")
        terminal.expect(r"30 100\r")
        terminal.expect(PROMPT)
        terminal.type(b"\x04")
        self.assertEqual(0, terminal.wait())

    def test_command(self) -> None:
        """A command line is a program, and so is what is piped in."""
        done = self.fleet.ssh("console", "1+1")
        self.assertEqual((0, b"2\n", b""), (done.status, done.stdout, done.stderr))
        done = self.fleet.ssh("console", data=b"print('piped')\n1/0\n")
        self.assertEqual((1, b"piped\n"), (done.status, done.stdout))
        self.assertTrue(re.search(rb"ZeroDivisionError", done.stderr))
