"""``tail``: the ends of logs, and what comes after them."""

from __future__ import annotations

import msgspec
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import BadRequest, Outcome, ProcessRequest, TailRequest
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["TailHandler"]

#: What the keeper takes as a worker's argument (docs/keeper.md K44).
MAX_ARGUMENT_BYTES = 8192


@implementer(IPlugin, ICommandHandler)
class TailHandler:
    """Splices the worker; without an operator it waits like a pipe, and reads no further."""

    name = "tail"
    summary = "Show the last lines of files or of the journal, and follow them."
    request_type = TailRequest
    priority = "normal"

    async def run(
        self, request: TailRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        argument = msgspec.to_builtins(request)
        size = len(msgspec.json.encode(argument))
        if size > MAX_ARGUMENT_BYTES:
            raise BadRequest(
                f"paths and pattern make {size} bytes, and {MAX_ARGUMENT_BYTES} are the most"
            )
        outcome: Outcome = await channel.splice(
            ProcessRequest(kind="worker", worker="tail", argument=argument)
        )
        return outcome
