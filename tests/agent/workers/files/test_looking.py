"""hello, stat, statvfs, walk and glob (docs/files.md FT12 to FT21)."""

from __future__ import annotations

import os
import socket
from base64 import b64decode

from tests.agent.workers.files.driver import FilesCase


class StatTests(FilesCase):
    def test_greeting(self) -> None:
        """The worker tells its version, the home and what policy allows (FT16)."""
        self.policy = {"read": ["/", "/srv"], "write": ["~"]}
        told = self.ask("hello").last
        self.assertEqual(1, told["version"])
        self.assertEqual(os.fsencode(self.home), b64decode(told["home"]))
        self.assertIn("zlib", told["compress"])
        self.assertEqual(["/", "/srv"], told["read"])
        self.assertEqual([str(self.home)], told["write"])
        self.assertGreater(told["free_floor"], 0)

    def test_kinds(self) -> None:
        """Files, directories, links and all else are told apart, links by their text (FT12)."""
        (self.home / "file").write_bytes(b"12345")
        (self.home / "link").symlink_to("file")
        (self.home / "dangling").symlink_to("nothing")
        os.mkfifo(self.home / "fifo")
        os.chmod(self.home / "file", 0o4751)
        entry = self.ask("stat", path=b"file").last["entry"]
        self.assertEqual(("file", 5, 0o4751), (entry["kind"], entry["size"], entry["mode"]))
        self.assertNotIn("target", entry)
        self.assertEqual("file", self.ask("stat", path=b"link").last["entry"]["kind"])
        link = self.ask("stat", path=b"link", follow=False).last["entry"]
        self.assertEqual(("link", b"file"), (link["kind"], b64decode(link["target"])))
        self.assertEqual("dir", self.ask("stat", path=b"~").last["entry"]["kind"])
        self.assertEqual("other", self.ask("stat", path=b"fifo").last["entry"]["kind"])
        self.assertEqual("not-found", self.ask("stat", path=b"dangling").code)
        self.assertEqual(
            "link", self.ask("stat", path=b"dangling", follow=False).last["entry"]["kind"]
        )

    def test_room(self) -> None:
        """The room of the file system is told, for a directory and for a file in it (FT21)."""
        (self.home / "file").touch()
        for path in (b"~", b"file"):
            told = self.ask("statvfs", path=path).last
            self.assertGreater(told["size"], told["free"])
            self.assertGreater(told["floor"], 0)


class WalkTests(FilesCase):
    def tree(self) -> None:
        for name in ("b/2", "b/1", "a/x/y", "a/z"):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(name)
        (self.home / "c").symlink_to("a")

    def test_recursive(self) -> None:
        """A tree is told with directories before their content and names sorted (FT18)."""
        self.tree()
        paths = self.ask("walk", path=b"~", recursive=True).paths
        self.assertEqual([b"", b"a", b"b", b"c", b"a/x", b"a/z", b"a/x/y", b"b/1", b"b/2"], paths)

    def test_flat(self) -> None:
        """Without recursion a directory and what is directly in it are told; so by max_depth."""
        self.tree()
        self.assertEqual([b"", b"a", b"b", b"c"], self.ask("walk", path=b"~").paths)
        deep = self.ask("walk", path=b"~", recursive=True, max_depth=2).paths
        self.assertEqual([b"", b"a", b"b", b"c", b"a/x", b"a/z", b"b/1", b"b/2"], deep)
        none = self.ask("walk", path=b"~", recursive=True, max_depth=0).paths
        self.assertEqual([b""], none)

    def test_root_link(self) -> None:
        """A link at the root is followed or told as itself; none below is followed."""
        self.tree()
        self.assertEqual([b"", b"x", b"z"], self.ask("walk", path=b"c").paths)
        told = self.ask("walk", path=b"c", recursive=True, follow_root=False)
        self.assertEqual(["link"], [item["kind"] for item in told.items])

    def test_pages(self) -> None:
        """Many entries come in pages of at most 500, and long names in smaller ones (FT18)."""
        for number in range(1100):
            (self.home / f"{number:04}{'n' * 200}").touch()
        told = self.ask("walk", path=b"~")
        self.assertEqual(1101, len(told.items))
        self.assertLessEqual(len(told.first["entries"]), 500)

    def test_unreadable(self) -> None:
        """What policy hides is noted, and the rest is told (FT18)."""
        self.tree()
        self.policy["deny_read"] = [str(self.home / "a")]
        told = self.ask("walk", path=b"~", recursive=True)
        self.assertIn(b"b/1", told.paths)
        self.assertNotIn(b"a/z", told.paths)
        self.assertEqual([b"a"], [b64decode(note["path"]) for note in told.notes])

    def test_any_name(self) -> None:
        """Names that are no UTF-8, hold control characters or are long are told as they are."""
        names = [b"\xff\xfe", b"a\nb", b"\x1b[2J", b"n" * 255, " ünï".encode()]
        for name in names:
            with open(os.path.join(os.fsencode(self.home), name), "wb"):
                pass
        self.assertEqual([b"", *sorted(names)], self.ask("walk", path=b"~").paths)

    def test_socket(self) -> None:
        """Sockets and FIFOs are told as other, without being opened."""
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.getcwd()
            os.chdir(self.home)
            try:
                listening.bind("s")
            finally:
                os.chdir(here)
            told = self.ask("walk", path=b"~")
        self.assertEqual(["dir", "other"], [item["kind"] for item in told.items])

    def test_deep(self) -> None:
        """A tree that is deeper than a path may be ends in a note, not in an error."""
        here = os.open(self.home, os.O_RDONLY)
        for _ in range(300):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
        told = self.ask("walk", path=b"~", recursive=True)
        self.assertGreater(len(told.items), 200)
        self.assertEqual(1, len(told.notes))


class GlobTests(FilesCase):
    def setUp(self) -> None:
        super().setUp()
        for name in ("a.log", "b.log", ".hidden.log", "sub/c.log", "sub/in/d.log", "sub/[x].txt"):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).touch()
        (self.home / "link").symlink_to("sub")

    def found(self, pattern: bytes) -> list[bytes]:
        answer = self.ask("glob", pattern=pattern)
        self.assertEqual("", answer.code, answer)
        return answer.paths

    def test_patterns(self) -> None:
        """Patterns match as a shell's do (FT19)."""
        for pattern, expected in (
            (b"*.log", [b"a.log", b"b.log"]),
            (b"?.log", [b"a.log", b"b.log"]),
            (b"[!a].log", [b"b.log"]),
            (b".*.log", [b".hidden.log"]),
            (b"s*/*.log", [b"sub/c.log"]),
            (b"*/c.log", [b"link/c.log", b"sub/c.log"]),
            (b"**/*.log", [b"a.log", b"b.log", b"sub/c.log", b"sub/in/d.log"]),
            (b"**/in/**/*.log", [b"sub/in/d.log"]),
            (b"sub/**", [b"sub/[x].txt", b"sub/c.log", b"sub/in", b"sub/in/d.log"]),
            (b"sub/[[]x].txt", [b"sub/[x].txt"]),
            (b"*/", [b"link/", b"sub/"]),
            (b"sub//*.log", [b"sub/c.log"]),
            (b"a.log", [b"a.log"]),
            (b"missing", []),
            (b"missing/*", []),
            (b"a.log/*", []),
            (b"~/*.log", [b"~/a.log", b"~/b.log"]),
            (self.path("*.log"), [self.path("a.log"), self.path("b.log")]),
        ):
            self.assertEqual(expected, self.found(pattern), pattern)

    def test_characters(self) -> None:
        """A question mark is one character, also of several bytes, and of no UTF-8."""
        (self.home / "é").touch()
        with open(os.path.join(os.fsencode(self.home), b"\xff"), "wb"):
            pass
        self.assertEqual(["é".encode(), b"\xff"], self.found(b"?"))

    def test_too_much(self) -> None:
        """A pattern that is absurd is refused."""
        self.assertEqual("bad-request", self.ask("glob", pattern=b"**/" * 9).code)
        self.assertEqual("bad-request", self.ask("glob", pattern=b"*/" * 300).code)

    def test_policy(self) -> None:
        """What policy hides does not match."""
        self.policy = {"read": [str(self.home / "sub")], "write": []}
        self.assertEqual([], self.found(b"*.log"))
        self.assertEqual([b"sub/c.log"], self.found(b"sub/*.log"))
