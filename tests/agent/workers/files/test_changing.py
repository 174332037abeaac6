"""mkdir, symlink, setmeta, rename and remove (docs/files.md FT34, FT35)."""

from __future__ import annotations

import os
import stat
from base64 import b64decode

from tests.agent.workers.files.driver import FilesCase


class ChangeTests(FilesCase):
    def mode(self, name: str) -> int:
        return stat.S_IMODE(os.stat(self.home / name).st_mode)

    def test_mkdir(self) -> None:
        """A directory is made with the mode asked for, whatever the umask."""
        self.assertEqual({"created": True}, self.ask("mkdir", path=b"d", mode=0o777).last)
        self.assertEqual(0o777, self.mode("d"))
        self.assertEqual({"created": True}, self.ask("mkdir", path=b"e/").last)
        self.assertEqual(0o755, self.mode("e"))
        self.assertEqual({"created": True}, self.ask("mkdir", path=b"s", mode=0o6755).last)
        self.assertEqual(0o755, self.mode("s"), "set-id bits are not for uploads")

    def test_mkdir_parents(self) -> None:
        """Missing parents are made if asked for, and only then."""
        self.assertEqual("not-found", self.ask("mkdir", path=b"a/b/c").code)
        self.assertEqual({"created": True}, self.ask("mkdir", path=b"a/b/c", parents=True).last)
        self.assertTrue((self.home / "a/b/c").is_dir())
        (self.home / "f").touch()
        self.assertEqual("not-a-directory", self.ask("mkdir", path=b"f/x", parents=True).code)
        self.assertEqual("not-a-directory", self.ask("mkdir", path=b"f/x/y", parents=True).code)

    def test_mkdir_exists(self) -> None:
        """What exists already is an error unless it was expected, and is a directory."""
        self.ask("mkdir", path=b"d")
        (self.home / "f").touch()
        (self.home / "link").symlink_to("d")
        self.assertEqual("exists", self.ask("mkdir", path=b"d").code)
        for path in (b"d", b"link", b".", b"~", b"/", b"d/.."):
            self.assertEqual({"created": False}, self.ask("mkdir", path=path, exist_ok=True).last)
        self.assertEqual("exists", self.ask("mkdir", path=b"f", exist_ok=True).code)

    def test_symlink(self) -> None:
        """A link says what it was told, wherever that leads."""
        self.assertEqual({}, self.ask("symlink", path=b"l", target=b"/no/where\xff").last)
        self.assertEqual(b"/no/where\xff", os.readlink(self.path("l")))
        self.assertEqual("exists", self.ask("symlink", path=b"l", target=b"x").code)
        self.assertEqual({}, self.ask("symlink", path=b"l", target=b"x", replace=True).last)
        self.assertEqual(b"x", os.readlink(self.path("l")))
        (self.home / "d").mkdir()
        answer = self.ask("symlink", path=b"d", target=b"x", replace=True)
        self.assertEqual("is-a-directory", answer.code)
        self.assertEqual(["d", "l"], self.names())

    def test_setmeta(self) -> None:
        """Mode and time of files and directories can be set; of a link only the time."""
        (self.home / "f").touch()
        (self.home / "d").mkdir()
        (self.home / "l").symlink_to("f")
        for name in ("f", "d"):
            told = self.ask("setmeta", path=name.encode(), mode=0o4700, mtime_ns=10**18).last
            self.assertEqual((0o700, 10**18), (told["entry"]["mode"], told["entry"]["mtime_ns"]))
            self.assertEqual(0o700, self.mode(name))
        self.assertEqual("", self.ask("setmeta", path=b"l", mode=0o600, mtime_ns=5).code)
        self.assertEqual(5, os.lstat(self.home / "l").st_mtime_ns)
        self.assertEqual(10**18, os.stat(self.home / "f").st_mtime_ns)
        self.assertEqual(0o700, self.mode("f"))
        self.assertEqual("", self.ask("setmeta", path=b"l", mode=0o600, follow=True).code)
        self.assertEqual(0o600, self.mode("f"))
        os.mkfifo(self.home / "fifo")
        self.assertEqual("not-a-file", self.ask("setmeta", path=b"fifo", mode=0o600).code)

    def test_rename(self) -> None:
        """A name changes; one that is taken only if asked for."""
        (self.home / "a").write_bytes(b"a")
        (self.home / "b").write_bytes(b"b")
        answer = self.ask("rename", from_=b"a", to=b"b")
        self.assertEqual(("exists", b"b"), (answer.code, b64decode(answer.last["path"])))
        self.assertEqual({}, self.ask("rename", from_=b"a", to=b"c").last)
        self.assertEqual({}, self.ask("rename", from_=b"c", to=b"b", replace=True).last)
        self.assertEqual(b"a", (self.home / "b").read_bytes())
        self.assertEqual("not-found", self.ask("rename", from_=b"x", to=b"y").code)


class RemoveTests(FilesCase):
    def tree(self) -> None:
        for name in ("t/a/x", "t/b", "t/c/d/e"):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).touch()

    def test_one(self) -> None:
        """A file and a link go by name; the link's target stays."""
        (self.home / "f").touch()
        (self.home / "l").symlink_to("f")
        self.assertEqual({"removed": 1}, self.ask("remove", path=b"l").last)
        self.assertEqual(["f"], self.names())
        self.assertEqual({"removed": 1}, self.ask("remove", path=b"f").last)
        self.assertEqual("not-found", self.ask("remove", path=b"f").code)
        self.assertEqual({"removed": 0}, self.ask("remove", path=b"f", missing_ok=True).last)

    def test_tree(self) -> None:
        """A directory goes with all that is in it, if asked for."""
        self.tree()
        self.assertEqual("is-a-directory", self.ask("remove", path=b"t").code)
        self.assertEqual({"removed": 7}, self.ask("remove", path=b"t", recursive=True).last)
        self.assertEqual([], self.names())

    def test_links_are_not_followed(self) -> None:
        """Links in a tree are removed, what they lead to is not."""
        self.tree()
        (self.home / "safe").mkdir()
        (self.home / "safe" / "f").touch()
        (self.home / "t" / "link").symlink_to("../safe")
        (self.home / "t" / "abs").symlink_to(self.home / "safe")
        self.assertEqual("", self.ask("remove", path=b"t", recursive=True).code)
        self.assertTrue((self.home / "safe" / "f").exists())
        (self.home / "link").symlink_to("safe")
        self.assertEqual({"removed": 1}, self.ask("remove", path=b"link", recursive=True).last)
        self.assertTrue((self.home / "safe" / "f").exists())

    def test_unnameable(self) -> None:
        """The root, what is named by dots, and a root of the policy cannot be removed."""
        self.tree()
        for path in (b"/", b".", b"..", b"~", b"~/", b"t/.", b"t/a/..", b"//", b"./", b"t/./"):
            answer = self.ask("remove", path=path, recursive=True)
            self.assertEqual("bad-request", answer.code, path)
        self.policy["write"] = [str(self.home)]
        answer = self.ask("remove", path=os.fsencode(self.home), recursive=True)
        self.assertEqual("policy", answer.code)
        self.assertTrue(self.home.exists())

    def test_denied_within(self) -> None:
        """What policy denies within a tree stays, and stops the removal."""
        self.tree()
        self.policy["deny_write"] = [str(self.home / "t" / "c" / "d" / "e")]
        answer = self.ask("remove", path=b"t", recursive=True)
        self.assertEqual("policy", answer.code)
        self.assertEqual(b"t/c/d/e", b64decode(answer.last["path"]))
        self.assertTrue((self.home / "t/c/d/e").exists())

    def test_deep(self) -> None:
        """A tree that is too deep is refused with its place, and ours can go on."""
        here = os.open(self.home, os.O_RDONLY)
        for _ in range(400):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
        self.assertEqual("name-too-long", self.ask("remove", path=b"d", recursive=True).code)
