"""Whole copies, with real workers as devices and without any link between."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThreadPool
from twisted.trial.unittest import TestCase

from rshell.cli.places import Place
from rshell.client import RshellError
from rshell.client.files.connection import FilesConnection
from rshell.client.files.copying import Copy
from rshell.client.files.download import Download
from rshell.client.files.progress import CopyReport, FileResult, Progress
from rshell.client.files.records import FilesError
from rshell.client.files.state import CopyOptions
from rshell.client.files.upload import Upload
from tests.client.files.pair import connect_worker
from tests.functional.processes import lasting

reactor: Any = global_reactor

MIB = 1 << 20
WHEN = 1_600_000_000_123_456_789


class CopyCase(TestCase):
    """Two devices, ``pump-1`` and ``pump-2``, and this machine, each with a folder."""

    timeout = 120

    def setUp(self) -> None:
        self.base = Path(os.path.realpath(self.mktemp()))
        self.here, self.one, self.two = (self.base / name for name in ("here", "one", "two"))
        for folder in (self.here, self.one, self.two):
            folder.mkdir(parents=True)
        self.results: list[FileResult] = []
        self.connections: list[FilesConnection] = []
        self.worker: dict[str, Any] = {}
        self.hops = 0  # to threads

    async def connect(self, device: str) -> FilesConnection:
        home = {"pump-1": self.one, "pump-2": self.two}[device]
        connection = await connect_worker(reactor, home, **self.worker)
        self.connections.append(connection)
        return connection

    def place(self, text: str) -> Place:
        """Return ``1:path``, ``2:path``, or a path in our folder."""
        head, colon, path = text.partition(":")
        if colon:
            return Place(f"pump-{head}", path.encode() or b".")
        slash = "/" if text.endswith("/") else ""
        return Place(None, os.fsencode(self.here / text) + slash.encode())

    def copying(self, sources: Sequence[str], target: str, **options: Any) -> Copy:
        pool = reactor.getThreadPool()

        def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
            self.hops += 1
            return deferToThreadPool(reactor, pool, function, *args, **kwargs)

        return Copy(
            reactor,
            in_thread,
            self.connect,
            [self.place(source) for source in sources],
            self.place(target),
            CopyOptions(**options),
            self.results.append,
        )

    async def ended(self) -> None:
        """Wait until no worker runs."""
        for connection in self.connections:
            await connection.session.gone
        self.connections.clear()

    async def cp(self, *words: str, **options: Any) -> CopyReport:
        self.results.clear()
        copying = self.copying(words[:-1], words[-1], **options)
        try:
            report = await copying.run()
        finally:
            for connection in self.connections:
                connection.session.write_eof()
            await self.ended()
        self.assertEqual(copying.progress.bytes_total, copying.progress.bytes_done)
        return report

    async def good(self, *words: str, **options: Any) -> CopyReport:
        report = await self.cp(*words, **options)
        self.assertTrue(report.ok, report)
        return report

    async def refused(self, code: str, *words: str, **options: Any) -> None:
        try:
            report = await self.cp(*words, **options)
        except RshellError as error:
            self.assertEqual(code, error.code, error)
        else:
            self.assertEqual([code], [failure.code for failure in report.failures], report)

    def no_parts(self) -> None:
        self.assertEqual([], list(self.base.rglob(".rshell-*")))


class HopTests(CopyCase):
    async def test_reading_ahead(self) -> None:
        """To read a large file costs a hop to a thread for a MiB, not for each piece."""
        (self.here / "small").write_bytes(os.urandom(MIB))
        await self.good("small", "1:small")
        small, self.hops = self.hops, 0
        (self.here / "large").write_bytes(os.urandom(13 * MIB))
        await self.good("large", "1:large")
        self.assertLessEqual(self.hops, small + 14)
        self.assertEqual((self.here / "large").read_bytes(), (self.one / "large").read_bytes())


def tree(folder: Path) -> dict[str, object]:
    """Return all that is in a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        value: object = None
        if path.is_symlink():
            value = os.readlink(path)
        elif path.is_file():
            value = (path.read_bytes(), status.st_mtime_ns)
        mode = 0 if path.is_symlink() else stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(folder))] = (mode, value)
    return found


class FileTests(CopyCase):
    async def test_all_ways(self) -> None:
        """A file goes up, across and down with content, mode and time."""
        content = random.Random(1).randbytes(3 * MIB + 5)
        (self.here / "f").write_bytes(content)
        (self.here / "f").chmod(0o640)
        os.utime(self.here / "f", ns=(WHEN, WHEN))
        for source, target in (("f", "1:"), ("1:f", "2:g"), ("2:g", "back")):
            report = await self.good(source, target)
            self.assertEqual((1, len(content)), (report.copied, report.bytes_copied))
        for path in (self.one / "f", self.two / "g", self.here / "back"):
            self.assertEqual(content, path.read_bytes())
            self.assertEqual(0o640, stat.S_IMODE(path.stat().st_mode))
            self.assertEqual(WHEN, path.stat().st_mtime_ns)
        self.no_parts()

    async def test_odd_files(self) -> None:
        """Empty files, and names that are no UTF-8 or look like options, are files like others."""
        names = [b"empty", b"\xff\xfe", b"-rf", b"a\nb", b"[x]*", b" "]
        (self.here / "d").mkdir()
        for name in names:
            (self.here / "d" / os.fsdecode(name)).write_bytes(name if name != b"empty" else b"")
        await self.good("d", "1:", recursive=True)
        await self.good("1:d", "2:", recursive=True)
        await self.good("2:d", "e", recursive=True)
        self.assertEqual(tree(self.here / "d"), tree(self.here / "e"))
        await self.good("1:d/[[]x]*", "star")  # a pattern, where [[] stands for [
        self.assertEqual(b"[x]*", (self.here / "star").read_bytes())
        await self.good("1:d/[x]*", "star2")  # a pattern that matches nothing is a name

    async def test_sparse(self) -> None:
        """Holes cost neither the wire nor the disk."""
        await self._sparse(300 * MIB)

    @lasting("zeros of 20 GiB are hashed")
    async def test_large(self) -> None:
        """A file of more than 4 GiB goes up and down."""
        await self._sparse(5 * 1024 * MIB)

    async def _sparse(self, size: int) -> None:
        with (self.here / "f").open("wb") as file:
            file.seek(size)
            file.write(b"end")
            file.truncate(size + 4096)
        for source, target in (("f", "1:f"), ("1:f", "back")):
            report = await self.good(source, target)
            self.assertLess(report.bytes_sent, 100_000)
        for path in (self.one / "f", self.here / "back"):
            self.assertEqual(size + 4096, path.stat().st_size)
            self.assertLess(path.stat().st_blocks * 512, MIB)
            with path.open("rb") as file:
                file.seek(size)
                self.assertEqual(b"end", file.read(3))

    async def test_unchanged(self) -> None:
        """What is there already by size and time is not sent, nor by content on request."""
        (self.here / "f").write_bytes(b"x" * 1000)
        for _ in range(2):
            await self.good("f", "1:")
            await self.good("1:f", "g")
        (self.here / "g").chmod(0o600)
        (self.one / "f").chmod(0o600)
        report = await self.good("f", "1:")
        self.assertEqual((0, 1, 0), (report.copied, report.unchanged, report.bytes_sent))
        self.assertEqual((self.here / "f").stat().st_mode, (self.one / "f").stat().st_mode)
        os.utime(self.one / "f", ns=(WHEN, WHEN))
        report = await self.good("1:f", "g", checksum=True)
        self.assertEqual((0, 1), (report.copied, report.unchanged))
        self.assertEqual(WHEN, (self.here / "g").stat().st_mtime_ns)
        (self.one / "f").write_bytes(b"y" * 1000)
        os.utime(self.one / "f", ns=(WHEN, WHEN))
        self.assertEqual(0, (await self.good("1:f", "g")).copied)
        self.assertEqual(1, (await self.good("1:f", "g", checksum=True)).copied)
        self.assertEqual(b"y" * 1000, (self.here / "g").read_bytes())

    async def test_compression(self) -> None:
        """What shrinks is packed, in each direction, unless told not to."""
        (self.here / "f").write_bytes(b"a line that repeats\n" * 50_000)
        for compress, least, most in (("auto", 0, 0.2), ("zlib", 0, 0.2), ("none", 1, 1.1)):
            for words in (("f", f"1:{compress}"), (f"1:{compress}", f"back-{compress}")):
                report = await self.good(*words, compress=compress)
                share = report.bytes_sent / report.bytes_copied
                self.assertTrue(least <= share <= most, (words, share))

    async def test_limit(self) -> None:
        """A limited copy takes its time, both ways."""
        (self.here / "f").write_bytes(random.Random(1).randbytes(300_000))
        for words in (("f", "1:f"), ("1:f", "back")):
            started = reactor.seconds()
            await self.good(*words, bytes_per_second=500_000)
            self.assertGreater(reactor.seconds() - started, 0.3)

    async def test_dry_run(self) -> None:
        """A dry run tells and does nothing."""
        (self.here / "d").mkdir()
        (self.here / "d/f").write_bytes(b"x")
        report = await self.good_dry("d", "1:", recursive=True)
        self.assertEqual((1, 1), (report.copied, report.folders))
        self.assertEqual({"planned"}, {result.status for result in self.results})
        self.assertEqual({}, tree(self.one))

    async def good_dry(self, *words: str, **options: Any) -> CopyReport:
        report = await self.copying(words[:-1], words[-1], dry_run=True, **options).run()
        await self.ended()
        return report


class TreeTests(CopyCase):
    def make(self, folder: Path) -> None:
        """Make a tree with a little of everything."""
        random_ = random.Random(7)
        for place in ("", "a", "a/b", "c"):
            (folder / place).mkdir(exist_ok=True, parents=True)
            for number in range(30):
                (folder / place / f"f{number}").write_bytes(random_.randbytes(number * 70))
        (folder / "large").write_bytes(random_.randbytes(MIB))
        (folder / "link").symlink_to("a/f1")
        (folder / "nowhere").symlink_to("/no/such/file")
        (folder / "empty").mkdir()
        (folder / "a/f3").chmod(0o600)
        for path in folder.rglob("*"):
            os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)
        (folder / "c").chmod(0o555)
        (folder / "a").chmod(0o700)

    async def test_all_ways(self) -> None:
        """A tree goes up, across and down, and what is sent twice is sent once."""
        self.make(self.here / "t")
        for source, target in (("t", "1:"), ("1:t", "2:t"), ("2:t/.", "back")):
            report = await self.good(source, target, recursive=True)
            self.assertEqual((121, 2), (report.copied, report.links))
        for other in (self.one / "t", self.two / "t", self.here / "back"):
            self.assertEqual(tree(self.here / "t"), tree(other))
            self.assertEqual(WHEN, (other / "a").stat().st_mtime_ns)
        self.no_parts()
        for source, target in (("t", "1:"), ("1:t/.", "2:t"), ("2:t/.", "back")):
            report = await self.good(source, target, recursive=True)
            self.assertEqual((0, 121, 0), (report.copied, report.unchanged, report.links))
            self.assertEqual(0, report.bytes_sent)

    async def test_patterns(self) -> None:
        """Patterns on the device pick files, several of them need a folder."""
        self.make(self.one / "t")
        await self.good("1:t/f2?", "1:t/a/f1", ".")
        names = {f"f2{digit}" for digit in range(10)} | {"f1"}
        self.assertEqual(names, set(os.listdir(self.here)))
        await self.refused("not-a-directory", "1:t/f2?", "new")
        await self.refused("not-found", "1:t/nothing*", ".")

    async def test_some_fail(self) -> None:
        """What fails is told by name and code, and the rest is copied."""
        self.make(self.here / "t")
        (self.one / "t/a").mkdir(parents=True)
        (self.one / "t/a/f1").mkdir()
        os.mkfifo(self.here / "t/pipe")
        os.mkfifo(self.one / "t/f5")
        report = await self.cp_failing("t", "1:", recursive=True)
        failed = {failure.target: failure.code for failure in report.failures}
        self.assertEqual({b"t/a/f1": "is-a-directory", b"t/f5": "not-a-file"}, failed, report)
        self.assertEqual((119, 1), (report.copied, report.skipped))

    async def cp_failing(self, *words: str, **options: Any) -> CopyReport:
        self.results.clear()
        report = await self.copying(words[:-1], words[-1], **options).run()
        await self.ended()
        return report

    async def test_many(self) -> None:
        """A thousand small files take few round trips, in all directions."""
        (self.here / "t").mkdir()
        for number in range(1000):
            (self.here / "t" / f"{number}").write_bytes(b"%d" % number)
        for source, target in (("t", "1:t"), ("1:t", "2:t"), ("2:t", "back")):
            report = await self.good(source, target, recursive=True)
            self.assertEqual(1000, report.copied)
        self.assertEqual(tree(self.here / "t"), tree(self.here / "back"))


class BadInputTests(CopyCase):
    async def test_refused(self) -> None:
        """Each mistake gets its own code, and nothing is made."""
        (self.here / "d").mkdir()
        (self.here / "f").write_bytes(b"x")
        (self.one / "file").write_bytes(b"old")
        (self.one / "dir").mkdir()
        os.mkfifo(self.one / "pipe")
        before = tree(self.base)
        cases = [
            ("bad-request", "f", "g"),
            ("not-found", "nothing", "1:"),
            ("not-found", "1:nothing", "."),
            ("is-a-directory", "d", "1:"),
            ("is-a-directory", "1:dir", "."),
            ("not-a-directory", "f", "1:new/"),
            ("not-a-directory", "f", "d", "1:new"),
            ("not-a-directory", "f", "1:file/"),
            ("not-a-file", "f", "1:pipe"),
            ("not-found", "f", "1:no/such/folder"),
            ("not-found", "1:file", "no/such/folder"),
        ]
        for code, *words in cases:
            await self.refused(code, *words)
            self.assertEqual(before, tree(self.base), words)
        await self.refused("not-a-directory", "d", "1:file", recursive=True)

    async def test_several_devices(self) -> None:
        """A device that is away does not keep the others' files."""
        for folder, name in ((self.one, "a"), (self.two, "b")):
            (folder / name).write_text(name)
        connect = self.connect

        async def absent(device: str) -> FilesConnection:
            if device == "pump-1":
                raise FilesError("offline", "pump-1 is away")
            return await connect(device)

        self.connect = absent  # type: ignore[method-assign]  # for this test alone
        report = await self.copying(["1:a", "2:b"], ".").run()
        await self.ended()
        self.assertEqual(["offline"], [failure.code for failure in report.failures])
        self.assertEqual(("", ["b"]), (report.ended, os.listdir(self.here)))
        await self.refused("offline", "1:a", ".")

    async def test_policy(self) -> None:
        """Roots of the policy hold, and what they forbid is told as policy."""
        self.worker = {"read": [str(self.one)], "write": [str(self.one / "in")]}
        (self.one / "in").mkdir()
        (self.here / "f").write_bytes(b"x")
        await self.good("f", "1:in/")
        await self.refused("policy", "f", "1:f")
        await self.refused("policy", f"1:{self.here}/f", "g")

    async def test_named_link(self) -> None:
        """A link that the operator names is followed, at either end, as cp does."""
        (self.here / "f").write_bytes(b"new")
        (self.here / "l").symlink_to("f")
        (self.one / "real").write_bytes(b"old")
        (self.one / "l").symlink_to("real")
        await self.good("l", "1:l")
        self.assertTrue((self.one / "l").is_symlink())
        self.assertEqual(b"new", (self.one / "real").read_bytes())
        (self.here / "real").write_bytes(b"old and longer")
        (self.here / "to").symlink_to("real")
        await self.good("1:l", "to")
        self.assertTrue((self.here / "to").is_symlink())
        self.assertEqual(b"new", (self.here / "real").read_bytes())


class DeltaTests(CopyCase):
    async def test_both_ways(self) -> None:
        """Of a large file that changed a little, little is sent."""
        old = random.Random(5).randbytes(4 * MIB)
        new = old[:MIB] + b"put in" + old[MIB : 3 * MIB] + old[3 * MIB + 999 :]
        (self.here / "f").write_bytes(new)
        (self.one / "f").write_bytes(old)
        report = await self.good("f", "1:")
        self.assertLess(report.bytes_sent, 30_000)
        self.assertEqual(new, (self.one / "f").read_bytes())
        (self.here / "back").write_bytes(old)
        report = await self.good("1:f", "back")
        self.assertLess(report.bytes_sent, 30_000)
        self.assertEqual(new, (self.here / "back").read_bytes())
        self.no_parts()

    async def test_no_delta(self) -> None:
        """Without, or with nothing in common, all is sent, and it is right."""
        old, new = random.Random(5).randbytes(MIB), random.Random(6).randbytes(MIB)
        for content, options in ((old + b"x", {"delta": False}), (new, {})):
            (self.here / "f").write_bytes(content)
            (self.one / "f").write_bytes(old)
            (self.here / "back").write_bytes(old)
            for words in (("f", "1:"), ("1:f", "back")):
                report = await self.good(*words, **options)
                self.assertGreaterEqual(report.bytes_sent, MIB)
            self.assertEqual(content, (self.here / "back").read_bytes())

    async def test_no_reading(self) -> None:
        """Where only writing is allowed, the whole file is sent."""
        (self.here / "f").write_bytes(random.Random(5).randbytes(MIB))
        (self.one / "f").write_bytes(random.Random(5).randbytes(MIB)[:-1])
        self.worker = {"read": [], "write": [str(self.one)]}
        report = await self.cp("f", "1:f")
        self.assertTrue(report.ok or report.failures[0].code == "policy", report)


class Watched(Progress):
    """A progress that calls something once so many bytes are done."""

    def __init__(self, after: int, call: Callable[[], None]) -> None:
        super().__init__()
        self.after, self.call = after, call

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "bytes_done" and getattr(self, "after", 0) and value >= self.after:
            self.after = 0
            self.call()


class BrokenOffTests(CopyCase):
    SIZE = 24 * MIB

    async def _stopped(self, words: Sequence[str]) -> None:
        """Begin a copy, and stop it in the middle."""
        copying = self.copying(words[:-1], words[-1])
        copying.progress = Watched(self.SIZE // 2, copying.stop)
        report = await copying.run()
        await self.ended()
        self.assertEqual(("cancelled", 0), (report.ended, report.copied), (words, report))
        self.assertEqual([], report.failures, words)

    async def test_goes_on(self) -> None:
        """A copy that was stopped goes on where it stopped, in all directions."""
        content = random.Random(9).randbytes(self.SIZE)
        (self.here / "f").write_bytes(content)
        for words in (("f", "1:f"), ("1:f", "2:f"), ("2:f", "back")):
            await self._stopped(words)
            copying = self.copying(words[:-1], words[-1])
            report = await copying.run()
            await self.ended()
            self.assertTrue(report.ok, report)
            self.assertGreater(copying.progress.bytes_found, 2 * MIB, words)
            self.assertLess(report.bytes_sent, self.SIZE - 2 * MIB)
        for path in (self.one / "f", self.two / "f", self.here / "back"):
            self.assertEqual(content, path.read_bytes())
        self.no_parts()

    async def test_part_is_checked(self) -> None:
        """A part that is not the file's beginning is not gone on with."""
        content = random.Random(9).randbytes(self.SIZE)
        (self.here / "f").write_bytes(content)
        for words, folder in ((("f", "1:f"), self.one), (("1:f", "back"), self.here)):
            await self._stopped(words)
            [part] = folder.glob(".rshell-*.part")
            with part.open("r+b") as file:
                file.write(b"not what it was")
            report = await self.good(*words)
            self.assertGreaterEqual(report.bytes_sent, self.SIZE)
        self.assertEqual(content, (self.here / "back").read_bytes())

    async def test_source_replaced(self) -> None:
        """A source that is another file by now begins anew."""
        (self.here / "f").write_bytes(random.Random(9).randbytes(self.SIZE))
        await self._stopped(("f", "1:f"))
        content = random.Random(10).randbytes(self.SIZE)
        (self.here / "f").unlink()
        (self.here / "f").write_bytes(content)
        report = await self.good("f", "1:f")
        self.assertGreaterEqual(report.bytes_sent, self.SIZE)
        self.assertEqual(content, (self.one / "f").read_bytes())

    async def test_worker_dies(self) -> None:
        """A session that ends in the middle ends the copy with its reason, and can be gone on."""
        (self.here / "f").write_bytes(random.Random(9).randbytes(self.SIZE))
        copying = self.copying(["f"], "1:f")

        def kill() -> None:
            self.connections[0].session.signal("KILL")

        copying.progress = Watched(MIB, kill)
        report = await copying.run()
        self.assertEqual(("lost", 0), (report.ended, report.copied), report)
        self.assertIn("pump-1", report.message)
        await self.ended()
        await self.good("f", "1:f")


class ChangingTests(CopyCase):
    """Files that are written while they are copied."""

    def writing(self, path: Path, times: int, *, grow: bool) -> None:
        """Change a file each time that a transfer has begun with it."""
        left = [times]

        def change() -> None:
            if left[0] > 0:
                left[0] -= 1
                with path.open("r+b") as file:
                    file.seek(0, os.SEEK_END if grow else os.SEEK_SET)
                    file.write(b"written meanwhile %d" % left[0])

        begin = Upload._begin

        def upload_begin(upload: Upload, *arguments: Any) -> Any:
            change()
            return begin(upload, *arguments)

        self.patch(Upload, "_begin", upload_begin)
        arrived = Download._arrived

        def download_arrived(download: Download, arrival: Any, *arguments: Any) -> None:
            if not arrival.sent:
                change()
            arrived(download, arrival, *arguments)

        self.patch(Download, "_arrived", download_arrived)

    async def test_second_try(self) -> None:
        """A file that changes once is copied at the second try."""
        path = self.here / "f"
        path.write_bytes(random.Random(3).randbytes(4 * MIB))
        self.writing(path, 1, grow=False)
        report = await self.cp_once("f", "1:f")
        self.assertTrue(report.ok, report)
        self.assertEqual(path.read_bytes(), (self.one / "f").read_bytes())
        self.writing(self.one / "f", 1, grow=False)
        report = await self.cp_once("1:f", "back")
        self.assertTrue(report.ok, report)
        self.assertEqual((self.one / "f").read_bytes(), (self.here / "back").read_bytes())

    async def test_never_still(self) -> None:
        """A file that changes again at the second try is told, and the old copy stays."""
        path = self.here / "f"
        path.write_bytes(random.Random(3).randbytes(4 * MIB))
        (self.one / "f").write_bytes(b"old")
        self.writing(path, 2, grow=False)
        report = await self.cp_once("f", "1:f")
        self.assertEqual(["changed"], [failure.code for failure in report.failures])
        self.assertEqual(b"old", (self.one / "f").read_bytes())
        self.no_parts()

    async def test_log(self) -> None:
        """A log that only grows is copied as far as it was, and told so."""
        path = self.here / "log"
        path.write_bytes(random.Random(3).randbytes(4 * MIB))
        self.writing(path, 2, grow=True)
        report = await self.cp_once("log", "1:log")
        self.assertTrue(report.ok, report)
        copied = (self.one / "log").read_bytes()
        self.assertEqual(path.read_bytes()[: len(copied)], copied)
        self.assertGreater(len(copied), 4 * MIB)

    async def test_limited(self) -> None:
        """A second try is not held up by the rate of the first."""
        (self.one / "f").write_bytes(random.Random(3).randbytes(MIB))
        self.writing(self.one / "f", 1, grow=False)
        report = await self.cp_once("1:f", "back", bytes_per_second=4 * MIB)
        self.assertTrue(report.ok, report)
        self.assertEqual((self.one / "f").read_bytes(), (self.here / "back").read_bytes())

    async def cp_once(self, *words: str, **options: Any) -> CopyReport:
        report = await self.copying(words[:-1], words[-1], **options).run()
        await self.ended()
        return report
