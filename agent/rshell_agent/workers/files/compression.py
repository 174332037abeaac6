"""Compressed blocks (docs/files.md FT10): zlib, and zstd where the device has it.

Python has zstd from 3.14 on; before that libzstd itself is called, by its two one-shot functions.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from rshell_agent.workers.files import system
from rshell_agent.workers.files.faults import Fault
from rshell_agent.workers.files.frames import MAX_PLAIN

__all__ = ["RAW", "ZLIB", "ZSTD", "Packer", "available", "unpack"]

RAW, ZLIB, ZSTD = range(3)
#: Devices are slow: the lowest level of zlib, and zstd's own default for speed.
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 1
#: After a block that did not shrink, so many are sent as they are at most before the next try.
_MAX_SKIP = 32


class _Zstd(NamedTuple):
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


def _from_python() -> _Zstd | None:
    try:
        import compression.zstd as module  # type: ignore[import-not-found, unused-ignore]  # 3.14
    except ImportError:
        return None
    zstd: Any = module

    def decompress(data: bytes) -> bytes:
        unpacker = zstd.ZstdDecompressor()
        unpacked: bytes = unpacker.decompress(data, MAX_PLAIN + 1)
        if len(unpacked) <= MAX_PLAIN and not unpacker.eof:
            raise ValueError("a block that is cut off")
        return unpacked

    return _Zstd(lambda data: zstd.compress(data, _ZSTD_LEVEL), decompress)


def _from_library() -> _Zstd | None:
    zstd = system.library("libzstd.so.1")
    if zstd is None:
        return None
    try:
        bound, is_error = zstd.ZSTD_compressBound, zstd.ZSTD_isError
        pack, unpack_ = zstd.ZSTD_compress, zstd.ZSTD_decompress
    except AttributeError:
        return None
    size, pointer, text = system.ctypes.c_size_t, system.ctypes.c_void_p, system.ctypes.c_char_p
    bound.argtypes, bound.restype = [size], size
    is_error.argtypes, is_error.restype = [size], system.ctypes.c_uint
    pack.argtypes, pack.restype = [pointer, size, text, size, system.ctypes.c_int], size
    unpack_.argtypes, unpack_.restype = [pointer, size, text, size], size
    most = max(bound(MAX_PLAIN), MAX_PLAIN)
    room: Any = None

    def called(function: Any, data: bytes, *rest: int) -> bytes:
        # One buffer for all blocks, made when the first one comes.
        nonlocal room
        room = room or system.ctypes.create_string_buffer(most)
        length = function(room, most, data, len(data), *rest)
        if is_error(length):
            raise ValueError("not a block of zstd")
        return bytes(memoryview(room)[:length])

    return _Zstd(
        lambda data: called(pack, data, _ZSTD_LEVEL),
        lambda data: called(unpack_, data),
    )


#: Found when this module is loaded: later, as another login, it might be out of reach.
_zstd = _from_python() or _from_library()


def available() -> list[str]:
    """Return the names of what this device can do, best first."""
    return ["zstd", "zlib"] if _zstd else ["zlib"]


def unpack(block: bytes) -> bytes | memoryview:
    """Return the plain bytes of a block.

    Raises:
        Fault: It is no block, or holds more than a block may.
    """
    if not block:
        raise Fault("bad-request", "a block without its first byte")
    plain: bytes | memoryview
    if block[0] == RAW:
        plain = memoryview(block)[1:]
    elif block[0] == ZLIB:
        plain = _unpack_zlib(block[1:])
    elif block[0] == ZSTD and _zstd:
        try:
            plain = _zstd.decompress(block[1:])
        except Exception:  # whatever the library says about bytes of somebody else's
            raise Fault("bad-request", "a block that zstd cannot unpack") from None
    else:
        raise Fault("bad-request", f"a block with the unknown compression {block[0]}")
    if len(plain) > MAX_PLAIN:
        raise Fault("bad-request", "a block that unpacks to more than 1 MiB")
    return plain


def _unpack_zlib(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, MAX_PLAIN + 1)
    except zlib.error:
        plain = b""
    if len(plain) <= MAX_PLAIN and not unpacker.eof:
        raise Fault("bad-request", "a block that zlib cannot unpack")
    return plain


class Packer:
    """Packs blocks one after the other, and leaves be what does not shrink.

    Args:
        name: ``zstd``, ``zlib``, or "" for no compression.

    Raises:
        Fault: There is no such compression here.
    """

    def __init__(self, name: str) -> None:
        if name and name not in available():
            raise Fault("bad-request", f"this device has no compression {name}")
        self._kind = {"": RAW, "zlib": ZLIB, "zstd": ZSTD}[name]
        self._skip = self._skipped = 0

    def pack(self, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
        """Return a block in two parts: its first byte, and the rest."""
        if self._kind != RAW:
            if self._skipped < self._skip:
                self._skipped += 1
            else:
                packed = self._packed(bytes(data))
                # Less than a twentieth is not worth the other side's work.
                if len(packed) <= len(data) - len(data) // 20:
                    self._skip = 0
                    return bytes([self._kind]), packed
                self._skip, self._skipped = min(_MAX_SKIP, self._skip * 2 + 1), 0
        return b"\0", data

    def _packed(self, data: bytes) -> bytes:
        zstd = _zstd if self._kind == ZSTD else None
        return zstd.compress(data) if zstd else zlib.compress(data, _ZLIB_LEVEL)
