"""``rshell forward --stdio``: one forwarded connection on our standard input and output."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.away import notice_for
from rshell.cli.fanout import Outputs
from rshell.cli.pipes import ByteSource
from rshell.cli.running import Surroundings
from rshell.client import Client, Outcome, Session
from rshell.client.forward_specs import Place
from rshell.client.outcomes import describe_outcome

__all__ = ["StdioForward"]


class StdioForward:
    """Joins standard input and output to a connection that the device makes.

    The end of our input is the end of what the target gets, and what it has to say still comes;
    when it has said all, our output is closed, though it may still read.

    Args:
        surroundings: Reactor and signals.
        client: Connected.
        device: Name or id.
        target: Where the device connects to.
    """

    def __init__(
        self, surroundings: Surroundings, client: Client, device: str, target: Place
    ) -> None:
        self._surroundings = surroundings
        self._client = client
        self._device = device
        self._target = target
        self._outputs = Outputs(surroundings.reactor)
        self._outputs.changed = self._outputs_changed
        self._source = ByteSource(surroundings.reactor, 0, self._input)
        self._session: Session | None = None
        self._notice = notice_for(surroundings.reactor, partial(self._outputs.write, stderr=True))

    async def run(self) -> int:
        """Carry it to its end and return the exit status."""
        interrupts = self._surroundings.interrupts
        interrupts.act = self._interrupted
        request: dict[str, Any] = self._target.request
        session = self._client.open(self._device, "forward", request, self, priority="interactive")
        self._session = session
        session.output_ended = self._output_ended
        session.link_changed = partial(self._notice.changed, self._device)
        self._notice.changed(self._device, session.away)
        outcome = await session.outcome
        self._notice.stop()
        if interrupts.received:
            return interrupts.status
        if outcome.status != "ok" and not self._outputs.failed:
            self._complain(outcome)
        await self._outputs.drained()
        return self._outputs.status(0 if outcome.status == "ok" else statuses.OURS)

    def _complain(self, outcome: Outcome) -> None:
        device = printable(self._device, 64)
        text = printable(describe_outcome(outcome, device), 500)
        line = f"rshell: {device}: {self._target}: {text}\n"
        self._outputs.write(line.encode(), True)

    def _interrupted(self, count: int) -> None:
        if self._session is None or count > 1:
            self._surroundings.leave(self._surroundings.interrupts.status)
        else:
            self._session.abort()

    def _outputs_changed(self) -> None:
        session = self._session
        if session is None:
            return
        if self._outputs.failed:
            session.abort()
        elif self._outputs.full:
            session.pause()
        else:
            session.resume()

    def _input(self, data: bytes) -> None:
        session = self._session
        if session is None:
            return
        if data:
            session.write(data)
        else:
            session.unregisterProducer()
            session.write_eof()

    def _output_ended(self) -> None:
        drained: Deferred[None] = self._outputs.stdout_drained()
        drained.addCallback(lambda _: _close_stdout())

    # -- SessionReceiver -------------------------------------------------------------------------

    def session_opened(self) -> None:
        """The device has the request: only now may our input be read."""
        if self._session is not None:
            self._session.registerProducer(self._source, True)
        self._source.start()

    def output_received(self, data: bytes, stderr: bool) -> None:
        """Bytes of the target."""
        self._outputs.write(data, stderr)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        """Which address it was does not matter here."""


def _close_stdout() -> None:
    """Let whoever reads us see the end; the number itself must stay taken."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
