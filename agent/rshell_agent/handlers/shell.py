"""``shell``: the login's own shell, on a terminal or on pipes; it survives link and agent."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest, ShellRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["ShellHandler"]


@implementer(IPlugin, ICommandHandler)
class ShellHandler:
    """Splices a login shell.

    On a terminal it may live on without an operator.  On pipes it waits for one, as a command
    does: nobody looks at a screen there, and no output may be overwritten.
    """

    name = "shell"
    summary = "Open a login shell on a terminal, or on pipes for a script."
    request_type = ShellRequest
    priority = "interactive"

    async def run(
        self, request: ShellRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(
            kind="shell",
            environment=request.environment,
            terminal=request.terminal,
            detach=request.terminal is not None,
        )
        outcome: Outcome = await channel.splice(process)
        return outcome
