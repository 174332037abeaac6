"""One authenticated link to a gateway: resolve, dial, TLS, HELLO, WELCOME.

All addresses of all gateways are tried, each a little after the one before, so that one which
answers nothing delays nobody (RFC 8305); of those that accept, one after the other is asked until a
gateway welcomes us.  What it is not: it does not dial again; `rshell.client.uplink` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
from cryptography import x509
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
from rshell.identity.revoked import REVOKED_FEATURE, RevokedGateways, RevokedMemory
from rshell.identity.tls import ClientTLS, verify_gateway_name
from rshell.link.addresses import resolve, split_address
from rshell.link.clock import TimerWheel
from rshell.link.core.constants import DEFAULT_WINDOW, PROTOCOL_MAX, PROTOCOL_MIN
from rshell.link.core.errors import ErrorCode
from rshell.link.core.limits import AT_CLIENT
from rshell.link.core.messages import (
    Clock,
    GoAway,
    Hello,
    Notice,
    Open,
    Sessions,
    VersionRange,
    Welcome,
)
from rshell.link.dialling import LinkEndpoint, connect_first
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
        revoked: Takes in the lists that the gateway tells, and ends a link to one that is on it.

    Attributes:
        welcomed: Fires with this object, or fails with `ConnectionFailed`.
        welcome: What the gateway said; None before.
        link: The link protocol; None before it connected.
        lost_reason: Why it is gone; None while it lives.
        goaway: The gateway's GOAWAY, if it sent one.
        leaving: Called with a GOAWAY on a welcomed link: it takes no new streams.
        notified: Called with each notice of the gateway's about a session (rule S4).
    """

    def __init__(
        self, host: str, hello: Hello, wheel: TimerWheel, revoked: RevokedMemory | None = None
    ) -> None:
        self.welcomed: Deferred[GatewayLink] = Deferred(lambda _: self.give_up())
        self.welcome: Welcome | None = None
        self.link: LinkProtocol | None = None
        self.lost_reason: str | None = None
        self.goaway: GoAway | None = None
        self.leaving: Callable[[GoAway], None] | None = None
        self.notified: Callable[[Notice], None] | None = None
        self._host = host
        self._hello = hello
        self._wheel = wheel
        self._revoked = revoked
        self._certificate: x509.Certificate | None = None
        self._told = False
        self._waiting: list[Deferred[None]] = []

    def build(self) -> LinkProtocol:
        """Make the protocol for the connection."""
        self.link = _DiallingLink(self, self._wheel, dialler=True, limits=AT_CLIENT)
        self.link.advised = lambda advice: self._learn_revoked(advice.revoked_gateways)
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

    def give_up(self) -> None:
        """Cut it off: nobody waits for WELCOME any more."""
        self._told = True
        if self.link is not None:
            self.link.abort("not needed any more")

    # -- LinkOwner -------------------------------------------------------------------------------

    def link_handshaken(self, link: LinkProtocol) -> None:
        transport: Any = link.transport
        try:
            self._certificate = verify_gateway_name(transport.getHandle(), self._host)
        except GatewayNotTrusted as error:
            link.abort(str(error))
            return
        except SSL.Error:
            link.abort("TLS failed")
            return
        link.hello(self._hello)

    def hello_received(self, link: LinkProtocol, hello: Hello) -> None:
        link.abort("HELLO from a gateway")

    def _learn_revoked(self, told: RevokedGateways | None) -> None:
        """Keep the newer list; leave at once if it names this gateway (rule H7)."""
        if self._revoked is None or not self._revoked.learn(told):
            return
        if self._revoked.lists(self._certificate) and self.link is not None:
            self.link.abort("this gateway's key is revoked")

    def welcome_received(self, link: LinkProtocol, welcome: Welcome) -> None:
        self._learn_revoked(welcome.revoked_gateways)
        if link.closed:
            return
        self.welcome = welcome
        if not self._told:
            self._told = True
            self.welcomed.callback(self)

    def sessions_received(self, link: LinkProtocol, sessions: Sessions) -> None:
        """Pass on what the gateway tells of sessions; the rest is for agents."""
        if self.notified is not None:
            for notice in sessions.notices:
                self.notified(notice)

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
        features=["resume", "deadline", "notices", REVOKED_FEATURE],
        max_streams=0,
        window=DEFAULT_WINDOW,
        clock=Clock(int(clock() * 1000), int(time.monotonic() * 1000)),
    )


@attrs.frozen
class _Target:
    """One address of one gateway; the certificate must be for ``host``."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}"


_Won = tuple[_Target, GatewayLink]
_Attempt = Deferred[_Won]


async def dial(
    reactor: Any,
    wheel: TimerWheel,
    credentials: Credentials,
    addresses: tuple[str, ...],
    connect_seconds: float = CONNECT_SECONDS,
    revoked: RevokedMemory | None = None,
) -> GatewayLink:
    """Connect to the first gateway that welcomes us.

    Args:
        reactor: Where the connection lives.
        wheel: Timers of the link.
        credentials: Who we are, and whom we believe.
        addresses: "host:port" each, in order of preference; of a name, all its addresses.
        connect_seconds: How long one address may take to accept TCP.
        revoked: The gateways that are not believed any more; none if absent.

    Raises:
        ConnectionFailed: None did; the error is the last gateway's that answered, else says of
            each address why it did not.
    """
    search = _Search(reactor, wheel, credentials, connect_seconds, revoked)
    last: ConnectionFailed | None = None
    while (owner := await search.next_of(addresses)) is not None:
        try:
            return await _welcomed(owner, wheel)
        except ConnectionFailed as error:
            if last is None or last.code == "unreachable":
                last = error
    if last is None:
        why = "; ".join(search.reasons) or "there is no gateway to dial"
        last = ConnectionFailed("unreachable", why, "")
    if last.code == "unreachable" and not last.hint:
        last.hint = f"is the gateway up, and can this machine reach {', '.join(addresses)}?"
    raise last


class _NothingLeft(ConnectError):
    """No address of a gateway is left to be tried."""


class _Search:
    """A race of all addresses of all gateways, each begun a little after the one before.

    Attributes:
        reasons: Why there was no connection, each about one address.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        credentials: Credentials,
        connect_seconds: float,
        revoked: RevokedMemory | None,
    ) -> None:
        self.reasons: list[str] = []
        self._reactor = reactor
        self._wheel = wheel
        # No floor on disk: an operator's machine knows the time, and a write would cost each
        # command.
        keys = frozenset[bytes]() if revoked is None else revoked.keys
        self._tls = ClientTLS(credentials, ClockFloor(None), keys)
        self._revoked = revoked
        self._connect_seconds = connect_seconds
        self._tried: set[_Target] = set()

    async def next_of(self, addresses: tuple[str, ...]) -> GatewayLink | None:
        """Return a link to an address that has not been connected to yet, None if none accepts."""
        self.reasons.clear()
        # A name that is slow to be found delays no other gateway.
        attempts = [partial(self._gateway, text) for text in addresses]
        try:
            target, owner = await self._first(attempts)
        except (ConnectError, OSError):
            return None
        self._tried.add(target)
        return owner

    async def _first(self, attempts: Sequence[Callable[[], _Attempt]]) -> _Won:
        if not attempts:
            raise _NothingLeft
        return await connect_first(self._reactor, attempts, lambda late: late[1].give_up())

    def _gateway(self, text: str) -> _Attempt:
        return Deferred.fromCoroutine(self._any_of(text))

    async def _any_of(self, text: str) -> _Won:
        """Connect to one gateway, over whichever of its addresses accepts first."""
        try:
            host, port = split_address(text)
        except ValueError as error:
            self.reasons.append(f"no link to the gateway: {error}")
            raise _NothingLeft from None
        try:
            found = await resolve(self._reactor, host, port)
        except OSError as error:
            self.reasons.append(f"cannot resolve {host}: {error.strerror or error}")
            raise
        targets = [_Target(host, address, port) for address in found]
        return await self._first([partial(self._one, t) for t in targets if t not in self._tried])

    def _one(self, target: _Target) -> _Attempt:
        owner = GatewayLink(target.host, new_hello(), self._wheel, self._revoked)
        factory = Factory.forProtocol(owner.build)
        factory.noisy = False
        wrapped = wrap_tls(self._tls, client=True, factory=factory)
        endpoint = LinkEndpoint(self._reactor, target.address, target.port, self._connect_seconds)

        def failed(failure: Failure) -> Failure:
            self.reasons.append(f"no link to the gateway at {target}: {_reason(failure.value)}")
            return failure

        return endpoint.connect(wrapped).addCallbacks(lambda _: (target, owner), failed)


async def _welcomed(owner: GatewayLink, wheel: TimerWheel) -> GatewayLink:
    timer = wheel.call_later(GREETING_SECONDS, lambda: _too_slow(owner))
    try:
        return await owner.welcomed
    finally:
        timer.cancel()


def _too_slow(owner: GatewayLink) -> None:
    if owner.link is not None:
        owner.link.abort("the gateway did not welcome us in time")


def _reason(error: BaseException | None) -> str:
    code = getattr(error, "osError", None)
    if isinstance(code, int) and code:
        return os.strerror(code).lower()
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
