"""The request of the handler ``files``; all else is in the stream (docs/files.md)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["FilesRequest"]


class FilesRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Opens a session of the files protocol, of which there is one version."""

    version: Literal[1] = 1
