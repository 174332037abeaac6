"""``reboot``: restart the device, switch it off, or restart its agent; the keeper does it."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest, RebootRequest
from rshell.handlers.reboot import encode_argument
from rshell.interfaces import ICommandHandler, IDeviceContext, IHandlerChannel

__all__ = ["RebootHandler"]


@implementer(IPlugin, ICommandHandler)
class RebootHandler:
    """Splices the keeper's worker, which outlives agent and link.

    The keeper takes the command from its own policy file, and judges how often it may be given.
    """

    name = "reboot"
    summary = "Restart the device or its agent, or switch it off; done when it is back."
    request_type = RebootRequest
    priority = "normal"

    async def run(
        self, request: RebootRequest, channel: IHandlerChannel, device: IDeviceContext
    ) -> Outcome:
        process = ProcessRequest(kind="worker", worker=self.name, argument=encode_argument(request))
        outcome: Outcome = await channel.splice(process)
        return outcome
