"""SFTP packets: the numbers of draft-ietf-secsh-filexfer-02, reading fields and building replies.

No files and no policy here.  A packet is ``length u32, type u8``, then for all but INIT and VERSION
an ``id u32``, then fields; everything is big-endian.
"""

from __future__ import annotations

import struct

__all__ = ["BadPacket", "Fields", "Reply", "string", "u32", "u64"]

VERSION_NUMBER = 3

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT = 11, 12, 13, 14, 15, 16, 17
RENAME, READLINK, SYMLINK = 18, 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

# Status codes of version 3
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
OP_UNSUPPORTED = 8

# OPEN's flags
OPEN_READ, OPEN_WRITE, OPEN_APPEND, OPEN_CREATE, OPEN_TRUNCATE, OPEN_EXCLUSIVE = 1, 2, 4, 8, 16, 32

#: A packet, without its length field.  OpenSSH's own limit, which its clients expect.
MAX_PACKET = 256 * 1024
#: Bytes in one READ or WRITE: what fits a packet beside 1 KiB for the other fields, as OpenSSH.
MAX_DATA = MAX_PACKET - 1024
#: An explanation in a STATUS; clients show it in one line.
MAX_MESSAGE = 1024
#: File offsets are signed in the kernel.
MAX_OFFSET = 2**63 - 1

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_HEAD = struct.Struct(">IBI")

#: A packet type and the parts of what follows the id.
Reply = tuple[int, list[bytes]]


class BadPacket(Exception):
    """A request whose fields make no sense; its frame was whole, so the next can be read."""


class Fields:
    """Reads the fields of one packet in order.

    What follows the last field is ignored, as OpenSSH does: clients for later versions send more.

    Args:
        packet: From the byte after the fields that are known already; it is not copied.
    """

    __slots__ = ("_at", "_packet")

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self._at = 0

    def _take(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._packet):
            raise BadPacket("the packet is shorter than its fields")
        part = self._packet[self._at : end]
        self._at = end
        return part

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._packet) - self._at

    def u32(self) -> int:
        """Read a number of 4 bytes."""
        number: int = _U32.unpack(self._take(4))[0]
        return number

    def u64(self) -> int:
        """Read a number of 8 bytes."""
        number: int = _U64.unpack(self._take(8))[0]
        return number

    def view(self) -> memoryview:
        """Read a string without copying it; it is valid until the next packet is read."""
        return self._take(self.u32())

    def string(self) -> bytes:
        """Read a string."""
        return bytes(self.view())

    def offset(self) -> int:
        """Read a file offset or length.

        Raises:
            BadPacket: It is more than a file can have.
        """
        number = self.u64()
        if number > MAX_OFFSET:
            raise BadPacket("an offset beyond 2^63-1")
        return number


def u32(number: int) -> bytes:
    """Build a number of 4 bytes."""
    return _U32.pack(number)


def u64(number: int) -> bytes:
    """Build a number of 8 bytes."""
    return _U64.pack(number)


def string(value: bytes) -> bytes:
    """Build a string."""
    return _U32.pack(len(value)) + value


def head(kind: int, request: int, size: int) -> bytes:
    """Build what comes before a reply's parts, which are ``size`` bytes together."""
    return _HEAD.pack(size + 5, kind, request)


def status(code: int, message: str = "") -> Reply:
    """Build a STATUS; the language tag is empty, since messages are the system's English."""
    text = message.encode("utf-8", "replace")[:MAX_MESSAGE]
    return STATUS, [_U32.pack(code), string(text), string(b"")]


def names(entries: list[tuple[bytes, bytes, bytes]]) -> Reply:
    """Build a NAME from file name, long name and encoded attributes each."""
    parts = [_U32.pack(len(entries))]
    for name, long_name, attributes in entries:
        parts += (string(name), string(long_name), attributes)
    return NAME, [b"".join(parts)]
