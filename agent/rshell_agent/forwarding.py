"""Where this device's forwards lead: targets judged by policy, resolved once, connected to.

::

    request -> target -> rules -> addresses -> rules again -> connect -> is that the peer? -> socket

A name is looked up once.  Every address is judged, and what is connected to is the address, never
the name again, so an answer that changes between two questions changes nothing.  The rules are the
policy's (keeper/targets.py); the keeper tells them, and the agent obeys: there is no process to run
that the keeper could refuse.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from rshell.handlers.forward import ForwardCode, ForwardRequest, ListenPlace
from rshell_agent.joint import SocketSide
from rshell_agent.keeper.addresses import Address, parse_address
from rshell_agent.keeper.targets import (
    BadRule,
    Rules,
    Target,
    Verdict,
    tcp_target,
    unix_target,
)
from rshell_agent.policy import PolicyReport

__all__ = ["ForwardFailed", "Forwarding", "listening_target", "requested_target"]

#: Each address gets this long: a SYN and its first three repetitions.
CONNECT_SECONDS = 10.0
#: So many addresses of a name are tried, one after the other.
MAX_ADDRESSES = 4
#: What ``localhost`` is, without asking a resolver that could say something else (RFC 6761).
_LOCALHOST = ("127.0.0.1", "::1")


class ForwardFailed(Exception):
    """No connection came about.

    Attributes:
        code: One of `ForwardCode`.
        message: One line for the operator.
    """

    def __init__(self, code: ForwardCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def requested_target(request: ForwardRequest) -> Target:
    """Return where a request wants to go.

    Raises:
        BadTarget: It is no target.
    """
    if request.path is not None:
        return unix_target(request.path)
    return tcp_target(request.host or "", request.port or 0)


def listening_target(place: ListenPlace) -> Target:
    """Return where a request wants the device to listen.

    Raises:
        BadTarget: That is no place.
    """
    if place.path is not None:
        return unix_target(place.path)
    return tcp_target(place.host, place.port or 0, listen=True)


class Forwarding:
    """Connects to targets.

    Args:
        reactor: For connections.
        policy: Returns the policy as it is now.
        resolve: (host, port) -> addresses; fails with OSError.
    """

    def __init__(
        self,
        reactor: Any,
        policy: Callable[[], PolicyReport],
        resolve: Callable[[str, int], Deferred[list[str]]],
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._resolve = resolve

    def rules(self, key: str) -> Rules:
        """Return the rules of ``forward`` or ``forward_back``.

        Raises:
            ForwardFailed: Policy denies all, or cannot be used.
        """
        report = self._policy()
        if report.error is not None:
            text = f"the device's policy cannot be used: {report.error}"
            raise ForwardFailed(ForwardCode.POLICY, text)
        texts = report.forward if key == "forward" else report.forward_back
        try:
            return Rules.parse(texts, key)
        except BadRule as error:
            text = f"the device's policy cannot be used: {key}: {error}"
            raise ForwardFailed(ForwardCode.POLICY, text) from None

    def judge(self, target: Target) -> Verdict:
        """Judge a target by itself; what its name resolves to may be denied all the same.

        Raises:
            ForwardFailed: Policy denies it.
        """
        verdict = self.rules("forward").judge(target)
        if not verdict.allowed:
            raise _denied(verdict)
        return verdict

    async def addresses(self, target: Target) -> list[Address]:
        """Return the addresses of a target to which policy lets a connection go.

        A socket has none.

        Raises:
            ForwardFailed: Policy denies it, or its name leads nowhere.
        """
        first = self.judge(target)
        if target.path:
            _check_socket(target, first)
            return []
        if target.address is not None:
            return [target.address]
        found = await self._look_up(target)
        rules = self.rules("forward")  # as they are now, after the look-up
        judged = [(address, rules.judge(target, address)) for address in found]
        allowed = [address for address, verdict in judged if verdict.allowed]
        if not allowed:
            raise _denied(judged[0][1])
        return allowed[:MAX_ADDRESSES]

    async def _look_up(self, target: Target) -> list[Address]:
        try:
            names = list(_LOCALHOST)
            if not target.is_localhost:
                names = await self._resolve(target.host, target.port)
        except OSError as error:
            why = error.strerror or str(error) or "no answer"
            text = f"{target.host} was not found on the device: {why}"
            raise ForwardFailed(ForwardCode.NOT_FOUND, text) from None
        found = [parse_address(name.partition("%")[0]) for name in names]
        known = [address for address in found if address is not None]
        if not known:
            text = f"{target.host} has no address on the device"
            raise ForwardFailed(ForwardCode.NOT_FOUND, text)
        return known

    async def connect(self, target: Target) -> SocketSide:
        """Connect to a target.

        Returns:
            The socket, of which nothing has been read.

        Raises:
            ForwardFailed: Policy denies it, or nothing answers there.
        """
        addresses = await self.addresses(target)
        if target.path:
            return await self._try(UNIXClientEndpoint(self._reactor, target.path), target, None)
        failure = ForwardFailed(ForwardCode.NOT_FOUND, f"{target} has no address")
        for address in addresses:
            try:
                return await self._try(self._endpoint(target, address), target, address)
            except ForwardFailed as error:
                failure = error
        raise failure

    def _endpoint(self, target: Target, address: Address) -> IStreamClientEndpoint:
        host = f"{address}%{target.zone}" if target.zone else str(address)
        kind = TCP4ClientEndpoint if address.bits == 32 else TCP6ClientEndpoint
        endpoint: IStreamClientEndpoint = kind(self._reactor, host, target.port, CONNECT_SECONDS)
        return endpoint

    async def _try(
        self, endpoint: IStreamClientEndpoint, target: Target, address: Address | None
    ) -> SocketSide:
        where = str(target)
        if address is not None and target.address is None and not target.is_localhost:
            where += f" ({address})"
        try:
            protocol = await endpoint.connect(Factory.forProtocol(SocketSide))
        except ConnectingCancelledError:
            raise CancelledError from None
        except (ConnectError, OSError) as error:
            raise _failed(where, error) from None
        assert isinstance(protocol, SocketSide)
        wrong = None if address is None else _wrong_peer(protocol.transport, target, address)
        if wrong is not None:
            protocol.abort()
            raise ForwardFailed(ForwardCode.UNREACHABLE, f"{where}: {wrong}")
        return protocol


def _wrong_peer(transport: Any, target: Target, address: Address) -> str | None:
    """Say what is wrong with who answered; None if it is who was asked."""
    peer, here = transport.getPeer(), transport.getHost()
    if parse_address(peer.host.partition("%")[0]) != address or peer.port != target.port:
        return "somebody else answered"
    if (peer.host, peer.port) == (here.host, here.port):
        # RFC 793 allows a socket to connect to itself, if its own port happens to be the target.
        return "nothing listens there"
    return None


def _check_socket(target: Target, verdict: Verdict) -> None:
    """Keep a pattern of sockets to its folder: a link there could lead to any other socket."""
    rule = verdict.rule
    if rule is None or not rule.is_pattern:
        return  # whoever named this very path meant what is there
    try:
        mode = os.lstat(target.path).st_mode
    except OSError as error:
        raise _failed(str(target), error) from None
    if not stat.S_ISSOCK(mode):
        text = f"{target} is no socket itself, and the device's policy allows a pattern only"
        raise ForwardFailed(ForwardCode.POLICY, text)


def _denied(verdict: Verdict) -> ForwardFailed:
    return ForwardFailed(ForwardCode.POLICY, verdict.reason)


def _failed(where: str, error: Exception) -> ForwardFailed:
    """Return what an attempt's error means to the operator."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(error, TimeoutError) or number == errno.ETIMEDOUT:
        return ForwardFailed(ForwardCode.TIMEOUT, f"{where} did not answer the device in time")
    if isinstance(error, ConnectionRefusedError) or number == errno.ECONNREFUSED:
        return ForwardFailed(ForwardCode.REFUSED, f"{where} refused the device's connection")
    if number == errno.ENOENT:
        return ForwardFailed(ForwardCode.NOT_FOUND, f"{where} does not exist on the device")
    why = type(error).__name__
    if isinstance(number, int):  # below 0 it is getaddrinfo's, which looks interfaces up
        why = os.strerror(number) if number > 0 else "the device has no such interface"
    return ForwardFailed(ForwardCode.UNREACHABLE, f"{where} cannot be reached: {why}")
