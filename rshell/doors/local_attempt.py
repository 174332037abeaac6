"""One attempt of a session whose operator's end is in the gateway: on its way, and joined.

Neighbour: `rshell.doors.local`, which makes a new one each time the device's link broke.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rshell.gateway.callers import OpenRefused, StreamEnder
from rshell.link.channel import StreamChannel
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open
from rshell.link.hops import StreamWitness
from rshell.link.protocol import LinkProtocol

__all__ = ["Attempt", "Join", "LocalPetition"]

Join = Callable[[LinkProtocol, Open, StreamWitness, int], StreamEnder]


class Attempt:
    """One attempt of a session that was joined: what the gate ends it by.

    Args:
        link: The device's.
        channel: The stream on it.
        witness: Is told what becomes of it.
        told: Takes what the gateway tells the operator: a code, and a line for people.

    Attributes:
        bytes_in, bytes_out: From and to the operator, so far.
    """

    def __init__(
        self,
        link: LinkProtocol,
        channel: StreamChannel,
        witness: StreamWitness,
        told: Callable[[str, str], None],
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._told = told
        self._link = link
        self._channel = channel
        self._witness: StreamWitness | None = witness

    def accepted(self) -> None:
        """The device said OPENED."""
        if self._witness is not None:
            self._witness.stream_accepted()

    def outcome(self, body: dict[str, Any]) -> None:
        """The device's outcome is here."""
        if self._witness is not None:
            self._witness.outcome_passed(body)

    def over(self, code: str, message: str) -> None:
        """Tell how it ended, once."""
        witness, self._witness = self._witness, None
        if witness is None:
            return
        if code == ErrorCode.NONE:
            witness.outcome_taken()
        else:
            witness.stream_broken(code, message)

    # -- StreamEnder -----------------------------------------------------------------------------

    def tell(self, code: str, message: str) -> bool:
        self._told(code, message)
        return True

    def broken(self, code: str, message: str) -> None:
        self._end(code, code, message)

    def displaced(self, message: str) -> None:
        # To the device this hop broke, and it keeps the session for the attempt that took over.
        self._end(ErrorCode.DUPLICATE.value, ErrorCode.LINK_LOST.value, message)

    def _end(self, to_door: str, to_device: str, message: str) -> None:
        if self._witness is None:
            return
        # The gate does not wait for a door that does not read: the row is written now.
        self.over(to_door, message)
        self._link.reset(self._channel.number, to_device, message)
        self._channel.stream_reset(to_door, message)


class LocalPetition:
    """One attempt on its way through the gate.

    Args:
        join: Opens the stream: (device's link, its OPEN, witness, weight) -> the attempt.
    """

    def __init__(self, join: Join) -> None:
        self._join = join
        self._gone: Callable[[str, str], None] | None = None
        self._given_up: tuple[str, str] | None = None

    def give_up(self, code: str, message: str) -> None:
        """Nobody waits for it any more."""
        if self._given_up is None:
            self._given_up = (code, message)
            gone, self._gone = self._gone, None
            if gone is not None:
                gone(code, message)

    # -- Petition --------------------------------------------------------------------------------

    def watch(self, gone: Callable[[str, str], None]) -> None:
        if self._given_up is None:
            self._gone = gone
        else:
            gone(*self._given_up)

    def join(
        self, device_link: LinkProtocol, request: Open, witness: StreamWitness, weight: int
    ) -> StreamEnder:
        if self._given_up is not None:
            raise OpenRefused(*self._given_up)
        self._gone = None
        return self._join(device_link, request, witness, weight)
