"""What ``rshell cp`` understands and shows."""

from __future__ import annotations

import json
import os
from typing import Any, cast

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.copy_view import Bar, JsonView, TextView, describe_size, summary
from rshell.cli.cp import parse_rate
from rshell.cli.fanout import Outputs
from rshell.client import RshellError
from rshell.client.files import CopyReport, FileResult, Progress


class FakeOutputs:
    """Streams in memory."""

    failed = False

    def __init__(self) -> None:
        self.written = {False: b"", True: b""}

    def write(self, data: bytes, stderr: bool) -> None:
        self.written[stderr] += data

    async def drained(self) -> None:
        """All is written at once."""

    def status(self, own: int) -> int:
        return own


def result(status: str = "copied", **fields: Any) -> FileResult:
    known: dict[str, Any] = {
        "kind": "file",
        "source_device": None,
        "source": b"f",
        "target_device": "pump-1",
        "target": b"/t/f",
        "size": 100,
        "sent": 10,
    }
    return FileResult(status=status, **{**known, **fields})


class RateTests(SynchronousTestCase):
    def parse(self, text: str | None) -> int | None:
        return parse_rate(cast(click.Context, None), cast(click.Parameter, None), text)

    def test_rates(self) -> None:
        """Rates are bytes a second, with the usual letters."""
        for text, rate in (
            ("500", 500), ("200k", 200 * 1024), ("2M", 2 << 20), ("1.5m", 3 << 19),
            ("1G", 1 << 30), ("3MB/s", 3 << 20), ("3MiB", 3 << 20), (None, None),
        ):  # fmt: skip
            self.assertEqual(rate, self.parse(text), text)

    def test_no_rates(self) -> None:
        """Anything else is refused, nothing too."""
        for text in ("", "0", "fast", "-1", "1T", "1.2.3M", "M", "1e3", "0.0001"):
            self.assertRaises(click.BadParameter, self.parse, text)


class TextTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outputs = FakeOutputs()
        self.clock = Clock()

    def view(self, **options: bool) -> TextView:
        known = {"quiet": False, "dry_run": False, "bar": False, **options}
        return TextView(self.clock, cast(Outputs, self.outputs), **known)

    def ended(self, view: TextView, report: CopyReport) -> str:
        self.successResultOf(Deferred.fromCoroutine(view.end(report)))
        return self.outputs.written[False].decode()

    def test_sizes(self) -> None:
        """Sizes are short."""
        sizes = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"),
                 (1.5e9, "1.5 GB"), (5e12, "5000 GB")]  # fmt: skip
        self.assertEqual([text for _, text in sizes], [describe_size(size) for size, _ in sizes])

    def test_summary(self) -> None:
        """The summary tells what happened and leaves out what did not."""
        report = CopyReport(copied=1, bytes_copied=2000, bytes_sent=2010, seconds=2.0)
        self.assertEqual("1 file copied, 2.0 kB in 2.0 s (1.0 kB/s)", summary(report))
        report = CopyReport(
            copied=1200, unchanged=1, skipped=2, failed=3, bytes_copied=10**6, bytes_sent=10
        )
        self.assertEqual(
            "1,200 files copied, 1.0 MB in 0.0 s (0 B/s); 10 B over the wire; "
            "1 file unchanged; 2 passed over; 3 failed",
            summary(report),
        )

    def test_failures(self) -> None:
        """A file that fails is named with its reason, without what a terminal would act on."""
        view = self.view()
        view.file_done(result())
        self.assertEqual(b"", self.outputs.written[True])
        view.file_done(result("failed", source=b"\x1b[2Jx\n", code="io", message="broken"))
        line = self.outputs.written[True].decode()
        self.assertEqual("rshell: \N{REPLACEMENT CHARACTER}[2Jx  -> pump-1:/t/f: broken\n", line)

    def test_quiet(self) -> None:
        """Quiet leaves the summary out."""
        self.assertEqual("", self.ended(self.view(quiet=True), CopyReport(copied=1)))

    def test_dry_run(self) -> None:
        """A dry run lists what would be."""
        view = self.view(dry_run=True)
        view.file_done(result("planned"))
        text = self.ended(view, CopyReport(copied=1, unchanged=2))
        self.assertEqual("f -> pump-1:/t/f\nwould copy 1 file; 2 files unchanged\n", text)

    def test_stopped(self) -> None:
        """A copy that was stopped says how to go on."""
        self.ended(self.view(), CopyReport(ended="cancelled"))
        self.assertIn(b"run the same command again", self.outputs.written[True])

    def test_bar(self) -> None:
        """The bar shows files, share, rate and time left, in one line that fits."""
        shown: list[bytes] = []
        bar = Bar(self.clock, shown.append)
        progress = Progress(planned=True, files_total=10, files_done=2, bytes_total=10**8)
        progress.current = b"dir/a-\x1bname"
        bar.begin(progress)
        for done in (0, 10**6, 2 * 10**6):
            progress.bytes_done = done
            self.clock.advance(0.2)
        text = shown[-1].decode()
        for part in ("2/10", "a-\N{REPLACEMENT CHARACTER}name", "2%", "5.0 MB/s", "0:19 left"):
            self.assertIn(part, text)
        for width in (10, 40, 80, 200):
            bare = click.unstyle(bar.line(progress, width))
            self.assertLess(len(bare), width)
        bar.away = "pump-1: link lost, retrying"
        self.assertIn("link lost", bar.line(progress, 80))
        bar.close()
        self.assertEqual(b"\r\x1b[K", shown[-1])
        self.assertEqual([], self.clock.getDelayedCalls())


class JsonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outputs = FakeOutputs()
        self.view = JsonView(cast(Outputs, self.outputs), ["pump-1", "pump-2"])

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.outputs.written[False].splitlines()]

    def test_files(self) -> None:
        """A file's line has what is known of it; names that are no UTF-8 are in base64."""
        self.view.file_done(result(source=os.fsencode("ü")))
        self.view.file_done(result("failed", source=b"\xff", code="io", message="broken"))
        first, second = self.lines()
        self.assertEqual(
            {"device": "pump-1", "status": "copied", "kind": "file", "source": "ü",
             "target_device": "pump-1", "target": "/t/f", "bytes": 100, "sent": 10},
            first,
        )  # fmt: skip
        self.assertEqual(("/w==", "io"), (second["source_b64"], second["code"]))
        self.assertNotIn("source", second)

    def test_outcomes(self) -> None:
        """Each device gets an outcome with its own numbers."""
        self.view.file_done(result())
        self.view.file_done(result("failed", target_device="pump-2"))
        self.successResultOf(Deferred.fromCoroutine(self.view.end(CopyReport())))
        one, two = (line["outcome"] for line in self.lines()[2:])
        self.assertEqual(("ok", 1, 100), (one["status"], one["copied"], one["bytes"]))
        self.assertEqual(("error", "failed", 1), (two["status"], two["code"], two["failed"]))

    def test_nothing_done(self) -> None:
        """What ended everything is each device's outcome."""
        error = RshellError("offline", "pump-1 is away", "")
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.view.failed(error))))
        self.assertEqual(
            [("offline", "offline")] * 2,
            [(line["outcome"]["status"], line["outcome"]["code"]) for line in self.lines()],
        )
