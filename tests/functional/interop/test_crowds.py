"""Many at once at the SSH door: operators, strangers, guessers, and somebody who never reads."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from tests.functional.interop.clients import MIB
from tests.functional.interop.crowd import Crowd
from tests.functional.processes import (
    Program,
    fds,
    lasting,
    peak_kb,
    reset_peak,
    rss_kb,
    until,
)
from tests.functional.ssh_door import SshCase, SshFleet

#: Sources of their own: what one owes does not touch the others, nor other tests.
ELSEWHERE, GUESSERS, STRANGERS = "127.0.0.2", "127.0.0.3", "127.0.0.4"
#: A gateway's store and log may open a few more.
SPARE_FDS = 8
#: What a gateway may have kept of a crowd: caches of the store, and places in its memory that
#: are too small for whoever asks next.
SPARE_KB = 4 * 1024
#: Without this the memory of a gateway is a saw: what went in circles, some 60 objects for each
#: session, is collected after three or four crowds of 200, and 6 MiB come and go with it.
COLLECT = "import ctypes, gc; gc.collect(); trimmed = ctypes.CDLL('libc.so.6').malloc_trim(0)"


class _Case(SshCase):
    """What crowds have in common."""

    def calm(self, fleet: SshFleet, before: int) -> None:
        """Wait until the gateway has as few descriptors as before."""
        until(
            lambda: fds(fleet.gateway_pid) <= before + SPARE_FDS,
            lambda: f"{fds(fleet.gateway_pid)} descriptors, {before} before",
        )

    def seconds_to_enter(self, fleet: SshFleet) -> float:
        """Let an operator from elsewhere run a command; return how long it took."""
        began = time.monotonic()
        done = fleet.ssh("pump-1", "echo in", options=("-b", ELSEWHERE))
        self.assertEqual((0, b"in\n"), (done.status, done.stdout), done.stderr)
        return time.monotonic() - began

    def kept_kb(self, fleet: SshFleet) -> int:
        """Return the gateway's resident memory without what only waits to be collected."""
        done = fleet.rshell("console", "-c", COLLECT)
        self.assertEqual(0, done.status, done)
        return rss_kb(fleet.gateway_pid)

    def report(self, text: str) -> None:
        print(f"\n{self.id().rpartition('.')[2]}: {text}")  # noqa: T201  # figures of long forms


class OperatorTests(_Case):
    def together(self, fleet: SshFleet, names: list[str], sessions: int, rounds: int) -> None:
        """Two crowds, one after the other; the second leaves no more behind than the first."""
        crowd = Crowd(fleet)
        before = fds(fleet.gateway_pid)
        resident = []
        start = fleet.log_size()
        for _ in range(2):
            program = crowd.echoing(names, sessions, rounds, size=2000, pause=0.01)
            found = crowd.result(program, 300)
            self.assertEqual(sessions * rounds, found["echoes"])
            self.assertEqual({"0": sessions}, found["statuses"])
            self.calm(fleet, before)
            resident.append(self.kept_kb(fleet))
        self.report(f"{sessions} sessions, {found}, RSS {resident} KiB after each")
        self.assertLess(resident[1] - resident[0], SPARE_KB)
        self.assertNotIn("Traceback", fleet.log_text(start))

    def test_together(self) -> None:
        """Twenty SSH sessions at once, all with traffic: all is echoed, nothing is left."""
        self.together(self.fleet, ["pump-1", "pump-2"], 20, 20)

    @lasting("200 sessions")
    def test_together_long(self) -> None:
        """Two hundred."""
        names = [f"pump-{n + 1}" for n in range(4)]  # 64 sessions each, by their policy
        self.together(self.own_ssh_fleet(*names), names, 200, 200)


class StrangerTests(_Case):
    def waiting_crowd(self, count: int) -> float:
        """Connect and never log in; return how long a legitimate operator took meanwhile."""
        fleet = self.fleet
        self.seconds_to_enter(fleet)
        before, start = fds(fleet.gateway_pid), fleet.log_size()
        resident = rss_kb(fleet.gateway_pid)
        crowd: list[socket.socket] = []
        self.addCleanup(lambda: [one.close() for one in crowd])
        for index in range(count):
            one = socket.create_connection(
                ("127.0.0.1", fleet.ssh_port), 20, source_address=(STRANGERS, 0)
            )
            crowd.append(one)
            try:
                if index % 3:
                    one.sendall(b"SSH-2.0-slow\r\n" + b"\0\0" * (index % 3 - 1))
            except OSError:
                pass  # it owes too much, and was turned away
        # 128 may wait for their login, whatever the crowd's size.
        until(
            lambda: fds(fleet.gateway_pid) <= before + 128 + SPARE_FDS,
            lambda: f"{fds(fleet.gateway_pid)} descriptors, {before} before",
        )
        took = self.seconds_to_enter(fleet)
        grown = rss_kb(fleet.gateway_pid) - resident
        self.assertLess(grown, 16 * 1024)
        for one in crowd:
            one.close()
        self.calm(fleet, before)
        written = fleet.log_size() - start
        self.report(f"{count} strangers: an operator in {took:.2f} s, +{grown} KiB, log {written}")
        # The lines of one source are rationed.
        self.assertLess(written, 64_000)
        self.assertNotIn("Traceback", fleet.log_text(start))
        return took

    def test_wait_for_nothing(self) -> None:
        """150 connections that never log in keep nobody out who comes from elsewhere."""
        self.waiting_crowd(150)

    @lasting("2,000 strangers")
    def test_wait_for_nothing_long(self) -> None:
        """Nor do 2,000: who comes from elsewhere is in within a second."""
        self.assertLess(self.waiting_crowd(2000), 1)

    def guessed(self, attempts: int) -> tuple[SshFleet, float]:
        """Guess; return how long a legitimate operator took after it."""
        fleet = self.fleet
        self.seconds_to_enter(fleet)
        crowd = Crowd(fleet)
        before, start = fds(fleet.gateway_pid), fleet.log_size()
        guessing = crowd.guessing(GUESSERS, attempts, 7)
        took = self.seconds_to_enter(fleet)
        found = crowd.result(guessing)
        self.assertNotIn("entered", found)
        # Three connections owe 15 s, and the fourth more than one may owe; time goes by meanwhile.
        tried = found.pop("too many", 0) + found.pop("denied", 0)
        self.assertLessEqual(tried, 4 + guessing_seconds(guessing) // 5, found)
        self.assertEqual(attempts - tried, found.pop("turned away"), found)
        self.assertLess(self.seconds_to_enter(fleet), 20)
        # One more guess or two, and from there nobody gets in; why, is told.
        until(
            lambda: b"try again in a few minutes" in self.refused(fleet),
            "the refusal; what comes with the end of a connection may be lost with it",
        )
        self.calm(fleet, before)
        self.report(f"{attempts} guessers, {tried} of them judged; an operator in {took:.2f} s")
        self.assertNotIn("Traceback", fleet.log_text(start))
        return fleet, took

    def refused(self, fleet: SshFleet) -> bytes:
        """Try with a bad key from where the guessers are; return what is told."""
        if not (fleet.base / "bad").exists():
            fleet.new_key("bad")
        done = fleet.ssh("pump-1", "true", options=("-b", GUESSERS), key="bad")
        self.assertEqual(255, done.status)
        return done.stderr

    def test_guess(self) -> None:
        """Who guesses keys and passwords is soon turned away; others get in."""
        self.guessed(30)

    @lasting("500 guessers, and what they owe")
    def test_guess_long(self) -> None:
        """500 guesses cost nobody else a second, and are forgiven when the time is over."""
        fleet, took = self.guessed(500)
        self.assertLess(took, 1)
        there = ("-b", GUESSERS)
        until(
            lambda: fleet.ssh("pump-1", "true", options=there).status == 0,
            "what was owed is over",
            60,
            1,
        )


def guessing_seconds(program: Program) -> int:
    """Return how long a program has been running."""
    return int(time.monotonic() - program.started)


class _Count:
    """Reads what a program writes, and counts it.

    Attributes:
        size: Bytes so far.
    """

    def __init__(self, program: Program) -> None:
        self.size = 0
        self._stdout = program.process.stdout
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self._stdout is not None
        while data := os.read(self._stdout.fileno(), MIB):
            self.size += len(data)


class StalledReaderTests(_Case):
    def stalled(
        self, size: int, rounds: int, times: int = 1, *, own: bool = False
    ) -> tuple[dict[str, float], dict[str, float]]:
        """One session's client stops reading; return the echo of another without and with it.

        With ``own`` that client is ``rshell run``, over a link, else it is OpenSSH.
        """
        fleet = self.fleet
        crowd = Crowd(fleet)
        idle = crowd.echo_ms("pump-2", rounds, times)
        done = fleet.base / f"{self.id()}.done"
        line = f"head -c {size} /dev/zero; touch {done}"
        run = fleet.cli("run", "pump-1", "--", line)
        program = fleet.start(run if own else fleet.ssh_command("pump-1", line))
        self.addCleanup(program.kill)
        received = _Count(program)
        until(lambda: received.size > MIB, "bytes flow")
        program.process.send_signal(signal.SIGSTOP)
        reset_peak(fleet.gateway_pid)
        before = rss_kb(fleet.gateway_pid)
        beside = crowd.echo_ms("pump-2", rounds, times)
        # On the same device, too.
        crowd.echo_ms("pump-1", 10)
        stalled = peak_kb(fleet.gateway_pid) - before
        self.assertFalse(done.exists())
        program.process.send_signal(signal.SIGCONT)
        self.assertEqual(0, program.process.wait(900))
        received.thread.join(60)
        self.assertEqual(size, received.size)
        self.assertTrue(done.exists())
        grown = peak_kb(fleet.gateway_pid) - before
        self.report(f"{size} bytes: idle {idle}, beside {beside} ms, +{stalled}, +{grown} KiB")
        # Two windows, and what the sockets took; the device holds the rest.
        self.assertLess(stalled, 12 * 1024)
        self.assertLess(grown, 24 * 1024)
        return idle, beside

    def test_stalled(self) -> None:
        """300 MB for a client that reads nothing for a while: the gateway holds next to nothing."""
        self.stalled(300_000_000, 40)

    def test_stalled_link(self) -> None:
        """60 MB for an operator at the door of links."""
        self.stalled(60_000_000, 40, own=True)

    @lasting("10 GB")
    def test_stalled_link_long(self) -> None:
        """10 GB there."""
        idle, beside = self.stalled(10_000_000_000, 300, 5, own=True)
        self.assertLess(beside["p95"] - idle["p95"], 2)

    @lasting("10 GB")
    def test_stalled_long(self) -> None:
        """10 GB; and meanwhile the echo of others is not 2 ms slower than when nothing happens."""
        idle, beside = self.stalled(10_000_000_000, 300, 5)
        self.assertLess(beside["p95"] - idle["p95"], 2)
