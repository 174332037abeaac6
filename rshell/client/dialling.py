"""One authenticated link to a gateway: resolve, dial, TLS, HELLO, WELCOME.

Addresses are tried one after the other until a gateway welcomes us.  What it is not: it does not
dial again; `rshell.client.uplink` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rshell import __version__
from rshell.client.errors import ConnectionFailed
from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials
from rshell.identity.refusals import GatewayNotTrusted, explain_tls_failure
from rshell.identity.tls import ClientTLS, verify_gateway_name
from rshell.link.addresses import resolve, split_address
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW, PROTOCOL_MAX, PROTOCOL_MIN
from rshell.link.core.errors import ErrorCode
from rshell.link.core.limits import AT_CLIENT
from rshell.link.core.messages import Clock, GoAway, Hello, Open, Sessions, VersionRange, Welcome
from rshell.link.dialling import LinkEndpoint
from rshell.link.protocol import LinkProtocol
from rshell.link.sockets import wrap_tls

__all__ = ["GatewayLink", "dial"]

#: Somebody waits in front of the terminal: much longer than this is a dead path.
CONNECT_SECONDS = 10.0
#: TLS, HELLO and WELCOME; a busy gateway may take its time (rule P7).
GREETING_SECONDS = 30.0


@implementer(IHandshakeListener)
class _DiallingLink(LinkProtocol):
    """A link that tells its owner of the handshake, and why it broke in words."""

    def handshakeCompleted(self) -> None:
        self.handshake_completed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        greeting = self._reason is None and self.connected_at is None
        if greeting and not isinstance(reason.value, ConnectionDone | ConnectionAborted):
            self._reason = explain_tls_failure(reason)
        super().connectionLost(reason)


class GatewayLink:
    """Owner of one operator's link, from its handshake to its end.

    Args:
        host: The name or address that was dialled; the gateway's certificate must be for it.
        hello: How we introduce ourselves.
        wheel: Timers.

    Attributes:
        welcomed: Fires with this object, or fails with `ConnectionFailed`.
        welcome: What the gateway said; None before.
        link: The link protocol; None before it connected.
        lost_reason: Why it is gone; None while it lives.
        goaway: The gateway's GOAWAY, if it sent one.
        leaving: Called with a GOAWAY on a welcomed link: it takes no new streams.
    """

    def __init__(self, host: str, hello: Hello, wheel: TimerWheel) -> None:
        self.welcomed: Deferred[GatewayLink] = Deferred(lambda _: self._not_wanted())
        self.welcome: Welcome | None = None
        self.link: LinkProtocol | None = None
        self.lost_reason: str | None = None
        self.goaway: GoAway | None = None
        self.leaving: Callable[[GoAway], None] | None = None
        self._host = host
        self._hello = hello
        self._wheel = wheel
        self._told = False
        self._waiting: list[Deferred[None]] = []

    def build(self) -> LinkProtocol:
        """Make the protocol for the connection."""
        self.link = _DiallingLink(self, self._wheel, dialler=True, limits=AT_CLIENT)
        return self.link

    def when_lost(self) -> Deferred[None]:
        """Return a Deferred that fires when the link is gone."""
        waiting: Deferred[None] = Deferred()
        if self.lost_reason is not None:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    def end(self) -> None:
        """Say goodbye and close."""
        if self.link is not None and self.lost_reason is None:
            self.link.go_away(GoAway(code=ErrorCode.NONE.value), close=True, reason="closed")

    def _not_wanted(self) -> None:
        """Whoever waited for WELCOME gave up."""
        self._told = True
        if self.link is not None:
            self.link.abort("not needed any more")

    # -- LinkOwner -------------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        transport: Any = link.transport
        try:
            verify_gateway_name(transport.getHandle(), self._host)
        except GatewayNotTrusted as error:
            link.abort(str(error))
            return
        except SSL.Error:
            link.abort("TLS failed")
            return
        link.hello(self._hello)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        link.abort("HELLO from a gateway")

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self.welcome = welcome
        if not self._told:
            self._told = True
            self.welcomed.callback(self)

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """SESSIONS is for agents."""

    def goaway_received(self, link: LinkProtocol, goaway: GoAway) -> None:
        self.goaway = goaway
        if self.welcome is not None and self.leaving is not None:
            self.leaving(goaway)

    def stream_requested(self, link: LinkProtocol, number: int, request: Open) -> None:
        link.refuse(number, ErrorCode.POLICY, "an operator's client serves nothing")

    def link_lost(self, link: LinkProtocol, reason: str) -> None:
        self.lost_reason = reason
        if not self._told:
            self._told = True
            self.welcomed.errback(self._refusal(reason))
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _refusal(self, reason: str) -> ConnectionFailed:
        goaway = self.goaway
        if goaway is None:
            return ConnectionFailed("unreachable", f"no link to the gateway: {reason}", "")
        return ConnectionFailed(
            goaway.code, f"the gateway refused the link: {goaway.message or goaway.code}"
        )


def new_hello(clock: Callable[[], float] = time.time) -> Hello:
    """Return the HELLO of an operator's client."""
    return Hello(
        protocol=VersionRange(PROTOCOL_MIN, PROTOCOL_MAX),
        software=f"rshell/{__version__}",
        instance=os.urandom(16),
        dial=1,
        features=["resume"],
        max_streams=0,
        window=DEFAULT_WINDOW,
        clock=Clock(int(clock() * 1000), int(time.monotonic() * 1000)),
    )


async def dial(
    reactor: Any,
    wheel: TimerWheel,
    credentials: Credentials,
    addresses: tuple[str, ...],
    connect_seconds: float = CONNECT_SECONDS,
) -> GatewayLink:
    """Connect to the first gateway that welcomes us.

    Args:
        reactor: Where the connection lives.
        wheel: Timers of the link.
        credentials: Who we are, and whom we believe.
        addresses: "host:port" each, tried in order; of a name, all its addresses.
        connect_seconds: How long one address may take to accept TCP.

    Raises:
        ConnectionFailed: None did; the error is the last gateway's that answered, else the last.
    """
    last: ConnectionFailed | None = None
    for address in addresses:
        try:
            host, port = split_address(address)
        except ValueError as error:
            last = last or ConnectionFailed("unreachable", f"no link to the gateway: {error}", "")
            continue
        try:
            found = await resolve(reactor, host, port)
        except OSError as error:
            text = error.strerror or str(error)
            last = last or ConnectionFailed("unreachable", f"cannot resolve {host}: {text}", "")
            continue
        for resolved in found:
            try:
                return await _dial_one(
                    reactor, wheel, credentials, host, resolved, port, connect_seconds
                )
            except ConnectionFailed as error:
                if last is None or last.code == "unreachable":
                    last = error
    if last is None:
        last = ConnectionFailed("unreachable", "there is no gateway to dial", "")
    if last.code == "unreachable" and not last.hint:
        last.hint = f"is the gateway up, and can this machine reach {', '.join(addresses)}?"
    raise last


async def _dial_one(
    reactor: Any,
    wheel: TimerWheel,
    credentials: Credentials,
    host: str,
    address: str,
    port: int,
    connect_seconds: float,
) -> GatewayLink:
    owner = GatewayLink(host, new_hello(), wheel)
    # No floor on disk: an operator's machine knows the time, and a write would cost each command.
    tls = ClientTLS(credentials, ClockFloor(None))
    factory = Factory.forProtocol(owner.build)
    factory.noisy = False
    wrapped = wrap_tls(tls, client=True, factory=factory)
    endpoint = LinkEndpoint(reactor, address, port, connect_seconds)
    try:
        await endpoint.connect(wrapped)
    except (ConnectError, OSError) as error:
        shown = f"[{address}]" if ":" in address else address
        raise ConnectionFailed(
            "unreachable", f"no link to the gateway at {shown}:{port}: {_reason(error)}", ""
        ) from None
    timer = wheel.call_later(GREETING_SECONDS, lambda: _too_slow(owner))
    try:
        return await owner.welcomed
    finally:
        timer.cancel()


def _too_slow(owner: GatewayLink) -> None:
    if owner.link is not None:
        owner.link.abort("the gateway did not welcome us in time")


def _reason(error: Exception) -> str:
    code = getattr(error, "osError", None)
    if isinstance(code, int) and code:
        return os.strerror(code).lower()
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
