"""What goes wrong: `Fault` ends a request, `Violation` the session (docs/files.md FT5, FT15)."""

from __future__ import annotations

import errno
import os

from rshell_agent.workers.confined import Denied

__all__ = ["Fault", "Violation", "fault_of"]

_CODES = {
    errno.ENOENT: "not-found",
    errno.EEXIST: "exists",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EFBIG: "too-large",
    errno.EISDIR: "is-a-directory",
    errno.ENOTDIR: "not-a-directory",
    errno.ENOTEMPTY: "not-empty",
    errno.EBUSY: "busy",
    errno.ETXTBSY: "busy",
    errno.ELOOP: "loop",
    errno.ENAMETOOLONG: "name-too-long",
    errno.EINVAL: "bad-request",
    errno.EOPNOTSUPP: "not-a-file",  # as Confined says of devices, FIFOs and sockets
}


class Fault(Exception):
    """A request that cannot be done.

    Args:
        code: Of FT15.
        message: For a person; it does not repeat the path.
        path: What it is about, if that is not the request's own path.
        number: The errno, 0 if the system did not say it.
    """

    def __init__(self, code: str, message: str, path: bytes | None = None, number: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path
        self.number = number


class Violation(Exception):
    """The client broke the framing; what follows cannot be trusted."""


def fault_of(error: OSError, path: bytes | None = None) -> Fault:
    """Return what an error of the system means to an operator."""
    number = error.errno or 0
    if isinstance(error, Denied):
        return Fault("policy", "the device's policy does not allow this place", path, number)
    if number == errno.EOPNOTSUPP:
        return Fault("not-a-file", "not a regular file", path)
    text = os.strerror(number) if number else str(error)
    return Fault(_CODES.get(number, "io"), text, path, number)
