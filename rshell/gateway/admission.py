"""How many TLS handshakes the gateway begins: a token bucket, charged at the ClientHello.

A handshake costs about a millisecond of the one core that also moves everybody's bytes, and a fleet
that comes back asks for thousands at once.  So a connection's first TLS record is kept, unread by
OpenSSL, until there is a token for it; connections that wait take turns by source, so a source that
floods delays itself.  Accepting itself never pauses.

What it is not: the judgement of who a peer is (device_links.py), nor the cap on how many strangers
there may be (arrivals.py).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.constants import HELLO_SECONDS
from rshell.link.core.limits import TokenBucket
from rshell.link.tls_factory import TlsWireFactory
from rshell.link.tls_wire import TlsWire

__all__ = ["DEFAULT_RATE", "PACE_LEAST", "Admission", "AdmittingTLS", "Ticket", "source_of"]

#: Mutual TLS handshakes a second that every machine of ours does beside its other work.
DEFAULT_RATE = 400.0
#: Two wake-ups of the timer wheel: no token is lost between them.
BURST_SECONDS = 0.5
#: What begins in one turn of the reactor, in seconds of the rate.  Turns of a gateway that can do
#: less than its rate says become longer, so it begins less: what began is always finished in time.
TURN_SECONDS = 0.05
#: Who would wait longer may not have the time left that handshake and HELLO take when all of a
#: fleet return (rule P7); what was begun for them would be lost.
PATIENCE_SECONDS = HELLO_SECONDS * 0.5
#: However fast the rate: `rshell.gateway.arrivals` drops the oldest of more strangers than a few
#: more than this, and the oldest is who would be served next.
MOST_WAITING = 1_800
#: A time of this length in which somebody always waited tells how much we really can do.
PACE_SECONDS = 2.0
#: However slow that was: one pause of the machine, or a flood, shall not keep a fleet out for long.
PACE_LEAST = 0.25

#: What speaks inside a connection that is gone.
_NOBODY = Protocol()

_HANDSHAKE_RECORD = 0x16
_RECORD_HEADER = 5
#: RFC 8446 section 5.1: a plaintext record, and a little that older versions allowed beyond.
_MAX_RECORD = 16_384 + 256


@lru_cache(maxsize=4_096)  # each connection asks twice, and a site's devices share an address
def source_of(host: str) -> str:
    """Return what connections are ranked by: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    # A host that chooses among its 2^64 addresses is still one host.
    return address.exploded[:19]


@attrs.define(eq=False)
class Ticket:
    """A connection that waits for its handshake.

    Attributes:
        go: Begin it.
        drop: It cannot be begun in time; the reason is for the log.
        since: Wheel seconds.
    """

    source: str
    go: Callable[[], None]
    drop: Callable[[str], None]
    since: float


class Admission:
    """Says when a handshake may begin, and how fast a fleet may return.

    Args:
        wheel: The process's timers.
        rate: Handshakes a second.
        fleet: How many devices may come back at once.
        waited: Told how many seconds each admitted connection waited.

    Attributes:
        rate: Handshakes a second at most.
    """

    _log = Logger()

    def __init__(
        self,
        wheel: TimerWheel,
        rate: float = DEFAULT_RATE,
        fleet: Callable[[], int] = lambda: 0,
        waited: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.rate = rate
        self._wheel = wheel
        self._fleet = fleet
        self._waited = waited
        self._bucket = TokenBucket(rate, max(1.0, rate * BURST_SECONDS))
        self._a_turn = max(1, int(rate * TURN_SECONDS))
        self._left = self._a_turn
        #: By source, whose turn is first; of a source in order of arrival.
        self._waiting: OrderedDict[str, dict[Ticket, None]] = OrderedDict()
        self._count = 0
        self._timer: WheelTimer | None = None
        #: Since when somebody waits, or the last look at the pace; and what began since.
        self._looked_at = 0.0
        self._begun = 0
        #: The same, whether somebody waits or not.
        self._glanced_at = 0.0
        self._begun_since = 0
        #: What part of the rate was done while others waited, or more that was done since.
        self._done_part = 1.0

    def __len__(self) -> int:
        return self._count

    @property
    def pace(self) -> float:
        """What a fleet has to spread its return by, in handshakes a second.

        Who comes faster than we can is refused, and comes again much later.
        """
        return self.rate * self._done_part

    def spread_ms(self) -> int:
        """Return over how many milliseconds the fleet has to spread its return (rule C6)."""
        return int(self._fleet() * 1000 / self.pace)

    def ask(
        self, source: str, go: Callable[[], None], drop: Callable[[str], None]
    ) -> Ticket | None:
        """Ask for one handshake.

        Args:
            source: Who asks, as `source_of` says.
            go: Called later, once, if it has to wait; then it may begin.
            drop: Called instead of ``go`` if it would wait too long, perhaps before this returns.

        Returns:
            None if it may begin at once; else what to `cancel` with.
        """
        now = self._wheel.seconds()
        if not self._count and self._may_begin(now):
            self._waited(0.0)
            return None
        if not self._count:
            self._looked_at, self._begun = now, 0
        ticket = Ticket(source, go, drop, now)
        self._waiting.setdefault(source, {})[ticket] = None
        self._count += 1
        self._arm()
        if self._count > min(MOST_WAITING, self.rate * PATIENCE_SECONDS):
            self._drop_one()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget one that waits; nothing happens if it does not any more."""
        same = self._waiting.get(ticket.source, {})
        if ticket in same:
            del same[ticket]
            self._count -= 1
            if not same:
                del self._waiting[ticket.source]

    def _drop_one(self) -> None:
        # The last of the longest queue would wait longest; it hears so while it has time.
        busiest = max(self._waiting.values(), key=len)
        self._drop(next(reversed(busiest)))

    def _drop(self, ticket: Ticket) -> None:
        self.cancel(ticket)
        ticket.drop("too many connections at once: its handshake could not begin in time")

    def _may_begin(self, now: float) -> bool:
        """Take what one handshake needs: a token, and a place in this turn."""
        if not self._left or not self._bucket.take(now):
            return False
        if self._left == self._a_turn:
            self._wheel.call_next_turn(self._next_turn)
        self._left -= 1
        self._begun += 1
        self._begun_since += 1
        if now - self._glanced_at >= PACE_SECONDS:
            # Done without a queue it says nothing of what more could have been, but that it could.
            part = self._begun_since / (now - self._glanced_at) / self.rate
            self._done_part = max(self._done_part, min(1.0, part))
            self._glanced_at, self._begun_since = now, 0
        return True

    def _look_at_pace(self, now: float) -> None:
        """Learn from a while in which there was always more to do than could be done."""
        passed = now - self._looked_at
        if passed < PACE_SECONDS:
            return
        part = min(1.0, max(PACE_LEAST, self._begun / passed / self.rate))
        self._done_part = (self._done_part + part) / 2
        self._looked_at, self._begun = now, 0

    def _next_turn(self) -> None:
        self._left = self._a_turn
        self._serve()

    def _arm(self) -> None:
        # With no place left in this turn, the next one serves.
        if self._timer is None and self._count and self._left:
            self._timer = self._wheel.call_later(0.0, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._serve()

    def _serve(self) -> None:
        now = self._wheel.seconds()
        while self._count:
            source, same = next(iter(self._waiting.items()))
            ticket = next(iter(same))
            if now - ticket.since > PATIENCE_SECONDS:
                # We are slower than our rate says.  Work on it would be lost, and delay others.
                self._drop(ticket)
                continue
            if not self._may_begin(now):
                break
            self._waiting.move_to_end(source)
            self.cancel(ticket)
            self._waited(now - ticket.since)
            try:
                ticket.go()
            except Exception:
                self._log.failure("a handshake could not begin")
        if self._count:
            self._look_at_pace(now)
        self._arm()


class AdmittingTLS(TlsWire):
    """TLS whose first record reaches OpenSSL only when `Admission` lets it.

    Bytes that are no TLS at all go through at once: refusing them costs nothing.  A ClientHello
    that trickles in is charged for when it is complete, and until then it is 16 KiB of memory.

    Args:
        factory: Of the TLS layer.
        inner: What speaks inside.
        admission: Says when.
        dropped: Told why this connection is not to be served.
    """

    def __init__(
        self,
        factory: TlsWireFactory,
        inner: Any,
        admission: Admission,
        dropped: Callable[[str], None],
    ) -> None:
        super().__init__(factory, inner)
        self._admission = admission
        self._dropped: Callable[[str], None] | None = dropped
        self._ticket: Ticket | None = None
        self._held = b""
        self._admitted = False
        self._asked = False

    def dataReceived(self, data: bytes) -> None:
        if self._admitted:
            TlsWire.dataReceived(self, data)  # for each read: `super` would cost as much as a call
            return
        self._held += data
        if not _is_record_begun(self._held):
            self._admit()
        elif not self._asked and _is_record_complete(self._held):
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        transport: Any = self.transport
        source = source_of(getattr(transport.getPeer(), "host", ""))
        self._ticket = self._admission.ask(source, self._go_on, self._drop)
        if self._ticket is None:
            self._admit()
        elif not transport.disconnecting:
            # What else it sends stays in the kernel, and soon with the sender.
            transport.pauseProducing()

    def _drop(self, why: str) -> None:
        if self._dropped is not None:
            self._dropped(why)

    def _go_on(self) -> None:
        transport: Any = self.transport
        transport.resumeProducing()
        self._admit()

    def _admit(self) -> None:
        self._admitted = True
        self._ticket = self._dropped = None
        held, self._held = self._held, b""
        super().dataReceived(held)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._admission.cancel(ticket)
        self._held = b""
        self._dropped = None
        super().connectionLost(reason)
        # Both know each other; the collector, which is to find that out, is rare.  A fleet that is
        # refused, or lost, left kilobytes for each connection.
        self._inner = _NOBODY


def _is_record_begun(data: bytes) -> bool:
    """Say whether this may be, or become, one TLS record with a ClientHello."""
    if data[0] != _HANDSHAKE_RECORD:
        return False
    return len(data) < _RECORD_HEADER or _length(data) <= _MAX_RECORD


def _is_record_complete(data: bytes) -> bool:
    return len(data) >= _RECORD_HEADER and len(data) >= _RECORD_HEADER + _length(data)


def _length(data: bytes) -> int:
    return int.from_bytes(data[3:_RECORD_HEADER], "big")
