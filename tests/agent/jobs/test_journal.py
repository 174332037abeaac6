"""The journal of jobs: what is on the disk when, and what a torn or foreign file does."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.jobs import journal as journals
from rshell_agent.jobs.journal import Journal, JournalBroken
from rshell_agent.jobs.times import Clock, Moment, passed, read_boot_id

WALL = 1_800_000_000.0


class JournalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="jobs-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.boot = self.home / "boot_id"
        self.boot.write_text("boot-1\n")
        self.mono = 100.0
        self.file = self.home / "keeper.jobs"
        self.journal = self.opened()

    def opened(self) -> Journal:
        directory = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, directory)
        clock = Clock(str(self.boot), lambda: self.mono, lambda: WALL + self.mono)
        return Journal(directory, clock)


@contextmanager
def replaced(case: SynchronousTestCase, place: Any, name: str, new: Any) -> Iterator[None]:
    patch = case.patch(place, name, new)
    try:
        yield
    finally:
        patch.restore()


class ReadingTests(JournalCase):
    def test_states(self) -> None:
        """A job has its last state, the fields of all, and the moment of each."""
        self.journal.append("a1", "reboot", "accepted", operator="ann", delay=3)
        self.mono = 107.0
        self.journal.append("a1", "reboot", "going", went=True)
        self.journal.append("b2", "confirm", "armed", operator="bob")
        jobs = self.opened().jobs()
        self.assertEqual(["a1", "b2"], list(jobs))
        job = jobs["a1"]
        self.assertEqual(("reboot", "going", False), (job.kind, job.state, job.told))
        self.assertEqual(("ann", 3), (job.text("operator"), job.number("delay")))
        self.assertEqual(7.0, passed(job.moments["accepted"], job.moments["going"]))
        self.assertFalse(job.decided)

    def test_told(self) -> None:
        """That somebody has the outcome is no state of its own."""
        self.journal.append("a1", "reboot", "done")
        self.journal.append("a1", "reboot", "told")
        job = self.journal.jobs()["a1"]
        self.assertEqual(("done", True, True), (job.state, job.decided, job.told))

    def test_last_is_last(self) -> None:
        """What follows a decision, but that it was told, is left out."""
        self.journal.append("a1", "confirm", "rolled-back")
        self.journal.append("a1", "confirm", "ran", command="x")
        self.journal.append("a1", "confirm", "noted")
        job = self.journal.jobs()["a1"]
        self.assertEqual(("rolled-back", {}, True), (job.state, job.fields, job.noted))

    def test_none(self) -> None:
        """A home without the file has no jobs."""
        self.assertEqual({}, self.journal.jobs())

    def test_private(self) -> None:
        """Only its owner can read it."""
        self.journal.append("a1", "reboot", "accepted")
        for name in ("keeper.jobs", "keeper.jobs.lock"):
            self.assertEqual(0o600, (self.home / name).stat().st_mode & 0o777)


class DamageTests(JournalCase):
    def test_torn_anywhere(self) -> None:
        """A last line that was cut at any byte is left out; the one before and the next hold."""
        self.journal.append("a1", "reboot", "accepted")
        first = self.file.stat().st_size
        self.journal.append("a1", "reboot", "going")
        whole = self.file.read_bytes()
        for size in range(first, len(whole) - 1):
            self.file.write_bytes(whole[:size])
            self.assertEqual("accepted", self.journal.jobs()["a1"].state, size)
            self.journal.append("b2", "reboot", "accepted")
            self.assertEqual({"a1", "b2"}, set(self.journal.jobs()), size)

    def test_flipped(self) -> None:
        """A line of which any byte has changed is left out."""
        self.journal.append("a1", "reboot", "accepted")
        whole = self.file.read_bytes()
        for place in range(len(whole) - 1):
            data = bytearray(whole)
            data[place] ^= 0x04
            self.file.write_bytes(data)
            self.assertEqual({}, self.journal.jobs(), place)

    def test_rubbish(self) -> None:
        """Lines of right sum and wrong shape are left out."""
        for text in (
            b"[]", b"{}", b'{"job":1,"kind":"reboot"}', b"[" * 5000, b"\xff",
            b'{"job":"x","kind":"reboot","state":"going","at":[1,2]}',
            b'{"job":"x","kind":"reboot","state":7,"at":["b",1,2]}',
            b'{"job":"x","kind":"reboot","state":"going","at":["b",1,2],"fields":[]}',
        ):  # fmt: skip
            with self.file.open("ab") as file:
                file.write(b"%08x %s\n" % (journals.binascii.crc32(text), text))
        self.file.chmod(0o600)
        self.assertEqual({}, self.journal.jobs())

    def test_not_ours(self) -> None:
        """A link, a second name, a pipe, and a file that others may write, are refused."""
        other = self.home / "other"
        other.write_bytes(b"")
        other.chmod(0o600)
        for make in (
            lambda: self.file.symlink_to(other),
            lambda: self.file.hardlink_to(other),
            lambda: os.mkfifo(self.file, 0o600),
            lambda: (self.file.touch(), self.file.chmod(0o662)),
        ):
            make()
            with self.assertRaises(JournalBroken):
                self.journal.jobs()
            with self.assertRaises(JournalBroken):
                self.journal.append("a1", "reboot", "accepted")
            self.file.unlink()

    def test_too_long(self) -> None:
        """A record that no reader would take is refused, and nothing is written."""
        with self.assertRaises(JournalBroken):
            self.journal.append("a1", "confirm", "armed", line="x" * journals.MAX_RECORD)
        self.assertFalse(self.file.exists())

    def test_huge(self) -> None:
        """A file of a size that is never ours is not read."""
        with self.file.open("wb") as file:
            file.truncate(journals._MAX_BYTES + 1)
        self.file.chmod(0o600)
        with self.assertRaises(JournalBroken):
            self.journal.jobs()

    def test_not_synced(self) -> None:
        """A record that cannot be synced is refused, and no reader finds it."""
        self.journal.append("a1", "confirm", "ran")

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with self.assertRaises(JournalBroken), replaced(self, os, "fsync", fails):
            self.journal.append("a1", "confirm", "confirmed")
        self.assertEqual("ran", self.opened().jobs()["a1"].state)

    def test_not_compacted(self) -> None:
        """A record that is on the disk counts, even if the file cannot be written anew."""
        self.patch(journals, "COMPACT_BYTES", 10)
        (self.home / "keeper.jobs.new").mkdir()
        for state in ("armed", "ran", "confirmed"):
            self.journal.append("a1", "confirm", state)
        self.assertEqual("confirmed", self.opened().jobs()["a1"].state)


class LockTests(JournalCase):
    def test_held(self) -> None:
        """A lock that somebody holds is an error in the end, and not a hang."""
        self.patch(journals, "_LOCK_SECONDS", 0.05)
        with self.journal.lock(), self.assertRaises(JournalBroken):
            self.opened().append("a1", "reboot", "accepted")
        self.opened().append("a1", "reboot", "accepted")

    def test_in_itself(self) -> None:
        """Who holds it may write."""
        with self.journal.lock():
            self.journal.append("a1", "reboot", "accepted")
        self.assertIn("a1", self.journal.jobs())


class CompactionTests(JournalCase):
    def fill(self, count: int) -> None:
        for number in range(count):
            self.journal.append(f"{number:032x}", "confirm", "armed", line="x" * 3000)
            if number % 3:
                self.journal.append(f"{number:032x}", "confirm", "rolled-back", output="y" * 900)
            if number % 3 == 2:
                self.journal.append(f"{number:032x}", "confirm", "told")

    def test_what_stays(self) -> None:
        """What is undecided or untold stays whole; what was told stays as an id."""
        self.patch(journals, "COMPACT_BYTES", 200_000)
        self.fill(120)
        self.assertLess(self.file.stat().st_size, 420_000)
        jobs = self.journal.jobs()
        self.assertEqual(120, len(jobs))
        for number in range(120):
            job = jobs[f"{number:032x}"]
            self.assertEqual("rolled-back" if number % 3 else "armed", job.state)
            self.assertEqual(number % 3 == 2, job.told)
            if number % 3 != 2:
                self.assertEqual(3000, len(job.text("line")))

    def test_oldest_go(self) -> None:
        """Of those that were told the oldest are forgotten beyond the limit; others never."""
        self.patch(journals, "COMPACT_BYTES", 100_000)
        self.patch(journals, "KEPT", 50)
        self.fill(120)
        jobs = self.journal.jobs()
        self.assertLess(len(jobs), 110)
        untold = {f"{number:032x}" for number in range(120) if number % 3 != 2}
        self.assertLessEqual(untold, set(jobs))


class CrashTests(JournalCase):
    def crash(self, point: str) -> int:
        """Append in a child that dies at a point; return the signal that ended it."""
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["RSHELL_CRASH_AT"] = point
                self.journal.append("a1", "reboot", "going")
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        return os.WTERMSIG(status)

    def test_before(self) -> None:
        """Who dies before the write has not written, and after the sync has."""
        self.journal.append("a1", "reboot", "waiting")
        self.assertEqual(signal.SIGKILL, self.crash("jobs.reboot.going.before"))
        self.assertEqual("waiting", self.journal.jobs()["a1"].state)
        self.assertEqual(signal.SIGKILL, self.crash("jobs.reboot.going.after"))
        self.assertEqual("going", self.journal.jobs()["a1"].state)

    def test_with_the_lock(self) -> None:
        """The lock of one that died does not stay."""
        self.assertEqual(signal.SIGKILL, self.crash("jobs.written"))
        self.journal.append("b2", "reboot", "accepted")
        self.assertIn("b2", self.journal.jobs())

    def test_while_compacting(self) -> None:
        """Who dies before the new file takes the old one's place has lost nothing."""
        self.patch(journals, "COMPACT_BYTES", 10)
        self.journal.append("b2", "reboot", "accepted")
        self.assertEqual(signal.SIGKILL, self.crash("jobs.compacted"))
        self.assertEqual({"a1", "b2"}, set(self.journal.jobs()))


class MomentTests(SynchronousTestCase):
    def test_same_boot(self) -> None:
        """Within a boot a clock that is set does not matter."""
        self.assertEqual(5.0, passed(Moment("a", 10, WALL), Moment("a", 15, 0)))

    def test_other_boot(self) -> None:
        """Across boots the wall clock counts if both could be true, else this boot's age."""
        self.assertEqual(90.0, passed(Moment("a", 10, WALL), Moment("b", 15, WALL + 90)))
        self.assertEqual(15.0, passed(Moment("a", 10, 30.0), Moment("b", 15, WALL)))
        self.assertEqual(15.0, passed(Moment("a", 10, WALL), Moment("b", 15, 30.0)))
        self.assertEqual(15.0, passed(Moment("a", 10, WALL), Moment("b", 15, WALL - 500)))

    def test_boot_id(self) -> None:
        """A boot id is one short printable line, or nothing."""
        path = self.mktemp()
        self.assertEqual("", read_boot_id(path))
        Path(path).write_bytes(b"  ab\x1bc" + b"d" * 100 + b"\n")
        self.assertEqual("ab?c" + "d" * 60, read_boot_id(path))
