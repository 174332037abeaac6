"""What went wrong with one request, and which status code of version 3 says so.

Version 3 has few codes; the message carries the rest.  The codes are OpenSSH's choice where
clients act on them: a missing file and a refusal are told apart, all else is a failure with text.
"""

from __future__ import annotations

import errno

from rshell_agent.workers import touched
from rshell_agent.workers.sftp import wire

__all__ = ["Failed", "code_of", "reply_for", "word_for"]

_CODES = {
    errno.ENOENT: wire.NO_SUCH_FILE,
    errno.ENOTDIR: wire.NO_SUCH_FILE,
    errno.ELOOP: wire.NO_SUCH_FILE,
    errno.EPERM: wire.PERMISSION_DENIED,
    errno.EACCES: wire.PERMISSION_DENIED,
    errno.ENOSYS: wire.OP_UNSUPPORTED,
    errno.EOPNOTSUPP: wire.OP_UNSUPPORTED,
}


class Failed(Exception):
    """A request that is refused by us rather than by the kernel.

    Args:
        code: A status code of `rshell_agent.workers.sftp.wire`.
        message: One line for the operator.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def code_of(number: int | None) -> int:
    """Return the status code for an errno."""
    return _CODES.get(number or 0, wire.FAILURE)


def reply_for(error: Failed | OSError | wire.BadPacket) -> wire.Reply:
    """Return the STATUS that tells of an error."""
    if isinstance(error, Failed):
        return wire.status(error.code, error.message)
    if isinstance(error, wire.BadPacket):
        return wire.status(wire.BAD_MESSAGE, str(error))
    return wire.status(code_of(error.errno), error.strerror or "unknown error")


def word_for(error: Failed | OSError | wire.BadPacket) -> str:
    """Return the word by which the audit log has an error."""
    if isinstance(error, OSError):
        return touched.code_of(error)
    if isinstance(error, wire.BadPacket):
        return "bad-request"
    return "permission" if error.code == wire.PERMISSION_DENIED else "failed"
