"""The handler as an agent runs it, without a gateway and in no time."""

import os
from pathlib import Path

from rshell_diskusage.handler import DiskUsage, Request
from twisted.trial.unittest import SynchronousTestCase

from rshell.testing import HandlerHarness


class DiskUsageTests(SynchronousTestCase):
    """Each test has a tree of its own."""

    def setUp(self):
        self.root = Path(self.mktemp()).absolute()
        (self.root / "large" / "inner").mkdir(parents=True)
        (self.root / "small").mkdir()
        (self.root / "large" / "inner" / "file").write_bytes(os.urandom(100_000))
        (self.root / "small" / "file").write_bytes(b"x")
        self.harness = HandlerHarness(DiskUsage())
        self.addCleanup(self.harness.close)

    def lines(self, call):
        """Return (path below the root, bytes) of what was printed, in order."""
        rows = [line.split(b"\t") for line in bytes(call.stdout).splitlines()]
        return [(os.path.relpath(os.fsdecode(path), self.root), int(size)) for size, path in rows]

    def test_directories(self):
        """Directories are told down to a depth, the deepest first, and what is below counts."""
        call = self.harness.call(Request(paths=[str(self.root)]))
        sizes = dict(self.lines(call))
        self.assertEqual({".", "large", "small"}, set(sizes))
        self.assertEqual(".", self.lines(call)[-1][0])
        self.assertGreaterEqual(sizes["large"], 100_000)
        self.assertGreater(sizes["."], sizes["large"])

    def test_result(self):
        """The result has the totals."""
        call = self.harness.call(Request(paths=[str(self.root)]))
        self.assertEqual("ok", call.outcome.status)
        self.assertEqual((2, 0), (call.outcome.result["files"], call.outcome.result["unreadable"]))

    def test_progress(self):
        """It tells how many directories are done, the last of it at the end."""
        call = self.harness.call(Request(paths=[str(self.root)]))
        self.assertEqual({"done": 4, "note": str(self.root)}, call.events[-1][1])

    def test_wrong_requests(self):
        """What is no directory, or no sensible request, is refused with a word about it."""
        for request in (
            {"paths": [str(self.root / "nowhere")]},
            {"paths": ["relative"]},
            {"paths": []},
            {"paths": ["/"], "depth": 99},
            {"paths": ["/"], "colour": "red"},
        ):
            code, message = self.harness.call(request).refused
            self.assertEqual("bad-request", code)
            self.assertTrue(message)

    def many_directories(self):
        """Make so many that their lines do not fit into what may wait for a reader."""
        for number in range(2000):
            (self.root / "small" / f"directory-{number}-{'x' * 60}").mkdir()

    def test_cancelled(self):
        """Cancelling stops the walk where it is."""
        self.many_directories()
        request = Request(paths=[str(self.root)], depth=3)
        call = self.harness.call(request, window=4096, paused=True)
        call.cancel()
        call.resume()
        self.assertEqual("cancelled", call.outcome.code)
        self.assertLess(len(self.lines(call)), 2000)

    def test_slow_reader(self):
        """A reader that is away pauses the walk; all of it arrives in the end."""
        self.many_directories()
        request = Request(paths=[str(self.root)], depth=3)
        call = self.harness.call(request, window=4096, paused=True)
        self.assertIsNone(call.outcome)
        call.resume()
        self.assertEqual(2004, len(self.lines(call)))
        self.assertEqual("ok", call.outcome.status)
