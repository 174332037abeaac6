"""Every new connection: TLS first, then who it is, then the protocol that fits.

Nothing here admits anybody.  A connection costs us at most a TLS handshake and ten seconds before
it is known; whatever is wrong with it ends in one log line and a closed socket.

Near the limit of open files strangers make room, oldest first, before ``accept()`` fails: then
Twisted would close whatever else waits in the listening queue, devices and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell.access.printable import printable
from rshell.gateway.admission import Admission, AdmittingTLS, source_of
from rshell.gateway.metrics import Metrics, descriptor_limit
from rshell.gateway.throttle import Throttle
from rshell.identity.tls import GatewayTLS, PeerCertificate, PeerRefused, explain_tls_failure
from rshell.link.clock import TimerWheel, WheelTimer
from rshell.link.core.constants import HELLO_SECONDS
from rshell.link.core.limits import AT_GATEWAY_FROM_DEVICE, AT_GATEWAY_FROM_OPERATOR
from rshell.link.protocol import LinkOwner, LinkProtocol
from rshell.link.sockets import tcp_socket_of, wrap_tls
from rshell.link.tls_factory import TlsWireFactory

__all__ = ["Arrivals", "address_text"]

#: Connections in their handshake, without HELLO yet, or joining; each costs about 60 KB.
MAX_WAITING = 2_000
#: From here on strangers are dropped for newcomers; the rest is for files, the store and children.
CROWDED = 0.9
#: From here on the newcomer itself is dropped if nobody else is a stranger.
FULL = 0.97
#: Lines about refused connections of one source; a flood must not fill the log.
LINES_RATE, LINES_BURST = 5.0, 200
#: Of all sources together: who has a network of IPv6 addresses is as many sources as they like.
ALL_LINES_RATE, ALL_LINES_BURST = 50.0, 2_000
WARN_EVERY_SECONDS = 60.0


def address_text(transport: Any) -> str:
    """Return ``host:port`` of a transport's peer, for people and the audit."""
    peer = transport.getPeer()
    host, port = getattr(peer, "host", ""), getattr(peer, "port", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@implementer(IHandshakeListener)
class Arrival(Protocol):
    """A connection until it is known; then the link takes its place."""

    _log = Logger()

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._inner: Protocol | None = None
        self._timer: WheelTimer | None = None
        self._address = "?"
        self.source = "?"
        self._deadline = 0.0

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._address = address_text(transport)
        self.source = source_of(getattr(transport.getPeer(), "host", ""))
        self._deadline = self._arrivals.wheel.seconds() + HELLO_SECONDS
        self._timer = self._arrivals.wheel.call_later(HELLO_SECONDS, self._late)
        _, sock = tcp_socket_of(transport)
        self._arrivals.came(self, -1 if sock is None else sock.fileno())

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        connection: SSL.Connection = transport.getHandle()
        try:
            peer = self._arrivals.tls.peer_of(connection)
        except PeerRefused as error:
            self._refuse(str(error), "certificate")
            return
        self._arrivals.metrics.handshakes.inc()
        self._cancel()
        left = self._deadline - self._arrivals.wheel.seconds()
        inner = self._arrivals.protocol_for(peer, self._address, max(0.1, left))
        self._inner = inner
        if isinstance(inner, LinkProtocol):
            # Until HELLO it counts among those that wait; then nothing of it is left.
            inner.greeted = lambda: self._arrivals.went(self)
            transport.hand_over(inner)
            inner.makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted's
            inner.handshake_completed()
        else:
            # A machine that joins counts until it is gone.
            self.dataReceived = inner.dataReceived  # type: ignore[method-assign]  # one hop less
            inner.makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel()
        self._arrivals.went(self)
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif self._address:
            self._say(explain_tls_failure(reason), "tls")

    def _late(self) -> None:
        self._refuse("no TLS handshake in time", "timeout")

    def not_served(self, why: str) -> None:
        """Its handshake could not begin in time."""
        self._refuse(why, "admission")

    def _refuse(self, why: str, label: str) -> None:
        if self._address:
            self._say(why, label)
        self._cancel()
        transport: Any = self.transport
        transport.abortConnection()

    def abort(self, why: str, label: str) -> None:
        """Make room for others."""
        if isinstance(self._inner, LinkProtocol):
            self._arrivals.metrics.connections_refused.labels(label).inc()
            self._inner.abort(why)
        else:
            self._refuse(why, label)

    def _say(self, why: str, label: str) -> None:
        self._arrivals.metrics.connections_refused.labels(label).inc()
        more = self._arrivals.line_about(self.source)
        if more is not None:
            self._log.info(
                "refused a connection from {address}: {why}{more}",
                address=self._address,
                why=printable(why, 200),
                more=more,
            )
        self._address = ""

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Arrivals(Factory):
    """Builds arrivals, and gives each known peer the protocol that fits it.

    Args:
        tls: The gateway's side of TLS.
        wheel: The process's timers.
        devices: Owner of devices' links.
        operators: Owner of operators' links: a door.
        join: Builds the protocol of a machine that joins, from its address.
        max_waiting: Connections of strangers at once; beyond, the oldest of the busiest source
            is dropped.
        admission: When handshakes may begin; by default at the usual rate.
        metrics: What is counted.
        max_files: Open files that this process may have.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        tls: GatewayTLS,
        wheel: TimerWheel,
        devices: LinkOwner,
        operators: LinkOwner,
        join: Callable[[str], Protocol],
        max_waiting: int = MAX_WAITING,
        *,
        admission: Admission | None = None,
        metrics: Metrics | None = None,
        max_files: int | None = None,
    ) -> None:
        self.tls = tls
        self.wheel = wheel
        self.admission = Admission(wheel) if admission is None else admission
        self.metrics = Metrics() if metrics is None else metrics
        self._lines = Throttle(wheel.seconds, LINES_RATE, LINES_BURST)
        self._all_lines = Throttle(wheel.seconds, ALL_LINES_RATE, ALL_LINES_BURST)
        self._max_files = descriptor_limit() if max_files is None else max_files
        self._warned_at: float | None = None
        self._devices = devices
        self._operators = operators
        self._join = join
        self._max_waiting = max_waiting
        #: By source, then in order of arrival.
        self._waiting: dict[str, dict[Arrival, None]] = {}
        self._count = 0

    def wrapped(self) -> TlsWireFactory:
        """Return this factory behind TLS, ready for an endpoint to listen with."""
        wrapped = wrap_tls(self.tls, client=False, factory=self)
        build: Any = self._admitting
        wrapped.protocol = build
        return wrapped

    def _admitting(self, factory: TlsWireFactory, arrival: Arrival) -> AdmittingTLS:
        return AdmittingTLS(factory, arrival, self.admission, arrival.not_served)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return Arrival(self)

    def line_about(self, source: str) -> str | None:
        """Return what a line of the log says beside, or None if there may be no line now."""
        left_out = self._lines.admit(source)
        if left_out is None:
            return None
        all_left_out = self._all_lines.admit("")
        if all_left_out is None:
            return None
        if all_left_out:
            return f" ({all_left_out} lines about other sources left out)"
        return f" ({left_out} lines about this source left out)" if left_out else ""

    def came(self, arrival: Arrival, descriptor: int = -1) -> None:
        """Count a connection that is not known yet.

        At the cap the oldest of the busiest source goes, which may be the new one itself.  A
        source is only ranked, never capped: a whole site may sit behind one NAT.

        Args:
            descriptor: Its number.  The kernel gives the lowest free one, so all below are open:
                the number says how near the limit is, without counting.
        """
        self._waiting.setdefault(arrival.source, {})[arrival] = None
        self._count += 1
        self.metrics.connections.inc()
        if descriptor >= self._max_files * CROWDED:
            self._make_room(descriptor)
        elif self._count > self._max_waiting:
            self._drop_one("dropped for newer connections before it was known", "crowded")
        self.metrics.strangers.set(self._count)

    def _make_room(self, descriptor: int) -> None:
        now = self.wheel.seconds()
        if self._warned_at is None or now - self._warned_at >= WARN_EVERY_SECONDS:
            self._warned_at = now
            self._log.error(
                "{used} of {limit} files are open: connections that are not known yet are dropped;"
                " raise LimitNOFILE",
                used=descriptor,
                limit=self._max_files,
            )
        if self._count > 1 or descriptor >= self._max_files * FULL:
            self._drop_one("dropped: too many files are open", "descriptors")

    def _drop_one(self, why: str, label: str) -> None:
        busiest = max(self._waiting.values(), key=len)
        oldest = next(iter(busiest))
        self.went(oldest)
        oldest.abort(why, label)

    def went(self, arrival: Arrival) -> None:
        """The connection is known, or gone."""
        same = self._waiting.get(arrival.source, {})
        if arrival in same:
            del same[arrival]
            self._count -= 1
            self.metrics.strangers.set(self._count)
            if not same:
                del self._waiting[arrival.source]

    def protocol_for(
        self, peer: PeerCertificate | None, address: str, left_seconds: float
    ) -> Protocol:
        """Return the protocol for a peer whose handshake is complete.

        Args:
            peer: None for a machine that joins.
            address: Of the peer, for people.
            left_seconds: What is left of the time for TLS and HELLO.
        """
        if peer is None:
            return self._join(address)
        device = peer.name.kind == "device"
        link = LinkProtocol(
            self._devices if device else self._operators,
            self.wheel,
            dialler=False,
            limits=AT_GATEWAY_FROM_DEVICE if device else AT_GATEWAY_FROM_OPERATOR,
            greeting_seconds=left_seconds,
        )
        link.peer = peer
        return link
