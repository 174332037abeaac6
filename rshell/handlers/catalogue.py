"""How a device describes its handlers, so that any door can call them with typed arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from rshell.link.core.constants import WEIGHT_BULK, WEIGHT_INTERACTIVE, WEIGHT_NORMAL

__all__ = [
    "MAX_CATALOGUE_BYTES",
    "PRIORITIES",
    "HandlerDescription",
    "catalogue_digest",
    "describe",
    "encode_catalogue",
]

#: A handler's priority class and the weight its streams have on a link (rule Q1).
PRIORITIES: Final[dict[str, int]] = {
    "interactive": WEIGHT_INTERACTIVE,
    "normal": WEIGHT_NORMAL,
    "bulk": WEIGHT_BULK,
}


#: Twenty handlers with long schemas; a gateway takes no larger one.
MAX_CATALOGUE_BYTES = 64 * 1024


class HandlerDescription(Struct, frozen=True, omit_defaults=True):
    """One entry of a catalogue.

    ``schema`` is the JSON schema (draft 2020-12) of the handler's request, ``result`` that of its
    outcome's result, ``events`` those of its events by their kinds.  ``allowed`` is false for a
    handler that the device has and its policy does not name; of that nothing else is told.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9.-]{0,63}\Z")]
    summary: Annotated[str, Meta(max_length=200)]
    schema: dict[str, Any]
    priority: Annotated[str, Meta(max_length=16)] = "normal"
    allowed: bool = True
    result: dict[str, Any] | None = None
    events: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


def describe(
    name: str,
    summary: str,
    request_type: type[Struct],
    priority: str,
    result_type: type | None = None,
    event_types: Mapping[str, type] | None = None,
) -> HandlerDescription:
    """Return the catalogue entry of a handler."""
    return HandlerDescription(
        name,
        summary,
        msgspec.json.schema(request_type),
        priority,
        result=None if result_type is None else msgspec.json.schema(result_type),
        events={kind: msgspec.json.schema(of) for kind, of in (event_types or {}).items()},
    )


def encode_catalogue(entries: Iterable[HandlerDescription]) -> bytes:
    """Return the catalogue's canonical bytes: sorted by name, keys in order."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    return msgspec.json.encode(ordered, order="sorted")


def catalogue_digest(encoded: bytes) -> str:
    """Return what HELLO carries: SHA-256 of the canonical bytes, in hexadecimal."""
    return hashlib.sha256(encoded).hexdigest()
