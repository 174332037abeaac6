"""``facts``: what this device is, how it is doing, and what it can do, looked at now."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import BadRequest, FactsRequest, Outcome
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel
from rshell_agent.facts import FACT_NAMES

__all__ = ["FactsHandler"]


@implementer(IPlugin, ICommandHandler)
class FactsHandler:
    """Answers the facts as the outcome's result."""

    name = "facts"
    summary = "Tell what the device is: system, memory, disks, addresses, handlers."
    request_type = FactsRequest
    priority = "normal"

    async def run(
        self, request: FactsRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        unknown = [name for name in request.names if name not in FACT_NAMES]
        if unknown:
            known = ", ".join(FACT_NAMES)
            raise BadRequest(f"there is no fact {unknown[0]}; there are: {known}")
        channel.write(b"")  # accepted: from here on the session has run
        return Outcome(status="ok", result=device.facts(request.names))
