"""``shell``: the login's own shell on a terminal, which survives link and agent."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest, ShellRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["ShellHandler"]


@implementer(IPlugin, ICommandHandler)
class ShellHandler:
    """Splices a login shell; it may live on without an operator."""

    name = "shell"
    summary = "Open an interactive login shell on a terminal."
    request_type = ShellRequest
    priority = "interactive"

    async def run(
        self, request: ShellRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(
            kind="shell",
            environment=request.environment,
            terminal=request.terminal,
            detach=True,
        )
        outcome: Outcome = await channel.splice(process)
        return outcome
