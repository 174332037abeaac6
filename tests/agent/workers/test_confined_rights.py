"""Rights of workers: several roots, denied places, roots that come and go."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from errno import ENOENT, ENOTDIR

from rshell_agent.workers.confined import Confined
from tests.agent.workers.tree import MAKE, TreeCase


class RightTests(TreeCase):
    def test_nested(self) -> None:
        """With / to read and one folder to write, the place that is reached decides."""
        confined = self.confined(read=[b"/"], write=[self.root])
        self.link(b"in/away", self.outside)
        self.link(b"out/back", self.root)
        self.link(b"out/back-d", b"../in/d")
        self.assertEqual(self.read(confined, self.path(b"out/secret")), b"secret")
        self.assertEqual(self.read(confined, b"away/secret"), b"secret")
        self.denied(confined.open, self.path(b"out/secret"), os.O_RDWR)
        self.denied(confined.open, b"away/new", MAKE)
        self.denied(confined.open, b"../out/new", MAKE)
        self.denied(confined.at, b"away/secret", write=True)
        self.denied(confined.at, b"d/../../out/secret", write=True)
        for name in (b"d/new1", b"../out/back/new2", b"../out/back-d/new3", b"../out/../in/new4"):
            os.close(confined.open(name, MAKE))
        self.assertEqual(sorted(os.listdir(self.path(b"in/d"))), [b"e", b"new1", b"new3"])
        self.assertEqual(os.listdir(self.outside).count(b"new2"), 0)

    def test_write_only(self) -> None:
        """Who may only write can neither look nor read, nor move or link what is there."""
        confined = self.confined(read=[self.path(b"in/d")], write=[self.root])
        os.close(confined.open(b"drop", MAKE))
        self.denied(confined.open, b"drop", os.O_RDONLY)
        self.denied(confined.open, b"drop", os.O_RDWR)
        self.denied(confined.open, b"drop", os.O_RDONLY, write=True)
        self.denied(confined.stat, b"drop")
        self.assertEqual(confined.stat(b"drop", write=True).st_size, 0)
        with confined.at(b"a", write=True) as a, confined.at(b"d/got", write=True) as got:
            self.denied(a.rename_to, got)
            self.denied(a.link_to, got)
        self.assertEqual(self.read(confined, b"d/e/f"), b"deep")
        with confined.at(b"d/e/f", write=True) as f, confined.at(b"d/g", write=True) as g:
            f.link_to(g)
            f.rename_to(g)

    def test_read_only(self) -> None:
        """Where nothing may be written, no flag writes."""
        confined = self.confined(write=[])
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND):
            self.denied(confined.open, b"a", flags)
        self.denied(confined.open, b"a", os.O_RDONLY, write=True)
        self.assertEqual(self.read(confined, b"a"), b"inner")

    def test_nothing(self) -> None:
        """Without roots there is nothing, not even whether something exists."""
        confined = self.confined(read=[], write=[])
        for path in (b"/", b"a", b"/none", b"/etc/passwd"):
            self.denied(confined.stat, path)
            self.denied(confined.at, path, write=True)

    def test_roots_told(self) -> None:
        """A worker can say where one may go, as the policy names it."""
        confined = self.confined(read=[b"/", self.root], write=[self.path(b"in/./d")])
        self.assertEqual(confined.roots(), [b"/", self.root])
        self.assertEqual(confined.roots(write=True), [self.path(b"in/d")])

    def test_home(self) -> None:
        """`~` in the policy is the login's home."""
        confined = Confined(["~/d"], ["~"], home=self.root)
        self.assertEqual(self.read(confined, b"d/e/f"), b"deep")
        self.denied(confined.stat, b"a")
        os.close(confined.open(b"b", MAKE))
        confined.close()

    def test_several_roots(self) -> None:
        """A link from one root into another goes on there; roots beside them stay out."""
        os.mkdir(self.path(b"second"))
        self.fill(b"second/x", b"two")
        self.link(b"in/over", self.path(b"second/x"))
        self.link(b"in/relative", b"../second/x")
        confined = self.confined(read=[self.root, self.path(b"second")])
        self.assertEqual(self.read(confined, b"over"), b"two")
        self.denied(confined.open, b"relative", os.O_RDONLY)  # .. does not leave a root
        self.denied(confined.open, b"over", os.O_RDWR)

    def test_deny(self) -> None:
        """What is denied stays so inside a root, by its place and by what it is."""
        self.link(b"in/to-e", b"d/e")
        os.link(self.path(b"in/d/e/f"), self.path(b"in/hard"))
        confined = self.confined(
            deny_read=(self.path(b"in/d/e/f"),), deny_write=(self.path(b"in/d/e"), b"/none/x")
        )
        for path in (b"d/e/f", b"to-e/f", b"hard", b"d/../d/e/f"):
            self.denied(confined.open, path, os.O_RDONLY)
            self.denied(confined.stat, path)
        self.denied(confined.open, b"d/e/new", MAKE)
        self.denied(confined.open, b"to-e/new", MAKE)
        self.denied(confined.at, b"d/e", write=True)
        confined.at(b"to-e", write=True).close()  # the link is no such place
        self.assertEqual(self.read(confined, b"a"), b"inner")
        with confined.at(b"d", write=True) as d, confined.at(b"moved", write=True) as moved:
            self.denied(d.rename_to, moved)  # it would take the denied along
        os.close(confined.open(b"d/new", MAKE))

    def test_deny_replaced(self) -> None:
        """A denied file stays denied when it is replaced by another one, or comes later."""
        later = self.path(b"in/later/key")
        confined = self.confined(deny_read=(self.path(b"in/a"), later))
        self.fill(b"in/a.new", b"other")
        os.rename(self.path(b"in/a.new"), self.path(b"in/a"))
        self.denied(confined.open, b"a", os.O_RDONLY)
        self.fill(b"in/later/key", b"key")
        self.denied(confined.open, b"later/key", os.O_RDONLY)
        self.denied(confined.open, b"later/key/deeper", os.O_RDONLY)
        self.denied(confined.stat, b"later/key/deeper/still")

    def test_deny_through_links(self) -> None:
        """A denied path that is a link denies where it leads."""
        self.link(b"alias", b"in/d")
        confined = self.confined(deny_read=(self.path(b"alias"),))
        self.denied(confined.open, b"d/e/f", os.O_RDONLY)

    def test_deny_all(self) -> None:
        """Denying / denies everything."""
        confined = self.confined(deny_read=(b"/",))
        self.denied(confined.open, b"a", os.O_RDONLY)
        os.close(confined.open(b"new", MAKE))


class RootTests(TreeCase):
    def test_linked_root(self) -> None:
        """A root that is a link is where it leads; its owner said so."""
        self.link(b"alias", b"in")
        confined = self.confined(read=[self.path(b"alias")], write=[self.path(b"alias")])
        self.assertEqual(self.read(confined, self.path(b"alias/a")), b"inner")
        with confined.at(self.path(b"alias/a")) as place:
            self.assertEqual(place.path, self.path(b"in/a"))
        self.denied(confined.stat, self.path(b"in/a"))  # that name is beneath no root
        os.unlink(self.path(b"alias"))
        self.link(b"alias", b"out")  # too late: the root is open
        self.assertEqual(self.read(confined, self.path(b"alias/a")), b"inner")

    def test_vanished(self) -> None:
        """A root that was removed holds nothing; made anew it is one again."""
        confined = self.confined()
        shutil.rmtree(self.root)
        self.fails(ENOENT, confined.stat, b"a")
        self.fails(ENOENT, confined.at, b"a", write=True)
        os.mkdir(self.root)
        os.close(confined.open(b"a", MAKE))
        self.assertEqual(os.listdir(self.root), [b"a"])

    def test_not_there(self) -> None:
        """A root that is not there says so, and counts when it comes."""
        confined = self.confined(read=[self.path(b"late")], write=[self.path(b"late")])
        self.fails(ENOENT, confined.stat, self.path(b"late/x"))
        self.fill(b"late/x", b"now")
        self.assertEqual(self.read(confined, self.path(b"late/x")), b"now")

    def test_late_inner_root(self) -> None:
        """A root to write within one to read counts also when it comes later."""
        late = self.path(b"in/late")
        confined = self.confined(write=[late])
        self.denied(confined.at, b"late", write=True)
        self.fails(ENOENT, confined.at, b"late/x", write=True)
        os.mkdir(late)
        os.close(confined.open(b"late/x", MAKE))

    def test_no_folder(self) -> None:
        """A root that is a file is none."""
        confined = self.confined(read=[self.path(b"in/a")], write=[])
        self.fails(ENOTDIR, confined.stat, b"a")

    def test_moved(self) -> None:
        """A root that is moved stays the folder that was opened, whatever takes its name."""
        confined = self.confined()
        os.rename(self.root, self.path(b"moved"))
        self.link(b"in", b"out")
        self.assertEqual(self.read(confined, b"a"), b"inner")
        self.fails(ENOENT, confined.stat, b"secret")

    def test_whole_system(self) -> None:
        """With / as root `..` stays at /, and absolute links go on."""
        confined = self.confined(read=[b"/"], write=[b"/"])
        self.link(b"in/absolute", self.path(b"out/secret"))
        for path in (
            b"/../.." + self.path(b"out/secret"),
            b"absolute",
            b"/proc/self/root" + self.path(b"out/secret"),
            b"../" * 30 + self.path(b"out/secret")[1:],
        ):
            self.assertEqual(self.read(confined, path), b"secret", path)
        with confined.at(b"/../..") as place:
            self.assertEqual((place.name, place.path), (b".", b"/"))

    def test_permissions(self) -> None:
        """What the login may not is refused as the system does, told apart from policy."""
        if os.geteuid():
            self.skipTest("needs root")
        os.chmod(self.top, 0o711)
        os.chmod(self.root, 0o755)
        os.chmod(self.path(b"in/d"), 0o700)
        os.chmod(self.path(b"in/a"), 0o600)
        told = self.as_nobody(
            self.confined,
            lambda confined: confined.stat(b"a").st_size,
            lambda confined: confined.open(b"a", os.O_RDONLY),
            lambda confined: confined.stat(b"d/e/f"),
            lambda confined: confined.open(b"new", MAKE),
            lambda confined: confined.stat(self.path(b"out/secret")),
        )
        self.assertEqual(told, ["5", *["PermissionError"] * 3, "Denied"])
        os.chmod(self.top, 0o700)
        told = self.as_nobody(self.confined, lambda confined: confined.stat(b"a"))
        self.assertEqual(told, ["PermissionError"])

    def as_nobody(
        self, make: Callable[[], Confined], *calls: Callable[[Confined], object]
    ) -> list[str]:
        """Return what each call gives in a child that has become another login."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setgid(pwd.getpwnam("nobody").pw_gid)
                os.setuid(pwd.getpwnam("nobody").pw_uid)
                confined = make()
                for call in calls:
                    try:
                        told = str(call(confined))
                    except OSError as error:
                        told = type(error).__name__
                    os.write(writing, told.encode() + b"\n")
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as file:
            told_all = file.read().decode().split()
        os.waitpid(pid, 0)
        return told_all
