"""``rshell tail`` against real devices: what is shown, and what it goes on through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.functional.fleet import Agent, Fleet, FleetCase
from tests.functional.processes import (
    Program,
    children,
    descendants,
    lasting,
    peak_kb,
    reset_peak,
    rss_kb,
    state,
    until,
)


class Writer:
    """Writes numbered lines into a log, so many a second, until it is stopped.

    Args:
        path: The log.
        per_second: Lines; 0 writes as fast as it can.
        rotate_every: Rename the log and begin another after so many lines; 0 never does.
    """

    def __init__(self, path: Path, per_second: int, rotate_every: int = 0) -> None:
        self.count = 0
        self._path = path
        self._per_second = per_second
        self._rotate_every = rotate_every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # In twentieths of a second; each portion is written at once.
        portion = max(1, self._per_second // 20)
        file = self._path.open("ab")
        while not self._stop.is_set():
            numbers = range(self.count + 1, self.count + portion + 1)
            file.write(b"".join(b"%d of the log\n" % n for n in numbers))
            file.flush()
            self.count += portion
            if self._rotate_every and self.count % self._rotate_every < portion:
                file.close()
                self._path.rename(f"{self._path}.{self.count}")
                file = self._path.open("ab")
            self._stop.wait(0.05)
        file.write(b"the end\n")
        file.close()

    def stop(self) -> None:
        """Write the last line."""
        self._stop.set()
        self._thread.join()


class TailCase(FleetCase):
    def log(self, name: str = "app.log") -> Path:
        folder = self.fleet.base / self.id().rpartition(".")[2]
        folder.mkdir(exist_ok=True)
        return folder / name

    def follow(self, fleet: Fleet, output: Path, *arguments: str) -> Program:
        """Start ``rshell tail`` with its output in a file."""
        with output.open("wb") as file:
            program = fleet.start(
                fleet.cli("tail", *arguments), stdin=subprocess.DEVNULL, stdout=file.fileno()
            )
        self.addCleanup(program.kill)
        return program

    def until_seen(self, program: Program, output: Path, text: bytes, seconds: float = 60) -> bytes:
        """Wait until something is in the output; return all of it."""

        def seen() -> bytes:
            if program.process.poll() is not None:
                raise AssertionError(f"tail ended: {program.finish()}")
            data = output.read_bytes()
            return data if text in data else b""

        return until(seen, lambda: f"{output.read_bytes()[-300:]!r}", seconds)

    def quit(self, program: Program) -> bytes:
        """End it as Ctrl-C does; return what it said on standard error."""
        program.process.send_signal(signal.SIGINT)
        done = program.finish(seconds=20)
        self.assert_status(130, done)
        return done.stderr


class ShowingTests(TailCase):
    def test_one_file(self) -> None:
        """The last lines of a file are shown as they are, and nothing else."""
        log = self.log()
        log.write_text("".join(f"{n}\n" for n in range(100_000)))
        done = self.fleet.rshell("tail", f"pump-1:{log}")
        self.assert_status(0, done)
        self.assertEqual(b"".join(b"%d\n" % n for n in range(99_990, 100_000)), done.stdout)
        done = self.fleet.rshell("tail", "-n", "+1", f"pump-1:{log}")
        self.assertEqual(log.read_bytes(), done.stdout)

    def test_devices_and_files(self) -> None:
        """Several devices and files are named; one device's files get headers, as tail's."""
        one, two = self.log("1.log"), self.log("2.log")
        one.write_text("a\nb\n")
        two.write_text("c\n")
        done = self.fleet.rshell("tail", f"site=berlin:{one}", "-n", "1")
        self.assertEqual({b"pump-1: b", b"valve-1: b"}, set(done.stdout.splitlines()))
        done = self.fleet.rshell("tail", f"pump-1:{one.parent}/*.log", f"pump-2:{two}")
        expected = {f"pump-1:{one}: a", f"pump-1:{one}: b", f"pump-1:{two}: c", f"pump-2:{two}: c"}
        self.assertEqual(expected, set(done.stdout.decode().splitlines()))
        done = self.fleet.rshell("tail", f"pump-1:{one}", f"pump-1:{two}")
        self.assertEqual(f"==> {one} <==\na\nb\n\n==> {two} <==\nc\n", done.stdout.decode())
        done = self.fleet.rshell("tail", "-q", f"pump-1:{one}", f"pump-1:{two}")
        self.assertEqual(b"a\nb\nc\n", done.stdout)

    def test_control_sequences(self) -> None:
        """What a terminal would act upon is neutralised, unless --raw asks for it."""
        log = self.log()
        log.write_bytes(b"\x1b]0;owned\x07\tx\x9b\xff\0\r\n")
        done = self.fleet.rshell("tail", f"pump-1:{log}")
        self.assertEqual("\ufffd]0;owned\ufffd\tx\ufffd\ufffd\ufffd\n", done.stdout.decode())
        done = self.fleet.rshell("tail", "--raw", f"pump-1:{log}")
        self.assertEqual(log.read_bytes(), done.stdout)
        done = self.fleet.rshell("tail", "--json", f"pump-1:{log}")
        self.assertNotIn(b"\x1b", done.stdout)
        line, last = map(json.loads, done.stdout.splitlines())
        self.assertEqual(("pump-1", str(log)), (line["device"], line["file"]))
        self.assertIn("data_b64", line)
        self.assertEqual("ok", last["outcome"]["status"])

    def test_grep_and_since(self) -> None:
        """Patterns and times are looked at on the device."""
        log = self.log()
        log.write_text("".join(f"2026-01-01T10:{n:02}:00Z event {n}\n" for n in range(60)))
        done = self.fleet.rshell(
            "tail",
            f"pump-1:{log}",
            "--since",
            "2026-01-01T10:30:00+00:00",
            "--grep",
            "EVENT .5",
            "-i",
        )
        self.assertEqual([b"35", b"45", b"55"], [n.split()[-1] for n in done.stdout.splitlines()])

    def test_hostile_pattern(self) -> None:
        """A pattern that would never end is ended, with one line that says why."""
        log = self.log()
        log.write_text("a" * 5000 + "!\n")
        done = self.fleet.rshell("tail", f"pump-1:{log}", "--grep", "(a+)+$")
        self.assert_status(2, done)
        self.assert_one_line(done.stderr)
        self.assertIn(b"nested repetition", done.stderr)

    def test_leading_nowhere(self) -> None:
        """Paths and devices that lead nowhere get one clear line each."""
        for words, status, count in (
            (["pump-1:/nowhere/x", "pump-1:/nowhere/*", "pump-1:/dev/zero", "pump-1:/etc"], 1, 4),
            (["pump-1:/" + "x" * 300, "pump-1:/x", "--grep", "("], 2, 1),
            (["nobody:/etc/passwd"], 255, 1),
            (["site=moon:/etc/passwd"], 255, 1),
        ):
            done = self.fleet.rshell("tail", *words)
            self.assert_status(status, done)
            self.assertEqual(count, done.stderr.count(b"\n"), done)
            self.assertEqual(b"", done.stdout)

    def test_journal(self) -> None:
        """The journal is shown, or it is said in a line that this device has none."""
        done = self.fleet.rshell("tail", "pump-1", "--journal", "-n", "3", "--json")
        self.assertIn(done.status, (0, 1))
        self.assertNotIn(b"Traceback", done.stderr)
        last = json.loads(done.stdout.splitlines()[-1])
        self.assertIn(last["outcome"]["status"], ("ok", "exit"))

    def test_policy(self) -> None:
        """The device's policy decides which files and whether the journal may be read."""
        agent = self.added("confined-2")
        allowed = self.log()
        allowed.write_text("yes\n")
        agent.configure(f'[policy]\nread = ["{allowed.parent}"]\n')
        done = self.fleet.rshell("tail", f"confined-2:{allowed}", "confined-2:/etc/passwd")
        self.assert_status(1, done)
        self.assertIn(b"yes\n", done.stdout)
        self.assertNotIn(b"root:", done.stdout)
        self.assertIn(b"policy does not allow /etc/passwd", done.stderr)
        done = self.fleet.rshell("tail", "-f", "confined-2", "--journal")
        self.assert_status(1, done)
        self.assertIn(b"policy does not allow the journal", done.stderr)


class FollowingTests(TailCase):
    def assert_complete(self, text: bytes, count: int, rotate_every: int = 0) -> None:
        """Check that each line came once, in order; of a log that was rotated, from some turn on.

        What was rotated away before tail began is no business of its.
        """
        found = text.splitlines()
        first = int(found[0].split()[0])
        self.assertEqual(1, first % rotate_every if rotate_every else first)
        expected = [b"%d of the log" % n for n in range(first, count + 1)] + [b"the end"]
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            wrong = next((i for i, (a, b) in pairs if a != b), -1)
            self.fail(f"line {wrong}: {found[wrong - 2 : wrong + 3]}, {len(found)} came")

    def test_rotation(self) -> None:
        """A log that is rotated again and again is followed without a missing or doubled line."""
        log, output = self.log(), self.log("out")
        writer = Writer(log, 400, rotate_every=100)
        program = self.follow(self.fleet, output, "-f", "-n", "+1", f"pump-1:{log}")
        until(lambda: writer.count > 800, "written")
        writer.stop()
        text = self.until_seen(program, output, b"the end\n")
        self.assert_complete(text, writer.count, 100)
        self.assertIn(b"another file now", self.quit(program))

    def test_agent_killed_and_link_cut(self) -> None:
        """SIGKILL for the agent and for the gateway: no line is missing, none comes twice."""
        fleet = self.own_fleet("solo-1")
        log, output = fleet.base / "app.log", fleet.base / "out"
        log.touch()
        writer = Writer(log, 500)
        program = self.follow(fleet, output, "-f", "-n", "+1", f"solo-1:{log}")
        self.until_seen(program, output, b"of the log\n")
        agent = fleet.agents["solo-1"]
        agent.kill()
        agent.start()
        fleet.wait_live("solo-1")
        fleet.kill_gateway()
        fleet.restart_gateway()
        fleet.wait_live("solo-1")
        writer.stop()
        self.assert_complete(self.until_seen(program, output, b"the end\n"), writer.count)
        self.quit(program)

    def test_keeper_killed(self) -> None:
        """SIGKILL for the keeper ends the session; another goes on behind the last line."""
        agent = self.added("hardy-7")
        log, output = self.log(), self.log("out")
        log.touch()
        writer = Writer(log, 500)
        program = self.follow(self.fleet, output, "-f", "-n", "+1", f"hardy-7:{log}")
        self.until_seen(program, output, b"of the log\n")
        worker = self.worker(agent)
        keeper = agent.keeper_pid()
        os.kill(keeper, signal.SIGKILL)
        until(lambda: state(worker) in ("", "Z"), "the worker noticed", 10)
        until(lambda: agent.keeper_pid() not in (0, keeper), "another keeper", 20)
        seen = writer.count
        until(lambda: writer.count > seen + 500, "written")
        writer.stop()
        self.assert_complete(self.until_seen(program, output, b"the end\n"), writer.count)
        self.assertIn(b"going on where it was", self.quit(program))

    def test_device_restarts(self) -> None:
        """All of a device's processes die, its log is rotated meanwhile: every line comes once."""
        agent = self.added("hardy-8")
        log, output = self.log(), self.log("out")
        log.touch()
        writer = Writer(log, 500, rotate_every=500)
        program = self.follow(self.fleet, output, "-f", "-n", "+1", f"hardy-8:{log}")
        self.until_seen(program, output, b"of the log\n")
        agent.stop()
        seen = writer.count
        until(lambda: writer.count > seen + 1200, "rotated twice")
        writer.stop()
        agent.start()
        text = self.until_seen(program, output, b"the end\n")
        self.assert_complete(text, writer.count, 500)
        self.quit(program)

    def worker(self, agent: Agent) -> int:
        """Return the tail worker of a device."""

        def find() -> int:
            for pid in descendants(agent.keeper_pid()):
                if Path(f"/proc/{pid}/comm").read_text() == "rshell-tail\n":
                    return pid
            return 0

        return until(find, "a worker")


PROGRAM = """
import os, sys
from twisted.internet import task
from twisted.internet.defer import ensureDeferred
from rshell.client import Tail, connect, find_profile
from rshell.handlers import TailRequest

class Printer:
    def line_received(self, line):
        print(line.path, line.data, flush=True)

    def notice_received(self, notice):
        print(notice.code, notice.text, flush=True)

async def main(reactor):
    async with await connect(reactor, find_profile(sys.argv[1], os.environ)) as client:
        request = TailRequest(paths=[os.fsencode(sys.argv[2])], lines=1)
        tail = Tail(client, "pump-1", request, Printer(), reactor)
        tail.start()
        outcome = await tail.outcome
        print(outcome.status)

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


class PythonTests(TailCase):
    def test_program(self) -> None:
        """The program of docs/operators.md does what it says."""
        log = self.log()
        log.write_text("one\ntwo\n")
        command = [sys.executable, "-c", PROGRAM, str(self.fleet.home), str(log)]
        done = self.fleet.command(command)
        self.assert_status(0, done)
        self.assertEqual(f"{os.fsencode(log)!r} b'two'\nok\n", done.stdout.decode())


class FloodTests(TailCase):
    def flood(self, seconds: float, per_second: int, rate: int) -> None:
        name = f"flood-{per_second}"
        agent = self.added(name)
        log, output = self.log(), self.log("out")
        log.touch()
        program = self.follow(
            self.fleet, output, "-f", "-n", "+1", "--json", "--rate", str(rate), f"{name}:{log}"
        )
        (worker,) = until(lambda: children(agent.keeper_pid()), "the worker")
        until(lambda: state(worker) == "S", "the worker waits")
        with log.open("ab") as file:
            file.write(b"begin\n")
        self.until_seen(program, output, b'"begin"')
        watched = {"worker": worker, "agent": agent.pid, "keeper": agent.keeper_pid()}
        watched["gateway"] = self.fleet.gateway_pid
        before = {name: rss_kb(pid) for name, pid in watched.items()}
        for pid in watched.values():
            reset_peak(pid)
        written = 1 + self._write(log, seconds, per_second)
        until(
            lambda: sum(self._counted(output)) >= written, lambda: str(self._counted(output)), 120
        )
        lines, dropped = self._counted(output)
        grown = {name: peak_kb(pid) - before[name] for name, pid in watched.items()}
        text = f"{written} lines: {lines} shown, {dropped} dropped; KiB {before}, grown by {grown}"
        print(f"\n{text}")  # noqa: T201  # a measurement
        self.assertEqual(written, lines + dropped)
        self.assertGreater(dropped, 0)
        for name, more in grown.items():
            self.assertLess(more, 8 * 1024, name)
        self.quit(program)

    def _counted(self, output: Path) -> tuple[int, int]:
        """Return how many lines came, and how many were said to be dropped."""
        whole = output.read_bytes().rpartition(b"\n")[0]
        records = [json.loads(line) for line in whole.splitlines()]
        dropped = sum(record.get("count", 0) for record in records)
        return sum("data" in record for record in records), dropped

    def _write(self, log: Path, seconds: float, per_second: int) -> int:
        """Write so many lines a second, by the clock: what is late is caught up on."""
        written, total = 0, int(seconds * per_second)
        began = time.monotonic()
        with log.open("ab") as file:
            while written < total:
                due = min(int((time.monotonic() - began) * per_second), total) - written
                file.write(b"".join(b"%d %080d\n" % (written + n, 0) for n in range(due)))
                file.flush()
                written += due
                time.sleep(0.01)
        return total

    def test_flood(self) -> None:
        """Lines that come too fast are counted to the last one, and nobody's memory grows."""
        self.flood(2.0, 30_000, 500)

    @lasting("ten seconds of 100,000 lines")
    def test_long_flood(self) -> None:
        """100,000 lines a second for ten seconds."""
        self.flood(10.0, 100_000, 2000)
