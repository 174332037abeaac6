"""Whose fault it is: LocalProtocolError is ours, RemoteProtocolError is theirs."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ErrorCode", "LinkProtocolError", "LocalProtocolError", "RemoteProtocolError"]


class ErrorCode(StrEnum):
    """The stable error words of section 3 of docs/protocol.md."""

    NONE = "none"
    PROTOCOL = "protocol"
    FRAME_SIZE = "frame-size"
    FLOW_CONTROL = "flow-control"
    INTERNAL = "internal"
    BAD_REQUEST = "bad-request"
    POLICY = "policy"
    AUTH = "auth"
    STREAMS = "streams"
    OVERLOAD = "overload"
    RECORDING_FAILED = "recording-failed"
    DUPLICATE = "duplicate"
    REVOKED = "revoked"
    LOST = "lost"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    NOT_FOUND = "not-found"
    OFFLINE = "offline"
    LINK_LOST = "link-lost"
    VERSION = "version"
    EXPIRED = "expired"
    CLONE_SUSPECTED = "clone-suspected"
    OUTPUT_LIMIT = "output-limit"
    IDLE_LIMIT = "idle-limit"
    TIME_LIMIT = "time-limit"
    PENDING = "pending"

    @classmethod
    def read(cls, text: str) -> ErrorCode:
        """Return the code that ``text`` names; an unknown one reads as INTERNAL (rule C0)."""
        try:
            return cls(text)
        except ValueError:
            return cls.INTERNAL


class LinkProtocolError(Exception):
    """A broken rule of the protocol."""


class LocalProtocolError(LinkProtocolError):
    """This program used the core against its rules: a bug of ours."""


class RemoteProtocolError(LinkProtocolError):
    """The peer broke a rule; the link must end.

    Attributes:
        code: The stable word for GOAWAY.
        reason: One line for people and the log; holds nothing the peer chose but numbers.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
