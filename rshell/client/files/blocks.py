"""Blocks of the files protocol: plain bytes, zlib, or zstd where Python has it (FT10).  Pure."""

from __future__ import annotations

import functools
import importlib
import zlib
from typing import Any

from rshell.client.files.frames import MAX_PLAIN

__all__ = ["BadBlock", "available", "pack", "unpack"]

_RAW, _ZLIB, _ZSTD = range(3)
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 3


class BadBlock(ValueError):
    """A block that cannot be unpacked, or holds more than a block may."""


@functools.cache
def _zstd() -> Any | None:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


def available() -> tuple[str, ...]:
    """Return the names of what this machine can do, best first."""
    return ("zstd", "zlib") if _zstd() else ("zlib",)


def pack(data: bytes | memoryview, compress: str = "") -> bytes:
    """Return a block; data that does not shrink by a twentieth goes as it is.

    Args:
        data: At most `MAX_PLAIN` bytes.
        compress: One of `available`, or "".
    """
    if compress:
        zstd = _zstd() if compress == "zstd" else None
        packed = zstd.compress(data, _ZSTD_LEVEL) if zstd else zlib.compress(data, _ZLIB_LEVEL)
        if len(packed) <= len(data) - len(data) // 20:
            return bytes([_ZSTD if zstd else _ZLIB]) + packed
    return b"".join((b"\0", data))


def unpack(block: bytes) -> bytes | memoryview:
    """Return a block's plain bytes.

    Raises:
        BadBlock: It is none.
    """
    kind, data = block[:1], memoryview(block)[1:]
    plain: bytes | memoryview
    if kind == b"\0":
        plain = data
    elif kind == b"\1":
        plain = _unpack(zlib.decompressobj(), data)
    elif kind == b"\2" and (zstd := _zstd()):
        plain = _unpack(zstd.ZstdDecompressor(), data)
    else:
        raise BadBlock("a block of an unknown compression")
    if len(plain) > MAX_PLAIN:
        raise BadBlock("a block that unpacks to more than 1 MiB")
    return plain


def _unpack(unpacker: Any, data: memoryview) -> bytes:
    try:
        plain: bytes = unpacker.decompress(data, MAX_PLAIN + 1)
    except Exception:  # each library has an error of its own
        raise BadBlock("a block that cannot be unpacked") from None
    if len(plain) <= MAX_PLAIN and not unpacker.eof:
        raise BadBlock("a block that is cut off")
    return plain
