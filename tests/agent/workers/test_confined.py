"""Paths of workers: what is reached, and what is refused."""

from __future__ import annotations

import os
import socket
import stat
from errno import EEXIST, EFBIG, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP

from rshell_agent.workers.confined import MAX_LINKS, Denied
from rshell_agent.workers.trail import MAX_DEPTH
from tests.agent.workers.tree import MAKE, TreeCase


class ReachTests(TreeCase):
    def test_inside(self) -> None:
        """What is beneath a root is reached, by absolute paths and from the login's home."""
        confined = self.confined()
        for path in (
            self.path(b"in/a"),
            self.path(b"in//./a"),
            b"a",
            b"./a",
            b"~/a",
            b"d/../a",
            b"d/e/../../a",
            b"~/d/.././a",
        ):
            self.assertEqual(self.read(confined, path), b"inner", path)
        self.assertEqual(confined.stat(b"~").st_ino, os.stat(self.root).st_ino)
        self.assertEqual(confined.stat(b".").st_ino, os.stat(self.root).st_ino)
        self.assertEqual(confined.stat(b"d/").st_ino, os.stat(self.path(b"in/d")).st_ino)
        self.assertEqual(confined.stat(b"d/e/..").st_ino, os.stat(self.path(b"in/d")).st_ino)

    def test_outside(self) -> None:
        """What is not beneath a root is denied, whatever the text looks like."""
        confined = self.confined()
        for path in (
            b"/",
            b"/etc/passwd",
            b"..",
            b"../out/secret",
            b"d/../../out/secret",
            b"d/e/../../../out/secret",
            b"/../../../etc/passwd",
            self.path(b"in/../out/secret"),
            self.path(b"out/secret"),
            self.path(b"in2"),
            self.path(b"i"),
            self.root + b"/..",
            self.top,
            b"/proc/self/root" + self.path(b"out/secret"),
            b"/proc/self/cwd/x",
            b"/dev/mem",
            b"/proc/1/root/etc/passwd",
        ):
            self.denied(confined.at, path)
            self.denied(confined.open, path, os.O_RDONLY)
            self.denied(confined.open, path, MAKE)
            self.denied(confined.stat, path)
            self.assertFalse(confined.may(path), path)

    def test_malformed(self) -> None:
        """Paths that are none are refused with what is wrong; the root is not touched."""
        confined = self.confined()
        for call in (confined.at, confined.stat):
            self.fails(ENOENT, call, b"")
            self.fails(EINVAL, call, b"a\0b")
            self.fails(EINVAL, call, b"\0")
            self.fails(ENAMETOOLONG, call, b"x/" * 2048 + b"y")
            self.fails(ENAMETOOLONG, call, b"a" * 4097)
            self.fails(ENAMETOOLONG, call, b"x" * 256)
            self.fails(ENAMETOOLONG, call, b"d/" + b"x" * 256 + b"/..")
        self.fails(ENAMETOOLONG, confined.at, b"." + b"/" * 4096)
        self.assertEqual(self.read(confined, b"." + b"/" * 4000 + b"a"), b"inner")

    def test_longest(self) -> None:
        """A name of 255 bytes and a path of 4,096 are in order."""
        confined = self.confined()
        name = b"n" * 255
        os.close(confined.open(name, MAKE))
        self.assertEqual(confined.stat(b"./" * 1920 + b"/" + name).st_size, 0)
        path = b"/" * (4096 - len(self.root) - 2) + b"/a"
        self.assertEqual(self.read(confined, self.root + path), b"inner")

    def test_depth(self) -> None:
        """A path may lead deep, but must not use up a process's descriptors."""
        confined = self.confined()
        with_depth = b"/".join([b"z"] * MAX_DEPTH)
        os.makedirs(os.path.join(self.root, with_depth, b"z"))
        confined.at(with_depth + b"/z").close()
        self.fails(ENAMETOOLONG, confined.at, with_depth + b"/z/z")
        self.assertEqual(self.read(confined, b"d/../" * 800 + b"a"), b"inner")

    def test_missing(self) -> None:
        """A last component need not exist for `at`; its folder must."""
        confined = self.confined()
        with confined.at(b"d/new", write=True, follow=True) as place:
            self.assertEqual((place.name, place.path), (b"new", self.path(b"in/d/new")))
        for call in (confined.at, confined.stat, lambda p: confined.open(p, MAKE)):
            self.fails(ENOENT, call, b"none/new")
        self.fails(ENOENT, confined.stat, b"new")
        self.fails(ENOENT, confined.open, b"new", os.O_RDONLY)
        self.fails(ENOTDIR, confined.at, b"a/new")
        self.fails(ENOTDIR, confined.at, b"a/../a")
        self.assertTrue(confined.may(b"new", write=True))
        self.assertTrue(confined.may(b"none/new"))
        nested = self.confined(write=[self.path(b"in/d")], deny_read=(self.path(b"in/no"),))
        self.assertTrue(nested.may(b"d/none/new", write=True))
        self.assertFalse(nested.may(b"none/new", write=True))
        self.assertFalse(nested.may(b"no/none/new"))
        self.assertFalse(nested.may(b"a\0b"))

    def test_root_itself(self) -> None:
        """A root can be looked at and listed, but not be renamed, replaced or removed."""
        confined = self.confined()
        for path in (self.root, b"~", b"d/..", self.root + b"/"):
            with confined.at(path, write=True) as place:
                self.assertEqual(place.name, b".")
                self.assertEqual(place.path, self.root)
                for call in (place.rmdir, place.unlink, place.mkdir):
                    self.assertRaises(OSError, call)
                with confined.at(b"other", write=True) as other:
                    self.assertRaises(OSError, place.rename_to, other)
                    self.assertRaises(OSError, other.rename_to, place)
        fd = confined.open(b"~", os.O_RDONLY | os.O_DIRECTORY)
        self.assertEqual(sorted(os.listdir(fd)), ["a", "d"])
        os.close(fd)

    def test_names_are_bytes(self) -> None:
        """Names need not be UTF-8, nor printable; what is told of them is."""
        confined = self.confined()
        for name in (b"\xff\xfe", b"new\nline", b"\x1b[2J", "ä€".encode(), b"-rf", b"*", b" "):
            os.close(confined.open(name, MAKE, 0o600))
            self.assertIn(name, os.listdir(self.root))
        error = self.assertRaises(Denied, confined.at, b"/\x1b[2J\xff\n")
        self.assertEqual(error.strerror, "the device's policy does not allow /\\x1b[2J\\xff\\x0a")
        error = self.assertRaises(Denied, confined.at, b"/" + b"y/" * 1500)
        self.assertLess(len(str(error)), 400)


class LinkTests(TreeCase):
    def test_inside(self) -> None:
        """Links are followed where they stay inside, at every component, and by chains."""
        self.link(b"in/to-a", b"a")
        self.link(b"in/to-d", b"d")
        self.link(b"in/d/up", b"../to-a")
        self.link(b"in/d/e/round", b"../../d/e/../up")
        self.link(b"in/dots", b"./d/./e/")
        self.link(b"in/absolute", self.path(b"in/d"))
        confined = self.confined()
        for path, data in (
            (b"to-a", b"inner"),
            (b"to-d/e/f", b"deep"),
            (b"d/up", b"inner"),
            (b"to-d/up", b"inner"),
            (b"to-d/e/round", b"inner"),
            (b"dots/f", b"deep"),
            (b"absolute/e/f", b"deep"),
            (b"absolute/e/../../a", b"inner"),
            (b"to-d/../a", b"inner"),
        ):
            self.assertEqual(self.read(confined, path), data, path)
        self.fails(ELOOP, self.read, confined, b"to-a", False)
        with confined.at(b"to-a") as place:
            self.assertEqual((place.readlink(), stat.S_ISLNK(place.stat().st_mode)), (b"a", True))
        self.assertTrue(stat.S_ISREG(confined.stat(b"to-a").st_mode))
        self.assertTrue(stat.S_ISLNK(confined.stat(b"to-a", follow=False).st_mode))

    def test_outside(self) -> None:
        """A link that leads out is denied at every component, by any kind of text."""
        texts = (
            self.outside,
            b"../out",
            b"d/../../out",
            b"/proc/self/root" + self.outside,
            b"/../../../../" + self.outside[1:],
            b"//" + self.outside[1:],
        )
        for number, text in enumerate(texts):
            name = b"link%d" % number
            self.link(b"in/" + name, text)
            self.link(b"in/d/" + name, b"../" + name)
            self.link(b"in/file-" + name, text + b"/secret")
            confined = self.confined()
            for path in (name + b"/secret", b"d/" + name + b"/secret", b"file-" + name):
                self.denied(confined.open, path, os.O_RDONLY)
                self.denied(confined.open, path, MAKE)
                self.denied(confined.stat, path)
                self.denied(confined.at, path, follow=True)
                self.assertFalse(confined.may(path))
            self.denied(confined.at, name + b"/secret")
            self.denied(confined.at, name + b"/new", write=True)
            confined.at(b"file-" + name, write=True).close()  # the link itself is inside
        with open(self.path(b"out/secret"), "rb") as file:
            self.assertEqual(file.read(), b"secret")
        self.assertEqual(os.listdir(self.outside), [b"secret"])

    def test_of_others_in_shared_folders(self) -> None:
        """In a folder like /tmp a link is followed only if it is ours or the folder's owner's."""
        if os.geteuid():
            return  # only root can make what somebody else has made
        confined = self.confined()
        os.mkdir(self.path(b"in/tmp"))
        os.symlink(b"../a", self.path(b"in/tmp/link"))
        os.symlink(b"../d", self.path(b"in/tmp/dir"))
        for mode, owner, allowed in (
            (0o1777, 0, True),
            (0o1777, 12345, False),
            (0o777, 12345, True),
            (0o1755, 12345, True),
        ):
            os.chmod(self.path(b"in/tmp"), mode)
            for name in (b"in/tmp/link", b"in/tmp/dir"):
                os.chown(self.path(name), owner, owner, follow_symlinks=False)
            for path in (b"tmp/link", b"tmp/dir/e"):
                if allowed:
                    confined.stat(path)
                else:
                    self.assertRaises(PermissionError, confined.stat, path)
            confined.stat(b"tmp/link", follow=False)
        os.chown(self.path(b"in/tmp"), 12345, 12345)
        os.chmod(self.path(b"in/tmp"), 0o1777)
        confined.stat(b"tmp/link")

    def test_loops(self) -> None:
        """Loops and long chains end as the system's do."""
        self.link(b"in/self", b"self")
        self.link(b"in/ping", b"pong")
        self.link(b"in/pong", self.path(b"in/ping"))
        self.link(b"in/grow", b"grow/x")
        self.link(b"in/chain0", b"a")
        for number in range(1, MAX_LINKS + 1):
            self.link(b"in/chain%d" % number, b"chain%d" % (number - 1))
        confined = self.confined()
        for path in (b"self", b"self/x", b"ping", b"ping/x", b"grow", b"chain%d" % MAX_LINKS):
            self.fails(ELOOP, confined.stat, path)
        self.assertEqual(self.read(confined, b"chain%d" % (MAX_LINKS - 1)), b"inner")
        confined.at(b"self").close()

    def test_loops_over_many_roots(self) -> None:
        """The count of links is one for all roots that are tried."""
        self.link(b"in/d/ping", self.path(b"in/d/e/pong"))
        self.link(b"in/d/e/pong", self.path(b"in/d/ping"))
        roots = [self.root, self.path(b"in/d"), self.path(b"in/d/e")]
        steps: list[bytes] = []
        confined = self.confined(read=roots, step=steps.append)
        self.assertRaises(OSError, confined.stat, b"d/e/pong")
        self.assertLess(len(steps), 500)

    def test_dangling(self) -> None:
        """A file can be made through a dangling link, where the link leads inside."""
        self.link(b"in/later", b"d/new")
        self.link(b"in/trap", b"../out/new")
        confined = self.confined()
        self.fails(ENOENT, confined.stat, b"later")
        os.close(confined.open(b"later", MAKE))
        self.assertTrue(os.path.exists(self.path(b"in/d/new")))
        self.denied(confined.open, b"trap", MAKE)
        self.fails(ELOOP, confined.open, b"later", MAKE, follow=False)
        self.fails(ELOOP, confined.open, b"trap", MAKE, follow=False)
        self.fails(EEXIST, confined.open, b"trap", MAKE | os.O_EXCL, follow=False)
        self.assertEqual(os.listdir(self.outside), [b"secret"])

    def test_magic_links(self) -> None:
        """Magic links of /proc are their text only, and lead nowhere else."""
        secret = os.open(self.path(b"out/secret"), os.O_RDONLY)
        number = b"/proc/self/fd/%d" % secret
        self.link(b"in/magic", number)
        self.link(b"in/root", b"/proc/self/root" + self.path(b"out/secret"))
        self.link(b"in/cwd", b"/proc/self/cwd")
        self.link(b"in/task", b"/proc/thread-self/root")
        confined = self.confined(read=[self.root, b"/proc"])
        for path in (b"magic", b"root", b"cwd/x", b"task/etc/passwd", number):
            self.denied(confined.open, path, os.O_RDONLY)
        os.close(secret)
        unlinked = os.open(self.path(b"in/gone"), os.O_RDWR | os.O_CREAT)
        os.unlink(self.path(b"in/gone"))
        confined = self.confined(read=[b"/"])
        for path in (b"/proc/%d/fd/%d" % (os.getpid(), unlinked), b"/proc/self/ns/mnt"):
            self.assertRaises(OSError, confined.open, path, os.O_RDONLY)
        os.close(unlinked)

    def test_own_process(self) -> None:
        """A worker's own process is hidden also where the root is /, under each of its names."""
        confined = self.confined(read=[b"/"], write=[b"/"])
        own = b"/proc/%d/" % os.getpid()
        for path in (
            b"/proc/self/mem",
            b"/proc/self/environ",
            b"/proc/thread-self/maps",
            own + b"mem",
            own + b"task/%d/mem" % os.getpid(),
            b"/proc/1/../self/mem",
            b"/proc/self/fd",
        ):
            self.denied(confined.open, path, os.O_RDONLY)
        self.assertTrue(confined.may(b"/proc/1/status"))
        fd = confined.open(b"/proc/self/root/proc/version", os.O_RDONLY)  # text: / again
        os.close(fd)


class KindTests(TreeCase):
    def test_special_files(self) -> None:
        """FIFOs, sockets and devices are never opened, so nothing blocks and nothing is moved."""
        os.mkfifo(self.path(b"in/fifo"))
        server = socket.socket(socket.AF_UNIX)
        server.bind(self.path(b"in/s"))
        server.close()
        self.link(b"in/to-fifo", b"fifo")
        confined = self.confined()
        for path in (b"fifo", b"s", b"to-fifo"):
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, MAKE, MAKE | os.O_TRUNC):
                self.fails(EOPNOTSUPP, confined.open, path, flags)
            self.assertEqual(confined.stat(path).st_size, 0)
        confined = self.confined(read=[b"/"], write=[b"/"])
        for path in (b"/dev/null", b"/dev/zero", b"/dev/tty"):
            self.fails(EOPNOTSUPP, confined.open, path, os.O_RDWR)

    def test_device_nodes(self) -> None:
        """A device node that lies in a root is no file, either."""
        if os.geteuid():
            self.skipTest("needs root")
        try:
            os.mknod(self.path(b"in/zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            self.skipTest("needs the right to make devices")
        self.fails(EOPNOTSUPP, self.confined().open, b"zero", os.O_RDONLY)

    def test_flags(self) -> None:
        """Descriptors are never inherited, and flags do what they do elsewhere."""
        confined = self.confined()
        fd = confined.open(b"a", os.O_RDWR | os.O_CREAT)
        self.assertFalse(os.get_inheritable(fd))
        os.close(fd)
        self.fails(EEXIST, confined.open, b"a", MAKE | os.O_EXCL)
        fd = confined.open(b"a", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"!")
        os.close(fd)
        self.assertEqual(self.read(confined, b"a"), b"inner!")
        os.close(confined.open(b"a", os.O_WRONLY | os.O_TRUNC))
        self.assertEqual(self.read(confined, b"a"), b"")
        self.fails(ENOTDIR, confined.open, b"a", os.O_RDONLY | os.O_DIRECTORY)
        self.assertRaises(IsADirectoryError, confined.open, b"d", os.O_WRONLY)

    def test_set_id_bits(self) -> None:
        """Files get set-id bits only where the policy says so; other bits as asked for."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        for setid, kept in ((False, 0o1777), (True, 0o7777)):
            confined = self.confined(setid=setid)
            name = b"bits%d" % setid
            os.close(confined.open(name, MAKE, 0o7777))
            self.assertEqual(confined.stat(name).st_mode & 0o7777, kept)
            with confined.at(name, write=True) as place:
                place.chmod(0o6711)
                self.assertEqual(place.stat().st_mode & 0o7777, 0o6711 & kept)
            self.assertEqual(confined.mode(0o104755), 0o4755 & kept)

    def test_hard_links(self) -> None:
        """A hard link in a root is that root's file: nothing tells it from any other."""
        os.link(self.path(b"out/secret"), self.path(b"in/hard"))
        self.assertEqual(self.read(self.confined(), b"hard"), b"secret")
        sealed = self.confined(deny_read=(self.path(b"out/secret"),))
        self.denied(sealed.open, b"hard", os.O_RDONLY)

    def test_size(self) -> None:
        """A file that is larger than allowed is refused before it is begun."""
        confined = self.confined(max_file_size=10)
        confined.check_size(10)
        self.fails(EFBIG, confined.check_size, 11)
        self.confined().check_size(1 << 60)
