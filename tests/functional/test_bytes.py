"""Bytes through ``rshell run``: exact both ways, bounded in memory, ended when somebody leaves."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time

from twisted.trial.unittest import SkipTest

from tests.functional.fleet import FleetCase
from tests.functional.processes import (
    LONG,
    Program,
    peak_kb,
    reset_peak,
    rss_kb,
    state,
    until,
)

MEGABYTE = 1 << 20
#: What a transfer of any size may add to a process.
GROWTH_KB = 40 * 1024


class ExactTests(FleetCase):
    def test_all_bytes(self) -> None:
        """All 256 values arrive as they are, on both streams."""
        script = "import os; d = bytes(range(256)); os.write(1, d); os.write(2, d[::-1])"
        done = self.run_on("pump-1", "python3", "-c", script)
        self.assert_status(0, done)
        self.assertEqual(bytes(range(256)), done.stdout)
        self.assertEqual(bytes(reversed(range(256))), done.stderr)

    def test_long_line(self) -> None:
        """A megabyte without a newline arrives whole."""
        done = self.run_on("pump-1", "head -c 1048576 /dev/zero | tr '\\0' x")
        self.assert_status(0, done)
        self.assertEqual(MEGABYTE, len(done.stdout))
        self.assertEqual({ord("x")}, set(done.stdout))

    def test_long_line_of_several(self) -> None:
        """With prefixes a megabyte without a newline comes in marked pieces, nothing missing."""
        done = self.run_on("pump-*", "head -c 1048576 /dev/zero | tr '\\0' x")
        self.assert_status(0, done)
        for name in (b"pump-1", b"pump-2"):
            lines = [line for line in done.stdout.split(b"\n") if line.startswith(name)]
            self.assertTrue(lines[0].startswith(name + b": "))
            self.assertTrue(all(line.startswith(name + b"+ ") for line in lines[1:]))
            self.assertEqual(MEGABYTE, sum(len(line) - len(name) - 2 for line in lines))

    def test_immediate_end_of_input(self) -> None:
        """With /dev/null as input the command sees the end at once."""
        done = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "wc", "-c"), stdin=subprocess.DEVNULL
        ).finish()
        self.assert_status(0, done)
        self.assertEqual(b"0\n", done.stdout)

    def test_no_input(self) -> None:
        """-n passes no input on, though there is some."""
        done = self.fleet.run("-n", "pump-1", "--", "wc", "-c", data=b"not for you")
        self.assertEqual(b"0\n", done.stdout)

    def test_input_in_pieces(self) -> None:
        """Input is passed on as it comes: an answer to a first line comes before the second."""
        program = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "while read l; do echo got $l; done; echo end")
        )
        stdin, stdout = program.process.stdin, program.process.stdout
        assert stdin is not None
        assert stdout is not None
        for word in (b"one", b"two"):
            stdin.write(word + b"\n")
            stdin.flush()
            self.assertEqual(b"got " + word + b"\n", stdout.readline())
        done = program.finish()
        self.assertEqual((0, b"end\n"), (done.status, done.stdout))

    def test_input_nobody_reads(self) -> None:
        """A command that leaves most of its input unread still ends with its own status."""
        done = self.run_on("pump-1", "head", "-c", "3", data=b"x" * 8 * MEGABYTE)
        self.assertEqual((0, b"xxx"), (done.status, done.stdout))


class EndTests(FleetCase):
    def test_command_closes_stdout(self) -> None:
        """A pipeline on the device whose reader leaves early ends by itself."""
        done = self.run_on("pump-1", "yes | head -n 3")
        self.assert_status(0, done)
        self.assertEqual(b"y\ny\ny\n", done.stdout)

    def test_closed_stdout_is_no_end(self) -> None:
        """A command that closes its stdout and lives on has its own status."""
        done = self.run_on("pump-1", "exec >&-; sleep 0.3; echo late >&2; exit 6")
        self.assert_status(6, done)
        self.assertEqual((b"", b"late\n"), (done.stdout, done.stderr))

    def test_local_reader_leaves(self) -> None:
        """`rshell run … yes | head -1` ends, and so does the command on the device."""
        program = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "echo $$; exec yes"), stdin=subprocess.DEVNULL
        )
        stdout = program.process.stdout
        assert stdout is not None
        pid = int(stdout.readline())
        self.assertNotEqual("", state(pid))
        stdout.close()
        self.assertEqual(141, program.process.wait(20))
        assert program.process.stderr is not None
        self.assertNotIn(b"Traceback", program.process.stderr.read())
        program.process.stderr.close()
        until(lambda: state(pid) == "", "the command on the device ended", 10)

    def test_interrupted(self) -> None:
        """^C at rshell ends the command on the device, and the status is 130."""
        program = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "echo $$; exec sleep 300"),
            stdin=subprocess.DEVNULL,
        )
        stdout = program.process.stdout
        assert stdout is not None
        pid = int(stdout.readline())
        program.process.send_signal(2)
        done = program.finish(seconds=20)
        self.assert_status(130, done)
        until(lambda: state(pid) == "", "the command on the device ended", 10)

    def test_killed_operator(self) -> None:
        """A command whose rshell was killed is not ended early: it waits like a pipe (rule R7)."""
        start = self.fleet.log_size()
        program = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "echo $$; exec sleep 300"),
            stdin=subprocess.DEVNULL,
        )
        stdout = program.process.stdout
        assert stdout is not None
        pid = int(stdout.readline())
        self.addCleanup(_kill, pid)
        program.kill()
        until(lambda: " left: " in self.fleet.log_text(start), "the gateway noticed", 10)
        self.assert_status(0, self.run_on("pump-1", "true"))
        self.assertIn(state(pid), ("S", "R"))

    def test_ignores_term(self) -> None:
        """A command that ignores SIGTERM is killed five seconds after its time limit."""
        done = self.fleet.run(
            "pump-1", "--timeout", "0.5", "--", "trap '' TERM; echo $$; while :; do sleep 1; done"
        )
        self.assert_status(124, done)
        self.assertGreater(done.seconds, 5)
        self.assertLess(done.seconds, 12)
        self.assertEqual("", state(int(done.stdout)))

    def test_background_child(self) -> None:
        """A command that leaves a child behind, with our stdout, ends when it ends itself."""
        done = self.run_on("pump-1", "sleep 300 & echo $!")
        self.assert_status(0, done)
        self.assertLess(done.seconds, 10)
        pid = int(done.stdout)
        self.addCleanup(_kill, pid)
        self.assertEqual("S", state(pid))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


class VolumeTests(FleetCase):
    def watched(self) -> dict[str, int]:
        agent = self.fleet.agents["pump-1"]
        return {
            "gateway": self.fleet.gateway_pid,
            "agent": agent.pid,
            "keeper": agent.keeper_pid(),
        }

    def small_kb(self) -> int:
        """Return the peak of a command whose first bytes have come back."""
        program = self.fleet.start(self.fleet.cli("run", "pump-1", "--", "cat"))
        stdin, stdout = program.process.stdin, program.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"warm up")
        stdin.flush()
        self.assertEqual(b"warm up", stdout.read(7))
        program.sample()
        self.assert_status(0, program.finish(b""))
        return program.peak_kb

    def both_ways(self, size: int) -> None:
        """Send ``size`` bytes through `cat` and compare; watch everybody's memory."""
        before, small_kb = {}, self.small_kb()
        for name, pid in self.watched().items():
            reset_peak(pid)
            before[name] = rss_kb(pid)
        block = os.urandom(MEGABYTE)
        sent, received = hashlib.sha256(), hashlib.sha256()
        began = time.monotonic()
        program = self.fleet.start(self.fleet.cli("run", "pump-1", "--", "cat"))
        feeder = threading.Thread(target=_feed, args=(program, block, size // MEGABYTE, sent))
        feeder.start()
        stdout = program.process.stdout
        assert stdout is not None
        count = 0
        while data := os.read(stdout.fileno(), 65536):
            received.update(data)
            count += len(data)
            if count % MEGABYTE < len(data):
                program.sample()
        feeder.join()
        self.assertEqual(0, program.process.wait(20))
        seconds = time.monotonic() - began
        self.assertEqual((size, sent.digest()), (count, received.digest()))
        growth = {name: peak_kb(pid) - before[name] for name, pid in self.watched().items()}
        growth["command"] = program.peak_kb - small_kb
        program.kill()
        print(  # noqa: T201  # a measurement worth seeing
            f"\n{size >> 20} MB both ways: {seconds:.1f} s, growth in KB {growth}, "
            f"the command's peak {program.peak_kb} KB"
        )
        for name, kb in growth.items():
            self.assertLess(kb, GROWTH_KB, name)

    def test_both_ways(self) -> None:
        """20 MB through `cat` come back bit for bit, and nobody's memory grows with them."""
        self.both_ways(20 * MEGABYTE)

    def test_both_ways_long(self) -> None:
        """200 MB through `cat` likewise."""
        if not LONG:
            raise SkipTest("set RSHELL_LONG=1")
        self.both_ways(200 * MEGABYTE)

    def stalled_reader(self, seconds: float) -> None:
        """Do not read for a while: the command on the device stalls, then all of it comes."""
        size = 24 * MEGABYTE
        counter = self.fleet.base / f"written-{time.monotonic_ns()}"
        script = (
            "import os,sys\nn=0\nb=b'z'*65536\n"
            f"while n<{size}:\n n+=os.write(1,b)\n open({str(counter)!r},'w').write(str(n))\n"
        )
        before = {}
        for name, pid in self.watched().items():
            reset_peak(pid)
            before[name] = rss_kb(pid)
        program = self.fleet.start(
            self.fleet.cli("run", "pump-1", "--", "python3", "-c", script),
            stdin=subprocess.DEVNULL,
        )
        until(counter.exists, "the command writes")
        written, since = b"", 0.0

        def stalled() -> bool:
            nonlocal written, since
            now = counter.read_bytes()
            if now != written or not now:
                written, since = now, time.monotonic()
            return time.monotonic() - since > seconds

        until(stalled, "the command stalls", 30 + seconds)
        self.assertLess(int(written), 8 * MEGABYTE)
        program.sample()
        # others are not held up by it
        self.assertEqual(b"ok\n", self.run_on("pump-1", "echo ok").stdout)
        stdout = program.process.stdout
        assert stdout is not None
        count = 0
        while data := os.read(stdout.fileno(), 65536):
            count += len(data)
        self.assertEqual((size, 0), (count, program.process.wait(20)))
        for name, pid in self.watched().items():
            self.assertLess(peak_kb(pid) - before[name], GROWTH_KB, name)
        program.kill()

    def test_stalled_reader(self) -> None:
        """A reader that stops stalls the command on the device, and loses nothing."""
        self.stalled_reader(1.0)

    def test_stalled_reader_long(self) -> None:
        """The same for ten seconds."""
        if not LONG:
            raise SkipTest("set RSHELL_LONG=1")
        self.stalled_reader(10.0)


def _feed(program: Program, block: bytes, times: int, digest: hashlib._Hash) -> None:
    stdin = program.process.stdin
    assert stdin is not None
    for _ in range(times):
        digest.update(block)
        stdin.write(block)
    stdin.close()
