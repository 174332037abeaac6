"""Requests as they go into an OPEN, and what each costs."""

from __future__ import annotations

import sys

from msgspec import Struct, field
from twisted.trial.unittest import SynchronousTestCase

from rshell.client.requests import encode_request
from rshell.handlers import ExecRequest


class _Wanted(Struct):
    path: bytes
    depth: int = 3
    names: list[str] = field(default_factory=list)
    renamed: bool = field(default=False, name="other")


class RequestTests(SynchronousTestCase):
    def test_defaults_are_left_out(self) -> None:
        """What equals its default is not sent: a device may be older than this client."""
        self.assertEqual(encode_request(_Wanted(b"/")), {"path": "Lw=="})
        full = _Wanted(b"/", 4, ["a"], True)
        told = {"path": "Lw==", "depth": 4, "names": ["a"], "other": True}
        self.assertEqual(encode_request(full), told)
        self.assertEqual(encode_request({"of": b"/"}), {"of": "Lw=="})

    def test_types_are_read_once(self) -> None:
        """A second request of a type calls next to no Python: its annotations are known."""
        request = ExecRequest(argv=[b"/bin/true"])
        encode_request(request)
        calls = 0

        def seen(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(seen)
        try:
            encode_request(request)
        finally:
            sys.setprofile(before)
        self.assertLessEqual(calls, 3)
