"""The handler ``diskusage``: as du(1), with progress, a typed result, and a way to stop it."""

import os
from typing import Annotated

from msgspec import Meta, Struct
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Cooperator
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import BadRequest, Outcome
from rshell.interfaces import ITypedHandler
from rshell_diskusage.measuring import measure

Path = Annotated[str, Meta(pattern="^/", max_length=4096)]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What to measure, and what to show of it."""

    paths: Annotated[
        list[Path], Meta(min_length=1, max_length=16, description="Directories, from the root.")
    ]
    depth: Annotated[
        int, Meta(ge=0, le=16, description="Levels below each directory that are shown.")
    ] = 1
    at_least: Annotated[
        int, Meta(ge=0, description="Directories with fewer bytes are not shown.")
    ] = 0


class Result(Struct, frozen=True):
    """Of all paths together."""

    size_bytes: Annotated[int, Meta(description="Bytes on disk.")]
    files: int
    unreadable: Annotated[int, Meta(description="Entries that this agent may not see.")]


@implementer(IPushProducer)
class Pausing:
    """Lets the reader's pace decide: a slow one pauses the walk."""

    def __init__(self, task):
        self.pauseProducing, self.resumeProducing = task.pause, task.resume

    def stopProducing(self):
        """Do nothing: the handler is cancelled then, and stops the walk itself."""


@implementer(IPlugin, ITypedHandler)
class DiskUsage:
    """Measures a bit in each turn of the reactor, so that the agent stays awake."""

    name = "diskusage"
    summary = "Tell what takes the space below some directories."
    request_type = Request
    result_type = Result
    event_types = {}
    priority = "bulk"

    async def run(self, request, channel, device):
        """Serve one session."""
        self.check(request)
        totals = []
        cooperator = Cooperator(scheduler=lambda call: device.clock.callLater(0, call))
        walk = cooperator.cooperate(self.steps(request, channel, totals))
        channel.registerProducer(Pausing(walk), True)
        try:
            await walk.whenDone()
        except BaseException:  # cancelled, out of time, or a fault: nothing goes on unseen
            cooperator.stop()
            raise
        finally:
            channel.unregisterProducer()
        result = Result(
            size_bytes=sum(total.size_bytes for total in totals),
            files=sum(total.files for total in totals),
            unreadable=sum(total.unreadable for total in totals),
        )
        return Outcome(status="ok", result=result)

    def check(self, request):
        """Refuse what no schema can say; nothing has been accepted yet."""
        for path in request.paths:
            if not os.path.isdir(path):
                raise BadRequest(f"there is no directory {path}")

    def steps(self, request, channel, totals):
        """Walk and tell; each ``yield`` lets others have their turn."""
        directories = 0
        for path in request.paths:
            for found in measure(os.fsencode(path)):
                if found is not None:
                    directories += 1
                    note = os.fsdecode(found.path).encode(errors="replace").decode()
                    channel.send_event("progress", {"done": directories, "note": note})
                    if found.depth <= request.depth and found.size_bytes >= request.at_least:
                        channel.write(b"%d\t%s\n" % (found.size_bytes, found.path))
                    if found.depth == 0:
                        totals.append(found)
                yield
