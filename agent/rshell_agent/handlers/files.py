"""``files``: list, read, write and remove files as a login; docs/files.md says what is spoken."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.handlers.files import FilesRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["FilesHandler"]


@implementer(IPlugin, ICommandHandler)
class FilesHandler:
    """Splices the worker of the same name: it survives the agent, and waits without an operator."""

    name = "files"
    summary = "List, read, write and remove files, within the device's policy."
    request_type = FilesRequest
    priority = "bulk"

    async def run(
        self, request: FilesRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(
            kind="worker", worker=self.name, argument={"version": request.version}
        )
        outcome: Outcome = await channel.splice(process)
        return outcome
