"""The data of files as it goes over the wire: each piece plain or compressed for itself.

The first byte of a DATA payload says which.  Whether a file is compressed at all is decided by a
sample of its beginning: most large files of this world are compressed already.  zstd comes with
Python 3.14, before that from ``backports.zstd``; it is imported when the first piece needs it.

What it is not: a way to make the operator's memory explode: what does not fit is refused before
it is unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from rshell.client.errors import RshellError

__all__ = ["MAX_PLAIN_BYTES", "RAW", "ZLIB", "ZSTD", "Compression", "negotiate", "unpack"]

RAW, ZLIB, ZSTD = 0, 1, 2
#: A piece's plain bytes, in either direction.
MAX_PLAIN_BYTES = 1024 * 1024
#: Enough to tell text from video, in well under a millisecond.
SAMPLE_BYTES = 32 * 1024
#: A sample has to shrink to this share at most.
WORTH = 0.9
#: Speed counts: the link is no slow modem and the device no large machine.
ZLIB_LEVEL, ZSTD_LEVEL = 1, 1

_CODES = {"zlib": ZLIB, "zstd": ZSTD}


def _zstd() -> Any:
    """Return the zstd module; None where there is none."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef, unused-ignore]  # before 3.14
        except ImportError:
            return None
    return zstd


def negotiate(wanted: str, offered: Sequence[str]) -> str | None:
    """Return the compression to use with a device.

    Args:
        wanted: ``auto``, ``none``, ``zstd`` or ``zlib``.
        offered: What the device can do.

    Returns:
        ``zstd``, ``zlib``, or None for none.

    Raises:
        RshellError: Code ``unsupported``: what was asked for by name is not there.
    """
    if wanted == "none":
        return None
    ours = [name for name in ("zstd", "zlib") if name in offered]
    if "zstd" in ours and _zstd() is None:
        ours.remove("zstd")
    if wanted == "auto":
        return ours[0] if ours else None
    if wanted not in ours:
        where = "this machine" if wanted in offered else "the device"
        raise RshellError("unsupported", f"{where} has no {wanted}", "use --compress auto, or zlib")
    return wanted


def unpack(payload: bytes | memoryview) -> bytes | memoryview:
    """Return the plain bytes of a DATA payload.

    Raises:
        ValueError: It is damaged, of an unknown kind, or too large.
    """
    if not payload:
        raise ValueError("a piece without its first byte")
    kind, body = payload[0], memoryview(payload)[1:]
    if kind == RAW:
        plain: bytes | memoryview = body
    elif kind == ZLIB:
        try:
            plain = _unpack(zlib.decompressobj(), body)
        except zlib.error as error:
            raise ValueError(f"a piece that cannot be unpacked: {error}") from None
    elif kind == ZSTD:
        plain = _unpack_zstd(body)
    else:
        raise ValueError(f"a piece packed in an unknown way ({kind})")
    if len(plain) > MAX_PLAIN_BYTES:
        raise ValueError("a piece that is too large")
    return plain


def _unpack_zstd(body: memoryview) -> bytes:
    zstd = _zstd()
    if zstd is None:
        raise ValueError("a piece packed by zstd, which is not installed here")
    try:
        return _unpack(zstd.ZstdDecompressor(), body)
    except zstd.ZstdError as error:
        raise ValueError(f"a piece that cannot be unpacked: {error}") from None


def _unpack(unpacker: Any, body: memoryview) -> bytes:
    plain: bytes = unpacker.decompress(body, MAX_PLAIN_BYTES + 1)
    if len(plain) <= MAX_PLAIN_BYTES and not unpacker.eof:
        raise ValueError("a piece that is cut off")
    return plain


class Compression:
    """Packs the pieces of one file.

    Args:
        name: ``zstd``, ``zlib`` or None.
        by_sample: Whether the first piece decides if it is worth it; else all are tried.
    """

    def __init__(self, name: str | None, by_sample: bool) -> None:
        self._name = name
        self._by_sample = by_sample and name is not None

    def pack(self, payload: bytearray | bytes) -> bytes | bytearray:
        """Return a DATA payload.

        Args:
            payload: One byte of room for the flag (0), then the plain bytes.
        """
        if self._name is None:
            return payload
        plain = memoryview(payload)[1:]
        if self._by_sample:
            self._by_sample = False
            sample = plain[:SAMPLE_BYTES]
            if len(self._packed(sample)) > WORTH * len(sample):
                self._name = None
                return payload
        packed = self._packed(plain)
        if len(packed) >= len(plain):
            return payload
        return bytes((_CODES[self._name],)) + packed

    def _packed(self, plain: memoryview) -> bytes:
        if self._name == "zlib":
            return zlib.compress(plain, ZLIB_LEVEL)
        packed: bytes = _zstd().compress(plain, ZSTD_LEVEL)
        return packed
