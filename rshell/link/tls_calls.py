"""The calls of OpenSSL that every byte of a link takes: decrypt, encrypt, fetch what is encrypted.

pyOpenSSL allocates a buffer for each record, copies what comes into it once more, and asks after
each call that went well whether it went well: a third of what TLS costs a gateway.  `DirectCalls`
asks OpenSSL itself, with one buffer that all connections of the process share, because nothing
stays in it from one call to the next.  It reaches behind pyOpenSSL, as tls_memory.py does;
a pyOpenSSL that is made otherwise is asked by its own methods (`PlainCalls`), which is slower and
the same.

What went wrong is always pyOpenSSL's to say, in its exceptions.  Like all of a link, these calls
belong to the reactor's thread.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Protocol

from OpenSSL import SSL

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError:  # another pyOpenSSL
    _ffi = _lib = None

__all__ = ["PLAIN_RECORD", "DirectCalls", "PlainCalls", "TlsCalls", "calls_for"]

#: RFC 8446 section 5.1: no record holds more, so no read returns more.
PLAIN_RECORD: Final = 16_384
#: What one read of a fast link brings (four records, rule Q1), what waited before it, and room for
#: one more; what is larger takes turns.
_ROOM: Final = 6 * PLAIN_RECORD
_FUNCTIONS: Final = ("SSL_read", "SSL_write", "SSL_clear_mode", "BIO_read", "BIO_write")
_ATTRIBUTES: Final = ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error")


class TlsCalls(Protocol):
    """What a wire asks of OpenSSL, beyond handshake and goodbye."""

    def put(self, tls: SSL.Connection, data: bytes) -> None:
        """Queue received bytes for OpenSSL."""

    def decrypt(self, tls: SSL.Connection, most: int) -> tuple[bytes, SSL.Error | None]:
        """Return what up to ``most`` queued records hold, and what OpenSSL said to end it early.

        That is ``WantReadError`` when it has no whole record, ``ZeroReturnError`` at the peer's
        goodbye, and else what is wrong.
        """

    def encrypt(self, tls: SSL.Connection, data: bytes) -> int:
        """Encrypt bytes, after the handshake; return how many it took, at least one.

        Raises:
            SSL.Error: It took none; ``WantReadError`` if that will pass.
        """

    def fetch(self, tls: SSL.Connection, most: int) -> Any:
        """Return up to ``most`` encrypted bytes, in a buffer that is good until the next call.

        Raises:
            SSL.Error: There is none.
        """


class PlainCalls:
    """By pyOpenSSL's own methods."""

    def put(self, tls: SSL.Connection, data: bytes) -> None:
        tls.bio_write(data)

    def decrypt(self, tls: SSL.Connection, most: int) -> tuple[bytes, SSL.Error | None]:
        parts: list[bytes] = []
        stopped: SSL.Error | None = None
        while most and stopped is None:
            most -= 1
            try:
                parts.append(tls.recv(PLAIN_RECORD))
            except SSL.Error as error:
                stopped = error.with_traceback(None)  # as in _why
        return b"".join(parts), stopped

    def encrypt(self, tls: SSL.Connection, data: bytes) -> int:
        return tls.send(data)

    def fetch(self, tls: SSL.Connection, most: int) -> bytes:
        return tls.bio_read(most)


class DirectCalls:
    """By OpenSSL's functions, where pyOpenSSL keeps them."""

    def __init__(self) -> None:
        # It is written before it is read: clearing it would only cost.
        allocate = _ffi.new_allocator(should_clear_after_alloc=False)
        self._buffer = allocate("char[]", _ROOM)
        self._view = _ffi.buffer(self._buffer, _ROOM)

    def put(self, tls: Any, data: bytes) -> None:
        if _lib.BIO_write(tls._into_ssl, data, len(data)) != len(data):
            raise MemoryError("OpenSSL's queue")

    def decrypt(self, tls: Any, most: int) -> tuple[bytes, SSL.Error | None]:
        ssl, buffer, read = tls._ssl, self._buffer, _lib.SSL_read
        parts: list[bytes] = []
        stopped: SSL.Error | None = None
        filled = 0
        while most:
            most -= 1
            got = read(ssl, buffer + filled, PLAIN_RECORD)
            if got <= 0:
                stopped = _why(tls, got)
                break
            filled += got
            if filled > _ROOM - PLAIN_RECORD:
                parts.append(self._view[:filled])
                filled = 0
        last: bytes = self._view[:filled]
        return (b"".join([*parts, last]) if parts else last), stopped

    def encrypt(self, tls: Any, data: bytes) -> int:
        took: int = _lib.SSL_write(tls._ssl, data, len(data))
        if took <= 0:
            raise _why(tls, took)
        return took

    def fetch(self, tls: Any, most: int) -> Any:
        got = _lib.BIO_read(tls._from_ssl, self._buffer, min(most, _ROOM))
        if got <= 0:
            raise SSL.WantReadError
        return _ffi.buffer(self._buffer, got)


def _why(tls: Any, result: int) -> SSL.Error:
    """Return pyOpenSSL's exception for a call that did not go well."""
    try:
        tls._raise_ssl_error(tls._ssl, result)
    except SSL.Error as error:
        # Its frames would hold it, and the connection, until the next search for cyclic garbage.
        return error.with_traceback(None)
    return SSL.Error("OpenSSL does not say what is wrong")


_PLAIN: Final = PlainCalls()


@cache
def _direct() -> DirectCalls | None:
    """Return the one of this process, if OpenSSL's functions are where they are looked for."""
    return DirectCalls() if all(hasattr(_lib, name) for name in _FUNCTIONS) else None


def calls_for(tls: SSL.Connection) -> TlsCalls:
    """Return the calls that fit a new connection over memory, and make it ready for them."""
    direct = _direct() if all(hasattr(tls, name) for name in _ATTRIBUTES) else None
    if direct is None:
        return _PLAIN
    # A write into memory never blocks: all of its records are made by one call.
    _lib.SSL_clear_mode(tls._ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    return direct
