"""What people build on ssh: rsync, git, tar, head and sshfs, into and out of a device."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.functional.interop.openssh import quoted
from tests.functional.processes import environment, require, state, until
from tests.functional.test_ssh_transfer import TransferCase


def tree(base: Path) -> Path:
    """Make a folder of all kinds of things that are copied."""
    rng = random.Random(5)
    top = base / "tree"
    for n in range(20):
        path = top / f"d{n % 4}" / f"file {n} é"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 5000, 300_000))))
        path.chmod(0o640 if n % 2 else 0o755)
    (top / "link").symlink_to("d0")
    (top / "empty").mkdir()
    return top


class ToolTests(TransferCase):
    @property
    def rsh(self) -> str:
        """What tools take for ssh."""
        return " ".join(str(word) for word in ["ssh", *self.fleet.options()])

    def assert_same(self, left: Path, right: Path) -> None:
        """Check that two trees are equal, modes and links too."""
        require("rsync")
        command = ["rsync", "-anci", "--delete", f"{left}/", f"{right}/"]
        self.assertEqual(b"", self.fleet.command(command).stdout)

    def ok(self, *command: str, **options: object) -> bytes:
        done = self.fleet.command(list(command), **options)  # type: ignore[arg-type]  # as given
        self.assertEqual(0, done.status, done)
        return done.stdout

    def test_rsync(self) -> None:
        """A tree goes there and back by rsync, and the second time next to nothing is sent."""
        require("rsync")
        top, away, back = tree(self.base), self.base / "away", self.base / "back"
        there = f"pump-1@127.0.0.1:{away}/"
        self.ok("rsync", "-a", "-e", self.rsh, f"{top}/", there)
        self.assert_same(top, away)
        self.ok("rsync", "-a", "-e", self.rsh, there, f"{back}/")
        self.assert_same(top, back)
        (away / "d1" / "new").write_text("new")
        (away / "link").unlink()
        told = self.ok("rsync", "-ai", "--delete", "-e", self.rsh, f"{top}/", there)
        self.assertIn(b"*deleting   d1/new", told)
        self.assertNotIn(b"file", told)
        self.assert_same(top, away)

    def test_git(self) -> None:
        """git clones from, pushes to and fetches from a repository on a device."""
        require("git")
        away, work, second = self.base / "away.git", self.base / "work", self.base / "second"
        self.ok("git", "init", "-q", "--bare", "-b", "main", str(away))
        environ = {
            **{f"GIT_{who}_NAME": "ann" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "ann@example.net" for who in ("AUTHOR", "COMMITTER")},
            "GIT_SSH_COMMAND": self.rsh,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        url = f"pump-1@127.0.0.1:{away}"
        self.ok("git", "init", "-q", "-b", "main", str(work))
        (work / "big").write_bytes(os.urandom(1_000_000))
        for words in (
            ("add", "big"), ("commit", "-qm", "one"), ("push", "-q", url, "main"),
        ):  # fmt: skip
            self.ok("git", "-C", str(work), *words, environ=environ)
        self.ok("git", "clone", "-q", url, str(second), environ=environ)
        (second / "more").write_text("more")
        for words in (("add", "more"), ("commit", "-qm", "two"), ("push", "-q")):
            self.ok("git", "-C", str(second), *words, environ=environ)
        self.ok("git", "-C", str(work), "pull", "-q", url, "main", environ=environ)
        self.assert_same(work / "big", second / "big")
        self.assertEqual("more", (work / "more").read_text())

    def test_tar(self) -> None:
        """A tree goes through tar on both sides of an ssh, either way."""
        top, away, back = tree(self.base), self.base / "away", self.base / "back"
        away.mkdir()
        back.mkdir()
        there = quoted(self.fleet.ssh_command("pump-1", f"tar x -C {away}"))
        self.ok("sh", "-c", f"tar c -C {top} . | {there}")
        self.assert_same(top, away)
        here = quoted(self.fleet.ssh_command("pump-1", f"tar c -C {away} ."))
        self.ok("sh", "-c", f"{here} | tar x -C {back}")
        self.assert_same(top, back)

    def test_head(self) -> None:
        """A command whose output nobody reads on ends, be `head` on this side or on the device."""
        note = self.base / "pid"
        endless = quoted(self.fleet.ssh_command("pump-1", f"echo $$ > {note}; exec yes"))
        self.assertEqual(b"y\n" * 3, self.ok("sh", "-c", f"{endless} | head -n 3"))
        pid = int(note.read_text())
        until(lambda: state(pid) in ("", "Z"), "the end of yes on the device")
        self.assertEqual(
            b"y\n" * 3, self.ok(*map(str, self.fleet.ssh_command("pump-1", "yes | head -n 3")))
        )

    def test_sshfs(self) -> None:
        """A folder of a device is mounted, written to and read, where there is FUSE."""
        require("sshfs")
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR))
        except OSError as error:
            raise SkipTest(f"no FUSE on this machine: {error.strerror}") from None
        away, here = self.base / "away", self.base / "mounted"
        away.mkdir()
        here.mkdir()
        options = [str(word) for word in self.fleet.options()][2:]
        words = ["sshfs", "-F", "/dev/null", *options, f"pump-1@127.0.0.1:{away}", str(here)]
        mounted = self.fleet.command(words)
        if b"fusermount" in mounted.stderr or b"fuse:" in mounted.stderr:
            raise SkipTest(f"FUSE is not for us here: {mounted.stderr.decode()}")
        self.assertEqual(0, mounted.status, mounted)
        self.addCleanup(self._unmount, here)
        data = os.urandom(3_000_000)
        (here / "folder").mkdir()
        (here / "folder" / "file").write_bytes(data)
        (here / "folder" / "file").rename(here / "renamed")
        self.assertEqual(data, (away / "renamed").read_bytes())
        (away / "other").write_text("from there")
        self.assertEqual("from there", (here / "other").read_text())
        (here / "other").unlink()
        self.assertEqual(["folder", "renamed"], sorted(os.listdir(away)))

    def _unmount(self, here: Path) -> None:
        # Lazily: a mount that hangs must not keep the test's folder, nor the test.
        subprocess.run(
            ["fusermount3", "-uz", str(here)], check=False, env=environment(self.fleet.base)
        )
