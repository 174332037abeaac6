"""SshDoor: the factory of SSH connections, and whom of them to let in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from twisted.conch.ssh.keys import Key
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.access.audit import AuditRecord
from rshell.access.printable import printable
from rshell.doors.ssh.authentication import Authentication
from rshell.doors.ssh.channel import DoorChannel
from rshell.doors.ssh.connection import (
    PROHIBITED,
    UNKNOWN_TYPE,
    ChannelRefused,
    Connection,
)
from rshell.doors.ssh.forwarding import ForwardChannel, read_target
from rshell.doors.ssh.logins import Credential, Known, Logins, NotAdmitted
from rshell.doors.ssh.metrics import SshMetrics
from rshell.doors.ssh.penalties import (
    FAILED_SECONDS,
    GRACE_SECONDS,
    NOTHING_SECONDS,
    Penalties,
    source_of,
)
from rshell.doors.ssh.remote_forwards import RemoteForwards
from rshell.doors.ssh.session import SessionChannel
from rshell.doors.ssh.transport import Rekeying, SshTransport
from rshell.doors.ssh.turned_away import Turnstile
from rshell.doors.ssh.visit import ConsoleFactory, Visit
from rshell.doors.ssh.wire import Fields
from rshell.gateway.callers import Caller
from rshell.gateway.core import Gateway
from rshell.gateway.throttle import Throttle
from rshell.link.clock import WheelTimer
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import GoAway
from rshell.store.errors import StoreError

__all__ = ["SshDoor"]

#: Connections that have not logged in: each holds a few kilobytes for at most half a minute.
MAX_WAITING = 128
#: Lines of the log about logins of one source.
LINES_RATE, LINES_BURST = 1.0, 50
#: A clock that is set is noticed that soon: certificates end by the wall clock.
EXPIRY_CHECK_SECONDS = 30.0


@attrs.define(eq=False)
class _Arrival:
    """A connection that has not logged in."""

    source: str
    penalty_seconds: float = NOTHING_SECONDS
    reason: str = "nothing"


class SshDoor(Factory):
    """Owns all SSH connections of a gateway.

    Args:
        gateway: Whose devices.
        host_key: Private.
        console: Makes the gateway's console for the user name ``console``; None serves none.
        rekeying: When keys change.
        cpu: Seconds of processor time that this thread has used.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        gateway: Gateway,
        host_key: Key,
        *,
        console: ConsoleFactory | None = None,
        rekeying: Rekeying | None = None,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self.wheel = gateway.wheel
        self.rekeying = rekeying or Rekeying()
        self.privateKeys = {b"ssh-ed25519": host_key}
        self.publicKeys = {b"ssh-ed25519": host_key.public()}
        self.penalties = Penalties(gateway.wheel.seconds)
        self._turnstile = Turnstile(gateway.wheel)
        self._gateway = gateway
        self._console = console
        self._waiting: dict[SshTransport, _Arrival] = {}
        self._lines = Throttle(gateway.wheel.seconds, LINES_RATE, LINES_BURST)
        self._logins = Logins(gateway)
        #: Those who are in, and what looks whether their certificate has expired.
        self._connections: dict[Connection, WheelTimer | None] = {}
        self.cpu = cpu
        self.metrics = SshMetrics(self._gauges)
        gateway.metrics.registry.register(self.metrics)

    def buildProtocol(self, addr: Any) -> Protocol:
        host, port = str(getattr(addr, "host", "")), getattr(addr, "port", 0)
        if self._gateway.stopping or self.penalties.refuses(host):
            self.metrics.turned_away += 1
            return self._turnstile.turn_away()
        self._make_room()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        transport = SshTransport(self, address)
        self._waiting[transport] = _Arrival(host)
        return transport

    def _make_room(self) -> None:
        """At the limit the oldest of the busiest source goes: a crowd cannot keep others out."""
        if len(self._waiting) < MAX_WAITING:
            return
        counts = Counter(source_of(arrival.source) for arrival in self._waiting.values())
        busiest = counts.most_common(1)[0][0]
        for transport, arrival in self._waiting.items():
            if source_of(arrival.source) == busiest:
                transport.abort()
                self.connection_lost(transport)
                return

    # -- TransportOwner --------------------------------------------------------------------------

    def authentication(self, transport: SshTransport) -> Authentication:
        return Authentication(
            partial(self._find, transport),
            partial(self._let_in, transport),
            partial(self._tried, transport),
        )

    def grace_over(self, transport: SshTransport) -> None:
        arrival = self._waiting.get(transport)
        if arrival is not None:
            arrival.penalty_seconds, arrival.reason = GRACE_SECONDS, "grace"

    def _tried(self, transport: SshTransport, method: str) -> None:
        self.metrics.logins["refused", method] += 1
        arrival = self._waiting.get(transport)
        if arrival is not None:
            arrival.penalty_seconds, arrival.reason = FAILED_SECONDS, "failed"

    def connection_lost(self, transport: SshTransport) -> None:
        arrival = self._waiting.pop(transport, None)
        if arrival is None:
            return
        self.penalties.add(arrival.source, arrival.penalty_seconds)
        self.metrics.penalties[arrival.reason,] += 1
        left_out = self._lines.admit(arrival.source)
        if left_out is not None:
            self._log.info(
                "ssh from {address} was not let in{more}",
                address=transport.address,
                more=f" ({left_out} such lines left out)" if left_out else "",
            )

    # -- logins ----------------------------------------------------------------------------------

    async def _find(
        self, transport: SshTransport, credential: Credential
    ) -> Known | NotAdmitted | None:
        source = transport.address.rpartition(":")[0].strip("[]")
        try:
            found = await self._logins.find(credential, source)
        except StoreError as error:
            self._log.error("the store failed: {reason}", reason=str(error))
            transport.disconnect("the gateway failed; try again")
            return None
        if isinstance(found, NotAdmitted) and self._lines.admit(source) is not None:
            self._log.info(
                "ssh from {address}: its certificate {why}",
                address=transport.address,
                why=found.why,
            )
        return found

    async def _let_in(
        self, transport: SshTransport, user: bytes, known: Known
    ) -> Connection | None:
        caller = Caller(operator=known.operator, door="ssh", address=transport.address)
        visit = Visit.new(self._gateway, caller, user, self._console, known.limits)
        connection = Connection(caller, partial(self._make, visit), lambda: self._left(connection))
        connection.transport = transport
        connection.requests = RemoteForwards(connection, visit)
        connection.opened = self._channel_opened
        # From here on a revocation ends it, though it has not begun.
        self._gateway.revocation.operator_came(caller.operator.name, connection, known.use)
        if await self._still_welcome(transport, caller, known):
            self._waiting.pop(transport, None)
            self._gateway.link_opened(connection)
            self._connections[connection] = None
            self._watch_expiry(connection, known)
            self.metrics.logins["ok", known.method] += 1
            self.metrics.handshakes += 1
            self._log.info(
                "operator {name} entered by ssh from {address}",
                name=caller.operator.name,
                address=transport.address,
            )
            return connection
        self._left(connection)
        return None

    async def _still_welcome(self, transport: SshTransport, caller: Caller, known: Known) -> bool:
        store = self._gateway.store
        record = AuditRecord(
            kind="operator.entered",
            operator=caller.operator.name,
            door=caller.door,
            address=caller.address,
            details={"software": transport.software, **known.details},
        )
        try:
            await store.append_audit(record)
        except StoreError as error:
            # Fail closed: what cannot be written down is not done.
            self._log.error("the store failed: {reason}", reason=str(error))
            transport.disconnect("the gateway failed; try again")
            return False
        # Behind the row, not before it: each would have a commit of its own, and this one waits.
        used = self._logins.used(known)
        used.addErrback(self._not_noted)
        found = await self._find(transport, known.credential)
        same = isinstance(found, Known) and found.operator.name == caller.operator.name
        return same and not self._gateway.stopping and not transport.closing

    def _watch_expiry(self, connection: Connection, known: Known) -> None:
        """End a connection when its certificate ends; what it left running goes on."""
        if known.limits.expires is None or connection not in self._connections:
            return
        left = known.limits.expires - self._gateway.wall()
        if left <= 0:
            text = "your certificate has expired: log in with a new one"
            goaway = GoAway(code=ErrorCode.EXPIRED.value, message=text)
            connection.go_away(goaway, close=True, reason="expired")
        else:
            self._connections[connection] = self._gateway.wheel.call_later(
                min(left, EXPIRY_CHECK_SECONDS), partial(self._watch_expiry, connection, known)
            )

    def _not_noted(self, failure: Failure) -> None:
        """When a key was used last is for people; what has to be written is in the audit."""
        self._log.warn("a key's last use was not kept: {why}", why=failure.getErrorMessage())

    def _left(self, connection: Connection) -> None:
        name = connection.caller.operator.name
        if connection.transport.authenticated and self._lines.admit(name) is not None:
            self._log.info(
                "operator {name} at {address} left",
                name=name,
                address=connection.caller.address,
            )
        timer = self._connections.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self._gateway.link_closed(connection)
        self._gateway.revocation.operator_went(name, connection)

    # -- channels --------------------------------------------------------------------------------

    def _channel_opened(self, kind: str) -> None:
        if kind:
            self.metrics.channels[kind,] += 1
        else:
            self.metrics.channels_refused += 1

    def _gauges(self) -> Mapping[str, Mapping[str, float]]:
        channels = dict.fromkeys(("session", "forward", "forwarded"), 0)
        for connection in self._connections:
            for kind in connection.kinds():
                channels[kind] += 1
        return {
            "connections": {"waiting": len(self._waiting), "in": len(self._connections)},
            "channels": channels,
            "sources_waiting": {"": len(self.penalties)},
        }

    @staticmethod
    def _make(visit: Visit, connection: Connection, kind: bytes, fields: Fields) -> DoorChannel:
        if kind == b"session":
            return SessionChannel(connection, visit)
        request = read_target(kind, fields)
        if request is not None:
            if not visit.limits.forwarding:
                raise ChannelRefused(PROHIBITED, "your certificate does not permit port forwarding")
            return ForwardChannel(connection, visit, request)
        if kind in (b"x11", b"auth-agent@openssh.com", b"forwarded-tcpip"):
            raise ChannelRefused(PROHIBITED, "not allowed")
        name = printable(kind.decode("ascii", "replace"), 64)
        raise ChannelRefused(UNKNOWN_TYPE, f"channels of type {name} are not known")
