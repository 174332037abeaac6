"""What both ends of a forwarded connection agree on (handler ``forward``).

One stream is one connection; its bytes are the connection's, the end of either direction is its
half-close.  Four things can be asked for:

* ``host`` and ``port``, or ``path``: connect on the device.  With ``check`` nothing is connected:
  the answer is whether the device would.
* ``listen``: the device listens until this session ends.  Events tell of it: ``listening``, then
  ``connection`` for each one that waits.
* ``accept``: take one of these over by the id that its event told; with ``drop`` end it.

Events of a stream that connects: ``connected``, once, with the address that was chosen.  Its
outcome is ``ok`` once both directions have ended, with the bytes of each in its result; the codes
of its failures are `ForwardCode`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "CONNECTED",
    "CONNECTION",
    "LISTENING",
    "ForwardCode",
    "ForwardRequest",
    "ForwardResult",
    "ListenPlace",
    "PendingConnection",
]

#: Kinds of events.
CONNECTED = "connected"
LISTENING = "listening"
CONNECTION = "connection"

#: A DNS name has 253 characters; brackets, a zone and a final dot come on top.
Host = Annotated[str, Meta(min_length=1, max_length=280)]
#: sun_path has 108 bytes; a longer one is refused in words by the device.
SocketPath = Annotated[str, Meta(min_length=1, max_length=255)]
Port = Annotated[int, Meta(ge=1, le=65535)]
#: 16 random bytes in hexadecimal.
ConnectionId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class ForwardCode(StrEnum):
    """Why a forwarded connection failed: the codes of outcomes."""

    REFUSED = "refused-connection"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    RESET = "reset"
    NOT_FOUND = "not-found"
    POLICY = "policy"
    OVERLOAD = "overload"
    IN_USE = "in-use"


class ListenPlace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the device shall listen: ``path``, or ``host`` and ``port`` (0: any that is allowed).

    ``host`` is an address of the device, ``localhost``, or ``*`` for all of them.
    """

    host: Host = "localhost"
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    path: SocketPath | None = None

    def __post_init__(self) -> None:
        if (self.port is None) == (self.path is None):
            raise ValueError("give either port or path to listen at")


class ForwardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connect to ``host`` and ``port`` or to the unix socket ``path``; or ``listen``, ``accept``.

    ``check`` only asks whether that is allowed; ``drop`` ends what ``accept`` names.
    """

    host: Host | None = None
    port: Port | None = None
    path: SocketPath | None = None
    check: bool = False
    listen: ListenPlace | None = None
    accept: ConnectionId | None = None
    drop: bool = False

    def __post_init__(self) -> None:
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port go together")
        asked = (self.host, self.path, self.listen, self.accept)
        if sum(one is not None for one in asked) != 1:
            raise ValueError("give one of host and port, path, listen, accept")
        if self.drop and self.accept is None:
            raise ValueError("drop goes with accept")
        if self.check and self.accept is not None:
            raise ValueError("check does not go with accept")


class ForwardResult(Struct, frozen=True):
    """The result of a connection that ended in order.

    ``received``: bytes that the device's side sent to the operator; ``sent``: the other way.
    """

    received: Annotated[int, Meta(ge=0)] = 0
    sent: Annotated[int, Meta(ge=0)] = 0


class PendingConnection(Struct, frozen=True):
    """The body of the event ``connection``: its id, and who it comes from if that is known."""

    id: ConnectionId
    host: Annotated[str, Meta(max_length=64)] = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0

    @classmethod
    def read(cls, body: dict[str, Any]) -> PendingConnection | None:
        """Return an event's body; None if it is no such thing."""
        try:
            return msgspec.convert(body, cls, strict=True)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError):
            return None
