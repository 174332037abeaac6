"""``exec``: one command with its own standard output, error and exit status."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import ExecRequest, Outcome, ProcessRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["ExecHandler"]


@implementer(IPlugin, ICommandHandler)
class ExecHandler:
    """Splices one command; without an operator it waits like a pipe."""

    name = "exec"
    summary = "Run one command, as an argument vector or as a line of the login's shell."
    request_type = ExecRequest
    priority = "normal"

    async def run(
        self, request: ExecRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(
            kind="exec",
            argv=request.argv,
            line=request.line,
            environment=request.environment,
            directory=request.directory,
            terminal=request.terminal,
            timeout_ms=request.timeout_ms,
            confirm=request.confirm,
        )
        outcome: Outcome = await channel.splice(process)
        return outcome
