"""From an untyped request map to a handler's own request type."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

__all__ = ["BadRequest", "decode_request"]

Request = TypeVar("Request", bound=msgspec.Struct)

#: What msgspec says about a limit, which is what people run into who paste the wrong thing.
_TOO_LONG = re.compile(r"Expected `(str|bytes|array|object)` of length <= (\d+) - at `\$\.([^`]*)`")
_COUNTED = {"str": "characters", "bytes": "bytes", "array": "entries", "object": "entries"}


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
        text = "".join(c if c.isprintable() else "?" for c in str(error))[:240]
        raise BadRequest(_TOO_LONG.sub(_in_words, text)) from None


def _in_words(found: re.Match[str]) -> str:
    kind, most, where = found.groups()
    return f"{where} is too long: it has at most {most} {_COUNTED[kind]}"
