"""FilesConnection against a real worker: every operation once, and back-pressure both ways."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.trial.unittest import TestCase

from rshell.client.files import FilesConnection, FilesError
from rshell.client.files.compression import negotiate
from rshell.client.files.transfers import Upload, download, upload_bytes
from tests.client.files.pair import connect_worker

TRANSFER = "abcdefgh"


class ConnectionCase(TestCase):
    timeout = 60

    async def connection(self, **options: Any) -> FilesConnection:
        connection = await connect_worker(reactor, self.home, **options)
        self.addCleanup(self._end, connection)
        return connection

    async def _end(self, connection: FilesConnection) -> None:
        connection.abort()
        await connection.session.gone

    def setUp(self) -> None:
        self.home = Path(os.path.realpath(self.mktemp()))
        self.home.mkdir(parents=True)

    def path(self, name: str) -> bytes:
        return os.fsencode(self.home / name)


class OperationTests(ConnectionCase):
    async def test_greeting(self) -> None:
        """The worker says where the login is at home and what it can do."""
        hello = (await self.connection()).hello
        self.assertEqual(os.fsencode(self.home), hello.home)
        self.assertEqual(1, hello.version)
        self.assertIn("zlib", hello.compress)

    async def test_up_and_down(self) -> None:
        """What was uploaded is what is downloaded."""
        connection = await self.connection()
        content = os.urandom(700_000)
        entry = await upload_bytes(connection, b"new", content, transfer=TRANSFER, mode=0o640)
        self.assertEqual((len(content), 0o640), (entry.size, entry.mode))
        self.assertEqual(content, (self.home / "new").read_bytes())
        got = bytearray()
        done = await download(connection, b"new", got.extend)
        self.assertEqual(content, got)
        self.assertFalse(done.changed)
        self.assertEqual([b"new"], [os.fsencode(name) for name in os.listdir(self.home)])

    async def test_compressed(self) -> None:
        """Each compression carries the same bytes."""
        connection = await self.connection()
        content = b"all work and no play\n" * 30_000
        for compress in ("zlib", *connection.compress):
            negotiate(compress, connection.compress)
            (self.home / "source").write_bytes(content)
            got = bytearray()
            await download(connection, b"source", got.extend, compress=compress)
            self.assertEqual(content, got)
            upload = await Upload.begin(
                connection, b"target", compress=compress, size=len(content), transfer=TRANSFER
            )
            await upload.data(content)
            await upload.end()
            self.assertEqual(content, (self.home / "target").read_bytes())

    async def test_walk_and_glob(self) -> None:
        """Trees come in pages, and patterns find what is in them."""
        connection = await self.connection()
        for number in range(1200):
            (self.home / f"f{number:04}").touch()
        (self.home / "sub" / "deep").mkdir(parents=True)
        (self.home / "sub" / "deep" / "x.log").write_text("x")
        found = [e async for page in connection.walk(b"~", recursive=True) for e in page]
        self.assertEqual(1204, len(found))
        self.assertEqual(b"", found[0].path)
        self.assertEqual(b"sub/deep/x.log", found[-1].path)
        self.assertEqual(1200, len(await connection.glob(b"f*")))
        self.assertEqual([b"sub/deep/x.log"], await connection.glob(b"**/*.log"))
        self.assertEqual([], await connection.glob(b"nothing*"))

    async def test_refused(self) -> None:
        """A request that cannot be done is an error of its own; the session goes on."""
        connection = await self.connection()
        error = await self.assertFailure_(connection.stat(b"missing"))
        self.assertEqual(("not-found", b"missing"), (error.code, error.path))
        self.assertEqual("dir", (await connection.stat(b"~")).kind)

    async def assertFailure_(self, awaitable: Any) -> FilesError:
        try:
            await awaitable
        except FilesError as error:
            return error
        raise AssertionError("it was done")

    async def test_many_at_once(self) -> None:
        """A thousand small uploads need no round trip each."""
        connection = await self.connection()
        answers = []
        for number in range(500):
            upload = await Upload.begin(connection, b"f%d" % number, size=1, transfer=TRANSFER)
            await upload.data(b"x")
            answers.append(upload.end())
        await gatherResults(answers)
        self.assertEqual(500, len(list(self.home.iterdir())))

    async def test_slow_sink(self) -> None:
        """A sink that is slow stops the worker, and gets every byte."""
        connection = await self.connection()
        content = os.urandom(3_000_000)
        (self.home / "f").write_bytes(content)
        got: list[bytes] = []

        def write(data: bytes | memoryview) -> Deferred[None]:
            got.append(bytes(data))
            later: Deferred[None] = Deferred()
            reactor.callLater(0.01, later.callback, None)
            return later

        await download(connection, b"f", write)
        self.assertEqual(content, b"".join(got))

    async def test_hole(self) -> None:
        """A large hole reaches a slow sink piece by piece, as fast as it takes them."""
        connection = await self.connection()
        with open(self.home / "f", "wb") as file:
            file.truncate(5_000_000)
            file.seek(4_000_000)
            file.write(b"x")
        got = bytearray()
        most = 0

        def write(data: bytes | memoryview) -> Deferred[None]:
            nonlocal most
            got.extend(data)
            most = max(most, len(data))
            later: Deferred[None] = Deferred()
            reactor.callLater(0, later.callback, None)
            return later

        await download(connection, b"f", write)
        self.assertEqual((self.home / "f").read_bytes(), got)
        self.assertLessEqual(most, 1 << 18)

    async def test_failing_sink(self) -> None:
        """A sink that fails ends its download, and the connection goes on."""
        connection = await self.connection()
        (self.home / "f").write_bytes(os.urandom(1_000_000))

        def write(data: bytes | memoryview) -> Deferred[None]:
            return fail(OSError("no room"))

        error = await self.assertFailure_(download(connection, b"f", write))
        self.assertIn("no room", error.message)
        self.assertEqual("file", (await connection.stat(b"f")).kind)

    async def test_closed(self) -> None:
        """A connection that is closed ends its worker with status 0, and answers nothing more."""
        connection = await self.connection()
        outcome = await connection.close()
        self.assertEqual("ok", outcome.status)
        await self.assertFailure_(connection.request("hello"))

    async def test_ended(self) -> None:
        """When the worker dies, whoever waits is told."""
        connection = await self.connection()
        waiting = connection.begin("digest", {"path": b"~"}).done
        connection.abort()
        error = await self.assertFailure_(waiting)
        self.assertIn("pump-1", error.message)
        await self.assertFailure_(connection.request("hello"))
