"""A handler's schema as a signature, and arguments as a request."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import Handler, RshellError
from rshell.doors.console.signatures import help_of, request_of, signature_of
from rshell.handlers import ExecRequest, TailRequest, describe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def handler(kind: Any) -> Handler:
    described = describe("some", "What it does.", kind, "normal")
    return Handler(name="some", summary=described.summary, schema=described.schema)


class SignatureTests(SynchronousTestCase):
    def test_built_in(self) -> None:
        """Required arguments come first, types and defaults are told."""
        text = str(signature_of(handler(TailRequest)))
        self.assertIn("paths: list = []", text)
        self.assertIn("lines: int | None = None", text)
        self.assertIn("line: bytes | None = None", str(signature_of(handler(ExecRequest))))

    def test_request(self) -> None:
        """Text becomes bytes where bytes belong, also in lists."""
        request = request_of(handler(ExecRequest), (), {"argv": ["echo", b"\xff"], "timeout_ms": 5})
        self.assertEqual(request, {"argv": ["ZWNobw==", "/w=="], "timeout_ms": 5})
        self.assertEqual(request_of(handler(ExecRequest), (["id"],), {}), {"argv": ["aWQ="]})

    def test_bad_calls(self) -> None:
        """Unknown, missing, repeated and superfluous arguments are told, with the usage."""
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        one = Handler(name="one", schema=schema)
        for positional, named, text in (
            ((), {}, "missing: a"),
            ((1,), {"a": 1}, "given twice"),
            ((1, 2), {}, "2 arguments"),
            ((1,), {"b\x1b": 1}, "no argument 'b\ufffd'"),
        ):
            with self.assertRaises(RshellError) as caught:
                request_of(one, positional, named)
            self.assertIn(text, caught.exception.message)
            self.assertEqual(caught.exception.hint, "one(a: int)")

    @given(JSON)
    def test_hostile_schemas(self, schema: Any) -> None:
        """Any JSON is a schema: nothing raises, and what is shown is printable."""
        for shape in (schema, {"properties": schema}, {"properties": {"x": schema}}):
            told = Handler(name="n\x1b", summary="s\x07", schema=shape)
            for line in help_of(told).splitlines():
                self.assertTrue(line.isprintable(), line)
