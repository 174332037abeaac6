"""An operator's end that outlives links, and a test case whose link can be broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from rshell.handlers import Outcome
from rshell.link.channel import StreamChannel
from rshell.link.core.messages import Open, Opened
from rshell_agent.channel import StreamOver
from tests.agent.pair import LinkPair
from tests.agent.test_channel import OK, DispatchCase

SESSION = b"0123456789abcdef"


class Caller:
    """An operator's end that goes on over link after link, and notes what it is told."""

    def __init__(self) -> None:
        self.output = b""
        self.places: list[int] = []
        self.said: list[tuple[str, Any]] = []
        self.attempt = 0
        self.channel: StreamChannel

    def ask(self, pair: LinkPair, **fields: Any) -> None:
        """Open, or open again."""
        if self.attempt == 0:
            self.channel = StreamChannel(pair.gateway, self, resumable=True)
        self.attempt += 1
        fields = {"operator": "alice", "session": SESSION, "attempt": self.attempt, **fields}
        self.channel.request(Open(handler="echo", **fields), link=pair.gateway)

    def told(self, what: str) -> list[Any]:
        """Return what was told of one kind."""
        return [value for kind, value in self.said if kind == what]

    def channel_opened(self, opened: Opened) -> None:
        self.said.append(("opened", opened))

    def data_received(self, data: bytes, stderr: bool) -> None:
        self.output += data

    def input_ended(self) -> None:
        self.said.append(("ended", len(self.output)))

    def event_received(self, kind: str, body: dict[str, Any], urgent: bool) -> None:
        self.said.append((kind, body))
        self.places.append(len(self.output))

    def channel_detached(self, reason: str) -> None:
        self.said.append(("detached", reason))

    def channel_closed(self, code: str, message: str) -> None:
        self.said.append(("closed", code))


class SurvivalCase(DispatchCase):
    """One plug-in whose body a test gives; ``relink`` breaks the link and makes a new one."""

    def setUp(self) -> None:
        super().setUp()
        self.caller = Caller()
        self.runs: list[str] = []

    def begin(self, body: Callable[[Any], Any]) -> None:
        """Serve ``body(channel)`` and open a session of it."""

        async def run(request: Any, channel: Any, device: Any) -> Any:
            self.runs.append("run")
            try:
                return await body(channel)
            except (CancelledError, StreamOver):
                self.runs.append("cancelled")
                raise

        self.serve(run)
        self.ask()

    def ask(self, caller: Caller | None = None, **fields: Any) -> None:
        (caller or self.caller).ask(self.pair, **fields)
        self.pair.pump()

    def cut(self) -> None:
        """Both ends lose the link; another one stands."""
        self.pair.device.abort("cut")
        self.pair.gateway.abort("cut")
        self.relink(self.pair.clock)

    def relink(self, clock: Clock) -> None:
        """Have another link."""
        self.pair = LinkPair(clock)
        self.pair.device_owner.requested = self.dispatcher.stream_requested

    def advance(self, seconds: float) -> None:
        while seconds > 0:  # in steps, so that heartbeats are answered
            self.pair.clock.advance(min(5, seconds))
            self.pair.pump()
            seconds -= 5

    async def echo(self, channel: Any) -> Outcome:
        """Send back what comes."""
        while data := await channel.read():
            channel.write(data)
        return OK
