"""What can go wrong for an operator: a stable code, what happened, and what to do next."""

from __future__ import annotations

from rshell.access.printable import printable
from rshell.link.core.errors import ErrorCode

__all__ = [
    "ConnectionFailed",
    "NotConfigured",
    "Refused",
    "RshellError",
    "SelectedNothing",
    "advice_for",
]

#: What to do about a code, where that does not depend on the case.
_ADVICE = {
    ErrorCode.OFFLINE.value: "see: rshell why {device}",
    ErrorCode.NOT_FOUND.value: "list what there is with: rshell devices, rshell handlers",
    ErrorCode.POLICY.value: "ask whoever grants roles, or look at the device's own policy",
    ErrorCode.BAD_REQUEST.value: "see the handler's arguments with: rshell handlers DEVICE",
    ErrorCode.OVERLOAD.value: "try again in a moment, or with a smaller --concurrency",
    ErrorCode.STREAMS.value: "try again with a smaller --concurrency",
    ErrorCode.REVOKED.value: "ask an administrator for a new invitation, then: rshell join JOIN",
    ErrorCode.AUTH.value: "ask an administrator for a new invitation, then: rshell join JOIN",
    ErrorCode.EXPIRED.value: "ask an administrator for a new invitation, then: rshell join JOIN",
    ErrorCode.VERSION.value: "upgrade the older side",
    ErrorCode.SHUTDOWN.value: "the gateway is going down: try again in a moment",
}


def advice_for(code: str, message: str = "", device: str = "DEVICE") -> str:
    """Return what to do next about an error code; "" if that is unknown or in the message."""
    advice = "" if "rshell " in message else _ADVICE.get(code, "")
    return advice.replace("{device}", device)


class RshellError(Exception):
    """Something an operator can understand and act upon.

    Attributes:
        code: a stable lower-case word (docs/protocol.md section 3, and the subclasses' own).
        message: what happened, one line, safe to show.
        hint: what to do next; may be empty.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        self.code = printable(code, 64)
        self.message = printable(message, 500)
        self.hint = advice_for(code, message) if hint is None else hint
        super().__init__(self.message)


class NotConfigured(RshellError):
    """This machine has no usable operator credentials; code ``not-configured``."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__("not-configured", message, hint)


class ConnectionFailed(RshellError):
    """No link to a gateway came about, or it broke; code ``unreachable`` or the gateway's."""


class Refused(RshellError):
    """The gateway or a device refused a request; the code says which way."""


class SelectedNothing(RshellError):
    """A selector matched no device; code ``no-match``."""

    def __init__(self, selector: str) -> None:
        super().__init__(
            "no-match",
            f"no device matches {printable(selector)}",
            "list what there is with: rshell devices",
        )
