"""A handler that streams: a line a second, until it is over or somebody has had enough."""

from typing import Annotated

from msgspec import Meta, Struct
from twisted.internet.task import LoopingCall
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import Outcome
from rshell.interfaces import ICommandHandler


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """From where to count."""

    start: Annotated[int, Meta(ge=1, le=3600)] = 10


@implementer(IPlugin, ICommandHandler)
class Countdown:
    """Counts down."""

    name = "countdown"
    summary = "Count down, a line a second."
    request_type = Request
    priority = "normal"

    async def run(self, request, channel, device):
        """Serve one session."""

        def tick():
            nonlocal left
            channel.write(b"%d\n" % left)
            channel.send_event("progress", {"done": request.start - left, "total": request.start})
            left -= 1
            if left < 0:
                ticking.stop()

        left = request.start
        ticking = LoopingCall(tick)
        ticking.clock = device.clock  # the reactor's; in tests, one that is turned by hand
        done = ticking.start(1.0)
        try:
            await done  # cancelled: the exception goes through here
        finally:
            if ticking.running:
                ticking.stop()
        return Outcome(status="ok")


countdown = Countdown()
