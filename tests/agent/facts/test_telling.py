"""When the gateway is told the facts, and what the handler answers."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.handlers import FactsRequest, Outcome
from rshell.link.channel import StreamChannel
from rshell.link.clock import TimerWheel
from rshell.link.core.messages import Open
from rshell.testing import HandlerHarness
from rshell_agent.facts.told import AGAIN_SECONDS, FIRST_SECONDS, LOOK_SECONDS, FactsSender
from rshell_agent.handlers import FactsHandler
from tests.agent.pair import LinkPair
from tests.agent.test_link_watch import Nobody


class SenderTests(SynchronousTestCase):
    """A sender whose facts, policy and gateway are what the test says."""

    def setUp(self) -> None:
        self.pair = LinkPair()
        self.clock = self.pair.clock
        self.facts: dict[str, Any] = {"os": "arch", "load": [0.1]}
        self.allowed = True
        self.refuse = ""
        self.told: list[dict[str, Any]] = []
        self.pair.gateway_owner.requested = self._requested
        self.sender = FactsSender(
            lambda: self.facts,
            lambda: self.allowed,
            TimerWheel(self.clock),
            self.clock,
            lambda low, high: high,
        )

    def _requested(self, link: Any, number: int, request: Open) -> None:
        self.assertEqual("gateway.report-facts", request.handler)
        self.told.append(request.request["facts"])
        if self.refuse:
            link.refuse(number, self.refuse, "no")
            return
        channel = StreamChannel(link, Nobody())
        channel.accept(number, request)
        channel.write(b"{}")
        channel.finish(Outcome(status="ok"))

    def pass_seconds(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.pair.pump()
            seconds -= 1.0

    def test_once(self) -> None:
        """A process tells its facts once, within the spread, however many links follow."""
        self.sender.link_welcomed(self.pair.device, 10.0)
        self.pass_seconds(10 + FIRST_SECONDS[1] - 1)
        self.assertEqual([], self.told)
        self.pass_seconds(3)
        self.assertEqual([self.facts], self.told)
        for _ in range(3):
            self.sender.stop()
            self.sender.link_welcomed(self.pair.device, 0.0)
            self.pass_seconds(2 * LOOK_SECONDS)
        self.assertEqual(1, len(self.told))

    def test_change(self) -> None:
        """A slow fact that changed is told within a minute, a fast one is not."""
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.facts = {"os": "arch", "load": [9.9]}
        self.pass_seconds(LOOK_SECONDS + 2)
        self.assertEqual(1, len(self.told))
        self.facts = {"os": "arch", "load": [9.9], "addresses": ["10.0.0.1"]}
        self.pass_seconds(LOOK_SECONDS + 2)
        self.assertEqual(self.facts, self.told[-1])
        self.assertEqual(2, len(self.told))

    def test_again(self) -> None:
        """Once a day they are told again: the gateway may have been set back to a backup."""
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.sender._told_at -= AGAIN_SECONDS
        self.pass_seconds(LOOK_SECONDS + 2)
        self.assertEqual(2, len(self.told))

    def test_not_taken(self) -> None:
        """What an older or busy gateway refuses is offered again at the next look."""
        self.refuse = "overload"
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.refuse = ""
        self.pass_seconds(LOOK_SECONDS + 2)
        self.pass_seconds(LOOK_SECONDS + 2)
        self.assertEqual(2, len(self.told))

    def test_policy(self) -> None:
        """A device whose policy does not allow facts tells none, until it does."""
        self.allowed = False
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(LOOK_SECONDS)
        self.assertEqual([], self.told)
        self.allowed = True
        self.pass_seconds(LOOK_SECONDS + 5)
        self.assertEqual(1, len(self.told))

    def test_look_soon(self) -> None:
        """Who has just looked lets the gateway know at once what has changed."""
        self.sender.look_soon()
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.facts = {"os": "debian"}
        self.sender.look_soon()
        self.pass_seconds(1)
        self.assertEqual({"os": "debian"}, self.told[-1])

    def test_look_soon_later(self) -> None:
        """Also after looks that found nothing new."""
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(3 * LOOK_SECONDS)
        self.facts = {"os": "debian"}
        self.sender.look_soon()
        self.pass_seconds(2)
        self.assertEqual({"os": "debian"}, self.told[-1])

    def test_look_fails(self) -> None:
        """A look that fails is logged, and the next one comes."""
        good, self.facts = self.facts, {"os": object()}
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))
        self.facts = good
        self.pass_seconds(LOOK_SECONDS + 2)
        self.assertEqual([good], self.told)

    def test_stopped(self) -> None:
        """With the link all timers go, also while the gateway is being told."""
        self.pair.gateway_owner.requested = lambda link, number, request: self.told.append({})
        self.sender.link_welcomed(self.pair.device, 0.0)
        self.pass_seconds(5)
        self.sender.stop()
        self.pass_seconds(5 * LOOK_SECONDS)
        self.assertEqual([{}], self.told)


class HandlerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = HandlerHarness(FactsHandler(), facts={"os": "arch", "kernel": "6.1"})
        self.addCleanup(self.harness.close)

    def test_all(self) -> None:
        """The answer is the outcome's result."""
        call = self.harness.call()
        assert call.outcome is not None
        self.assertEqual({"os": "arch", "kernel": "6.1"}, call.outcome.result)
        self.assertEqual(b"", bytes(call.stdout))

    def test_some(self) -> None:
        """Names choose; one that does not exist is refused with those that do."""
        call = self.harness.call(FactsRequest(names=["os"]))
        assert call.outcome is not None
        self.assertEqual({"os": "arch"}, call.outcome.result)
        for names in (["colour"], ["OS"], [""], ["x" * 99], "os", [7]):
            refused = self.harness.call({"names": names}).refused
            assert refused is not None
            self.assertEqual("bad-request", refused[0], names)
        refused = self.harness.call({"names": ["colour"]}).refused
        assert refused is not None
        self.assertIn("machine_hash", refused[1])
