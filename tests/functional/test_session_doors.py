"""Sessions across doors: opened by plain ssh, watched, taken over and ended by others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.functional.processes import CLI, until
from tests.functional.ssh_door import SshCase
from tests.functional.terminal import Terminal


class SessionDoorCase(SshCase):
    def invited(self, name: str, *roles: str) -> str:
        """Make an operator with a home of their own; return that."""
        home = str(self.fleet.base / name)
        words = [word for role in roles for word in ("--role", role)]
        string = self.fleet.invite("operator", name, *words)
        self.assert_status(0, self.fleet.command([*CLI, "--home", home, "join", "-"], string))
        self.addCleanup(self.fleet.rshell, "revoke", "operator", name)
        return home

    def role(self, name: str, *words: str) -> str:
        self.assert_status(0, self.fleet.rshell("roles", "set", name, "--select", "*", *words))
        self.addCleanup(self.fleet.rshell, "roles", "remove", name, "--force")
        return name

    def sessions(self, *words: str) -> list[dict[str, Any]]:
        done = self.fleet.rshell("sessions", "--all", "--json", *words)
        self.assert_status(0, done)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def at(self, home: str, *words: str) -> Terminal:
        """Start rshell at a terminal, as the operator with that home."""
        return self.terminal([*CLI, "--home", home, *words], self.fleet)

    def one(self, session: str) -> dict[str, Any]:
        """Return how a session is listed, which must be there."""
        return next(row for row in self.sessions() if row["session"] == session)

    @staticmethod
    def told(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    def ssh_shell(self, key: str = "id") -> Terminal:
        """Open a shell by plain ssh, which says its process id in a file."""
        command = self.fleet.ssh_command("pump-2", options=("-tt",), key=key)
        terminal = self.terminal(command, self.fleet)
        terminal.expect(r"[#$>] ", 30)
        return terminal


class CrossDoorTests(SessionDoorCase):
    def test_watched_taken_over_and_ended(self) -> None:
        """A shell of plain ssh is watched, taken over and ended; each of them is told."""
        eve = self.invited("door-eve", self.role("door-eyes", "--watch"))
        boss = self.invited("door-boss", "admin")
        driver = self.ssh_shell()
        driver.type("PS1='rdy> '; echo on''e\n")
        driver.expect("one\r\n")
        (row,) = self.sessions("--door", "ssh", "--state", "attached", "--device", "pump-2")
        session = row["session"]
        self.assertEqual(("admin", "ssh", "output"), self.told(row, "driver", "door", "recorded"))
        self.assertGreater(row["bytes_in"], 10)
        self.assertGreater(row["bytes_out"], row["bytes_in"])
        # Looking on: with what was there before, and nothing of ours reaches the shell.
        viewer = self.at(eve, "attach", "--watch", session[:8])
        viewer.expect("one\r\n", 30)
        driver.expect(r"rshell: door-eve \(link, 127\.0\.0\.1:\d+\) watches this session", 30)
        viewer.type("echo from-e''ve\n")
        driver.type("echo tw''o\n")
        for terminal in (driver, viewer):
            terminal.expect("two\r\n", 30)
        row = self.one(session)
        self.assertEqual(["door-eve"], [one["operator"] for one in row["watchers"]])
        # Taking over: only an administrator may.
        refused = self.at(eve, "attach", "--take", session[:8])
        refused.expect("belongs to somebody else", 30)
        self.assertEqual(255, refused.wait())
        taker = self.at(boss, "attach", "--take", session[:8])
        driver.expect(r"taken over by door-boss \(link, ", 30)
        self.assertEqual(255, driver.wait())
        taker.type("echo thr''ee\n")
        taker.expect("three\r\n", 30)
        viewer.expect("three\r\n", 30)
        row = self.one(session)
        self.assertEqual(
            ("admin", "door-boss", "link"), tuple(row[k] for k in ("operator", "driver", "door"))
        )
        # Ending it ends it for everybody.
        self.assert_status(0, self.fleet.rshell("sessions", "--end", session[:8]))
        for terminal in (taker, viewer):
            terminal.expect("ended by admin", 30)
            self.assertEqual(255, terminal.wait())
        self.assertNotIn(b"from-eve", driver.seen + taker.seen)
        audit = self.fleet.rshell("audit", "--json", "--session", session)
        opened = [
            one
            for one in json.loads(audit.stdout)
            if one["kind"] == "session" and not one["refers"]
        ]
        self.assertLessEqual(
            {"admin", "door-eve", "door-boss"}, {one["operator"] for one in opened}
        )

    def test_ended_at_the_ssh_door(self) -> None:
        """Who uses plain ssh is told by whom their session was ended; so is a console's."""
        driver = self.ssh_shell()
        driver.type("echo pi''d $$\n")
        pid = int(driver.expect(r"pid (\d+)\r\n").group(1))
        console = self.terminal(self.fleet.cli("console"), self.fleet)
        console.expect(">>> ", 30)
        (row,) = self.sessions("--door", "ssh", "--state", "attached", "--device", "pump-2")
        console.type(f"sessions.watch('{row['session'][:8]}')\n")
        console.expect(f"pid {pid}\r\n", 30)
        driver.type("echo fo''ur\n")
        console.expect("four\r\n", 30)
        console.type("\x1d")
        console.expect("the session on pump-2 goes on", 30)
        console.type('fleet["pump-2"].run("sleep 60")\n')
        until(lambda: self.sessions("--door", "console"), "the console runs something")
        (other,) = self.sessions("--door", "console")
        for session in (row["session"], other["session"]):
            self.assert_status(0, self.fleet.rshell("sessions", "--end", session))
        driver.expect("ended by admin", 30)
        self.assertEqual(255, driver.wait())
        console.expect("ended by admin", 30)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the shell has ended")


class CommandTests(SessionDoorCase):
    def test_taken_over_with_its_keys(self) -> None:
        """A command with a terminal, by ssh -t, is taken over with what is typed at it."""
        words = "read -p 'ready ' first; echo got-$first; exit 7"
        driver = self.terminal(
            self.fleet.ssh_command("pump-1", words, options=("-tt",)), self.fleet
        )
        driver.expect("ready ", 30)
        (row,) = self.sessions("--door", "ssh", "--state", "attached", "pump-1")
        self.assertEqual(("exec", True), self.told(row, "handler", "terminal"))
        taker = self.at(str(self.fleet.home), "attach", "--take", row["session"])
        driver.expect("taken over by admin", 30)
        until(lambda: self.one(row["session"])["door"] == "link", "it is taken over")
        taker.type("it\r")
        taker.expect("got-it", 30)
        self.assertEqual(7, taker.wait())


class LimitTests(SessionDoorCase):
    def test_idle(self) -> None:
        """A role's idle limit warns and ends a terminal, at both doors, and what ran there."""
        role = self.role("door-idle", "--allow", "shell", "--idle-limit", "12", "--record", "input")
        home = self.invited("door-ann", role)
        self.fleet.known_key("door-key", "door-ann")
        by_link = self.at(home, "shell", "pump-1")
        by_ssh = self.terminal(
            self.fleet.ssh_command("pump-1", options=("-tt",), key="door-key"), self.fleet
        )
        for terminal in (by_link, by_ssh):
            terminal.expect("what you type here is recorded", 30)
            terminal.expect(r"[#$>] ", 30)
        by_ssh.type("echo pi''d $$\n")
        pid = int(by_ssh.expect(r"pid (\d+)\r\n", 30).group(1))
        for terminal in (by_link, by_ssh):
            terminal.expect(r"this session ends in \d+ seconds?: nobody types here", 30)
            terminal.expect("nothing was typed for 12s, the limit of door-idle/1", 30)
            self.assertEqual(124, terminal.wait())
        until(lambda: not Path(f"/proc/{pid}").exists(), "the shell has ended")


class PlayableTests(SessionDoorCase):
    def test_commands_with_a_terminal(self) -> None:
        """A command that has a terminal is recorded, too, so that asciinema plays it."""
        command = self.fleet.ssh_command("pump-1", "echo pla''yed; stty size", options=("-tt",))
        terminal = self.terminal(command, self.fleet, rows=33, columns=101)
        self.assertEqual(0, terminal.wait(60))

        def newest() -> dict[str, Any]:
            done = self.fleet.rshell("recordings", "--json", "--device", "pump-1", "--since", "5m")
            rows: list[dict[str, Any]] = json.loads(done.stdout)
            found = [row for row in rows if row["handler"] == "exec"]
            return found[0] if found and found[0]["status"] == "complete" else {}

        until(lambda: bool(newest()), "it is packed")
        path = self.fleet.base / "played.cast"
        fetched = self.fleet.rshell("recordings", "get", newest()["session"])
        path.write_bytes(fetched.stdout)
        header = json.loads(path.read_text().splitlines()[0])
        self.assertEqual((2, 101, 33), tuple(header[k] for k in ("version", "width", "height")))
        home = {"ASCIINEMA_CONFIG_HOME": str(self.fleet.base)}
        command = [sys.executable, "-m", "asciinema", "cat", str(path)]
        shown = self.fleet.command(command, environ=home)
        self.assert_status(0, shown)
        self.assertRegex(shown.stdout, rb"played\r\n33 101\r\n")
