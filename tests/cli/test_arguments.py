"""key=value words by a handler's schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.arguments import BadArgument, build_request, describe_arguments
from rshell.handlers import ExecRequest, decode_request


class Sample(Struct, forbid_unknown_fields=True):
    path: bytes
    count: Annotated[int, Meta(ge=1, le=10)] | None = None
    ratio: float = 1.0
    force: bool = False
    name: str = ""
    mode: Literal["fast", "slow"] = "fast"
    tags: list[str] = []
    options: dict[str, int] = {}


SCHEMA = msgspec.json.schema(Sample)


class BuildTests(SynchronousTestCase):
    def build(self, *words: str) -> dict[str, Any]:
        return build_request(words, SCHEMA)

    def test_types(self) -> None:
        """Each value is typed as the schema says; bytes become base64."""
        built = self.build(
            "path=/tmp/ü", "count=3", "ratio=0.5", "force=yes", "name=12", "mode=slow",
            "tags=a", "tags=b", 'options={"x":1}',
        )  # fmt: skip
        self.assertEqual(
            decode_request(built, Sample),
            Sample("/tmp/ü".encode(), 3, 0.5, True, "12", "slow", ["a", "b"], {"x": 1}),
        )

    def test_raw_json(self) -> None:
        """key:=JSON is taken as it is, also where the schema says text."""
        self.assertEqual(self.build("path=x", "count:=null")["count"], None)
        self.assertEqual(self.build("path=x", 'name:="a=b"')["name"], "a=b")

    def test_values_with_equals_signs(self) -> None:
        """Only the first equals sign divides."""
        self.assertEqual(self.build("path=x", "name=a=b:=c")["name"], "a=b:=c")

    def test_list_as_json(self) -> None:
        """A list may be given as JSON, at once or repeatedly."""
        self.assertEqual(self.build("path=x", 'tags=["a","b"]', "tags=c")["tags"], ["a", "b", "c"])

    def test_exec(self) -> None:
        """The real exec handler's list of byte strings is built from repeated words."""
        built = build_request(["argv=ls", "argv=-l"], msgspec.json.schema(ExecRequest))
        self.assertEqual(decode_request(built, ExecRequest).argv, [b"ls", b"-l"])
        built = build_request(['argv=["ls","-l"]'], msgspec.json.schema(ExecRequest))
        self.assertEqual(decode_request(built, ExecRequest).argv, [b"ls", b"-l"])

    def test_refused(self) -> None:
        """Words that do not fit are refused with the reason."""
        for words, reason in (
            (["path"], "key=value"),
            (["=x"], "key=value"),
            ([":=x"], "key=value"),
            (["path=x", "color=red"], "there are: path"),
            (["count=3"], "missing: path"),
            (["path=x", "count=many"], "whole number"),
            (["path=x", "count=11"], "1 to 10"),
            (["path=x", "ratio=x"], "a number"),
            (["path=x", "force=perhaps"], "true or false"),
            (["path=x", "mode=medium"], "one of"),
            (["path=x", "options=1"], "object"),
            (["path=x", "options={"], "JSON"),
            (["path=x", "count:=3x"], "JSON"),
            (["path=x", "path=y"], "twice"),
        ):
            error = self.assertRaises(BadArgument, build_request, words, SCHEMA)
            self.assertIn(reason, str(error))

    def test_without_a_schema(self) -> None:
        """A handler without a schema takes any key, as text."""
        self.assertEqual(build_request(["a=1"], {}), {"a": "1"})

    def test_schema_that_refers_to_itself(self) -> None:
        """A hostile schema ends in an answer, not in a loop."""
        schema = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
        self.assertEqual(build_request(["a=1"], schema), {"a": "1"})

    @given(st.lists(st.text(max_size=20), max_size=4))
    def test_any_words(self, words: list[str]) -> None:
        """Any words give a request or BadArgument, nothing else."""
        try:
            build_request(words, SCHEMA)
        except BadArgument:
            pass

    def test_description(self) -> None:
        """A listing tells required arguments, types and choices."""
        text = describe_arguments(SCHEMA)
        self.assertTrue(text.startswith("path=bytes [count=integer]"), text)
        self.assertIn("[mode=fast|slow]", text)
        self.assertIn("[tags=text...]", text)
