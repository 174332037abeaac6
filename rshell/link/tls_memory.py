"""What OpenSSL keeps of an idle connection: its buffers, given back when they are empty.

pyOpenSSL's connections over memory have two queues of bytes, to OpenSSL and from it.  Each grows to
the most that ever waited in it, and never shrinks: six kilobytes a link after the handshake,
and 88 after one read of a bulk transfer.  New ones cost three microseconds.

It reaches behind pyOpenSSL, which has no call for it.  A pyOpenSSL that is made otherwise keeps
its queues as they are: then links only take more memory.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError:  # another pyOpenSSL
    _ffi = _lib = None

__all__ = ["give_back_buffers"]

_NEEDED = ("BIO_new", "BIO_s_mem", "BIO_free", "BIO_get_mem_data", "SSL_set_bio")


def give_back_buffers(tls: SSL.Connection) -> bool:
    """Replace a connection's queues by small ones, if nothing waits in them.

    Returns:
        Whether it was done.
    """
    connection: Any = tls
    ssl = getattr(connection, "_ssl", None)
    old = [getattr(connection, name, None) for name in ("_into_ssl", "_from_ssl")]
    if ssl is None or None in old or not all(hasattr(_lib, name) for name in _NEEDED):
        return False
    start = _ffi.new("char **")
    if any(_lib.BIO_get_mem_data(queue, start) for queue in old):
        return False
    new = [_lib.BIO_new(_lib.BIO_s_mem()) for _ in old]
    if _ffi.NULL in new:
        for queue in new:
            _lib.BIO_free(queue)  # of NULL, nothing
        return False
    # It frees the old ones.
    _lib.SSL_set_bio(ssl, *new)
    connection._into_ssl, connection._from_ssl = new
    return True
