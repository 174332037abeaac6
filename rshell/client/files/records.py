"""What the files protocol tells: entries and errors."""

from __future__ import annotations

import base64
import os
from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta, Struct

from rshell.access.printable import printable
from rshell.client.errors import RshellError

__all__ = ["ADVICE", "Entry", "FilesError", "Hello"]

_Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: What utimensat(2) and our own arithmetic take: the years 1678 to 2261 (FT25).
_Nanoseconds = Annotated[int, Meta(ge=-(2**63 - 1), le=2**63 - 1)]


class _WireEntry(Struct, frozen=True):
    """An entry as it comes; keys that we do not know are for a newer client."""

    path: bytes
    kind: Literal["file", "dir", "link", "other"]
    size: _Size
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    mtime_ns: _Nanoseconds
    uid: int
    gid: int
    owner: str
    group: str
    nlink: int
    inode: int
    dev: int
    blocks: int
    target: bytes = b""


@attrs.frozen(kw_only=True)
class Entry:
    """What a path of a device is.

    Attributes:
        path: Relative to what was asked for; ``b""`` is that itself.
        kind: ``file``, ``dir``, ``link`` or ``other``.
        size: Bytes.
        mode: The lower 12 bits.
        mtime_ns: Nanoseconds since 1970.
        owner: Name of ``uid``, "" if the device has none.
        blocks: What it takes on disk, in units of 512 bytes.
        target: What a link says.
    """

    path: bytes = b""
    kind: str = "file"
    size: int = 0
    mode: int = 0
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    owner: str = ""
    group: str = ""
    nlink: int = 1
    inode: int = 0
    dev: int = 0
    blocks: int = 0
    target: bytes = b""

    @classmethod
    def decode(cls, value: Any) -> Entry:
        """Return the entry in a map.

        Raises:
            FilesError: Code ``protocol``: there is none.
        """
        try:
            wire = msgspec.convert(value, _WireEntry, strict=True, builtin_types=())
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise FilesError("protocol", f"the device sent a bad entry: {error}") from None
        return cls(**{name: getattr(wire, name) for name in wire.__struct_fields__})


class Hello(Struct, frozen=True):
    """What the device's worker is.

    Attributes:
        home: Of the login.
        login: Its name.
        compress: Compressions that it knows, best first.
        read: Roots of the device's policy.
        write: Likewise.
        free_floor: Bytes that uploads leave free in the home's file system.
    """

    version: int
    home: bytes
    login: str
    compress: list[str] = []
    umask: int = 0o022
    read: list[str] = []
    write: list[str] = []
    free_floor: int = 0

    @classmethod
    def decode(cls, value: Any) -> Hello:
        """Return a worker's greeting.

        Raises:
            FilesError: Code ``protocol``: it is none.
        """
        try:
            return msgspec.convert(value, cls, strict=True, builtin_types=())
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            text = f"the device's greeting cannot be read: {error}"
            raise FilesError("protocol", text) from None


class FilesError(RshellError):
    """A request that a device did not do.

    Attributes:
        code: Of docs/files.md FT15, or that of the session's end (``lost``, ``policy`` …).
        path: What it is about, if the device said it.
    """

    def __init__(
        self, code: str, message: str, path: bytes | None = None, hint: str | None = None
    ) -> None:
        self.path = path
        super().__init__(code, message, ADVICE.get(code, "") if hint is None else hint)

    @classmethod
    def decode(cls, answer: dict[str, Any]) -> FilesError:
        """Return the error in an ERROR's map, whatever a device put in there."""
        code, message, path = (answer.get(name) for name in ("code", "message", "path"))
        try:
            about = base64.b64decode(path, validate=True) if isinstance(path, str) else b""
        except ValueError:
            about = b""
        return cls(str(code or "io"), str(message or code or "no reason given"), about or None)

    @property
    def shown_path(self) -> str:
        """The path as it may be shown; "" without one."""
        return printable(os.fsdecode(self.path), 300) if self.path else ""


#: What to do next, where that does not depend on the case.
ADVICE = {
    "policy": "see [policy] read and write in the device's agent.toml",
    "permission": "another account may be allowed to: --as LOGIN",
    "no-space": "see what there is with: rshell run DEVICE -- df -h",
    "changed": "ask again: the file was being written",
}
