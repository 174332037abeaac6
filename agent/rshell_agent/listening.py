"""Listening for an operator: connections that come to this device and go on at their end.

::

    listen ---> BackListener --connection--> PendingConnections --accept--> Joint
                   | policy looked at again           | 30 s, then dropped
                   v                                  v
                 ended                              reset

One session holds a listener.  A connection that comes waits, unread, until the operator's end asks
for it by its id on a stream of its own.  Ids cannot be guessed, and belong to one operator.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, Protocol

from rshell.handlers.forward import ForwardCode, PendingConnection
from rshell.link.unix_sockets import remove_stale
from rshell_agent.forwarding import ForwardFailed, Forwarding
from rshell_agent.joint import SocketSide
from rshell_agent.keeper.targets import Rule, Target
from rshell_agent.policy import FRESH_SECONDS, PolicyWatch

__all__ = ["MAX_PENDING", "PENDING_SECONDS", "BackListener", "Listening"]

#: Connections of all listeners that wait for an operator; at this many no more are accepted.  What
#: one turn of the reactor has accepted already comes on top: 100 at most.  One that ends while it
#: waits keeps its place until it is asked for, or its time is over: each was announced, and who
#: connects again and again must not pile up events that no operator reads.
MAX_PENDING = 256
#: An operator's end that has not asked for a connection by then does not come.
PENDING_SECONDS = 30.0
#: A device is no proxy: a few operators with a few listeners each.
MAX_LISTENERS = 32
#: Connections that the kernel holds for us while we do not accept.
BACKLOG = 128
#: Of a range of ports, so many are tried for one that is free.
MAX_PORTS_TRIED = 100


class _Arriving(SocketSide):
    """A connection that has come."""

    def __init__(self, listener: BackListener) -> None:
        super().__init__()
        self._listener = listener

    def connectionMade(self) -> None:
        super().connectionMade()
        self._listener.arrived(self)


@attrs.frozen(eq=False)
class _Pending:
    """A connection that waits."""

    operator: str
    listener: BackListener
    socket: _Arriving
    timer: IDelayedCall


class Listening:
    """All listeners of this device, and the connections that wait.

    Args:
        reactor: Listens, and tells the time.
        policy: Asked again while listeners live.
        forwarding: Knows the rules.
    """

    def __init__(self, reactor: Any, policy: PolicyWatch, forwarding: Forwarding) -> None:
        self._reactor = reactor
        self._policy = policy
        self._forwarding = forwarding
        self._listeners: dict[BackListener, None] = {}
        self._pending: dict[str, _Pending] = {}
        self._look: IDelayedCall | None = None

    # -- listeners -------------------------------------------------------------------------------

    def listen(
        self, target: Target, operator: str, announce: Callable[[PendingConnection], None]
    ) -> BackListener:
        """Begin to listen.

        Args:
            target: Where.
            operator: For whom.
            announce: Called with each connection that waits.

        Raises:
            ForwardFailed: Policy denies it, the place is taken, or there are too many.
        """
        rule = self.judge(target)
        if len(self._listeners) >= MAX_LISTENERS:
            text = f"this device listens for operators at {MAX_LISTENERS} places already"
            raise ForwardFailed(ForwardCode.OVERLOAD, text)
        listener = BackListener(self, target, operator, announce)
        listener.port = self._bind(target, rule, listener)
        self._listeners[listener] = None
        self._look_later()
        return listener

    def judge(self, target: Target) -> Rule:
        """Return the rule that lets the device listen there.

        Raises:
            ForwardFailed: There is none.
        """
        verdict = self._forwarding.rules("forward_back").judge_listening(target)
        if verdict.rule is None:
            raise ForwardFailed(ForwardCode.POLICY, verdict.reason)
        return verdict.rule

    def _bind(self, target: Target, rule: Rule, factory: Factory) -> Any:
        listen = self._reactor.listenTCP
        if target.path:
            try:
                remove_stale(target.path)
                return self._reactor.listenUNIX(target.path, factory, BACKLOG, mode=0o600)
            except (CannotListenError, OSError) as error:
                raise _taken(target, error) from None
        host = "127.0.0.1" if target.is_localhost else "" if target.host == "*" else target.host
        low, high = rule.ports
        ports = [target.port] if target.port or (low, high) == (1, 65535) else range(low, high + 1)
        failure: Exception = OSError()
        for port in ports[:MAX_PORTS_TRIED]:
            try:
                return listen(port, factory, BACKLOG, host)
            except (CannotListenError, OSError) as error:
                failure = error
        raise _taken(target, failure)

    def forget(self, listener: BackListener) -> None:
        """A listener has ended; what waits for it is dropped."""
        self._listeners.pop(listener, None)
        for id, pending in list(self._pending.items()):
            if pending.listener is listener:
                self._drop(id)

    # -- policy, again ---------------------------------------------------------------------------

    def _look_later(self) -> None:
        if self._look is None and self._listeners:
            self._look = self._reactor.callLater(FRESH_SECONDS, self._look_again)

    def _look_again(self) -> None:
        Deferred.fromCoroutine(self._policy.refresh()).addCallback(self._judge_again)

    def _judge_again(self, _report: object) -> None:
        self._look = None
        for listener in list(self._listeners):
            try:
                if "forward" not in self._policy.current.handlers:
                    text = "the device's policy does not allow the handler forward any more"
                    raise ForwardFailed(ForwardCode.POLICY, text)
                self.judge(listener.target)
            except ForwardFailed as error:
                listener.stop(error)
        self._look_later()

    # -- connections that wait -------------------------------------------------------------------

    def add(self, listener: BackListener, socket: _Arriving) -> str:
        """Have a connection wait; return its id."""
        id = secrets.token_hex(16)
        timer = self._reactor.callLater(PENDING_SECONDS, self._drop, id)
        self._pending[id] = _Pending(listener.operator, listener, socket, timer)
        self._regulate()
        return id

    def take(self, id: str, operator: str | None) -> SocketSide:
        """Hand over a connection that waits.

        Raises:
            ForwardFailed: There is none of that id, or it is somebody else's.
        """
        pending = self._pending.get(id)
        if pending is None or pending.operator != operator:
            text = f"no such connection waits; after {PENDING_SECONDS:g} s it is dropped"
            raise ForwardFailed(ForwardCode.NOT_FOUND, text)
        self._remove(id)
        if pending.socket.lost is not None:
            raise ForwardFailed(ForwardCode.NOT_FOUND, "the connection ended while it waited")
        return pending.socket

    def _drop(self, id: str) -> None:
        self._remove(id).socket.abort()

    def _remove(self, id: str) -> _Pending:
        pending = self._pending.pop(id)
        if pending.timer.active():
            pending.timer.cancel()
        self._regulate()
        return pending

    def _regulate(self) -> None:
        full = len(self._pending) >= MAX_PENDING
        for listener in self._listeners:
            listener.pause(full)


class BackListener(Factory):
    """One place where the device listens for an operator.

    Args:
        listening: Knows all of them.
        target: Where.
        operator: For whom.
        announce: Called with each connection that waits.

    Attributes:
        port: Listens.
        ended: Fires with why it was ended, if not by its session.
    """

    noisy = False

    def __init__(
        self,
        listening: Listening,
        target: Target,
        operator: str,
        announce: Callable[[PendingConnection], None],
    ) -> None:
        self.target = target
        self.operator = operator
        self.port: Any = None
        self.ended: Deferred[ForwardFailed] = Deferred()
        self._listening = listening
        self._announce = announce
        self._paused = False
        self._stopped = False

    def place(self) -> dict[str, Any]:
        """Return where it listens, for the operator."""
        if self.target.path:
            return {"path": self.target.path}
        host = self.port.getHost()
        return {"host": host.host, "port": host.port}

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Arriving(self)

    def arrived(self, socket: _Arriving) -> None:
        """A connection has come."""
        id = self._listening.add(self, socket)
        peer: Any = None if socket.transport is None else socket.transport.getPeer()
        host, port = getattr(peer, "host", ""), getattr(peer, "port", 0)
        self._announce(PendingConnection(id, str(host)[:64], port))

    def pause(self, paused: bool) -> None:
        """Accept nothing for now, or go on."""
        if paused != self._paused and not self._stopped:
            self._paused = paused
            (self.port.stopReading if paused else self.port.startReading)()

    def stop(self, why: ForwardFailed | None = None) -> None:
        """Listen no more; what was taken over goes on."""
        if self._stopped:
            return
        self._stopped = True
        self.port.stopListening()
        self._listening.forget(self)
        if why is not None:
            self.ended.callback(why)


def _taken(target: Target, error: Exception) -> ForwardFailed:
    cause = getattr(error, "socketError", error)
    number = getattr(cause, "errno", None)
    if number == errno.EADDRINUSE:
        return ForwardFailed(ForwardCode.IN_USE, f"{target} is in use on the device")
    why = os.strerror(number) if number else type(cause).__name__
    text = f"the device cannot listen at {target}: {why}"
    return ForwardFailed(ForwardCode.UNREACHABLE, text)
