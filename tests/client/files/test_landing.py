"""Files that land on this machine: whole or not at all, and never outside of their folder."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rshell.client.files.landing import PART_SECONDS, SYNC_ALL, Folder, Landing
from rshell.client.files.local import MAX_DEPTH, Descent, LocalFile, walk_local
from rshell.client.files.records import Entry, FilesError

PART = b".rshell-abcdefgh.part"
CONTENT = b"some content\n" * 100


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


class LandingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(os.path.realpath(self.mktemp()))
        self.root = self.home / "root"
        self.root.mkdir(parents=True)
        self.folder = Folder(os.fsencode(self.root))
        self.addCleanup(self.folder.close)

    def entry(self, content: bytes = CONTENT, mode: int = 0o640) -> Entry:
        return Entry(size=len(content), mode=mode, mtime_ns=1_600_000_000_123_456_789)

    def landed(self, name: bytes, content: bytes = CONTENT) -> Landing:
        landing = self.folder.begin(name, self.entry(content), PART + name[-1:], keep=False)
        landing.data(content)
        landing.check(digest(content), len(content))
        landing.dress()
        return landing

    def land(self, name: bytes, content: bytes = CONTENT) -> FilesError | None:
        [(_, error)] = self.folder.commit([self.landed(name, content)])
        return error

    def refused(self, code: str, name: bytes, **options: bool) -> None:
        options = {"keep": False, **options}
        error = self.assertRaises(
            FilesError, self.folder.begin, name, self.entry(), PART, **options
        )
        self.assertEqual(code, error.code, error)


class FileTests(LandingCase):
    def test_lands(self) -> None:
        """A file gets content, mode and time, and its part is gone."""
        self.assertIsNone(self.land(b"file"))
        status = (self.root / "file").stat()
        self.assertEqual(CONTENT, (self.root / "file").read_bytes())
        self.assertEqual(0o640, stat.S_IMODE(status.st_mode))
        self.assertEqual(1_600_000_000_123_456_789, status.st_mtime_ns)
        self.assertEqual(["file"], os.listdir(self.root))

    def test_lot(self) -> None:
        """Many land at once as one does alone, in whatever folders."""
        (self.root / "sub").mkdir()
        names = [b"%s%d" % (prefix, n) for prefix in (b"", b"sub/") for n in range(SYNC_ALL)]
        landings = []
        for name in names:
            landing = self.folder.begin(name, self.entry(), PART + name[-1:], keep=False)
            landing.data(CONTENT)
            landings.append(landing)
        results = self.folder.commit(landings)
        self.assertEqual([None] * len(names), [error for _, error in results])
        for name in names:
            self.assertEqual(CONTENT, (self.root / os.fsdecode(name)).read_bytes())
        self.assertEqual([], list(self.root.rglob(".rshell*")))

    def test_set_id_bits(self) -> None:
        """A device's set-id and sticky bits mean nothing here."""
        landing = self.folder.begin(b"f", self.entry(b"", 0o7755), PART, keep=False)
        landing.dress()
        self.folder.commit([landing])
        self.assertEqual(0o755, stat.S_IMODE((self.root / "f").stat().st_mode))

    def test_old_one_stays(self) -> None:
        """What is not what was sent never replaces the file that is there."""
        (self.root / "file").write_bytes(b"old")
        for content, size in ((CONTENT[:-1], len(CONTENT)), (b"x" * len(CONTENT), len(CONTENT))):
            landing = self.folder.begin(b"file", self.entry(), PART, keep=False)
            landing.data(content)
            error = self.assertRaises(FilesError, landing.check, digest(CONTENT), size)
            self.assertEqual("digest", error.code)
            self.folder.drop(landing)
        self.assertEqual(b"old", (self.root / "file").read_bytes())
        self.assertEqual(["file"], os.listdir(self.root))

    def test_resumed(self) -> None:
        """What an earlier copy left is taken up, and counts into the digest."""
        first = self.folder.begin(b"file", self.entry(), PART, keep=False)
        first.data(CONTENT[:500])
        first.close()
        self.assertEqual(500, self.folder.part_size(b"file", PART))
        landing = self.folder.begin(b"file", self.entry(), PART, keep=True)
        *_, told = self.folder.hash_part(landing, 400)
        self.assertEqual(digest(CONTENT[:400]), told)
        landing.data(CONTENT[400:])
        landing.check(digest(CONTENT), len(CONTENT))
        self.folder.commit([landing])
        self.assertEqual(CONTENT, (self.root / "file").read_bytes())

    def test_sparse(self) -> None:
        """Holes take no room, also one at the end."""
        size = 64 * 1024 * 1024
        landing = self.folder.begin(b"f", Entry(size=size + 4, blocks=16), PART, keep=False)
        landing.hole(size // 2)
        landing.data(b"data")
        landing.hole(size // 2)
        content = bytes(size // 2) + b"data" + bytes(size // 2)
        landing.check(digest(content), size + 4)
        self.folder.commit([landing])
        status = (self.root / "f").stat()
        self.assertEqual(size + 4, status.st_size)
        self.assertLess(status.st_blocks * 512, 1024 * 1024)

    def test_no_space(self) -> None:
        """A file that cannot fit is refused before the old one is touched."""
        error = self.assertRaises(
            FilesError, self.folder.begin, b"f", Entry(size=2**60, blocks=2**51), PART, keep=False
        )
        self.assertEqual("no-space", error.code)
        self.assertEqual([], os.listdir(self.root))
        self.folder.begin(b"hole", Entry(size=2**60), PART, keep=False).close()  # it needs none

    def test_two_copies(self) -> None:
        """A second copy of the same file is told that the first one runs."""
        first = self.folder.begin(b"f", self.entry(), PART, keep=False)
        self.refused("busy", b"f")
        first.close()

    def test_swept(self) -> None:
        """Parts of long ago are removed, fresh ones and other files are not."""
        long_ago = time.time() - PART_SECONDS - 60
        for name, when in ((".rshell-aaaaaaaa.part", long_ago), (".rshell-bbbbbbbb.part", None),
                           ("old", long_ago), (".rshell-a.part", long_ago)):  # fmt: skip
            (self.root / name).touch()
            if when is not None:
                os.utime(self.root / name, (when, when))
        self.land(b"f")
        kept = {".rshell-bbbbbbbb.part", "old", ".rshell-a.part", "f"}
        self.assertEqual(kept, set(os.listdir(self.root)))


_CRASHING = """
import sys
from rshell.client.files.landing import Folder
from rshell.client.files.records import Entry
folder = Folder(sys.argv[1].encode())
landing = folder.begin(b"f", Entry(size=3, mode=0o644), b".rshell-abcdefgh.part", keep=False)
landing.data(b"new")
landing.dress()
print(folder.commit([landing])[0][1])
"""


class CrashTests(LandingCase):
    def test_every_point(self) -> None:
        """Whoever is killed at any point leaves the old file or the new one, and at most a part."""
        points = {"land.written": b"old", "land.synced": b"old"}
        for point, content in {**points, "land.renamed": b"new", "land.dirsync": b"new"}.items():
            (self.root / "f").write_bytes(b"old")
            ended = subprocess.run(
                [sys.executable, "-c", _CRASHING, str(self.root)],
                env={**os.environ, "RSHELL_CRASH_AT": point},
                capture_output=True,
                check=False,
            )
            self.assertEqual((-signal.SIGKILL, b""), (ended.returncode, ended.stdout), point)
            self.assertEqual(content, (self.root / "f").read_bytes(), point)
            left = {"f"} if content == b"new" else {"f", ".rshell-abcdefgh.part"}
            self.assertEqual(left, set(os.listdir(self.root)), point)
            self.assertIsNone(self.land(b"f"))
            self.assertEqual({"f"}, set(os.listdir(self.root)) - {".rshell-abcdefgh.part"})


class HostileTests(LandingCase):
    def setUp(self) -> None:
        super().setUp()
        self.outside = self.home / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_bytes(b"precious")

    def test_link_as_folder(self) -> None:
        """Nothing lands behind a link below the root, whoever made it."""
        self.folder.make_link(b"out", os.fsencode(self.outside))
        self.refused("not-a-directory", b"out/file")
        self.assertRaises(FilesError, self.folder.make_folder, b"out/new")
        self.assertRaises(FilesError, self.folder.make_link, b"out/new", b"x")
        self.assertRaises(FilesError, self.folder.dress, b"out", Entry(kind="dir", mode=0o777))
        self.assertRaises(FilesError, self.folder.dress, b"out/file", self.entry())
        self.assertEqual(["file"], os.listdir(self.outside))
        self.assertEqual(b"precious", (self.outside / "file").read_bytes())

    def test_link_as_file(self) -> None:
        """A file that lands on a link replaces the link, not what it leads to."""
        (self.root / "f").symlink_to(self.outside / "file")
        self.assertIsNone(self.land(b"f"))
        self.assertFalse((self.root / "f").is_symlink())
        self.assertEqual(b"precious", (self.outside / "file").read_bytes())

    def test_part_in_the_way(self) -> None:
        """A part file that is a link, a FIFO or another file's second name is not written."""
        part = self.root / os.fsdecode(PART)
        part.symlink_to(self.outside / "file")
        self.refused("loop", b"f")
        part.unlink()
        os.mkfifo(part)
        self.refused("exists", b"f")
        part.unlink()
        os.link(self.outside / "file", part)
        self.refused("exists", b"f")
        self.assertEqual(b"precious", (self.outside / "file").read_bytes())

    def test_swapped_folder(self) -> None:
        """A folder that becomes a link between two files leads nowhere."""
        self.folder.make_folder(b"sub")
        landing = self.landed(b"sub/f")
        (self.root / "sub").rename(self.home / "moved")
        (self.root / "sub").symlink_to(self.outside)
        self.folder.commit([landing])
        self.assertRaises(FilesError, self.folder.make_folder, b"other/x")
        self.refused("not-a-directory", b"sub/g")
        self.assertEqual(["file"], os.listdir(self.outside))

    def test_in_the_way(self) -> None:
        """Folders, FIFOs and devices are not replaced by files, nor files by folders."""
        (self.root / "d").mkdir()
        os.mkfifo(self.root / "p")
        (self.root / "f").touch()
        self.refused("is-a-directory", b"d")
        self.refused("not-a-file", b"p")
        self.refused("not-found", b"none/f")
        self.refused("not-a-directory", b"f/g")
        error = self.assertRaises(FilesError, self.folder.make_folder, b"f")
        self.assertEqual("not-a-directory", error.code)
        error = self.assertRaises(FilesError, self.folder.make_link, b"d", b"x")
        self.assertEqual("is-a-directory", error.code)

    def test_deep(self) -> None:
        """A tree deeper than there are descriptors is refused with a code."""
        deep = b"/".join([b"d"] * (MAX_DEPTH + 2))
        self.refused("loop", deep)


class ReadingTests(LandingCase):
    def test_walk(self) -> None:
        """Folders come before their content, by bytes; links are not followed."""
        (self.root / "b").mkdir()
        (self.root / "b/x").touch()
        (self.root / "a").symlink_to(self.home)
        os.mkfifo(self.root / "c")
        (self.root / "Z").touch()
        entries = walk_local(os.fsencode(self.root), [], 100)
        self.assertEqual(
            [(b"Z", "file"), (b"a", "link"), (b"b", "dir"), (b"b/x", "file"), (b"c", "other")],
            [(entry.path, entry.kind) for entry in entries],
        )
        self.assertEqual(os.fsencode(self.home), entries[1].target)
        error = self.assertRaises(FilesError, walk_local, os.fsencode(self.root), [], 3)
        self.assertEqual("too-large", error.code)

    def test_not_a_file(self) -> None:
        """A FIFO is refused without waiting for a writer, a link is not followed."""
        os.mkfifo(self.root / "p")
        (self.root / "f").touch()
        (self.root / "l").symlink_to("f")
        descent = Descent(os.fsencode(self.root))
        self.addCleanup(descent.close)
        folder, name = descent.parent(b"p")
        self.assertRaises(FilesError, LocalFile, folder, name, b"p")
        self.assertRaises(OSError, LocalFile, folder, b"l", b"l")
        LocalFile(folder, b"l", b"l", follow=True).close()
