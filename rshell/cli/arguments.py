"""``key=value`` words, typed by a handler's JSON schema.

Pure.  The device decodes strictly whatever is sent; this gives good errors early, and lets an
operator write ``count=3`` and ``path=/tmp/x`` without thinking of JSON.

A schema comes from a device and may be any JSON at all: what is no object where one belongs counts
as an empty one, what is no list as an empty list, and neither depth nor width of a schema makes
more work than the limits below allow.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec

from rshell.access.printable import printable

__all__ = [
    "Argument",
    "BadArgument",
    "arguments_of",
    "build_request",
    "describe_arguments",
    "description_of",
]

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})

#: References followed from one type to the next; a schema might refer to itself.
MAX_REFERENCES = 8
#: Lists inside lists; our own handlers have one.
MAX_DEPTH = 3
#: Alternatives of one type.  With `MAX_DEPTH` it bounds the work a schema can make.
MAX_BRANCHES = 16
#: What a listing shows of an enumeration.
#: Of one description; what is beyond reads as "any".
MAX_NAMES = 200
#: Characters of one description.
MAX_DESCRIPTION = 400
MAX_CHOICES = 32

Schema = dict[str, Any]


class BadArgument(ValueError):
    """A word does not fit the handler; the text says which and what would."""


def build_request(words: Sequence[str], schema: Any) -> Schema:
    """Return the request that words spell.

    ``key=value`` is typed by the schema: numbers, true/false, text, bytes (sent as base64), and
    lists by repeating the key.  A list or object may also be given as JSON: ``key=[1,2]``.
    ``key:=JSON`` is taken as it is.

    Args:
        words: of the command line.
        schema: of the handler's request, whatever the device sent; empty accepts any key, as text.

    Raises:
        BadArgument: a word without ``=``, an unknown or repeated key, a value of another type, or
            one that JSON cannot carry.
    """
    whole = _mapping(schema)
    root = _resolve(whole, whole)
    properties = _mapping(root.get("properties"))
    request: dict[str, Any] = {}
    for word in words:
        key, raw, text = _split(word)
        if properties and key not in properties:
            known = ", ".join(printable(name) for name in properties)
            raise BadArgument(f"no argument {printable(key, 80)!r}; there are: {known}")
        kind = properties.get(key)
        value = _json(key, text) if raw else _value(key, text, kind, whole)
        listed = _branch(kind, whole, "array") is not None
        if key in request and not (listed and isinstance(value, list) and not raw):
            raise BadArgument(f"{printable(key, 80)} is given twice")
        request[key] = [*request[key], *value] if key in request else value
    missing = [name for name in _required(root) if name not in request]
    if missing:
        raise BadArgument(f"missing: {', '.join(printable(name) for name in missing)}")
    return _sendable(request)


def _split(word: str) -> tuple[str, bool, str]:
    """Return key, whether the value is JSON, and the value."""
    key, equals, text = word.partition("=")
    raw = key.endswith(":")
    key = key[:-1] if raw else key
    if not equals or not key.rstrip(":"):
        raise BadArgument(f"an argument is written key=value, not {printable(word, 80)!r}")
    return key, raw, text


def _sendable(request: Schema) -> Schema:
    """Return the request if JSON can carry it."""
    for key, value in request.items():
        try:
            msgspec.json.encode({key: value})
        except (ValueError, OverflowError, RecursionError):
            raise BadArgument(f"{printable(key, 80)} is not UTF-8, or too deep") from None
    return request


@attrs.frozen
class Argument:
    """One argument of a handler, or value of its answer, as text that is safe to show.

    Attributes:
        kind: Its type in a word or two.
        default: How an operator would write it; "" if it is empty, or there is none.
        limits: ``1 to 10``, ``at most 64 characters``.
    """

    name: str
    kind: str
    required: bool
    default: str
    description: str
    limits: tuple[str, ...]


def arguments_of(schema: Any) -> list[Argument]:
    """Return a handler's arguments, those that it must have first, at most `MAX_NAMES`.

    Args:
        schema: of the handler's request, whatever the device sent.
    """
    whole = _mapping(schema)
    root = _resolve(whole, whole)
    required, names = set(_required(root)), _Names(whole)
    found = []
    for name, kind in list(_mapping(root.get("properties")).items())[:MAX_NAMES]:
        resolved = _resolve(kind, whole)
        description = _mapping(kind).get("description") or resolved.get("description")
        found.append(
            Argument(
                name=printable(name, 64),
                kind=printable(names.of(kind), 80),
                required=name in required,
                default=_default(_mapping(kind).get("default")),
                description=_sentence(description),
                limits=tuple(_limits(kind, whole)),
            )
        )
    return sorted(found, key=lambda argument: not argument.required)


def description_of(schema: Any) -> list[str]:
    """Return what a request's type says of itself, in paragraphs."""
    whole = _mapping(schema)
    text = _resolve(whole, whole).get("description")
    if not isinstance(text, str):
        return []
    paragraphs = re.split(r"\n\s*\n", text[: 4 * MAX_DESCRIPTION])
    return [said for part in paragraphs if (said := _sentence(part.replace("``", "")))]


def _default(value: Any) -> str:
    return "" if value in (None, "", [], {}) else printable(_spelled(value), 60)


def _sentence(text: Any) -> str:
    return printable(" ".join(text.split()), MAX_DESCRIPTION) if isinstance(text, str) else ""


def _limits(kind: Any, schema: Schema) -> Iterator[str]:
    """Yield what a value must keep to, in words."""
    for branch in _branches(kind, schema)[:MAX_BRANCHES]:
        low, high = _bound(branch.get("minimum")), _bound(branch.get("maximum"))
        if low is not None and high is not None:
            yield f"{low:,} to {high:,}"
        elif low is not None or high is not None:
            yield f"at least {low:,}" if low is not None else f"at most {high:,}"
        for key, unit in (("maxLength", "characters"), ("maxItems", "times")):
            most = _bound(branch.get(key))
            if most is not None and branch.get("contentEncoding") is None:
                yield f"at most {most:,} {unit}"


def describe_arguments(schema: Any) -> str:
    """Return a handler's arguments in one line: ``path=bytes [lines=integer]``.

    Args:
        schema: of the handler's request, whatever the device sent.
    """
    whole = _mapping(schema)
    root = _resolve(whole, whole)
    required = set(_required(root))
    names = _Names(whole)
    words: list[str] = []
    length = 0
    for name, kind in _mapping(root.get("properties")).items():
        if length > MAX_DESCRIPTION:
            break
        word = f"{name[:MAX_DESCRIPTION]}={names.of(kind)}"
        words.append(word if name in required else f"[{word}]")
        length += len(word)
    return printable(" ".join(words), MAX_DESCRIPTION)


def _mapping(value: Any) -> Schema:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _required(root: Schema) -> list[str]:
    return [name for name in _list(root.get("required")) if isinstance(name, str)]


def _resolve(kind: Any, schema: Schema) -> Schema:
    found = _mapping(kind)
    for _ in range(MAX_REFERENCES):
        reference = found.get("$ref")
        if not isinstance(reference, str):
            break
        found = _mapping(_mapping(schema.get("$defs")).get(reference.rpartition("/")[2]))
    return found


def _branches(kind: Any, schema: Schema) -> list[Schema]:
    resolved = _resolve(kind, schema)
    alternatives = _list(resolved.get("anyOf"))[:MAX_BRANCHES]
    if alternatives:
        return [_resolve(branch, schema) for branch in alternatives]
    types = _list(resolved.get("type"))[:MAX_BRANCHES]
    if types:
        return [{**resolved, "type": name} for name in types]
    return [resolved]


def _branch(kind: Any, schema: Schema, name: str) -> Schema | None:
    for branch in _branches(kind, schema):
        if branch.get("type") == name:
            return branch
    return None


def _value(key: str, text: str, kind: Any, schema: Schema, depth: int = 0) -> Any:
    """Return the value of the first branch of the type that takes the text."""
    branches = [b for b in _branches(kind, schema) if b.get("type") != "null"]
    problem: BadArgument | None = None
    # Text takes anything, so it comes last.
    for branch in sorted(branches, key=lambda b: b.get("type") == "string"):
        try:
            return _typed(printable(key, 80), text, branch, schema, depth)
        except BadArgument as error:
            problem = error
    raise problem or BadArgument(f"{printable(key, 80)} takes no value")


def _choices(kind: Schema) -> list[Any]:
    """Return the only values that a type has, or nothing if it has no such list."""
    return _list(kind.get("enum")) or ([kind["const"]] if "const" in kind else [])


def _spelled(value: Any) -> str:
    """Return how an operator writes a value of an enumeration."""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode("utf-8")
    except (ValueError, RecursionError):
        return "…"


def _typed(key: str, text: str, kind: Schema, schema: Schema, depth: int) -> Any:
    allowed = _choices(kind)
    if allowed:
        for value in allowed:
            if text == _spelled(value):
                return value
        listed = ", ".join(printable(_spelled(value), 40) for value in allowed[:MAX_CHOICES])
        raise BadArgument(f"{key} is one of: {listed}")
    match kind.get("type"):
        case "boolean":
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise BadArgument(f"{key} is true or false, not {printable(text, 40)!r}")
        case "integer":
            return _number(key, text, kind, int, "a whole number")
        case "number":
            return _number(key, text, kind, float, "a number")
        case "array":
            return _array(key, text, kind, schema, depth)
        case "object":
            value = _json(key, text)
            if not isinstance(value, dict):
                raise BadArgument(f"{key} is an object: write {key}={{…}} in JSON")
            return value
        case _:
            most = _bound(kind.get("maxLength"))
            if most is not None and "contentEncoding" not in kind and len(text) > most:
                raise BadArgument(f"{key} has at most {most:,} characters, not {len(text):,}")
            return _text(text, kind)


def _text(text: str, kind: dict[str, Any]) -> str:
    if kind.get("contentEncoding") == "base64":
        return base64.b64encode(os.fsencode(text)).decode("ascii")
    return text


def _number(key: str, text: str, kind: Schema, parse: Any, what: str) -> Any:
    try:
        value = parse(text)
    except ValueError:
        raise BadArgument(f"{key} is {what}, not {printable(text, 40)!r}") from None
    # JSON has neither; a whole number is never either, however large.
    if isinstance(value, float) and not math.isfinite(value):
        raise BadArgument(f"{key} is {what}, not {printable(text, 40)!r}")
    low, high = _bound(kind.get("minimum")), _bound(kind.get("maximum"))
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = (
            f"at least {low}" if high is None else f"{low if low is not None else '…'} to {high}"
        )
        raise BadArgument(f"{key} is {bounds}, not {printable(text, 40)}")
    return value


def _bound(value: Any) -> int | float | None:
    return value if isinstance(value, (int, float)) else None


def _array(key: str, text: str, kind: Schema, schema: Schema, depth: int) -> list[Any]:
    items = kind.get("items")
    if text.startswith("["):
        value = _json(key, text)
        if not isinstance(value, list):
            raise BadArgument(f"{key} is a list")
        if _resolve(items, schema).get("contentEncoding") == "base64":
            return [
                _text(v, {"contentEncoding": "base64"}) if isinstance(v, str) else v for v in value
            ]
        return value
    if depth >= MAX_DEPTH:
        raise BadArgument(f"{key} is a list of lists: write {key}:=[…] in JSON")
    return [_value(key, text, items, schema, depth + 1)]


def _json(key: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise BadArgument(f"{key} is not valid JSON: {printable(text, 40)!r}") from None


class _Names:
    """Names types, so many at most: a hostile schema branches without end."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._left = MAX_NAMES

    def of(self, kind: Any, depth: int = 0) -> str:
        """Return how a type reads; "any" once there were too many."""
        names = []
        for branch in _branches(kind, self._schema):
            self._left -= 1
            if self._left < 0:
                names.append("any")
                break
            name = self._of_branch(branch, depth)
            if name:
                names.append(name)
        return "|".join(names) or "any"

    def _of_branch(self, branch: Schema, depth: int) -> str:
        choices = _choices(branch)[:MAX_CHOICES]
        if choices:
            return "|".join(printable(_spelled(value), 40) for value in choices)
        name = branch.get("type", "any")
        if name == "null":
            return ""
        if name == "string":
            return "bytes" if branch.get("contentEncoding") == "base64" else "text"
        if name == "array" and "prefixItems" in branch:
            return "[…]"
        if name == "array":
            items = branch.get("items") if depth < MAX_DEPTH else None
            return f"{self.of(items, depth + 1) if items else 'any'}..."
        return name if isinstance(name, str) else "any"
