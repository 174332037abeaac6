"""Waiting for changes with the system's own inotify, and for a reader that goes."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.workers.tail.wakeups import ReaderGone, Wakeups


class WakeupsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.addCleanup(os.close, self.writer)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.log.touch()
        self.wakeups = Wakeups(self.writer)

    def opened(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_changes(self) -> None:
        """A line that is written is no change of a folder; a rename and a new file are."""
        self.addCleanup(os.close, self.reader)
        watch = self.wakeups.watch_file(self.opened(self.log))
        self.wakeups.watch_folder(self.opened(self.folder))
        with self.log.open("ab") as file:
            file.write(b"line\n")
        self.assertFalse(self.wakeups.wait())
        self.log.rename(self.folder / "log.1")
        self.assertTrue(self.wakeups.wait())
        (self.folder / "new").touch()
        self.assertTrue(self.wakeups.wait())
        self.wakeups.unwatch(watch)
        self.wakeups.unwatch(watch)

    def test_watched_twice(self) -> None:
        """To watch a place again changes nothing; what cannot be watched is looked at instead."""
        self.addCleanup(os.close, self.reader)
        folder = self.opened(self.folder)
        self.assertEqual(self.wakeups.watch_folder(folder), self.wakeups.watch_folder(folder))
        self.assertEqual(-1, self.wakeups.watch_file(10**6))
        self.assertFalse(self.wakeups.wait())

    def test_reader_gone(self) -> None:
        """Nobody who reads any more ends the waiting."""
        os.close(self.reader)
        with self.assertRaises(ReaderGone):
            self.wakeups.wait()
