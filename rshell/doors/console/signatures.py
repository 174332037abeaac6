"""A handler's JSON schema as a Python signature, and a call's arguments as its request.  Pure.

Schemas come from devices and may be any JSON at all: what is not of the expected kind counts as
absent.  The device decodes strictly whatever is sent; this is for good errors and good help.
"""

from __future__ import annotations

import base64
import inspect
import keyword
from collections.abc import Mapping
from typing import Any

from rshell.access.printable import printable
from rshell.client import Handler, RshellError

__all__ = ["help_of", "request_of", "signature_of"]

#: Arguments of one handler that are looked at.
MAX_ARGUMENTS = 100
#: References that are followed; a schema might refer to itself.
MAX_REFERENCES = 8
#: Types in one annotation.
MAX_ALTERNATIVES = 8
_TYPES: dict[str, str] = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _resolved(kind: Any, whole: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _mapping(kind)
    for _ in range(MAX_REFERENCES):
        reference = found.get("$ref")
        if not isinstance(reference, str):
            break
        found = _mapping(_mapping(whole.get("$defs")).get(reference.rpartition("/")[2]))
    return found


def _properties(schema: Any) -> tuple[dict[str, Mapping[str, Any]], set[str], Mapping[str, Any]]:
    """Return the properties, which of them are required, and the whole."""
    whole = _mapping(schema)
    root = _resolved(whole, whole)
    listed = list(_mapping(root.get("properties")).items())[:MAX_ARGUMENTS]
    required = root.get("required")
    names = {n for n in required if isinstance(n, str)} if isinstance(required, list) else set()
    return {name: _mapping(kind) for name, kind in listed}, names, whole


def _branches(kind: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    resolved = _resolved(kind, whole)
    either = resolved.get("anyOf")
    if not isinstance(either, list):
        return [resolved]
    return [_resolved(one, whole) for one in either[:MAX_ALTERNATIVES]]


def _type_name(kind: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    names: list[str] = []
    for branch in _branches(kind, whole):
        if branch.get("contentEncoding") == "base64":
            names.append("bytes")
        elif isinstance(branch.get("type"), str):
            names.append(_TYPES.get(branch["type"], "Any"))
        else:
            names.append("Any")
    return " | ".join(dict.fromkeys(names))


class _Word:
    """Something that `inspect.Signature` shows as it is."""

    def __init__(self, text: str) -> None:
        self._text = printable(text, 60)

    def __repr__(self) -> str:
        return self._text


def signature_of(handler: Handler) -> inspect.Signature:
    """Return how a handler is called, its own arguments first."""
    properties, required, whole = _properties(handler.schema)
    names = [name for name in properties if name.isidentifier() and not keyword.iskeyword(name)]
    names.sort(key=lambda name: name not in required)
    parameters = []
    for name in names:
        kind = properties[name]
        default = kind.get("default")
        shown = inspect.Parameter.empty if name in required else _Word(repr(default))
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=shown,
                annotation=_Word(_type_name(kind, whole)),
            )
        )
    return inspect.Signature(parameters)


def help_of(handler: Handler) -> str:
    """Return a handler's signature and summary, safe to show."""
    words = [f"{printable(handler.name, 64)}{signature_of(handler)}", f"    {handler.summary}"]
    properties, _, _ = _properties(handler.schema)
    for name, kind in properties.items():
        description = kind.get("description")
        if isinstance(description, str):
            words.append(f"    {printable(name, 64)}: {' '.join(description.split())}")
    words.append("    and login=…, timeout=… (seconds), input=… (bytes)")
    if not handler.allowed:
        words.append("    The device's policy does not allow it: it would be refused.")
    return "\n".join(printable(word, 400) for word in words)


def request_of(
    handler: Handler, positional: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a handler's request.

    Raises:
        RshellError: Code ``bad-request``: an unknown or a missing argument.
    """
    properties, required, whole = _properties(handler.schema)
    order = list(signature_of(handler).parameters)
    given = dict(zip(order, positional, strict=False))
    if len(positional) > len(order):
        raise _bad(handler, f"{len(positional)} arguments, of at most {len(order)}")
    for name, value in named.items():
        if name in given:
            raise _bad(handler, f"{name} is given twice")
        if properties and name not in properties:
            raise _bad(handler, f"there is no argument {printable(name, 64)!r}")
        given[name] = value
    missing = sorted(name for name in required if name not in given)
    if missing:
        raise _bad(handler, f"missing: {', '.join(missing)}")
    return {name: _sent(value, properties.get(name, {}), whole) for name, value in given.items()}


def _bad(handler: Handler, text: str) -> RshellError:
    usage = printable(f"{handler.name}{signature_of(handler)}", 400)
    return RshellError("bad-request", f"{handler.name}: {text}", usage)


def _sent(value: Any, kind: Mapping[str, Any], whole: Mapping[str, Any]) -> Any:
    """Return a value as JSON has it: bytes, and text where bytes belong, as base64."""
    for branch in _branches(kind, whole):
        if isinstance(value, str) and branch.get("contentEncoding") == "base64":
            return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        items = branch.get("items")
        if isinstance(value, list | tuple) and isinstance(items, dict):
            return [_sent(one, items, whole) for one in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
