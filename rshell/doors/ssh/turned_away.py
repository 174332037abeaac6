"""A connection from a source that has to wait: it is told so, and nothing more."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rshell.doors.ssh.transport import SshTransport
from rshell.doors.ssh.wire import clear_disconnect
from rshell.link.clock import TimerWheel, WheelTimer

__all__ = ["TurnedAway", "Turnstile"]

#: So long, and for so many connections, it is waited until the client has read why. Whatever comes
#: beyond is closed at once: what is still on its way to us may then cost a client the words.
LINGER_SECONDS = 2.0
MAX_LINGERING = 64
#: A client's version and its first packet; more is nobody who listens.
MAX_HEARD = 16 * 1024

TOLD = b"Not allowed at this time: try again in a few minutes"


class Turnstile:
    """Makes these connections, and knows how many are waited for.

    Args:
        wheel: For the time that they get.
    """

    def __init__(self, wheel: TimerWheel) -> None:
        self.wheel = wheel
        self.lingering: set[TurnedAway] = set()

    def turn_away(self) -> Protocol:
        """Return the protocol of one more connection."""
        return TurnedAway(self)


class TurnedAway(Protocol):
    """One connection.

    It is told in SSH's own words, in the clear: of a line before the version, as OpenSSH's server
    sends it, clients show nothing. Only our direction is closed then: a client sends its first
    packet unasked, and were that answered by a reset, it would not read what it was told.
    """

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._timer: WheelTimer | None = None
        self._heard = 0

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(SshTransport.ourVersionString + b"\r\n" + clear_disconnect(TOLD))
        if len(self._turnstile.lingering) >= MAX_LINGERING:
            transport.loseConnection()
            return
        self._turnstile.lingering.add(self)
        self._timer = self._turnstile.wheel.call_later(LINGER_SECONDS, self._end)
        transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self._heard += len(data)
        if self._heard > MAX_HEARD:
            self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._turnstile.lingering.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()
