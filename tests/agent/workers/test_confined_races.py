"""Nobody can move the bounds of a worker: places hold, and races are lost."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, EOPNOTSUPP

from rshell_agent.workers.confined import Place
from tests.agent.workers.tree import MAKE, TreeCase


class PlaceTests(TreeCase):
    def test_changes(self) -> None:
        """What is done at a place is done there, and to links themselves."""
        confined = self.confined()
        with confined.at(b"new", write=True) as place:
            place.mkdir(0o2755)
            self.assertEqual(place.stat().st_mode & 0o7777, 0o755)
            place.sync_folder()
            place.rmdir()
            place.symlink(b"../out/secret")
            self.fails(EOPNOTSUPP, place.chmod, 0o600)
            place.utime(1_000_000_000, 2_000_000_001)
            self.assertEqual(place.stat().st_mtime_ns, 2_000_000_001)
            place.chown(-1, -1)
            with confined.at(b"renamed", write=True) as renamed:
                place.rename_to(renamed)
                self.assertEqual(renamed.readlink(), b"../out/secret")
                renamed.link_to(place)
                place.unlink()
                renamed.unlink()
        self.assertEqual(sorted(os.listdir(self.root)), [b"a", b"d"])
        info = os.stat(self.path(b"out/secret"))
        self.assertNotEqual(info.st_mtime_ns, 2_000_000_001)

    def test_no_right_at_the_other_end(self) -> None:
        """Nothing is moved to a place that was not opened for writing."""
        confined = self.confined(read=[self.root], write=[self.path(b"in/d")])
        with confined.at(b"d/e", write=True) as e, confined.at(b"new") as new:
            self.denied(e.rename_to, new)
            self.denied(e.link_to, new)

    def test_close(self) -> None:
        """Closing twice is harmless, and a closed place does nothing."""
        place: Place = self.confined().at(b"a")
        place.close()
        place.close()
        self.assertRaises(OSError, place.stat)


class RaceTests(TreeCase):
    """Somebody else changes the tree between any two steps of a walk."""

    def swap(self, name: bytes, text: bytes) -> None:
        """Replace what is there by a link."""
        path = self.path(name)
        if not os.path.islink(path):
            os.rename(path, path + b".old")
            os.symlink(text, path)

    def unswap(self, name: bytes) -> None:
        path = self.path(name)
        if os.path.islink(path):
            os.unlink(path)
            os.rename(path + b".old", path)

    def test_every_component(self) -> None:
        """A component that becomes a link at any step never leads out."""
        os.mkdir(self.path(b"out/e"))
        self.fill(b"out/e/f", b"secret")
        self.fill(b"out/f", b"secret")
        for victim in (b"in/d", b"in/d/e", b"in/d/e/f"):
            for text in (self.outside, b"../out", b"../../out", self.path(b"out/f")):
                for turn in range(6):
                    self.one_race(victim, text, turn, b"d/e/f", os.O_RDONLY)
                    self.one_race(victim, text, turn, b"d/e/f", os.O_WRONLY | os.O_TRUNC)
                    self.one_race(victim, text, turn, b"d/e/new", MAKE)
        for name in (b"out/secret", b"out/f", b"out/e/f"):
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), b"secret")
        self.assertEqual(sorted(os.listdir(self.outside)), [b"e", b"f", b"secret"])
        self.assertEqual(os.listdir(self.path(b"out/e")), [b"f"])

    def one_race(self, victim: bytes, text: bytes, turn: int, path: bytes, flags: int) -> None:
        taken = 0

        def step(name: bytes) -> None:
            nonlocal taken
            if taken == turn:
                self.swap(victim, text)
            taken += 1

        confined = self.confined(step=step)
        try:
            fd = confined.open(path, flags)
        except OSError:
            pass
        else:
            where = os.readlink(b"/proc/self/fd/%d" % fd)
            self.assertTrue(where.startswith(self.root + b"/"), where)
            os.close(fd)
        confined.close()
        self.unswap(victim)
        new = self.path(b"in/d/e/new")
        if os.path.exists(new):
            os.unlink(new)

    def test_swapped_back_and_forth(self) -> None:
        """A component that changes at each step still never leads out."""
        count = 0

        def step(name: bytes) -> None:
            nonlocal count
            count += 1
            (self.swap(b"in/d", b"../out") if count % 2 else self.unswap(b"in/d"))

        confined = self.confined(step=step)
        for _ in range(20):
            try:
                self.assertEqual(self.read(confined, b"d/e/f"), b"deep")
            except OSError:
                pass
        self.unswap(b"in/d")

    def test_moved_out(self) -> None:
        """A folder that is moved out while the walk is in it does not lead `..` out with it."""
        moved = False

        def step(name: bytes) -> None:
            nonlocal moved
            if name == b"e" and not moved:
                os.rename(self.path(b"in/d"), self.path(b"out/d"))
                moved = True

        confined = self.confined(step=step)
        self.assertRaises(OSError, confined.open, b"d/e/../../secret", os.O_RDONLY)
        self.assertRaises(OSError, confined.open, b"d/e/../../../out/secret", os.O_RDONLY)

    def test_becomes_special(self) -> None:
        """A file that becomes a FIFO or a link just before it is opened is not opened."""

        def fifo(name: bytes) -> None:
            path = self.path(b"in/a")
            if name == b"a" and os.path.exists(path) and not stat.S_ISFIFO(os.stat(path).st_mode):
                taken.append(name)
                if len(taken) == 2:  # the second time is the one before opening
                    os.unlink(path)
                    os.mkfifo(path)

        taken: list[bytes] = []
        confined = self.confined(step=fifo)
        self.fails(EOPNOTSUPP, confined.open, b"a", os.O_RDONLY)
        self.assertEqual(len(taken), 2)

    def test_becomes_denied(self) -> None:
        """A name that becomes another name of a denied file is not opened."""
        os.link(self.path(b"in/d/e/f"), self.path(b"in/other"))
        taken: list[bytes] = []

        def step(name: bytes) -> None:
            if name == b"a":
                taken.append(name)
                if len(taken) == 2:
                    os.rename(self.path(b"in/other"), self.path(b"in/a"))

        confined = self.confined(deny_read=(self.path(b"in/d/e/f"),), step=step)
        self.denied(confined.open, b"a", os.O_RDONLY)

    def test_place_holds(self) -> None:
        """What is done at a place is done in the folder that was walked, wherever its name went."""
        confined = self.confined()
        with confined.at(b"d/new", write=True) as place:
            self.swap(b"in/d", self.outside)
            os.close(place.open(MAKE))
            place.sync_folder()
            with confined.at(b"a", write=True) as a:
                a.rename_to(place)
        self.assertEqual(os.listdir(self.outside), [b"secret"])
        self.assertEqual(sorted(os.listdir(self.path(b"in/d.old"))), [b"e", b"new"])

    def test_comes_and_goes(self) -> None:
        """A name that exists only when it is not looked for is given up."""
        os.close(self.confined().open(b"new", MAKE))
        os.unlink(self.path(b"in/new"))
        confined = self.confined()
        with confined.at(b"new", write=True) as place:
            made: list[int] = []

            class Coming(Place):
                def _make(self, flags: int, mode: int) -> int:
                    made.append(flags)
                    raise FileExistsError(EEXIST, "")

            coming = Coming(os.dup(place.dir_fd), place.name, place.path, place.rights, False)
            self.fails(EEXIST, coming.open, MAKE)
            self.assertGreater(len(made), 1)
            coming.close()
