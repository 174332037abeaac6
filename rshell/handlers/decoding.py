"""From an untyped request map to a handler's own request type."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

__all__ = ["BadRequest", "decode_request"]

Request = TypeVar("Request", bound=msgspec.Struct)


class BadRequest(ValueError):
    """A request that does not fit the handler's type; the text is fit for an operator."""


def decode_request(request: dict[str, Any], kind: type[Request]) -> Request:
    """Return ``request`` as a ``kind``.

    Raises:
        BadRequest: A key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        return msgspec.convert(request, kind, strict=True, builtin_types=())
    except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
        raise BadRequest("".join(c if c.isprintable() else "?" for c in str(error))[:240]) from None
