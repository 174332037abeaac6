"""What a door and the gate say to each other: who asks, for which stream, and why not.

What it is not: the gate itself, which is `rshell.gateway.switchboard`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open
from rshell.link.hops import StreamWitness
from rshell.link.protocol import LinkProtocol
from rshell.store.records import Operator

__all__ = ["INPUT_RECORDED", "Caller", "OpenRefused", "Petition", "StreamEnder"]

#: The code by which an operator is told that what they type is recorded.
INPUT_RECORDED = "input-recorded"


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks, and through which door."""

    operator: Operator
    door: str
    address: str


class OpenRefused(Exception):
    """The gate says no; the text is for the operator.

    Attributes:
        code: A stable word.
        message: What happened, to which device, and what to do.
    """

    def __init__(self, code: ErrorCode | str, message: str) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message


class StreamEnder(Protocol):
    """A stream that the gate may have to end."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the operator to the device, so far."""

    @property
    def bytes_out(self) -> int:
        """Bytes from the device to the operator, so far."""

    def tell(self, code: str, message: str) -> bool:
        """Tell the operator something of the gateway's own, beside what the device sends.

        Args:
            code: A stable word: ``idle-limit``, ``watched`` …
            message: One line for people, with nothing in it that a terminal would act on.

        Returns:
            Whether there is a way to tell them.
        """

    def broken(self, code: str, message: str) -> None:
        """End it at both ends."""

    def displaced(self, message: str) -> None:
        """A higher attempt takes over: the device keeps the session, the operator is told."""


class Petition(Protocol):
    """A stream that an operator asked for, as its door brings it to the gate."""

    def watch(self, gone: Callable[[str, str], None]) -> None:
        """Call ``gone(code, message)`` at most once: the operator waits no longer.

        The code is ``link-lost`` when the operator's link broke, else what their RESET said.
        Calls end with `join`.
        """

    def join(
        self, device_link: LinkProtocol, request: Open, witness: StreamWitness, weight: int
    ) -> StreamEnder:
        """Open the stream on the device's link and join it to the operator.

        Raises:
            LocalProtocolError: The device's link takes no stream.
            OpenRefused: The operator is gone.
        """
