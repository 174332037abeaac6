"""Requests as they go into an OPEN.  Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import FieldInfo

from rshell.client.errors import Refused
from rshell.link.core.constants import MAX_OFFSET
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Positions, Welcome, encode

__all__ = ["check_deadline", "check_size", "encode_request"]

#: What an OPEN can say: 34 years.
_MAX_TIMEOUT_MS = 2**40
#: Types of requests whose fields are kept; a program uses a few.
_MAX_TYPES = 64


def check_size(opening: Open) -> None:
    """Refuse what would not fit into one frame, also when it is opened again later.

    Raises:
        Refused: It would not.
    """
    largest = msgspec.structs.replace(
        opening,
        attempt=2**31,
        age_ms=MAX_OFFSET,
        resume=Positions(MAX_OFFSET, MAX_OFFSET, MAX_OFFSET),
    )
    try:
        encode(largest)
    except LocalProtocolError as error:
        raise Refused(ErrorCode.BAD_REQUEST.value, str(error)) from None


def check_deadline(seconds: float, welcome: Welcome | None) -> None:
    """Refuse a time limit that makes no sense, or that the gateway does not know (rule O7).

    Raises:
        Refused: So it is.
    """
    if not 0 < seconds * 1000 <= _MAX_TIMEOUT_MS:
        raise Refused(ErrorCode.BAD_REQUEST.value, f"{seconds:g} s is no time limit", "")
    if welcome is not None and "deadline" not in welcome.features:
        raise Refused(
            ErrorCode.VERSION.value,
            "the gateway is too old to pass a time limit on",
            "upgrade it, or leave --timeout out",
        )


def encode_request(request: Any) -> dict[str, Any]:
    """Return a handler's request as JSON values: a `msgspec.Struct` or a dict; bytes as base64."""
    if isinstance(request, dict):
        built: dict[str, Any] = msgspec.to_builtins(request)
        return built
    # What equals its default is left out: a device may be older than this client.
    encoded: dict[str, Any] = msgspec.to_builtins(request)
    kind: Any = type(request)
    for field in _fields(kind):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if default is not msgspec.NODEFAULT and getattr(request, field.name) == default:
            del encoded[field.encode_name]
    return encoded


@lru_cache(_MAX_TYPES)
def _fields(kind: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    """Return what msgspec knows of a type; it reads every annotation anew each time."""
    return msgspec.structs.fields(kind)
