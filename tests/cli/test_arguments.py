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

#: The words that mean something in a schema, so that nonsense lands where it is looked at.
KEYWORDS = st.sampled_from(
    ["$ref", "$defs", "properties", "required", "anyOf", "enum", "const", "type", "items"]
) | st.sampled_from(["minimum", "maximum", "contentEncoding", "a", "b"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["#/$defs/a", "#/$defs/b", "a", "b", "base64"])
    | st.sampled_from(["array", "object", "integer", "number", "boolean", "string", "null"])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.text(max_size=2), inner)
    ),
    max_leaves=25,
)
HOSTILE = JSON | st.fixed_dictionaries(
    {"properties": st.dictionaries(st.sampled_from("ab"), JSON)},
    optional={"$defs": st.dictionaries(st.sampled_from("ab"), JSON), "required": JSON},
)
WORDS = st.sampled_from(["a=1", "b=x", "a=[1]", "a={}", "b:=[]", "a=", "b=[", "a=-5", "b=true"])


class BuildTests(SynchronousTestCase):
    def build(self, *words: str) -> dict[str, Any]:
        return build_request(words, SCHEMA)

    def test_branching_without_end(self) -> None:
        """A schema that branches without end costs little to describe."""
        branches = [{"type": "array", "items": {"$ref": "#/$defs/a"}} for _ in range(16)]
        enum = {"enum": [f"{n}" + "x" * 1000 for n in range(32)]}
        schema = {
            "$defs": {"a": {"anyOf": [*branches[:15], enum]}},
            "properties": {f"p{n}": {"$ref": "#/$defs/a"} for n in range(2000)},
        }
        text = describe_arguments(schema)
        self.assertLessEqual(len(text), 401)
        self.assertIn("p0=", text)

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

    @given(HOSTILE, st.lists(WORDS, max_size=3))
    def test_any_schema(self, schema: Any, words: list[str]) -> None:
        """Any JSON as a schema gives a request or BadArgument, and a description."""
        try:
            build_request(words, schema)
        except BadArgument:
            pass
        self.assertLessEqual(len(describe_arguments(schema)), 400)

    def test_hostile_schemas(self) -> None:
        """What is no object or list where one belongs counts as an empty one."""
        schemas: tuple[Any, ...] = (
            5,
            None,
            {"properties": 5},
            {"properties": {"a": 5}},
            {"$defs": [], "$ref": "#/$defs/A"},
            {"$defs": {"A": 7}, "properties": {"a": {"$ref": "#/$defs/A"}}},
            {"properties": {"a": {"anyOf": 5, "enum": {"x": 1}}}, "required": 5},
            {"properties": {"a": {"anyOf": [5]}}, "required": [["a"], {}]},
            {"properties": {"a": {"type": [{}, []]}}},
        )
        for schema in schemas:
            self.assertEqual(build_request(["a=1"], schema), {"a": "1"}, schema)
            self.assertIn(describe_arguments(schema), ("", "[a=any]", "[a=any|any]"))
        bounded = {"properties": {"a": {"type": "integer", "minimum": "x", "maximum": []}}}
        self.assertEqual(build_request(["a=1"], bounded), {"a": 1})

    def test_schema_without_a_bottom(self) -> None:
        """Lists of lists without end, sixteen ways at each step, are neither followed nor tried."""
        endless = {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/A"}] * 500}}
        schema = {"$defs": {"A": endless}, "properties": {"a": {"$ref": "#/$defs/A"}}}
        self.assertTrue(describe_arguments(schema).startswith("[a="))
        error = self.assertRaises(BadArgument, build_request, ["a=x"], schema)
        self.assertIn("list of lists", str(error))
        self.assertEqual(build_request(["a=[[]]"], schema), {"a": [[]]})

    def test_choices(self) -> None:
        """The values of an enumeration are written as in JSON, text without its quotes."""
        schema = {"properties": {"a": {"enum": [1, True, None, "x", {"y": [2]}]}}}
        self.assertEqual(describe_arguments(schema), '[a=1|true|null|x|{"y":[2]}]')
        for word, value in (("a=1", 1), ("a=true", True), ("a=null", None), ("a=x", "x")):
            self.assertIs(build_request([word], schema)["a"], value)

    def test_what_json_cannot_carry(self) -> None:
        """Text that is no UTF-8, and numbers that are none, are refused here."""
        for words in (
            ["path=x", "name=caf\udce9"],
            ["path=x", "ratio=nan"],
            ["path=x", "ratio=inf"],
        ):
            self.assertRaises(BadArgument, build_request, words, SCHEMA)
        self.assertRaises(BadArgument, build_request, ["caf\udce9=x"], {})
        self.assertRaises(BadArgument, build_request, ["a:=" + "[" * 5000 + "]" * 5000], {})

    def test_description(self) -> None:
        """A listing tells required arguments, types and choices."""
        text = describe_arguments(SCHEMA)
        self.assertTrue(text.startswith("path=bytes [count=integer]"), text)
        self.assertIn("[mode=fast|slow]", text)
        self.assertIn("[tags=text...]", text)
