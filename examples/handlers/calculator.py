"""A handler that is a plain Twisted protocol: a line in, a line out."""

import operator

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from rshell.handlers import Outcome
from rshell.interfaces import ICommandHandler

OPERATIONS = {b"+": operator.add, b"-": operator.sub, b"*": operator.mul}


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to ask for."""


class Calculator(LineReceiver):
    """Knows of no channel: over TCP it would do the same."""

    delimiter = b"\n"

    def __init__(self):
        self.ended = Deferred()

    def lineReceived(self, line):
        """Answer ``3 * 4`` by ``12``."""
        try:
            left, sign, right = line.split()
            self.sendLine(b"%d" % OPERATIONS[sign](int(left), int(right)))
        except (ValueError, KeyError):
            self.sendLine(b"say it like this: 3 * 4")

    def connectionLost(self, reason):
        """The operator has ended the input, or is gone."""
        self.ended.callback(None)


@implementer(IPlugin, ICommandHandler)
class Calculate:
    """Runs the protocol over the channel."""

    name = "calculate"
    summary = "Do sums, a line each."
    request_type = Request
    priority = "interactive"

    async def run(self, request, channel, device):
        """Serve one session."""
        protocol = Calculator()
        channel.start_protocol(protocol)
        await protocol.ended
        return Outcome(status="ok")


calculate = Calculate()
