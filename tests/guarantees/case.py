"""What the guarantees' tests share: a fleet of one device and one operator, and sessions to check.

``RSHELL_LONG=1`` makes the tests as long as they would be if nobody waited for them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.client.commands import exec_request
from rshell.client.outcomes import Outcome
from rshell.handlers import Outcome as HandlerOutcome
from rshell.interfaces import ICommandHandler
from rshell.testing import Recorder, SimulatedFleet, exchange_report, pattern
from rshell.testing.operators import SimulatedOperator
from rshell.testing.wires import Wire

__all__ = ["LONG", "Exchange", "GuaranteeCase", "Steps"]

LONG = bool(os.environ.get("RSHELL_LONG"))


class StepsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many steps of how many bytes."""

    count: int
    size: int


@implementer(ICommandHandler)
class Steps:
    """Answers in steps, each with an event behind its bytes, and tells what it was sent.

    It runs in the agent, and counts how often it was run.
    """

    name = "steps"
    summary = "Write in steps, with an event after each"
    request_type = StepsRequest
    priority = "normal"

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, request: Any, channel: Any, device: Any) -> HandlerOutcome:
        self.runs += 1
        for step in range(request.count):
            channel.write(pattern(request.size, step))
            channel.send_event("progress", {"done": step})
        received = bytearray()
        while data := await channel.read():
            received += data
        return HandlerOutcome(
            status="ok", result={"report": exchange_report(bytes(received)).decode()}
        )


class Exchange:
    """A command that reads and writes at once, and what has to come of it.

    Args:
        operator: Who asks.
        size: Bytes in each direction.
        seed: Makes the bytes differ from those of others.
        signals: Sent while it runs.
    """

    def __init__(
        self,
        operator: SimulatedOperator,
        size: int,
        seed: int,
        signals: Sequence[str] = (),
        device: str = "pump-1",
        size_up: int | None = None,
    ) -> None:
        self.recorder = Recorder()
        self.sent = pattern(size if size_up is None else size_up, -1 - seed)
        self.expected = pattern(size, seed)
        self.signals = signals
        self.argv = [b"exchange", b"%d" % size, b"%d" % seed]
        self.outcome: Outcome | None = None
        self.session = operator.client.open(
            device, "exec", exec_request(self.argv, None, None), self.recorder
        )
        ended: Deferred[Outcome] = self.session.outcome
        ended.addCallback(self._ended)
        half = len(self.sent) // 2
        self.session.write(self.sent[:half])
        for name in signals:
            self.session.send_signal(name)
        self.session.write(self.sent[half:])
        self.session.write_eof()

    def _ended(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def over(self) -> bool:
        """Whether the outcome is known."""
        return self.outcome is not None

    @property
    def problem(self) -> str | None:
        """What is wrong with what came; None if all is as it must be."""
        if self.outcome is None:
            return "no outcome"
        if self.outcome.status != "ok":
            return f"outcome {self.outcome}"
        if bytes(self.recorder.stdout) != self.expected:
            return f"{len(self.recorder.stdout)} bytes came, not the {len(self.expected)} expected"
        report = exchange_report(self.sent, self.signals)
        if bytes(self.recorder.stderr) != report:
            return f"the program says {bytes(self.recorder.stderr)!r}, not {report!r}"
        return None


class GuaranteeCase(SynchronousTestCase):
    """A fleet with the device ``pump-1`` and the operator ``ann``, both connected."""

    seed = 1

    def setUp(self) -> None:
        self.fleet = SimulatedFleet(self.seed)
        self.addCleanup(self.fleet.close)
        self.steps = Steps()
        self.pump = self.fleet.add_device("pump-1", handlers=[self.steps])
        self.ann = self.fleet.add_operator("ann")

    def exchange(self, size: int, seed: int = 0, **more: Any) -> Exchange:
        """Start an exchange of ``ann`` with the device."""
        return Exchange(self.ann, size, seed, **more)

    def finish(self, *exchanges: Exchange, limit_seconds: float = 120.0) -> None:
        """Let exchanges come to their end, and check them."""
        self.fleet.run_until(lambda: all(each.over for each in exchanges), limit_seconds)
        self.assertEqual([each.problem for each in exchanges], [None] * len(exchanges))

    def await_cut(self, wire: Wire, exchange: Exchange) -> None:
        """Wait until a wire is cut as planned, or its plan has become pointless."""
        self.fleet.run_until(lambda: wire.over or exchange.over)
        wire.spare()

    def settle(self, seconds: float = 61.0, limit_seconds: float = 300.0) -> None:
        """Wait until both are connected, and then for long enough to be trusted again."""
        if self.ann.alive and self.ann.uplink.link is None:
            # A client dials again only when something needs the link.
            self.fleet.run(self.ann.uplink.connect())
        self.fleet.run_until(self.connected, limit_seconds)
        self.fleet.advance(seconds)

    def connected(self) -> bool:
        """Whether the device has its link; an operator's client dials when it needs one."""
        return self.fleet.is_live("pump-1") and self.pump.connected

    def assert_nothing_left(self) -> None:
        """Wait until acknowledgements have passed; then nobody holds anything any more."""
        self.settle()
        self.fleet.advance(240)
        self.assertEqual(self.fleet.leftovers(), {})
        self.assertEqual(self.fleet.faults, [])
