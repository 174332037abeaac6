"""get, get_ranges, digest and signature (docs/files.md FT20, FT22 to FT24)."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from base64 import b64decode
from typing import Any

from tests.agent.workers.files.driver import FilesCase, digest_of

MIB = 1 << 20


class GetTests(FilesCase):
    def content(self, size: int = 700_001) -> bytes:
        content = os.urandom(size)
        (self.home / "f").write_bytes(content)
        return content

    def test_whole(self) -> None:
        """A file comes with its entry first and its digest last."""
        content = self.content()
        answer = self.ask("get", path=b"f")
        self.assertEqual(content, answer.data)
        self.assertEqual(len(content), answer.first["entry"]["size"])
        self.assertEqual(
            {"digest": digest_of(content), "size": len(content), "changed": False}, answer.last
        )

    def test_range(self) -> None:
        """A range is what was asked for, as far as the file has it (FT22)."""
        content = self.content(1000)
        for offset, length in ((0, 10), (990, 100), (5, 0), (1000, 5), (2000, 5), (7, None)):
            end = None if length is None else offset + length
            answer = self.ask("get", path=b"f", offset=offset, length=length)
            self.assertEqual(content[offset:end], answer.data, (offset, length))
            self.assertEqual(digest_of(answer.data), answer.last["digest"])

    def test_empty(self) -> None:
        """An empty file is an entry and an end."""
        (self.home / "f").touch()
        answer = self.ask("get", path=b"f")
        self.assertEqual((b"", 0), (answer.data, answer.last["size"]))

    def test_link(self) -> None:
        """A link at the end is followed."""
        content = self.content(10)
        (self.home / "link").symlink_to("f")
        self.assertEqual(content, self.ask("get", path=b"link").data)

    def test_compressed(self) -> None:
        """Blocks that shrink are compressed, others are not (FT10)."""
        (self.home / "f").write_bytes(bytes(200_000) + b"x" * 400_000 + os.urandom(600_000))
        answer = self.ask("get", path=b"f", compress="zlib")
        self.assertLess(len(self.written), 800_000)
        self.assertEqual((self.home / "f").read_bytes(), answer.data)
        self.assertEqual("bad-request", self.ask("get", path=b"f", compress="lzma").code)

    def test_holes(self) -> None:
        """Holes are told, not sent, and count as zeros in the digest."""
        with open(self.home / "f", "wb") as file:
            file.write(b"a" * 4096)
            file.seek(10 * MIB)
            file.write(b"b")
            file.truncate(20 * MIB)
        answer = self.ask("get", path=b"f")
        self.assertEqual((self.home / "f").read_bytes(), answer.data)
        self.assertEqual(digest_of(answer.data), answer.last["digest"])
        self.assertLess(sum(len(p) for p in answer.pieces if isinstance(p, bytes)), MIB)
        within = self.ask("get", path=b"f", offset=5 * MIB, length=MIB)
        self.assertEqual([MIB], within.pieces)

    def test_beyond_four_gigabytes(self) -> None:
        """A sparse file of more than 4 GiB is read where it has data, by range."""
        size = 5 << 30
        with open(self.home / "f", "wb") as file:
            file.seek(size - 3)
            file.write(b"end")
        answer = self.ask("get", path=b"f", offset=size - 4)
        self.assertEqual(b"\0end", answer.data)
        self.assertEqual(size, answer.first["entry"]["size"])

    def test_without_size(self) -> None:
        """A file of /proc, whose size says 0, is read to its end."""
        answer = self.ask("get", path=b"/proc/version")
        with open("/proc/version", "rb") as file:
            self.assertEqual(file.read(), answer.data)
        self.assertEqual(b"Linux", self.ask("get", path=b"/proc/version", length=5).data)
        self.assertEqual(5, self.ask("digest", path=b"/proc/version", length=5).last["size"])

    def test_no_file(self) -> None:
        """Directories, FIFOs and devices are refused at once, without being opened (FT14)."""
        os.mkfifo(self.home / "fifo")
        for op in ("get", "digest", "signature"):
            for path, code in (
                (b"~", "is-a-directory"),
                (b"fifo", "not-a-file"),
                (b"/dev/zero", "not-a-file"),
                (b"/dev/tty", "not-a-file"),
                (b"missing", "not-found"),
                (b"fifo/x", "not-a-directory"),
            ):
                self.assertEqual(code, self.ask(op, path=path, block=1024).code, (op, path))

    def test_changed_meanwhile(self) -> None:
        """A source that changes while it is sent is marked so (FT22)."""
        for change in (self._grow, self._shrink, self._touch):
            self.content(3 * MIB)
            self.sent = change
            self.assertTrue(self.ask("get", path=b"f").last["changed"], change)
            self.sent = lambda _: None

    def _grow(self, _written: bytearray) -> None:
        with open(self.home / "f", "ab") as file:
            file.write(b"more")

    def _shrink(self, _written: bytearray) -> None:
        os.truncate(self.home / "f", MIB)

    def _touch(self, _written: bytearray) -> None:
        os.utime(self.home / "f", ns=(1, 1))

    def test_shrinking_hole(self) -> None:
        """A sparse source that loses its end meanwhile ends early, and is marked so."""
        with open(self.home / "f", "wb") as file:
            file.write(b"x" * MIB)
            file.truncate(8 * MIB)
        self.sent = lambda _: os.truncate(self.home / "f", 100)
        self.assertTrue(self.ask("get", path=b"f").last["changed"])


class RangesTests(FilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.content = os.urandom(100_000)
        (self.home / "f").write_bytes(self.content)
        info = os.stat(self.home / "f")
        self.known = {"size": info.st_size, "mtime_ns": info.st_mtime_ns, "inode": info.st_ino}

    def ranges(self, ranges: object, **fields: Any) -> Any:
        return self.ask("get_ranges", path=b"f", ranges=ranges, **{**self.known, **fields})

    def test_ranges(self) -> None:
        """Ranges come one after the other in the order asked for (FT23)."""
        answer = self.ranges([[5000, 10], [0, 3], [99_000, 1000]])
        wanted = self.content[5000:5010] + self.content[:3] + self.content[99_000:]
        self.assertEqual(wanted, answer.data)
        self.assertEqual(digest_of(wanted), answer.last["digest"])
        self.assertEqual(b"", self.ranges([]).data)

    def test_other_file(self) -> None:
        """A file that is not the one described is refused."""
        for name in self.known:
            other = {name: self.known[name] + 1}
            self.assertEqual("changed", self.ranges([[0, 1]], **other).code, name)

    def test_beyond(self) -> None:
        """A range beyond the end is refused."""
        self.assertEqual("changed", self.ranges([[99_999, 2]]).code)

    def test_bad(self) -> None:
        """What is no list of ranges is refused."""
        for bad in ("x", [[1]], [[1, -1]], [[-1, 1]], [1], [[0, 1]] * 2001, [[2**62, 2**62]], None):
            self.assertEqual("bad-request", self.ranges(bad).code, bad)


class SignatureTests(FilesCase):
    def check(self, content: bytes, block: int) -> None:
        (self.home / "f").write_bytes(content)
        answer = self.ask("signature", path=b"f", block=block)
        expected = b""
        for start in range(0, len(content), block):
            part = content[start : start + block]
            strong = hashlib.blake2b(part, digest_size=16).digest()
            expected += struct.pack(">I16s15s", zlib.adler32(part), strong, part[:15])
        self.assertEqual(expected, answer.data)
        self.assertEqual(
            {"digest": digest_of(content), "size": len(content), "changed": False}, answer.last
        )

    def test_records(self) -> None:
        """Each block has a record; the last may be short, an empty file has none (FT24)."""
        for size in (0, 1, 511, 512, 513, 100_000, 600_000):
            self.check(os.urandom(size), 512)
        self.check(os.urandom(1_000_000), 300_001)

    def test_sparse(self) -> None:
        """Holes are signed as the zeros they are."""
        self.check(bytes(300_000) + b"x" + bytes(700_000), 65_536)
        with open(self.home / "f", "wb") as file:
            file.write(b"a")
            file.truncate(5_000_000)
        content = (self.home / "f").read_bytes()
        answer = self.ask("signature", path=b"f", block=65_536)
        self.assertEqual(digest_of(content), answer.last["digest"])
        self.assertEqual(-(-len(content) // 65_536) * 35, len(answer.data))

    def test_bad_block(self) -> None:
        """Blocks that are too small for the file, or out of bounds, are refused."""
        with open(self.home / "f", "wb") as file:
            file.truncate(512 * 65_536 + 1)
        for block in (0, 511, 512, 17 << 20, -1, "x"):
            answer = self.ask("signature", path=b"f", block=block)
            self.assertEqual("bad-request", answer.code, block)

    def test_digest(self) -> None:
        """The digest of a file, or of its beginning, comes with its identity (FT20)."""
        content = os.urandom(10_000)
        (self.home / "f").write_bytes(content)
        told = self.ask("digest", path=b"f").last
        self.assertEqual((digest_of(content), 10_000), (told["digest"], told["size"]))
        self.assertEqual(os.stat(self.home / "f").st_ino, told["inode"])
        told = self.ask("digest", path=b"f", length=100).last
        self.assertEqual((digest_of(content[:100]), 100), (told["digest"], told["size"]))


class EntryPathTests(FilesCase):
    def test_about(self) -> None:
        """An error says which path it is about, also one that is no UTF-8."""
        answer = self.ask("get", path=b"no\xff")
        self.assertEqual(b"no\xff", b64decode(answer.last["path"]))
        self.assertEqual(2, answer.last["errno"])
