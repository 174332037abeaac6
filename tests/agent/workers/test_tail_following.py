"""Tail's worker on real files: rotation, truncation, files that come and go, hostile ones."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.agent.workers.tailing import TailingCase


def numbers(first: int, last: int) -> str:
    return "".join(f"line {n}\n" for n in range(first, last + 1))


def names(first: int, last: int) -> list[str]:
    return [f"line {n}" for n in range(first, last + 1)]


class BeginningTests(TailingCase):
    def test_last_lines_then_new_ones(self) -> None:
        """The last ten lines come first, then each new one once."""
        self.append(numbers(1, 100))
        tailed = self.tail()
        self.assertEqual(names(91, 100), tailed.lines())
        tailed.step()
        self.append(numbers(101, 103))
        tailed.step()
        self.assertEqual(names(91, 103), tailed.lines())

    def test_once(self) -> None:
        """Without following, what was there at the start is told and no more."""
        self.append(numbers(1, 5) + "unfinished")
        tailed = self.tail(follow=False, lines=2)
        self.assertEqual(["line 5", "unfinished"], tailed.lines())
        self.assertEqual("end", tailed.records[-1]["kind"])

    def test_from_a_line(self) -> None:
        """+K is from the line of that number on."""
        self.append(numbers(1, 20))
        self.assertEqual(names(18, 20), self.tail(first=18, follow=False).lines())
        self.assertEqual([], self.tail(first=99, follow=False).lines())

    def test_none(self) -> None:
        """-n 0 tells only what comes."""
        self.append(numbers(1, 20))
        tailed = self.tail(lines=0)
        self.append(numbers(21, 21))
        tailed.step()
        self.assertEqual(names(21, 21), tailed.lines())

    def test_grep(self) -> None:
        """Of matching lines the last are told, and those that come."""
        self.append(numbers(1, 100))
        tailed = self.tail(lines=2, pattern="5$")
        self.append(numbers(101, 120))
        tailed.step()
        self.assertEqual(["line 85", "line 95", "line 105", "line 115"], tailed.lines())

    def test_since(self) -> None:
        """With a time, all newer lines come; a file without time stamps says so."""
        stamps = "".join(f"2026-01-01T10:{n:02d}:00Z {n}\n" for n in range(60))
        self.append(stamps)
        since = 1767261600 + 57 * 60  # 10:57
        tailed = self.tail(follow=False, since=since)
        self.assertEqual(3, len(tailed.lines()))
        self.assertEqual(1, len(self.tail(follow=False, since=since, lines=1).lines()))
        plain = self.folder / "plain"
        self.append(numbers(1, 30), plain)
        tailed = self.tail(plain, follow=False, since=since)
        self.assertEqual((names(21, 30), ["no-stamps"]), (tailed.lines(), tailed.codes()))
        os.utime(plain, (since - 10, since - 10))
        self.assertEqual([], self.tail(plain, follow=False, since=since).lines())

    def test_file_without_size(self) -> None:
        """A file of /proc, which has content and no size, has last lines too."""
        tailed = self.tail("/proc/version", follow=False, lines=1)
        self.assertIn("Linux", tailed.lines()[0])


class GrowingTests(TailingCase):
    def test_unfinished_line(self) -> None:
        """A line whose end does not come is told as a part, and later its rest."""
        self.append("whole\nbeg")
        tailed = self.tail()
        tailed.step(0.5)
        self.assertEqual(["whole"], tailed.lines())
        tailed.step(1.0)
        self.append("in\nnext\n")
        tailed.step()
        self.assertEqual(["whole", "beg", "in", "next"], tailed.lines())
        parts = [r for r in tailed.records if r.get("part") or r.get("more")]
        self.assertEqual([(True, False), (False, True)], [(r["part"], r["more"]) for r in parts])

    def test_binary_and_long(self) -> None:
        """NUL, bytes that are no UTF-8, and lines without end do no harm."""
        self.append(b"\0\xff\x1b[31m\n" + b"L" * 3_000_000 + b"\nend\n")
        tailed = self.tail()
        self.assertEqual(repr(b"\0\xff\x1b[31m"), tailed.lines()[0])
        self.assertEqual("end", tailed.lines()[2])
        self.assertEqual(3_000_000 - 65_536, tailed.records[-2]["cut"])

    def test_rate(self) -> None:
        """What comes faster than the rate is counted to the line; what was there before is not."""
        self.append(numbers(1, 5000))
        tailed = self.tail(lines=5000, rate=100)
        self.assertEqual(5000, len(tailed.lines()))
        for n in range(10):
            self.append(numbers(n * 1000 + 5001, n * 1000 + 6000))
            tailed.step(1.0)
        self.append("the last\n")
        tailed.step(3.0)
        tailed.step(3.0)
        self.assertEqual(15_001, len(tailed.lines()) + tailed.dropped())
        self.assertLess(len(tailed.lines()), 5000 + 500 + 16 * 100 + 2)
        self.assertEqual("the last", tailed.lines()[-1])


class RotationTests(TailingCase):
    def test_rename(self) -> None:
        """After a rename the old file is read to its end, also late lines, then the new one."""
        self.append(numbers(1, 3))
        tailed = self.tail()
        late = self.log.open("ab")
        self.addCleanup(late.close)
        self.append(numbers(4, 5))
        self.log.rename(self.folder / "app.log.1")
        self.append(numbers(6, 7))
        tailed.step(1.0)
        self.assertEqual(names(1, 7), tailed.lines())
        late.write(b"late\n")
        late.flush()
        tailed.step(2.0)
        self.assertIn("late", tailed.lines())
        for _ in range(10):
            tailed.step(1.0)
        self.assertEqual(1, [r.get("kind") for r in tailed.records].count("end"))
        self.assertEqual(["rotated"], tailed.codes())

    def test_many_rotations(self) -> None:
        """Rotated several times between two looks: nothing is lost, doubled or left open."""
        self.append("of old\n", self.folder / "app.log.0")
        self.append(numbers(1, 1))
        tailed = self.tail()
        open_before = len(os.listdir("/proc/self/fd"))
        for n in range(2, 60):
            self.append(numbers(n, n))
            self.log.rename(self.folder / f"app.log.{n}")
            if n % 3 == 0:
                tailed.step(1.0)
        self.append(numbers(60, 60))
        for _ in range(8):
            tailed.step(1.0)
        self.assertEqual(names(1, 60), tailed.lines())
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), open_before + 1)

    def test_truncation(self) -> None:
        """A file that gets shorter is read from its beginning."""
        self.append(numbers(1, 3))
        tailed = self.tail()
        os.truncate(self.log, 0)
        tailed.step()
        self.append(numbers(4, 4))
        tailed.step()
        self.assertEqual((names(1, 4), ["truncated"]), (tailed.lines(), tailed.codes()))

    def test_copytruncate_regrown(self) -> None:
        """A truncated file that has grown past the old place again is noticed by its beginning."""
        self.append(numbers(1, 3))
        tailed = self.tail()
        os.truncate(self.log, 0)
        self.append(numbers(4, 50))
        tailed.step()
        self.assertEqual(names(1, 50), tailed.lines())

    def test_appears_and_goes(self) -> None:
        """A file that is not there is waited for, read from its beginning, and missed when gone."""
        tailed = self.tail()
        self.assertEqual(["missing"], tailed.codes())
        tailed.step(5.0)
        self.append(numbers(1, 30))
        tailed.step()
        self.assertEqual(names(1, 30), tailed.lines())
        self.log.unlink()
        tailed.step()
        tailed.step(3.0)
        tailed.step(3.0)
        self.append(numbers(31, 31))
        tailed.step()
        self.assertEqual(names(1, 31), tailed.lines())
        self.assertEqual(["missing", "appeared", "gone", "appeared"], tailed.codes())

    def test_folder_appears(self) -> None:
        """The folder may come later too."""
        path = self.folder / "new" / "deep" / "x.log"
        tailed = self.tail(path)
        path.parent.mkdir(parents=True)
        self.append("hello\n", path)
        tailed.step()
        self.assertEqual(["hello"], tailed.lines())

    def test_link_is_switched(self) -> None:
        """A symbolic link that is switched to another file is a rotation."""
        first, second = self.folder / "1", self.folder / "2"
        self.append("a\n", first)
        self.append("b\n", second)
        self.log.symlink_to(first)
        tailed = self.tail()
        other = self.folder / "link"
        other.symlink_to(second)
        other.rename(self.log)
        self.append("late\n", first)
        tailed.step()
        self.assertEqual(["a", "late", "b"], tailed.lines())


class GlobTests(TailingCase):
    def test_new_files(self) -> None:
        """Files that match later are read from their beginning; hidden and compressed ones not."""
        self.append("old\n", self.folder / "a.log")
        tailed = self.tail(self.folder / "*.log*")
        for name in ("b.log", ".c.log", "d.log.gz"):
            self.append(f"{name}\n", self.folder / name)
        tailed.step()
        self.assertEqual(["old", "b.log"], tailed.lines())

    def test_rotated_file_matches_too(self) -> None:
        """A rotated file that still matches is not told again."""
        self.append(numbers(1, 3))
        tailed = self.tail(self.folder / "app.log*")
        for n in range(1, 4):
            for old in range(n, 0, -1):
                path = self.folder / f"app.log.{old}"
                if path.exists():
                    path.rename(self.folder / f"app.log.{old + 1}")
            self.log.rename(self.folder / "app.log.1")
            self.append(numbers(n + 3, n + 3))
            tailed.step(10.0)
        self.assertEqual(names(1, 6), tailed.lines())

    def test_in_folders(self) -> None:
        """A pattern may stand for folders as well; a name with a star in it is found as itself."""
        for name in ("x/1.log", "y/2.log", "y/n"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            self.append(f"{name}\n", self.folder / name)
        self.append("star\n", self.folder / "[x]*")
        tailed = self.tail(f"{self.folder}/?/[0-9].log", f"{self.folder}/[x]*", follow=False)
        self.assertEqual({"x/1.log", "y/2.log", "star"}, set(tailed.lines()))

    def test_nothing_matches(self) -> None:
        """That nothing matches is said, and is a failure unless it is waited for."""
        tailed = self.tail(self.folder / "*.log", follow=False)
        self.assertEqual((["missing"], True), (tailed.codes(), tailed.following.failed))
        self.assertFalse(self.tail(self.folder / "*.log").following.failed)

    def test_too_many(self) -> None:
        """More files than can be followed are said to be too many."""
        for n in range(205):
            self.append(f"{n}\n", self.folder / f"{n:03}.log")
        tailed = self.tail(self.folder / "*.log", follow=False)
        self.assertEqual((200, ["too-many"]), (len(tailed.lines()), tailed.codes()))


class ResumeTests(TailingCase):
    """Another worker goes on where the operator's end says that the first one was."""

    def test_same_file(self) -> None:
        """Exactly what came meanwhile is told, also from the middle of a line."""
        self.append(numbers(1, 30) + "half")
        first = self.tail()
        first.step(2.0)
        self.append(" and half\n" + numbers(31, 60))
        second = self.tail(marks=first.marks(), rate=1)
        self.assertEqual([" and half", *names(31, 60)], second.lines())
        self.assertTrue(second.records[2]["more"])

    def test_rotated_meanwhile(self) -> None:
        """A file that was rotated away, twice, is found by its inode, and all after it in order."""
        self.append(numbers(1, 30))
        first = self.tail()
        self.append(numbers(31, 32))
        self.log.rename(self.folder / "app.log.2")
        self.append(numbers(33, 34), self.folder / "app.log.1")
        self.append(numbers(35, 36))
        self.append("another log\n", self.folder / "app.log.audit")
        for age, name in enumerate(("app.log", "app.log.1", "app.log.2")):
            os.utime(self.folder / name, (10**9 - age, 10**9 - age))
        second = self.tail(marks=first.marks())
        self.assertEqual(names(31, 36), second.lines())
        self.append(numbers(37, 37))
        for _ in range(8):
            second.step(1.0)
        self.assertEqual(names(31, 37), second.lines())

    def test_truncated_meanwhile(self) -> None:
        """A file that was truncated meanwhile is read from its beginning, and that is said."""
        self.append(numbers(1, 30))
        first = self.tail()
        os.truncate(self.log, 0)
        self.append(numbers(31, 99))
        second = self.tail(marks=first.marks())
        self.assertEqual((names(31, 99), ["missed"]), (second.lines(), second.codes()))

    def test_gone_meanwhile(self) -> None:
        """What cannot be found any more is said to be missed."""
        self.append(numbers(1, 30))
        first = self.tail()
        self.log.unlink()
        self.append(numbers(31, 32), self.folder / "holds the inode")
        self.append(numbers(33, 34))
        second = self.tail(marks=first.marks())
        self.assertEqual((names(33, 34), ["missed"]), (second.lines(), second.codes()))

    def test_another_inode_same_content(self) -> None:
        """A file that was copied into its place (sed -i, an overlay) is known by its beginning."""
        self.append(numbers(1, 300))
        first = self.tail()
        data = self.log.read_bytes()
        self.append(b"", self.folder / "spare")
        self.log.unlink()
        (self.folder / "new").write_bytes(data + b"more\n")
        (self.folder / "new").rename(self.log)
        self.assertEqual(["more"], self.tail(marks=first.marks()).lines())

    def test_appeared_meanwhile(self) -> None:
        """A file that came meanwhile is read from its beginning, not from its last lines."""
        first = self.tail()
        self.append(numbers(1, 50))
        self.assertEqual(names(1, 50), self.tail(marks=first.marks()).lines())

    def test_dropped_is_not_told_twice(self) -> None:
        """What was told to be dropped counts as told."""
        self.append("0\n")
        first = self.tail(rate=10)
        self.append(numbers(1, 1000))
        first.step(0.1)
        first.step(2.0)
        told = len(first.lines()) - 1 + first.dropped()
        self.assertEqual(1000, told)
        self.assertEqual([], self.tail(marks=first.marks()).lines())


class HostileTests(TailingCase):
    def test_not_files(self) -> None:
        """FIFOs, sockets, devices and folders are refused without being opened."""
        fifo, folder = self.folder / "fifo", self.folder / "sub"
        os.mkfifo(fifo)
        folder.mkdir()
        here = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, here)
        end = socket.socket(socket.AF_UNIX)
        self.addCleanup(end.close)
        end.bind(f"/proc/self/fd/{here}/sock")
        for path in (fifo, folder, self.folder / "sock", "/dev/zero", "/dev/kmsg"):
            tailed = self.tail(path, follow=False)
            self.assertEqual((["not-a-file"], []), (tailed.codes(), tailed.lines()), path)
            self.assertTrue(tailed.following.failed)

    def test_bad_paths(self) -> None:
        """NUL, names too long, loops of links: one note each, and the others go on."""
        self.append("fine\n")
        loop = self.folder / "loop"
        loop.symlink_to(loop)
        long_name, long_path = "n" * 256, "/x" * 2100
        for path in (loop, f"{self.folder}/{long_name}", long_path, f"{self.folder}/a\0b"):
            tailed = self.tail(path, self.log, follow=False)
            self.assertEqual((["unreadable"], ["fine"]), (tailed.codes(), tailed.lines()), path)

    def test_roots(self) -> None:
        """What lies outside the policy's roots is refused, by whatever path it is asked for."""
        inside, outside = self.folder / "in", self.folder / "out"
        for path in (inside, outside):
            path.mkdir()
            self.append(f"{path.name}\n", path / "x.log")
        (inside / "link").symlink_to(outside / "x.log")
        (inside / "folder").symlink_to(outside)
        (inside / "root").symlink_to("/proc/self/root")
        for path in (
            outside / "x.log",
            inside / ".." / "out" / "x.log",
            inside / "link",
            inside / "folder" / "x.log",
            Path(f"{inside}/root{outside}/x.log"),
            Path("/etc/passwd"),
            Path("/proc/self/root/etc/passwd"),
            Path("/proc/self/cwd/x.log"),
        ):
            tailed = self.tail(path, read=[str(inside)], follow=False)
            self.assertEqual((["policy"], []), (tailed.codes(), tailed.lines()), path)
        for pattern in (f"{outside}/*", f"{inside}/folder/*", "/etc/pass*"):
            tailed = self.tail(pattern, read=[str(inside)], follow=False)
            self.assertEqual([], tailed.lines())
            self.assertTrue(tailed.following.failed)
        self.assertEqual(["in"], self.tail(inside / "x.log", read=[str(inside)]).lines())

    def test_switched_to_outside(self) -> None:
        """A link that is switched to a place outside while it is followed tells nothing of it."""
        inside = self.folder / "in"
        inside.mkdir()
        self.append("in\n", inside / "1")
        self.append("secret\n", self.folder / "secret")
        (inside / "log").symlink_to("1")
        tailed = self.tail(inside / "log", read=[str(inside)])
        (inside / "log").unlink()
        (inside / "log").symlink_to(self.folder / "secret")
        for _ in range(8):
            tailed.step(1.0)
        self.assertEqual((["in"], ["policy"]), (tailed.lines(), tailed.codes()))

    def test_forged_marks(self) -> None:
        """Marks that fit nothing, or point beyond the end, are not believed."""
        self.append(numbers(1, 3))
        (mark,) = self.tail().marks()
        for change in ({"pos": 2**50}, {"ino": 1}, {"digest": "x"}, {"path": "/etc/shadow"}):
            tailed = self.tail(marks=[{**mark, **change, "mid": True}])
            expected = [] if "path" in change else names(1, 3)
            self.assertEqual(expected, tailed.lines(), change)
