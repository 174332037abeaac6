"""A handler that runs a program: as the login, in the keeper, and so it survives the agent."""

from typing import Literal

from msgspec import Struct
from twisted.plugin import IPlugin
from zope.interface import implementer

from rshell.handlers import ProcessRequest
from rshell.interfaces import ICommandHandler

COLUMNS = "pid,user,%cpu,rss,etime,args"


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """By what to sort."""

    by: Literal["cpu", "memory"] = "cpu"


@implementer(IPlugin, ICommandHandler)
class Heaviest:
    """Hands stream and outcome to the keeper."""

    name = "heaviest"
    summary = "List the processes, those that use most first."
    request_type = Request
    priority = "normal"

    async def run(self, request, channel, device):
        """Serve one session."""
        key = {"cpu": "-%cpu", "memory": "-rss"}[request.by]
        argv = ["ps", "-e", "-o", COLUMNS, "--sort", key]
        process = ProcessRequest(kind="exec", argv=[word.encode() for word in argv])
        return await channel.splice(process)


heaviest = Heaviest()
