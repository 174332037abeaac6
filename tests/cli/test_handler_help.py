"""Help made from a handler's schemas, also from hostile ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct, field
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.arguments import MAX_NAMES, BadArgument, arguments_of, build_request
from rshell.cli.call import _HELP, call
from rshell.cli.handler_help import WIDTH, handler_help
from rshell.client import Handler
from rshell.handlers import describe


class Request(Struct, forbid_unknown_fields=True):
    """What to do.

    ``more`` of it.
    """

    path: Annotated[str, Meta(max_length=10, description="Where to look.")]
    mode: Literal["fast", "slow"] = "fast"
    count: Annotated[int, Meta(ge=1, le=9)] = 3
    ratio: Annotated[float, Meta(ge=0)] | None = None
    names: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)


class Result(Struct):
    total: Annotated[int, Meta(description="Of all.")]


def handler(**more: Any) -> Handler:
    entry = describe("do", "Do it", Request, "normal", Result, {"found": Result})
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return Handler(**{**fields, **more})


class HelpTests(SynchronousTestCase):
    def test_text(self) -> None:
        """Usage, summary, arguments with types, limits, defaults and words, result and events."""
        self.assertEqual(
            """\
Usage: rshell call pump do [OPTIONS] path=text [key=value]...

  Do it

  What to do.

  more of it.

Arguments:
  path=text       Where to look.  [at most 10 characters; required]
  count=integer   [1 to 9; default: 3]
  mode=fast|slow  [default: fast]
  names=text...
  pairs=[…]...
  ratio=number    [at least 0]

Result:
  total=integer  Of all.

Event found:
  total=integer  Of all.

Options of rshell call itself: rshell call --help
""",
            handler_help("pump", handler(schema=ordered(handler().schema))),
        )

    def test_not_allowed(self) -> None:
        """A handler that policy does not name says so."""
        text = handler_help("pump", Handler(name="do", allowed=False))
        self.assertIn("policy does not allow it", text)
        self.assertIn("It takes no arguments.", text)

    @settings(max_examples=60)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["$ref", "$defs", "type", "properties", "anyOf", "items", "enum",
                         "description", "default", "required", "minimum", "maxLength", "a"]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=25,
        )
    )  # fmt: skip
    def test_hostile(self, schema: Any) -> None:
        """Any JSON for a schema gives a help of safe, short lines."""
        text = handler_help("pump", handler(schema=schema, result=schema, events={"e": schema}))
        for line in text.splitlines():
            self.assertTrue(line.isprintable(), line)
            self.assertLessEqual(len(line), 4 * WIDTH)

    def test_bounded(self) -> None:
        """However many arguments, descriptions and defaults there are, the help has an end."""
        wide = {f"a{n}": {"type": "integer", "description": "x " * 9999} for n in range(5000)}
        text = handler_help("pump", handler(schema={"properties": wide}))
        self.assertLess(len(text), 1_000 * MAX_NAMES)
        self.assertEqual(MAX_NAMES, len(arguments_of({"properties": wide})))

    def test_too_long(self) -> None:
        """A text that is longer than the device takes is refused here."""
        error = self.assertRaises(
            BadArgument, build_request, ["path=12345678901"], handler().schema
        )
        self.assertEqual("path has at most 10 characters, not 11", str(error))


def ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as catalogues have it: with keys in order."""
    if isinstance(schema, dict):
        return {key: ordered(schema[key]) for key in sorted(schema)}
    return schema


class OptionTests(SynchronousTestCase):
    def asks(self, *words: str) -> bool:
        return _HELP in call.make_context("call", list(words)).meta

    def test_whose_help(self) -> None:
        """Behind a handler's name --help is about the handler, wherever options of ours stand."""
        for words in (
            ["pump", "do", "--help"],
            ["pump", "do", "-h"],
            ["--timeout", "5", "pump", "do", "a=1", "--help"],
            ["pump", "--as", "root", "do", "--json", "-h"],
        ):
            self.assertTrue(self.asks(*words), words)
        self.assertFalse(self.asks("pump", "do", "a=1"))
        self.assertFalse(self.asks("pump", "do", "--", "--help"))
