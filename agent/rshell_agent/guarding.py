"""What keeps a handler's faults and floods its own: guards between its code and the stream.

A handler's coroutine has its own frame to fail in.  Its protocols, producers and listeners do not:
they are called from the middle of the link's work, where an exception would break a link that
others use.  Here each of these calls is made behind a guard, and what a handler may pile up in
memory, in bytes and in events, has an end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.link.core.limits import TokenBucket
from rshell.link.protocol import LinkProtocol

__all__ = [
    "FAIR_BYTES",
    "MAX_CROWD_BYTES",
    "MAX_EVENTS",
    "MAX_UNSENT_BYTES",
    "EventPacer",
    "GuardedProducer",
    "OutputLimit",
    "ProtocolRunner",
    "may_carry_event",
]

#: What one handler may write ahead of its reader.  A producer is paused at 64 KiB; this is for
#: those that have none, and enough for any answer that is made in one piece.
MAX_UNSENT_BYTES = 4 * 1024 * 1024
#: Of all handlers of this agent together; who has more than a fair part of it then is stopped.
MAX_CROWD_BYTES, FAIR_BYTES = 16 * 1024 * 1024, 256 * 1024
#: Progress is for eyes: of what comes faster the newest is told.
PROGRESS_SECONDS, PROGRESS_BURST = 0.1, 20
#: A link carries 200 events a second, and a gateway ends one that carries more (docs/protocol.md,
#: section 13): those of all handlers together keep well below it, and wait for their turn.
EVENTS_RATE, EVENTS_BURST = 100.0, 150
#: Events of one session that may wait.
MAX_EVENTS = 1024


class OutputLimit(Exception):
    """A handler produces more than may wait in memory; let it pass."""


@implementer(IPushProducer)
class GuardedProducer:
    """Stands between a stream and a handler's producer.

    Args:
        producer: The handler's.
        broke: Called with what one of its methods raised.
    """

    def __init__(self, producer: Any, broke: Callable[[Failure], None]) -> None:
        self._producer = producer
        self._broke = broke

    def pauseProducing(self) -> None:
        self._call("pauseProducing")

    def resumeProducing(self) -> None:
        self._call("resumeProducing")

    def stopProducing(self) -> None:
        self._call("stopProducing")

    def _call(self, name: str) -> None:
        try:
            getattr(self._producer, name)()
        except Exception:
            self._broke(Failure())


class ProtocolRunner:
    """Runs a handler's Twisted protocol over its channel.

    Args:
        protocol: The handler's.
        broke: Called with what one of its methods raised; it is not called again then.
    """

    def __init__(self, protocol: IProtocol, broke: Callable[[Failure], None]) -> None:
        self._protocol: IProtocol | None = protocol
        self._broke = broke

    def data_received(self, data: bytes) -> None:
        """Hand input over."""
        protocol = self._protocol
        if protocol is not None:
            self._guarded(lambda: protocol.dataReceived(data))

    def input_ended(self, reason: Exception) -> None:
        """No input follows; one that cannot be half closed is told that it is over."""
        protocol = self._protocol
        if protocol is None:
            return
        if IHalfCloseableProtocol.providedBy(protocol):
            self._guarded(IHalfCloseableProtocol(protocol).readConnectionLost)
        else:
            self.disconnect(reason)

    def disconnect(self, reason: Exception) -> None:
        """It is over; said once."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._guarded(lambda: protocol.connectionLost(Failure(reason)))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            self._protocol = None
            self._broke(Failure())


#: What each link may still carry; they go with their links.
_events: WeakKeyDictionary[LinkProtocol, TokenBucket] = WeakKeyDictionary()


def may_carry_event(link: LinkProtocol, now: float) -> bool:
    """Take one turn of a link for an event; say whether there was one."""
    bucket = _events.get(link)
    if bucket is None:
        bucket = _events[link] = TokenBucket(EVENTS_RATE, EVENTS_BURST)
    return bucket.take(now)


class EventPacer:
    """Sends a handler's progress no faster than anybody can see.

    Args:
        send: (kind, body): puts an event behind the bytes written so far.
        clock: For the next progress.
    """

    def __init__(self, send: Callable[[str, dict[str, Any]], None], clock: IReactorTime) -> None:
        self._send = send
        self._clock = clock
        self._progresses = TokenBucket(1 / PROGRESS_SECONDS, PROGRESS_BURST)
        self._progress: dict[str, Any] | None = None
        self._timer: IDelayedCall | None = None

    def event(self, kind: str, body: dict[str, Any]) -> None:
        """Send an event; progress perhaps later, or never if newer progress comes first."""
        if kind != "progress":
            self.flush()
            self._send(kind, body)
            return
        if self._timer is None and self._progresses.take(self._clock.seconds()):
            self._send("progress", body)
        else:
            self._progress = body
            if self._timer is None:
                self._timer = self._clock.callLater(PROGRESS_SECONDS, self._due)

    def _due(self) -> None:
        self._timer = None
        self._progresses.take(self._clock.seconds())
        self.flush()

    def flush(self) -> None:
        """Send the progress that waits: the last one is never left out."""
        body = self._progress
        self.stop()
        if body is not None:
            self._send("progress", body)

    def stop(self) -> None:
        """Send no more."""
        self._progress = None
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
