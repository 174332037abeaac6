"""``forward``: one stream is one connection from here, or one listener whose connections go there.

It lives in the agent: a connection has no login, and is over when the agent is.  Links it survives
as every stream does.  What it may do is decided by forwarding.py and listening.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import BadRequest, Outcome
from rshell.handlers.forward import (
    CONNECTED,
    CONNECTION,
    LISTENING,
    ForwardCode,
    ForwardRequest,
    ForwardResult,
    PendingConnection,
)
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel
from rshell_agent.forwarding import (
    ForwardFailed,
    Forwarding,
    listening_target,
    requested_target,
)
from rshell_agent.joint import Joint, SocketSide
from rshell_agent.keeper.targets import BadTarget, Target
from rshell_agent.listening import Listening
from rshell_agent.policy import PolicyWatch

__all__ = ["ForwardHandler", "Forwards"]


@attrs.frozen
class Forwards:
    """What all forwards of a device share."""

    forwarding: Forwarding
    listening: Listening
    policy: PolicyWatch

    @classmethod
    def new(
        cls,
        reactor: Any,
        policy: PolicyWatch,
        resolve: Callable[[str, int], Deferred[list[str]]],
    ) -> Forwards:
        """Wire them; ``resolve``: (host, port) -> addresses, fails with OSError."""
        forwarding = Forwarding(reactor, lambda: policy.current, resolve)
        return cls(forwarding, Listening(reactor, policy, forwarding), policy)

    async def look_again(self, target: Target, listen: bool) -> None:
        """Read the policy anew if it denies a target: somebody may just have changed it."""
        try:
            if listen:
                self.listening.judge(target)
            else:
                self.forwarding.judge(target)
        except ForwardFailed:
            await self.policy.refresh()


def _of_device(device: IDeviceContext) -> Forwards:
    forwards = getattr(device, "forwards", None)
    if not isinstance(forwards, Forwards):
        raise BadRequest("this device forwards nothing")
    return forwards


@implementer(IPlugin, ICommandHandler)
class ForwardHandler:
    """Connects, listens, or hands over a connection that came.

    Args:
        find: Returns what a device's forwards share.
    """

    name = "forward"
    summary = "Connect to a port or a unix socket of the device, or of what it reaches."
    request_type = ForwardRequest
    priority = "normal"

    def __init__(self, find: Callable[[IDeviceContext], Forwards] = _of_device) -> None:
        self._find = find

    async def run(
        self, request: ForwardRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        forwards = self._find(device)
        try:
            if request.listen is not None:
                target = listening_target(request.listen)
            elif request.accept is None:
                target = requested_target(request)
            else:
                target = None
        except BadTarget as error:
            raise BadRequest(str(error)) from None
        channel.write(b"")  # accepted: from here on it happens once
        try:
            if target is None:
                return await _accept(forwards, request, channel)
            await forwards.look_again(target, request.listen is not None)
            if request.listen is not None:
                return await _listen(forwards, target, request.check, channel)
            if request.check:
                addresses = await forwards.forwarding.addresses(target)
                return Outcome(status="ok", result={"addresses": [str(one) for one in addresses]})
            return await _connect(forwards, target, channel)
        except ForwardFailed as error:
            status = "refused" if error.code is ForwardCode.POLICY else "error"
            return Outcome(status=status, code=error.code.value, message=error.message[:1024])


async def _connect(forwards: Forwards, target: Target, channel: IHandlerChannel) -> Outcome:
    socket = await forwards.forwarding.connect(target)
    peer = None if socket.transport is None else socket.transport.getPeer()
    body = {"host": str(getattr(peer, "host", "")), "port": getattr(peer, "port", 0)}
    if target.path:
        body = {"path": target.path}
    channel.send_event(CONNECTED, body)
    return await _join(channel, socket)


async def _accept(forwards: Forwards, request: ForwardRequest, channel: IHandlerChannel) -> Outcome:
    socket = forwards.listening.take(request.accept or "", channel.operator)
    if request.drop:
        socket.abort()
        return Outcome(status="ok")
    return await _join(channel, socket)


async def _join(channel: IHandlerChannel, socket: SocketSide) -> Outcome:
    joint = Joint(channel, socket)
    try:
        in_order = await joint.done
    except CancelledError:
        joint.abort()
        raise
    if not in_order:
        text = f"the connection was reset after {joint.received:,} bytes in, {joint.sent:,} out"
        return Outcome(status="error", code=ForwardCode.RESET.value, message=text)
    result = ForwardResult(received=joint.received, sent=joint.sent)
    return Outcome(status="ok", result=msgspec.to_builtins(result))


async def _listen(
    forwards: Forwards, target: Target, check: bool, channel: IHandlerChannel
) -> Outcome:
    if check:
        forwards.listening.judge(target)
        return Outcome(status="ok")

    def announce(pending: PendingConnection) -> None:
        channel.send_event(CONNECTION, msgspec.to_builtins(pending))

    listener = forwards.listening.listen(target, channel.operator, announce)
    try:
        channel.send_event(LISTENING, listener.place())
        raise await listener.ended
    finally:
        listener.stop()
