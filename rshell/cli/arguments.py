"""``key=value`` words, typed by a handler's JSON schema.

Pure.  The device decodes strictly whatever is sent; this gives good errors early, and lets an
operator write ``count=3`` and ``path=/tmp/x`` without thinking of JSON.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from rshell.access.printable import printable

__all__ = ["BadArgument", "build_request", "describe_arguments"]

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


class BadArgument(ValueError):
    """A word does not fit the handler; the text says which and what would."""


def build_request(words: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the request that words spell.

    ``key=value`` is typed by the schema: numbers, true/false, text, bytes (sent as base64), and
    lists by repeating the key.  A list or object may also be given as JSON: ``key=[1,2]``.
    ``key:=JSON`` is taken as it is.

    Args:
        words: of the command line.
        schema: of the handler's request; empty accepts any key, as text.

    Raises:
        BadArgument: a word without ``=``, an unknown or repeated key, or a value of another type.
    """
    root = _resolve(schema, schema)
    properties: dict[str, Any] = root.get("properties", {})
    request: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.rstrip(":"):
            raise BadArgument(f"an argument is written key=value, not {printable(word, 80)!r}")
        raw = key.endswith(":")
        key = key[:-1] if raw else key
        if properties and key not in properties:
            known = ", ".join(printable(name) for name in properties)
            raise BadArgument(f"no argument {printable(key, 80)!r}; there are: {known}")
        kind = properties.get(key, {})
        value = _json(key, text) if raw else _value(key, text, kind, schema)
        listed = _branch(kind, schema, "array") is not None
        if key in request and not (listed and isinstance(value, list) and not raw):
            raise BadArgument(f"{key} is given twice")
        request[key] = [*request[key], *value] if key in request else value
    missing = [name for name in root.get("required", []) if name not in request]
    if missing:
        raise BadArgument(f"missing: {', '.join(printable(name) for name in missing)}")
    return request


def describe_arguments(schema: dict[str, Any]) -> str:
    """Return a handler's arguments in one line: ``path=bytes [lines=integer]``."""
    root = _resolve(schema, schema)
    required = root.get("required", [])
    words = []
    for name, kind in root.get("properties", {}).items():
        word = f"{name}={_type_name(kind, schema)}"
        words.append(word if name in required else f"[{word}]")
    return printable(" ".join(words), 400)


def _resolve(kind: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for _ in range(8):  # a device's schema might refer to itself
        reference = kind.get("$ref")
        if not isinstance(reference, str):
            break
        kind = schema.get("$defs", {}).get(reference.rpartition("/")[2], {})
    return kind


def _branches(kind: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    kind = _resolve(kind, schema)
    if "anyOf" in kind:
        return [_resolve(branch, schema) for branch in kind["anyOf"]]
    types = kind.get("type")
    if isinstance(types, list):
        return [{**kind, "type": name} for name in types]
    return [kind]


def _branch(kind: dict[str, Any], schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    for branch in _branches(kind, schema):
        if branch.get("type") == name:
            return branch
    return None


def _value(key: str, text: str, kind: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Return the value of the first branch of the type that takes the text."""
    branches = [b for b in _branches(kind, schema) if b.get("type") != "null"]
    problem: BadArgument | None = None
    # Text takes anything, so it comes last.
    for branch in sorted(branches, key=lambda b: b.get("type") == "string"):
        try:
            return _typed(key, text, branch, schema)
        except BadArgument as error:
            problem = error
    raise problem or BadArgument(f"{key} takes no value")


def _typed(key: str, text: str, kind: dict[str, Any], schema: dict[str, Any]) -> Any:
    allowed = kind.get("enum") or ([kind["const"]] if "const" in kind else None)
    if allowed is not None:
        for value in allowed:
            if text == str(value):
                return value
        listed = ", ".join(printable(str(value), 40) for value in allowed)
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
            return _array(key, text, kind, schema)
        case "object":
            value = _json(key, text)
            if not isinstance(value, dict):
                raise BadArgument(f"{key} is an object: write {key}={{…}} in JSON")
            return value
        case _:
            return _text(text, kind)


def _text(text: str, kind: dict[str, Any]) -> str:
    if kind.get("contentEncoding") == "base64":
        return base64.b64encode(os.fsencode(text)).decode("ascii")
    return text


def _number(key: str, text: str, kind: dict[str, Any], parse: Any, what: str) -> Any:
    try:
        value = parse(text)
    except ValueError:
        raise BadArgument(f"{key} is {what}, not {printable(text, 40)!r}") from None
    low, high = kind.get("minimum"), kind.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = (
            f"at least {low}" if high is None else f"{low if low is not None else '…'} to {high}"
        )
        raise BadArgument(f"{key} is {bounds}, not {value}")
    return value


def _array(key: str, text: str, kind: dict[str, Any], schema: dict[str, Any]) -> list[Any]:
    if text.startswith("["):
        value = _json(key, text)
        if not isinstance(value, list):
            raise BadArgument(f"{key} is a list")
        items = kind.get("items") or {}
        encoded = isinstance(items, dict) and _resolve(items, schema).get("contentEncoding")
        if encoded == "base64":
            return [
                _text(v, {"contentEncoding": "base64"}) if isinstance(v, str) else v for v in value
            ]
        return value
    items = kind.get("items")
    return [_value(key, text, items if isinstance(items, dict) else {}, schema)]


def _json(key: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise BadArgument(f"{key} is not valid JSON: {printable(text, 40)!r}") from None


def _type_name(kind: dict[str, Any], schema: dict[str, Any]) -> str:
    names = []
    for branch in _branches(kind, schema):
        if "enum" in branch:
            names.append("|".join(str(value) for value in branch["enum"]))
            continue
        name = str(branch.get("type", "any"))
        if name == "null":
            continue
        if name == "string":
            name = "bytes" if branch.get("contentEncoding") == "base64" else "text"
        elif name == "array":
            items = branch.get("items")
            inner = _type_name(items, schema) if isinstance(items, dict) and items else "any"
            name = f"{inner}..."
        names.append(name)
    return "|".join(names) or "any"
