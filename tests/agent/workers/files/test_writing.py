"""put: old or new, never a mix (docs/files.md FT25 to FT33)."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zlib
from typing import Any

from rshell_agent.workers.files.faults import Violation
from tests.agent.workers.files.driver import (
    ABORT,
    DATA,
    END,
    HOLE,
    TRANSFER,
    FilesCase,
    copy_frame,
    digest_of,
    end_frame,
    frame,
    hole_frame,
    map_frame,
    put_frames,
    request_frame,
)
from tests.functional.processes import lasting

MIB = 1 << 20
PART = f".rshell-{TRANSFER}.part"
OTHER_UID = 12345


class PutTests(FilesCase):
    def read(self, name: str) -> bytes:
        return (self.home / name).read_bytes()

    def test_new(self) -> None:
        """A new file gets its content, the umask's mode, and an answer that says what it is."""
        content = os.urandom(300_000)
        answer = self.put(b"f", content)
        self.assertEqual("", answer.code)
        self.assertEqual(content, self.read("f"))
        self.assertEqual(len(content), answer.last["written"])
        self.assertEqual(len(content), answer.last["entry"]["size"])
        self.assertEqual(0o644, stat.S_IMODE(os.stat(self.home / "f").st_mode))
        self.assertEqual(["f"], self.names())

    def test_empty(self) -> None:
        """An empty file is a file."""
        self.assertEqual("", self.put(b"f", b"").code)
        self.assertEqual(b"", self.read("f"))

    def test_replaced(self) -> None:
        """An old file is replaced as a whole, and keeps mode and owner (FT28)."""
        (self.home / "f").write_bytes(b"old")
        os.chmod(self.home / "f", 0o750)
        if os.geteuid() == 0:
            os.chown(self.home / "f", OTHER_UID, OTHER_UID)
        before = os.stat(self.home / "f")
        self.put(b"f", b"new")
        info = os.stat(self.home / "f")
        self.assertEqual(b"new", self.read("f"))
        self.assertEqual(0o750, stat.S_IMODE(info.st_mode))
        self.assertEqual((before.st_uid, before.st_gid), (info.st_uid, info.st_gid))
        self.assertNotEqual(before.st_ino, info.st_ino)

    def test_meta(self) -> None:
        """Mode and time are set as asked for; set-id bits only if policy says so (FT28)."""
        self.put(b"f", b"x", mode=0o6755, mtime_ns=1_234_567_890_123_456_789)
        info = os.stat(self.home / "f")
        self.assertEqual(0o755, stat.S_IMODE(info.st_mode))
        self.assertEqual(1_234_567_890_123_456_789, info.st_mtime_ns)
        self.policy["setid"] = True
        self.put(b"f", b"x", mode=0o6755)
        self.assertEqual(0o6755, stat.S_IMODE(os.stat(self.home / "f").st_mode))

    def test_replaced_setid(self) -> None:
        """The set-id bits of an old file do not pass to content that somebody uploads."""
        (self.home / "f").write_bytes(b"old")
        os.chmod(self.home / "f", 0o4755)
        self.put(b"f", b"new")
        self.assertEqual(0o755, stat.S_IMODE(os.stat(self.home / "f").st_mode))

    def test_owner(self) -> None:
        """Root may say whose the file is."""
        answer = self.put(b"f", b"x", owner=True, uid=OTHER_UID, gid=54321)
        if os.geteuid():
            self.assertEqual("permission", answer.code)
        else:
            info = os.stat(self.home / "f")
            self.assertEqual((OTHER_UID, 54321), (info.st_uid, info.st_gid))

    def test_hard_link(self) -> None:
        """Another hard link of the old file keeps the old content (FT28)."""
        (self.home / "f").write_bytes(b"old")
        os.link(self.home / "f", self.home / "g")
        self.put(b"f", b"new")
        self.assertEqual((b"new", b"old"), (self.read("f"), self.read("g")))

    def test_through_link(self) -> None:
        """A link at the destination is written through, or replaced if it is not to be followed."""
        (self.home / "d").mkdir()
        (self.home / "d" / "f").write_bytes(b"old")
        (self.home / "link").symlink_to("d/f")
        self.put(b"link", b"new")
        self.assertTrue((self.home / "link").is_symlink())
        self.assertEqual(b"new", self.read("d/f"))
        self.put(b"link", b"plain", follow=False)
        self.assertFalse((self.home / "link").is_symlink())
        self.assertEqual((b"plain", b"new"), (self.read("link"), self.read("d/f")))

    def test_destination_is_no_file(self) -> None:
        """A directory, a FIFO or a device as destination is refused and left alone (FT27)."""
        (self.home / "d").mkdir()
        os.mkfifo(self.home / "fifo")
        for path, code in (
            (b"d", "is-a-directory"),
            (b"d/", "is-a-directory"),
            (b"d/..", "is-a-directory"),
            (b"fifo", "not-a-file"),
            (b"/dev/null", "not-a-file"),
            (b"missing/f", "not-found"),
            (b"fifo/f", "not-a-directory"),
        ):
            self.assertEqual(code, self.put(path, b"x").code, path)
        self.assertEqual(["d", "fifo"], self.names())

    def test_expected_absent(self) -> None:
        """A destination that was expected to be absent is not replaced."""
        self.assertEqual("", self.put(b"f", b"1", expect="absent").code)
        self.assertEqual("exists", self.put(b"f", b"2", expect="absent").code)
        self.assertEqual(b"1", self.read("f"))

    def test_mkdirs(self) -> None:
        """Missing parents are made if asked for."""
        self.assertEqual("", self.put(b"a/b/c/f", b"x", mkdirs=True).code)
        self.assertEqual(b"x", self.read("a/b/c/f"))

    def test_sparse(self) -> None:
        """Holes are not stored, also at the end, and beyond 4 GiB."""
        for size in (10 * MIB, 3 * MIB + 1):
            parts = [hole_frame(1, size), frame(DATA, 1, b"\0abc"), hole_frame(1, size)]
            content = bytes(size) + b"abc" + bytes(size)
            given = {"path": b"f", "size": len(content), "transfer": TRANSFER, "data": 3}
            put = request_frame(1, "put", given)
            answer = self.serve(b"".join([put, *parts, end_frame(1, content)]))[1]
            self.assertEqual("", answer.code, answer)
            self.assertEqual(3, answer.last["written"])
            self.assertEqual(content, self.read("f"))
            self.assertLess(os.stat(self.home / "f").st_blocks * 512, MIB)

    @lasting("hashes 4 GiB")
    def test_huge(self) -> None:
        """More than 4 GiB of mostly nothing arrives whole."""
        size = (4 << 30) + 5
        digest = hashlib.blake2b(digest_size=32)
        zeros = bytes(1 << 24)
        for _ in range(256):
            digest.update(zeros)
        digest.update(b"\0\0end")
        given = {"path": b"f", "size": size, "transfer": TRANSFER, "data": 3}
        end = map_frame(END, 1, {"digest": digest.hexdigest(), "size": size})
        answer = self.serve(
            request_frame(1, "put", given)
            + hole_frame(1, size - 3)
            + frame(DATA, 1, b"\0end")
            + end
        )[1]
        self.assertEqual("", answer.code, answer)
        self.assertEqual(size, os.stat(self.home / "f").st_size)

    def test_many(self) -> None:
        """Uploads follow each other without a wait, and each is answered."""
        frames = b"".join(put_frames(n, b"f%d" % n, b"%d" % n) for n in range(1, 50))
        answers = self.serve(frames)
        self.assertEqual([""] * 49, [answers[n].code for n in range(1, 50)])

    def test_names(self) -> None:
        """Names that are no UTF-8, or as long as can be, are written like any other."""
        for name in (b"\xff\xfe", b"n" * 255, b"a\nb", b" "):
            self.assertEqual("", self.put(name, b"x").code, name)
        self.assertEqual("name-too-long", self.put(b"n" * 256, b"x").code)


class BadPutTests(FilesCase):
    """Whatever goes wrong, the old file is as it was, and no part file stays."""

    def setUp(self) -> None:
        super().setUp()
        (self.home / "f").write_bytes(b"old")

    def failed(self, code: str, frames: bytes, names: tuple[str, ...] = ("f",)) -> None:
        answer = self.serve(frames)[1]
        self.assertEqual(code, answer.code, answer)
        self.assertEqual(b"old", (self.home / "f").read_bytes())
        self.assertEqual(list(names), self.names())

    def given(self, *frames: bytes, **fields: Any) -> bytes:
        request = {"path": b"f", "size": 3, "transfer": TRANSFER, **fields}
        return b"".join([request_frame(1, "put", request), *frames])

    def test_wrong_digest(self) -> None:
        """What came must be what was sent (FT26)."""
        wrong = map_frame(END, 1, {"digest": digest_of(b"neW"), "size": 3})
        self.failed("digest", self.given(frame(DATA, 1, b"\0new"), wrong))

    def test_too_little(self) -> None:
        """Fewer bytes than were announced are no file."""
        self.failed("digest", self.given(frame(DATA, 1, b"\0ne"), end_frame(1, b"ne")))
        self.failed("digest", self.given(frame(DATA, 1, b"\0ne"), end_frame(1, b"new")))

    def test_too_much(self) -> None:
        """More bytes than were announced are refused as they come; the rest is swallowed."""
        for much in (frame(DATA, 1, b"\0newer"), hole_frame(1, 4), hole_frame(1, 2**64 - 1)):
            self.failed("bad-request", self.given(much, frame(DATA, 1, b"\0x"), end_frame(1, b"")))

    def test_bad_blocks(self) -> None:
        """Blocks that cannot be unpacked, or hold too much, are refused (FT10)."""
        packed = zlib.compress(b"new")
        bomb = zlib.compress(bytes(2 * MIB))
        garbage = (b"", b"\1", b"\1garbage", b"\2garbage", b"\7x")
        for block in (*garbage, b"\1" + packed[:-2], b"\1" + bomb):
            self.failed("bad-request", self.given(frame(DATA, 1, block), end_frame(1, b"new")))

    def test_bad_frames(self) -> None:
        """Holes and copies of a wrong length, and copies without a basis, are refused."""
        for bad in (frame(HOLE, 1, b"x"), frame(4, 1, b"x"), copy_frame(1, 0, 1)):
            self.failed("bad-request", self.given(bad, end_frame(1, b"new")))
        self.failed("bad-request", self.given(frame(END, 1, b"no map")))

    def test_bad_fields(self) -> None:
        """Fields that make no sense are refused before anything is touched."""
        for fields in (
            {"size": -1},
            {"size": 2**63},
            {"size": "3"},
            {"size": None},
            {"size": True},
            {"transfer": "../../x"},
            {"transfer": "short"},
            {"transfer": "A" * 10},
            {"transfer": "a" * 33},
            {"transfer": "abcdefgh\n"},
            {"transfer": None},
            {"resume": {"from": 4}},
            {"resume": 1},
            {"basis": []},
            {"expect": 1},
            {"path": b"a\0b"},
            {"mkdirs": "yes"},
        ):
            frames = self.given(frame(DATA, 1, b"\0new"), end_frame(1, b"new"), **fields)
            self.failed("bad-request", frames)

    def test_late_fields(self) -> None:
        """So are those that count only at the end."""
        for fields in (
            {"mode": 0o10000},
            {"mtime_ns": 2**63},
            {"owner": 1},
            {"uid": -1, "owner": True},
        ):
            frames = self.given(frame(DATA, 1, b"\0new"), end_frame(1, b"new"), **fields)
            self.failed("bad-request", frames)

    def test_given_up(self) -> None:
        """ABORT removes the part file, or keeps it if asked to (FT30)."""
        abort = map_frame(ABORT, 1, {"reason": "enough"})
        self.failed("aborted", self.given(frame(DATA, 1, b"\0ne"), abort))
        keep = map_frame(ABORT, 1, {"reason": "later", "keep": True})
        self.failed("aborted", self.given(frame(DATA, 1, b"\0ne"), keep), (PART, "f"))

    def test_input_ends(self) -> None:
        """An input that ends within an upload keeps the part file and is a violation (FT4)."""
        with self.assertRaises(Violation):
            self.serve(self.given(frame(DATA, 1, b"\0ne")))
        self.assertEqual([PART, "f"], self.names())
        self.assertEqual(b"ne", (self.home / PART).read_bytes())

    def test_interrupted(self) -> None:
        """Another request within an upload is a violation (FT8)."""
        with self.assertRaises(Violation):
            self.serve(self.given(request_frame(2, "hello", {})))
        with self.assertRaises(Violation):
            self.serve(self.given(frame(DATA, 2, b"\0new")))

    def test_swallowed(self) -> None:
        """What follows a failed upload is swallowed, and the next request is served (FT8)."""
        frames = put_frames(1, b"missing/f", b"new" * 100_000) + request_frame(2, "hello", {})
        answers = self.serve(frames)
        self.assertEqual(("not-found", ""), (answers[1].code, answers[2].code))

    def test_too_large_for_policy(self) -> None:
        """Policy's largest file is a limit from the beginning."""
        self.policy["max_file_size"] = 2
        self.failed("too-large", self.given(frame(DATA, 1, b"\0new"), end_frame(1, b"new")))

    def test_no_room(self) -> None:
        """An upload that would not leave the floor free is refused at once (FT29)."""
        room = os.statvfs(self.home)
        free = room.f_bavail * room.f_frsize
        self.failed("no-space", self.given(end_frame(1, b""), size=free + 1))
        self.failed("no-space", self.given(end_frame(1, b""), size=free - MIB))
        # Holes take no room.
        answer = self.serve(
            self.given(map_frame(ABORT, 1, {"reason": "x"}), size=free + 1, data=3)
        )[1]
        self.assertEqual("aborted", answer.code)


class BasisTests(FilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.old = os.urandom(500_000)
        (self.home / "f").write_bytes(self.old)
        info = os.stat(self.home / "f")
        self.known = {"size": info.st_size, "mtime_ns": info.st_mtime_ns, "inode": info.st_ino}

    def delta(self, *frames: bytes, new: bytes, **fields: Any) -> Any:
        given = {"path": b"f", "size": len(new), "transfer": TRANSFER, "basis": self.known}
        request = request_frame(1, "put", {**given, **fields})
        return self.serve(b"".join([request, *frames, end_frame(1, new)]))[1]

    def test_copied(self) -> None:
        """Ranges of the old file become part of the new one (FT33)."""
        new = self.old[400_000:] + b"new" + self.old[:300_000]
        answer = self.delta(
            copy_frame(1, 400_000, 100_000),
            frame(DATA, 1, b"\0new"),
            copy_frame(1, 0, 300_000),
            new=new,
        )
        self.assertEqual("", answer.code, answer)
        self.assertEqual(new, (self.home / "f").read_bytes())

    def test_other_basis(self) -> None:
        """An old file that is another by now, or gone, or too short, is refused."""
        for name in self.known:
            answer = self.delta(new=b"", basis={**self.known, name: self.known[name] + 1})
            self.assertEqual("changed", answer.code, name)
        self.assertEqual("changed", self.delta(new=b"", path=b"missing").code)
        answer = self.delta(copy_frame(1, 499_999, 2), new=b"xx")
        self.assertEqual("changed", answer.code)
        self.assertEqual(self.old, (self.home / "f").read_bytes())

    def test_unreadable_basis(self) -> None:
        """A file that may be written but not read is no basis."""
        self.policy["read"] = []
        self.assertEqual("policy", self.delta(copy_frame(1, 0, 2), new=self.old[:2]).code)


class ResumeTests(FilesCase):
    def part(self, content: bytes) -> None:
        (self.home / PART).write_bytes(content)

    def test_resumed(self) -> None:
        """A part file is gone on with after the bytes that are right (FT30)."""
        content = os.urandom(300_000)
        self.part(content[:200_000] + b"wrong")
        told = self.ask("part", path=b"f", transfer=TRANSFER).last
        self.assertEqual(200_005, told["size"])
        self.assertEqual(digest_of(content[:200_000] + b"wrong"), told["digest"])
        answer = self.put(b"f", content, resume={"from": 200_000})
        self.assertEqual("", answer.code, answer)
        self.assertEqual(100_000, answer.last["written"])
        self.assertEqual(content, (self.home / "f").read_bytes())
        self.assertEqual(["f"], self.names())

    def test_resumed_at_end(self) -> None:
        """A part file that is complete needs no byte more."""
        self.part(b"new")
        self.assertEqual("", self.put(b"f", b"new", resume={"from": 3}).code)
        self.assertEqual(b"new", (self.home / "f").read_bytes())

    def test_wrong_part(self) -> None:
        """A part with other content is noticed at the end, and dropped."""
        self.part(b"xxx")
        self.assertEqual("digest", self.put(b"f", b"newer", resume={"from": 3}).code)
        self.assertEqual([], self.names())

    def test_no_part(self) -> None:
        """Without a part file, or with one that is shorter, there is nothing to go on with."""
        self.assertEqual({"size": 0}, self.ask("part", path=b"f", transfer=TRANSFER).last)
        self.assertEqual("changed", self.put(b"f", b"new", resume={"from": 1}).code)
        self.part(b"n")
        self.assertEqual("changed", self.put(b"f", b"new", resume={"from": 2}).code)

    def test_begun_anew(self) -> None:
        """Without resume a part that was left behind is dropped, whatever has its name."""
        (self.home / "elsewhere").write_bytes(b"safe")
        for make in (
            lambda: self.part(b"x" * 100),
            lambda: (self.home / PART).symlink_to("elsewhere"),
            lambda: os.mkfifo(self.home / PART),
        ):
            make()
            self.assertEqual("", self.put(b"f", b"new").code)
            self.assertEqual(b"new", (self.home / "f").read_bytes())
        self.assertEqual(b"safe", (self.home / "elsewhere").read_bytes())
        (self.home / PART).mkdir()
        self.assertEqual("exists", self.put(b"f", b"new").code)

    def test_planted(self) -> None:
        """What somebody else may have put there is never gone on with."""
        (self.home / "secret").write_bytes(b"secret")
        makes = [
            lambda: (self.home / PART).symlink_to("secret"),
            lambda: os.link(self.home / "secret", self.home / PART),
            lambda: os.mkfifo(self.home / PART),
        ]
        if os.geteuid() == 0:
            makes.append(self._foreign)
        for make in makes:
            make()
            self.assertEqual({"size": 0}, self.ask("part", path=b"f", transfer=TRANSFER).last)
            self.assertEqual("changed", self.put(b"f", b"secret!", resume={"from": 6}).code)
            os.unlink(self.home / PART)
        self.assertEqual(b"secret", (self.home / "secret").read_bytes())

    def _foreign(self) -> None:
        self.part(b"secret")
        os.chown(self.home / PART, OTHER_UID, OTHER_UID)

    def test_swept(self) -> None:
        """Old part files are removed by the way, and on request; nothing else is (FT32)."""
        old = time.time() - 25 * 3600
        for name in (
            ".rshell-oldoldold1.part",
            ".rshell-newnewnew1.part",
            ".rshell-x.part",
            "p.part",
        ):
            (self.home / name).write_bytes(b"x")
            if "new" not in name:
                os.utime(self.home / name, (old, old))
        os.symlink("p.part", self.home / ".rshell-linklink1.part")
        self.put(b"f", b"x")
        kept = [
            ".rshell-linklink1.part",
            ".rshell-newnewnew1.part",
            ".rshell-x.part",
            "f",
            "p.part",
        ]
        self.assertEqual(kept, self.names())
        os.utime(self.home / ".rshell-newnewnew1.part", (old, old))
        self.assertEqual({"removed": 1}, self.ask("sweep", path=b"~").last)
        self.assertEqual({"removed": 0}, self.ask("sweep", path=b"~").last)
        self.assertNotIn(".rshell-newnewnew1.part", self.names())
