"""``sftp``: an SFTP server under the login, for a client that pipes its packets through."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.handlers.sftp import SftpRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["SftpHandler"]


@implementer(IPlugin, ICommandHandler)
class SftpHandler:
    """Splices the worker of this name; without an operator it waits like a pipe."""

    name = "sftp"
    summary = "Serve SFTP version 3 to a client that pipes its packets through."
    request_type = SftpRequest
    priority = "normal"

    async def run(
        self, request: SftpRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(
            kind="worker", worker="sftp", argument={"read_only": request.read_only}
        )
        outcome: Outcome = await channel.splice(process)
        return outcome
