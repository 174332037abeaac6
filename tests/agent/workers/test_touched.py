"""What a worker writes down of what it touched: lines, their form, and when they are written."""

from __future__ import annotations

import base64
import errno
import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper.constants import TOUCHED_LINE
from rshell_agent.workers.confined import Denied
from rshell_agent.workers.touched import FLUSH_BYTES, Touches, code_of


class TouchesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.read, write = os.pipe()
        os.set_blocking(self.read, False)
        self.addCleanup(os.close, self.read)
        self.addCleanup(os.close, write)
        self.touches = Touches(write)

    def lines(self) -> list[dict[str, Any]]:
        try:
            data = os.read(self.read, 1 << 16)
        except BlockingIOError:
            return []
        self.assertTrue(data.endswith(b"\n"))
        return [json.loads(line) for line in data.splitlines()]

    def test_lines(self) -> None:
        """A line has what is known and no more, when it is asked for."""
        self.touches.note("put", b"/a", size=3, digest=None)
        self.touches.note("rename", b"/a", b"/b", code="exists")
        self.assertEqual([], self.lines())
        self.touches.flush()
        self.assertEqual(
            [
                {"op": "put", "path": "/a", "size": 3},
                {"op": "rename", "path": "/a", "to": "/b", "code": "exists"},
            ],
            self.lines(),
        )
        self.touches.flush()
        self.assertEqual([], self.lines())

    def test_little_waits(self) -> None:
        """No more than a kilobyte waits: what a SIGKILL may cost."""
        self.touches.note("put", b"/" + b"a" * FLUSH_BYTES)
        self.assertEqual(1, len(self.lines()))

    def test_odd_paths(self) -> None:
        """Bytes that are no text, and text that would not fit, are base64; nothing is too long."""
        for path, raw in (
            (b"/\xff", b"/\xff"),
            (b"/\xed\xa0\x80", b"/\xed\xa0\x80"),
            (b"/" + b"\x01" * 2000, b"/" + b"\x01" * 2000),
        ):
            self.touches.note("get", path)
            self.touches.flush()
            (line,) = self.lines()
            self.assertEqual({"op": "get", "path_b64": base64.b64encode(raw).decode()}, line)
        self.touches.note("get", b"/\xc3\xa9\x1b")
        self.touches.flush()
        self.assertEqual([{"op": "get", "path": "/\xe9\x1b"}], self.lines())
        for byte in (b"x", b"\x01", b"\xff", "\u20ac".encode(), b'"'):
            long = b"/" + byte * 6000
            self.touches.note("symlink", long, long, size=2**62, digest="f" * 64, code="x" * 30)
            data = os.read(self.read, 1 << 16)
            self.assertLess(len(data), TOUCHED_LINE)
            self.assertTrue(json.loads(data)["cut"])

    def test_nobody_listens(self) -> None:
        """Without a keeper that asks, nothing is written, and nothing kept."""
        touches = Touches()
        touches.note("put", b"/" + b"a" * 9000)
        touches.flush()
        self.assertEqual((False, []), (touches.wanted, touches._waiting))

    def test_codes(self) -> None:
        """Policy is told from the system's refusals; odd errors keep their name."""
        for error, code in (
            (Denied(b"/x"), "policy"),
            (OSError(errno.EACCES, ""), "permission"),
            (OSError(errno.ENOENT, ""), "not-found"),
            (OSError(errno.EXDEV, ""), "exdev"),
            (OSError("odd"), "io"),
        ):
            self.assertEqual(code, code_of(error))
