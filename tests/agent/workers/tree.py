"""A folder tree with an inside and an outside, and a `Confined` over it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.workers.confined import Confined, Denied

MAKE = os.O_WRONLY | os.O_CREAT


class TreeCase(SynchronousTestCase):
    """A folder `self.top` with `in` (a root, as a rule) and `out` (what must not be reached)."""

    def setUp(self) -> None:
        self.top = os.path.realpath(tempfile.mkdtemp(prefix="confined-")).encode()
        self.addCleanup(shutil.rmtree, self.top, ignore_errors=True)
        self.root, self.outside = self.path(b"in"), self.path(b"out")
        os.mkdir(self.root)
        os.mkdir(self.outside)
        self.fill(b"in/a", b"inner")
        self.fill(b"in/d/e/f", b"deep")
        self.fill(b"out/secret", b"secret")
        self.made: list[Confined] = []

    def tearDown(self) -> None:
        for confined in self.made:
            confined.close()
        links = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists
                links.append(os.readlink(b"/proc/self/fd/" + number.encode()))
        self.assertEqual([link for link in links if link.startswith(self.top)], [])

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.top, name)

    def fill(self, name: bytes, data: bytes) -> None:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    def link(self, name: bytes, text: bytes) -> None:
        os.symlink(text, self.path(name))

    def confined(
        self,
        read: list[bytes] | None = None,
        write: list[bytes] | None = None,
        home: bytes | None = None,
        step: Callable[[bytes], None] | None = None,
        deny_read: tuple[bytes, ...] = (),
        deny_write: tuple[bytes, ...] = (),
        **more: int,
    ) -> Confined:
        def texts(paths: list[bytes] | tuple[bytes, ...]) -> list[str]:
            return [os.fsdecode(path) for path in paths]

        made = Confined(
            texts([self.root] if read is None else read),
            texts([self.root] if write is None else write),
            home=home or self.root,
            step=step or (lambda name: None),
            deny_read=texts(deny_read),
            deny_write=texts(deny_write),
            max_file_size=more.get("max_file_size", 0),
            setid=bool(more.get("setid", 0)),
        )
        self.made.append(made)
        return made

    def read(self, confined: Confined, path: bytes, follow: bool = True) -> bytes:
        fd = confined.open(path, os.O_RDONLY, follow=follow)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)

    def denied(self, call: Callable[..., object], *args: object, **named: object) -> None:
        error = self.assertRaises(Denied, call, *args, **named)
        self.assertNotIsInstance(error, PermissionError)
        self.assertIn("the device's policy does not allow", error.strerror)

    def fails(self, number: int, call: Callable[..., object], *args: object, **n: object) -> None:
        error = self.assertRaises(OSError, call, *args, **n)
        self.assertNotIsInstance(error, Denied)
        self.assertEqual(error.errno, number, error)
