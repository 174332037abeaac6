"""What the worker tells of the files that it touched (FT37)."""

from __future__ import annotations

import json
import os
from typing import Any

from rshell_agent.workers.touched import Touches
from tests.agent.workers.files.driver import FilesCase, digest_of, put_frames, request_frame


class TouchingTests(FilesCase):
    def setUp(self) -> None:
        super().setUp()
        self.reads, writes = os.pipe()
        os.set_blocking(self.reads, False)
        self.addCleanup(os.close, self.reads)
        self.addCleanup(os.close, writes)
        self.touches = Touches(writes)

    def told(self) -> list[dict[str, Any]]:
        self.touches.flush()
        try:
            data = os.read(self.reads, 1 << 16)
        except BlockingIOError:
            return []
        return [json.loads(line) for line in data.splitlines()]

    def at(self, name: str) -> str:
        return str(self.home / name)

    def test_changes(self) -> None:
        """Each change is told with the place that it reached."""
        self.serve(put_frames(1, b"~/a", b"123"))
        self.ask("rename", from_=b"a", to=b"b")
        self.ask("symlink", path=b"l", target=b"b")
        self.ask("setmeta", path=b"l", mode=0o600, follow=True)
        self.ask("mkdir", path=b"d", mode=0o700)
        self.ask("mkdir", path=b"d", exist_ok=True)
        self.ask("remove", path=b"d", recursive=True)
        self.ask("remove", path=b"nothing", missing_ok=True)
        self.assertEqual(
            [
                {"op": "put", "path": self.at("a"), "size": 3, "digest": digest_of(b"123")},
                {"op": "rename", "path": self.at("a"), "to": self.at("b")},
                {"op": "symlink", "path": self.at("l"), "to": "b"},
                {"op": "setmeta", "path": self.at("b"), "mode": "0600"},
                {"op": "mkdir", "path": self.at("d"), "mode": "0700"},
                {"op": "remove", "path": self.at("d"), "count": 1},
            ],
            self.told(),
        )

    def test_reading(self) -> None:
        """What gives content away is told, by the file that a link leads to; looking is not."""
        (self.home / "a").write_bytes(b"12345")
        (self.home / "l").symlink_to("a")
        self.ask("get", path=b"l", offset=1, length=2)
        self.ask("signature", path=b"l", block=512)
        for op in ("stat", "walk", "digest"):
            self.ask(op, path=b"l")
        self.ask("hello")
        self.assertEqual(
            [
                {"op": "get", "path": self.at("a"), "size": 2, "digest": digest_of(b"23")},
                {"op": "signature", "path": self.at("a")},
            ],
            self.told(),
        )

    def test_failures(self) -> None:
        """What failed is told with its code; a request that names nothing touched nothing."""
        self.policy = {"read": [str(self.home)], "write": [str(self.home / "w")]}
        (self.home / "w").mkdir()
        for op, fields in (
            ("get", {"path": b"/etc/shadow"}),
            ("get", {"path": b"nothing"}),
            ("remove", {"path": b"x"}),
            ("rename", {"from_": b"w/a", "to": b"x"}),
            ("get", {}),
            ("nonsense", {"path": b"x"}),
        ):
            self.ask(op, **fields)
        self.assertEqual(
            [
                {"op": "get", "path": "/etc/shadow", "code": "policy"},
                {"op": "get", "path": self.at("nothing"), "code": "not-found"},
                {"op": "remove", "path": self.at("x"), "code": "policy"},
                {"op": "rename", "path": self.at("w/a"), "to": self.at("x"), "code": "policy"},
            ],
            self.told(),
        )

    def test_before_the_answer(self) -> None:
        """A name is written before the answer that tells its operator that it is done."""
        seen: list[int] = []
        (self.home / "a").write_bytes(b"1")
        self.sent = lambda _: seen.append(len(os.read(self.reads, 1 << 16)))
        self.ask("remove", path=b"a")
        self.assertGreater(seen[0], 0)

    def test_broken_off(self) -> None:
        """A file that is being read when the worker is ended is told as unfinished."""
        (self.home / "a").write_bytes(b"1" * 500_000)
        self.sent = lambda _: self.touches.before_end()
        self.serve(request_frame(1, "get", {"path": b"a"}))
        first, *_, last = self.told()
        self.assertEqual({"op": "get", "path": self.at("a"), "code": "unfinished"}, first)
        self.assertEqual(500_000, last["size"])
