"""What a device tells its gateway of the files that a session touched (``gateway.touched``).

The names come from the device, which may lie: they say what its workers did, and stand in the
audit log as its own words.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct, field

__all__ = ["FEATURE", "HANDLERS", "MAX_PARTS", "Touched", "TouchedReport", "path_text"]

#: Announced by both ends of a link: the agent tells, and the gateway writes down.
FEATURE = "touched"
#: Sessions of these handlers have such reports.
HANDLERS = frozenset({"files", "sftp"})
#: Rows of the audit log for one session: a keeper tells at most 10,000 names, and long ones need
#: a row each two.
MAX_PARTS = 10_000
_MAX_NUMBER = 2**63 - 1

Word = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
Path = Annotated[str, Meta(max_length=4096)]
RawPath = Annotated[bytes, Meta(max_length=4096)]
Number = Annotated[int, Meta(ge=0, le=_MAX_NUMBER)]


class Touched(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was done, or that failed.

    Attributes:
        op: ``get``, ``put``, ``remove``, ``rename``, ``link``, ``symlink``, ``mkdir``, ``setmeta``
            or ``signature``; others may follow.
        path: To what; ``path_b64`` if it is no text. Without symbolic links where that is known.
        to: The new name, or what a symbolic link says.
        size: Bytes that were moved, or that the file has.
        digest: BLAKE2b-256 of the content, hexadecimal, where it is known.
        mode: Four octal digits.
        count: How many things were removed.
        code: Why it failed.
        cut: A path is longer than was told.
    """

    op: Word
    path: Path = ""
    path_b64: RawPath = b""
    to: Path = ""
    to_b64: RawPath = b""
    size: Number | None = None
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    mode: Annotated[str, Meta(pattern=r"^[0-7]{4}\Z")] | None = None
    count: Number | None = None
    code: Annotated[str, Meta(max_length=32)] | None = None
    cut: bool = False


class TouchedReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of what a session touched; told again until it is answered.

    Attributes:
        session: Whose; it began through this fleet's gateways, on this device.
        n: Counts the parts of the session from 1.
        left_out: By operation, how many things are not named: there were too many.
    """

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    n: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    files: Annotated[list[Touched], Meta(max_length=128)] = field(default_factory=list)
    left_out: Annotated[dict[Word, Number], Meta(max_length=32)] = field(default_factory=dict)


def path_text(entry: Mapping[str, Any], key: str = "path") -> str:
    """Return a path of an entry as text; bytes that are none are written as ``\\xff``."""
    text = entry.get(key)
    if isinstance(text, str) and text:
        return text
    raw = entry.get(key + "_b64")
    if not isinstance(raw, str):
        return ""
    try:
        return base64.b64decode(raw, validate=True).decode("utf-8", "backslashreplace")
    except (binascii.Error, ValueError):
        return ""
