"""What opens an SFTP session; all else is on its stream, in SFTP's own packets (docs/sftp.md)."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["SftpRequest"]


class SftpRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An SFTP session; ``read_only`` refuses whatever would change something."""

    read_only: bool = False
