"""Requests as they go into an OPEN.  Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from rshell.client.errors import Refused
from rshell.link.core.constants import MAX_OFFSET
from rshell.link.core.errors import ErrorCode, LocalProtocolError
from rshell.link.core.messages import Open, Positions, encode

__all__ = ["check_size", "encode_request"]


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


def encode_request(request: Any) -> dict[str, Any]:
    """Return a handler's request as JSON values: a `msgspec.Struct` or a dict; bytes as base64."""
    if isinstance(request, dict):
        built: dict[str, Any] = msgspec.to_builtins(request)
        return built
    # What equals its default is left out: a device may be older than this client.
    encoded: dict[str, Any] = msgspec.to_builtins(request)
    for field in msgspec.structs.fields(request):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if default is not msgspec.NODEFAULT and getattr(request, field.name) == default:
            del encoded[field.encode_name]
    return encoded
